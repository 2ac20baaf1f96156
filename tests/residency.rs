//! Residency: the audit says where every message was, and shows when somebody has been at it.

mod world;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use world::{CONTOSO, Edge, free_address, letter, until};

fn residency(edge: &Edge, arguments: &[&str]) -> Value {
    let told = edge.command(&[&["report", "residency", "--json"], arguments].concat());
    assert_eq!(told.code, 0, "{told:#?}");
    told.json()
}

fn verify(edge: &Edge, arguments: &[&str]) -> (i32, Value) {
    let told = edge.command(&[&["report", "verify", "--json"], arguments].concat());
    (told.code, told.json())
}

fn first_file(edge: &Edge) -> PathBuf {
    edge.state().join("audit").join("audit-000000000000.log")
}

#[test]
fn two_regions_tell_what_each_received_stored_and_passed_on() {
    let eur = Edge::builder("EUR");
    let nam = Edge::builder("NAM");
    let (eur_at, nam_at) = (eur.address(), nam.address());
    let nam =
        nam.directory(CONTOSO).with("[region.EUR]\npeers = [\"127.0.0.0/8\"]").relay("EUR", eur_at).start();
    let eur = eur.directory(CONTOSO).relay("NAM", nam_at).start();
    let mut client = eur.client();
    client.deliver("ann@sender.example", &["anna@contoso.com"], letter("stays"));
    client.deliver("ann@sender.example", &["anna@contoso.com", "ben@contoso.com"], letter("is shared"));
    nam.wait_for("ben@contoso.com", 1);
    eur.wait_for("anna@contoso.com", 2);
    let report = until("three deliveries in EUR's audit", || {
        let report = residency(&eur, &[]);
        (report["passed_on"]["EUR"] == 2 && report["passed_on"]["NAM"] == 1).then_some(report)
    });
    assert_eq!(
        (&report["region"], &report["messages"]["received"]),
        (&"EUR".into(), &2.into()),
        "{report:#}"
    );
    assert_eq!(report["messages"]["stored"], 2, "{report:#}");
    assert_eq!(report["in_region_routing"]["applied"], 2, "{report:#}");
    assert_eq!(report["in_region_routing"]["pdl-mismatch"], 1, "{report:#}");
    let exceptions = report["exceptions"].as_array().expect("a list");
    let [only] = exceptions.as_slice() else { panic!("{report:#}") };
    assert_eq!(
        (&only["what"], &only["home"], &only["reason"], &only["recipients"]),
        (&"stored-elsewhere".into(), &"NAM".into(), &"pdl-mismatch".into(), &1.into()),
        "{report:#}"
    );
    let there = until("NAM's audit", || {
        let report = residency(&nam, &[]);
        (report["passed_on"]["NAM"] == 1).then_some(report)
    });
    assert_eq!(there["messages"]["received"], 1, "{there:#}");
    // It has come home, and by a way that in-region routing would have spared it: that alone is told there.
    let exceptions = there["exceptions"].as_array().expect("a list");
    let [only] = exceptions.as_slice() else { panic!("{there:#}") };
    assert_eq!(
        (&only["what"], &only["reason"]),
        (&"in-region-routing".into(), &"pdl-mismatch".into()),
        "{there:#}"
    );
    assert_eq!(residency(&eur, &["--domain", "elsewhere.example"])["messages"]["received"], 0);
    assert_eq!(residency(&eur, &["--domain", "CONTOSO.com", "--since", "1h"])["messages"]["received"], 2);
    let text = fs::read_to_string(first_file(&eur)).expect("the chain");
    assert!(text.contains("contoso.com") && !text.contains("anna") && !text.contains("ann@"), "no addresses");
    for edge in [&eur, &nam] {
        assert_eq!(verify(edge, &[]).0, 0, "while the daemon runs");
    }
}

#[test]
fn every_kind_of_tampering_is_found_and_named() {
    let mut edge = Edge::builder("EUR").directory(CONTOSO).start();
    let mut client = edge.client();
    for number in 0..5 {
        client.deliver("ann@sender.example", &["anna@contoso.com"], letter(&format!("number {number}")));
    }
    edge.wait_for("anna@contoso.com", 5);
    drop(client);
    edge.stop();
    let (code, verdict) = verify(&edge, &[]);
    assert_eq!((code, &verdict["intact"]), (0, &true.into()), "{verdict:#}");
    let head = verdict["head"].as_str().expect("a hash").to_owned();
    assert_eq!(verify(&edge, &["--head", &head[..16]]).0, 0);
    assert_eq!(verify(&edge, &["--head", "00000000deadbeef"]).0, 1, "a hash that was noted elsewhere");
    let whole = fs::read_to_string(first_file(&edge)).expect("the chain");
    let lines: Vec<&str> = whole.lines().collect();
    assert!(lines.len() > 10, "{} records", lines.len());
    let join = |lines: Vec<String>| lines.join("\n") + "\n";
    let owned = || lines.iter().map(ToString::to_string).collect::<Vec<String>>();
    let edited = {
        let mut lines = owned();
        lines[4] = lines[4].replacen("contoso", "fabrikam", 1);
        join(lines)
    };
    // A hash is written in lower case: one bit makes another letter of it, and the same number.
    let bent = {
        let mut lines = owned();
        let at = lines[4][..64].find(|digit: char| digit.is_ascii_alphabetic()).expect("64 digits");
        let letter = lines[4][at..=at].to_uppercase();
        lines[4].replace_range(at..=at, &letter);
        join(lines)
    };
    let removed = {
        let mut lines = owned();
        lines.remove(4);
        join(lines)
    };
    let swapped = {
        let mut lines = owned();
        lines.swap(4, 5);
        join(lines)
    };
    let truncated = join(owned()[..lines.len() - 3].to_vec());
    let torn = whole[..whole.len() - 20].to_owned();
    for (text, what, n) in [
        (edited, "edited", 4),
        (bent, "unreadable", 4),
        (removed, "removed", 4),
        (swapped, "reordered", 4),
        (truncated, "truncated", lines.len() - 3),
        (torn, "truncated", lines.len() - 1),
    ] {
        fs::write(first_file(&edge), text).expect("our own folder");
        let (code, verdict) = verify(&edge, &[]);
        assert_eq!((code, &verdict["bad"]["what"]), (1, &what.into()), "{verdict:#}");
        assert_eq!(verdict["bad"]["n"], n, "{verdict:#}");
    }
    fs::write(first_file(&edge), &whole).expect("our own folder");
    assert_eq!(verify(&edge, &[]).0, 0);
}

#[test]
fn a_start_does_not_cover_up_that_the_end_of_the_chain_is_gone() {
    for kept in [3, 0] {
        let mut edge = Edge::builder("EUR").directory(CONTOSO).start();
        edge.client().deliver("ann@sender.example", &["anna@contoso.com"], letter("one"));
        edge.wait_for("anna@contoso.com", 1);
        edge.stop();
        let whole = fs::read_to_string(first_file(&edge)).expect("the chain");
        let total = whole.lines().count();
        assert!(total > kept + 1, "{whole}");
        if kept == 0 {
            fs::remove_file(first_file(&edge)).expect("our own folder");
        } else {
            let lines: Vec<&str> = whole.lines().take(kept).collect();
            fs::write(first_file(&edge), lines.join("\n") + "\n").expect("our own folder");
        }
        edge.start();
        for moment in ["while it runs", "after a stop"] {
            let (code, verdict) = verify(&edge, &[]);
            assert_eq!((code, &verdict["bad"]["what"]), (1, &"truncated".into()), "{moment}: {verdict:#}");
            let says = verdict["bad"]["says"].as_str().unwrap_or_default();
            assert!(says.contains(&format!("had come to record {} once", total - 1)), "{says}");
            if moment == "while it runs" {
                edge.stop();
            }
        }
        fs::remove_dir_all(edge.state().join("audit")).expect("our own folder");
        let (code, verdict) = verify(&edge, &[]);
        assert_eq!((code, &verdict["bad"]["what"]), (1, &"removed".into()), "all of it is gone: {verdict:#}");
    }
}

#[test]
fn after_a_kill_the_chain_goes_on_and_what_it_lacked_is_told_from_the_spool() {
    let at = free_address();
    let mut edge = Edge::builder("EUR").directory(CONTOSO).relay("NAM", at).start();
    let mut client = edge.client();
    let mut ids = Vec::new();
    for number in 0..20 {
        client.envelope("ann@sender.example", &["ben@contoso.com"]);
        let accepted = client.data(letter(&format!("number {number}")));
        ids.push(accepted.split(' ').nth(2).expect("an id").to_owned());
    }
    edge.kill();
    edge.start();
    let text = until("every message in the chain", || {
        let text = fs::read_to_string(first_file(&edge)).ok()?;
        ids.iter().all(|id| text.contains(id.as_str())).then_some(text)
    });
    for id in &ids {
        let told = text
            .lines()
            .filter(|line| line.contains(id.as_str()))
            .filter(|line| line.contains("\"received\"") || line.contains("\"recovered\""))
            .count();
        assert_eq!(told, 1, "{id} is told once");
    }
    let (code, verdict) = verify(&edge, &[]);
    assert_eq!(code, 0, "{verdict:#}");
    edge.stop();
    assert_eq!(verify(&edge, &[]).0, 0);
}

#[test]
fn what_was_on_disk_and_then_refused_is_told_and_what_is_in_transit_never_is_there() {
    let large = || letter("needle") + &format!("{}\r\n", "0123456789".repeat(90)).repeat(3_000);
    let at = free_address();
    let builder = Edge::builder("EUR").directory(CONTOSO).relay("NAM", at);
    let mail = builder.maildir();
    let edge = builder
        .store(&[&format!("maildir://{}", mail.display())])
        .with("[region.EUR]\nmode = \"inline\"\n[routing]\ntransit = \"inline\"")
        .start();
    // A Maildir takes a message as a whole: this one goes to the disk until it is, and then is none.
    let refuse = |recipient: &str| {
        let mut client = edge.client();
        client.envelope("ann@sender.example", &[recipient]);
        let said = client.data(large() + "a bare\nline feed\r\n");
        assert!(said.starts_with("550 5.6.11 "), "{said}");
    };
    refuse("anna@contoso.com");
    let report = until("the audit to tell of it", || {
        let report = residency(&edge, &[]);
        (report["messages"]["rested"] == 1).then_some(report)
    });
    assert_eq!(report["messages"]["received"], 0, "{report:#}");
    assert!(report["exceptions"].as_array().is_some_and(Vec::is_empty), "its home is here: {report:#}");
    // One that the client breaks off.
    let mut client = edge.client();
    client.envelope("ann@sender.example", &["ida@contoso.com"]);
    assert!(client.say("DATA").starts_with("354 "));
    client.send(large());
    drop(client);
    until("the one that was broken off", || (residency(&edge, &[])["messages"]["rested"] == 2).then_some(()));
    // For another region: let go of in memory, whatever becomes of it.
    refuse("ben@contoso.com");
    let mut client = edge.client();
    client.deliver("ann@sender.example", &["anna@contoso.com"], letter("the last one"));
    let report = until("the last one in the audit", || {
        let report = residency(&edge, &[]);
        (report["messages"]["received"] == 1).then_some(report)
    });
    assert_eq!(
        (&report["messages"]["rested"], &report["messages"]["stored"], &report["messages"]["streamed"]),
        (&2.into(), &0.into(), &1.into()),
        "{report:#}"
    );
    assert_eq!(verify(&edge, &[]).0, 0);
}
