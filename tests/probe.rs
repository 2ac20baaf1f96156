//! Probe: the inbound SMTP test, against edges, a real Postfix, and servers that are away or silent.

mod world;

use std::net::TcpListener;

use serde_json::{Value, json};
use world::{Authority, CONTOSO, Command, Edge, Nameserver, Pair, Postfix, Zone, free_address};

const ANNA: &str = "anna@contoso.com";

fn steps(told: &Command) -> Vec<Value> {
    told.json()["steps"].as_array().expect("steps").clone()
}

fn names(told: &Command) -> Vec<String> {
    steps(told).iter().map(|step| step["step"].as_str().expect("a name").to_owned()).collect()
}

fn last(told: &Command) -> Value {
    steps(told).pop().expect("a step")
}

#[test]
fn an_edge_is_shown_step_by_step_and_takes_a_message_when_asked() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let target = edge.address.to_string();
    let told = edge.command(&["probe", &target, "--to", ANNA, "--json"]);
    assert_eq!(told.code, 0, "{told:#?}");
    assert_eq!(names(&told), ["dns", "tcp", "banner", "ehlo", "tls", "ehlo", "mail", "rcpt"]);
    assert!(edge.mailbox(ANNA).is_empty(), "a probe without --send leaves nothing there");
    let tls = steps(&told)[4]["says"].as_str().expect("words").to_owned();
    for part in ["TLSv1.3", "the chain does not hold", "certificate of edge1.eur.example.net until 4096-"] {
        assert!(tls.contains(part), "no {part} in {tls}");
    }
    assert!(steps(&told).iter().all(|step| step["took_ms"].is_u64()));

    let told = edge.command(&["probe", &target, "--to", ANNA, "--from", "you@example.org", "--send"]);
    assert_eq!(told.code, 0, "{told:#?}");
    assert!(told.stdout.lines().any(|line| line.starts_with("ok   message")), "{told:#?}");
    let letter = &edge.wait_for(ANNA, 1)[0];
    assert!(letter.header("Date").is_some() && letter.header("Message-ID").is_some(), "{letter:?}");
    assert_eq!(letter.header("Return-Path").as_deref(), Some("<you@example.org>"));
}

#[test]
fn a_refusal_is_told_in_the_servers_words() {
    let edge = Edge::builder("JPN").directory(CONTOSO).start();
    let target = edge.address.to_string();
    let told = edge.command(&["probe", &target, "--to", ANNA, "--json"]);
    assert_eq!((told.code, last(&told)["step"].as_str()), (1, Some("rcpt")), "{told:#?}");
    assert!(last(&told)["says"].as_str().expect("words").contains("ATTR35"), "{told:#?}");

    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let target = edge.address.to_string();
    let told = edge.command(&["probe", &target, "--to", "nobody@contoso.com", "--send", "--json"]);
    assert_eq!((told.code, last(&told)["step"].as_str()), (1, Some("rcpt")), "{told:#?}");
    assert!(last(&told)["says"].as_str().expect("words").starts_with("550 5.4.1 "), "{told:#?}");
    assert!(!edge.state().join("..").join("mail").join("contoso.com").exists(), "nothing was sent");
}

/// A Postfix with this certificate and Ben's mailbox.
fn postfix(pair: &Pair) -> Postfix {
    let chain = format!("smtpd_tls_chain_files = {}, {}", pair.key.display(), pair.cert.display());
    let setup = Postfix::setup().mailboxes(&["ben@hq.test"]).with(&chain);
    setup.with("smtpd_tls_security_level = may").start()
}

#[test]
fn a_postfix_is_found_by_its_mx_and_its_chain_is_judged() {
    let authority = Authority::new();
    let postfix = postfix(&authority.issue("mx.hq.test"));
    let zone = format!("@ MX 10 mx\nmx A {}\n", postfix.address.ip());
    let names_of_hq = Nameserver::start(&[Zone::unsigned("hq.test", &zone)]);
    // Settings of a configuration, and no daemon.
    let edge = Edge::builder("EUR").directory(CONTOSO).with(&names_of_hq.settings()).offline();
    let (port, ca) = (postfix.address.port().to_string(), authority.file().display().to_string());
    let ask = |to: &str, more: &[&str]| {
        edge.command(&[&["probe", "hq.test", "--port", &port, "--to", to, "--json"], more].concat())
    };
    let told = ask("ben@hq.test", &["--tls", "verify", "--ca", &ca, "--send"]);
    assert_eq!(told.code, 0, "{told:#?}");
    assert_eq!(
        names(&told),
        ["mx", "dns", "dane", "tcp", "banner", "ehlo", "tls", "ehlo", "mail", "rcpt", "data", "message"]
    );
    assert_eq!(steps(&told)[0]["says"], "10 mx.hq.test");
    let tls = steps(&told)[6]["says"].as_str().expect("words").to_owned();
    assert!(tls.contains("the chain holds for mx.hq.test"), "{tls}");
    assert_eq!(postfix.wait_for("ben@hq.test", 1).len(), 1);

    let told = ask("nobody@hq.test", &[]);
    assert_eq!((told.code, last(&told)["step"].as_str()), (1, Some("rcpt")), "{told:#?}");
    assert!(last(&told)["says"].as_str().expect("words").starts_with("550 5.1.1"), "{told:#?}");
    // Without the authority it is no reason to stop, unless it is asked for.
    let told = ask("ben@hq.test", &["--tls", "verify"]);
    assert_eq!((told.code, last(&told)["step"].as_str()), (1, Some("tls")), "{told:#?}");
    assert!(last(&told)["says"].as_str().expect("words").contains("UnknownIssuer"), "{told:#?}");
    assert_eq!(ask("ben@hq.test", &[]).code, 0);
}

#[test]
fn what_the_signed_dns_says_of_the_certificate_counts() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let (address, port) = (edge.address.ip(), edge.address.port().to_string());
    let record = |digest: &str| format!("@ MX 10 mx\nmx A {address}\n_{port}._tcp.mx TLSA 3 1 1 {digest}\n");
    let mut names = Nameserver::start(&[Zone::signed("signed.test", &record(&"ab".repeat(32)))]);
    let asking = Edge::builder("EUR")
        .directory(CONTOSO)
        .with(&names.settings())
        .with(&format!("[dns]\ntrust_anchors = \"{}\"", names.anchors().display()))
        .offline();
    let ask = || asking.command(&["probe", "signed.test", "--port", &port, "--to", ANNA, "--json"]);
    let told = ask();
    assert_eq!((told.code, last(&told)["step"].as_str()), (1, Some("tls")), "{told:#?}");
    assert!(last(&told)["says"].as_str().expect("words").contains("TLSA records do not hold"), "{told:#?}");

    // What the edge itself would publish.
    let pem = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!(
            "openssl s_client -starttls smtp -connect {} </dev/null 2>/dev/null | openssl x509 -pubkey -noout \
             | openssl pkey -pubin -outform DER | openssl dgst -sha256 -r",
            edge.address
        ))
        .output()
        .expect("openssl runs");
    let digest = String::from_utf8_lossy(&pem.stdout).split(' ').next().unwrap_or_default().to_owned();
    assert_eq!(digest.len(), 64, "{pem:?}");
    names.replace("signed.test", &record(&digest));
    let told = ask();
    assert_eq!(told.code, 0, "{told:#?}");
    let proven = steps(&told).iter().any(|step| {
        step["says"].as_str().is_some_and(|says| says.contains("the TLSA records prove mx.signed.test"))
    });
    assert!(proven, "{told:#?}");
}

#[test]
fn a_server_that_is_away_or_silent_fails_its_step_in_time() {
    let edge = Edge::builder("EUR").directory(CONTOSO).offline();
    let nobody = free_address().to_string();
    let told = edge.command(&["probe", &nobody, "--to", ANNA, "--json"]);
    assert_eq!((told.code, last(&told)["step"].as_str()), (1, Some("tcp")), "{told:#?}");

    // The kernel accepts for it; nobody ever speaks.
    let silent = TcpListener::bind(free_address()).expect("a free address");
    let target = silent.local_addr().expect("it is bound").to_string();
    let told = edge.command(&["probe", &target, "--to", ANNA, "--timeout", "1s", "--json"]);
    assert_eq!((told.code, last(&told)["step"].as_str()), (1, Some("banner")), "{told:#?}");
    assert_eq!(last(&told)["says"], "no answer in time");
    assert!(last(&told)["took_ms"].as_u64().is_some_and(|took| (1000..10_000).contains(&took)), "{told:#?}");
}

#[test]
fn it_needs_no_configuration_and_says_what_is_wrong_with_its_arguments() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let target = edge.address.to_string();
    let none = edge.folder().join("no-such.toml").display().to_string();
    let told = edge.command(&["probe", &target, "--to", ANNA, "--config", &none]);
    assert_eq!(told.code, 0, "{told:#?}");
    for wrong in [
        vec!["probe", "not..a.host", "--to", ANNA],
        vec!["probe", &target, "--to", "nobody"],
        vec!["probe", &target, "--to", ANNA, "--port", "25"],
        vec!["probe", &target, "--to", ANNA, "--ca", "/no/such/file"],
        vec!["probe", &target],
    ] {
        let told = edge.command(&wrong);
        assert_eq!(told.code, 2, "{wrong:?}: {told:#?}");
        assert!(!told.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn the_api_probes_as_the_command_does_and_writes_it_down() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let other = Edge::builder("EUR").directory(CONTOSO).start();
    let target = other.address.to_string();
    let probe = |question: &Value| {
        let (code, body) = edge.api("POST", "/v1/probe", &question.to_string());
        assert_eq!(code, 200, "{question}: {body}");
        serde_json::from_str::<Value>(&body).expect("JSON")
    };
    // All but the times.
    let timeless = |mut told: Value| {
        for step in told["steps"].as_array_mut().expect("steps") {
            step["took_ms"].take();
        }
        told
    };
    for to in [ANNA, "nobody@contoso.com"] {
        let said = edge.command(&["probe", &target, "--to", to, "--json"]).json();
        assert_eq!(timeless(probe(&json!({ "target": target, "to": to }))), timeless(said), "{to}");
    }
    assert!(other.mailbox(ANNA).is_empty(), "nothing was sent so far");
    let told = probe(&json!({ "target": target, "to": ANNA, "from": "you@example.org", "send": true }));
    assert_eq!(told["ok"], true, "{told:#}");
    let letter = &other.wait_for(ANNA, 1)[0];
    assert_eq!(letter.header("Return-Path").as_deref(), Some("<you@example.org>"));

    // The kernel accepts for it; nobody ever speaks.
    let silent = TcpListener::bind(free_address()).expect("a free address");
    let silent = silent.local_addr().expect("it is bound").to_string();
    let told = probe(&json!({ "target": silent, "to": ANNA, "timeout_s": 1 }));
    assert_eq!((&told["ok"], &told["steps"][2]["step"]), (&false.into(), &"banner".into()), "{told:#}");

    let audit = edge.state().join("queue-audit.jsonl");
    let audited = || std::fs::read_to_string(&audit).expect("written").lines().count();
    let before = audited();
    for wrong in [
        json!({ "target": "not..a.host", "to": ANNA }),
        json!({ "target": target, "to": "nobody" }),
        json!({ "target": target, "to": ANNA, "port": 25 }),
        json!({ "target": target, "to": ANNA, "ca": "/no/such/file" }),
        json!({ "target": target, "to": ANNA, "timeout_s": 0 }),
        json!({ "target": target, "to": ANNA, "typo": 1 }),
        json!({ "target": target }),
    ] {
        let (code, body) = edge.api("POST", "/v1/probe", &wrong.to_string());
        assert!(code == 422 && !body.is_empty(), "{wrong}: {code} {body}");
    }
    assert_eq!((before, audited()), (4, 4), "a wrong question is not written down");
    let lines = std::fs::read_to_string(&audit).expect("written");
    let sent: Value = serde_json::from_str(lines.lines().nth(2).expect("a line")).expect("JSON");
    assert_eq!(sent["verb"], "probe");
    assert_eq!(sent["detail"], format!("{target} for {ANNA}, a message"));
}
