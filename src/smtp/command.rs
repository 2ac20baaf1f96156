//! Command: what a client may say.
//!
//! Owns the grammar of command lines (RFC 5321 §4.1, with SIZE, 8BITMIME, BINARYMIME, CHUNKING, SMTPUTF8
//! and DSN). `line` cuts the lines; whether a command is allowed now is `session`'s to say.

use super::xclient::Introduction;
use super::xtext::{self, is_xtext};
use crate::mail::{Address, BodyType, Domain, Notify, Ret, Sender};

/// RFC 3461 §4.4 and §4.2: longest ENVID and ORCPT, still encoded.
const ENVID_LIMIT: usize = 100;
const ORCPT_LIMIT: usize = 500;
/// RFC 5321 §4.5.3.1.2.
const NAME_LIMIT: usize = 255;
/// RFC 1870 §3 and RFC 3030 §2: digits of a size.
const SIZE_DIGITS: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    Ehlo(&'a str),
    Helo(&'a str),
    Mail(MailFrom),
    Rcpt(RcptTo),
    Data,
    Bdat { octets: u64, last: bool },
    Rset,
    Noop,
    Vrfy,
    Expn,
    Help,
    Quit,
    StartTls,
    Auth,
    Xclient(Introduction),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailFrom {
    pub sender: Sender,
    pub size: Option<u64>,
    pub body: BodyType,
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    /// Still in xtext.
    pub envid: Option<String>,
    /// RFC 8689
    pub require_tls: bool,
    /// Only a client that said EHLO may use parameters.
    pub has_parameters: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RcptTo {
    pub path: RecipientPath,
    pub notify: Option<Notify>,
    /// Still in xtext.
    pub orcpt: Option<String>,
    /// Anything beyond ASCII in it, so that MAIL must have declared SMTPUTF8 (RFC 6531 §3.4).
    pub is_international: bool,
    pub has_parameters: bool,
}

/// RCPT TO: an address, or `<Postmaster>` alone, which every server takes (RFC 5321 §4.1.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientPath {
    Address(Address),
    Postmaster,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandError {
    UnknownCommand,
    BadSyntax,
    BadParameter,
    RepeatedParameter,
    UnknownParameter,
    BadSender,
    BadRecipient,
    /// Beyond ASCII without SMTPUTF8.
    Utf8NotDeclared,
}

impl<'a> Command<'a> {
    /// Reads a line without its CRLF.
    pub fn parse(line: &'a [u8]) -> Result<Self, CommandError> {
        // Trailing white space is tolerated. RFC 5321 §4.1.1
        let line = line.trim_ascii_end();
        let (verb, rest) = match memchr::memchr(b' ', line) {
            Some(space) => (&line[..space], &line[space + 1..]),
            None => (line, &b""[..]),
        };
        let mut upper = [0; 8];
        let upper = upper.get_mut(..verb.len()).ok_or(CommandError::UnknownCommand)?;
        upper.copy_from_slice(verb);
        upper.make_ascii_uppercase();
        match &*upper {
            b"EHLO" => Ok(Self::Ehlo(greeting_name(rest)?)),
            b"HELO" => Ok(Self::Helo(greeting_name(rest)?)),
            b"MAIL" => Ok(Self::Mail(mail_from(text(rest)?)?)),
            b"RCPT" => Ok(Self::Rcpt(rcpt_to(text(rest)?)?)),
            b"DATA" => alone(Self::Data, rest),
            b"BDAT" => bdat(text(rest)?),
            b"RSET" => alone(Self::Rset, rest),
            b"NOOP" => text(rest).map(|_| Self::Noop),
            b"VRFY" => argued(Self::Vrfy, rest),
            b"EXPN" => argued(Self::Expn, rest),
            b"HELP" => text(rest).map(|_| Self::Help),
            b"QUIT" => alone(Self::Quit, rest),
            b"STARTTLS" => alone(Self::StartTls, rest),
            b"AUTH" => Ok(Self::Auth),
            b"XCLIENT" => Introduction::parse(text(rest)?).map(Self::Xclient),
            _ => Err(CommandError::UnknownCommand),
        }
    }
}

/// UTF-8 without NUL and other control characters.
fn text(bytes: &[u8]) -> Result<&str, CommandError> {
    let text = std::str::from_utf8(bytes).map_err(|_| CommandError::BadSyntax)?;
    if text.chars().any(char::is_control) { Err(CommandError::BadSyntax) } else { Ok(text) }
}

fn alone<'a>(command: Command<'a>, rest: &[u8]) -> Result<Command<'a>, CommandError> {
    if rest.is_empty() { Ok(command) } else { Err(CommandError::BadParameter) }
}

fn argued<'a>(command: Command<'a>, rest: &[u8]) -> Result<Command<'a>, CommandError> {
    if text(rest)?.trim().is_empty() { Err(CommandError::BadParameter) } else { Ok(command) }
}

/// Underscores, single labels and bad literals are common and harmless; what would break the `Received`
/// field that quotes the name is not.
pub(super) fn greeting_name(rest: &[u8]) -> Result<&str, CommandError> {
    let name = text(rest)?.trim_matches(' ');
    let fits = !name.is_empty() && name.len() <= NAME_LIMIT;
    if fits && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"()<>,;\"\\".contains(&byte)) {
        Ok(name)
    } else {
        Err(CommandError::BadSyntax)
    }
}

fn mail_from(rest: &str) -> Result<MailFrom, CommandError> {
    let rest = after_keyword(rest, "FROM:")?;
    let (path, parameters) = split_path(rest).ok_or(CommandError::BadSender)?;
    let mut mail = MailFrom { has_parameters: !parameters.is_empty(), ..MailFrom::default() };
    let mut seen = Seen::default();
    for (key, value) in each_parameter(parameters) {
        let known = MAIL_PARAMETERS.iter().position(|name| key.eq_ignore_ascii_case(name));
        let known = known.ok_or(CommandError::UnknownParameter)?;
        seen.once(known)?;
        match MAIL_PARAMETERS[known] {
            "SIZE" => mail.size = Some(size(value)?),
            "BODY" => mail.body = body_type(value)?,
            "SMTPUTF8" if value.is_none() => mail.smtputf8 = true,
            "RET" => mail.ret = Some(ret(value)?),
            "ENVID" => mail.envid = Some(envid(value)?),
            "REQUIRETLS" if value.is_none() => mail.require_tls = true,
            _ => return Err(CommandError::BadParameter),
        }
    }
    // RFC 6531 §3.4: the address itself may use what its own parameter declares.
    if !rest.is_ascii() && !mail.smtputf8 {
        return Err(CommandError::Utf8NotDeclared);
    }
    if !path.is_empty() {
        mail.sender = Some(mailbox(path).ok_or(CommandError::BadSender)?);
    }
    Ok(mail)
}

const MAIL_PARAMETERS: [&str; 6] = ["SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "REQUIRETLS"];
const RCPT_PARAMETERS: [&str; 2] = ["NOTIFY", "ORCPT"];

fn rcpt_to(rest: &str) -> Result<RcptTo, CommandError> {
    let rest = after_keyword(rest, "TO:")?;
    let (path, parameters) = split_path(rest).ok_or(CommandError::BadRecipient)?;
    let path = if path.eq_ignore_ascii_case("postmaster") {
        RecipientPath::Postmaster
    } else {
        RecipientPath::Address(mailbox(path).ok_or(CommandError::BadRecipient)?)
    };
    let mut rcpt = RcptTo {
        path,
        notify: None,
        orcpt: None,
        is_international: !rest.is_ascii(),
        has_parameters: !parameters.is_empty(),
    };
    let mut seen = Seen::default();
    for (key, value) in each_parameter(parameters) {
        let known = RCPT_PARAMETERS.iter().position(|name| key.eq_ignore_ascii_case(name));
        let known = known.ok_or(CommandError::UnknownParameter)?;
        seen.once(known)?;
        match RCPT_PARAMETERS[known] {
            "NOTIFY" => rcpt.notify = Some(notify(value)?),
            _ => rcpt.orcpt = Some(orcpt(value)?),
        }
    }
    Ok(rcpt)
}

/// One space behind the colon is wrong and common.
fn after_keyword<'a>(rest: &'a str, keyword: &str) -> Result<&'a str, CommandError> {
    match rest.split_at_checked(keyword.len()) {
        Some((found, tail)) if found.eq_ignore_ascii_case(keyword) => {
            Ok(tail.strip_prefix(' ').unwrap_or(tail))
        }
        _ => Err(CommandError::BadSyntax),
    }
}

/// `<path> parameters`: what is between the brackets, and what follows. A quoted local part may hold `>`.
fn split_path(rest: &str) -> Option<(&str, &str)> {
    let inner = rest.strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    let end = inner.bytes().position(|byte| {
        if escaped {
            escaped = false;
            return false;
        }
        match byte {
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return true,
            _ => {}
        }
        false
    })?;
    let (path, tail) = (&inner[..end], &inner[end + 1..]);
    match tail.strip_prefix(' ') {
        Some(parameters) => Some((path, parameters.trim_matches(' '))),
        None => tail.is_empty().then_some((path, "")),
    }
}

/// Source routes are read and ignored (RFC 5321 §3.6.1, appendix C).
fn mailbox(path: &str) -> Option<Address> {
    let address = if path.starts_with('@') {
        let (route, address) = path.split_once(':')?;
        let valid = |hop: &str| hop.strip_prefix('@').is_some_and(|name| Domain::parse(name).is_ok());
        route.split(',').all(valid).then_some(address)?
    } else {
        path
    };
    Address::parse(address).ok()
}

fn each_parameter(parameters: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    parameters.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (word, None),
    })
}

/// Which parameters were there already.
#[derive(Default)]
struct Seen(u8);

impl Seen {
    fn once(&mut self, place: usize) -> Result<(), CommandError> {
        let bit = 1 << place;
        if self.0 & bit != 0 {
            return Err(CommandError::RepeatedParameter);
        }
        self.0 |= bit;
        Ok(())
    }
}

/// Digits beyond `u64` are a size beyond every limit, not a mistake.
fn size(value: Option<&str>) -> Result<u64, CommandError> {
    let digits = value.ok_or(CommandError::BadParameter)?;
    let plain = (1..=SIZE_DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { Ok(digits.parse().unwrap_or(u64::MAX)) } else { Err(CommandError::BadParameter) }
}

fn body_type(value: Option<&str>) -> Result<BodyType, CommandError> {
    let named = [
        ("7BIT", BodyType::SevenBit),
        ("8BITMIME", BodyType::EightBitMime),
        ("BINARYMIME", BodyType::BinaryMime),
    ];
    one_of(value, &named)
}

fn ret(value: Option<&str>) -> Result<Ret, CommandError> {
    one_of(value, &[("FULL", Ret::Full), ("HDRS", Ret::Headers)])
}

fn one_of<T: Copy>(value: Option<&str>, named: &[(&str, T)]) -> Result<T, CommandError> {
    let value = value.ok_or(CommandError::BadParameter)?;
    let found = named.iter().find(|(name, _)| value.eq_ignore_ascii_case(name));
    found.map(|(_, meaning)| *meaning).ok_or(CommandError::BadParameter)
}

fn envid(value: Option<&str>) -> Result<String, CommandError> {
    let value = value.ok_or(CommandError::BadParameter)?;
    let fits = !value.is_empty() && value.len() <= ENVID_LIMIT;
    if fits && is_xtext(value) { Ok(value.to_owned()) } else { Err(CommandError::BadParameter) }
}

/// `NEVER`, or a list of the others, each at most once (RFC 3461 §4.1).
fn notify(value: Option<&str>) -> Result<Notify, CommandError> {
    let value = value.ok_or(CommandError::BadParameter)?;
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(Notify::NEVER);
    }
    let mut notify = Notify::NEVER;
    for word in value.split(',') {
        let flag = match word {
            _ if word.eq_ignore_ascii_case("SUCCESS") => &mut notify.success,
            _ if word.eq_ignore_ascii_case("FAILURE") => &mut notify.failure,
            _ if word.eq_ignore_ascii_case("DELAY") => &mut notify.delay,
            _ => return Err(CommandError::BadParameter),
        };
        if std::mem::replace(flag, true) {
            return Err(CommandError::BadParameter);
        }
    }
    Ok(notify)
}

/// `rfc822;anna@contoso.com` (RFC 3461 §4.2), or `utf-8;…`, which may go beyond ASCII (RFC 6533 §3).
fn orcpt(value: Option<&str>) -> Result<String, CommandError> {
    let value = value.ok_or(CommandError::BadParameter)?;
    let (kind, address) = value.split_once(';').ok_or(CommandError::BadParameter)?;
    let kind_is_atom = !kind.is_empty() && kind.bytes().all(xtext::is_atom);
    let address_is_fine = if kind.eq_ignore_ascii_case(xtext::UTF8) {
        xtext::decode_address(address).is_some()
    } else {
        !address.is_empty() && is_xtext(address)
    };
    let fits = value.len() <= ORCPT_LIMIT;
    if fits && kind_is_atom && address_is_fine {
        Ok(value.to_owned())
    } else {
        Err(CommandError::BadParameter)
    }
}

fn bdat(rest: &str) -> Result<Command<'_>, CommandError> {
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    let digits = words.next().ok_or(CommandError::BadParameter)?;
    let plain = digits.len() <= SIZE_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    let octets = plain.then(|| digits.parse().ok()).flatten().ok_or(CommandError::BadParameter)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(CommandError::BadParameter),
    };
    if words.next().is_some() { Err(CommandError::BadParameter) } else { Ok(Command::Bdat { octets, last }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mail(line: &str) -> Result<MailFrom, CommandError> {
        match Command::parse(line.as_bytes())? {
            Command::Mail(mail) => Ok(mail),
            other => panic!("{line} is {other:?}"),
        }
    }

    fn rcpt(line: &str) -> Result<RcptTo, CommandError> {
        match Command::parse(line.as_bytes())? {
            Command::Rcpt(rcpt) => Ok(rcpt),
            other => panic!("{line} is {other:?}"),
        }
    }

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
    }

    #[test]
    fn commands_are_read_in_any_case_and_with_white_space_behind() {
        for (line, command) in [
            ("EHLO client.example", Command::Ehlo("client.example")),
            ("ehlo  client.example  ", Command::Ehlo("client.example")),
            ("Helo [192.0.2.1]", Command::Helo("[192.0.2.1]")),
            ("DATA ", Command::Data),
            ("BDAT 0", Command::Bdat { octets: 0, last: false }),
            ("bdat 86000 last", Command::Bdat { octets: 86000, last: true }),
            ("BDAT 18446744073709551615 LAST", Command::Bdat { octets: u64::MAX, last: true }),
            ("RSET", Command::Rset),
            ("NOOP", Command::Noop),
            ("noop with words", Command::Noop),
            ("VRFY anna", Command::Vrfy),
            ("EXPN staff", Command::Expn),
            ("HELP", Command::Help),
            ("HELP DATA", Command::Help),
            ("QUIT\t", Command::Quit),
            ("StartTLS", Command::StartTls),
            ("AUTH LOGIN", Command::Auth),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        use CommandError::*;
        for (line, error) in [
            (&b""[..], UnknownCommand),
            (b"EHLOO x", UnknownCommand),
            (b"STARTTLSX", UnknownCommand),
            (b"NOO\0", UnknownCommand),
            (b"MAIL\tFROM:<>", UnknownCommand),
            (b"EHLO", BadSyntax),
            (b"EHLO a\x7fb", BadSyntax),
            (b"NOOP \xff", BadSyntax),
            (b"MAIL", BadSyntax),
            (b"MAIL  FROM:<>", BadSyntax),
            (b"MAIL FROM :<>", BadSyntax),
            (b"MAIL FROM:", BadSender),
            (b"MAIL FROM:  <>", BadSender),
            (b"MAIL FROM:<\"open@a.example>", BadSender),
            (b"MAIL FROM:<@a.example,:b@c.example>", BadSender),
            (b"MAIL FROM:<> =x", UnknownParameter),
            (b"MAIL FROM:<> SIZE=1 size=2", RepeatedParameter),
            (b"MAIL FROM:<> SMTPUTF8 SMTPUTF8", RepeatedParameter),
            (b"MAIL FROM:<> REQUIRETLS=yes", BadParameter),
            (b"MAIL FROM:<a@b.example> ENVID=\xc3\xa9", BadParameter),
            (b"MAIL FROM:<a@\xc3\xa9.example>", Utf8NotDeclared),
            (b"RCPT TO:<>", BadRecipient),
            (b"RCPT TO:<postmaster@>", BadRecipient),
            (b"RCPT TO:<a@b.example> FROM=x", UnknownParameter),
            (b"DATA x", BadParameter),
            (b"BDAT", BadParameter),
            (b"BDAT -1", BadParameter),
            (b"BDAT 18446744073709551616", BadParameter),
            (b"BDAT 1 LAST x", BadParameter),
            (b"VRFY", BadParameter),
        ] {
            assert_eq!(Command::parse(line), Err(error), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn mail_carries_its_parameters() {
        assert_eq!(mail("MAIL FROM:<>"), Ok(MailFrom::default()));
        assert_eq!(
            mail(
                "mail from: <Anna@Contoso.com> size=10 Body=8BitMime SMTPUTF8 RET=hdrs ENVID=a+2Bb requiretls"
            ),
            Ok(MailFrom {
                sender: Some(address("anna@contoso.com")),
                size: Some(10),
                body: BodyType::EightBitMime,
                smtputf8: true,
                ret: Some(Ret::Headers),
                envid: Some("a+2Bb".to_owned()),
                require_tls: true,
                has_parameters: true,
            })
        );
        let utf8 = mail("MAIL FROM:<j\u{fc}rgen@m\u{fc}nchen.example> SMTPUTF8").expect("declared");
        assert_eq!(utf8.sender, Some(address("j\u{fc}rgen@xn--mnchen-3ya.example")));
        let routed = mail("MAIL FROM:<@a.example,@b.example:c@d.example>").expect("a source route");
        assert_eq!(routed.sender, Some(address("c@d.example")));
        let quoted = mail("MAIL FROM:<\"a>b\\\"@c\"@d.example> SIZE=1").expect("a quoted local part");
        assert_eq!(quoted.sender.expect("a sender").local(), "\"a>b\\\"@c\"");
        assert_eq!(mail("MAIL FROM:<> SIZE=99999999999999999999").expect("huge").size, Some(u64::MAX));
    }

    #[test]
    fn rcpt_carries_its_parameters() {
        assert_eq!(
            rcpt("RCPT TO:<anna@contoso.com> NOTIFY=delay,SUCCESS ORCPT=rfc822;anna+40contoso.com"),
            Ok(RcptTo {
                path: RecipientPath::Address(address("anna@contoso.com")),
                notify: Some(Notify { success: true, failure: false, delay: true }),
                orcpt: Some("rfc822;anna+40contoso.com".to_owned()),
                is_international: false,
                has_parameters: true,
            })
        );
        assert_eq!(rcpt("RCPT TO:<PostMaster>").expect("postmaster").path, RecipientPath::Postmaster);
        assert_eq!(rcpt("RCPT TO:<a@b.example> NOTIFY=NEVER").expect("never").notify, Some(Notify::NEVER));
        // The domain alone is beyond ASCII: declared it must be, though it becomes A-labels here.
        assert!(rcpt("RCPT TO:<a@m\u{fc}nchen.example>").expect("an address").is_international);
    }

    #[test]
    fn the_dsn_parameters_are_those_of_rfc_3461_and_6533() {
        let long = |octets: usize| "x".repeat(octets);
        for (parameter, fine) in [
            ("NOTIFY=NEVER", true),
            ("NOTIFY=success,failure,delay", true),
            ("NOTIFY=NEVER,SUCCESS", false),
            ("NOTIFY=SUCCESS,NEVER", false),
            ("NOTIFY=SUCCESS,SUCCESS", false),
            ("NOTIFY=SUCCESS,", false),
            ("NOTIFY=", false),
            ("NOTIFY", false),
            ("NOTIFY=ALWAYS", false),
            ("ORCPT=rfc822;anna+2Btag@contoso.com", true),
            ("ORCPT=X400;/S=3D", false),
            ("ORCPT=x_y!z;anna", true),
            ("ORCPT=rfc822", false),
            ("ORCPT=;anna", false),
            ("ORCPT=rfc822;", false),
            ("ORCPT=rfc 822;anna", false),
            ("ORCPT=rfc822;anna+", false),
            ("ORCPT=rfc822;anna+0D+0AX-Field:", false),
            ("ORCPT=rfc822;j\u{fc}rgen@contoso.com", false),
            ("ORCPT=utf-8;j\u{fc}rgen@contoso.com", true),
            ("ORCPT=utf-8;j\\x{FC}rgen@contoso.com", true),
            ("ORCPT=UTF-8;a\\x{2B}b@contoso.com", true),
            ("ORCPT=utf-8;a+b@contoso.com", false),
            ("ORCPT=utf-8;a\\b@contoso.com", false),
            ("ORCPT=utf-8;a\\x{}@contoso.com", false),
            ("ORCPT=utf-8;a\\x{D800}@contoso.com", false),
            ("ORCPT=utf-8;a\\x{85}@contoso.com", false),
            ("ORCPT=utf-8;", false),
            (&format!("ORCPT=rfc822;{}", long(493)), true),
            (&format!("ORCPT=rfc822;{}", long(494)), false),
        ] {
            let read = rcpt(&format!("RCPT TO:<a@b.example> {parameter}"));
            let expected = if fine { Ok(()) } else { Err(CommandError::BadParameter) };
            assert_eq!(read.map(|_| ()), expected, "{parameter}");
        }
        for (parameter, fine) in [
            ("RET=FULL ENVID=QQ314159", true),
            ("RET=BODY", false),
            ("RET", false),
            ("ENVID=", false),
            ("ENVID=a+20b", true),
            ("ENVID=a+09b", false),
            (&format!("ENVID={}", long(100)), true),
            (&format!("ENVID={}", long(101)), false),
        ] {
            let read = mail(&format!("MAIL FROM:<a@b.example> {parameter}"));
            let expected = if fine { Ok(()) } else { Err(CommandError::BadParameter) };
            assert_eq!(read.map(|_| ()), expected, "{parameter}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Command::parse(&line);
        }

        #[test]
        fn no_mail_or_rcpt_makes_the_parser_panic(
            verb in prop_oneof![Just("MAIL FROM:"), Just("RCPT TO:"), Just("BDAT "), Just("EHLO ")],
            rest in "[<>@:,.\"\\\\ a=+;0-9\u{e9}]{0,40}( (SIZE|BODY|RET|ENVID|NOTIFY|ORCPT|SMTPUTF8)=?[a+0;,]{0,6}){0,3}",
        ) {
            let line = format!("{verb}{rest}");
            if let Ok(Command::Mail(MailFrom { sender: Some(sender), .. })) = Command::parse(line.as_bytes()) {
                // What was read can be written and read again.
                prop_assert_eq!(Address::parse(&sender.to_string()), Ok(sender));
            }
        }
    }
}
