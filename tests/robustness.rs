//! Robustness: clients that are slow, silent, broken or many; the others are served meanwhile.

mod world;

use std::time::Duration;

use world::{Builder, CONTOSO, Client, Edge, Stopwatch, letter, until};

const TIMED_OUT: &str = "421 4.4.2 Connection timed out";

fn edge() -> Builder {
    Edge::builder("EUR").directory(CONTOSO)
}

/// Somebody else's message goes through now.
fn others_are_served(edge: &Edge) {
    let before = edge.mailbox("ida@contoso.com").len();
    edge.client().deliver("ann@sender.example", &["ida@contoso.com"], letter("meanwhile"));
    edge.wait_for("ida@contoso.com", before + 1);
}

/// A thousand sockets are more than many systems give a process at first.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit can be asked for");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit anybody may go");
}

#[test]
fn a_thousand_silent_connections_hold_nobody_up_and_are_closed() {
    raise_descriptor_limit();
    let edge = edge()
        .with("[limits]\nconnections = 2000\nconnections_per_ip = 2000\n[deadlines]\ncommand = \"5s\"")
        .start();
    let mut silent: Vec<_> = (0..1000).map(|_| Client::silent(edge.address)).collect();
    others_are_served(&edge);
    for client in &mut silent {
        let said = client.rest();
        assert_eq!(said.last().map(String::as_str), Some(TIMED_OUT), "{said:?}");
    }
    others_are_served(&edge);
}

#[test]
fn one_byte_at_a_time_does_not_stretch_the_deadline() {
    let edge = edge().with("[deadlines]\ncommand = \"2s\"").start();
    let mut client = edge.client();
    let watch = Stopwatch::start();
    // A byte every now and then, never a line. The edge hangs up on its own time, not on ours.
    until("the edge to hang up", || {
        others_are_served(&edge);
        client.try_send("N").err()
    });
    assert!(watch.elapsed() < Duration::from_secs(10), "{:?}", watch.elapsed());
    others_are_served(&edge);
}

#[test]
fn a_body_that_stops_half_way_is_never_a_message() {
    let edge = edge().with("[deadlines]\ndata = \"1s\"").start();
    // Hangs up.
    let mut gone = edge.client();
    gone.envelope("ann@sender.example", &["anna@contoso.com"]);
    gone.say("DATA");
    gone.send(letter("half"));
    drop(gone);
    // Ends its direction: no more is coming.
    let mut finished = edge.client();
    finished.envelope("ann@sender.example", &["anna@contoso.com"]);
    finished.say("DATA");
    finished.send(letter("half"));
    finished.finish();
    assert!(finished.rest().iter().all(|reply| !reply.starts_with('2')));
    // Falls silent, in DATA and in BDAT.
    let mut silent = edge.client();
    silent.envelope("ann@sender.example", &["anna@contoso.com"]);
    silent.say("DATA");
    silent.send(letter("half"));
    let mut chunk = edge.client();
    chunk.envelope("ann@sender.example", &["anna@contoso.com"]);
    chunk.send("BDAT 1000 LAST\r\nSubject: half\r\n\r\n");
    assert_eq!(silent.rest(), [TIMED_OUT]);
    assert_eq!(chunk.rest(), [TIMED_OUT]);
    others_are_served(&edge);
    assert!(edge.mailbox("anna@contoso.com").is_empty());
    assert!(edge.queue().is_empty());
}

#[test]
fn a_body_that_trickles_for_ever_is_ended() {
    let edge = edge().with("[deadlines]\nbody = \"2s\"").start();
    let mut data = edge.client();
    data.envelope("ann@sender.example", &["anna@contoso.com"]);
    data.say("DATA");
    // Small chunks that each come quickly are one message all the same.
    let mut chunks = edge.client();
    chunks.envelope("ann@sender.example", &["anna@contoso.com"]);
    until("the edge to give both up", || {
        let _ = data.try_send("trickle\r\n");
        let _ = chunks.try_send("BDAT 9\r\ntrickle\r\n");
        others_are_served(&edge);
        (data.try_send("\r\n").is_err() && chunks.try_send("BDAT 0\r\n").is_err()).then_some(())
    });
    assert!(edge.mailbox("anna@contoso.com").is_empty());
}

#[test]
fn a_handshake_that_never_ends_is_ended() {
    let edge = edge().with("[deadlines]\nhandshake = \"1s\"").start();
    let mut client = edge.client();
    assert!(client.say("STARTTLS").starts_with("220 "));
    others_are_served(&edge);
    assert!(client.rest().iter().all(|reply| !reply.starts_with('2')));
}

#[test]
fn a_handshake_of_nonsense_ends_the_connection() {
    let edge = edge().start();
    let mut client = edge.client();
    assert!(client.say("STARTTLS").starts_with("220 "));
    client.send("EHLO this is no ClientHello\r\n");
    // An alert is no line of SMTP; what counts is that the connection ends and the next one works.
    assert!(client.ends());
    others_are_served(&edge);
}

#[test]
fn nonsense_is_answered_or_ended_and_hurts_nobody() {
    let edge = edge().start();
    let endless = vec![b'x'; 1 << 20];
    let nonsense: &[&[u8]] = &[
        b"\0\0\0\0\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"MAIL FROM:<\xff\xfe@\x80>\r\n",
        b"RCPT TO:<\"a\\\r\n",
        b"MAIL FROM:<@a,@b:c@d> SIZE=99999999999999999999 SIZE=1\r\n",
        b"BDAT 18446744073709551616 LAST\r\n",
        b"BDAT -1\r\n",
        b"\r\n\r\n\r\n",
        &endless,
    ];
    for bytes in nonsense {
        let mut client = Client::silent(edge.address);
        client.reply();
        // It may hang up while we still talk.
        let _ = client.try_send(bytes);
        let _ = client.try_send("\r\nQUIT\r\n");
        let said = client.rest();
        assert!(said.iter().all(|reply| reply.starts_with(['2', '4', '5'])), "{said:?}");
        assert!(!said.is_empty(), "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
    }
    others_are_served(&edge);
}

#[test]
fn a_line_of_64_kib_passes_and_a_longer_one_does_not() {
    let edge = edge().start();
    let mut client = edge.client();
    let fits = letter("long") + &"x".repeat(60 * 1024) + "\r\n";
    client.deliver("ann@sender.example", &["anna@contoso.com"], &fits);
    edge.wait_for("anna@contoso.com", 1)[0].added_before(fits.as_bytes());
    client.envelope("ann@sender.example", &["anna@contoso.com"]);
    let end = client.data(letter("too long") + &"x".repeat(70 * 1024) + "\r\n");
    assert_eq!(end, "550 5.6.0 Line exceeds 64 KiB");
    client.expect("NOOP", "250 2.0.0 OK");
}

#[test]
fn a_large_message_goes_through_whole() {
    let edge = edge().start();
    let large = letter("large") + &format!("{}\r\n", "0123456789abcde".repeat(60)).repeat(20_000);
    edge.client().deliver("ann@sender.example", &["anna@contoso.com"], &large);
    edge.wait_for("anna@contoso.com", 1)[0].added_before(large.as_bytes());
}

#[test]
fn many_clients_at_once_all_get_through() {
    let edge = edge().start();
    let senders: Vec<_> = (0..20)
        .map(|_| {
            let address = edge.address;
            std::thread::spawn(move || {
                let mut client = Client::greeted(address);
                for _ in 0..10 {
                    client.deliver("ann@sender.example", &["anna@contoso.com"], letter("one of many"));
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().expect("every message is taken");
    }
    assert_eq!(edge.wait_for("anna@contoso.com", 200).len(), 200);
}
