//! Wire: what a client may say and what is answered, rules 54 to 66 over a real socket.

mod world;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use world::{CONTOSO, Client, Edge, free_address, holds_for, letter, swaks, until};

const INVALID: &str = "550 5.6.11 Invalid characters";
const TOO_LARGE: &str = "552 5.3.4 Message size exceeds fixed maximum message size";
const NOOP_OK: &str = "250 2.0.0 OK";

fn edge() -> world::Builder {
    Edge::builder("EUR").directory(CONTOSO)
}

#[test]
fn ehlo_offers_exactly_the_set_of_rule_54() {
    let edge = edge().start();
    let mut client = Client::silent(edge.address);
    assert_eq!(client.reply(), "220 edge1.eur.example.net ESMTP Landfall");
    let hello = client.say("EHLO client.example.org");
    let mut lines = hello.lines().map(|line| &line[4..]);
    assert_eq!(lines.next(), Some("edge1.eur.example.net Hello [127.0.0.1]"));
    let offered: BTreeSet<_> = lines.collect();
    let plain = [
        "SIZE 157286400",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "STARTTLS",
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
        "SMTPUTF8",
    ];
    assert_eq!(offered, BTreeSet::from(plain));

    // Inside TLS the same without STARTTLS. RFC 3207 §4.2
    let (code, transcript) = swaks(
        edge.address,
        &["--from", "a@example.org", "--to", "anna@contoso.com", "--tls", "--quit", "RCPT"],
    );
    assert_eq!(code, 0, "{transcript}");
    let inside: BTreeSet<_> = transcript
        .lines()
        .filter_map(|line| line.strip_prefix("<~  250-").or(line.strip_prefix("<~  250 ")))
        .filter(|line| plain.contains(line))
        .collect();
    assert_eq!(inside, plain.into_iter().filter(|word| *word != "STARTTLS").collect());
}

#[test]
fn helo_is_answered_in_one_line() {
    let edge = edge().start();
    let mut client = Client::silent(edge.address);
    client.reply();
    client.expect("HELO client.example.org", "250 edge1.eur.example.net Hello [127.0.0.1]");
    client.deliver("a@example.org", &["anna@contoso.com"], letter("by HELO"));
}

#[test]
fn what_cannot_be_understood_is_refused_and_the_session_goes_on() {
    let edge = edge().with("[limits]\nfaults = 100").start();
    let mut client = edge.client();
    let long = format!("NOOP {}", "x".repeat(20_000));
    for (line, reply) in [
        ("FROB", "500 5.5.1 Unrecognized command"),
        ("", "500 5.5.1 Unrecognized command"),
        ("EXPN staff", "502 5.5.1 Command not implemented"),
        ("VRFY anna", "252 2.5.0 Cannot VRFY user, but will accept message and attempt delivery"),
        ("RCPT TO:<anna@contoso.com>", "503 5.5.1 Need MAIL command"),
        ("MAIL FROM:ann", "501 5.1.7 Invalid sender address"),
        ("MAIL FROM:<a@example.org> FROB=1", "555 5.5.4 Unsupported parameter"),
        ("MAIL FROM:<jürgen@example.org>", "553 5.6.7 Internationalized address without SMTPUTF8"),
        (long.as_str(), "500 5.5.2 Line too long"),
        ("NOOP\nNOOP", "500 5.5.2 Bare CR or LF in a command"),
        ("NOOP\rNOOP", "500 5.5.2 Bare CR or LF in a command"),
        ("NOOP", NOOP_OK),
    ] {
        client.expect(line, reply);
    }
    client.expect("MAIL FROM:<a@example.org>", "250 2.1.0 Sender OK");
    client.expect("MAIL FROM:<a@example.org>", "503 5.5.1 Sender already specified");
    client.expect("RCPT TO:<anna>", "501 5.1.3 Invalid recipient address");
    client.expect("DATA", "503 5.5.1 No valid recipients");
    client.expect("RSET", "250 2.0.0 Resetting");
    assert!(client.say("HELP").starts_with("214"));
    client.deliver("a@example.org", &["anna@contoso.com"], letter("after all that"));
    client.expect("QUIT", "221 2.0.0 Service closing transmission channel");
    assert!(client.rest().is_empty());
}

#[test]
fn too_many_faults_end_the_session() {
    let edge = edge().with("[limits]\nfaults = 3").start();
    let mut client = edge.client();
    let replies: Vec<_> = (0..4).map(|_| client.say("FROB")).take_while(|reply| !reply.is_empty()).collect();
    assert_eq!(
        replies.last().map(String::as_str),
        Some("421 4.7.0 Too many errors on this connection"),
        "{replies:?}"
    );
    assert!(client.rest().is_empty());
}

#[test]
fn a_pipelined_batch_is_answered_in_order() {
    let edge = edge().start();
    let mut client = edge.client();
    client.send(
        "MAIL FROM:<a@example.org>\r\nRCPT TO:<anna@contoso.com>\r\nRCPT TO:<nobody@contoso.com>\r\n\
         RCPT TO:<ida@contoso.com>\r\nDATA\r\n",
    );
    let codes: Vec<_> = (0..5).map(|_| client.reply()[..3].to_owned()).collect();
    assert_eq!(codes, ["250", "250", "550", "250", "354"]);
    client.send(format!("{}.\r\nNOOP\r\nQUIT\r\n", letter("pipelined")));
    let codes: Vec<_> = client.rest().iter().map(|reply| reply[..3].to_owned()).collect();
    assert_eq!(codes, ["250", "250", "221"]);
    edge.wait_for("ida@contoso.com", 1);
}

#[test]
fn rule_55_size_declared_and_grown() {
    let edge = edge().with("[limits]\nmessage_size = \"64KiB\"").start();
    let mut client = edge.client();
    client.expect("MAIL FROM:<a@example.org> SIZE=65537", TOO_LARGE);
    client.envelope("a@example.org", &["anna@contoso.com"]);
    let large = letter("large") + &"0123456789\r\n".repeat(10_000);
    assert_eq!(client.data(&large), TOO_LARGE);

    client.envelope("a@example.org", &["anna@contoso.com"]);
    client.send(format!("BDAT {} LAST\r\n{large}", large.len()));
    assert_eq!(client.reply(), TOO_LARGE);
    // The announced bytes were swallowed: what follows is a command again.
    client.expect("RSET", "250 2.0.0 Resetting");
    client.deliver("a@example.org", &["anna@contoso.com"], letter("small"));
    assert_eq!(edge.wait_for("anna@contoso.com", 1).len(), 1);
}

#[test]
fn rule_56_too_many_recipients_and_the_accepted_ones_go_on() {
    let edge = edge().with("[limits]\nrecipients_per_domain = 2").start();
    let mut client = edge.client();
    client.envelope("a@example.org", &["anna@contoso.com", "ida@contoso.com"]);
    client.expect("RCPT TO:<nobody@contoso.com>", "452 4.5.3 Too many recipients");
    assert!(client.data(letter("to two")).starts_with("250 2.6.0 "));
    edge.wait_for("ida@contoso.com", 1);
}

#[test]
fn rule_56_of_a_message() {
    let edge = edge().with("[limits]\nrecipients_per_message = 1").start();
    let mut client = edge.client();
    client.envelope("a@example.org", &["anna@contoso.com"]);
    client.expect("RCPT TO:<ida@contoso.com>", "452 4.5.3 Too many recipients");
}

#[test]
fn rule_57_a_mail_loop_ends() {
    let edge = edge().with("[limits]\nhops = 5").start();
    let mut client = edge.client();
    let hop = "Received: from a.example by b.example; Sat, 21 Nov 2026 04:29:44 +0000\r\n";
    client.deliver("a@example.org", &["anna@contoso.com"], hop.repeat(5) + &letter("five hops"));
    client.envelope("a@example.org", &["anna@contoso.com"]);
    let looped = client.data(hop.repeat(6) + &letter("six hops"));
    assert_eq!(looped, "554 5.4.14 Hop count exceeded - possible mail loop ATTR34");
}

#[test]
fn rule_59_too_many_connections_from_one_address() {
    let edge = edge().with("[limits]\nconnections_per_ip = 2").start();
    let _held = [edge.client(), edge.client()];
    let mut third = Client::silent(edge.address);
    assert_eq!(
        third.rest(),
        ["451 4.7.652 The mail server [127.0.0.1] has exceeded the maximum number of connections."]
    );
}

/// What has been taken for an end of data somewhere, and is none.
const FALSE_ENDS: &[&str] = &[
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\r\n",
    "\r\n.\r",
    "\n.\r",
    "\r.\n",
    "\n\n.\r\n",
    "\r\n.\r\r\n",
    "\n.\n\r\n",
];

fn smuggled(end: &str) -> String {
    letter("outer")
        + "first"
        + end
        + "MAIL FROM:<smuggled@example.org>\r\nRCPT TO:<ida@contoso.com>\r\n\
        DATA\r\nSubject: smuggled\r\n\r\nsmuggled\r\n.\r\n"
}

#[test]
fn rule_62_no_false_end_of_data_ends_data() {
    let edge = edge().start();
    for end in FALSE_ENDS {
        let mut client = edge.client();
        client.envelope("a@example.org", &["anna@contoso.com"]);
        assert!(client.say("DATA").starts_with("354 "));
        client.send(smuggled(end));
        assert_eq!(client.reply(), INVALID, "{end:?}");
        // One message, one reply: the inner commands were never commands.
        client.expect("NOOP", NOOP_OK);
    }
    let mut client = edge.client();
    client.deliver("a@example.org", &["anna@contoso.com"], letter("clean"));
    let kept = edge.wait_for("anna@contoso.com", 1);
    assert_eq!(kept.len(), 1);
    assert!(edge.mailbox("ida@contoso.com").is_empty());
}

#[test]
fn rule_62_normalize_puts_line_ends_right_and_still_ends_nothing_early() {
    let edge = edge().with("[wire]\nnormalize_line_endings_from = [\"127.0.0.0/8\"]").start();
    for end in FALSE_ENDS {
        let mut client = edge.client();
        client.envelope("a@example.org", &["anna@contoso.com"]);
        client.say("DATA");
        client.send(smuggled(end));
        assert!(client.reply().starts_with("250 2.6.0 "), "{end:?}");
        client.expect("NOOP", NOOP_OK);
    }
    for kept in edge.wait_for("anna@contoso.com", FALSE_ENDS.len()) {
        let text = kept.text();
        assert!(text.contains("Subject: smuggled"), "the inner message is text: {text}");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
    }
    assert!(edge.mailbox("ida@contoso.com").is_empty());
}

#[test]
fn nul_is_refused_in_data_and_carried_in_binarymime() {
    let edge = edge().start();
    let mut client = edge.client();
    client.envelope("a@example.org", &["anna@contoso.com"]);
    assert_eq!(client.data(letter("nul") + "a\0b\r\n"), INVALID);

    // Bare line ends in BDAT without BINARYMIME are refused, their octets swallowed all the same.
    client.envelope("a@example.org", &["anna@contoso.com"]);
    let bare = letter("bare") + "a\nb\r\n";
    client.send(format!("BDAT {} LAST\r\n{bare}", bare.len()));
    assert_eq!(client.reply(), INVALID);
    client.expect("RSET", "250 2.0.0 Resetting");

    client.expect("MAIL FROM:<a@example.org> BODY=BINARYMIME", "250 2.1.0 Sender OK");
    client.expect("RCPT TO:<anna@contoso.com>", "250 2.1.5 Recipient OK");
    client.expect("DATA", "503 5.5.1 BINARYMIME needs BDAT");
    let mut binary = letter("binary").into_bytes();
    binary.extend((0..=255).cycle().take(10_000).map(|byte: u16| u8::try_from(byte).expect("a byte")));
    let (first, last) = binary.split_at(3_000);
    client.send(format!("BDAT {}\r\n", first.len()));
    client.send(first);
    assert_eq!(client.reply(), "250 2.0.0 3000 octets received");
    client.send(format!("BDAT {} LAST\r\n", last.len()));
    client.send(last);
    let taken = client.reply();
    assert!(taken.starts_with("250 2.6.0 "), "{taken}");
    let kept = edge.wait_for("anna@contoso.com", 1).remove(0);
    kept.added_before(&binary);
}

#[test]
fn smtputf8_addresses_are_taken_and_kept() {
    let directory = CONTOSO.replace("ida@contoso.com", "jürgen@contoso.com");
    let edge = Edge::builder("EUR").directory(&directory).start();
    let mut client = edge.client();
    client.expect("MAIL FROM:<müller@example.org> SMTPUTF8", "250 2.1.0 Sender OK");
    client.expect("RCPT TO:<jürgen@contoso.com>", "250 2.1.5 Recipient OK");
    assert!(client.data(letter("grüße")).starts_with("250 2.6.0 "));
    // A folder's name is plain ASCII.
    let kept = edge.wait_for("j%C3%BCrgen@contoso.com", 1).remove(0);
    assert_eq!(kept.header("Return-Path").as_deref(), Some("<müller@example.org>"));
}

#[test]
fn rule_63_bytes_behind_starttls_are_never_commands() {
    let edge = edge().start();
    let mut client = edge.client();
    client.send("STARTTLS\r\nNOOP\r\nMAIL FROM:<injected@example.org>\r\n");
    let said = client.rest();
    assert!(said.iter().all(|reply| !reply.starts_with("250 ")), "{said:?}");
    until("the log to tell", || edge.log().contains("injection-dropped").then_some(()));
}

#[test]
fn rule_64_nobody_else_is_us() {
    let edge = edge().start();
    let mut client = Client::silent(edge.address);
    client.reply();
    client.expect("EHLO Edge1.EUR.example.net", "550 5.7.506 Access Denied, Bad HELO");
}

#[test]
fn rule_65_an_old_session_finishes_its_transaction_and_goes() {
    let edge = edge().with("[limits]\nsession_age = \"3s\"").start();
    let mut client = edge.client();
    client.envelope("a@example.org", &["anna@contoso.com"]);
    holds_for("a transaction in an old session", Duration::from_millis(3500), || {
        client.say("NOOP") == NOOP_OK
    });
    assert!(client.data(letter("slow")).starts_with("250 2.6.0 "));
    let farewell = until("the farewell", || Some(client.say("NOOP")).filter(|reply| reply != NOOP_OK));
    assert!(farewell.starts_with("421 4.4.2 "), "{farewell}");
    assert!(client.rest().is_empty());
}

#[test]
fn rule_65_a_transaction_cannot_keep_an_old_session_open_for_ever() {
    let edge = edge().with("[limits]\nsession_age = \"2s\"").start();
    let mut client = edge.client();
    client.envelope("a@example.org", &["anna@contoso.com"]);
    let farewell = until("the end of patience", || Some(client.say("NOOP")).filter(|reply| reply != NOOP_OK));
    assert!(farewell.starts_with("421 4.4.2 "), "{farewell}");
    assert!(client.rest().is_empty());
}

#[test]
fn a_required_tls_listener_takes_no_mail_in_plain_text() {
    let mut edge = edge();
    let address = edge.address();
    edge = edge
        .with(&format!("listener = [{{ name = \"mx\", address = [\"{address}\"], tls = \"required\" }}]"));
    let edge = edge.start();
    let mut client = edge.client();
    client.expect("MAIL FROM:<a@example.org>", "530 5.7.0 Must issue a STARTTLS command first");
    let (code, transcript) = swaks(
        edge.address,
        &["--from", "a@example.org", "--to", "anna@contoso.com", "--tls", "--tls-sni", "mx.contoso.com"],
    );
    assert_eq!(code, 0, "{transcript}");
    let kept = edge.wait_for("anna@contoso.com", 1).remove(0);
    assert!(kept.header("Received").is_some_and(|trace| trace.contains("with ESMTPS")), "{kept:?}");
}

/// A load balancer that passes on one connection, its header and the client's first bytes in one piece.
fn balancer(to: SocketAddr) -> SocketAddr {
    let door = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = door.local_addr().expect("a bound socket has one");
    thread::spawn(move || {
        let (mut client, _) = door.accept().expect("a client");
        let mut first = vec![0; 16 * 1024];
        let read = client.read(&mut first).expect("a hello");
        let mut server = TcpStream::connect(to).expect("the edge");
        let whole = [b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 465\r\n", &first[..read]].concat();
        server.write_all(&whole).expect("it reads");
        let (mut from, mut into) =
            (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
        let up = thread::spawn(move || io::copy(&mut from, &mut into));
        let _ = io::copy(&mut server, &mut client);
        let _ = client.shutdown(Shutdown::Both);
        let _ = up.join();
    });
    address
}

#[test]
fn implicit_tls_begins_with_the_first_byte_also_behind_a_balancer() {
    let edge = edge();
    let (direct, balanced) = (edge.address(), free_address());
    let listeners = format!(
        "listener = [{{ name = \"smtps\", address = [\"{direct}\"], tls = \"implicit\" }}, \
         {{ name = \"balanced\", address = [\"{balanced}\"], tls = \"implicit\", \
         proxy_protocol_from = [\"127.0.0.0/8\"] }}]"
    );
    let edge = edge.with(&listeners).start();
    for (address, client) in [(direct, "[127.0.0.1]"), (balancer(balanced), "[192.0.2.7]")] {
        let arguments = ["--from", "a@example.org", "--to", "anna@contoso.com", "--tls-on-connect"];
        let (code, transcript) = swaks(address, &arguments);
        assert_eq!(code, 0, "{transcript}");
        assert!(transcript.contains(&format!("Hello {client}")), "{transcript}");
        assert!(!transcript.contains("STARTTLS"), "{transcript}");
    }
    edge.wait_for("anna@contoso.com", 2);
}

#[test]
fn reply_context_ends_refusals_when_asked_for() {
    let edge = edge().with("[replies]\ncontext = true\nservice_name = \"Example Mail\"").start();
    let mut client = edge.client();
    client.say("MAIL FROM:<a@example.org>");
    let refusal = client.say("RCPT TO:<nobody@contoso.com>");
    let (words, context) = refusal.split_once(" [").expect("a context");
    assert_eq!(words, "550 5.4.1 Recipient address rejected: Access denied");
    let parts: Vec<_> = context.trim_end_matches(']').split(' ').collect();
    assert_eq!(parts[0], "edge1.eur.example.net");
    assert!(parts[1].ends_with('Z') && parts[1].len() == 24, "{context}");
    assert!(parts[2].len() == 16 && parts[2].bytes().all(|byte| byte.is_ascii_hexdigit()), "{context}");
}
