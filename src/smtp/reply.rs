//! Reply: everything Landfall can answer, and `Answer`, a reply with its particulars.
//!
//! One entry gives label, code, enhanced status, words and source; the wire, the log, the metrics and
//! `docs/REPLIES.md` follow from it. Configuration may change the words, never code, status or ATTR token.
//! Which reply is due is decided elsewhere: `session` and `listener` name it, `net` sends the bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use super::extension::Extensions;
use crate::clock::Timestamp;
use crate::mail::{Domain, MessageId, RemoteReply, SessionId, Status};

/// One line of the catalogue.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in logs and metrics.
    pub label: &'static str,
    pub code: u16,
    pub status: Option<Status>,
    /// The default words. `{service_name}`, `{help_url}` and `{hostname}` are filled in at start-up,
    /// `{ip}`, `{domain}`, `{id}`, `{octets}`, `{verdict}` and `{zone}` from the answer's detail.
    pub text: &'static str,
    /// The rule of `spec/behaviour.md` or the RFC that asks for it.
    pub source: &'static str,
}

macro_rules! catalogue {
    ($($name:ident $label:literal $code:literal $status:literal $text:literal $source:literal;)*) => {
        /// Everything Landfall can answer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reply { $($name),* }

        const ALL: &[Reply] = &[$(Reply::$name),*];

        const ENTRIES: &[Entry] = &[$(Entry {
            label: $label, code: $code, status: status($status), text: $text, source: $source,
        }),*];
    };
}

/// `5.7.64` as a constant; an empty text is a reply without an enhanced code.
const fn status(text: &str) -> Option<Status> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return None;
    }
    let mut parts = [0u16; 3];
    let mut part = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'.' => part += 1,
            digit => parts[part] = parts[part] * 10 + (digit - b'0') as u16,
        }
        at += 1;
    }
    Some(Status::new(parts[0] as u8, parts[1], parts[2]))
}

catalogue! {
    // The conversation itself.
    Banner              "banner"                220 ""        "{hostname} ESMTP Landfall" "RFC 5321 §4.2";
    Hello               "hello"                 250 ""        "{hostname} Hello [{ip}]" "rule 54";
    TlsGoAhead          "tls-go-ahead"          220 "2.0.0"   "Ready to start TLS" "RFC 3207 §4";
    Ok                  "ok"                    250 "2.0.0"   "OK" "RFC 5321 §4.1.1.9";
    Reset               "reset"                 250 "2.0.0"   "Resetting" "RFC 5321 §4.1.1.5";
    SenderOk            "sender-ok"             250 "2.1.0"   "Sender OK" "RFC 5321 §3.3";
    RecipientOk         "recipient-ok"          250 "2.1.5"   "Recipient OK" "rules 5, 6, 8, 9, 12, 15";
    GoAhead             "go-ahead"              354 ""        "Start mail input; end with <CRLF>.<CRLF>" "RFC 5321 §4.1.1.4";
    ChunkTaken          "chunk-taken"           250 "2.0.0"   "{octets} octets received" "RFC 3030 §2";
    Taken               "taken"                 250 "2.6.0"   "{id} Queued mail for delivery" "rule 66";
    HandedOver          "handed-over"           250 "2.6.0"   "{id} Taken by the next hop" "rule 66";
    CannotVerify        "cannot-verify"         252 "2.5.0"   "Cannot VRFY user, but will accept message and attempt delivery" "RFC 5321 §3.5.3";
    Help                "help"                  214 "2.0.0"   "This is Landfall, an inbound SMTP edge.\nCommands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY STARTTLS HELP QUIT" "RFC 5321 §4.1.1.8";
    Bye                 "bye"                   221 "2.0.0"   "Service closing transmission channel" "RFC 5321 §4.1.1.10";

    // Which region, which tenant, which recipient.
    WrongRegion         "wrong-region"          451 "4.4.62"  "Mail sent to the wrong {service_name} region. ATTR35. For more information please go to {help_url}" "rules 7, 10, 11, 22";
    MixedRegions        "mixed-regions"         452 "4.5.3"   "Recipients belong to multiple regions ATTR38" "rule 14";
    NoSubscription      "no-subscription"       451 "4.4.4"   "Mail received as unauthenticated, incoming to a recipient domain configured in a hosted tenant which has no mail-enabled subscriptions. ATTR5" "rule 16";
    DomainLookupFailed  "domain-lookup-failed"  451 "4.4.3"   "Temporary server error. Please try again later ATTR3.4" "rules 17, 20";
    TryAgainLater       "try-again-later"       451 "4.3.2"   "Temporary server error. Please try again later ATTR55" "rules 18, 20";
    NoRoute             "no-route"              451 "4.4.3"   "Temporary server error. Please try again later ATTR55.1" "rule 19";
    RelayDenied         "relay-denied"          550 "5.7.64"  "TenantAttribution; Relay Access Denied" "rules 1, 2, 33";
    UnknownRecipient    "unknown-recipient"     550 "5.4.1"   "Recipient address rejected: Access denied" "rules 4, 23";

    // Who is calling.
    PartnerRestricted   "partner-restricted"    550 "5.7.51"  "TenantInboundAttribution; There is a partner connector configured that matched the message's recipient domain. The connector had either the RestrictDomainsToIPAddresses or RestrictDomainsToCertificate set" "rule 35";
    DirectSendForbidden "direct-send-forbidden" 550 "5.7.68"  "TenantInboundAttribution; Direct Send not allowed for this organization from unauthorized sources" "rule 36";
    TlsNeeded           "tls-needed"            530 "5.7.0"   "Must issue a STARTTLS command first" "rule 37, RFC 3207 §4";
    Ipv6NotAccepted     "ipv6-not-accepted"     550 "5.2.1"   "Service unavailable, [{domain}] does not accept email over IPv6." "rule 50";
    Ipv6WithoutPtr      "ipv6-without-ptr"      450 "4.7.25"  "Service unavailable, sending IPv6 address [{ip}] must have reverse DNS record." "rule 51";
    Ipv6Unauthenticated "ipv6-unauthenticated"  450 "4.7.26"  "Service unavailable, message sent over IPv6 [{ip}] must pass either SPF or DKIM validation." "rule 52";
    BlockListed         "block-listed"          550 "5.7.1"   "Service unavailable; Client host [{ip}] blocked using {zone}" "limits.dnsbl, action reject";
    BlockListedForNow   "block-listed-for-now"  451 "4.7.1"   "Service unavailable; Client host [{ip}] blocked using {zone}" "limits.dnsbl, action defer";
    DmarcRejected       "dmarc-rejected"        550 "5.7.509" "Access denied, sending domain [{domain}] does not pass DMARC verification and has a DMARC policy of reject." "auth.dmarc_reject";
    HeaderUnreadable    "header-unreadable"     550 "5.6.0"   "Message header cannot be read" "auth.dmarc_reject";
    BadHelo             "bad-helo"              550 "5.7.506" "Access Denied, Bad HELO" "rule 64";

    // Limits.
    TooLarge            "too-large"             552 "5.3.4"   "Message size exceeds fixed maximum message size" "rule 55";
    TooManyRecipients   "too-many-recipients"   452 "4.5.3"   "Too many recipients" "rule 56: of a message";
    TooManyOfDomain     "too-many-of-domain"    452 "4.5.3"   "Too many recipients" "rule 56: of one domain";
    ComesAlone          "comes-alone"           452 "4.5.3"   "Too many recipients" "rule 66: inline relay";
    TooManyHops         "too-many-hops"         554 "5.4.14"  "Hop count exceeded - possible mail loop ATTR34" "rule 57";
    SenderTooEager      "sender-too-eager"      554 "5.2.121" "The sender has exceeded the limit for the number of messages they can send to this recipient per hour. For more information go to http://go.microsoft.com/fwlink/?LinkId=526653." "rule 58";
    RecipientTooBusy    "recipient-too-busy"    554 "5.2.122" "The recipient has exceeded their limit for the number of messages they can receive per hour. For more information go to http://go.microsoft.com/fwlink/?LinkId=526653." "rule 58";
    TooManyConnections  "too-many-connections"  451 "4.7.652" "The mail server [{ip}] has exceeded the maximum number of connections." "rule 59";
    ServerBusy          "server-busy"           451 "4.7.500" "Server busy. Please try again later from [{ip}]." "rule 59";
    InsufficientRoom    "insufficient-room"     452 "4.3.1"   "Insufficient system resources" "rule 60";
    NotStored           "not-stored"            451 "4.3.0"   "Temporary server error. The message was not accepted" "rule 66, section 6";
    NextHopDefers       "next-hop-defers"       451 "4.0.0"   "{verdict}" "rule 66: code, status and words are the next hop's";
    NextHopRefuses      "next-hop-refuses"      554 "5.0.0"   "{verdict}" "rule 66: code, status and words are the next hop's";
    Draining            "draining"              421 "4.3.2"   "Service not available" "rule 61";
    PatienceOver        "patience-over"         421 "4.4.2"   "Connection timed out" "RFC 5321 §4.5.3.2";
    SessionTooOld       "session-too-old"       421 "4.4.2"   "Session time limit exceeded" "rule 65";
    TooManyFaults       "too-many-faults"       421 "4.7.0"   "Too many errors on this connection" "RFC 5321 §4.3.2";

    // What was said, and when.
    UnknownCommand      "unknown-command"       500 "5.5.1"   "Unrecognized command" "RFC 5321 §4.2.4";
    LineTooLong         "line-too-long"         500 "5.5.2"   "Line too long" "RFC 5321 §4.5.3.1.9";
    BareInCommand       "bare-in-command"       500 "5.5.2"   "Bare CR or LF in a command" "RFC 5321 §2.3.8";
    BadSyntax           "bad-syntax"            501 "5.5.2"   "Syntax error" "RFC 5321 §4.2.4";
    BadParameter        "bad-parameter"         501 "5.5.4"   "Invalid arguments" "RFC 5321 §4.1.1.11";
    RepeatedParameter   "repeated-parameter"    501 "5.5.4"   "Repeated parameter" "RFC 5321 §4.1.1.11";
    UnknownParameter    "unknown-parameter"     555 "5.5.4"   "Unsupported parameter" "RFC 5321 §4.1.1.11";
    BadSender           "bad-sender"            501 "5.1.7"   "Invalid sender address" "RFC 5321 §4.1.2";
    BadRecipient        "bad-recipient"         501 "5.1.3"   "Invalid recipient address" "RFC 5321 §4.1.2";
    Utf8NotDeclared     "utf8-not-declared"     553 "5.6.7"   "Internationalized address without SMTPUTF8" "RFC 6531 §3.5";
    NotOffered          "not-offered"           502 "5.5.1"   "Command not implemented" "RFC 5321 §4.2.4";
    HelloFirst          "hello-first"           503 "5.5.1"   "Send hello first" "RFC 5321 §4.1.4";
    NoSender            "no-sender"             503 "5.5.1"   "Need MAIL command" "RFC 5321 §4.1.4";
    SenderAlready       "sender-already"        503 "5.5.1"   "Sender already specified" "RFC 5321 §4.1.1.2";
    NoRecipients        "no-recipients"         503 "5.5.1"   "No valid recipients" "RFC 5321 §3.3";
    OutOfOrder          "out-of-order"          503 "5.5.1"   "Bad sequence of commands" "RFC 5321 §4.1.4";
    ChunksUnderWay      "chunks-under-way"      503 "5.5.1"   "BDAT under way; only BDAT or RSET may follow" "RFC 3030 §2";
    ChunkRefused        "chunk-refused"         503 "5.5.1"   "The message was already refused; send RSET" "RFC 3030 §2";
    BinaryNeedsChunks   "binary-needs-chunks"   503 "5.5.1"   "BINARYMIME needs BDAT" "RFC 3030 §3";
    TlsAlready          "tls-already"           503 "5.5.1"   "TLS already active" "RFC 3207 §4.2";

    // What the message holds.
    InvalidCharacters   "invalid-characters"    550 "5.6.11"  "Invalid characters" "rule 62, section 6";
    BodyLineTooLong     "body-line-too-long"    550 "5.6.0"   "Line exceeds 64 KiB" "section 6";
}

impl Reply {
    pub fn entry(self) -> &'static Entry {
        &ENTRIES[self as usize]
    }

    pub fn label(self) -> &'static str {
        self.entry().label
    }

    pub fn code(self) -> u16 {
        self.entry().code
    }

    pub fn status(self) -> Option<Status> {
        self.entry().status
    }

    pub fn find(label: &str) -> Option<Self> {
        ALL.iter().copied().find(|reply| reply.label() == label)
    }

    /// 4xx and 5xx: the client did not get what it asked for.
    pub fn is_refusal(self) -> bool {
        self.code() >= 400
    }
}

impl fmt::Display for Reply {
    /// Code and enhanced status, as operators look for them: `451 4.4.62`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status() {
            Some(status) => write!(f, "{} {status}", self.code()),
            None => write!(f, "{}", self.code()),
        }
    }
}

/// What an answer says beyond its constant words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Detail {
    #[default]
    None,
    Ip(IpAddr),
    Domain(Domain),
    Message(MessageId),
    Octets(u64),
    /// A client's address, and the list that has it.
    Listed(IpAddr, Arc<str>),
    /// What the next hop said, which stands for us too.
    Verdict(Box<RemoteReply>),
    /// The lines of EHLO.
    Extensions(IpAddr, Extensions),
}

/// A reply to be sent, with its particulars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub reply: Reply,
    pub detail: Detail,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { reply, detail: Detail::None }
    }
}

impl Answer {
    pub fn new(reply: Reply, detail: Detail) -> Self {
        Self { reply, detail }
    }

    /// Appends it as it goes on the wire, CRLF included. Constant replies are one copy.
    pub fn write(&self, texts: &Texts, context: Context, out: &mut Vec<u8>) {
        let start = out.len();
        let line = texts.line(self.reply);
        match &self.detail {
            Detail::None => out.extend_from_slice(line.as_bytes()),
            Detail::Ip(ip) => fill(line, "{ip}", ip, out),
            Detail::Domain(domain) => fill(line, "{domain}", domain, out),
            Detail::Message(id) => fill(line, "{id}", id, out),
            Detail::Octets(octets) => fill(line, "{octets}", octets, out),
            Detail::Listed(ip, zone) => {
                let line = line.replace("{zone}", zone);
                fill(&line, "{ip}", ip, out);
            }
            Detail::Verdict(verdict) => write_verdict(self.reply, line, verdict, out),
            Detail::Extensions(ip, extensions) => {
                fill(line, "{ip}", ip, out);
                // The greeting is no longer the last line. RFC 5321 §4.2.1
                out[start + 3] = b'-';
                extensions.write(out);
            }
        }
        if texts.context
            && (self.reply.is_refusal() || matches!(self.reply, Reply::Taken | Reply::HandedOver))
        {
            let _ = write!(out, " [{} {} {}]", texts.hostname, context.now, context.session);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Another server's refusal as our own: its code and status, as long as they are of the reply's class, and
/// its words, as far as they can be said on one line.
fn write_verdict(reply: Reply, line: &str, verdict: &RemoteReply, out: &mut Vec<u8>) {
    let class = reply.code() / 100;
    let code = if verdict.code / 100 == class && verdict.code != 421 { verdict.code } else { reply.code() };
    let fits = |status: &Status| u16::from(status.class) == class;
    let status = Some(verdict.status).filter(fits).or(reply.status());
    let constant = wire_lines(reply.entry(), "").len();
    let _ = write!(out, "{code} ");
    if let Some(status) = status {
        let _ = write!(out, "{status} ");
    }
    let plain = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    let words: String = verdict.text.chars().take(VERDICT_LIMIT).map(plain).collect();
    fill(&line[constant..], "{verdict}", &words, out);
}

/// Copies `line` with its one placeholder replaced.
fn fill(line: &str, placeholder: &str, value: &dyn fmt::Display, out: &mut Vec<u8>) {
    let Some(at) = line.find(placeholder) else {
        out.extend_from_slice(line.as_bytes());
        return;
    };
    out.extend_from_slice(&line.as_bytes()[..at]);
    let _ = write!(out, "{value}");
    out.extend_from_slice(&line.as_bytes()[at + placeholder.len()..]);
}

/// Which session says it, and when: the suffix of `replies.context`.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    pub session: SessionId,
    pub now: Timestamp,
}

/// What configuration may change about the words (`[replies]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wording {
    pub hostname: String,
    pub service_name: String,
    pub help_url: String,
    /// Ends refusals and the final 250 in ` [<hostname> <time> <session>]`, as the live service does.
    pub context: bool,
    /// Other words for a reply, by its label. `\n` begins another line.
    pub words: BTreeMap<String, String>,
}

impl Wording {
    pub fn new(hostname: impl Into<String>) -> Self {
        Self {
            hostname: hostname.into(),
            service_name: "Office 365".to_owned(),
            help_url: "https://go.microsoft.com/fwlink/?linkid=865268".to_owned(),
            context: false,
            words: BTreeMap::new(),
        }
    }
}

/// What is wrong with a wording. Each names the key it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordingError {
    #[error("'{0}' is no reply; docs/REPLIES.md lists their labels")]
    UnknownLabel(String),
    #[error("the words of '{0}' must be printable ASCII of at most {WORDS_LIMIT} characters a line")]
    NotPlain(String),
    #[error("the words of '{0}' must keep '{1}', which senders look for")]
    TokenMissing(String, &'static str),
    #[error("the words of '{0}' have a placeholder that this reply cannot fill: {1}")]
    UnknownPlaceholder(String, String),
}

/// With code, the longest detail and context a line stays within 512 octets (RFC 5321 §4.5.3.1.5).
const WORDS_LIMIT: usize = 300;

/// How much of another server's words is passed on.
const VERDICT_LIMIT: usize = 400;

/// Filled in once, when the wording is read.
const EARLY: [&str; 3] = ["{service_name}", "{help_url}", "{hostname}"];
/// Filled in from each answer's detail.
const LATE: [&str; 6] = ["{ip}", "{domain}", "{id}", "{octets}", "{verdict}", "{zone}"];

/// Every reply as it goes on the wire, in the wording of one configuration.
#[derive(Debug, Clone)]
pub struct Texts {
    hostname: Box<str>,
    context: bool,
    /// In the catalogue's order; without the last CRLF.
    lines: Box<[Box<str>]>,
}

impl Texts {
    /// For answers that no session says.
    pub fn without_context(&self) -> Self {
        Self { context: false, ..self.clone() }
    }

    pub fn new(wording: &Wording) -> Result<Self, Vec<WordingError>> {
        let mut errors = Vec::new();
        for label in wording.words.keys() {
            if Reply::find(label).is_none() {
                errors.push(WordingError::UnknownLabel(label.clone()));
            }
        }
        let lines = ALL
            .iter()
            .map(|reply| {
                let entry = reply.entry();
                let words = wording.words.get(entry.label).map_or(entry.text, String::as_str);
                check_words(entry, words, &mut errors);
                let mut words = words.to_owned();
                for (placeholder, value) in
                    EARLY.into_iter().zip([&wording.service_name, &wording.help_url, &wording.hostname])
                {
                    words = words.replace(placeholder, value);
                }
                if !is_plain(&words) {
                    errors.push(WordingError::NotPlain(entry.label.to_owned()));
                }
                wire_lines(entry, &words).into_boxed_str()
            })
            .collect();
        if errors.is_empty() {
            Ok(Self { hostname: wording.hostname.as_str().into(), context: wording.context, lines })
        } else {
            Err(errors)
        }
    }

    fn line(&self, reply: Reply) -> &str {
        &self.lines[reply as usize]
    }
}

fn check_words(entry: &Entry, words: &str, errors: &mut Vec<WordingError>) {
    if let Some(token) = attr_token(entry.text)
        && attr_token(words) != Some(token)
    {
        errors.push(WordingError::TokenMissing(entry.label.to_owned(), token));
    }
    for part in words.split('{').skip(1) {
        let placeholder = format!("{{{}}}", part.split('}').next().unwrap_or_default());
        let known = EARLY.contains(&placeholder.as_str())
            || (LATE.contains(&placeholder.as_str()) && entry.text.contains(&placeholder));
        if !known {
            errors.push(WordingError::UnknownPlaceholder(entry.label.to_owned(), placeholder));
        }
    }
}

/// `ATTR35`, `ATTR55.1`: what scripts of senders match on.
fn attr_token(text: &str) -> Option<&str> {
    let tail = &text[text.find("ATTR")?..];
    let end = tail[4..].find(|c: char| !c.is_ascii_digit() && c != '.').map_or(tail.len(), |end| end + 4);
    Some(tail[..end].trim_end_matches('.'))
}

fn is_plain(words: &str) -> bool {
    words.split('\n').all(|line| {
        !line.is_empty() && line.len() <= WORDS_LIMIT && line.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    })
}

/// `214-2.0.0 one` CRLF `214 2.0.0 two`: each line carries both codes (RFC 2034 §4).
fn wire_lines(entry: &Entry, words: &str) -> String {
    let mut wire = String::new();
    let mut lines = words.split('\n').peekable();
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none();
        let _ = fmt::Write::write_fmt(
            &mut wire,
            format_args!("{}{}", entry.code, if is_last { ' ' } else { '-' }),
        );
        if let Some(status) = entry.status {
            wire.push_str(&status.to_string());
            wire.push(' ');
        }
        wire.push_str(line);
        if !is_last {
            wire.push_str("\r\n");
        }
    }
    wire
}

/// Every line of the catalogue, in its order.
pub fn catalogue() -> impl Iterator<Item = &'static Entry> {
    ENTRIES.iter()
}

/// `docs/REPLIES.md`, from the catalogue.
pub fn document() -> String {
    let mut page = String::from(
        "# Replies\n\n\
         Everything Landfall can answer, written from the catalogue in `src/smtp/reply.rs` by `tests/replies.rs`.\n\
         Code, enhanced code and ATTR token are fixed.\n\
         The words may be changed in `[replies]`: `service_name` and `help_url` stand in them.\n\
         `{ip}`, `{domain}`, `{id}`, `{octets}`, `{verdict}` and `{zone}` are filled in by each answer.\n\
         With `replies.context = true` every 4xx and 5xx reply, and the 250 that takes a message, ends in\n\
         ` [<hostname> <UTC time>Z <session>]`.\n\n\
         | label | code | enhanced | words | source |\n|---|---|---|---|---|\n",
    );
    for reply in ALL {
        let Entry { label, code, status, text, source } = reply.entry();
        let status = status.map_or(String::new(), |status| status.to_string());
        let text = text.replace('\n', "<br>").replace("<CRLF>", "&lt;CRLF&gt;");
        let _ = fmt::Write::write_fmt(
            &mut page,
            format_args!("| `{label}` | {code} | {status} | {text} | {source} |\n"),
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTNAME: &str = "edge1.eur.example.net";

    fn context() -> Context {
        let now = Timestamp::parse("2026-11-21T04:29:44.123Z").expect("a time");
        Context { session: SessionId(0x0123_4567_89AB_CDEF), now }
    }

    fn written(answer: &Answer, wording: &Wording) -> String {
        let mut out = Vec::new();
        answer.write(&Texts::new(wording).expect("a sound wording"), context(), &mut out);
        String::from_utf8(out).expect("replies are ASCII")
    }

    fn plain(answer: impl Into<Answer>) -> String {
        written(&answer.into(), &Wording::new(HOSTNAME))
    }

    #[test]
    fn another_servers_verdict_is_said_as_ours_and_never_as_more() {
        let verdict = |reply: Reply, code: u16, status: &str, text: &str| {
            let status = Status::parse(status).expect("a status");
            let verdict = RemoteReply { host: "mx".to_owned(), code, status, text: text.to_owned() };
            plain(Answer::new(reply, Detail::Verdict(Box::new(verdict))))
        };
        for (reply, code, status, text, line) in [
            (Reply::NextHopDefers, 450, "4.2.1", "mailbox busy", "450 4.2.1 mailbox busy\r\n"),
            (Reply::NextHopRefuses, 550, "5.1.1", "no such user", "550 5.1.1 no such user\r\n"),
            (Reply::NextHopRefuses, 550, "4.1.1", "two minds", "550 5.0.0 two minds\r\n"),
            (Reply::NextHopDefers, 550, "5.1.1", "not ours to say", "451 4.0.0 not ours to say\r\n"),
            (Reply::NextHopDefers, 421, "4.3.2", "leaving", "451 4.3.2 leaving\r\n"),
            (Reply::NextHopRefuses, 250, "2.0.0", "never success", "554 5.0.0 never success\r\n"),
            (Reply::NextHopRefuses, 550, "5.1.1", "tück\r\n250 OK", "550 5.1.1 t?ck??250 OK\r\n"),
        ] {
            assert_eq!(verdict(reply, code, status, text), line);
        }
        let long = verdict(Reply::NextHopRefuses, 550, "5.1.1", &"x".repeat(5_000));
        assert_eq!(long.len(), "550 5.1.1 \r\n".len() + VERDICT_LIMIT);
    }

    #[test]
    fn replies_are_those_of_the_specification() {
        let v6 = Detail::Ip("2001:db8::1".parse().expect("an address"));
        let domain = Detail::Domain(Domain::parse("contoso.com").expect("a domain"));
        for (answer, line) in [
            (Reply::RelayDenied.into(), "550 5.7.64 TenantAttribution; Relay Access Denied"),
            (Reply::UnknownRecipient.into(), "550 5.4.1 Recipient address rejected: Access denied"),
            (Reply::RecipientOk.into(), "250 2.1.5 Recipient OK"),
            (
                Reply::WrongRegion.into(),
                "451 4.4.62 Mail sent to the wrong Office 365 region. ATTR35. For more information please go to \
                 https://go.microsoft.com/fwlink/?linkid=865268",
            ),
            (Reply::MixedRegions.into(), "452 4.5.3 Recipients belong to multiple regions ATTR38"),
            (
                Reply::NoSubscription.into(),
                "451 4.4.4 Mail received as unauthenticated, incoming to a recipient domain configured in a \
                 hosted tenant which has no mail-enabled subscriptions. ATTR5",
            ),
            (
                Reply::DomainLookupFailed.into(),
                "451 4.4.3 Temporary server error. Please try again later ATTR3.4",
            ),
            (Reply::TryAgainLater.into(), "451 4.3.2 Temporary server error. Please try again later ATTR55"),
            (Reply::NoRoute.into(), "451 4.4.3 Temporary server error. Please try again later ATTR55.1"),
            (
                Reply::PartnerRestricted.into(),
                "550 5.7.51 TenantInboundAttribution; There is a partner connector configured that matched the \
                 message's recipient domain. The connector had either the RestrictDomainsToIPAddresses or \
                 RestrictDomainsToCertificate set",
            ),
            (
                Reply::DirectSendForbidden.into(),
                "550 5.7.68 TenantInboundAttribution; Direct Send not allowed for this organization from \
                 unauthorized sources",
            ),
            (Reply::TlsNeeded.into(), "530 5.7.0 Must issue a STARTTLS command first"),
            (
                Answer::new(Reply::Ipv6NotAccepted, domain),
                "550 5.2.1 Service unavailable, [contoso.com] does not accept email over IPv6.",
            ),
            (
                Answer::new(Reply::Ipv6WithoutPtr, v6.clone()),
                "450 4.7.25 Service unavailable, sending IPv6 address [2001:db8::1] must have reverse DNS record.",
            ),
            (
                Answer::new(Reply::Ipv6Unauthenticated, v6.clone()),
                "450 4.7.26 Service unavailable, message sent over IPv6 [2001:db8::1] must pass either SPF or \
                 DKIM validation.",
            ),
            (Reply::TooLarge.into(), "552 5.3.4 Message size exceeds fixed maximum message size"),
            (Reply::TooManyRecipients.into(), "452 4.5.3 Too many recipients"),
            (
                Reply::SenderTooEager.into(),
                "554 5.2.121 The sender has exceeded the limit for the number of messages they can send to this \
                 recipient per hour. For more information go to http://go.microsoft.com/fwlink/?LinkId=526653.",
            ),
            (
                Reply::RecipientTooBusy.into(),
                "554 5.2.122 The recipient has exceeded their limit for the number of messages they can receive \
                 per hour. For more information go to http://go.microsoft.com/fwlink/?LinkId=526653.",
            ),
            (Reply::TooManyHops.into(), "554 5.4.14 Hop count exceeded - possible mail loop ATTR34"),
            (
                Answer::new(Reply::TooManyConnections, v6.clone()),
                "451 4.7.652 The mail server [2001:db8::1] has exceeded the maximum number of connections.",
            ),
            (
                Answer::new(Reply::ServerBusy, v6),
                "451 4.7.500 Server busy. Please try again later from [2001:db8::1].",
            ),
            (
                Answer::new(
                    Reply::BlockListed,
                    Detail::Listed("192.0.2.7".parse().expect("v4"), "bl.example".into()),
                ),
                "550 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using bl.example",
            ),
            (Reply::InsufficientRoom.into(), "452 4.3.1 Insufficient system resources"),
            (Reply::Draining.into(), "421 4.3.2 Service not available"),
            (Reply::InvalidCharacters.into(), "550 5.6.11 Invalid characters"),
            (Reply::BadHelo.into(), "550 5.7.506 Access Denied, Bad HELO"),
            (
                Answer::new(Reply::Taken, Detail::Message(MessageId::from_raw(255))),
                "250 2.6.0 00000000000000ff Queued mail for delivery",
            ),
        ] {
            assert_eq!(plain(answer), format!("{line}\r\n"));
        }
    }

    #[test]
    fn ehlo_lists_what_is_offered_in_order() {
        let ip = "192.0.2.1".parse().expect("an address");
        let hello = |starttls| {
            let extensions =
                Extensions { message_size: 157_286_400, starttls, require_tls: false, xclient: false };
            plain(Answer::new(Reply::Hello, Detail::Extensions(ip, extensions)))
        };
        assert_eq!(
            hello(true),
            "250-edge1.eur.example.net Hello [192.0.2.1]\r\n250-SIZE 157286400\r\n250-PIPELINING\r\n250-DSN\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-STARTTLS\r\n250-8BITMIME\r\n250-BINARYMIME\r\n250-CHUNKING\r\n\
             250 SMTPUTF8\r\n"
        );
        assert_eq!(hello(false), hello(true).replace("250-STARTTLS\r\n", ""));
        let helo = plain(Answer::new(Reply::Hello, Detail::Ip(ip)));
        assert_eq!(helo, "250 edge1.eur.example.net Hello [192.0.2.1]\r\n");
    }

    #[test]
    fn classes_agree_and_labels_are_unique() {
        let mut labels = std::collections::BTreeSet::new();
        for reply in ALL {
            let Entry { label, code, status, text, source } = reply.entry();
            if let Some(status) = status {
                assert_eq!(u16::from(status.class), code / 100, "{label}");
            }
            assert!(is_plain(text) && !source.is_empty(), "{label}");
            assert!(labels.insert(label), "{label} twice");
            assert_eq!(Reply::find(label), Some(*reply));
            // A refusal without an enhanced code would say less than we promised in EHLO. RFC 2034
            assert_eq!(status.is_none(), matches!(label, &"banner" | &"hello" | &"go-ahead"), "{label}");
        }
    }

    #[test]
    fn the_longest_line_fits_its_limit() {
        let longest_name = format!("{0}.{0}.{0}.{1}", "x".repeat(63), "x".repeat(61));
        let domain = Domain::parse(&longest_name).expect("a long name");
        let v6: IpAddr = "2001:db8:1111:2222:3333:4444:5555:6666".parse().expect("an address");
        let mut wording =
            Wording::new("mx-with-a-rather-long-name.region.datacentre.contoso-hosting.example");
        wording.context = true;
        for reply in ALL {
            let details = [
                Detail::None,
                Detail::Ip(v6),
                Detail::Domain(domain.clone()),
                Detail::Octets(u64::MAX),
                Detail::Message(MessageId::from_raw(u64::MAX)),
                Detail::Listed(v6, longest_name.as_str().into()),
                Detail::Extensions(
                    v6,
                    Extensions { message_size: u64::MAX, starttls: true, require_tls: true, xclient: true },
                ),
            ];
            for detail in details {
                // Only EHLO carries extensions.
                if matches!(detail, Detail::Extensions(..)) && *reply != Reply::Hello {
                    continue;
                }
                let answer = Answer::new(*reply, detail);
                let text = written(&answer, &wording);
                for line in text.split_inclusive("\r\n") {
                    assert!(line.len() <= 512 && line.ends_with("\r\n"), "{line}");
                    assert!(line.starts_with(&reply.code().to_string()), "{line}");
                    assert!(line.trim_end().bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line}");
                }
            }
        }
    }

    #[test]
    fn context_ends_refusals_and_the_final_250_alone() {
        let wording = Wording { context: true, ..Wording::new(HOSTNAME) };
        let suffix = " [edge1.eur.example.net 2026-11-21T04:29:44.123Z 0123456789ABCDEF]\r\n";
        for (answer, expected) in [
            (Answer::from(Reply::UnknownRecipient), true),
            (Reply::WrongRegion.into(), true),
            (Reply::Draining.into(), true),
            (Answer::new(Reply::Taken, Detail::Message(MessageId::from_raw(1))), true),
            (Reply::RecipientOk.into(), false),
            (Reply::Banner.into(), false),
            (Reply::Bye.into(), false),
        ] {
            assert_eq!(written(&answer, &wording).ends_with(suffix), expected, "{answer:?}");
        }
    }

    #[test]
    fn words_may_change_and_what_scripts_rely_on_may_not() {
        let worded = |label: &str, words: &str| {
            let mut wording = Wording::new(HOSTNAME);
            wording.service_name = "Contoso Mail".to_owned();
            wording.words.insert(label.to_owned(), words.to_owned());
            wording
        };
        let wrong_region = Answer::from(Reply::WrongRegion);
        assert_eq!(
            written(&wrong_region, &worded("wrong-region", "Not this region of {service_name} (ATTR35)")),
            "451 4.4.62 Not this region of Contoso Mail (ATTR35)\r\n"
        );
        assert!(
            written(&wrong_region, &worded("ok", "Fine")).contains("wrong Contoso Mail region. ATTR35. For")
        );
        for (label, words, error) in [
            ("wrong-regoin", "ATTR35", WordingError::UnknownLabel("wrong-regoin".to_owned())),
            ("wrong-region", "ATTR36", WordingError::TokenMissing("wrong-region".to_owned(), "ATTR35")),
            ("no-route", "ATTR55", WordingError::TokenMissing("no-route".to_owned(), "ATTR55.1")),
            ("ok", "na\u{ef}ve", WordingError::NotPlain("ok".to_owned())),
            ("ok", "two\r\nlines", WordingError::NotPlain("ok".to_owned())),
            ("ok", "", WordingError::NotPlain("ok".to_owned())),
            ("ok", "from {ip}", WordingError::UnknownPlaceholder("ok".to_owned(), "{ip}".to_owned())),
            ("ok", "a {b", WordingError::UnknownPlaceholder("ok".to_owned(), "{b}".to_owned())),
        ] {
            assert_eq!(Texts::new(&worded(label, words)).expect_err(words), [error]);
        }
    }
}
