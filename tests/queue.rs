//! Queue: the operator's verbs against a running daemon: what they meet, what they leave, and what a restart
//! or kill -9 leaves of them.

mod world;

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;
use world::{Builder, CONTOSO, Command, Edge, Report, Sink, free_address, holds_for, letter, until};

/// Nothing is retried within a test by itself.
const PATIENT: &str = "[queue]\nfirst_intervals = [\"15m\"]";

fn edge() -> Builder {
    Edge::builder("EUR").directory(CONTOSO).with(PATIENT)
}

/// An edge whose way to NAM is closed, and mail for Ben and Bob that waits for it.
fn waiting(messages: &[(&str, &[&str])]) -> Edge {
    let edge = edge().relay("NAM", free_address()).start();
    let mut client = edge.client();
    for (sender, recipients) in messages {
        client.deliver(sender, recipients, letter("waiting"));
    }
    until("all to wait", || {
        let rows = edge.queue();
        (rows.len() == messages.len() && rows.iter().all(|row| row["state"] == "waiting")).then_some(())
    });
    edge
}

fn queue(edge: &Edge, words: &[&str]) -> Command {
    edge.command(&[&["queue"], words, &["--json"]].concat())
}

/// A verb that must be carried out.
fn order(edge: &Edge, words: &[&str]) -> Value {
    let ordered = queue(edge, words);
    assert_eq!(ordered.code, 0, "{words:?}: {ordered:#?}");
    ordered.json()
}

fn audit(edge: &Edge) -> Vec<Value> {
    let text = fs::read_to_string(edge.state().join("queue-audit.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn states(edge: &Edge) -> Vec<String> {
    edge.queue().iter().map(|row| row["state"].as_str().expect("a state").to_owned()).collect()
}

fn senders_at(sink: &Sink) -> Vec<String> {
    let said = sink.commands("MAIL FROM:<");
    said.iter().filter_map(|command| Some(command.split(['<', '>']).nth(1)?.to_owned())).collect()
}

#[test]
fn every_filter_picks_what_it_names_and_a_dry_run_changes_nothing() {
    let edge = waiting(&[
        ("ann@sender.example", &["ben@contoso.com"]),
        ("sue@other.example", &["ben@contoso.com", "bob@contoso.com"]),
        ("", &["bob@contoso.com"]),
    ]);
    for (words, messages, recipients) in [
        (&["--destination", "relay:NAM"][..], 3, 4),
        (&["--destination", "store:EUR"], 0, 0),
        (&["--recipient", "bob@contoso.com"], 2, 2),
        (&["--recipient", "@contoso.com"], 3, 4),
        (&["--sender", "sue@other.example"], 1, 2),
        (&["--sender", "@sender.example"], 1, 1),
        (&["--sender", "<>"], 1, 1),
        (&["--older-than", "0s"], 3, 4),
        (&["--older-than", "1h"], 0, 0),
        (&["--sender", "@other.example", "--recipient", "ben@contoso.com"], 1, 1),
    ] {
        for verb in ["hold", "bounce", "delete", "prioritize"] {
            let level: &[&str] = if verb == "prioritize" { &["--priority", "high"] } else { &[] };
            let said = queue(&edge, &[&[verb, "--dry-run"], words, level].concat());
            assert_eq!(said.code, i32::from(messages == 0), "{verb} {words:?}: {said:#?}");
            let said = said.json();
            assert_eq!(
                (said["messages"].as_u64(), said["recipients"].as_u64(), &said["dry_run"]),
                (Some(messages), Some(recipients), &Value::Bool(true)),
                "{verb} {words:?}: {said}"
            );
        }
        assert_eq!(
            queue(&edge, &[&["list"], words].concat()).json().as_array().map(Vec::len),
            Some(messages as usize)
        );
    }
    assert_eq!(states(&edge), ["waiting"; 3]);
    assert!(audit(&edge).is_empty(), "nothing was changed");
    assert!(!edge.log().contains("\"event\":\"ordered\""));
}

#[test]
fn a_verb_without_a_filter_or_with_a_wrong_one_is_a_mistake() {
    let edge = waiting(&[("ann@sender.example", &["ben@contoso.com"])]);
    for words in [
        &["hold"][..],
        &["bounce"],
        &["delete"],
        &["release"],
        &["prioritize", "--priority", "high"],
        &["delete", "not-an-id"],
        &["delete", "--recipient", "nobody"],
        &["delete", "--older-than", "soon"],
        &["prioritize", "--sender", "<>", "--priority", "urgent"],
        &["hold", "--older-than", "1h", "--new"],
        &["bounce", "--sender", "<>", "--reason", " "],
    ] {
        let said = queue(&edge, words);
        assert_eq!(said.code, 2, "{words:?}: {said:#?}");
        // What is no command at all is told on stderr, everything else in the document.
        assert!(!said.stderr.is_empty() || said.json()["error"].is_string(), "{words:?}: {said:#?}");
    }
    for words in
        [&["delete", "0000000000000001"][..], &["show", "0000000000000001"], &["release", "--sender", "<>"]]
    {
        assert_eq!(queue(&edge, words).code, 1, "{words:?}: there is nothing of that");
    }
    assert_eq!(states(&edge), ["waiting"]);
}

#[test]
fn what_is_held_stays_through_restarts_and_goes_on_when_released() {
    let at = free_address();
    let mut edge = edge().relay("NAM", at).start();
    let mut client = edge.client();
    client.deliver("ann@sender.example", &["ben@contoso.com", "bob@contoso.com"], letter("half of it"));
    until("it to wait", || (states(&edge) == ["waiting"]).then_some(()));
    let bytes = edge.queue()[0]["bytes"].clone();
    let held = order(&edge, &["hold", "--recipient", "ben@contoso.com"]);
    assert_eq!((&held["messages"], &held["recipients"]), (&1.into(), &1.into()), "{held}");
    for kill in [false, true] {
        if kill {
            edge.kill();
        } else {
            edge.stop();
        }
        edge.start();
        let rows = until("both parts", || Some(edge.queue()).filter(|rows| rows.len() == 2));
        let held = rows.iter().find(|row| row["state"] == "held").expect("one of them");
        assert_eq!(held["recipients"][0], "ben@contoso.com");
        assert!(held["held_since"].is_string() && held["next_attempt"].is_null(), "{held}");
        assert_eq!(held["bytes"], bytes, "its head counts after a start too");
    }
    let sink = Sink::start_at(at, &[]);
    order(&edge, &["retry"]);
    sink.wait_for(1);
    holds_for("what is held to stay", Duration::from_millis(500), || {
        !sink.commands("RCPT").concat().contains("ben@") && states(&edge) == ["held"]
    });
    let summary = queue(&edge, &["summary"]).json();
    assert_eq!(summary["lanes"][0]["held"], 1, "{summary}");
    let traced = edge.command(&["trace", "--to", "ben@contoso.com", "--json"]);
    assert!(traced.stdout.contains("\"held\""), "{traced:#?}");
    order(&edge, &["release", "--destination", "relay:NAM"]);
    sink.wait_for(2);
    edge.wait_for_empty_queue();
    let verbs: Vec<Value> = audit(&edge).into_iter().map(|line| line["verb"].clone()).collect();
    assert_eq!(verbs, ["hold", "retry", "release"]);
}

#[test]
fn what_is_held_does_not_grow_old() {
    let edge = edge()
        .relay("NAM", free_address())
        .with("[queue]\nexpire_after = \"5s\"\ndelay_dsn_after = \"2s\"\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"")
        .start();
    // From the first moment, however slow this machine is.
    order(&edge, &["hold", "--sender", "anna@contoso.com", "--new"]);
    edge.client().deliver("anna@contoso.com", &["ben@contoso.com"], letter("kept"));
    until("it to be held", || (states(&edge) == ["held"]).then_some(()));
    holds_for("neither late nor over", Duration::from_secs(6), || {
        edge.mailbox("anna@contoso.com").is_empty() && states(&edge) == ["held"]
    });
    order(&edge, &["release", "--sender", "anna@contoso.com"]);
    // Its time goes on from where it stood: it is late, then over.
    let letters = edge.wait_for("anna@contoso.com", 2);
    let mut actions: Vec<String> =
        letters.iter().map(|letter| Report::of(letter).action("ben@contoso.com")).collect();
    actions.sort();
    assert_eq!(actions, ["delayed", "failed"]);
}

#[test]
fn a_hold_is_for_what_comes_later_too_until_it_is_released() {
    let sink = Sink::start(&[]);
    let mut edge = edge().relay("NAM", sink.address).start();
    let begun = order(&edge, &["hold", "--recipient", "bob@contoso.com", "--new"]);
    assert_eq!(begun["holds"], 1, "{begun}");
    for round in 1..=2 {
        edge.client().deliver("ann@sender.example", &["ben@contoso.com", "bob@contoso.com"], letter("both"));
        sink.wait_for(round);
        until("the other to be held", || (states(&edge) == vec!["held"; round]).then_some(()));
        edge.kill();
        edge.start();
    }
    let summary = queue(&edge, &["summary"]).json();
    assert_eq!(summary["holds"][0]["filter"]["recipient"], "bob@contoso.com", "{summary}");
    assert!(edge.command(&["queue", "summary"]).stdout.contains("recipient bob@contoso.com"));
    let released = order(&edge, &["release", "--recipient", "bob@contoso.com"]);
    assert_eq!((&released["messages"], &released["holds"]), (&2.into(), &1.into()), "{released}");
    sink.wait_for(4);
    edge.wait_for_empty_queue();
    edge.client().deliver("ann@sender.example", &["bob@contoso.com"], letter("free"));
    sink.wait_for(5);
    edge.wait_for_empty_queue();
}

#[test]
fn an_inline_store_does_not_get_past_a_hold() {
    let sink = Sink::start(&[]);
    let edge = edge().store(&[&sink.url()]).with("[region.EUR]\nmode = \"inline\"\ntls = \"off\"").start();
    order(&edge, &["hold", "--destination", "store:EUR", "--new"]);
    edge.client().deliver("ann@sender.example", &["anna@contoso.com"], letter("kept"));
    until("it to be held", || (states(&edge) == ["held"]).then_some(()));
    assert!(sink.taken().is_empty());
    order(&edge, &["release", "--destination", "store:EUR"]);
    sink.wait_for(1);
}

#[test]
fn a_bounce_tells_the_sender_why_and_survives_kill_9() {
    let mut edge = waiting(&[
        ("anna@contoso.com", &["ben@contoso.com", "bob@contoso.com"]),
        ("ann@sender.example", &["ben@contoso.com"]),
    ]);
    let words =
        ["bounce", "--sender", "anna@contoso.com", "--reason", "The site in Ohio is closed until Monday."];
    let bounced = order(&edge, &words);
    assert_eq!((&bounced["messages"], &bounced["recipients"]), (&1.into(), &2.into()), "{bounced}");
    edge.kill();
    edge.start();
    let notice = edge.wait_for("anna@contoso.com", 1).remove(0);
    let report = Report::of(&notice);
    assert_eq!(report.recipients(), 2);
    assert_eq!(report.action("ben@contoso.com"), "failed");
    assert_eq!(report.about("bob@contoso.com", "Status").as_deref(), Some("5.0.0"));
    assert!(report.words().contains("The site in Ohio is closed until Monday."), "{}", report.words());
    let rows = until("the other one alone", || Some(edge.queue()).filter(|rows| rows.len() == 1));
    assert_eq!(rows[0]["sender"], "ann@sender.example");
    // The kill may have come between its delivery and the record of that: it may repeat, but there is one.
    let notices = edge.mailbox("anna@contoso.com");
    let names: std::collections::BTreeSet<_> =
        notices.iter().map(|notice| notice.header("Message-ID")).collect();
    assert_eq!(names.len(), 1, "{notices:?}");
    let line = &audit(&edge)[0];
    assert_eq!((&line["verb"], &line["filter"]["sender"]), (&"bounce".into(), &"anna@contoso.com".into()));
    let me = format!("uid {}", nix::unistd::getuid());
    assert_eq!((&line["by"], &line["messages"]), (&me.into(), &1.into()), "{line}");
    assert!(line["detail"].as_str().is_some_and(|detail| detail.contains("Ohio")), "{line}");
}

#[test]
fn what_is_deleted_is_gone_and_nobody_hears_of_it() {
    let mut edge =
        waiting(&[("anna@contoso.com", &["ben@contoso.com"]), ("ida@contoso.com", &["bob@contoso.com"])]);
    let id = edge.queue()[0]["id"].as_str().expect("an id").to_owned();
    order(&edge, &["delete", &id]);
    edge.kill();
    edge.start();
    let rows = until("the other one", || Some(edge.queue()).filter(|rows| !rows.is_empty()));
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["recipients"][0], "bob@contoso.com");
    assert!(edge.log().contains("\"event\":\"removed\""));
    assert!(edge.mailbox("anna@contoso.com").is_empty());
    let line = &audit(&edge)[0];
    assert_eq!((&line["verb"], &line["ids"][0]), (&"delete".into(), &id.into()));
}

#[test]
fn of_a_message_to_two_only_the_one_that_is_deleted_is_told_as_deleted() {
    let edge = waiting(&[("anna@contoso.com", &["ben@contoso.com", "bob@contoso.com"])]);
    order(&edge, &["delete", "--recipient", "ben@contoso.com"]);
    let row = |address: &str| {
        let told = edge.command(&["trace", "--to", address, "--json"]);
        told.json().as_array().and_then(|rows| rows.first().cloned()).unwrap_or_default()
    };
    let gone =
        until("the one to be told", || Some(row("ben@contoso.com")).filter(|row| row["status"] == "deleted"));
    assert!(gone["next_attempt"].is_null(), "it is never tried again: {gone:#}");
    let stays = row("bob@contoso.com");
    assert!(stays["status"] == "deferred" || stays["status"] == "pending", "{stays:#}");
    assert_eq!(edge.queue()[0]["recipients"], serde_json::json!(["bob@contoso.com"]));
    let exceptions = until("the audit", || {
        let report = edge.command(&["report", "residency", "--domain", "contoso.com", "--json"]).json();
        let deleted = |it: &&Value| it["reason"] == "deleted";
        report["exceptions"].as_array().expect("a list").iter().find(deleted).cloned()
    });
    assert_eq!((&exceptions["what"], &exceptions["recipients"]), (&"not-delivered".into(), &1.into()));
}

#[test]
fn a_message_that_is_shown_tells_all_but_its_body() {
    let sink = Sink::start(&["-r", "RCPT", "-b", "452 4.2.2 Mailbox full"]);
    let edge = edge().relay("NAM", sink.address).start();
    let mut client = edge.client();
    client.expect("MAIL FROM:<anna@contoso.com> ENVID=shown", "250 2.1.0 Sender OK");
    client.expect(
        "RCPT TO:<ben@contoso.com> NOTIFY=FAILURE ORCPT=rfc822;b@contoso.com",
        "250 2.1.5 Recipient OK",
    );
    client.expect("RCPT TO:<ida@contoso.com>", "250 2.1.5 Recipient OK");
    assert!(client.data(letter("to be shown")).starts_with("250 2.6.0 "));
    let row = until("a deferral", || edge.queue().into_iter().find(|row| row["attempts"] == 1));
    edge.wait_for("ida@contoso.com", 1);
    let id = row["id"].as_str().expect("an id");
    let shown = order(&edge, &["show", id, "--headers"]);
    assert_eq!((&shown["sender"], &shown["envid"]), (&"anna@contoso.com".into(), &"shown".into()));
    let [ben, ida] = [&shown["recipients"][0], &shown["recipients"][1]];
    assert_eq!((&ben["state"], &ben["destination"]), (&"waiting".into(), &"relay:NAM".into()));
    assert_eq!((&ben["notify"], &ben["original"]), (&"FAILURE".into(), &"rfc822;b@contoso.com".into()));
    assert_eq!(ben["last_reply"]["code"], 452);
    assert_eq!(ben["last_reply"]["text"], "Mailbox full");
    assert!(ben["next_attempt"].is_string() && ben["expires"].is_string());
    assert_eq!(ida["state"], "done");
    let header = shown["header"].as_str().expect("asked for");
    assert!(header.contains("Subject: to be shown") && !header.contains("Hello."), "{header}");
    assert!(order(&edge, &["show", id])["header"].is_null());
    let words = edge.command(&["queue", "show", id, "--headers"]).stdout;
    assert!(words.contains("Mailbox full") && words.contains("Subject: to be shown"), "{words}");
}

#[test]
fn what_is_raised_goes_first_and_what_is_lowered_last_after_a_restart_too() {
    let at = free_address();
    let mut edge = edge().relay("NAM", at).with("[queue]\nconnections_per_next_hop = 1").start();
    let mut client = edge.client();
    let senders: Vec<String> = (0..6).map(|number| format!("s{number}@sender.example")).collect();
    for sender in &senders {
        client.deliver(sender, &["ben@contoso.com"], letter("waiting"));
    }
    until("all to wait", || (states(&edge) == ["waiting"; 6]).then_some(()));
    order(&edge, &["prioritize", "--sender", "s4@sender.example", "--priority", "high"]);
    order(&edge, &["prioritize", "--sender", "s0@sender.example", "--priority", "low"]);
    // All at once, so that none is on its way before the others are there.
    order(&edge, &["hold", "--destination", "relay:NAM"]);
    edge.kill();
    edge.start();
    until("all to be held", || (states(&edge) == ["held"; 6]).then_some(()));
    let raised = edge.queue().into_iter().find(|row| row["priority"] == "high").expect("one of them");
    assert_eq!(raised["sender"], "s4@sender.example");
    let sink = Sink::start_at(at, &[]);
    order(&edge, &["release", "--destination", "relay:NAM"]);
    sink.wait_for(6);
    let expected = ["s4", "s1", "s2", "s3", "s5", "s0"].map(|name| format!("{name}@sender.example"));
    assert_eq!(senders_at(&sink), expected);
}

#[test]
fn a_message_under_way_is_returned_when_its_attempt_is_over() {
    // A next hop that takes the connection and says nothing until it is let go.
    let silent = TcpListener::bind(free_address()).expect("a free address");
    let edge = edge().relay("NAM", silent.local_addr().expect("bound")).start();
    edge.client().deliver("anna@contoso.com", &["ben@contoso.com"], letter("under way"));
    let (stream, _) = silent.accept().expect("the edge comes");
    until("it to be in flight", || (states(&edge) == ["in flight"]).then_some(()));
    let bounced =
        order(&edge, &["bounce", "--recipient", "ben@contoso.com", "--reason", "No longer wanted."]);
    assert_eq!((&bounced["messages"], &bounced["under_way"]), (&1.into(), &1.into()), "{bounced}");
    assert_eq!(states(&edge), ["in flight"], "nothing is torn from a worker");
    drop((stream, silent));
    let report = Report::of(&edge.wait_for("anna@contoso.com", 1)[0]);
    assert_eq!(report.action("ben@contoso.com"), "failed");
    assert!(report.words().contains("No longer wanted."), "{}", report.words());
    edge.wait_for_empty_queue();
}

#[test]
fn a_message_under_way_that_arrives_is_not_returned() {
    let sink = Sink::start(&["-W", ".:2"]);
    let edge = edge().relay("NAM", sink.address).start();
    edge.client().deliver("anna@contoso.com", &["ben@contoso.com"], letter("on its way"));
    until("it to be in flight", || (states(&edge) == ["in flight"]).then_some(()));
    order(&edge, &["bounce", "--recipient", "ben@contoso.com"]);
    sink.wait_for(1);
    edge.wait_for_empty_queue();
    assert!(edge.mailbox("anna@contoso.com").is_empty(), "it arrived");
}

#[test]
fn what_cannot_be_audited_is_not_done() {
    let edge = waiting(&[("anna@contoso.com", &["ben@contoso.com"])]);
    fs::create_dir(edge.state().join("queue-audit.jsonl")).expect("our own folder");
    let said = queue(&edge, &["delete", "--sender", "anna@contoso.com"]);
    assert_eq!(said.code, 1, "{said:#?}");
    assert!(said.stdout.contains("nothing was changed"), "{said:#?}");
    assert_eq!(states(&edge), ["waiting"]);
}
