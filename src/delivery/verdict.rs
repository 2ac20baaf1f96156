//! Verdict: what every answer, and every lack of one, means for the message.
//!
//! The one table from responses and failures to outcomes. Pure. `dialogue` asks.
//! Whatever is not clearly the message's own fault is never held against it.

use std::fmt;

use crate::mail::{Handed, Outcome, RemoteReply, Status};
use crate::smtp::response::{Malformed, Response};

/// A notice quotes what a server said; not all that it could say.
const TEXT_LIMIT: usize = 1000;

/// What was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Greeting,
    Hello,
    StartTls,
    Reset,
    Mail,
    Recipient,
    DataStart,
    DataEnd,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "the greeting",
            Self::Hello => "the answer to EHLO",
            Self::StartTls => "the answer to STARTTLS",
            Self::Reset => "the answer to RSET",
            Self::Mail => "the answer to MAIL",
            Self::Recipient => "the answer to RCPT",
            Self::DataStart => "the answer to DATA",
            Self::DataEnd => "the answer to the end of the message",
        })
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Breakage {
    Closed,
    TimedOut,
    Io(String),
    Malformed(Malformed),
    /// Our own side: the content could not be read.
    Content(String),
    /// Our own side: the content has a bare CR or LF (rule 62).
    Unencodable,
}

/// Why a next hop was not even spoken to, or not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    NoEndpoint,
    NoSuchHost,
    DnsFailed,
    NotConnected(String),
    ConnectTimedOut,
    TlsNotOffered,
    HandshakeFailed(String),
    /// The disk of a Maildir tree.
    Storage(String),
}

/// What a next hop does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    TooLarge,
    NeedsUtf8,
    NeedsBinary,
    NeedsEightBit,
    /// REQUIRETLS, and no TLS that proved who is there.
    NeedsProvenTls,
    /// REQUIRETLS, which it does not offer.
    NeedsRequireTls,
}

/// Whose fault a refused MAIL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    Message,
    /// The connection's or the destination's: the next endpoint may do better.
    Destination,
}

/// What became of one RCPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rcpt {
    Accepted,
    /// Too many for one transaction (rule 88).
    TooMany,
    NotNow,
    Never,
    /// 421: the server is leaving.
    Leaving,
    Nonsense,
}

pub(super) fn quote(response: &Response, host: &str) -> RemoteReply {
    let mut text = response.text();
    if let Some((end, _)) = text.char_indices().nth(TEXT_LIMIT) {
        text.truncate(end);
    }
    if let Some(status) = response.status.filter(Status::is_plain) {
        text = format!("{status} {text}");
    }
    RemoteReply { host: host.to_owned(), code: response.code, status: response.status_or_plain(), text }
}

/// A MAIL that was refused. The session is sound so far, so what speaks of addresses, sizes and syntax is
/// about this message; what speaks of systems, permissions and order is about us (spec, section 6).
pub(super) fn mail_refusal(response: &Response) -> Blame {
    let detail = response.status.map(|status| (status.subject, status.detail));
    match (response.code, detail) {
        (421 | 530 | 534 | 535 | 538, _) => Blame::Destination,
        // Too large for the system: this message only.
        (_, Some((3, 4))) => Blame::Message,
        // The mail system itself; the network behind it.
        (_, Some((3, _))) => Blame::Destination,
        (400..=499, Some((4, _))) => Blame::Destination,
        // Policies about the sender's domain or the message: SPF, DKIM, DMARC, null MX, direct send.
        (_, Some((7, 20..=24 | 26 | 27 | 51 | 68))) => Blame::Message,
        // A passing policy (greylisting, rates) is mostly about the sender; a lasting one about the client.
        (400..=499, Some((7, _))) => Blame::Message,
        (_, Some((7, _))) => Blame::Destination,
        // Syntax and parameters of this very command.
        (_, Some((5, 2 | 4))) => Blame::Message,
        (400..=499, Some((5, _))) => Blame::Message,
        (_, Some((5, _))) => Blame::Destination,
        (_, Some(_)) => Blame::Message,
        // Without a status the code has to do. RFC 5321 §4.2.3
        (500 | 502 | 503 | 554, None) => Blame::Destination,
        (_, None) => Blame::Message,
    }
}

pub(super) fn rcpt(response: &Response) -> Rcpt {
    let detail = response.status.map(|status| (status.subject, status.detail));
    match (response.code, detail) {
        (421, _) => Rcpt::Leaving,
        (200..=299, _) => Rcpt::Accepted,
        // 552 is how RFC 821 said it. RFC 5321 §4.5.3.1.10
        (452 | 552, None | Some((5, 3))) => Rcpt::TooMany,
        (400..=499, _) => Rcpt::NotNow,
        (500..=599, _) => Rcpt::Never,
        _ => Rcpt::Nonsense,
    }
}

/// A refusal: later for 4xx (rule 80), never for 5xx (rule 81).
pub(super) fn refusal(response: &Response, host: &str) -> Outcome {
    let reply = quote(response, host);
    if response.class() == 5 { Outcome::Failed(reply) } else { Outcome::Deferred(reply) }
}

/// The answer to the whole message. Only 2xx takes it off our hands.
pub(super) fn end(response: &Response, host: &str, handed: Handed) -> Outcome {
    match response.class() {
        2 => Outcome::Delivered(quote(response, host), handed),
        _ => refusal(response, host),
    }
}

pub(super) fn unfit(unfit: Unfit, host: &str) -> Outcome {
    let (status, text) = match unfit {
        Unfit::TooLarge => (Status::new(5, 3, 4), "The message is larger than the next hop takes"),
        Unfit::NeedsUtf8 => (Status::new(5, 6, 7), "The next hop takes no internationalised mail (SMTPUTF8)"),
        Unfit::NeedsBinary => (Status::new(5, 6, 3), "The next hop takes no binary content (BINARYMIME)"),
        Unfit::NeedsEightBit => (Status::new(5, 6, 3), "The next hop takes no 8-bit content (8BITMIME)"),
        // RFC 8689 §4.2.1
        Unfit::NeedsProvenTls => (Status::new(5, 7, 10), "Encryption needed (REQUIRETLS)"),
        Unfit::NeedsRequireTls => (Status::new(5, 7, 30), "REQUIRETLS support required"),
    };
    Outcome::Failed(RemoteReply::ours(host, status, text))
}

pub(super) fn breakage(breakage: &Breakage, wait: Wait, host: &str) -> RemoteReply {
    let (status, text) = match breakage {
        Breakage::Closed => (Status::new(4, 4, 2), format!("Connection closed while waiting for {wait}")),
        Breakage::TimedOut => (Status::new(4, 4, 2), format!("Timed out while waiting for {wait}")),
        Breakage::Io(error) => (Status::new(4, 4, 2), format!("{error}, while waiting for {wait}")),
        Breakage::Malformed(error) => (Status::new(4, 5, 0), format!("{error}, while waiting for {wait}")),
        Breakage::Content(error) => (Status::new(4, 3, 0), format!("The message could not be read: {error}")),
        Breakage::Unencodable => {
            (Status::new(5, 6, 0), "The content has a bare CR or LF and cannot travel by DATA".to_owned())
        }
    };
    RemoteReply::ours(host, status, text)
}

/// How the recipients that are still open end when the conversation breaks.
pub(super) fn broken(cause: &Breakage, wait: Wait, host: &str) -> Outcome {
    let reply = breakage(cause, wait, host);
    match cause {
        Breakage::Unencodable => Outcome::Failed(reply),
        Breakage::Closed
        | Breakage::TimedOut
        | Breakage::Io(_)
        | Breakage::Malformed(_)
        | Breakage::Content(_) => Outcome::Deferred(reply),
    }
}

/// Whether this is our own word for TLS that is required and not offered.
pub(super) fn is_without_tls(reply: &RemoteReply) -> bool {
    *reply == obstacle(&Obstacle::TlsNotOffered, &reply.host)
}

pub(super) fn obstacle(obstacle: &Obstacle, host: &str) -> RemoteReply {
    let (status, text) = match obstacle {
        Obstacle::NoEndpoint => (Status::new(4, 4, 4), "No server is known for this destination".to_owned()),
        Obstacle::NoSuchHost => (Status::new(4, 4, 4), "The DNS knows no such host".to_owned()),
        Obstacle::DnsFailed => (Status::new(4, 4, 3), "The DNS did not answer".to_owned()),
        Obstacle::NotConnected(error) => (Status::new(4, 4, 1), format!("Cannot connect: {error}")),
        Obstacle::ConnectTimedOut => (Status::new(4, 4, 1), "Timed out while connecting".to_owned()),
        Obstacle::TlsNotOffered => {
            (Status::new(4, 7, 10), "TLS is required here, and the next hop does not offer it".to_owned())
        }
        Obstacle::HandshakeFailed(error) => (Status::new(4, 7, 5), format!("No secure connection: {error}")),
        Obstacle::Storage(error) => (Status::new(4, 3, 0), format!("Cannot write: {error}")),
    };
    RemoteReply::ours(host, status, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(text: &str) -> Response {
        let (code, rest) = text.split_at(3);
        let status = Status::parse(rest.trim());
        Response::new(code.parse().expect("a code"), status, "words")
    }

    #[test]
    fn a_refused_mail_is_blamed_on_whoever_it_speaks_of() {
        for (text, blame) in [
            ("421", Blame::Destination),
            ("421 4.3.2", Blame::Destination),
            ("450", Blame::Message),
            ("451", Blame::Message),
            ("452", Blame::Message),
            ("451 4.1.8", Blame::Message),
            ("452 4.3.1", Blame::Destination),
            ("451 4.3.2", Blame::Destination),
            ("451 4.4.3", Blame::Destination),
            ("450 4.7.1", Blame::Message),
            ("451 4.5.1", Blame::Message),
            ("500 5.5.1", Blame::Destination),
            ("500", Blame::Destination),
            ("501 5.1.7", Blame::Message),
            ("501 5.5.2", Blame::Message),
            ("501 5.5.4", Blame::Message),
            ("501", Blame::Message),
            ("503 5.5.1", Blame::Destination),
            ("503", Blame::Destination),
            ("530 5.7.0", Blame::Destination),
            ("530", Blame::Destination),
            ("535 5.7.8", Blame::Destination),
            ("550 5.1.8", Blame::Message),
            ("550 5.7.1", Blame::Destination),
            ("550 5.7.23", Blame::Message),
            ("550 5.7.27", Blame::Message),
            ("550 5.7.68", Blame::Message),
            ("550 5.7.506", Blame::Destination),
            ("550", Blame::Message),
            ("552 5.3.4", Blame::Message),
            ("552", Blame::Message),
            ("553 5.1.8", Blame::Message),
            ("553", Blame::Message),
            ("554 5.3.2", Blame::Destination),
            ("554 5.6.7", Blame::Message),
            ("554", Blame::Destination),
            ("555 5.5.4", Blame::Message),
        ] {
            assert_eq!(mail_refusal(&response(text)), blame, "{text}");
        }
    }

    #[test]
    fn recipients_are_judged_by_code_then_status() {
        for (text, verdict) in [
            ("250 2.1.5", Rcpt::Accepted),
            ("251", Rcpt::Accepted),
            ("252", Rcpt::Accepted),
            ("421 4.3.2", Rcpt::Leaving),
            ("450 4.2.1", Rcpt::NotNow),
            ("451 4.4.62", Rcpt::NotNow),
            ("452 4.5.3", Rcpt::TooMany),
            ("452", Rcpt::TooMany),
            ("452 4.2.2", Rcpt::NotNow),
            ("552 5.5.3", Rcpt::TooMany),
            ("552", Rcpt::TooMany),
            ("552 5.2.2", Rcpt::Never),
            ("550 5.1.1", Rcpt::Never),
            ("530 5.7.0", Rcpt::Never),
            ("354", Rcpt::Nonsense),
        ] {
            assert_eq!(rcpt(&response(text)), verdict, "{text}");
        }
    }

    #[test]
    fn only_2xx_takes_the_message() {
        let quoted = |text: &str| quote(&response(text), "mx");
        let end = |text: &str| end(&response(text), "mx", Handed::WithWishes);
        assert_eq!(end("250 2.0.0"), Outcome::Delivered(quoted("250 2.0.0"), Handed::WithWishes));
        assert_eq!(end("451 4.3.0"), Outcome::Deferred(quoted("451 4.3.0")));
        assert_eq!(end("554 5.6.0"), Outcome::Failed(quoted("554 5.6.0")));
        assert_eq!(end("354"), Outcome::Deferred(quoted("354")));
        assert_eq!(quoted("550").status, Status::new(5, 0, 0));
    }

    #[test]
    fn what_cannot_be_carried_fails_honestly() {
        for (case, status) in [
            (Unfit::TooLarge, "5.3.4"),
            (Unfit::NeedsUtf8, "5.6.7"),
            (Unfit::NeedsBinary, "5.6.3"),
            (Unfit::NeedsEightBit, "5.6.3"),
            (Unfit::NeedsProvenTls, "5.7.10"),
            (Unfit::NeedsRequireTls, "5.7.30"),
        ] {
            let Outcome::Failed(reply) = unfit(case, "mx") else { panic!("{case:?} is final") };
            assert_eq!(reply.status.to_string(), status);
        }
    }

    #[test]
    fn a_broken_conversation_is_never_the_messages_fault_but_for_its_form() {
        for (case, status) in [
            (Breakage::Closed, "4.4.2"),
            (Breakage::TimedOut, "4.4.2"),
            (Breakage::Io("reset".to_owned()), "4.4.2"),
            (Breakage::Malformed(Malformed::NoCode), "4.5.0"),
            (Breakage::Content("gone".to_owned()), "4.3.0"),
        ] {
            let Outcome::Deferred(reply) = broken(&case, Wait::Mail, "mx") else { panic!("{case:?}") };
            assert_eq!(reply.status.to_string(), status);
        }
        let Outcome::Failed(reply) = broken(&Breakage::Unencodable, Wait::DataEnd, "mx") else {
            panic!("the form never changes")
        };
        assert_eq!(reply.status.to_string(), "5.6.0");
    }

    #[test]
    fn every_obstacle_is_temporary() {
        for (case, status) in [
            (Obstacle::NoEndpoint, "4.4.4"),
            (Obstacle::NoSuchHost, "4.4.4"),
            (Obstacle::DnsFailed, "4.4.3"),
            (Obstacle::NotConnected("refused".to_owned()), "4.4.1"),
            (Obstacle::ConnectTimedOut, "4.4.1"),
            (Obstacle::TlsNotOffered, "4.7.10"),
            (Obstacle::HandshakeFailed("expired".to_owned()), "4.7.5"),
            (Obstacle::Storage("full".to_owned()), "4.3.0"),
        ] {
            assert_eq!(obstacle(&case, "mx").status.to_string(), status);
        }
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        let long = Response::new(550, None, "ä".repeat(TEXT_LIMIT + 5));
        assert_eq!(quote(&long, "mx").text.chars().count(), TEXT_LIMIT);
    }
}
