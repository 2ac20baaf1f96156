//! Firewall: header fields that a message may not bring from outside, taken out while it comes in (rule 42).
//!
//! Owns which fields those are and the walk through a header section, piece by piece as it arrives. Holds
//! back no more than the beginning of one line. What it takes out is gone; the rest passes byte for byte.

use std::fmt;
use std::sync::Arc;

use memchr::memchr2;

/// How much of an `Authentication-Results` field is looked at for the name of its author.
const RESULTS_LIMIT: usize = 1024;
const RESULTS: &[u8] = b"authentication-results";
/// Organization fields that were promoted from one message and are not to come twice.
const PROMOTED_LIMIT: usize = 64;
const CROSS_PREMISES: &[u8] = b"x-ms-exchange-crosspremises-";
const ORGANIZATION: &[u8] = b"X-MS-Exchange-Organization-";

/// Header fields by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldPattern {
    /// `X-MS-Exchange-Organization-*`; kept without the asterisk.
    Prefix(Box<str>),
    /// One name.
    Name(Box<str>),
    /// `Authentication-Results` in the name of this service (RFC 8601 §5).
    ResultsOf(Box<str>),
}

impl FieldPattern {
    /// A field name, or the beginning of one with an asterisk behind it.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        // RFC 5322 §3.6.8. Shorter prefixes would take out what every message needs.
        let fits = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':' && byte != b'*');
        let long_enough = if is_prefix { name.len() >= 3 } else { !name.is_empty() };
        if !fits || !long_enough || name.len() > 128 {
            return None;
        }
        Some(if is_prefix { Self::Prefix(name.into()) } else { Self::Name(name.into()) })
    }

    pub fn results_of(service: &str) -> Self {
        Self::ResultsOf(service.into())
    }

    fn name(&self) -> &[u8] {
        match self {
            Self::Prefix(name) | Self::Name(name) => name.as_bytes(),
            Self::ResultsOf(_) => RESULTS,
        }
    }

    /// What the beginning of a line says about its being such a field.
    fn judge(&self, line: &[u8]) -> Judgement {
        let name = self.name();
        let common = name.len().min(line.len());
        if !line[..common].eq_ignore_ascii_case(&name[..common]) {
            return Judgement::Another;
        }
        match (self, line.get(name.len())) {
            (Self::Prefix(_), _) if line.len() >= name.len() => Judgement::This,
            (_, None) => Judgement::Undecided,
            // White space before the colon is obsolete, and read all the same (RFC 5322 §4.5). A line that
            // ends here is no field for us, and may be one for whoever unfolds first.
            (Self::Name(_) | Self::Prefix(_), Some(b':' | b' ' | b'\t' | b'\r' | b'\n')) => Judgement::This,
            (Self::ResultsOf(service), Some(b':' | b' ' | b'\t' | b'\r' | b'\n')) => {
                judge_results(service.as_bytes(), &line[name.len()..])
            }
            (_, Some(_)) => Judgement::Another,
        }
    }
}

/// As an operator writes it.
impl fmt::Display for FieldPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(name) => write!(f, "{name}*"),
            Self::Name(name) => f.write_str(name),
            Self::ResultsOf(service) => write!(f, "Authentication-Results: {service}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    This,
    Another,
    /// More of the line has to be seen.
    Undecided,
}

/// Whether the field behind its name speaks for `service`: white space and comments may stand before the
/// name, and quotes around it (RFC 8601 §2.2). What hides its author for too long is taken for ours.
fn judge_results(service: &[u8], behind_name: &[u8]) -> Judgement {
    match author_of(behind_name) {
        Author::Named(author) if author.eq_ignore_ascii_case(service) => Judgement::This,
        Author::Named(_) | Author::Nobody => Judgement::Another,
        Author::NotYet if behind_name.len() >= RESULTS_LIMIT => Judgement::This,
        Author::NotYet => Judgement::Undecided,
    }
}

enum Author {
    Named(Vec<u8>),
    Nobody,
    NotYet,
}

fn author_of(text: &[u8]) -> Author {
    let mut at = 0;
    let (mut depth, mut colon, mut quoted) = (0_usize, false, false);
    let mut author = Vec::new();
    while let Some(&octet) = text.get(at) {
        let next = text.get(at + 1).copied();
        at += 1;
        match octet {
            b'\\' if depth > 0 || quoted => match next {
                None => return Author::NotYet,
                Some(escaped) => {
                    at += 1;
                    if quoted {
                        author.push(escaped);
                    }
                }
            },
            b'\r' if next == Some(b'\n') => {}
            // Folded, or over.
            b'\r' | b'\n' => match next {
                None => return Author::NotYet,
                Some(b' ' | b'\t') => {}
                Some(_) if author.is_empty() => return Author::Nobody,
                Some(_) => return Author::Named(author),
            },
            b'"' if depth == 0 && quoted => return Author::Named(author),
            b'"' if depth == 0 && author.is_empty() => quoted = true,
            _ if quoted => author.push(octet),
            b'(' if author.is_empty() => depth += 1,
            b')' if depth > 0 => depth -= 1,
            _ if depth > 0 => {}
            b':' if !colon => colon = true,
            b' ' | b'\t' if author.is_empty() => {}
            b' ' | b'\t' | b';' | b'(' => return Author::Named(author),
            _ if !colon => return Author::Nobody,
            _ => author.push(octet),
        }
    }
    Author::NotYet
}

/// Which fields are taken out of whose mail. Built once, shared by all messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firewall {
    from_outside: Arc<[FieldPattern]>,
    from_anybody: Arc<[FieldPattern]>,
    /// What we write ourselves where the true sender of a message is recovered (rule 40).
    origin_fields: OriginFields,
}

/// The names of the two fields that record the true sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginFields {
    /// Where the recipients match.
    pub original: Arc<str>,
    /// Whoever they are.
    pub skip_listed: Arc<str>,
}

impl Default for OriginFields {
    fn default() -> Self {
        Self {
            original: "X-MS-Exchange-ExternalOriginalInternetSender".into(),
            skip_listed: "X-MS-Exchange-SkipListedInternetSender".into(),
        }
    }
}

/// Whose message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// Nobody whose word on a message counts.
    #[default]
    Outside,
    /// A connector with `trusted_headers`, proven by certificate: cross-premises fields become the
    /// organisation's own.
    Connector,
    /// An edge of another region, where the message has been through this already.
    Edge,
}

impl Firewall {
    /// `from_outside` goes from all mail but trusted connectors' and edges'; `from_anybody` from all.
    pub fn new(from_outside: Vec<FieldPattern>, from_anybody: Vec<FieldPattern>) -> Self {
        let origin_fields = OriginFields::default();
        Self { from_outside: from_outside.into(), from_anybody: from_anybody.into(), origin_fields }
    }

    pub fn recording(self, origin_fields: OriginFields) -> Self {
        Self { origin_fields, ..self }
    }

    pub fn origin_fields(&self) -> &OriginFields {
        &self.origin_fields
    }

    /// The screen for one message.
    pub fn screen(&self, trust: Trust) -> Screen {
        let nothing: Arc<[FieldPattern]> = Arc::default();
        let (special, promotes) = match trust {
            Trust::Outside => (self.from_outside.clone(), false),
            Trust::Connector => (nothing.clone(), true),
            Trust::Edge => (nothing.clone(), false),
        };
        Screen { patterns: [special, self.from_anybody.clone(), nothing], promotes, ..Screen::default() }
    }

    /// The same where the true sender will be recorded: nobody else's record of it stays.
    pub fn screen_to_record(&self, trust: Trust) -> Screen {
        let mut screen = self.screen(trust);
        let names = [&self.origin_fields.original, &self.origin_fields.skip_listed];
        screen.patterns[2] = names.map(|name| FieldPattern::Name(name.as_ref().into())).into();
        screen
    }
}

/// One message's way through the firewall.
#[derive(Debug, Default)]
pub struct Screen {
    patterns: [Arc<[FieldPattern]>; 3],
    promotes: bool,
    place: Place,
    /// The field under way is being taken out; whether the line in front of it ended in CRLF.
    removing: Option<bool>,
    /// The last line ended in CRLF, not in half of it.
    after_crlf: bool,
    /// The beginning of a line that may be such a field.
    held: Vec<u8>,
    promoted: Vec<Box<[u8]>>,
    removed: u32,
    /// Fields of ours, for the end of the header section.
    added: Vec<u8>,
}

/// Where the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// Before the first octet.
    #[default]
    Beginning,
    LineStart,
    InLine,
    /// After a CR in a line.
    Cr,
    /// After the empty line.
    Body,
}

/// What the beginning of a line comes to.
enum Line {
    Stays,
    Goes,
    /// These many octets are replaced by the words.
    Renamed(usize, Vec<u8>),
    Undecided,
}

impl Screen {
    /// Takes more of the message; gives what stays to `keep`, in order and in as few pieces as it can.
    pub fn push(&mut self, content: &[u8], mut keep: impl FnMut(&[u8])) {
        if self.place == Place::Body {
            return keep(content);
        }
        if self.held.is_empty() {
            return self.walk(content, &mut keep);
        }
        let mut joined = std::mem::take(&mut self.held);
        joined.extend_from_slice(content);
        self.walk(&joined, &mut keep);
    }

    /// The message is over: what was held back was no such field.
    pub fn finish(&mut self, mut keep: impl FnMut(&[u8])) {
        let added = std::mem::take(&mut self.added);
        if self.place != Place::Body && !added.is_empty() {
            let in_line = matches!(self.place, Place::InLine | Place::Cr) && self.removing.is_none();
            keep(if in_line { b"\r\n" } else { b"" });
            keep(&added);
        }
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            keep(&held);
        }
    }

    /// Puts fields of ours, whole lines, at the end of the header section; before that has come by.
    pub fn add(&mut self, fields: &str) {
        self.added.extend_from_slice(fields.as_bytes());
    }

    /// How many fields were taken out.
    pub fn removed(&self) -> u32 {
        self.removed
    }

    fn walk(&mut self, content: &[u8], keep: &mut impl FnMut(&[u8])) {
        let mut give = |part: &[u8]| {
            if !part.is_empty() {
                keep(part);
            }
        };
        // What stays and was not given yet begins here; meaningless while something is taken out.
        let mut from = 0;
        let mut at = 0;
        while let Some(&octet) = content.get(at) {
            match self.place {
                Place::Body => break,
                Place::Beginning if matches!(octet, b' ' | b'\t') => {
                    // A continuation of nothing would continue the fields that we put in front: what no
                    // field begins is body.
                    give(&std::mem::take(&mut self.added));
                    give(b"\r\n");
                    self.place = Place::Body;
                }
                Place::Beginning => {
                    self.place = Place::LineStart;
                    self.after_crlf = true;
                }
                Place::LineStart if matches!(octet, b' ' | b'\t') => self.place = Place::InLine,
                Place::LineStart => {
                    if let Some(after_crlf) = self.removing.take() {
                        self.after_crlf = after_crlf;
                        from = at;
                    }
                    match octet {
                        b'\r' => match content.get(at + 1) {
                            None => {
                                give(&content[from..at]);
                                self.held = b"\r".to_vec();
                                return;
                            }
                            Some(b'\n') if self.after_crlf => {
                                if !self.added.is_empty() {
                                    give(&content[from..at]);
                                    give(&std::mem::take(&mut self.added));
                                    from = at;
                                }
                                self.place = Place::Body;
                            }
                            // Whoever ends lines with half of CRLF (which only BINARYMIME lets through) has
                            // not ended the header for everybody: it is watched further.
                            Some(next) => {
                                self.after_crlf = *next == b'\n';
                                at += 1 + usize::from(*next == b'\n');
                            }
                        },
                        b'\n' => {
                            self.after_crlf = false;
                            at += 1;
                        }
                        _ => match self.judge(&content[at..]) {
                            Line::Stays => self.place = Place::InLine,
                            Line::Goes => {
                                give(&content[from..at]);
                                self.removing = Some(self.after_crlf);
                                self.removed += 1;
                                self.place = Place::InLine;
                            }
                            Line::Renamed(count, words) => {
                                give(&content[from..at]);
                                give(&words);
                                at += count;
                                from = at;
                                self.place = Place::InLine;
                            }
                            Line::Undecided => {
                                give(&content[from..at]);
                                self.held = content[at..].to_vec();
                                return;
                            }
                        },
                    }
                }
                Place::InLine => match memchr2(b'\r', b'\n', &content[at..]) {
                    None => at = content.len(),
                    Some(ending) => {
                        at += ending + 1;
                        if content[at - 1] == b'\r' {
                            self.place = Place::Cr;
                        } else {
                            self.place = Place::LineStart;
                            self.after_crlf = false;
                        }
                    }
                },
                Place::Cr => {
                    self.place = Place::LineStart;
                    self.after_crlf = octet == b'\n';
                    at += usize::from(octet == b'\n');
                }
            }
        }
        if self.removing.is_none() {
            give(&content[from..]);
        }
    }

    fn judge(&mut self, line: &[u8]) -> Line {
        let mut undecided = false;
        for pattern in self.patterns.iter().flat_map(|patterns| patterns.iter()) {
            match pattern.judge(line) {
                Judgement::This => return Line::Goes,
                Judgement::Undecided => undecided = true,
                Judgement::Another => {}
            }
        }
        if undecided {
            return Line::Undecided;
        }
        if self.promotes { self.promote(line) } else { Line::Stays }
    }

    /// What the organisation said at its other end becomes its word here. Such a field takes the place of
    /// one of the same name that follows it.
    fn promote(&mut self, line: &[u8]) -> Line {
        for (prefix, is_own) in [(CROSS_PREMISES, false), (ORGANIZATION, true)] {
            let common = prefix.len().min(line.len());
            if !line[..common].eq_ignore_ascii_case(&prefix[..common]) {
                continue;
            }
            let rest = &line[common..];
            let Some(end) =
                rest.iter().position(|octet| matches!(octet, b':' | b' ' | b'\t' | b'\r' | b'\n'))
            else {
                // A name that long is nobody's.
                return if line.len() > RESULTS_LIMIT { Line::Stays } else { Line::Undecided };
            };
            let name = rest[..end].to_ascii_lowercase().into_boxed_slice();
            if is_own {
                return if self.promoted.contains(&name) { Line::Goes } else { Line::Stays };
            }
            if self.promoted.len() < PROMOTED_LIMIT {
                self.promoted.push(name);
            }
            return Line::Renamed(prefix.len(), ORGANIZATION.to_vec());
        }
        Line::Stays
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wall() -> Firewall {
        let parse = |text: &str| FieldPattern::parse(text).expect("a pattern");
        Firewall::new(
            vec![
                parse("X-MS-Exchange-Organization-*"),
                parse("X-MS-Exchange-CrossPremises-*"),
                parse("X-Own"),
            ],
            vec![FieldPattern::results_of("edge1.example.net")],
        )
    }

    /// What is left of a message that comes in pieces, and how many fields went.
    fn screened(trust: Trust, message: &[u8], cuts: &[usize]) -> (Vec<u8>, u32) {
        let mut screen = wall().screen(trust);
        let mut out = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([message.len()]) {
            screen.push(&message[start..end], |part| out.extend_from_slice(part));
            start = end;
        }
        screen.finish(|part| out.extend_from_slice(part));
        (out, screen.removed())
    }

    fn text(trust: Trust, message: &str) -> String {
        String::from_utf8(screened(trust, message.as_bytes(), &[]).0).expect("text")
    }

    #[test]
    fn forbidden_fields_go_in_any_dress() {
        for (message, left) in [
            (
                "A: b\r\nX-MS-Exchange-Organization-SCL: -1\r\nC: d\r\n\r\nbody\r\n",
                "A: b\r\nC: d\r\n\r\nbody\r\n",
            ),
            ("x-ms-exchange-ORGANIZATION-scl:-1\r\n\tfolded\r\n more\r\nC: d\r\n\r\n", "C: d\r\n\r\n"),
            (
                "A: b\r\nX-Own : 1\r\nX-Own\t: 1\r\nX-Owner: 1\r\nX-Ow: 1\r\n\r\n",
                "A: b\r\nX-Owner: 1\r\nX-Ow: 1\r\n\r\n",
            ),
            // Unfolded by whoever reads it, it would be one.
            ("X-Own\r\n : 1\r\nA: b\r\n\r\n", "A: b\r\n\r\n"),
            // One after the other, at the very end, and nothing else.
            ("X-Own: 1\r\nX-Own: 2\r\nX-Own: 3", ""),
            ("A: b\r\nX-Own: 3\r\n", "A: b\r\n"),
            // A line that is no field ends nothing.
            ("garbage\r\nX-Own: 1\r\n\r\nX-Own: body\r\n", "garbage\r\n\r\nX-Own: body\r\n"),
            // Only the empty line begins the body; a blank one does not.
            ("A: b\r\n \r\nX-Own: 1\r\n\r\nX-Own: 1\r\n", "A: b\r\n \r\n\r\nX-Own: 1\r\n"),
            ("\r\nX-Own: 1\r\n", "\r\nX-Own: 1\r\n"),
            ("", ""),
            ("A", "A"),
            ("X-Ow", "X-Ow"),
            ("A: b\r\n\r", "A: b\r\n\r"),
            // Half line ends, as BINARYMIME may bring them.
            ("A: b\nX-Own: 1\nC: d\rX-Own: 2\r\n\r\nX-Own: 3", "A: b\nC: d\r\r\n"),
            ("A: b\n\nX-Own: 1\r\n\r\nX-Own: 2", "A: b\n\n\r\n"),
        ] {
            assert_eq!(text(Trust::Outside, message), left, "{message:?}");
        }
    }

    #[test]
    fn a_line_that_continues_nothing_cannot_continue_ours() {
        for message in [" ; dkim=pass\r\nA: b\r\n\r\n", "\tx", " "] {
            assert_eq!(text(Trust::Edge, message), format!("\r\n{message}"));
        }
    }

    #[test]
    fn results_in_our_name_go_and_others_stay() {
        for (value, goes) in [
            (": edge1.example.net; spf=pass", true),
            (":EDGE1.example.NET;spf=pass", true),
            (" : (a \\) comment (nested)) edge1.example.net 1; none", true),
            (":\r\n\t(folded)\r\n edge1.example.net; none", true),
            (": \"edge1.example.net\"; none", true),
            (": \"edge1.ex\\ample.net\"; none", true),
            (": edge1.example.net", true),
            (": edge1.example.net.; none", false),
            (": edge2.example.net; spf=pass", false),
            (": (edge1.example.net) other.example; none", false),
            (":", false),
            ("-Of: edge1.example.net", false),
        ] {
            let message = format!("A: b\r\nAuthentication-Results{value}\r\nC: d\r\n\r\n");
            let left = if goes { "A: b\r\nC: d\r\n\r\n" } else { message.as_str() };
            for trust in [Trust::Outside, Trust::Connector, Trust::Edge] {
                assert_eq!(text(trust, &message), left, "{value:?}");
            }
        }
        let hidden =
            format!("Authentication-Results: ({}) edge1.example.net; none\r\nA: b\r\n", "x".repeat(5000));
        assert_eq!(text(Trust::Outside, &hidden), "A: b\r\n");
    }

    #[test]
    fn a_trusted_connector_speaks_for_the_organisation() {
        let message = "X-Own: 1\r\nx-ms-exchange-crosspremises-SCL: 5\r\nX-MS-Exchange-Organization-scl: 1\r\n \
                       folded\r\nX-MS-Exchange-Organization-AuthAs: Internal\r\n\r\nX-MS-Exchange-CrossPremises-a: b\r\n";
        assert_eq!(
            text(Trust::Connector, message),
            "X-Own: 1\r\nX-MS-Exchange-Organization-SCL: 5\r\nX-MS-Exchange-Organization-AuthAs: Internal\r\n\r\n\
             X-MS-Exchange-CrossPremises-a: b\r\n"
        );
        assert_eq!(text(Trust::Edge, message), message);
        assert_eq!(text(Trust::Outside, message), "\r\nX-MS-Exchange-CrossPremises-a: b\r\n");
    }

    #[test]
    fn a_line_of_a_megabyte_is_not_held() {
        for line in ["X-MS-Exchange-Organization-A: ", "Subject: ", "Authentication-Results: (", "X-Own"] {
            let mut screen = wall().screen(Trust::Outside);
            let mut kept = 0;
            screen.push(line.as_bytes(), |part| kept += part.len());
            for _ in 0..1024 {
                screen.push(&[b'x'; 1024], |part| kept += part.len());
                assert!(screen.held.len() <= 2 * RESULTS_LIMIT + 64, "{line}: {} held", screen.held.len());
            }
            screen.finish(|part| kept += part.len());
            let all = line.len() + 1024 * 1024;
            assert_eq!(kept, if line.starts_with("S") || line == "X-Own" { all } else { 0 }, "{line}");
        }
    }

    #[test]
    fn fields_of_ours_stand_at_the_end_of_the_header() {
        for (message, left) in [
            ("A: b\r\n\r\nbody\r\n", "A: b\r\nOurs: 1\r\n\r\nbody\r\n"),
            ("A: b\r\nX-Own: 1\r\n\r\n\r\n", "A: b\r\nOurs: 1\r\n\r\n\r\n"),
            ("\r\nbody", "Ours: 1\r\n\r\nbody"),
            ("A: b\r\n", "A: b\r\nOurs: 1\r\n"),
            ("A: b", "A: b\r\nOurs: 1\r\n"),
            ("X-Ow", "Ours: 1\r\nX-Ow"),
            ("", "Ours: 1\r\n"),
            (" x", "Ours: 1\r\n\r\n x"),
        ] {
            for cut in 0..=message.len() {
                let mut screen = wall().screen(Trust::Outside);
                screen.add("Ours: 1\r\n");
                let mut out = Vec::new();
                screen.push(&message.as_bytes()[..cut], |part| out.extend_from_slice(part));
                screen.push(&message.as_bytes()[cut..], |part| out.extend_from_slice(part));
                screen.finish(|part| out.extend_from_slice(part));
                assert_eq!(String::from_utf8_lossy(&out), left, "{message:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn patterns_are_names_or_beginnings_of_names() {
        for (text, read) in [
            ("X-Own", Some("X-Own")),
            ("X-Landfall-*", Some("X-Landfall-*")),
            ("*", None),
            ("X*", None),
            ("X-*-Own", None),
            ("X Own", None),
            ("X-Own:", None),
            ("", None),
        ] {
            assert_eq!(
                FieldPattern::parse(text).map(|pattern| pattern.to_string()).as_deref(),
                read,
                "{text}"
            );
        }
    }

    fn message() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "A: b",
            "X-Own",
            "X-MS-Exchange-Organization-SCL",
            "x-ms-exchange-crosspremises-a",
            ": ",
            ":",
            " ",
            "\t",
            "\r\n",
            "\r\n",
            "\r\n",
            "\r\n\r\n",
            "\n",
            "\r",
            "Authentication-Results: ",
            "edge1.example.net",
            "(",
            ")",
            "\"",
            "\\",
            ";",
            "x",
            "\0",
            "é",
        ]);
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn pieces_make_no_difference(
            message in message(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            trust in prop::sample::select(vec![Trust::Outside, Trust::Connector, Trust::Edge]),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(message.len() + 1)).collect();
            cuts.sort_unstable();
            let whole = screened(trust, &message, &[]);
            prop_assert_eq!(&screened(trust, &message, &cuts), &whole);
            let octets: Vec<usize> = (1..message.len()).collect();
            prop_assert_eq!(&screened(trust, &message, &octets), &whole);
        }

        /// What is taken out is whole lines that begin with a forbidden name, and their continuations.
        #[test]
        fn everything_else_passes_byte_for_byte(message in message()) {
            let (left, removed) = screened(Trust::Outside, &message, &[]);
            if removed == 0 && !message.starts_with(b" ") && !message.starts_with(b"\t") {
                prop_assert_eq!(&left, &message);
            }
            // A second time there is nothing to take.
            let (again, none) = screened(Trust::Outside, &left, &[]);
            if !left.starts_with(b" ") && !left.starts_with(b"\t") {
                prop_assert_eq!((again, none), (left, 0));
            }
        }
    }
}
