//! Notice: the delivery status notification that tells a sender what became of a message.
//!
//! RFC 3461 to 3464 and 6533: `multipart/report` of words for people, fields for programs, and the message
//! or its header. Pure: `queue` and `listener` decide whether one is owed and hand it to the spool.

use std::borrow::Cow;

use bytes::Bytes;

use super::meaning;
use super::parts::{Encoding, Form, Part, assemble, take_apart};
use crate::clock::Timestamp;
use crate::mail::{
    Address, BodyType, Domain, Envelope, Handed, MessageId, Recipient, RemoteReply, Ret, SpfResult, Status,
    Transport,
};
use crate::smtp::xtext;
use crate::spool::{self, Content};

/// How much of a refused message comes back at most, so that a notice is never a way to send bulk.
pub const RETURN_LIMIT_BYTES: usize = 1024 * 1024;
/// How much of its header.
pub const HEADER_LIMIT_BYTES: usize = 64 * 1024;
/// Columns of the words for people, and of a folded field.
const WIDTH: usize = 76;
/// Octets of a word that is too long for a line.
const WORD_LIMIT: usize = 900;

/// What happened to one recipient.
#[derive(Debug, Clone)]
pub struct Fate<'a> {
    pub recipient: &'a Recipient,
    pub action: Action,
    /// What became of it, when that is not simply what the next hop said: `550 5.4.300 Message expired`.
    pub verdict: Option<(Status, Cow<'static, str>)>,
    /// The last thing a next hop said: the diagnostic.
    pub reply: &'a RemoteReply,
    /// Absent when nobody was ever asked.
    pub attempted_at: Option<Timestamp>,
}

impl<'a> Fate<'a> {
    /// A success that the sender wants to hear of, and from us.
    pub fn of_success(
        recipient: &'a Recipient,
        handed: Handed,
        reply: &'a RemoteReply,
        now: Timestamp,
    ) -> Option<Self> {
        let action = Action::of_success(handed).filter(|action| action.is_wanted_by(recipient))?;
        Some(Self { recipient, action, verdict: None, reply, attempted_at: Some(now) })
    }

    fn status(&self) -> Status {
        let status = self.verdict.as_ref().map_or(self.reply.status, |(status, _)| *status);
        match self.action {
            // What is tried again is transient, also where a server refused the connection for good. RFC 3464 §2.3.4
            Action::Delayed { .. } => Status { class: 4, ..status },
            Action::Failed | Action::Delivered | Action::Relayed => status,
        }
    }
}

/// `Action:` of RFC 3464 §2.3.3. `expanded` is for mailing lists, which Landfall has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Failed,
    Delayed {
        until: Timestamp,
    },
    /// Into the mailbox (RFC 3461 §5.3).
    Delivered,
    /// To a next hop that will send no word of its success (RFC 3461 §5.2.2).
    Relayed,
}

impl Action {
    /// What a success is called in a notice of ours, where one is ours to send.
    pub fn of_success(handed: Handed) -> Option<Self> {
        match handed {
            Handed::ToMailbox => Some(Self::Delivered),
            Handed::WithoutWishes => Some(Self::Relayed),
            Handed::WithWishes => None,
        }
    }

    /// Whether the sender wants to hear of it for this recipient (RFC 3461 §4.1).
    pub fn is_wanted_by(self, recipient: &Recipient) -> bool {
        match self {
            Self::Failed => recipient.wants_failure(),
            Self::Delayed { .. } => recipient.wants_delay(),
            Self::Delivered | Self::Relayed => recipient.wants_success(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed { .. } => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
        }
    }

    /// What the recipients of one kind are headed with.
    fn headline(self) -> &'static str {
        match self {
            Self::Failed => {
                "Your message could not be delivered to the recipients below, and no further attempt will be \
                 made:"
            }
            Self::Delayed { .. } => {
                "Your message could not be delivered yet to the recipients below. You need not send it again: \
                 attempts go on until the time given."
            }
            Self::Delivered => "Your message was put into the mailboxes of these recipients:",
            Self::Relayed => {
                "Your message was handed on to the mail system of these recipients, which sends no such \
                 notices. You will not hear whether it reached their mailboxes:"
            }
        }
    }
}

/// To whom a notice may go at all: not to `<>` (rule 85), nor to somebody who is not the sender.
pub fn addressee(envelope: &Envelope) -> Result<&Address, &'static str> {
    match (&envelope.sender, envelope.spf) {
        (None, _) => Err("the sender is null"),
        // Spec, section 6: it would go to somebody whose name was forged.
        (Some(_), Some(SpfResult::Fail)) => Err("SPF fails for the sender, who may be forged"),
        (Some(sender), _) => Ok(sender),
    }
}

/// Who writes the notice.
#[derive(Debug, Clone, Copy)]
pub struct Reporting<'a> {
    pub hostname: &'a Domain,
    pub id: MessageId,
    pub now: Timestamp,
}

/// The notice and its envelope. `original` is the message as it was kept, or as much of it as the caller
/// read: its header must be whole. `None` where it could not be read, or may not rest on this disk.
pub fn write(
    reporting: Reporting<'_>,
    to: &Address,
    envelope: &Envelope,
    fates: &[Fate<'_>],
    original: Option<&[u8]>,
) -> spool::Notice {
    // What may travel by secure connections only is not quoted where they are not sure. RFC 8689 §5
    let original = original.filter(|_| !envelope.require_tls);
    let form = Alphabet::of(to, envelope, fates);
    let header = own_header(reporting, to, fates);
    let words = words_for_people(reporting, envelope, fates, original);
    let fields = fields_for_programs(reporting, envelope, fates, form);
    let charset = if words.is_ascii() { "us-ascii" } else { "utf-8" };
    let text = format!("text/plain; charset={charset}");
    let mut parts = match form {
        Alphabet::Ascii => vec![
            Part::narrow(&text, words.as_bytes()),
            Part::new("message/delivery-status", fields.as_bytes()),
        ],
        Alphabet::Utf8 => vec![
            Part::new(&text, words.as_bytes()),
            Part::new("message/global-delivery-status", fields.as_bytes()),
        ],
    };
    let failed = fates.iter().any(|fate| fate.action == Action::Failed);
    // RET is about failures; other notices bring back the header. RFC 3461 §4.3
    let full = failed && envelope.ret == Some(Ret::Full);
    parts.extend(original.map(|original| returned(original, full, form)));
    finish(reporting, to, header, &parts)
}

/// As much of a message as a notice about it may return; `None` when it cannot be read.
pub async fn beginning(envelope: &Envelope, content: &Content) -> Option<Vec<u8>> {
    let limit = match envelope.ret {
        Some(Ret::Full) => RETURN_LIMIT_BYTES,
        Some(Ret::Headers) | None => HEADER_LIMIT_BYTES,
    };
    read(content, limit).await
}

/// The header of a message, or as much of it as a notice may return.
pub async fn header(content: &Content) -> Option<Vec<u8>> {
    let mut bytes = read(content, HEADER_LIMIT_BYTES).await?;
    let end = header_of(&bytes).len();
    bytes.truncate(end);
    Some(bytes)
}

/// All of a notice of ours.
pub async fn whole(content: &Content) -> Option<Vec<u8>> {
    read(content, usize::MAX).await
}

/// Up to `limit`, and a little more so that it shows when there is more.
async fn read(content: &Content, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = content.head.to_vec();
    let mut body = content.body.reader();
    while bytes.len() <= limit {
        match body.next().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(_) => return None,
        }
    }
    Some(bytes)
}

/// The same notice for a road without SMTPUTF8 or 8BITMIME: addresses in their ASCII form, the rest encoded
/// (RFC 6533 §3), an 8-bit message cut down to its header. `None` when there is no such form: the address
/// that it goes to is itself beyond ASCII, or it is in that form already.
pub fn narrow(reporting: Reporting<'_>, to: &Address, content: &[u8]) -> Option<spool::Notice> {
    let (header, parts) = take_apart(content).filter(|(header, _)| header.is_ascii())?;
    if parts.iter().all(|part| part.encoding != Encoding::EightBit) {
        return None;
    }
    let parts: Vec<Part> = parts.into_iter().map(narrow_part).collect();
    Some(finish(reporting, to, header, &parts))
}

fn narrow_part(part: Part) -> Part {
    match (part.encoding, part.kind.as_str()) {
        (Encoding::SevenBit | Encoding::QuotedPrintable, _) => part,
        (Encoding::EightBit, "message/global-delivery-status") => {
            let fields = String::from_utf8_lossy(&part.body);
            let narrow: String = fields.split_inclusive("\r\n").map(narrow_field).collect();
            Part::narrow("message/delivery-status", narrow.as_bytes())
        }
        // No encoding is allowed for it. RFC 2046 §5.2.1
        (Encoding::EightBit, "message/rfc822") => Part::narrow("text/rfc822-headers", header_of(&part.body)),
        (Encoding::EightBit, kind) => Part::narrow(kind, &part.body),
    }
}

/// `Original-Recipient: utf-8;…` and `Final-Recipient: utf-8;…` in ASCII; of other fields what is beyond it
/// is replaced.
fn narrow_field(line: &str) -> Cow<'_, str> {
    if line.is_ascii() {
        return line.into();
    }
    let address = line.split_once(&format!("{};", xtext::UTF8)).filter(|(name, _)| name.ends_with(": "));
    match address {
        Some((name, address)) => {
            let address = xtext::encode_address(address.trim_end_matches("\r\n"));
            // No field can be that long, and the one that can is optional: the original recipient.
            if address.len() > WORD_LIMIT {
                return "".into();
            }
            format!("{name}{};{address}\r\n", xtext::UTF8).into()
        }
        None => line.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect(),
    }
}

fn finish(reporting: Reporting<'_>, to: &Address, header: String, parts: &[Part]) -> spool::Notice {
    let content = assemble(&header, &reporting.id.to_string(), parts);
    let international = parts.iter().any(|part| part.kind.starts_with("message/global"));
    let envelope = Envelope {
        body: if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime },
        smtputf8: to.needs_utf8() || international && !content.is_ascii(),
        transport: Transport::Notice,
        // RFC 5321 §4.5.5: a notice has the null reverse-path, so that it causes no other.
        ..Envelope::new(reporting.id, reporting.now, None, vec![Recipient::new(to.clone())])
    };
    spool::Notice { envelope, content: Bytes::from(content) }
}

/// Which characters the notice may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    Ascii,
    /// An internationalised message (RFC 6533): its sender reads UTF-8.
    Utf8,
}

impl Alphabet {
    fn of(to: &Address, envelope: &Envelope, fates: &[Fate<'_>]) -> Self {
        let beyond = |fate: &Fate<'_>| {
            fate.recipient.address.needs_utf8()
                || fate.recipient.orcpt.as_ref().is_some_and(|orcpt| !orcpt.is_ascii())
        };
        if to.needs_utf8() || envelope.smtputf8 || fates.iter().any(beyond) {
            Self::Utf8
        } else {
            Self::Ascii
        }
    }

    /// Another server's words, made safe for a header field: printable, one line, bounded.
    fn one_line(self, text: &str) -> String {
        let safe = |c: char| match (c, self) {
            (c, _) if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => ' ',
            (c, Self::Ascii) if !c.is_ascii() => '?',
            (c, _) => c,
        };
        text.chars().map(safe).take(800).collect()
    }
}

fn own_header(reporting: Reporting<'_>, to: &Address, fates: &[Fate<'_>]) -> String {
    let mut out = String::with_capacity(512);
    put(&mut out, &format!("From: Mail Delivery System <postmaster@{}>", reporting.hostname));
    put(&mut out, &format!("To: <{to}>"));
    put(&mut out, &format!("Subject: {}", subject(fates)));
    put(&mut out, &format!("Date: {}", reporting.now.rfc5322()));
    put(&mut out, &format!("Message-ID: <{}@{}>", reporting.id, reporting.hostname));
    // RFC 3834 §5: nobody's program should answer this.
    put(&mut out, "Auto-Submitted: auto-replied");
    out
}

fn subject(fates: &[Fate<'_>]) -> &'static str {
    let any = |wanted: fn(Action) -> bool| fates.iter().any(|fate| wanted(fate.action));
    if any(|action| action == Action::Failed) {
        "Undeliverable mail"
    } else if any(|action| matches!(action, Action::Delayed { .. })) {
        "Mail is delayed"
    } else if any(|action| action == Action::Relayed) {
        "Mail was handed on"
    } else {
        "Mail was delivered"
    }
}

/// The message or its header, as a part of the notice.
fn returned(original: &[u8], full: bool, form: Alphabet) -> Part {
    let header = header_of(original);
    let is_text = std::str::from_utf8(header).is_ok();
    match form {
        Alphabet::Utf8 if full && is_text && original.len() <= RETURN_LIMIT_BYTES => {
            Part::new("message/global", original)
        }
        Alphabet::Utf8 if is_text => Part::new("message/global-headers", header),
        // It may not be encoded (RFC 2046 §5.2.1): what has no honest form comes back as its header.
        Alphabet::Ascii
            if full && original.len() <= RETURN_LIMIT_BYTES && Form::of(original) != Form::Unfit =>
        {
            Part::new("message/rfc822", original)
        }
        // RFC 6522 §4: broken header fields are encoded.
        Alphabet::Ascii | Alphabet::Utf8 => Part::narrow("text/rfc822-headers", header),
    }
}

/// Up to and with the line break before the empty line, or the last whole line of as much as may come back.
fn header_of(content: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(content, b"\r\n\r\n").map_or(content.len(), |at| at + 2);
    if end <= HEADER_LIMIT_BYTES {
        return &content[..end];
    }
    let cut = memchr::memmem::rfind(&content[..HEADER_LIMIT_BYTES], b"\r\n").map_or(0, |at| at + 2);
    &content[..cut]
}

fn put(out: &mut String, line: &str) {
    out.push_str(line);
    out.push_str("\r\n");
}

/// Words in lines of a readable width, each behind `indent`.
fn put_words(out: &mut String, indent: &str, text: &str) {
    let mut column = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut word = word;
        loop {
            let mut end = word.len().min(WORD_LIMIT);
            while !word.is_char_boundary(end) {
                end -= 1;
            }
            let piece = &word[..end];
            if column > 0 && column + 1 + piece.len() > WIDTH {
                out.push_str("\r\n");
                column = 0;
            }
            if column == 0 {
                out.push_str(indent);
                column = indent.len();
            } else {
                out.push(' ');
                column += 1;
            }
            out.push_str(piece);
            column += piece.len();
            word = &word[end..];
            if word.is_empty() {
                break;
            }
        }
    }
    if column > 0 {
        out.push_str("\r\n");
    }
}

fn words_for_people(
    reporting: Reporting<'_>,
    envelope: &Envelope,
    fates: &[Fate<'_>],
    original: Option<&[u8]>,
) -> String {
    let mut out = String::with_capacity(1024);
    put(&mut out, &format!("This is the mail system of {}.", reporting.hostname));
    put(&mut out, "");
    if let Some(subject) = original.and_then(subject_of) {
        put_words(&mut out, "", &format!("It is about your message \"{subject}\"."));
        put(&mut out, "");
    }
    for action in
        [Action::Failed, Action::Delayed { until: reporting.now }, Action::Relayed, Action::Delivered]
    {
        let mut fates = fates.iter().filter(|fate| fate.action.word() == action.word()).peekable();
        if fates.peek().is_none() {
            continue;
        }
        put_words(&mut out, "", action.headline());
        put(&mut out, "");
        for fate in fates {
            words_for_one(&mut out, fate);
        }
    }
    put_words(
        &mut out,
        "",
        &format!(
            "If you ask somebody for help, send this whole notice along. The message was received here on {} \
             as {}.",
            envelope.received_at.rfc5322(),
            envelope.id
        ),
    );
    out
}

fn words_for_one(out: &mut String, fate: &Fate<'_>) {
    let address = fate.recipient.address.to_string();
    put(out, &format!("  {address}"));
    let original =
        fate.recipient.orcpt.as_deref().and_then(|orcpt| original_recipient(orcpt, Alphabet::Utf8));
    if let Some((_, original)) = original.filter(|(_, original)| *original != address) {
        put_words(out, "    ", &format!("(you wrote to {})", Alphabet::Utf8.one_line(&original)));
    }
    let is_bad_news = matches!(fate.action, Action::Failed | Action::Delayed { .. });
    if let Some(meaning) = meaning::of(fate.status(), fate.reply).filter(|_| is_bad_news) {
        put_words(out, "    ", meaning);
    }
    if let Some((_, words)) = &fate.verdict {
        put_words(out, "    ", &Alphabet::Utf8.one_line(words));
    }
    let line = Alphabet::Utf8.one_line(&fate.reply.line());
    match (mta(&fate.reply.host), fate.reply.code) {
        // Of our own mailboxes there is no more to say.
        (None, 0) if fate.action == Action::Delivered => {}
        (Some(mta), 1..) => put_words(out, "    ", &format!("{} said: {line}", mta.name)),
        (Some(mta), 0) => put_words(out, "    ", &format!("{}: {line}", mta.name)),
        (None, _) => put_words(out, "    ", &line),
    }
    if let Action::Delayed { until } = fate.action {
        put(out, &format!("    Attempts go on until {}.", until.rfc5322()));
    }
    put(out, "");
}

/// What its writer called the message, for a writer who knows no ids.
fn subject_of(original: &[u8]) -> Option<String> {
    let parsed = mail_parser::MessageParser::new().parse_headers(header_of(original))?;
    let subject: String = Alphabet::Utf8.one_line(parsed.subject()?).trim().chars().take(120).collect();
    (!subject.is_empty()).then_some(subject)
}

/// RFC 3464 §2.2 and §2.3; one group of fields for the message, then one per recipient.
fn fields_for_programs(
    reporting: Reporting<'_>,
    envelope: &Envelope,
    fates: &[Fate<'_>],
    form: Alphabet,
) -> String {
    let mut out = String::with_capacity(1024);
    if let Some(envid) = &envelope.envid {
        put(&mut out, &format!("Original-Envelope-Id: {}", form.one_line(&xtext::decode(envid))));
    }
    put(&mut out, &format!("Reporting-MTA: dns; {}", reporting.hostname));
    if let Some(peer) = envelope.peer.as_ref().filter(|peer| !peer.helo.is_empty()) {
        put(&mut out, &format!("Received-From-MTA: dns; {} ({})", form.one_line(&peer.helo), peer.ip));
    }
    put(&mut out, &format!("Arrival-Date: {}", envelope.received_at.rfc5322()));
    for fate in fates {
        put(&mut out, "");
        fields_for_one(&mut out, fate, form);
    }
    out
}

fn fields_for_one(out: &mut String, fate: &Fate<'_>, form: Alphabet) {
    let original = fate.recipient.orcpt.as_deref().and_then(|orcpt| original_recipient(orcpt, form));
    if let Some((kind, address)) = original {
        put(out, &format!("Original-Recipient: {};{}", form.one_line(kind), form.one_line(&address)));
    }
    let kind = if fate.recipient.address.needs_utf8() { xtext::UTF8 } else { "rfc822" };
    put(out, &format!("Final-Recipient: {kind};{}", shown(&fate.recipient.address, form)));
    put(out, &format!("Action: {}", fate.action.word()));
    put(out, &format!("Status: {}", fate.status()));
    if let Some(Mta { name, place }) = mta(&fate.reply.host) {
        put(out, &format!("Remote-MTA: dns; {name} ({place})"));
    }
    // Words of our own are no reply of a server. RFC 3464 §2.3.6
    let kind = if fate.reply.code == 0 { "x-landfall" } else { "smtp" };
    put_folded(out, &format!("Diagnostic-Code: {kind}; {}", form.one_line(&fate.reply.line())));
    if let Some(at) = fate.attempted_at {
        put(out, &format!("Last-Attempt-Date: {}", at.rfc5322()));
    }
    if let Action::Delayed { until } = fate.action {
        put(out, &format!("Will-Retry-Until: {}", until.rfc5322()));
    }
}

/// A field that may be long: in lines of a bounded length.
fn put_folded(out: &mut String, field: &str) {
    let mut folded = String::with_capacity(field.len() + 32);
    put_words(&mut folded, " ", field);
    out.push_str(folded.trim_start_matches(' '));
}

/// An address as the notice's alphabet writes it (RFC 6533 §3).
fn shown(address: &Address, form: Alphabet) -> String {
    match form {
        Alphabet::Ascii if address.needs_utf8() => xtext::encode_address(&address.to_string()),
        Alphabet::Ascii | Alphabet::Utf8 => address.to_string(),
    }
}

/// ORCPT's address type and address, decoded.
fn original_recipient(orcpt: &str, form: Alphabet) -> Option<(&str, String)> {
    let (kind, address) = orcpt.split_once(';')?;
    if !kind.eq_ignore_ascii_case(xtext::UTF8) {
        return Some((kind, xtext::decode(address)));
    }
    let decoded = xtext::decode_address(address)?;
    match form {
        Alphabet::Ascii => Some((kind, xtext::encode_address(&decoded))),
        Alphabet::Utf8 => Some((kind, decoded)),
    }
}

/// A next hop as RFC 3464 §2.1.2 names it, and where it was.
struct Mta {
    name: String,
    place: String,
}

/// Reads `store1.example.net [192.0.2.7]:24` and `[192.0.2.7]:24`. None for our own mailboxes and local
/// sockets, whose places are nobody's business.
fn mta(host: &str) -> Option<Mta> {
    if host.is_empty() || host.contains("://") {
        return None;
    }
    let host = Alphabet::Ascii.one_line(host);
    let (name, place) = match (host.split_once(' '), host.rsplit_once(':')) {
        (Some((name, place)), _) => (name.to_owned(), place.to_owned()),
        (None, Some((name, port))) => (name.to_owned(), format!("port {port}")),
        (None, None) => (host.clone(), "no port".to_owned()),
    };
    // RFC 5321 §4.1.3
    let literal = name.strip_prefix('[').filter(|rest| rest.contains(':') && !rest.starts_with("IPv6:"));
    let name = literal.map_or_else(|| name.clone(), |rest| format!("[IPv6:{rest}"));
    Some(Mta { name, place })
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders};
    use proptest::prelude::*;

    use super::*;
    use crate::mail::{Notify, Peer};

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
    }

    fn envelope() -> Envelope {
        let mut anna = Recipient::new(address("anna@contoso.com"));
        anna.orcpt = Some("rfc822;anna+2Bx@contoso.com".to_owned());
        let mut peer = Peer::new("192.0.2.1".parse().expect("an address"));
        peer.helo = "mail.sender.example".to_owned();
        Envelope {
            envid: Some("QQ+3D1".to_owned()),
            peer: Some(peer),
            ..Envelope::new(
                MessageId::from_raw(7),
                Timestamp::from_millis(1_800_000_000_000),
                Some(address("sue@sender.example")),
                vec![anna],
            )
        }
    }

    const CONTENT: &[u8] = b"Received: from a\r\nSubject: hello\r\n\r\nbody line\r\n";

    fn with<T>(act: impl FnOnce(Reporting<'_>) -> T) -> T {
        let hostname = Domain::parse("edge1.eur.example.net").expect("a name");
        let now = Timestamp::from_millis(1_800_000_100_000);
        act(Reporting { hostname: &hostname, id: MessageId::from_raw(9), now })
    }

    fn fate<'a>(envelope: &'a Envelope, action: Action, reply: &'a RemoteReply) -> Fate<'a> {
        let attempted_at = Some(Timestamp::from_millis(1_800_000_090_000));
        Fate { recipient: &envelope.recipients[0], action, verdict: None, reply, attempted_at }
    }

    fn notice_of(envelope: &Envelope, action: Action, reply: &RemoteReply, content: &[u8]) -> spool::Notice {
        let to = envelope.sender.as_ref().expect("a sender");
        with(|reporting| write(reporting, to, envelope, &[fate(envelope, action, reply)], Some(content)))
    }

    fn text_of(notice: &spool::Notice) -> String {
        String::from_utf8(notice.content.to_vec()).expect("text")
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
        let notice = notice_of(&envelope(), Action::Failed, &refused(), CONTENT);
        let text = text_of(&notice);
        let parsed = MessageParser::default().parse(text.as_bytes()).expect("a message");
        assert!(parsed.is_content_type("multipart", "report"));
        assert_eq!(parsed.attachment_count(), 2, "{text}");
        for field in [
            "Original-Envelope-Id: QQ=1\r\n",
            "Reporting-MTA: dns; edge1.eur.example.net\r\n",
            "Received-From-MTA: dns; mail.sender.example (192.0.2.1)\r\n",
            "Arrival-Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n\r\n",
            "Original-Recipient: rfc822;anna+x@contoso.com\r\n",
            "Final-Recipient: rfc822;anna@contoso.com\r\n",
            "Action: failed\r\n",
            "Status: 5.1.1\r\n",
            "Remote-MTA: dns; store1 ([127.0.0.1]:24)\r\n",
            "Diagnostic-Code: smtp; 550 5.1.1 no such Injected: user\r\n",
            "Last-Attempt-Date: Fri, 15 Jan 2027 08:01:30 +0000\r\n",
            "Content-Type: text/rfc822-headers\r\n",
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
        for words in ["about your message \"hello\"", "typing mistake", "you wrote to anna+x@contoso.com"] {
            assert!(text.contains(words), "{words} in {text}");
        }
        assert!(!text.contains("body line"), "only the header comes back by default");
        assert_eq!(Form::of(&notice.content), Form::SevenBit);
        assert_eq!((notice.envelope.body, notice.envelope.smtputf8), (BodyType::SevenBit, false));
        assert_eq!(notice.envelope.sender, None);
    }

    #[test]
    fn ret_full_returns_the_message_when_it_failed_and_only_then() {
        let full = Envelope { ret: Some(Ret::Full), ..envelope() };
        let text = text_of(&notice_of(&full, Action::Failed, &refused(), CONTENT));
        assert!(text.contains("Content-Type: message/rfc822\r\n"));
        assert!(text.contains("Subject: hello\r\n\r\nbody line\r\n"));
        let until = Timestamp::from_millis(1_800_000_200_000);
        for action in [Action::Delayed { until }, Action::Delivered, Action::Relayed] {
            let text = text_of(&notice_of(&full, action, &refused(), CONTENT));
            assert!(text.contains("Content-Type: text/rfc822-headers\r\n"), "{text}");
            assert!(text.contains(&format!("Action: {}\r\n", action.word())), "{text}");
            assert!(!text.contains("body line"), "{text}");
        }
    }

    #[test]
    fn what_requires_tls_is_not_quoted() {
        let secret = Envelope { require_tls: true, ret: Some(Ret::Full), ..envelope() };
        let text = text_of(&notice_of(&secret, Action::Failed, &refused(), CONTENT));
        assert!(!text.contains("hello") && !text.contains("body line"), "{text}");
        assert!(text.contains("Final-Recipient: "));
    }

    #[test]
    fn what_has_no_honest_form_comes_back_as_its_header() {
        let full = Envelope { ret: Some(Ret::Full), ..envelope() };
        for body in ["bare\nline feed\r\n", "a\0b\r\n", &"x".repeat(999)] {
            let content = format!("Subject: hello\r\n\r\n{body}");
            let text = text_of(&notice_of(&full, Action::Failed, &refused(), content.as_bytes()));
            assert!(text.contains("Content-Type: text/rfc822-headers\r\n"), "{text}");
        }
        let large = [CONTENT, &vec![b'\n'; RETURN_LIMIT_BYTES]].concat();
        let notice = notice_of(&full, Action::Failed, &refused(), &large);
        assert!(notice.content.len() < 4096);
        let eight_bit = b"Subject: hello\r\n\r\n\xe9\r\n";
        let notice = notice_of(&full, Action::Failed, &refused(), eight_bit);
        assert_eq!(notice.envelope.body, BodyType::EightBitMime);
        assert!(memchr::memmem::find(&notice.content, b"\r\n\r\n\xe9\r\n").is_some());
        let broken = b"Subject: gr\xfc\xdfe\r\nX: y\r\n\r\nbody\r\n";
        let notice = notice_of(&envelope(), Action::Failed, &refused(), broken);
        assert!(text_of(&notice).contains("Subject: gr=FC=DFe\r\n"));
        let long = [b"X: ".as_slice(), &vec![b'x'; HEADER_LIMIT_BYTES * 2]].concat();
        let many = [b"Subject: hello\r\n".as_slice(), &long, b"\r\n\r\nbody"].concat();
        assert!(notice_of(&envelope(), Action::Failed, &refused(), &many).content.len() < 4096);
    }

    fn international() -> Envelope {
        let mut jurgen = Recipient::new(address("j\u{fc}rgen@contoso.com"));
        jurgen.orcpt = Some("utf-8;j\\x{FC}rgen+x@contoso.com".replace('+', "\\x{2B}"));
        Envelope { recipients: vec![jurgen], smtputf8: true, ..envelope() }
    }

    #[test]
    fn an_international_message_is_reported_as_rfc_6533_wants_it() {
        let content = "Subject: gr\u{fc}\u{df}e\r\n\r\nbody\r\n".as_bytes();
        let notice = notice_of(&international(), Action::Failed, &refused(), content);
        let text = text_of(&notice);
        for piece in [
            "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n",
            "Content-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit\r\n",
            "Original-Recipient: utf-8;j\u{fc}rgen+x@contoso.com\r\n",
            "Final-Recipient: utf-8;j\u{fc}rgen@contoso.com\r\n",
            "about your message \"gr\u{fc}\u{df}e\"",
        ] {
            assert!(text.contains(piece), "{piece} in {text}");
        }
        assert!(text[..text.find("\r\n\r\n").expect("a header")].contains("Content-Transfer-Encoding: 8bit"));
        assert_eq!((notice.envelope.body, notice.envelope.smtputf8), (BodyType::EightBitMime, true));
        let full = Envelope { ret: Some(Ret::Full), ..international() };
        let whole = text_of(&notice_of(&full, Action::Failed, &refused(), content));
        assert!(whole.contains("Content-Type: message/global\r\n") && whole.contains("\r\n\r\nbody\r\n"));
    }

    #[test]
    fn a_way_back_without_smtputf8_gets_it_in_ascii() {
        let content = "Subject: gr\u{fc}\u{df}e\r\n\r\nbody\r\n".as_bytes();
        let notice = notice_of(&international(), Action::Failed, &refused(), content);
        let to = address("sue@sender.example");
        let narrowed = with(|reporting| narrow(reporting, &to, &notice.content)).expect("another form");
        let text = text_of(&narrowed);
        assert!(text.is_ascii(), "{text}");
        for piece in [
            "Content-Type: message/delivery-status\r\nContent-Transfer-Encoding: 7bit\r\n",
            "Original-Recipient: utf-8;j\\x{FC}rgen\\x{2B}x@contoso.com\r\n",
            "Final-Recipient: utf-8;j\\x{FC}rgen@contoso.com\r\n",
            "Content-Type: message/global-headers\r\nContent-Transfer-Encoding: quoted-printable\r\n",
            "Subject: gr=C3=BC=C3=9Fe\r\n",
        ] {
            assert!(text.contains(piece), "{piece} in {text}");
        }
        assert_eq!((narrowed.envelope.body, narrowed.envelope.smtputf8), (BodyType::SevenBit, false));
        assert_eq!(with(|reporting| narrow(reporting, &to, &narrowed.content)), None, "once is enough");
        let full = Envelope { ret: Some(Ret::Full), ..envelope() };
        let eight_bit = notice_of(&full, Action::Failed, &refused(), b"Subject: x\r\n\r\n\xe9\r\n");
        let narrowed = with(|reporting| narrow(reporting, &to, &eight_bit.content)).expect("another form");
        assert!(text_of(&narrowed).contains("text/rfc822-headers"), "{narrowed:?}");
        // Whoever can only be named in UTF-8 can only be reached in UTF-8.
        let envelope = Envelope { sender: Some(address("s\u{fc}@sender.example")), ..international() };
        let notice = notice_of(&envelope, Action::Failed, &refused(), content);
        assert_eq!(with(|reporting| narrow(reporting, &to, &notice.content)), None);
    }

    #[test]
    fn nobody_is_told_who_may_not_have_sent_it() {
        assert!(addressee(&envelope()).is_ok());
        assert!(addressee(&Envelope { sender: None, ..envelope() }).is_err());
        assert!(addressee(&Envelope { spf: Some(SpfResult::Fail), ..envelope() }).is_err());
        assert!(addressee(&Envelope { spf: Some(SpfResult::SoftFail), ..envelope() }).is_ok());
    }

    #[test]
    fn a_next_hop_is_named_and_a_place_of_ours_is_not() {
        for (host, shown) in [
            ("store1.example.net [192.0.2.7]:24", Some("store1.example.net ([192.0.2.7]:24)")),
            ("[192.0.2.7]:24", Some("[192.0.2.7] (port 24)")),
            ("[2001:db8::7]:24", Some("[IPv6:2001:db8::7] (port 24)")),
            ("lmtp+unix:///run/store", None),
            ("maildir:///var/mail", None),
            ("", None),
        ] {
            let name = mta(host).map(|mta| format!("{} ({})", mta.name, mta.place));
            assert_eq!(name.as_deref(), shown, "{host}");
        }
    }

    #[test]
    fn a_success_is_ours_to_tell_unless_the_next_hop_knows_the_wish() {
        let reply = refused();
        let now = Timestamp::from_millis(0);
        let mut recipient = Recipient::new(address("anna@contoso.com"));
        let action = |recipient: &Recipient, handed| {
            Fate::of_success(recipient, handed, &reply, now).map(|fate| fate.action)
        };
        assert_eq!(action(&recipient, Handed::ToMailbox), None, "nobody asked");
        recipient.notify = Some(Notify { success: true, failure: false, delay: false });
        assert_eq!(action(&recipient, Handed::ToMailbox), Some(Action::Delivered));
        assert_eq!(action(&recipient, Handed::WithoutWishes), Some(Action::Relayed));
        assert_eq!(action(&recipient, Handed::WithWishes), None);
    }

    proptest! {
        /// Whatever came in and whatever a next hop said, the notice can travel, and is what it claims to be.
        #[test]
        fn any_notice_is_valid_mime(
            content in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..600),
                "(Subject: [ -~\u{a1}-\u{ff}]{0,60}\r\n){0,3}\r\n[ -~\r\n\u{a1}-\u{ff}]{0,300}".prop_map(String::into_bytes),
                (990usize..1010).prop_map(|long| [b"Subject: ".as_slice(), &vec![b'x'; long]].concat()),
            ],
            said in "\\PC{0,900}",
            host in "[a-z]{0,5}( \\[127\\.0\\.0\\.1\\]:24)?",
            code in prop_oneof![Just(0u16), Just(550)],
            local in "[a-z\u{e4}\u{fc}]{1,20}",
            orcpt in prop::option::of(prop_oneof![
                "rfc822;[a-z]{1,400}@b\\.example".prop_map(|text| text),
                "utf-8;[a-z\u{fc}\u{e4}]{1,200}@b\\.example".prop_map(|text| text),
            ]),
            smtputf8 in any::<bool>(),
            full in any::<bool>(),
            action in prop_oneof![Just(Action::Failed), Just(Action::Delivered),
                Just(Action::Delayed { until: Timestamp::from_millis(0) })],
        ) {
            let mut recipient = Recipient::new(address(&format!("{local}@contoso.com")));
            recipient.orcpt = orcpt;
            let ret = full.then_some(Ret::Full);
            let envelope = Envelope { recipients: vec![recipient], smtputf8, ret, ..envelope() };
            let reply = RemoteReply { host, code, status: Status::new(5, 0, 0), text: said };
            let notice = notice_of(&envelope, action, &reply, &content);
            let expected = match notice.envelope.body {
                BodyType::SevenBit => Form::SevenBit,
                BodyType::EightBitMime | BodyType::BinaryMime => Form::EightBit,
            };
            prop_assert_eq!(Form::of(&notice.content), expected);
            check_mime(&notice.content)?;
            prop_assert!(expected == Form::SevenBit || !notice.envelope.smtputf8 || smtputf8
                || envelope.recipients[0].address.needs_utf8() || envelope.recipients[0].orcpt.is_some());
            let to = address("sue@sender.example");
            match with(|reporting| narrow(reporting, &to, &notice.content)) {
                Some(narrowed) => {
                    prop_assert_eq!(Form::of(&narrowed.content), Form::SevenBit);
                    check_mime(&narrowed.content)?;
                }
                None => prop_assert_eq!(expected, Form::SevenBit),
            }
        }
    }

    fn check_mime(content: &[u8]) -> Result<(), TestCaseError> {
        let parsed = MessageParser::default().parse(content).expect("a message");
        prop_assert!(parsed.is_content_type("multipart", "report"));
        let Some((_, parts)) = take_apart(content) else { return Err(TestCaseError::fail("not apart")) };
        prop_assert_eq!(parts.len(), 3);
        for part in &parts {
            let form = Form::of(&part.body);
            match part.encoding {
                Encoding::SevenBit | Encoding::QuotedPrintable => prop_assert_eq!(form, Form::SevenBit),
                Encoding::EightBit => prop_assert_eq!(form, Form::EightBit),
            }
        }
        let status = String::from_utf8(parts[1].body.clone()).expect("its own words");
        prop_assert_eq!(parts[1].encoding == Encoding::QuotedPrintable, false);
        prop_assert_eq!(status.matches("\r\nFinal-Recipient: ").count(), 1);
        for line in status.lines().filter(|line| !line.is_empty()) {
            prop_assert!(line.starts_with(' ') || line.contains(": "), "{line}");
        }
        Ok(())
    }
}
