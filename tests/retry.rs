//! Retry: what happens to mail that cannot go on now, rules 80 to 89, in real time with short intervals.

mod world;

use std::time::Duration;

use mail_parser::{MessageParser, MimeHeaders};
use world::{
    Builder, CONTOSO, Edge, Hop, Letter, Says, Sink, Stopwatch, free_address, holds_for, letter, until,
};

const IMPATIENT: &str = "[queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"";
/// Nothing is retried within a test: what happens at once, happens at once.
const PATIENT: &str = "[queue]\nfirst_intervals = [\"15m\"]";

fn edge() -> Builder {
    Edge::builder("EUR").directory(CONTOSO)
}

/// The fields of the delivery-status part, one line each, and the words for people.
fn notice_parts(notice: &Letter) -> (String, String) {
    assert_eq!(notice.header("Return-Path").as_deref(), Some("<>"), "{notice:?}");
    let message = MessageParser::new().parse(&notice.0).expect("a notice is a message");
    let kind = message.content_type().expect("a type");
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
    let part = |subtype: &str| {
        let found = message.parts.iter().find(|part| {
            part.content_type()
                .is_some_and(|kind| kind.subtype().is_some_and(|is| is.eq_ignore_ascii_case(subtype)))
        });
        let found = found.unwrap_or_else(|| panic!("no {subtype} part in {notice:?}"));
        String::from_utf8_lossy(found.contents()).into_owned()
    };
    assert!(part("rfc822-headers").contains("Subject: "), "{notice:?}");
    (part("delivery-status").replace("\r\n\t", " ").replace("\r\n ", " "), part("plain"))
}

#[test]
fn rule_80_a_4xx_is_tried_again_until_it_goes() {
    let at = free_address();
    let edge = edge().relay("NAM", at).with(IMPATIENT).start();
    let refusing = Sink::start_at(at, &["-r", "RCPT"]);
    edge.client().deliver("ann@sender.example", &["ben@contoso.com"], letter("later"));
    until("two attempts", || (refusing.commands("RCPT").len() >= 2).then_some(()));
    let row = edge.queue().remove(0);
    assert!(row["last_reply"].as_str().is_some_and(|reply| reply.contains("450 4.3.0")), "{row}");
    drop(refusing);
    let healthy = Sink::start_at(at, &[]);
    assert_eq!(healthy.wait_for(1).len(), 1);
    edge.wait_for_empty_queue();
}

#[test]
fn rule_81_a_5xx_is_told_to_the_sender_at_once() {
    let sink = Sink::start(&["-f", "RCPT", "-B", "550 5.1.1 Nobody here"]);
    let edge = edge().relay("NAM", sink.address).with(PATIENT).start();
    let mut client = edge.client();
    client.expect("MAIL FROM:<anna@contoso.com> ENVID=QQ314159 RET=HDRS", "250 2.1.0 Sender OK");
    client.expect("RCPT TO:<ben@contoso.com> ORCPT=rfc822;benjamin@contoso.com", "250 2.1.5 Recipient OK");
    assert!(client.data(letter("nobody there")).starts_with("250 2.6.0 "));

    let notice = edge.wait_for("anna@contoso.com", 1).remove(0);
    let (status, words) = notice_parts(&notice);
    for field in [
        "Reporting-MTA: dns; edge1.eur.example.net",
        "Original-Envelope-Id: QQ314159",
        "Original-Recipient: rfc822;benjamin@contoso.com",
        "Final-Recipient: rfc822;ben@contoso.com",
        "Action: failed",
        "Status: 5.1.1",
        "Diagnostic-Code: smtp; 550 5.1.1 Nobody here",
    ] {
        assert!(status.lines().any(|line| line == field), "no '{field}' in\n{status}");
    }
    assert!(words.contains("ben@contoso.com") && words.contains("Nobody here"), "{words}");
    assert_eq!(notice.header("Auto-Submitted").as_deref(), Some("auto-replied"));
    edge.wait_for_empty_queue();
    assert_eq!(sink.commands("RCPT").len(), 1, "no retry");
}

#[test]
fn a_5xx_before_the_recipients_is_the_destinations_trouble() {
    let sink = Sink::start(&["-f", "CONNECT"]);
    let edge = edge().relay("NAM", sink.address).with(PATIENT).start();
    edge.client().deliver("anna@contoso.com", &["ben@contoso.com"], letter("closed today"));
    until("a deferral", || {
        edge.queue().first().is_some_and(|row| row["last_reply"].is_string()).then_some(())
    });
    assert!(edge.mailbox("anna@contoso.com").is_empty(), "no notice for what may still go");
}

#[test]
fn one_message_fails_for_one_recipient_and_arrives_for_the_other() {
    let sink = Sink::start(&["-f", "RCPT"]);
    let edge = edge().relay("NAM", sink.address).start();
    edge.client().deliver("anna@contoso.com", &["ida@contoso.com", "ben@contoso.com"], letter("half"));
    edge.wait_for("ida@contoso.com", 1);
    let (status, _) = notice_parts(&edge.wait_for("anna@contoso.com", 1)[0]);
    assert!(status.contains("ben@contoso.com") && !status.contains("ida@contoso.com"), "{status}");
}

#[test]
fn rule_83_what_is_too_old_goes_back_with_the_last_reply() {
    let sink = Sink::start(&["-r", "RCPT", "-b", "452 4.2.2 Mailbox full"]);
    let edge =
        edge().relay("NAM", sink.address).with(IMPATIENT).with("[queue]\nexpire_after = \"2s\"").start();
    edge.client().deliver("anna@contoso.com", &["ben@contoso.com"], letter("too old"));
    let (status, words) = notice_parts(&edge.wait_for("anna@contoso.com", 1)[0]);
    assert!(status.contains("Status: 5.4.300"), "{status}");
    assert!(status.contains("Diagnostic-Code: smtp; 452 4.2.2 Mailbox full"), "{status}");
    assert!(words.contains("Message expired"), "{words}");
    edge.wait_for_empty_queue();
}

#[test]
fn rule_83_each_recipient_is_told_of_with_its_own_reply_after_a_restart_too() {
    let hop = Hop::start(|asked| match asked {
        "RCPT TO:<ben@contoso.com>" => Says::This("450 4.2.1 Mailbox busy"),
        "RCPT TO:<bob@contoso.com>" => Says::This("451 4.7.1 Greylisted"),
        _ => Says::Usual,
    });
    // No second attempt: what is under way has no last reply.
    let patient = "[queue]\nfirst_intervals = [\"15m\"]\nmax_interval = \"60m\"";
    let mut edge = edge().relay("NAM", hop.address).with(patient).start();
    let mut client = edge.client();
    client.deliver("anna@contoso.com", &["ben@contoso.com", "bob@contoso.com"], letter("two reasons"));
    let id = until("a deferral", || {
        edge.queue().first().filter(|row| row["last_reply"].is_string()).map(|row| row["id"].clone())
    });
    let told = |edge: &Edge| {
        let words = ["queue", "show", id.as_str().expect("an id"), "--json"];
        let shown: serde_json::Value = serde_json::from_str(&edge.command(&words).stdout).expect("JSON");
        [0, 1].map(|index| shown["recipients"][index]["last_reply"]["text"].clone())
    };
    assert_eq!(told(&edge), ["Mailbox busy", "Greylisted"]);
    edge.kill();
    edge.start();
    assert_eq!(told(&edge), ["Mailbox busy", "Greylisted"]);
    edge.kill();
    edge.configure("[queue]\nexpire_after = \"1s\"\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"");
    edge.start();
    let (status, _) = notice_parts(&edge.wait_for("anna@contoso.com", 1)[0]);
    let of_each: Vec<&str> = status.split("Final-Recipient: ").skip(1).collect();
    assert!(
        of_each[0].starts_with("rfc822;ben@") && of_each[0].contains("450 4.2.1 Mailbox busy"),
        "{status}"
    );
    assert!(of_each[1].starts_with("rfc822;bob@") && of_each[1].contains("451 4.7.1 Greylisted"), "{status}");
}

#[test]
fn rule_83_holds_for_a_destination_that_never_answered() {
    let edge =
        edge().relay("NAM", free_address()).with(IMPATIENT).with("[queue]\nexpire_after = \"2s\"").start();
    edge.client().deliver("anna@contoso.com", &["ben@contoso.com", "bob@contoso.com"], letter("nobody home"));
    let (status, _) = notice_parts(&edge.wait_for("anna@contoso.com", 1)[0]);
    assert_eq!(status.matches("Status: 5.4.300").count(), 2, "one notice for both: {status}");
    edge.wait_for_empty_queue();
    assert_eq!(edge.mailbox("anna@contoso.com").len(), 1);
}

#[test]
fn rule_87_a_sender_learns_once_that_a_message_is_late_if_it_wants_to() {
    let edge = edge()
        .relay("NAM", free_address())
        .with(IMPATIENT)
        .with("[queue]\ndelay_dsn_after = \"1s\"\nexpire_after = \"6s\"")
        .start();
    let mut client = edge.client();
    client.expect("MAIL FROM:<anna@contoso.com> ENVID=late", "250 2.1.0 Sender OK");
    client.expect("RCPT TO:<ben@contoso.com>", "250 2.1.5 Recipient OK");
    client.expect("RCPT TO:<bob@contoso.com> NOTIFY=FAILURE", "250 2.1.5 Recipient OK");
    assert!(client.data(letter("late")).starts_with("250 2.6.0 "));
    let notices = edge.wait_for("anna@contoso.com", 2);
    let statuses: Vec<String> = notices.iter().map(|notice| notice_parts(notice).0).collect();
    let delayed: Vec<&String> = statuses.iter().filter(|status| status.contains("Action: delayed")).collect();
    assert_eq!(delayed.len(), 1, "{statuses:?}");
    assert!(delayed[0].contains("ben@contoso.com") && !delayed[0].contains("bob@contoso.com"), "{delayed:?}");
    assert!(delayed[0].contains("Will-Retry-Until: ") && delayed[0].contains("Original-Envelope-Id: late"));
    edge.wait_for_empty_queue();
    assert_eq!(edge.mailbox("anna@contoso.com").len(), 2, "one that it is late, one that it is over");
}

#[test]
fn rule_84_a_destination_that_comes_back_gets_its_backlog_in_the_order_received() {
    let at = free_address();
    let edge = edge().relay("NAM", at).with(IMPATIENT).start();
    let mut client = edge.client();
    let senders: Vec<String> = (0..200).map(|number| format!("s{number}@sender.example")).collect();
    for sender in &senders {
        client.deliver(sender, &["ben@contoso.com"], letter("waiting"));
    }
    let sink = Sink::start_at(at, &[]);
    sink.wait_for(senders.len());
    assert_eq!(arrived(&sink), senders);
}

fn arrived(sink: &Sink) -> Vec<String> {
    let transactions = sink.commands("MAIL FROM:<s");
    transactions.iter().filter_map(|command| Some(command.split(['<', '>']).nth(1)?.to_owned())).collect()
}

#[test]
fn rule_84_after_a_restart_too_the_backlog_goes_in_the_order_received() {
    let at = free_address();
    let mut edge = edge().relay("NAM", at).start();
    let mut client = edge.client();
    let senders: Vec<String> = (0..30).map(|number| format!("s{number}@sender.example")).collect();
    for sender in &senders {
        client.deliver(sender, &["ben@contoso.com", "bob@contoso.com"], letter("waiting"));
    }
    edge.kill();
    let sink = Sink::start_at(at, &[]);
    edge.start();
    sink.wait_for(senders.len());
    assert_eq!(arrived(&sink), senders, "each once, for both of its recipients");
}

#[test]
fn rule_84_a_dead_destination_is_probed_by_one_message_and_slows_nobody() {
    let sink = Sink::start(&["-Q", "CONNECT"]);
    let edge = edge().relay("NAM", sink.address).with("[queue]\nfirst_intervals = [\"2s\"]").start();
    let mut client = edge.client();
    for _ in 0..20 {
        client.deliver("ann@sender.example", &["ben@contoso.com"], letter("to the dead"));
        client.deliver("ann@sender.example", &["anna@contoso.com"], letter("to the living"));
    }
    edge.wait_for("anna@contoso.com", 20);
    until("the lane to be down", || {
        edge.command(&["queue", "summary", "--json"]).stdout.contains("down").then_some(())
    });
    let before = sink.connections();
    let watch = Stopwatch::start();
    holds_for("one probe an interval", Duration::from_secs(5), || {
        // Counted before the clock is looked at: what comes between is no probe too many.
        let connections = sink.connections();
        let intervals = usize::try_from(watch.elapsed().as_secs() / 2).expect("a few");
        connections <= before + intervals + 1
    });
    until("a probe at all", || (sink.connections() > before).then_some(()));
    assert_eq!(edge.queue().len(), 20);
}

#[test]
fn rule_85_a_null_sender_is_told_nothing() {
    let sink = Sink::start(&["-f", "RCPT"]);
    let edge = edge().relay("NAM", sink.address).start();
    let mut client = edge.client();
    client.deliver("", &["ben@contoso.com"], letter("a bounce of a bounce"));
    until("the log to tell", || edge.log().contains("ben@contoso.com").then_some(()));
    edge.wait_for_empty_queue();
    assert_eq!(sink.commands("RCPT").len(), 1);
    client.deliver("ann@sender.example", &["anna@contoso.com"], letter("the only one"));
    assert_eq!(edge.wait_for("anna@contoso.com", 1).len(), 1);
    assert!(edge.queue().is_empty(), "nothing was made of it: {:?}", edge.queue());
}

#[test]
fn rule_86_attempts_and_expiry_survive_kill_9() {
    let sink = Sink::start(&["-r", "RCPT", "-b", "452 4.2.2 Mailbox full"]);
    let mut edge = edge().relay("NAM", sink.address).with(IMPATIENT).start();
    edge.client().deliver("anna@contoso.com", &["ben@contoso.com"], letter("patient"));
    let attempts = |edge: &Edge| edge.queue().first().and_then(|row| row["attempts"].as_u64()).unwrap_or(0);
    let before = until("three attempts", || Some(attempts(&edge)).filter(|count| *count >= 3));
    edge.kill();
    edge.configure("[queue]\nfirst_intervals = [\"15m\"]\nmax_interval = \"60m\"");
    edge.start();
    let after = until("the message to be there again", || Some(attempts(&edge)).filter(|count| *count > 0));
    // The last outcome may not have reached the disk: an attempt may be repeated, never a message lost.
    assert!(after + 1 >= before, "{after} attempts after the restart, {before} before");
    edge.kill();
    edge.configure("[queue]\nexpire_after = \"1s\"\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"");
    edge.start();
    let (status, _) = notice_parts(&edge.wait_for("anna@contoso.com", 1)[0]);
    assert!(status.contains("Status: 5.4.300") && status.contains("452 4.2.2"), "{status}");
}

#[test]
fn rule_88_recipients_over_a_next_hops_limit_go_in_a_new_transaction_at_once() {
    let nam = Edge::builder("NAM")
        .directory(CONTOSO)
        .with("[limits]\nrecipients_per_message = 1\n[region.EUR]\nrelay = [\"smtp://127.0.0.1:1\"]\npeers = [\"127.0.0.0/8\"]")
        .start();
    let edge = edge().relay("NAM", nam.address).with(PATIENT).start();
    edge.client().deliver(
        "ann@sender.example",
        &["ben@contoso.com", "bob@contoso.com"],
        letter("one by one"),
    );
    nam.wait_for("ben@contoso.com", 1);
    nam.wait_for("bob@contoso.com", 1);
    edge.wait_for_empty_queue();
}

#[test]
fn rule_88_only_when_somebody_was_taken() {
    let sink = Sink::start(&["-r", "RCPT", "-b", "452 4.5.3 Too many recipients"]);
    let edge = edge().relay("NAM", sink.address).with(PATIENT).start();
    edge.client().deliver("ann@sender.example", &["ben@contoso.com", "bob@contoso.com"], letter("none"));
    until("a deferral", || {
        edge.queue().first().is_some_and(|row| row["last_reply"].is_string()).then_some(())
    });
    let said = sink.commands("RCPT").len();
    holds_for("no attempt before its time", Duration::from_millis(500), || {
        sink.commands("RCPT").len() == said
    });
    assert!(said <= 2, "one transaction");
}

#[test]
fn rule_89_the_way_is_decided_again_before_each_attempt() {
    let edge = edge().relay("NAM", free_address()).with(IMPATIENT).start();
    edge.client().deliver("ann@sender.example", &["ben@contoso.com"], letter("moving"));
    until("a deferral", || {
        edge.queue().first().is_some_and(|row| row["last_reply"].is_string()).then_some(())
    });
    edge.write_directory(&CONTOSO.replace(
        "\"NAM\"\n\n[[tenant.user]]\naddress = \"bob",
        "\"EUR\"\n\n[[tenant.user]]\naddress = \"bob",
    ));
    edge.reload();
    edge.wait_for("ben@contoso.com", 1);
    edge.wait_for_empty_queue();
    // The trace tells the home it went to, not the one it was accepted for.
    let row = until("its row to be delivered", || {
        let rows = edge.command(&["trace", "--to", "ben@contoso.com", "--json"]).json();
        rows[0]["status"].eq("delivered").then(|| rows[0].clone())
    });
    assert_eq!((&row["region"], &row["next_hop"]), (&"EUR".into(), &"store:EUR".into()), "{row:#}");
}

#[test]
fn a_slow_store_keeps_its_own_mail_waiting_and_nobody_elses() {
    let slow = Sink::start(&["-W", ".:3"]);
    let edge = edge().relay("NAM", slow.address).start();
    let mut client = edge.client();
    client.deliver("ann@sender.example", &["ben@contoso.com"], letter("slow"));
    client.deliver("ann@sender.example", &["anna@contoso.com"], letter("fast"));
    edge.wait_for("anna@contoso.com", 1);
    assert!(slow.taken().len() <= 1);
    edge.wait_for_empty_queue();
    assert_eq!(slow.taken().len(), 1);
}

#[test]
fn a_message_that_a_next_hop_keeps_unanswered_holds_up_none_of_the_others() {
    let hop = Hop::start(|asked| match asked {
        ". RCPT TO:<ben@contoso.com>" => Says::Nothing,
        _ => Says::Usual,
    });
    let edge = edge().relay("NAM", hop.address).start();
    let mut client = edge.client();
    client.deliver("ann@sender.example", &["ben@contoso.com"], letter("unanswered"));
    until("the message in flight", || edge.queue().into_iter().find(|row| row["state"] == "in flight"));
    for _ in 0..3 {
        client.deliver("ann@sender.example", &["bob@contoso.com"], letter("on its way"));
    }
    assert_eq!(hop.wait_for(3), ["RCPT TO:<bob@contoso.com>"; 3]);
    assert_eq!(edge.queue().len(), 1);
}

#[test]
fn a_store_that_hangs_up_in_the_middle_gets_it_again() {
    let at = free_address();
    let edge = edge().relay("NAM", at).with(IMPATIENT).start();
    let closing = Sink::start_at(at, &["-q", "DATA"]);
    edge.client().deliver("ann@sender.example", &["ben@contoso.com"], letter("cut off"));
    until("an attempt", || closing.commands("DATA").first().cloned());
    drop(closing);
    let healthy = Sink::start_at(at, &[]);
    assert_eq!(healthy.wait_for(1).len(), 1);
    edge.wait_for_empty_queue();
}

#[test]
fn a_message_in_flight_is_listed_as_such() {
    // A next hop that takes the connection and says nothing.
    let silent = std::net::TcpListener::bind(free_address()).expect("a free address");
    let edge = edge().relay("NAM", silent.local_addr().expect("bound")).start();
    edge.client().deliver("ann@sender.example", &["ben@contoso.com"], letter("under way"));
    let row =
        until("the message in flight", || edge.queue().into_iter().find(|row| row["state"] == "in flight"));
    assert_eq!(row["recipients"][0], "ben@contoso.com");
}
