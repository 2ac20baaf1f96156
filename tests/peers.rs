//! The peers themselves, without an edge between them: what the other tests take for granted.

mod world;

use world::{Client, Dovecot, Sink, letter, swaks};

#[test]
fn swaks_reaches_the_sink_and_the_sink_tells() {
    let sink = Sink::start(&[]);
    let (code, transcript) = swaks(
        sink.address,
        &["--from", "a@example.org", "--to", "b@example.net,c@example.net", "--body", ".dot"],
    );
    assert_eq!(code, 0, "{transcript}");
    let taken = sink.wait_for(1).remove(0);
    assert_eq!(taken.sender, "<a@example.org>");
    assert_eq!(taken.recipients, ["<b@example.net>", "<c@example.net>"]);
    assert!(taken.message.text().contains("\n.dot\n"), "{taken:?}");
    assert_eq!(sink.connections(), 1);
    assert_eq!(sink.commands("RCPT").len(), 2);
}

#[test]
fn a_sink_refuses_as_told() {
    let sink = Sink::start(&["-f", "RCPT"]);
    let (code, transcript) = swaks(sink.address, &["--from", "a@example.org", "--to", "b@example.net"]);
    assert_eq!(code, 24, "{transcript}");
    assert!(transcript.contains("500 5.3.0 Error: command failed"), "{transcript}");
}

#[test]
fn dovecot_answers_per_recipient_and_keeps_every_byte() {
    let dovecot = Dovecot::start(&["anna@contoso.com", "ben@contoso.com"]);
    dovecot.obstruct("ben@contoso.com");
    let mut client = Client::silent(dovecot.address);
    client.reply();
    client.say("LHLO client.example.org");
    client.say("MAIL FROM:<a@example.org>");
    assert!(client.say("RCPT TO:<anna@contoso.com>").starts_with("250 "));
    assert!(client.say("RCPT TO:<nobody@contoso.com>").starts_with("550 5.1.1 "));
    assert!(client.say("RCPT TO:<ben@contoso.com>").starts_with("250 "));
    let message = letter("to dovecot") + ".\r\n..two\r\n \t\r\nhéllo\r\n";
    let first = client.data(&message);
    assert!(first.starts_with("250 2.0.0 <anna@contoso.com>"), "{first}");
    let second = client.reply();
    assert!(second.starts_with("451 4.2.0 <ben@contoso.com>"), "{second}\n{}", dovecot.log());
    let stored = dovecot.wait_for("anna@contoso.com", 1).remove(0);
    assert_eq!(stored.added_before(message.as_bytes()), "Return-Path: <a@example.org>\r\n");
    assert_eq!(dovecot.mailbox("anna@contoso.com"), [stored]);
    assert_eq!(dovecot.connections(), 1);
}
