//! Operation: configurations that hold mistakes, reload, drain, and what the command line says.

mod world;

use std::process::Command;
use std::time::Duration;

use world::{Authority, Builder, CONTOSO, Client, Edge, Stopwatch, free_address, letter, swaks, until};

const UNKNOWN: &str = "550 5.4.1 Recipient address rejected: Access denied";

fn edge() -> Builder {
    Edge::builder("EUR").directory(CONTOSO)
}

#[test]
fn every_mistake_is_told_at_once_with_file_line_and_key_and_nothing_starts() {
    let directory = CONTOSO
        .replace("default_region = \"NAM\"", "default_region = \"NAX\"")
        .replace("multi_geo = true", "multi_go = true");
    let edge = Edge::builder("EUR")
        .directory(&directory)
        .with(
            "[queue]\nmax_interval = \"2h\"\nfirst_intervals = [\"20m\"]\n[limits]\nmesage_size = \"1MiB\"\n\
             recipients_per_message = \"many\"\n[region.XYZ]\nrelay = [\"http://example.net\"]",
        )
        .offline();
    for arguments in [&["serve"][..], &["config", "check"][..]] {
        let told = edge.command(arguments);
        assert_eq!(told.code, 2, "{told:#?}");
        for part in [
            "max_interval",
            "first_intervals",
            "mesage_size",
            "message_size",
            "recipients_per_message",
            "XYZ",
            "http://example.net",
            "NAX",
            "multi_go",
            "multi_geo",
        ] {
            assert!(told.stderr.contains(part), "nothing about {part} in\n{}", told.stderr);
        }
        for (file, key) in [("landfall.toml:", "mesage_size"), ("directory.toml:", "multi_go")] {
            let line = told.stderr.lines().find(|line| line.contains(key)).unwrap_or_default();
            let number = line.split(file).nth(1).and_then(|rest| rest.split(':').next()).unwrap_or_default();
            assert!(number.parse::<usize>().is_ok(), "no {file}<line> in: {line}");
        }
    }
    assert!(!edge.state().exists(), "nothing starts half-configured");
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_a_mistake_too() {
    let edge = edge().offline();
    std::fs::write(edge.config(), "[node\n").expect("our own folder");
    assert_eq!(edge.command(&["config", "check"]).code, 2);
    std::fs::remove_file(edge.config()).expect("our own folder");
    let told = edge.command(&["config", "check"]);
    assert_eq!(told.code, 2);
    assert!(told.stderr.contains("landfall.toml"), "{told:#?}");
    assert_eq!(edge.command(&["frobnicate"]).code, 2);
    // With --json a usage mistake is the document as well.
    let told = edge.command(&["explain", "anna@contoso.com", "--client-ip", "999.1.1.1", "--json"]);
    let says = told.json()["error"].as_str().expect("why").to_owned();
    assert!(told.code == 2 && says.contains("999.1.1.1") && told.stderr.is_empty(), "{told:#?}");
    assert!(edge.command(&["queue", "--help", "--json"]).stdout.contains("Usage:"));
}

#[test]
fn a_good_configuration_is_checked_shown_and_exemplified() {
    let edge = edge().offline();
    let check = edge.command(&["config", "check", "--json"]);
    assert_eq!(check.code, 0, "{check:#?}");
    assert_eq!(check.json()["ok"], true);
    let show = edge.command(&["config", "show"]);
    assert_eq!(show.code, 0);
    let shown: toml::Table = show.stdout.parse().expect("what is shown is a configuration");
    assert_eq!(shown["queue"]["expire_after"].as_str(), Some("24h"), "defaults included");
    let example = edge.command(&["config", "example"]);
    assert_eq!(example.code, 0);
    let _: toml::Table = example.stdout.parse().expect("the example is TOML");
    assert!(!edge.state().exists(), "a look changes nothing");
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    let edge = edge().offline();
    for command in [&["config", "example"][..], &["config", "show", "--json"], &["directory", "stats"]] {
        let (reader, writer) = std::io::pipe().expect("two descriptors");
        drop(reader);
        let ended = Command::new(env!("CARGO_BIN_EXE_landfall"))
            .arg("--config")
            .arg(edge.config())
            .args(command)
            .stdout(writer)
            .output()
            .expect("the program was built");
        let said = String::from_utf8_lossy(&ended.stderr);
        // As a shell tells SIGPIPE.
        assert_eq!((ended.status.code(), &*said), (Some(141), ""), "{command:?}");
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let ended =
        Command::new(env!("CARGO_BIN_EXE_landfall")).args(["config", "example"]).stdout(full).output();
    let ended = ended.expect("the program was built");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        ended.status.code() == Some(1) && said.contains("No space left") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn the_quickstart_holds_no_mistakes() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/quickstart.toml");
    let checked = Command::new(env!("CARGO_BIN_EXE_landfall"))
        .arg("--config")
        .arg(&path)
        .args(["config", "check", "--json"])
        .output()
        .expect("the program was built");
    let told: serde_json::Value = serde_json::from_slice(&checked.stdout).expect("one document");
    assert_eq!((&told["ok"], &told["mistakes"]), (&true.into(), &serde_json::json!([])), "{told:#}");
}

#[test]
fn a_reload_takes_up_directory_and_settings_and_drops_nobody() {
    let mut edge = edge().start();
    let mut open = edge.client();
    open.envelope("ann@sender.example", &["anna@contoso.com"]);
    open.expect("RCPT TO:<nora@contoso.com>", UNKNOWN);

    let more = CONTOSO.to_owned()
        + "[[tenant.user]]\naddress = \"nora@contoso.com\"\npreferred_data_location = \"EUR\"\n";
    edge.write_directory(&more);
    edge.configure("[limits]\nmessage_size = \"1MiB\"");
    edge.reload();
    // The open session goes on, its transaction too.
    assert!(open.data(letter("across a reload")).starts_with("250 2.6.0 "));
    open.deliver("ann@sender.example", &["nora@contoso.com"], letter("welcome"));
    edge.wait_for("nora@contoso.com", 1);
    assert!(Client::greeted(edge.address).say("EHLO again.example").contains("SIZE 1048576"));
}

#[test]
fn what_needs_a_restart_is_named_by_every_reload_until_the_file_says_again_what_runs() {
    let mut edge = edge().start();
    let named = |edge: &Edge| {
        let told = edge.command(&["reload", "--json"]);
        assert_eq!(told.code, 0, "{told:#?}");
        told.json()["warned"].to_string().contains("limits.connections")
    };
    assert!(!named(&edge));
    let before = std::fs::read_to_string(edge.config()).expect("our own folder");
    edge.configure("[limits]\nconnections = 77");
    assert!(named(&edge));
    assert!(named(&edge), "it runs with another number still");
    std::fs::write(edge.config(), before).expect("our own folder");
    assert!(!named(&edge), "nothing differs from what runs");
}

#[test]
fn sighup_reloads_too_and_a_mistake_leaves_the_old_in_force() {
    let mut edge = edge().start();
    edge.write_directory("[[tenant]]\nnonsense = true\n");
    let told = edge.command(&["reload"]);
    assert_eq!(told.code, 2, "{told:#?}");
    assert!(told.stderr.contains("nonsense"), "{told:#?}");
    let mut client = edge.client();
    client.envelope("ann@sender.example", &["anna@contoso.com"]);

    edge.write_directory(&CONTOSO.replace("ida@", "nora@"));
    edge.signal("HUP");
    until("the new directory to be in force", || {
        client.say("RSET");
        client.say("MAIL FROM:<ann@sender.example>");
        client.say("RCPT TO:<nora@contoso.com>").starts_with("250 ").then_some(())
    });
    client.expect("RCPT TO:<ida@contoso.com>", UNKNOWN);
}

/// The names in the certificate that a client sees.
fn certificate_seen(edge: &Edge, sni: &str) -> String {
    let file = edge.folder().join("seen.pem");
    let to = file.display().to_string();
    let (code, transcript) =
        swaks(edge.address, &["--tls", "--quit", "TLS", "--tls-sni", sni, "--tls-get-peer-cert", &to]);
    assert_eq!(code, 0, "{transcript}");
    let shown =
        Command::new("openssl").args(["x509", "-noout", "-ext", "subjectAltName", "-in", &to]).output();
    String::from_utf8_lossy(&shown.expect("openssl is there where swaks does TLS").stdout).into_owned()
}

#[test]
fn certificates_are_chosen_by_sni_and_replaced_by_a_reload() {
    let authority = Authority::new();
    let (first, second) = (authority.issue("mx.contoso.com"), authority.issue("mx.fabrikam.com"));
    let renewed = authority.issue("mx.northwind.example");
    let edge = edge()
        .with(&format!(
            "[tls]\nself_signed = false\ncertificate = [{{ cert = {:?}, key = {:?} }}, {{ cert = {:?}, key = {:?} }}]",
            first.cert, first.key, second.cert, second.key
        ))
        .start();
    assert!(certificate_seen(&edge, "mx.fabrikam.com").contains("mx.fabrikam.com"));
    assert!(certificate_seen(&edge, "mx.contoso.com").contains("mx.contoso.com"));
    assert!(
        certificate_seen(&edge, "unknown.example").contains("mx.contoso.com"),
        "the first is for all others"
    );

    let mut open = edge.client();
    std::fs::copy(&renewed.cert, &second.cert).expect("our own folder");
    std::fs::copy(&renewed.key, &second.key).expect("our own folder");
    edge.reload();
    assert!(certificate_seen(&edge, "mx.northwind.example").contains("mx.northwind.example"));
    open.expect("NOOP", "250 2.0.0 OK");

    // A pair that does not match is refused, and the one before serves on.
    std::fs::copy(&first.key, &second.key).expect("our own folder");
    assert_ne!(edge.command(&["reload"]).code, 0);
    assert!(certificate_seen(&edge, "mx.northwind.example").contains("mx.northwind.example"));
}

#[test]
fn sigterm_ends_within_its_bound_whatever_clients_do() {
    let mut edge = edge().with("[deadlines]\ndrain = \"1s\"").start();
    let mut stuck = edge.client();
    stuck.envelope("ann@sender.example", &["anna@contoso.com"]);
    stuck.say("DATA");
    stuck.send("Subject: never ends\r\n");
    let watch = Stopwatch::start();
    edge.stop();
    assert!(watch.elapsed() < Duration::from_secs(10), "{:?}", watch.elapsed());
    assert!(stuck.rest().iter().all(|reply| !reply.starts_with('2')));
}

#[test]
fn drain_by_command_ends_the_daemon() {
    let mut edge = edge().start();
    let told = edge.command(&["drain"]);
    assert_eq!(told.code, 0, "{told:#?}");
    assert!(edge.wait().success());
    assert_ne!(edge.command(&["status"]).code, 0, "nobody answers any more");
}

#[test]
fn the_queue_is_told_as_tables_and_as_json() {
    let edge = edge().relay("NAM", free_address()).start();
    assert!(edge.queue().is_empty());
    let message = letter("waiting");
    edge.client().deliver("ann@sender.example", &["ben@contoso.com", "bob@contoso.com"], &message);
    let row = until("an attempt", || edge.queue().into_iter().find(|row| row["last_reply"].is_string()));
    assert_eq!(row["sender"], "ann@sender.example");
    assert_eq!(row["recipients"], serde_json::json!(["ben@contoso.com", "bob@contoso.com"]));
    let summary = edge.command(&["queue", "summary", "--json"]).json();
    assert!(
        summary.to_string().contains("NAM") && summary.to_string().contains("\"messages\":1"),
        "{summary}"
    );
    let list = edge.command(&["queue", "list"]);
    assert!(list.stdout.contains("ben@contoso.com"), "{}", list.stdout);
    edge.client().deliver("bea@sender.example", &["ben@contoso.com"], &message);
    until("both to wait", || (edge.queue().len() == 2).then_some(()));
    let listed = |limit: &str| edge.command(&["queue", "list", "--limit", limit]).stdout;
    let first = listed("1");
    assert!(first.contains("ann@") && !first.contains("bea@") && first.contains("and more"), "{first}");
    for limit in ["0", "2"] {
        let all = listed(limit);
        assert!(all.contains("ann@") && all.contains("bea@") && !all.contains("and more"), "{all}");
    }
    let status = edge.command(&["status", "--json"]).json();
    assert_eq!((&status["region"], &status["queued"]), (&"EUR".into(), &2.into()), "{status}");
}

#[test]
fn a_log_that_is_no_terminal_is_json_one_event_a_line() {
    let edge = edge().with("[log]\nformat = \"auto\"").start();
    edge.client().deliver("ann@sender.example", &["anna@contoso.com"], letter("logged"));
    edge.wait_for("anna@contoso.com", 1);
    until("the delivery to be logged", || {
        let log = edge.log();
        let told = |word: &str| log.lines().any(|line| line.starts_with('{') && line.contains(word));
        (told("anna@contoso.com") && told("accepted") && told("delivered")).then_some(())
    });
    for line in edge.log().lines().filter(|line| line.starts_with('{')) {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[test]
fn with_json_every_command_says_one_document_its_troubles_too() {
    let mut edge = edge().start();
    let warned = edge.command(&["reload"]);
    let named = "warning: ";
    let count = warned.stdout.matches(named).count();
    assert!(count > 0 && warned.stdout.contains("region.GBR: has no route"), "{warned:#?}");
    assert!(warned.stdout.ends_with(&format!("reloaded, {count} warnings\n")), "{warned:#?}");
    let told = edge.command(&["reload", "--json"]).json();
    assert_eq!((&told["reloaded"], &told["warnings"]), (&true.into(), &count.into()), "{told}");
    assert_eq!(told["warned"].as_array().map(Vec::len), Some(count), "{told}");
    assert!(edge.command(&["config", "example", "--json"]).json()["example"].is_string());

    let good = std::fs::read_to_string(edge.config()).expect("our own file");
    std::fs::write(edge.config(), format!("{good}\n[nonsense]\n")).expect("our own file");
    for (arguments, code) in [(&["reload", "--json"][..], 2), (&["domain", "list", "--json"], 2)] {
        let refused = edge.command(arguments);
        assert_eq!(refused.code, code, "{refused:#?}");
        let why = refused.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(why.contains("nonsense") && refused.stderr.is_empty(), "{refused:#?}");
    }
    std::fs::write(edge.config(), good).expect("our own file");

    let drained = edge.command(&["drain", "--json"]);
    assert_eq!((drained.code, &drained.json()["drained"]), (0, &true.into()), "{drained:#?}");
    assert!(edge.wait().success());
    for arguments in [&["status", "--json"][..], &["queue", "list", "--json"]] {
        let nobody = edge.command(arguments);
        assert_eq!(nobody.code, 1, "{nobody:#?}");
        assert!(nobody.json()["error"].as_str().is_some_and(|why| why.contains("no daemon answers")));
    }
    let absent = edge.command(&["domain", "show", "nobody.example", "--json"]);
    assert_eq!((absent.code, &absent.json()["error"]), (1, &"nobody.example is no accepted domain".into()));
}

#[test]
fn a_body_that_is_cut_off_by_the_drain_is_told_so() {
    let mut edge = edge().with("[deadlines]\ndrain = \"300ms\"").start();
    let mut sending = edge.client();
    sending.envelope("ann@sender.example", &["anna@contoso.com"]);
    sending.say("DATA");
    sending.send("Subject: half\r\n\r\n");
    let mut chunks = edge.client();
    chunks.envelope("ann@sender.example", &["anna@contoso.com"]);
    chunks.send("BDAT 1000 LAST\r\nSubject: half\r\n\r\n");
    edge.signal("TERM");
    for client in [&mut sending, &mut chunks] {
        let said = client.rest();
        assert_eq!(said.last().map(String::as_str), Some("421 4.3.2 Service not available"), "{said:?}");
    }
    assert!(edge.wait().success());
    assert_eq!(edge.mailbox("anna@contoso.com").len(), 0);
}

#[test]
fn a_key_that_is_there_twice_is_named() {
    let edge = edge().offline();
    let text = std::fs::read_to_string(edge.config()).expect("our own file");
    std::fs::write(edge.config(), format!("x = 1\nx = 2\n{text}")).expect("our own file");
    let checked = edge.command(&["config", "check"]);
    assert_eq!(checked.code, 2, "{checked:#?}");
    assert!(checked.stderr.contains(":2: x: duplicate key; expected each key once"), "{checked:#?}");
}

#[test]
fn explain_names_no_session_where_replies_do() {
    let edge = edge().with("[replies]\ncontext = true").start();
    let mut client = edge.client();
    client.say("MAIL FROM:<ann@sender.example>");
    let said = client.say("RCPT TO:<nobody@contoso.com>");
    assert!(said.starts_with(UNKNOWN) && said.contains(" [edge1."), "{said}");
    let told = edge.command(&["explain", "nobody@contoso.com", "--json"]).json();
    assert_eq!(told["reply"], UNKNOWN, "{told}");
}
