//! Inline relay: a message goes on while it comes in, the next hop's verdict becomes ours, and nothing rests
//! on the edge's disk (rule 66, section 6).

mod world;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use world::{Builder, CONTOSO, Dovecot, Edge, Senders, Sink, free_address, letter, until};

const TAKEN: &str = "Taken by the next hop";
const QUEUED: &str = "Queued mail for delivery";
const NO_ROUTE: &str = "451 4.4.3 Temporary server error. Please try again later ATTR55.1";

/// An edge in EUR whose store takes mail inline.
struct Inline {
    edge: Edge,
}

fn builder(store: &str) -> Builder {
    Edge::builder("EUR").directory(CONTOSO).store(&[store]).with(
        "[region.EUR]\nmode = \"inline\"\ntls = \"off\"\n\
         [queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"\n[deadlines]\ninline = \"1s\"",
    )
}

impl Inline {
    fn start(store: &str) -> Self {
        Self { edge: builder(store).start() }
    }

    /// What the disk has seen: messages in the spool, syncs, octets written.
    fn disk(&self) -> [u64; 3] {
        ["spool_messages", "spool_syncs", "spool_written_bytes"].map(|name| self.edge.metric(name))
    }

    fn counts(&self) -> (u64, u64) {
        (self.edge.metric("inline_relayed_total"), self.edge.metric("inline_fell_back_total"))
    }
}

/// Whether any file below the state directory holds these bytes.
fn is_on_disk(folder: &Path, needle: &str) -> bool {
    fs::read_dir(folder).expect("a readable folder").any(|entry| {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            return is_on_disk(&path, needle);
        }
        let bytes = fs::read(&path).unwrap_or_default();
        bytes.windows(needle.len()).any(|part| part == needle.as_bytes())
    })
}

fn large(subject: &str) -> String {
    letter(subject) + &format!("{}\r\n", "0123456789".repeat(90)).repeat(3_000)
}

fn send(edge: &Edge, to: &[&str], message: &str) -> String {
    let mut client = edge.client();
    client.envelope("ann@sender.example", to);
    client.data(message)
}

#[test]
fn what_the_store_takes_never_touches_the_disk() {
    let sink = Sink::start(&[]);
    let inline = Inline::start(&sink.url());
    let before = inline.disk();
    let mut client = inline.edge.client();
    for number in 1..=5 {
        client.envelope("ann@sender.example", &["anna@contoso.com", "ida@contoso.com"]);
        let taken = client.data(letter(&format!("number {number}")) + ".dots\r\n..and more\r\n");
        assert!(taken.starts_with("250 2.6.0 ") && taken.ends_with(TAKEN), "{taken}");
        assert_eq!(sink.taken().len(), number, "250 is said when the store has it");
    }
    let kept = sink.taken().remove(0);
    assert_eq!(kept.recipients.len(), 2, "{kept:?}");
    assert_eq!(kept.message.headers("Received").len(), 1, "{kept:?}");
    assert!(kept.message.text().contains("\n.dots\n..and more\n"), "{kept:?}");
    assert_eq!(inline.disk(), before);
    assert_eq!(before[0], 0);
    assert_eq!(inline.counts(), (5, 0));
    assert_eq!(sink.connections(), 1, "one connection serves many messages");
}

#[test]
fn the_body_goes_on_while_it_comes_in() {
    let sink = Sink::start(&[]);
    let inline = Inline::start(&sink.url());
    let mut client = inline.edge.client();
    client.envelope("ann@sender.example", &["anna@contoso.com"]);
    assert!(client.say("DATA").starts_with("354 "));
    client.send(letter("in two parts"));
    until("the store to be told", || (!sink.commands("DATA").is_empty()).then_some(()));
    client.send("the second part\r\n.\r\n");
    let taken = client.reply();
    assert!(taken.ends_with(TAKEN), "{taken}");
    assert!(sink.wait_for(1)[0].message.text().contains("the second part"));
}

#[test]
fn chunks_go_on_as_well() {
    let sink = Sink::start(&[]);
    let inline = Inline::start(&sink.url());
    let mut client = inline.edge.client();
    client.envelope("ann@sender.example", &["anna@contoso.com"]);
    let (first, last) = (letter("in chunks"), "the last chunk\r\n");
    client.send(format!("BDAT {}\r\n{first}", first.len()));
    assert!(client.reply().starts_with("250 2.0.0 "));
    client.send(format!("BDAT {} LAST\r\n{last}", last.len()));
    let taken = client.reply();
    assert!(taken.ends_with(TAKEN), "{taken}");
    assert!(sink.wait_for(1)[0].message.text().contains("the last chunk"));
}

#[test]
fn a_maildir_is_written_without_the_spool() {
    let builder = builder("maildir://unused");
    let mail = builder.maildir();
    let inline = Inline { edge: builder.store(&[&format!("maildir://{}", mail.display())]).start() };
    let before = inline.disk();
    let taken = send(&inline.edge, &["anna@contoso.com"], &letter("to a tree"));
    assert!(taken.ends_with(TAKEN), "{taken}");
    let kept = inline.edge.mailbox("anna@contoso.com").remove(0);
    assert_eq!(kept.header("Return-Path").as_deref(), Some("<ann@sender.example>"));
    assert_eq!(inline.disk(), before);
}

#[test]
fn a_store_that_is_down_is_not_noticed() {
    let at = free_address();
    let inline = Inline::start(&format!("smtp://{at}"));
    let taken = send(&inline.edge, &["anna@contoso.com"], &letter("while it is down"));
    assert!(taken.starts_with("250 2.6.0 ") && taken.ends_with(QUEUED), "{taken}");
    assert_eq!(inline.disk()[0], 1);
    assert_eq!(inline.counts(), (0, 1));
    let sink = Sink::start_at(at, &[]);
    assert_eq!(sink.wait_for(1).len(), 1);
    inline.edge.wait_for_empty_queue();
    until("inline again", || {
        send(&inline.edge, &["anna@contoso.com"], &letter("it is back")).ends_with(TAKEN).then_some(())
    });
}

#[test]
fn the_verdict_of_the_store_becomes_ours() {
    for (options, expected) in [
        (&["-r", "RCPT", "-b", "450 4.2.1 mailbox busy"][..], "450 4.2.1 mailbox busy"),
        (&["-f", "RCPT", "-B", "550 5.1.1 nobody of that name"], "550 5.1.1 nobody of that name"),
        (&["-r", "DATA", "-b", "452 4.2.2 mailbox full"], "452 4.2.2 mailbox full"),
        (&["-f", "DATA", "-B", "554 5.2.0 no data"], "554 5.2.0 no data"),
        (&["-r", ".", "-b", "451 4.7.1 greylisted"], "451 4.7.1 greylisted"),
        (&["-f", ".", "-B", "550 5.7.1 spam"], "550 5.7.1 spam"),
        // Code and status disagree, or there is no status: the code decides.
        (&["-f", ".", "-B", "550 4.7.1 confused"], "550 5.0.0 4.7.1 confused"),
        (&["-f", ".", "-B", "571 no status"], "571 5.0.0 no status"),
    ] {
        let sink = Sink::start(options);
        let inline = Inline::start(&sink.url());
        let before = inline.disk();
        for recipients in [&["anna@contoso.com"][..], &["anna@contoso.com", "ida@contoso.com"]] {
            let said = send(&inline.edge, recipients, &letter("to be judged"));
            assert_eq!(said, expected, "{options:?}");
        }
        let said = send(&inline.edge, &["anna@contoso.com"], &large("to be judged at length"));
        assert_eq!(said, expected, "{options:?}");
        assert_eq!(inline.disk(), before, "{options:?}");
        assert_eq!(inline.counts(), (0, 0), "{options:?}");
    }
}

#[test]
fn what_is_no_verdict_on_the_message_leads_to_the_spool() {
    for options in [
        &["-q", "CONNECT"][..],
        &["-f", "CONNECT"],
        &["-Q", "EHLO"],
        &["-f", "MAIL"],
        &["-Q", "RCPT"],
        &["-q", "RCPT"],
        &["-q", "DATA"],
        &["-q", "."],
        &["-Q", "."],
    ] {
        let sink = Sink::start(options);
        let inline = Inline::start(&sink.url());
        let said = send(&inline.edge, &["anna@contoso.com"], &letter("to be kept"));
        assert!(said.ends_with(QUEUED), "{options:?}: {said}");
        assert_eq!(inline.disk()[0], 1, "{options:?}");
        assert_eq!(inline.counts(), (0, 1), "{options:?}");
    }
}

#[test]
fn a_store_that_hangs_costs_one_client_its_patience() {
    for options in [&["-W", "EHLO:60"][..], &["-W", "RCPT:60"], &["-W", ".:60"]] {
        let sink = Sink::start(options);
        let inline = Inline::start(&sink.url());
        let said = send(&inline.edge, &["anna@contoso.com"], &letter("to be kept"));
        assert!(said.ends_with(QUEUED), "{options:?}: {said}");
        until("the queue's attempt", || (sink.connections() >= 2).then_some(()));
        // The next one is not made to wait: no connection is made for it before it is queued.
        let said = send(&inline.edge, &["anna@contoso.com"], &letter("at once"));
        assert!(said.ends_with(QUEUED), "{options:?}: {said}");
        assert_eq!(inline.counts(), (0, 2), "{options:?}");
        assert_eq!(inline.disk()[0], 2, "{options:?}");
    }
}

#[test]
fn a_store_that_dies_in_the_middle_is_not_noticed() {
    let at = free_address();
    let sink = Sink::start_at(at, &[]);
    let inline = Inline::start(&sink.url());
    let mut client = inline.edge.client();
    client.envelope("ann@sender.example", &["anna@contoso.com"]);
    assert!(client.say("DATA").starts_with("354 "));
    client.send(letter("the first part"));
    until("the store to be told", || (!sink.commands("DATA").is_empty()).then_some(()));
    drop(sink);
    client.send("the second part\r\n");
    client.send(".\r\n");
    let taken = client.reply();
    assert!(taken.ends_with(QUEUED), "{taken}");
    let sink = Sink::start_at(at, &[]);
    let text = sink.wait_for(1)[0].message.text();
    assert!(text.contains("the first part") && text.contains("the second part"), "{text}");
}

#[test]
fn slow_clients_hold_no_more_than_their_connections() {
    let sink = Sink::start(&[]);
    let builder = builder(&sink.url());
    let inline = Inline { edge: builder.with("[queue]\nconnections_per_next_hop = 1").start() };
    let slow = || {
        let mut slow = inline.edge.client();
        slow.envelope("ann@sender.example", &["anna@contoso.com"]);
        assert!(slow.say("DATA").starts_with("354 "));
        slow.send(letter("so far"));
        slow
    };
    let mut first = slow();
    until("the store to be told", || (sink.commands("DATA").len() == 1).then_some(()));
    let said = send(&inline.edge, &["anna@contoso.com"], &letter("in between"));
    assert!(said.ends_with(QUEUED), "{said}");
    first.send(".\r\n");
    let said = first.reply();
    assert!(said.ends_with(TAKEN), "{said}");
    assert_eq!(inline.counts(), (1, 1));

    // A client that hangs up leaves nothing behind: neither its connection nor its message.
    drop(slow());
    until("room again", || {
        send(&inline.edge, &["anna@contoso.com"], &letter("afterwards")).ends_with(TAKEN).then_some(())
    });
    inline.edge.wait_for_empty_queue();
    let subjects: Vec<_> = sink.taken().iter().map(|taken| world::subject_of(&taken.message)).collect();
    assert_eq!(subjects.iter().filter(|subject| *subject == "so far").count(), 1, "{subjects:?}");
}

#[test]
fn a_large_body_passes_without_a_copy_and_is_refused_for_now_when_the_store_fails() {
    let sink = Sink::start(&[]);
    let inline = Inline::start(&sink.url());
    let before = inline.disk();
    let message = large("a large one");
    let said = send(&inline.edge, &["anna@contoso.com"], &message);
    assert!(said.ends_with(TAKEN), "{said}");
    let kept = sink.taken().remove(0).message.text();
    assert!(kept.contains(&message.replace("\r\n", "\n")), "all of it arrives");
    assert_eq!(inline.disk(), before);

    let failing = Sink::start(&["-q", "."]);
    let inline = Inline::start(&failing.url());
    let before = inline.disk();
    let said = send(&inline.edge, &["anna@contoso.com"], &large("in vain"));
    assert_eq!(said, "451 4.3.0 Temporary server error. The message was not accepted");
    assert_eq!(inline.disk(), before);
}

#[test]
fn dovecot_answers_for_each_and_the_rest_is_kept() {
    let dovecot = Dovecot::start(&["anna@contoso.com", "ida@contoso.com"]);
    let directory = CONTOSO.to_owned()
        + "[[tenant.user]]\naddress = \"olga@contoso.com\"\npreferred_data_location = \"EUR\"\n";
    let builder = builder(&dovecot.url());
    let inline = Inline { edge: builder.directory(&directory).start() };
    let said = send(&inline.edge, &["anna@contoso.com", "ida@contoso.com"], &letter("to both"));
    assert!(said.ends_with(TAKEN), "{said}");
    assert_eq!((dovecot.files("anna@contoso.com").len(), dovecot.files("ida@contoso.com").len()), (1, 1));
    let said = send(&inline.edge, &["olga@contoso.com"], &letter("to nobody"));
    assert!(said.starts_with("550 5.1.1 "), "{said}");
    assert_eq!(inline.counts(), (1, 0));

    // At RCPT: Olga is unknown there, and Anna, who writes, is told of it.
    let mut client = inline.edge.client();
    client.envelope("anna@contoso.com", &["anna@contoso.com", "olga@contoso.com"]);
    let said = client.data(letter("to one of two"));
    assert!(said.ends_with(QUEUED), "{said}");
    let inbox = dovecot.wait_for("anna@contoso.com", 3);
    let notices: Vec<_> =
        inbox.iter().filter(|kept| kept.header("Return-Path").as_deref() == Some("<>")).collect();
    assert_eq!(notices.len(), 1);
    assert!(notices[0].text().contains("550 5.1.1"), "{:?}", notices[0]);
    inline.edge.wait_for_empty_queue();

    // At the end of data: Ida's box is in disorder.
    let ida = Dovecot::start(&["anna@contoso.com", "ida@contoso.com"]);
    ida.obstruct("ida@contoso.com");
    let inline = Inline::start(&ida.url());
    let said = send(&inline.edge, &["anna@contoso.com", "ida@contoso.com"], &letter("to both in the end"));
    assert!(said.ends_with(QUEUED), "{said}");
    assert_eq!(ida.files("anna@contoso.com").len(), 1);
    ida.clear("ida@contoso.com");
    ida.wait_for("ida@contoso.com", 1);
    inline.edge.wait_for_empty_queue();
    assert_eq!(ida.files("anna@contoso.com").len(), 1, "nothing comes twice");
}

fn transit(nam: SocketAddr) -> Inline {
    let edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .relay("NAM", nam)
        .with("[routing]\ntransit = \"inline\"\n[deadlines]\ninline = \"1s\"")
        .start();
    Inline { edge }
}

#[test]
fn mail_in_transit_never_rests_here() {
    let nam = Edge::builder("NAM").directory(CONTOSO);
    let inline = transit(nam.address());
    let before = inline.disk();
    for message in [letter("needle in transit"), large("needle in transit")] {
        assert_eq!(send(&inline.edge, &["ben@contoso.com"], &message), NO_ROUTE);
    }
    assert_eq!(inline.disk(), before);

    let nam = nam.start();
    for message in [letter("needle in transit"), large("needle in transit")] {
        let said = until("the other edge", || {
            Some(send(&inline.edge, &["ben@contoso.com"], &message)).filter(|said| said != NO_ROUTE)
        });
        assert!(said.ends_with(TAKEN), "{said}");
    }
    nam.wait_for("ben@contoso.com", 2);
    assert_eq!(inline.disk(), before);
    assert!(!is_on_disk(&inline.edge.state(), "needle in transit"));

    // Recipients with different next hops come separately.
    let mut client = inline.edge.client();
    client.envelope("ann@sender.example", &["ben@contoso.com"]);
    let multiple = "452 4.5.3 Recipients belong to multiple regions ATTR38";
    client.expect("RCPT TO:<anna@contoso.com>", multiple);
    client.expect("RSET", "250 2.0.0 Resetting");
    client.envelope("ann@sender.example", &["anna@contoso.com"]);
    client.expect("RCPT TO:<ben@contoso.com>", multiple);
    let said = client.data(letter("for home"));
    assert!(said.ends_with(QUEUED), "what is at home goes through the spool: {said}");
}

#[test]
fn an_edge_that_hangs_or_fails_at_the_end_gets_nothing_written_here() {
    for options in [&["-W", "EHLO:60"][..], &["-W", ".:60"], &["-q", "."], &["-Q", "RCPT"], &["-f", "MAIL"]] {
        let sink = Sink::start(options);
        let inline = transit(sink.address);
        let before = inline.disk();
        assert_eq!(send(&inline.edge, &["ben@contoso.com"], &letter("needle")), NO_ROUTE, "{options:?}");
        assert_eq!(inline.disk(), before, "{options:?}");
    }
}

#[test]
fn recipients_in_transit_that_fare_differently_come_alone_from_then_on() {
    let user = |name: &str| {
        format!("[[tenant.user]]\naddress = \"{name}@contoso.com\"\npreferred_data_location = \"NAM\"\n")
    };
    let nam = Edge::builder("NAM").directory(CONTOSO).start();
    let inline = transit(nam.address);
    inline.edge.write_directory(&(CONTOSO.to_owned() + &user("stranger")));
    inline.edge.reload();
    let both = ["ben@contoso.com", "stranger@contoso.com"];
    let before = inline.disk();
    assert_eq!(send(&inline.edge, &both, &letter("to both")), NO_ROUTE);
    // The trace has the answer that the client heard, and why.
    let row = until("its row", || {
        let rows = inline.edge.command(&["trace", "--code", "ATTR55.1", "--json"]).json();
        rows.as_array().and_then(|rows| rows.first().cloned())
    });
    assert_eq!((&row["code"], &row["enhanced"]), (&451.into(), &"4.4.3".into()), "{row:#}");
    assert!(
        row["reply"].as_str().is_some_and(|said| said.contains("takes some of the recipients")),
        "{row:#}"
    );
    let mut client = inline.edge.client();
    client.envelope("ann@sender.example", &["ben@contoso.com"]);
    client.expect("RCPT TO:<stranger@contoso.com>", "452 4.5.3 Too many recipients");
    let said = client.data(letter("to one"));
    assert!(said.ends_with(TAKEN), "{said}");
    let said = send(&inline.edge, &["stranger@contoso.com"], &letter("to the other"));
    assert_eq!(said, "550 5.4.1 Recipient address rejected: Access denied");
    assert_eq!(inline.disk(), before);
    nam.wait_for_empty_queue();
    assert_eq!(nam.mailbox("ben@contoso.com").len(), 1, "nothing comes twice");
}

#[test]
fn rule_86_kill_9_in_the_stream_loses_nothing_that_was_acknowledged() {
    let at = free_address();
    let builder = builder(&format!("smtp://{at}"));
    let mut edge = builder.start();
    let senders = Senders::start(edge.address, &["anna@contoso.com"]);
    // Some through the spool, the others through the stream.
    until("fifty in the spool", || (senders.count() >= 50).then_some(()));
    let sink = Sink::start_at(at, &[]);
    for _ in 0..2 {
        let before = senders.count();
        until("a hundred more acknowledged", || (senders.count() >= before + 100).then_some(()));
        edge.kill();
        edge.start();
    }
    let acknowledged = senders.stop();
    // What was acknowledged last may still be on its way into the queue: the place where messages end is
    // looked at, not whether the queue is empty.
    until("every acknowledged message at the store", || {
        let arrived: BTreeSet<String> =
            sink.taken().iter().filter_map(|taken| taken.message.header("Message-ID")).collect();
        acknowledged.is_subset(&arrived).then_some(())
    });
    edge.wait_for_empty_queue();
}
