//! Onboarding: what `landfall dns` says, against real name servers.

mod world;

use std::fs;
use std::process::Command;

use serde_json::Value;
use world::{Builder, CONTOSO, Edge, Nameserver, Zone};

const SETTINGS: &str = "[onboarding]\nmx_target = \"{domain}.mx.test\"\nname_servers = [\"ns.root-servers.test\"]\n\
                        spf = \"v=spf1 include:spf.mx.test ~all\"\n\
                        [onboarding.ingress]\nEUR = [\"127.0.0.25\", \"::1\"]\nNAM = [\"127.0.0.26\"]\n";

fn edge(names: Option<&Nameserver>) -> Builder {
    let asking = names.map(Nameserver::settings).unwrap_or_default();
    let domains = CONTOSO.replacen(
        "[[tenant.user]]",
        "[[tenant.domain]]\nname = \"my-contoso.com\"\n\n[[tenant.user]]",
        1,
    );
    Edge::builder("EUR").directory(&domains).with(SETTINGS).with(&asking).with("[dns]\ntimeout = \"1s\"")
}

/// What a server that signs the zone answers.
fn kdig(names: &Nameserver, question: &[&str]) -> String {
    let (host, port) = (names.address.ip().to_string(), names.address.port().to_string());
    let asked =
        Command::new("kdig").args([&format!("@{host}"), "-p", &port, "+dnssec"]).args(question).output();
    String::from_utf8_lossy(&asked.expect("tests/run installs kdig").stdout).into_owned()
}

#[test]
fn the_zone_of_targets_is_loaded_signed_and_served_by_a_real_name_server() {
    let edge = edge(None).start();
    let file = edge.folder().join("mx.test.zone").display().to_string();
    let written = edge.command(&["dns", "zone", "--out", &file]);
    assert_eq!(written.code, 0, "{written:#?}");
    assert!(written.stderr.contains("my-contoso.com: a name with a hyphen"), "{written:#?}");
    let names =
        Nameserver::start(&[Zone::signed_whole("mx.test", &fs::read_to_string(&file).expect("written"))]);
    let address = kdig(&names, &["contoso-com.mx.test", "A"]);
    assert!(address.contains("127.0.0.25") && address.contains("RRSIG"), "{address}");
    let tlsa = kdig(&names, &["_25._tcp.contoso-com.mx.test", "TLSA"]);
    assert!(tlsa.contains("3 1 1 ") && tlsa.contains("RRSIG"), "{tlsa}");
    let six = kdig(&names, &["contoso-com.mx.test", "AAAA"]);
    assert!(!six.contains("::1"), "the tenant takes no IPv6: {six}");
}

#[test]
fn a_domain_moves_from_a_fault_to_good_as_its_records_follow_the_plan() {
    let mut names = Nameserver::start(&[
        Zone::signed("contoso.com", "@ MX 10 contoso-com.mail.protection.outlook.com.\n"),
        Zone::signed("mx.test", "contoso-com A 127.0.0.26\n"),
    ]);
    let edge = edge(Some(&names)).start();
    let told = edge.command(&["dns", "check", "contoso.com"]);
    assert_eq!(told.code, 1, "{told:#?}");
    assert!(told.stdout.contains("legacy target"), "{told:#?}");

    let plan = edge.command(&["dns", "plan", "contoso.com", "--json"]);
    assert_eq!(plan.code, 0, "{plan:#?}");
    let plan = plan.json();
    assert_eq!(plan["mx_target"], "contoso-com.mx.test");
    let record = |kind: &str| {
        let records = plan["records"].as_array().expect("a list");
        let found = records.iter().find(|record| record["kind"] == kind);
        found.map(|record| record["value"].as_str().expect("text").to_owned())
    };
    let tlsa = record("TLSA").expect("this node's certificate");
    assert!(
        plan["steps"][0]["then_wait_s"].as_u64().is_some_and(|wait| (1..=60).contains(&wait)),
        "{plan:#}"
    );

    // The new host leads to the wrong region at first.
    names.replace("contoso.com", "@ MX 0 contoso-com.mx.test.\n");
    let told = edge.command(&["dns", "check", "contoso.com"]);
    assert_eq!(told.code, 1, "{told:#?}");
    assert!(told.stdout.contains("127.0.0.26 leads to NAM, and the domain enters in EUR"), "{told:#?}");

    names.replace(
        "contoso.com",
        "@ MX 0 contoso-com.mx.test.\n@ TXT \"v=spf1 include:spf.mx.test ~all\"\n_mta-sts TXT \"v=STSv1; id=1;\"\n",
    );
    names.replace("mx.test", &format!("contoso-com A 127.0.0.25\n_25._tcp.contoso-com TLSA {tlsa}\n"));
    let told = edge.command(&["dns", "check", "contoso.com", "--json"]);
    assert_eq!(told.code, 0, "{told:#?}");
    let told = told.json();
    let findings = told["findings"].as_array().expect("a list");
    assert!(!findings.is_empty(), "{told:#}");
    assert!(findings.iter().all(|finding| finding["level"] == "good"), "{told:#}");

    names.stop();
    let told = edge.command(&["dns", "check", "contoso.com"]);
    assert_eq!(told.code, 1, "nobody answers: {told:#?}");
    assert!(told.stdout.contains("could not be asked"), "{told:#?}");
}

#[test]
fn what_is_not_hosted_or_has_no_target_is_said_so() {
    let edge = edge(None).offline();
    for (arguments, code, says) in [
        (["dns", "plan", "nobody.example"], 1, "not hosted here"),
        (["dns", "plan", "not..a.domain"], 2, "not..a.domain"),
        (["dns", "plan", "my-contoso.com"], 1, "onboarding.mx_targets"),
    ] {
        let told = edge.command(&arguments);
        assert_eq!(told.code, code, "{told:#?}");
        assert!(told.stderr.contains(says), "{told:#?}");
    }
}

#[test]
fn the_api_answers_as_the_command_does_and_follows_a_reload() {
    let mut names = Nameserver::start(&[
        Zone::signed("contoso.com", "@ MX 10 contoso-com.mail.protection.outlook.com.\n"),
        Zone::signed("mx.test", "contoso-com A 127.0.0.25\n"),
    ]);
    let mut edge = edge(Some(&names)).start();
    let json =
        |text: &str| -> Value { serde_json::from_str(text).unwrap_or_else(|_| panic!("JSON: {text}")) };
    let asked = |edge: &Edge, path: &str| {
        let (code, body) = edge.api("GET", path, "");
        assert_eq!(code, 200, "{path}: {body}");
        json(&body)
    };
    // The id of the policy and the serial are the time.
    let timeless = |mut told: Value| {
        for record in told["records"].as_array_mut().into_iter().flatten() {
            if record["name"] == "_mta-sts.contoso.com" {
                record["value"].take();
            }
        }
        if let Some(zone) = told["zone"].as_str() {
            told["zone"] = zone.lines().filter(|line| !line.contains(" SOA ")).collect::<String>().into();
        }
        told
    };
    for (path, command) in [
        ("/v1/dns/plan/contoso.com", &["dns", "plan", "contoso.com", "--json"][..]),
        ("/v1/dns/check/contoso.com", &["dns", "check", "contoso.com", "--json"]),
        ("/v1/dns/zone", &["dns", "zone", "--json"]),
    ] {
        let said = edge.command(command).json();
        assert_eq!(timeless(asked(&edge, path)), timeless(said), "{path}");
    }
    let checked = asked(&edge, "/v1/dns/check/contoso.com");
    assert_eq!(checked["ok"], false, "a legacy target: {checked:#}");
    assert!(asked(&edge, "/v1/dns/zone")["zone"].as_str().is_some_and(|zone| zone.contains(" TLSA 3 1 1 ")));

    let curl = Command::new("curl")
        .args(["--silent", "--header", "Accept: text/plain", "--unix-socket"])
        .arg(edge.state().join("admin.sock"))
        .arg("http://landfall/v1/dns/zone")
        .output();
    let file = String::from_utf8(curl.expect("curl runs").stdout).expect("a zone file is text");
    assert!(file.contains("\n$ORIGIN mx.test.\n") && file.contains("\ncontoso-com A 127.0.0.25\n"), "{file}");

    // Nothing is remembered between two questions, however long the records may be kept.
    names.replace("contoso.com", "@ MX 0 contoso-com.mx.test.\n");
    let checked = asked(&edge, "/v1/dns/check/contoso.com");
    assert_eq!(checked["ok"], true, "{checked:#}");

    for (path, code, says) in [
        ("/v1/dns/plan/nobody.example", 404, "not hosted here"),
        ("/v1/dns/check/not..a.domain", 422, "not..a.domain"),
        ("/v1/dns/plan/my-contoso.com", 409, "onboarding.mx_targets"),
    ] {
        let (told, body) = edge.api("GET", path, "");
        assert!(told == code && body.contains(says), "{path}: {told} {body}");
    }

    edge.configure("[onboarding]\nmx_target = \"{domain}.new.test\"");
    edge.reload();
    assert_eq!(asked(&edge, "/v1/dns/plan/contoso.com")["mx_target"], "contoso-com.new.test");
}
