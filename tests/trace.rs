//! Trace: what happened to a message is found again, by whatever is known of it, from connection to final fate.

mod world;

use serde_json::Value;
use world::{CONTOSO, Dovecot, Edge, Sink, free_address, holds_for, letter, until};

/// The rows of `landfall trace` with these arguments.
fn trace(edge: &Edge, arguments: &[&str]) -> Vec<Value> {
    let told = edge.command(&[&["trace", "--json"], arguments].concat());
    assert!(told.stderr.is_empty() || told.code == 1, "{told:#?}");
    told.json().as_array().expect("a list of rows").clone()
}

/// Looks until the one row that is asked for says so.
fn wait_for(edge: &Edge, arguments: &[&str], status: &str) -> Value {
    until(&format!("{arguments:?} to be {status}"), || {
        let rows = trace(edge, arguments);
        rows.iter().find(|row| row["status"] == status).cloned()
    })
}

fn id_of(accepted: &str) -> String {
    accepted.split(' ').nth(2).expect("250 2.6.0 <id> ...").to_owned()
}

fn message_id_of(message: &str) -> String {
    message.split("Message-ID: ").nth(1).and_then(|rest| rest.lines().next()).expect("its own").to_owned()
}

/// The words of a message's history for its only recipient.
fn history(edge: &Edge, id: &str) -> Vec<String> {
    let rows = trace(edge, &[id]);
    let steps = rows[0]["history"].as_array().expect("a history").clone();
    steps.iter().map(|step| step["what"].as_str().expect("a word").to_owned()).collect()
}

#[test]
fn a_delivered_message_is_found_by_everything_that_is_known_of_it() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let message = letter("found again");
    let mut client = edge.client();
    client.envelope("Ann@sender.example", &["anna@contoso.com", "ida@contoso.com"]);
    let id = id_of(&client.data(&message));
    let row = wait_for(&edge, &["--to", "ANNA@contoso.com"], "delivered");
    assert_eq!(row["id"], id.as_str());
    for (key, value) in [
        ("sender", "Ann@sender.example"),
        ("recipient", "anna@contoso.com"),
        ("region", "EUR"),
        ("ingress", "EUR"),
        ("irr", "applied"),
        ("rule", "6"),
        ("client_ip", "127.0.0.1"),
        ("helo", "client.example.org"),
        ("listener", "mx"),
        ("attribution", "incoming"),
        ("next_hop", "store:EUR"),
        ("relay", "spool"),
    ] {
        assert_eq!(row[key], value, "{key} of {row:#}");
    }
    assert!(row["subject"].is_null(), "subjects are off by default");
    assert!(row["size"].as_u64().is_some_and(|size| size >= message.len() as u64), "{row:#}");
    let message_id = message_id_of(&message);
    assert_eq!(row["message_id"], message_id.as_str());
    until("both recipients delivered", || {
        let rows = trace(&edge, &["--status", "delivered", "--from", "ann@sender.example"]);
        (rows.len() == 2).then_some(())
    });
    let session = row["session"].as_str().expect("a session").to_owned();
    for (arguments, count) in [
        (&["--from", "@sender.example"][..], 2),
        (&["--from", "@other.example"], 0),
        (&["--to", "@contoso.com"], 2),
        (&["--from", "<Ann@sender.example>"], 2),
        (&["--to", "ida@contoso.com"], 1),
        (&["--message-id", &message_id], 2),
        (&["--message-id", message_id.trim_matches(['<', '>'])], 2),
        (&["--since", "1h"], 2),
        (&["--since", "2020-01-01", "--until", "2020-01-02"], 0),
        (&["--since", "2099-01-01"], 0),
        (&["--until", "2099-01-01T00:00:00Z"], 2),
        (&["--status", "failed"], 0),
        (&["--code", "550"], 0),
        (&["--limit", "1"], 1),
        (&[&id], 2),
        (&[&session], 2),
    ] {
        assert_eq!(trace(&edge, arguments).len(), count, "{arguments:?}");
    }
    assert_eq!(history(&edge, &id), ["accepted", "delivered"]);
    let unknown = edge.command(&["trace", "00000000000000aa"]);
    assert_eq!(unknown.code, 1, "{unknown:#?}");
    for bad in [
        &["trace", "--status", "lost"][..],
        &["trace", "--since", "yesterday"],
        &["trace", "nonsense"],
        &["trace", "--to", "contoso.com"],
        &["trace", "--from", "anna"],
        &["trace", "--limit", "0"],
    ] {
        assert_eq!(edge.command(bad).code, 2, "{bad:?}");
    }
}

#[test]
fn an_internationalised_domain_is_found_however_it_is_written() {
    let directory = CONTOSO.replacen("contoso.com", "bücher.example", usize::MAX);
    let edge = Edge::builder("EUR").directory(&directory).start();
    let mut client = edge.client();
    client.deliver("kurt@xn--bcher-kva.example", &["anna@xn--bcher-kva.example"], letter("one"));
    wait_for(&edge, &["--to", "anna@xn--bcher-kva.example"], "delivered");
    for arguments in [
        ["--to", "anna@bücher.example"],
        ["--to", "anna@BÜCHER.example"],
        ["--to", "@bücher.example"],
        ["--from", "kurt@bücher.example"],
        ["--from", "@Bücher.Example"],
    ] {
        assert_eq!(trace(&edge, &arguments).len(), 1, "{arguments:?}");
    }
    for domain in ["bücher.example", "BÜCHER.example", "xn--bcher-kva.example"] {
        let report = until("the audit has it", || {
            let report = edge.command(&["report", "residency", "--domain", domain, "--json"]).json();
            (report["messages"]["received"] == 1).then_some(report)
        });
        assert_eq!(report["passed_on"]["EUR"], 1, "{domain}: {report:#}");
    }
    assert_eq!(edge.command(&["report", "residency", "--domain", "no domain"]).code, 2);
}

#[test]
fn refusals_are_found_by_code_token_session_and_rule() {
    let edge = Edge::builder("NAM").directory(CONTOSO).start();
    let mut client = edge.client();
    client.say("MAIL FROM:<ann@sender.example>");
    client.say("RCPT TO:<nobody@elsewhere.example>");
    drop(client);
    let gbr = Edge::builder("CAN").directory(CONTOSO).start();
    let mut client = gbr.client();
    client.say("MAIL FROM:<ann@sender.example>");
    client.say("RCPT TO:<anna@contoso.com>");
    client.say("MAIL FROM:<again@sender.example> SIZE=999999999999");
    drop(client);
    let row = wait_for(&edge, &["--code", "5.7.64"], "rejected");
    assert_eq!((&row["code"], &row["rule"]), (&550.into(), &"1".into()), "{row:#}");
    assert_eq!(row["recipient"], "nobody@elsewhere.example");
    assert_eq!(row["reason"], "relay-denied");
    assert_eq!(row["reply"], "550 5.7.64 TenantAttribution; Relay Access Denied");
    assert_eq!(row["id"], row["session"], "before acceptance the session's id names it");
    let session = row["id"].as_str().expect("an id");
    assert_eq!(trace(&edge, &[session]).len(), 1);
    assert_eq!(trace(&edge, &["--code", "550", "--to", "nobody@elsewhere.example"]).len(), 1);
    assert_eq!(trace(&edge, &["--code", "ATTR35"]).len(), 0);

    let row = wait_for(&gbr, &["--code", "ATTR35"], "rejected");
    assert_eq!((&row["rule"], &row["stage"]), (&"7".into(), &"recipient".into()), "{row:#}");
    assert_eq!(row["recipient"], "anna@contoso.com", "no strict tenant: named in full");
}

#[test]
fn who_hangs_up_is_not_rejected_and_a_release_leaves_no_reason() {
    let store = free_address();
    let edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .store(&[&format!("lmtp://{store}")])
        .with("[region.EUR]\ntls = \"off\"\n[queue]\nfirst_intervals = [\"100ms\"]\nmax_interval = \"100ms\"")
        .start();
    let mut client = edge.client();
    client.envelope("ann@sender.example", &["anna@contoso.com"]);
    drop(client);
    let row = wait_for(&edge, &["--status", "abandoned"], "abandoned");
    assert_eq!((&row["recipient"], &row["reason"]), (&"anna@contoso.com".into(), &"broken-off".into()));
    assert_eq!(row["reply"], "the client hung up");
    assert_eq!(trace(&edge, &["--status", "rejected"]).len(), 0);
    assert_eq!(history(&edge, row["id"].as_str().expect("an id")), ["abandoned"]);

    edge.client().deliver("bea@sender.example", &["ida@contoso.com"], letter("held and released"));
    let row = wait_for(&edge, &["--from", "bea@sender.example"], "deferred");
    let id = row["id"].as_str().expect("an id").to_owned();
    assert_eq!(edge.command(&["queue", "hold", &id]).code, 0);
    let row = wait_for(&edge, &[&id], "held");
    assert_eq!(row["reason"], "by the operator");
    let sink = Sink::start_at(store, &["-L"]);
    assert_eq!(edge.command(&["queue", "release", &id]).code, 0);
    let row = wait_for(&edge, &[&id], "delivered");
    assert!(row["reason"].is_null(), "{row:#}");
    assert!(history(&edge, &id).contains(&"released".to_owned()));
    drop(sink);
}

#[test]
fn what_waits_what_fails_and_what_expires_says_why_with_the_remote_words() {
    let at = free_address();
    let edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .relay("NAM", at)
        .with("[queue]\nfirst_intervals = [\"200ms\"]\nmax_interval = \"200ms\"\nexpire_after = \"4s\"")
        .start();
    let mut client = edge.client();
    client.envelope("anna@contoso.com", &["ben@contoso.com"]);
    let id = id_of(&client.data(letter("expires")));
    let row = wait_for(&edge, &["--to", "ben@contoso.com"], "deferred");
    assert_eq!(row["id"], id.as_str());
    assert!(row["next_attempt"].is_string() && row["next_hop"] == "relay:NAM", "{row:#}");
    let row = wait_for(&edge, &["--to", "ben@contoso.com"], "failed");
    assert!(row["attempts"].as_u64().is_some_and(|attempts| attempts > 0), "{row:#}");
    // Found by what its sender was told, with what the next hop had said (rule 83).
    let expired = trace(&edge, &["--code", "5.4.300"]);
    assert_eq!(expired.len(), 1);
    assert_eq!((&expired[0]["id"], &expired[0]["code"]), (&id.as_str().into(), &550.into()));
    let reply = expired[0]["reply"].as_str().expect("words");
    assert!(reply.starts_with("550 5.4.300 Message expired; the last word was: 4.4.1 "), "{reply}");
    let steps = history(&edge, &id);
    assert_eq!(steps.first().map(String::as_str), Some("accepted"), "{steps:?}");
    for what in ["deferred", "expired", "notified"] {
        assert!(steps.iter().any(|step| step == what), "no {what} in {steps:?}");
    }
    // The notice is a message of its own, and says whose it is.
    let notice = wait_for(&edge, &["--to", "anna@contoso.com", "--from", "<>"], "delivered");
    assert_eq!(notice["notice_of"], id.as_str(), "{notice:#}");
    assert_eq!(notice["sender"], "<>");
    assert_eq!(notice["region"], "EUR", "where its reader lives: {notice:#}");
}

#[test]
fn a_refusing_next_hop_is_quoted_in_full() {
    let sink = Sink::start(&["-f", "RCPT"]);
    let edge = Edge::builder("EUR").directory(CONTOSO).relay("NAM", sink.address).start();
    edge.client().deliver("ann@sender.example", &["ben@contoso.com"], letter("refused there"));
    let row = wait_for(&edge, &["--to", "ben@contoso.com"], "failed");
    assert!(row["reply"].as_str().is_some_and(|reply| reply.starts_with("5")), "{row:#}");
    assert!(
        row["host"].as_str().is_some_and(|host| host.contains(&sink.address.ip().to_string())),
        "{row:#}"
    );
    let code = row["code"].to_string();
    assert_eq!(trace(&edge, &["--code", &code]).len(), 1, "{code}");
}

#[test]
fn the_trace_is_there_after_a_stop_after_a_kill_and_without_a_daemon() {
    let at = free_address();
    // It may have been deferred, durably, before the kill: the trace hears of it at the next attempt.
    let mut edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .relay("NAM", at)
        .with("[queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"")
        .start();
    let mut client = edge.client();
    client.envelope("ann@sender.example", &["anna@contoso.com"]);
    let here = id_of(&client.data(letter("stays")));
    wait_for(&edge, &[&here], "delivered");
    client.envelope("ann@sender.example", &["ben@contoso.com", "anna@contoso.com"]);
    let there = id_of(&client.data(letter("waits")));
    wait_for(&edge, &[&there], "delivered");
    client.envelope("ann@sender.example", &["ben@contoso.com"]);
    let last = id_of(&client.data(letter("waits too")));
    // Killed at once: what the trace had not yet written down is told again from the spool.
    edge.kill();
    edge.start();
    wait_for(&edge, &[&there], "deferred");
    let row = until("the last to be told again", || trace(&edge, &[&last]).into_iter().next());
    assert_eq!(
        (&row["recipient"], &row["sender"]),
        (&"ben@contoso.com".into(), &"ann@sender.example".into())
    );
    assert_eq!(trace(&edge, &[&here])[0]["status"], "delivered");
    edge.stop();
    assert_eq!(trace(&edge, &[&here])[0]["status"], "delivered", "from the files alone");
    wait_for(&edge, &[&there], "deferred");
    assert_eq!(edge.command(&["trace"]).code, 0);
    // The trace is one thing and the mail another.
    std::fs::remove_dir_all(edge.state().join("trace")).expect("our own folder");
    edge.start();
    let of = |who: &str| {
        until("the message to be told of again", || {
            trace(&edge, &[&there]).into_iter().find(|row| row["recipient"] == who)
        })
    };
    let row = of("ben@contoso.com");
    assert_eq!(row["relay"], "recovery", "{row:#}");
    assert!(row["status"] == "pending" || row["status"] == "deferred", "{row:#}");
    let row = of("anna@contoso.com");
    assert_eq!(row["status"], "delivered", "the spool knows of its end: {row:#}");
    assert!(
        row["attempts"] == 1 && row["reply"].as_str().is_some_and(|reply| reply.contains("2.0.0")),
        "{row:#}"
    );
}

#[test]
fn size_and_age_let_go_of_the_oldest_first() {
    let edge = Edge::builder("EUR").directory(CONTOSO).with("[trace]\nmax_size = \"1MiB\"").start();
    let mut client = edge.client();
    client.envelope("ann@sender.example", &["anna@contoso.com"]);
    let first = id_of(&client.data(letter("first")));
    wait_for(&edge, &[&first], "delivered");
    let folder = edge.state().join("trace");
    let bytes = || -> u64 {
        let entries = std::fs::read_dir(&folder).expect("the trace");
        entries
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .filter(|meta| meta.is_file())
            .map(|meta| meta.len())
            .sum()
    };
    until("the first to be let go", || {
        for _ in 0..200 {
            client.deliver("ann@sender.example", &["anna@contoso.com", "ida@contoso.com"], letter("filler"));
        }
        edge.command(&["trace", &first]).stderr.contains("no such id").then_some(())
    });
    assert!(!trace(&edge, &["--to", "anna@contoso.com"]).is_empty(), "the newest are there");
    assert!(bytes() < 3 << 20, "{} octets", bytes());

    let aged = Edge::builder("EUR").directory(CONTOSO).with("[trace]\nkeep = \"2s\"").start();
    let mut client = aged.client();
    client.envelope("ann@sender.example", &["anna@contoso.com"]);
    let old = id_of(&client.data(letter("old")));
    wait_for(&aged, &[&old], "delivered");
    until("the old one to be let go", || {
        client.deliver("ann@sender.example", &["anna@contoso.com"], letter("filler"));
        aged.command(&["trace", &old]).stderr.contains("no such id").then_some(())
    });
}

#[test]
fn subjects_are_kept_only_when_they_are_wanted_and_nothing_when_it_is_off() {
    let edge = Edge::builder("EUR").directory(CONTOSO).with("[trace]\nsubjects = true").start();
    edge.client().deliver("ann@sender.example", &["anna@contoso.com"], letter("quarterly figures"));
    let row = wait_for(&edge, &["--to", "anna@contoso.com"], "delivered");
    assert_eq!(row["subject"], "quarterly figures");

    let settings = "[trace]\nenabled = false\n[audit]\nenabled = false";
    let off = Edge::builder("EUR").directory(CONTOSO).with(settings).start();
    off.client().deliver("ann@sender.example", &["anna@contoso.com"], letter("untraced"));
    off.wait_for("anna@contoso.com", 1);
    assert!(!off.state().join("trace").exists());
    // To have written nothing down is not to have seen nothing.
    for (command, says) in [
        (&["trace", "--json"][..], "there is no trace"),
        (&["report", "residency", "--json"], "there is no audit"),
    ] {
        let told = off.command(command);
        let error = told.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(told.code == 1 && error.contains(says), "{told:#?}");
    }
}

/// Everything that an edge keeps about what it saw: trace, audit, log.
fn kept(edge: &Edge) -> String {
    fn read(folder: &std::path::Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).expect("a folder").filter_map(Result::ok) {
            if entry.path().is_dir() {
                read(&entry.path(), into);
            } else {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                into.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }
    let mut all = edge.log();
    read(&edge.state().join("trace"), &mut all);
    read(&edge.state().join("audit"), &mut all);
    all
}

#[test]
fn rule_22_a_strict_tenants_addresses_are_in_no_trace_but_their_regions() {
    let directory = CONTOSO.to_owned()
        + r#"
[[tenant]]
id = "strict"
default_region = "EUR"
allowed_regions = ["EUR", "NAM"]
multi_geo = true
in_region_routing = true
residency = "strict"
domain = [{ name = "strict.example", mail_flow_region = "EUR" }]
user = [{ address = "secretive@strict.example", preferred_data_location = "EUR" }]
"#;
    let nam = Edge::builder("NAM")
        .directory(&directory)
        .with("[log]\nlevel = \"trace\"\n[queue]\nfirst_intervals = [\"100ms\"]")
        .relay("EUR", free_address())
        .start();
    let eur = Edge::builder("EUR").directory(&directory).start();
    // As a recipient, right and wrong, elsewhere; as a sender; and as whom a notice is for.
    let mut client = nam.client();
    client.say("MAIL FROM:<ann@sender.example>");
    client.say("RCPT TO:<secretive@strict.example>");
    client.say("RCPT TO:<secretive@strict.example> NOTIFY=NONSENSE");
    client.say("RSET");
    client.say("MAIL FROM:<secretive@strict.example>");
    client.say("RCPT TO:<nobody@contoso.com>");
    client.say("RCPT TO:<nobody@elsewhere.example>");
    client.say("RSET");
    client.say("MAIL FROM:<secretive@strict.example> SIZE=999999999999");
    let row = wait_for(&nam, &["--code", "ATTR35", "--to", "@strict.example"], "rejected");
    assert_eq!(row["recipient"], "@strict.example");
    let row = wait_for(&nam, &["--from", "@strict.example", "--code", "5.7.64"], "rejected");
    assert_eq!(row["sender"], "@strict.example");
    holds_for("nothing names the address", std::time::Duration::from_millis(300), || {
        !kept(&nam).contains("secretive")
    });

    let mut client = eur.client();
    client.envelope("ann@sender.example", &["secretive@strict.example"]);
    let id = id_of(&client.data(letter("at home")));
    let row = wait_for(&eur, &[&id], "delivered");
    assert_eq!(row["recipient"], "secretive@strict.example", "at home it is named");
}

#[test]
fn an_inline_verdict_that_differs_is_one_message_with_all_its_recipients() {
    let dovecot = Dovecot::start(&["anna@contoso.com"]);
    let directory = CONTOSO.to_owned()
        + "[[tenant.user]]\naddress = \"olga@contoso.com\"\npreferred_data_location = \"EUR\"\n";
    let edge = Edge::builder("EUR")
        .directory(&directory)
        .store(&[&dovecot.url()])
        .with("[region.EUR]\nmode = \"inline\"\ntls = \"off\"")
        .start();
    let mut client = edge.client();
    client.envelope("anna@contoso.com", &["anna@contoso.com", "olga@contoso.com"]);
    let id = id_of(&client.data(letter("to one of two")));
    wait_for(&edge, &["--to", "olga@contoso.com"], "failed");
    let rows = trace(&edge, &[&id]);
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            (text("recipient"), text("status"), text("region"), text("irr"), text("rule"), text("relay"))
        })
        .collect();
    let row = |recipient: &str, status: &str, irr: &str| {
        let [recipient, status, region, irr, rule, relay] =
            [recipient, status, "EUR", irr, "6", "spool"].map(str::to_owned);
        (recipient, status, region, irr, rule, relay)
    };
    let expected =
        [row("anna@contoso.com", "delivered", "applied"), row("olga@contoso.com", "failed", "applied")];
    assert_eq!(told, expected, "{rows:#?}");
    assert_eq!((&rows[0]["code"], &rows[1]["code"]), (&250.into(), &550.into()), "{rows:#?}");
    assert_eq!(rows[0]["sender"], "anna@contoso.com", "{rows:#?}");
    let steps = history(&edge, &id);
    assert_eq!(steps[0], "accepted", "{steps:?}");
    assert!(steps.iter().any(|step| step == "inline-fell-back"), "{steps:?}");
    // The audit has it in the same order: received, for both, then what became of it.
    let text = until("the failure in the audit", || {
        let text = std::fs::read_to_string(edge.state().join("audit/audit-000000000000.log")).ok()?;
        text.lines().any(|line| line.contains(&id) && line.contains("\"failed\"")).then_some(text)
    });
    let entries: Vec<Value> = text
        .lines()
        .filter(|line| line.contains(&id))
        .map(|line| serde_json::from_str(&line[65..]).expect("an entry"))
        .collect();
    assert_eq!(
        (&entries[0]["event"], &entries[0]["disk"], &entries[0]["to"][0]["count"]),
        (&"received".into(), &true.into(), &2.into()),
        "{entries:#?}"
    );
    let words: Vec<_> = entries.iter().map(|entry| entry["event"].as_str().expect("a word")).collect();
    assert_eq!(words, ["received", "delivered", "failed"]);
}

/// Rows that grow split pages, many in one statement; SQLite wants temporary files then, and the confined daemon
/// may open none.
#[test]
fn a_burst_of_long_replies_is_indexed_from_inside_the_sandbox() {
    const MESSAGES: usize = 40;
    let busy = format!("451 4.3.0 {}", "please come back a little later ".repeat(15));
    let sink = Sink::start(&["-r", "RCPT", "-b", busy.trim_end()]);
    let edge = Edge::builder("EUR").directory(CONTOSO).relay("NAM", sink.address).start();
    let tagged: Vec<String> = (0..150).map(|n| format!("ben+{n}@contoso.com")).collect();
    let recipients: Vec<&str> = tagged.iter().map(String::as_str).collect();
    let mut client = edge.client();
    for n in 0..MESSAGES {
        client.envelope("ann@sender.example", &recipients);
        let said = client.data(letter(&format!("burst {n}")));
        assert!(said.starts_with("250"), "{said}");
    }
    until("every recipient's row to tell of the deferral", || {
        let rows = trace(&edge, &["--status", "deferred", "--limit", "100000"]);
        (rows.len() == MESSAGES * recipients.len()).then_some(())
    });
    assert!(!edge.log().contains("the trace cannot be written"), "{}", edge.log());
}
