//! Notice: the delivery status notification that tells a sender what became of a message.
//!
//! RFC 3461 to 3464: `multipart/report` of words for people, fields for programs, and the message or its
//! header. Pure: `queue` decides whether one is owed and hands it to the spool with its cause.

use std::fmt::Write as _;

use crate::clock::Timestamp;
use crate::mail::{Address, Domain, Envelope, MessageId, RemoteReply, Ret, Status};

/// How much of a refused message comes back at most, so that a notice is never a way to send bulk.
pub const RETURN_LIMIT_BYTES: usize = 1024 * 1024;

/// What happened to one recipient.
#[derive(Debug, Clone)]
pub struct Fate<'a> {
    pub recipient: &'a Address,
    pub orcpt: Option<&'a str>,
    pub action: Action,
    /// What became of it, when that is not simply what the next hop said: `550 5.4.300 Message expired`.
    pub verdict: Option<(Status, &'static str)>,
    /// The last thing a next hop said: the diagnostic.
    pub reply: &'a RemoteReply,
}

impl Fate<'_> {
    fn status(&self) -> Status {
        self.verdict.map_or(self.reply.status, |(status, _)| status)
    }
}

/// `Action:` of RFC 3464 §2.3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Failed,
    Delayed { until: Timestamp },
}

/// Who writes the notice.
#[derive(Debug, Clone, Copy)]
pub struct Reporting<'a> {
    pub hostname: &'a Domain,
    pub id: MessageId,
    pub now: Timestamp,
}

/// The whole notice, header and body, lines ending in CRLF. `content` is what the spool kept, or as much
/// of it as the caller read: the original header must be whole.
pub fn compose(
    reporting: Reporting<'_>,
    to: &Address,
    envelope: &Envelope,
    fates: &[Fate<'_>],
    content: &[u8],
) -> Vec<u8> {
    let boundary = format!("landfall-{}", reporting.id);
    let utf8 = envelope.needs_utf8();
    let full = envelope.ret == Some(Ret::Full) && content.len() <= RETURN_LIMIT_BYTES;
    let returned = if full { content } else { header_of(content) };
    // RFC 6533: internationalised addresses and headers travel as message/global.
    let original_type = match (full, utf8) {
        (true, false) => "message/rfc822",
        (true, true) => "message/global",
        (false, false) => "text/rfc822-headers",
        (false, true) => "message/global-headers",
    };
    let encoding = if content.is_ascii() && returned.split(|b| *b == b'\n').all(|line| line.len() <= 999) {
        "7bit"
    } else {
        "8bit"
    };
    let mut out = String::new();
    put(&mut out, &format!("From: Mail Delivery System <postmaster@{}>", reporting.hostname));
    put(&mut out, &format!("To: {to}"));
    put(&mut out, &format!("Subject: {}", subject(fates)));
    put(&mut out, &format!("Date: {}", reporting.now.rfc5322()));
    put(&mut out, &format!("Message-ID: <{}@{}>", reporting.id, reporting.hostname));
    // RFC 3834 §5: nobody's program should answer this.
    put(&mut out, "Auto-Submitted: auto-replied");
    put(&mut out, "MIME-Version: 1.0");
    put(&mut out, "Content-Type: multipart/report; report-type=delivery-status;");
    put(&mut out, &format!("\tboundary=\"{boundary}\""));
    put(&mut out, "");
    put(&mut out, "This is a multipart report in MIME form (RFC 6522).");
    put(&mut out, "");
    put(&mut out, &format!("--{boundary}"));
    put(
        &mut out,
        if utf8 {
            "Content-Type: text/plain; charset=utf-8"
        } else {
            "Content-Type: text/plain; charset=us-ascii"
        },
    );
    if utf8 {
        put(&mut out, "Content-Transfer-Encoding: 8bit");
    }
    put(&mut out, "");
    words_for_people(&mut out, reporting, envelope, fates);
    put(&mut out, &format!("--{boundary}"));
    put(
        &mut out,
        if utf8 {
            "Content-Type: message/global-delivery-status"
        } else {
            "Content-Type: message/delivery-status"
        },
    );
    if utf8 {
        put(&mut out, "Content-Transfer-Encoding: 8bit");
    }
    put(&mut out, "");
    fields_for_programs(&mut out, reporting, envelope, fates, utf8);
    put(&mut out, &format!("--{boundary}"));
    put(&mut out, &format!("Content-Type: {original_type}"));
    put(&mut out, &format!("Content-Transfer-Encoding: {encoding}"));
    put(&mut out, "");
    let mut bytes = out.into_bytes();
    bytes.extend_from_slice(returned);
    if !bytes.ends_with(b"\r\n") {
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    bytes
}

fn put(out: &mut String, line: &str) {
    out.push_str(line);
    out.push_str("\r\n");
}

fn subject(fates: &[Fate<'_>]) -> &'static str {
    if fates.iter().any(|fate| fate.action == Action::Failed) {
        "Undeliverable mail"
    } else {
        "Mail is delayed"
    }
}

fn words_for_people(out: &mut String, reporting: Reporting<'_>, envelope: &Envelope, fates: &[Fate<'_>]) {
    put(out, &format!("This is the mail system of {}.", reporting.hostname));
    put(out, "");
    if subject(fates) == "Undeliverable mail" {
        put(out, "Your message could not be delivered to the recipients below, and no");
        put(out, "further attempt will be made.");
    } else {
        put(out, "Your message could not be delivered yet. You need not send it again:");
        put(out, "attempts go on until the time given below.");
    }
    put(out, "");
    for fate in fates {
        put(out, &format!("  {}", fate.recipient));
        if let Some((_, words)) = fate.verdict {
            put(out, &format!("    {words}"));
        }
        if !fate.reply.host.is_empty() {
            put(out, &format!("    {} said:", fate.reply.host));
        }
        put(out, &format!("    {}", one_line(&fate.reply.line())));
        if let Action::Delayed { until } = fate.action {
            put(out, &format!("    attempts go on until {}", until.rfc5322()));
        }
        put(out, "");
    }
    put(out, &format!("Message id here: {}, received {}.", envelope.id, envelope.received_at.rfc5322()));
    put(out, "");
}

/// RFC 3464 §2.2 and §2.3; one group of fields for the message, then one per recipient.
fn fields_for_programs(
    out: &mut String,
    reporting: Reporting<'_>,
    envelope: &Envelope,
    fates: &[Fate<'_>],
    utf8: bool,
) {
    if let Some(envid) = &envelope.envid {
        put(out, &format!("Original-Envelope-Id: {}", decode_xtext(envid)));
    }
    put(out, &format!("Reporting-MTA: dns; {}", reporting.hostname));
    if let Some(peer) = envelope.peer.as_ref().filter(|peer| !peer.helo.is_empty()) {
        put(out, &format!("Received-From-MTA: dns; {} ({})", one_line(&peer.helo), peer.ip));
    }
    put(out, &format!("Arrival-Date: {}", envelope.received_at.rfc5322()));
    for fate in fates {
        put(out, "");
        if let Some((kind, address)) = fate.orcpt.and_then(|orcpt| orcpt.split_once(';')) {
            put(out, &format!("Original-Recipient: {kind};{}", decode_xtext(address)));
        }
        // RFC 6533 §3: the utf-8 address type.
        let kind = if utf8 && fate.recipient.needs_utf8() { "utf-8" } else { "rfc822" };
        put(out, &format!("Final-Recipient: {kind};{}", fate.recipient));
        match fate.action {
            Action::Failed => put(out, "Action: failed"),
            Action::Delayed { .. } => put(out, "Action: delayed"),
        }
        put(out, &format!("Status: {}", fate.status()));
        if !fate.reply.host.is_empty() {
            put(out, &format!("Remote-MTA: dns; {}", one_line(&fate.reply.host)));
        }
        let kind = if fate.reply.code == 0 { "x-landfall" } else { "smtp" };
        put(out, &format!("Diagnostic-Code: {kind}; {}", one_line(&fate.reply.line())));
        put(out, &format!("Last-Attempt-Date: {}", reporting.now.rfc5322()));
        if let Action::Delayed { until } = fate.action {
            put(out, &format!("Will-Retry-Until: {}", until.rfc5322()));
        }
    }
    put(out, "");
}

/// Another server's words, made safe for a header field: printable, one line, bounded.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(800).collect()
}

/// RFC 3461 §4: `+XX` stands for one octet. What does not decode stays as it is.
fn decode_xtext(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('+') {
        decoded.push_str(plain);
        let octet = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match octet.filter(|octet| (b' '..=b'~').contains(octet)) {
            Some(octet) => {
                decoded.push(char::from(octet));
                rest = &after[2..];
            }
            None => {
                let _ = decoded.write_char('+');
                rest = after;
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

/// Up to and with the line break before the empty line; everything when there is none.
fn header_of(content: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(content, b"\r\n\r\n").map_or(content.len(), |at| at + 2);
    &content[..end.min(RETURN_LIMIT_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{BodyType, Peer, Recipient, Transport};
    use mail_parser::{MessageParser, MimeHeaders};

    fn envelope() -> Envelope {
        let mut anna = Recipient::new(Address::parse("anna@contoso.com").expect("an address"));
        anna.orcpt = Some("rfc822;anna+2Bx@contoso.com".to_owned());
        let mut peer = Peer::new("192.0.2.1".parse().expect("an address"));
        peer.helo = "mail.sender.example".to_owned();
        Envelope {
            id: MessageId::from_raw(7),
            received_at: Timestamp::from_millis(1_800_000_000_000),
            sender: Some(Address::parse("sue@sender.example").expect("an address")),
            recipients: vec![anna],
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: Some("QQ+3D1".to_owned()),
            transport: Transport::Incoming,
            tenant: None,
            connector: None,
            spf: None,
            require_tls: false,
            peer: Some(peer),
        }
    }

    const CONTENT: &[u8] = b"Received: from a\r\nSubject: hello\r\n\r\nbody line\r\n";

    fn notice(envelope: &Envelope, reply: &RemoteReply) -> String {
        let hostname = Domain::parse("edge1.eur.example.net").expect("a name");
        let reporting = Reporting {
            hostname: &hostname,
            id: MessageId::from_raw(9),
            now: Timestamp::from_millis(1_800_000_100_000),
        };
        let recipient = &envelope.recipients[0];
        let fates = [Fate {
            recipient: &recipient.address,
            orcpt: recipient.orcpt.as_deref(),
            action: Action::Failed,
            verdict: None,
            reply,
        }];
        let to = envelope.sender.as_ref().expect("a sender");
        String::from_utf8(compose(reporting, to, envelope, &fates, CONTENT)).expect("text")
    }

    fn refused() -> RemoteReply {
        RemoteReply {
            host: "store1 [127.0.0.1]:24".to_owned(),
            code: 550,
            status: Status::new(5, 1, 1),
            text: "no such\r\nInjected: user".to_owned(),
        }
    }

    #[test]
    fn a_notice_is_a_report_that_programs_read() {
        let text = notice(&envelope(), &refused());
        let parsed = MessageParser::default().parse(text.as_bytes()).expect("a message");
        assert!(parsed.is_content_type("multipart", "report"));
        assert_eq!(parsed.attachment_count(), 2, "{text}");
        for field in [
            "Original-Envelope-Id: QQ=1\r\n",
            "Reporting-MTA: dns; edge1.eur.example.net\r\n",
            "Original-Recipient: rfc822;anna+x@contoso.com\r\n",
            "Final-Recipient: rfc822;anna@contoso.com\r\n",
            "Action: failed\r\n",
            "Status: 5.1.1\r\n",
            "Diagnostic-Code: smtp; 550 5.1.1 no such  Injected: user\r\n",
            "Remote-MTA: dns; store1 [127.0.0.1]:24\r\n",
            "Content-Type: text/rfc822-headers\r\n",
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
        assert!(!text.contains("body line"), "only the header comes back by default");
        assert!(text.split('\n').all(|line| line.is_empty() || line.ends_with('\r')));
    }

    #[test]
    fn ret_full_returns_the_message() {
        let full = Envelope { ret: Some(Ret::Full), ..envelope() };
        let text = notice(&full, &refused());
        assert!(text.contains("Content-Type: message/rfc822\r\n"));
        assert!(text.contains("Subject: hello\r\n\r\nbody line\r\n"));
    }

    #[test]
    fn xtext_that_does_not_decode_stays() {
        for (text, decoded) in
            [("a+2Bb", "a+b"), ("a+", "a+"), ("+ZZ", "+ZZ"), ("+0D+0A", "+0D+0A"), ("plain", "plain")]
        {
            assert_eq!(decode_xtext(text), decoded);
        }
    }
}
