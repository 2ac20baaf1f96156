//! Dialogues as scripts: what a next hop says, and what we say to it.

use bytes::Bytes;

use super::*;
use crate::clock::Timestamp;
use crate::mail::{Envelope, Mailboxes, MessageId, Notify, Recipient};
use crate::smtp::response::ResponseReader;
use crate::spool::{Body, Content};

fn envelope(recipients: &[&str]) -> Envelope {
    let address = |text: &str| Address::parse(text).expect("an address");
    Envelope::new(
        MessageId::from_raw(1),
        Timestamp::from_millis(0),
        Some(address("s@a.example")),
        recipients.iter().map(|text| Recipient::new(address(text))).collect(),
    )
}

fn dialogue(protocol: Protocol, tls: TlsLevel) -> Dialogue {
    Dialogue::new("edge.example".into(), "mx".to_owned(), protocol, tls, Channel::Plain)
}

const PLAIN: &str = "S: 220 mx\nC: EHLO edge.example\nS: 250 mx\n= ready\n";
const PIPELINED: &str = "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: 250 PIPELINING\n= ready\n";
const CHUNKED: &str =
    "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: 250-PIPELINING\nS: 250 CHUNKING\n= ready\n";

/// Holds a conversation as it is written: `S:` the server, `C:` we, `>` something happens,
/// `=` what it comes to. `C: (content)` is the message itself.
fn hold(dialogue: &mut Dialogue, envelope: &Envelope, script: &str) {
    let content = Content { head: Bytes::new(), body: Body::Memory(Bytes::from_static(b"hello\r\n")) };
    let recipients: Vec<u32> = (0..).take(envelope.recipients.len()).collect();
    let parcel = Parcel { envelope, recipients: &recipients, content: &content, mailboxes: Mailboxes::NONE };
    let mut reader = ResponseReader::default();
    let mut said = String::new();
    let mut comes_to = String::new();
    let mut sending = false;
    let mut take = |action: Action, said: &mut String, sending: &mut bool| {
        comes_to = match action {
            Action::Say(words, wait) => {
                said.push_str(std::str::from_utf8(&words).expect("commands are text"));
                format!("waiting for {wait}")
            }
            Action::Send(words, form) => {
                said.push_str(std::str::from_utf8(&words).expect("commands are text"));
                said.push_str("(content)\r\n");
                *sending = true;
                format!("sending {form:?}")
            }
            Action::Secure => "handshake".to_owned(),
            Action::Ready => "ready".to_owned(),
            Action::Finished(outcomes) => format!("finished {}", told(&outcomes)),
            Action::Interrupted(outcomes) => format!("interrupted {}", told(&outcomes)),
            Action::Unusable(reply) => format!("unusable {}", reply.line()),
            Action::NoHandshake(reply) => format!("no handshake {}", reply.line()),
        };
        comes_to.clone()
    };
    let mut last = take(dialogue.on(Input::Connected), &mut said, &mut sending);
    for line in script.lines() {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let action = match mark {
            "C:" => {
                let (first, others) = said.split_once("\r\n").unwrap_or_else(|| {
                    panic!("nothing was said where this was expected: {line}; it came to: {last}")
                });
                assert_eq!(first, rest);
                said = others.to_owned();
                continue;
            }
            "=" => {
                assert_eq!(last, rest, "after: {said}");
                assert_eq!(said, "", "before: {line}");
                continue;
            }
            "S:" => {
                assert_eq!(said, "", "not expected, before: {line}");
                let progress = reader.read(format!("{rest}\r\n").as_bytes()).expect("well-formed");
                let Some(answer) = progress.response else { continue };
                dialogue.on(Input::Answered(&answer))
            }
            ">" => match rest {
                "deliver" => {
                    let binary = envelope.body == BodyType::BinaryMime;
                    let octets = if binary { Octets::Binary } else { Octets::EightBit };
                    let freight = Freight { load: Load::Whole(7), octets };
                    dialogue.on(Input::Deliver(&parcel, freight))
                }
                "stream" => {
                    let load = Load::Coming { declared: Some(99) };
                    dialogue.on(Input::Deliver(&parcel, Freight { load, octets: Octets::NotLooked }))
                }
                "closed" => dialogue.on(Input::Broken(Breakage::Closed)),
                "silence" => dialogue.on(Input::Broken(Breakage::TimedOut)),
                "secured" => dialogue.on(Input::Secured(Ok(()))),
                "not secured" => dialogue.on(Input::Secured(Err("expired".to_owned()))),
                other => panic!("what is '{other}'?"),
            },
            other => panic!("what is '{other}'?"),
        };
        sending = false;
        last = take(action, &mut said, &mut sending);
        if sending {
            last = take(dialogue.on(Input::ContentSent), &mut said, &mut sending);
        }
    }
    assert_eq!(said, "", "at the end");
}

fn told(outcomes: &[Outcome]) -> String {
    let each = outcomes.iter().map(|outcome| {
        let word = match outcome {
            Outcome::Delivered(..) => "delivered",
            Outcome::Deferred(_) => "deferred",
            Outcome::Postponed(_) => "postponed",
            Outcome::Failed(_) => "failed",
        };
        format!("{word} ({})", outcome.reply().line())
    });
    each.collect::<Vec<_>>().join(", ")
}

#[test]
fn what_is_still_coming_goes_by_data_with_the_size_that_was_declared() {
    let mut dialogue = dialogue(Protocol::Smtp, TlsLevel::Off);
    let script = "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: 250-PIPELINING\nS: 250-SIZE 1000\n\
                  S: 250 CHUNKING\n= ready\n> stream\nC: MAIL FROM:<s@a.example> SIZE=99\n\
                  C: RCPT TO:<a@b.example>\nC: RCPT TO:<b@b.example>\nC: DATA\nS: 250\nS: 250\n";
    let two = envelope(&["a@b.example", "b@b.example"]);
    hold(&mut dialogue, &two, &format!("{script}S: 250\nS: 354\nC: (content)\n"));
    assert!(dialogue.has_accepted_all());
    let mut divided = self::dialogue(Protocol::Smtp, TlsLevel::Off);
    hold(&mut divided, &two, &format!("{script}S: 550 5.1.1 no\nS: 354\nC: (content)\n"));
    assert!(!divided.has_accepted_all());
    assert!(!dialogue.can_stream(BodyType::BinaryMime) && !dialogue.can_stream(BodyType::EightBitMime));
    assert!(dialogue.can_stream(BodyType::SevenBit));
}

#[test]
fn sessions_come_up_or_say_why_not() {
    use Protocol::{Lmtp, Smtp};
    use TlsLevel::{Encrypt, Off, Opportunistic, Verify};
    for (protocol, tls, script) in [
        (Smtp, Off, PLAIN),
        (Smtp, Opportunistic, PLAIN),
        (Smtp, Off, "S: 554 5.3.2 no\n= unusable 554 5.3.2 no"),
        (Smtp, Off, "S: 421 4.7.0 busy\n= unusable 421 4.7.0 busy"),
        (Smtp, Off, "S: 220 mx\nC: EHLO edge.example\nS: 502 what\nC: HELO edge.example\nS: 250 mx\n= ready"),
        (
            Smtp,
            Off,
            "S: 220 mx\nC: EHLO edge.example\nS: 550 what\nC: HELO edge.example\nS: 550 no\n= unusable 550 no",
        ),
        (Smtp, Off, "S: 220 mx\nC: EHLO edge.example\nS: 421 4.3.2 off\n= unusable 421 4.3.2 off"),
        (Smtp, Encrypt, "S: 220 mx\nC: EHLO edge.example\nS: 502 what\n= unusable 502 what"),
        (
            Smtp,
            Encrypt,
            "S: 220 mx\nC: EHLO edge.example\nS: 250 mx\n= unusable 4.7.10 TLS is required here, and the next hop does not offer it",
        ),
        (
            Smtp,
            Verify,
            "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\n= handshake\n> secured\nC: EHLO edge.example\nS: 250 mx\n= ready",
        ),
        (
            Smtp,
            Verify,
            "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 454 4.7.0 no\n= unusable 454 4.7.0 no",
        ),
        (
            Smtp,
            Verify,
            "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\n> not secured\n= unusable 4.7.5 No secure connection: expired",
        ),
        (
            Smtp,
            Opportunistic,
            "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 454 4.7.0 no\n= ready",
        ),
        (
            Smtp,
            Opportunistic,
            "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\n> not secured\n= no handshake 4.7.5 No secure connection: expired",
        ),
        (Smtp, Off, "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: 250 STARTTLS\n= ready"),
        (Lmtp, Off, "S: 220 mx\nC: LHLO edge.example\nS: 250 mx\n= ready"),
        (Lmtp, Off, "S: 220 mx\nC: LHLO edge.example\nS: 500 what\n= unusable 500 what"),
        (
            Smtp,
            Off,
            "S: 220 mx\nC: EHLO edge.example\n> silence\n= unusable 4.4.2 Timed out while waiting for the answer to EHLO",
        ),
    ] {
        hold(&mut dialogue(protocol, tls), &envelope(&["r@b.example"]), script);
    }
}

#[test]
fn transactions_by_what_is_offered() {
    for (greeting, script) in [
        (
            PLAIN,
            "> deliver\nC: MAIL FROM:<s@a.example>\nS: 250 ok\nC: RCPT TO:<r@b.example>\nS: 250 ok\nC: RCPT TO:<q@b.example>\nS: 550 5.1.1 who\nC: DATA\nS: 354 go\nC: (content)\nS: 250 2.0.0 taken\n= finished delivered (250 2.0.0 taken), failed (550 5.1.1 who)",
        ),
        (
            PIPELINED,
            "> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nC: DATA\nS: 250 ok\nS: 450 4.2.1 later\nS: 250 ok\nS: 354 go\nC: (content)\nS: 554 5.6.0 bad\n= finished deferred (450 4.2.1 later), failed (554 5.6.0 bad)",
        ),
        // The first message on a connection goes in two steps, the next in one.
        (
            CHUNKED,
            "> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nS: 250 ok\nS: 250 ok\nS: 250 ok\nC: BDAT 7 LAST\nC: (content)\nS: 250 2.0.0 one\n= finished delivered (250 2.0.0 one), delivered (250 2.0.0 one)\n> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nC: BDAT 7 LAST\nC: (content)\nS: 250 ok\nS: 250 ok\nS: 550 5.1.1 who\nS: 250 2.0.0 two\n= finished delivered (250 2.0.0 two), failed (550 5.1.1 who)\n> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nC: BDAT 7 LAST\nC: (content)\nS: 250 ok\nS: 550 5.1.1 who\nS: 450 4.2.1 later\nS: 503 5.5.1 nobody\n= finished failed (550 5.1.1 who), deferred (450 4.2.1 later)\n> deliver\nC: RSET\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nC: BDAT 7 LAST\nC: (content)\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 250 2.0.0 four\n= finished delivered (250 2.0.0 four), delivered (250 2.0.0 four)",
        ),
        // Nobody is accepted, and the server listens all the same.
        (
            PIPELINED,
            "> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nC: DATA\nS: 250 ok\nS: 550 5.1.1 who\nS: 550 5.1.1 who\nS: 354 go\nC: .\nS: 250 2.0.0 empty\n= finished failed (550 5.1.1 who), failed (550 5.1.1 who)",
        ),
        // RSET clears what an ended transaction left behind.
        (
            PLAIN,
            "> deliver\nC: MAIL FROM:<s@a.example>\nS: 250 ok\nC: RCPT TO:<r@b.example>\nS: 550 5.1.1 who\nC: RCPT TO:<q@b.example>\nS: 550 5.1.1 who\n= finished failed (550 5.1.1 who), failed (550 5.1.1 who)\n> deliver\nC: RSET\nS: 250 ok\nC: MAIL FROM:<s@a.example>\nS: 250 ok\nC: RCPT TO:<r@b.example>\nS: 250 ok\nC: RCPT TO:<q@b.example>\nS: 250 ok\nC: DATA\nS: 451 4.3.0 disk\n= finished deferred (451 4.3.0 disk), deferred (451 4.3.0 disk)",
        ),
        // Rule 88: at once when others were accepted, later when nobody was.
        (
            PLAIN,
            "> deliver\nC: MAIL FROM:<s@a.example>\nS: 250 ok\nC: RCPT TO:<r@b.example>\nS: 250 ok\nC: RCPT TO:<q@b.example>\nS: 452 4.5.3 ATTR38\nC: DATA\nS: 354 go\nC: (content)\nS: 250 2.0.0 ok\n= finished delivered (250 2.0.0 ok), postponed (452 4.5.3 ATTR38)",
        ),
        (
            PLAIN,
            "> deliver\nC: MAIL FROM:<s@a.example>\nS: 250 ok\nC: RCPT TO:<r@b.example>\nS: 452 4.5.3 full\nC: RCPT TO:<q@b.example>\nS: 452 4.5.3 full\n= finished deferred (452 4.5.3 full), deferred (452 4.5.3 full)",
        ),
        (
            PLAIN,
            "> deliver\nC: MAIL FROM:<s@a.example>\nS: 250 ok\nC: RCPT TO:<r@b.example>\nS: 552 mailbox full\nC: RCPT TO:<q@b.example>\nS: 452 4.5.3 full\n= finished failed (552 mailbox full), deferred (452 4.5.3 full)",
        ),
        // A refused sender: the message's fault, or the connection's.
        (
            PLAIN,
            "> deliver\nC: MAIL FROM:<s@a.example>\nS: 553 5.1.8 no\n= finished failed (553 5.1.8 no), failed (553 5.1.8 no)",
        ),
        (
            PIPELINED,
            "> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nC: DATA\nS: 452 4.1.8 no\nS: 503 what\nS: 503 what\nS: 503 what\n= finished deferred (452 4.1.8 no), deferred (452 4.1.8 no)",
        ),
        (
            PIPELINED,
            "> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nC: DATA\nS: 530 5.7.0 tls\nS: 530 5.7.0 tls\nS: 530 5.7.0 tls\nS: 530 5.7.0 tls\n= unusable 530 5.7.0 tls",
        ),
        (PLAIN, "> deliver\nC: MAIL FROM:<s@a.example>\nS: 421 4.3.2 off\n= unusable 421 4.3.2 off"),
        (
            PLAIN,
            "> deliver\nC: MAIL FROM:<s@a.example>\nS: 250 ok\nC: RCPT TO:<r@b.example>\nS: 550 5.1.1 who\nC: RCPT TO:<q@b.example>\nS: 421 4.3.2 off\n= interrupted failed (550 5.1.1 who), deferred (421 4.3.2 off)",
        ),
        (
            PLAIN,
            "> deliver\nC: MAIL FROM:<s@a.example>\nS: 250 ok\nC: RCPT TO:<r@b.example>\n> closed\n= interrupted deferred (4.4.2 Connection closed while waiting for the answer to RCPT), deferred (4.4.2 Connection closed while waiting for the answer to RCPT)",
        ),
        (
            PLAIN,
            "> deliver\nC: MAIL FROM:<s@a.example>\n> silence\n= unusable 4.4.2 Timed out while waiting for the answer to MAIL",
        ),
        // It cannot be known whether it was taken: it may be repeated, never lost.
        (
            PIPELINED,
            "> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 550 5.1.1 who\nS: 354 go\nC: (content)\n> silence\n= finished deferred (4.4.2 Timed out while waiting for the answer to the end of the message), failed (550 5.1.1 who)",
        ),
    ] {
        let script = format!("{greeting}{script}");
        hold(
            &mut dialogue(Protocol::Smtp, TlsLevel::Off),
            &envelope(&["r@b.example", "q@b.example"]),
            &script,
        );
    }
}

#[test]
fn a_reused_connection_that_was_dead_is_told_from_a_silent_one() {
    let first = "> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nS: 250 ok\nS: 250 ok\nC: BDAT 7 LAST\nC: (content)\nS: 250 2.0.0 one\n= finished delivered (250 2.0.0 one)\n> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: BDAT 7 LAST\nC: (content)\n";
    for (end, comes_to) in [
        (
            "> closed",
            "unusable 4.4.2 Connection closed while waiting for the answer to the end of the message",
        ),
        (
            "> silence",
            "finished deferred (4.4.2 Timed out while waiting for the answer to the end of the message)",
        ),
        ("S: 421 4.4.2 idle", "unusable 421 4.4.2 idle"),
        (
            "S: 250 ok\n> closed",
            "finished deferred (4.4.2 Connection closed while waiting for the answer to the end of the message)",
        ),
    ] {
        let script = format!("{CHUNKED}{first}{end}\n= {comes_to}");
        hold(&mut dialogue(Protocol::Smtp, TlsLevel::Off), &envelope(&["r@b.example"]), &script);
    }
}

#[test]
fn lmtp_answers_for_each_accepted_recipient() {
    let greeting = "S: 220 mx\nC: LHLO edge.example\nS: 250-mx\nS: 250 PIPELINING\n= ready\n";
    for script in [
        "> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nC: RCPT TO:<p@b.example>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 550 5.1.1 who\nS: 250 ok\nS: 354 go\nC: (content)\nS: 250 2.0.0 saved\nS: 452 4.2.2 full\n= finished delivered (250 2.0.0 saved), failed (550 5.1.1 who), deferred (452 4.2.2 full)",
        "> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nC: RCPT TO:<p@b.example>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\nC: (content)\nS: 250 2.0.0 saved\n> closed\n= finished delivered (250 2.0.0 saved), deferred (4.4.2 Connection closed while waiting for the answer to the end of the message), deferred (4.4.2 Connection closed while waiting for the answer to the end of the message)",
        "> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nC: RCPT TO:<q@b.example>\nC: RCPT TO:<p@b.example>\nC: DATA\nS: 250 ok\nS: 550 5.1.1 who\nS: 550 5.1.1 who\nS: 550 5.1.1 who\nS: 503 5.5.1 nobody\n= finished failed (550 5.1.1 who), failed (550 5.1.1 who), failed (550 5.1.1 who)",
    ] {
        let recipients = envelope(&["r@b.example", "q@b.example", "p@b.example"]);
        hold(&mut dialogue(Protocol::Lmtp, TlsLevel::Off), &recipients, &format!("{greeting}{script}"));
    }
}

#[test]
fn what_is_offered_is_used_and_nothing_else() {
    let mut rich = envelope(&["r@b.example", "q@b.example"]);
    rich.body = BodyType::EightBitMime;
    rich.ret = Some(Ret::Headers);
    rich.envid = Some("QQ314159".to_owned());
    rich.recipients[0].notify = Some(Notify { success: true, failure: true, delay: false });
    rich.recipients[0].orcpt = Some("rfc822;anna@a.example".to_owned());
    let all = "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: 250-SIZE 7\nS: 250-8BITMIME\nS: 250-SMTPUTF8\nS: 250 DSN\n= ready\n> deliver\n";
    let script = format!(
        "{all}C: MAIL FROM:<s@a.example> SIZE=7 BODY=8BITMIME RET=HDRS ENVID=QQ314159\nS: 250 ok\nC: RCPT TO:<r@b.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;anna@a.example\nS: 250 ok\nC: RCPT TO:<q@b.example>\nS: 250 ok\nC: DATA\nS: 354 go\nC: (content)\nS: 250 ok\n= finished delivered (250 ok), delivered (250 ok)"
    );
    hold(&mut dialogue(Protocol::Smtp, TlsLevel::Off), &rich, &script);

    let mut foreign = envelope(&["jürgen@b.example"]);
    foreign.sender = None;
    let script = format!(
        "{all}C: MAIL FROM:<> SIZE=7 SMTPUTF8\nS: 250 ok\nC: RCPT TO:<jürgen@b.example>\nS: 250 ok\nC: DATA\nS: 354 go\nC: (content)\nS: 250 ok\n= finished delivered (250 ok)"
    );
    hold(&mut dialogue(Protocol::Smtp, TlsLevel::Off), &foreign, &script);

    rich.recipients[0].orcpt = None;
    rich.body = BodyType::SevenBit;
    let script = format!(
        "{PLAIN}> deliver\nC: MAIL FROM:<s@a.example>\nS: 250 ok\nC: RCPT TO:<r@b.example>\nS: 250 ok\nC: RCPT TO:<q@b.example>\nS: 250 ok\nC: DATA\nS: 354 go\nC: (content)\nS: 250 ok\n= finished delivered (250 ok), delivered (250 ok)"
    );
    hold(&mut dialogue(Protocol::Smtp, TlsLevel::Off), &rich, &script);

    let mut binary = envelope(&["r@b.example"]);
    binary.body = BodyType::BinaryMime;
    hold(
        &mut dialogue(Protocol::Smtp, TlsLevel::Off),
        &binary,
        "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: 250-CHUNKING\nS: 250 BINARYMIME\n= ready\n> deliver\nC: MAIL FROM:<s@a.example> BODY=BINARYMIME\nS: 250 ok\nC: RCPT TO:<r@b.example>\nS: 250 ok\nC: BDAT 7 LAST\nC: (content)\nS: 250 ok\n= finished delivered (250 ok)",
    );
}

#[test]
fn what_the_next_hop_cannot_take_fails_honestly_and_unsaid() {
    let change = |change: fn(&mut Envelope)| {
        let mut changed = envelope(&["r@b.example"]);
        change(&mut changed);
        changed
    };
    for (offers, envelope, failure) in [
        ("250 SIZE 6", change(|_| {}), "5.3.4 The message is larger than the next hop takes"),
        (
            "250 CHUNKING",
            change(|e| e.body = BodyType::BinaryMime),
            "5.6.3 The next hop takes no binary content (BINARYMIME)",
        ),
        (
            "250 BINARYMIME",
            change(|e| e.body = BodyType::BinaryMime),
            "5.6.3 The next hop takes no binary content (BINARYMIME)",
        ),
        (
            "250 DSN",
            change(|e| e.body = BodyType::EightBitMime),
            "5.6.3 The next hop takes no 8-bit content (8BITMIME)",
        ),
        (
            "250 8BITMIME",
            change(|e| e.smtputf8 = true),
            "5.6.7 The next hop takes no internationalised mail (SMTPUTF8)",
        ),
    ] {
        let script = format!(
            "S: 220 mx\nC: EHLO edge.example\nS: 250-mx\nS: {offers}\n= ready\n> deliver\n= finished failed ({failure})"
        );
        let mut dialogue = dialogue(Protocol::Smtp, TlsLevel::Off);
        hold(&mut dialogue, &envelope, &script);
        assert!(dialogue.is_ready(), "the next message may go");
    }
}

#[test]
fn content_declared_as_8bitmime_passes_when_it_is_not() {
    let mut dialogue = dialogue(Protocol::Smtp, TlsLevel::Off);
    let mut declared = envelope(&["r@b.example"]);
    declared.body = BodyType::EightBitMime;
    hold(&mut dialogue, &envelope(&["r@b.example"]), PLAIN);
    assert!(dialogue.must_know_octets(declared.body));
    let content = Content { head: Bytes::new(), body: Body::Memory(Bytes::from_static(b"hello\r\n")) };
    let parcel =
        Parcel { envelope: &declared, recipients: &[0], content: &content, mailboxes: Mailboxes::NONE };
    let action =
        dialogue.on(Input::Deliver(&parcel, Freight { load: Load::Whole(7), octets: Octets::SevenBit }));
    assert_eq!(action, Action::Say(b"MAIL FROM:<s@a.example>\r\n".to_vec(), Wait::Mail));
}

#[test]
fn a_large_message_waits_for_its_recipients() {
    let mut dialogue = dialogue(Protocol::Smtp, TlsLevel::Off);
    let message = envelope(&["r@b.example"]);
    hold(
        &mut dialogue,
        &message,
        &format!(
            "{CHUNKED}> deliver\nC: MAIL FROM:<s@a.example>\nC: RCPT TO:<r@b.example>\nS: 250 ok\nS: 250 ok\nC: BDAT 7 LAST\nC: (content)\nS: 250 ok\n= finished delivered (250 ok)"
        ),
    );
    let content = Content { head: Bytes::new(), body: Body::Memory(Bytes::from_static(b"hello\r\n")) };
    let parcel =
        Parcel { envelope: &message, recipients: &[0], content: &content, mailboxes: Mailboxes::NONE };
    for (size, flight) in [(ONE_FLIGHT_LIMIT, true), (ONE_FLIGHT_LIMIT + 1, false)] {
        let mut next = Dialogue {
            state: State::Ready,
            ..Dialogue::new("e".into(), "mx".into(), Protocol::Smtp, TlsLevel::Off, Channel::Plain)
        };
        next.offers = dialogue.offers;
        next.transactions = 1;
        let action =
            next.on(Input::Deliver(&parcel, Freight { load: Load::Whole(size), octets: Octets::NotLooked }));
        assert_eq!(matches!(action, Action::Send(..)), flight, "{size}");
    }
}
