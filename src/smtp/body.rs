//! Body: message content as it comes in, by DATA or in chunks.
//!
//! Owns dot-unstuffing and what a body may not hold; passes slices of its input on and keeps none.
//! Only CRLF.CRLF ends DATA: no other mixture of CR, LF and dots ever does (SMTP smuggling, rule 62).
//! `net` feeds it, `session` judges the summary. `encode` is the other direction.

use memchr::{memchr, memchr_iter, memchr2};

/// Section 6: lines over 998 octets pass unchanged up to here.
const LINE_LIMIT: usize = 64 * 1024;

/// What a body was, once its end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BodySummary {
    /// Octets after unstuffing, whether kept or not.
    pub size: u64,
    /// `Received` fields in its header (rule 57).
    pub hops: u32,
    pub has_8bit: bool,
    /// The first thing that was wrong with it; content after a fault was swallowed.
    pub fault: Option<BodyFault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    /// A CR without LF or an LF without CR (rule 62).
    BareLineEnding,
    Nul,
    /// A line of more than 64 KiB (section 6).
    LineTooLong,
    /// Rule 55.
    TooLarge,
}

/// What to do about a bare CR or LF (rule 62).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LineEndings {
    #[default]
    Refuse,
    /// Each becomes CRLF.
    Normalize,
}

/// What the octets of a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Lines that end in CRLF.
    Lines(LineEndings),
    /// BODY=BINARYMIME: anything (RFC 3030 §3).
    Binary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyRules {
    pub size_limit: u64,
    pub form: Form,
}

/// One step of a decoder through its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// Content to keep: a slice of the input, or a line ending put right. May be empty.
    pub content: &'a [u8],
    /// How much of the input is done with; it may be nothing, with content all the same. Step on until the
    /// rest of the input is empty or the end was found.
    pub consumed: usize,
    /// The end was found; what follows in the input is the next command. Ask for the summary now.
    pub ended: bool,
}

/// Decodes DATA: feed it what came in, step by step, until a step has `ended`.
#[derive(Debug)]
pub struct DataDecoder {
    lines: Lines,
}

impl DataDecoder {
    /// Of the rules' form only the line endings count: DATA is never binary.
    pub fn new(rules: BodyRules) -> Self {
        let line_endings = match rules.form {
            Form::Lines(line_endings) => line_endings,
            Form::Binary => LineEndings::Refuse,
        };
        Self { lines: Lines::new(rules.size_limit, line_endings, Dots::Stuffed) }
    }

    /// One step; see `Step`.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        self.lines.step(input)
    }

    pub fn summary(&self) -> BodySummary {
        self.lines.inspection.summary
    }
}

/// Decodes BDAT: the chunks of one message, one after the other. `begin` each, then step until `ended`.
#[derive(Debug)]
pub struct ChunkDecoder {
    content: ChunkContent,
    /// Octets of the chunk still to come.
    left: u64,
}

#[derive(Debug)]
enum ChunkContent {
    Lines(Lines),
    Binary(Inspection),
}

impl ChunkDecoder {
    pub fn new(rules: BodyRules) -> Self {
        let content = match rules.form {
            Form::Lines(line_endings) => {
                ChunkContent::Lines(Lines::new(rules.size_limit, line_endings, Dots::Plain))
            }
            Form::Binary => ChunkContent::Binary(Inspection::new(rules.size_limit)),
        };
        Self { content, left: 0 }
    }

    pub fn begin(&mut self, octets: u64) {
        self.left = octets;
    }

    /// As `DataDecoder::step`. A chunk of no octets ends with a step on no input.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        let ours = &input[..input.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))];
        let step = match &mut self.content {
            ChunkContent::Lines(lines) => lines.step(ours),
            ChunkContent::Binary(inspection) => {
                inspection.see_binary(ours);
                Step { content: inspection.unless_faulty(ours), consumed: ours.len(), ended: false }
            }
        };
        self.left -= step.consumed as u64;
        Step { ended: self.left == 0, ..step }
    }

    /// What the message was up to here.
    pub fn summary(&self) -> BodySummary {
        match &self.content {
            ChunkContent::Lines(lines) => lines.inspection.summary,
            ChunkContent::Binary(inspection) => inspection.summary,
        }
    }

    /// What the whole message was, after its last chunk. One that does not end in CRLF is stored as it
    /// came; DATA toward a next hop then adds the CRLF, since it cannot do without (RFC 3030 §3).
    pub fn finish(self) -> BodySummary {
        match self.content {
            ChunkContent::Lines(lines) => lines.finish(),
            ChunkContent::Binary(inspection) => inspection.summary,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dots {
    Stuffed,
    Plain,
}

/// Where the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// After CRLF, or at the very start: the only place where a dot is not content.
    LineStart,
    /// After a dot there; it is dropped whatever follows (RFC 5321 §4.5.2).
    Dot,
    /// After a dot and a CR there; the CR is held back, since the end may be here.
    DotCr,
    InLine,
    /// After a CR that was passed on already.
    Cr,
}

/// Text by lines: finds the end, undoes dot-stuffing, watches line endings.
#[derive(Debug)]
struct Lines {
    place: Place,
    line_endings: LineEndings,
    dots: Dots,
    /// Octets of the current line so far.
    line_length: usize,
    inspection: Inspection,
}

impl Lines {
    fn new(size_limit: u64, line_endings: LineEndings, dots: Dots) -> Self {
        Self {
            place: Place::LineStart,
            line_endings,
            dots,
            line_length: 0,
            inspection: Inspection::new(size_limit),
        }
    }

    fn step<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        let mut skipped = 0;
        if self.dots == Dots::Stuffed {
            while let Some(&octet) = input.get(skipped) {
                self.place = match (self.place, octet) {
                    (Place::LineStart, b'.') => Place::Dot,
                    (Place::Dot, b'\r') => Place::DotCr,
                    (Place::DotCr, b'\n') => {
                        return Step { content: &[], consumed: skipped + 1, ended: true };
                    }
                    (Place::DotCr, _) => {
                        // The held CR was a bare one, and content.
                        self.place = Place::Cr;
                        let content = self.pass(b"\r");
                        return Step { content, consumed: skipped, ended: false };
                    }
                    (Place::LineStart | Place::Dot | Place::InLine | Place::Cr, _) => break,
                };
                skipped += 1;
            }
        }
        let rest = &input[skipped..];
        if rest.is_empty() {
            return Step { content: &[], consumed: skipped, ended: false };
        }
        let (content, consumed) = match self.line_endings {
            LineEndings::Refuse => self.scan(rest),
            LineEndings::Normalize => self.scan_and_mend(rest),
        };
        Step { content: self.pass(content), consumed: skipped + consumed, ended: false }
    }

    /// Up to the next dot at a line start, or to the end of the input. Looks at each line, not at each octet.
    fn scan<'a>(&mut self, input: &'a [u8]) -> (&'a [u8], usize) {
        let after_cr = self.place == Place::Cr;
        let mut line_start = 0;
        let mut endings = 0;
        let mut stop = input.len();
        for lf in memchr_iter(b'\n', input) {
            let has_cr = if lf == 0 { after_cr } else { input[lf - 1] == b'\r' };
            if has_cr {
                endings += 1;
            } else {
                self.inspection.find(BodyFault::BareLineEnding);
            }
            self.end_line(lf - line_start);
            line_start = lf + 1;
            // After a bare LF a dot is content: it never ends anything (rule 62).
            if has_cr && self.dots == Dots::Stuffed && input.get(line_start) == Some(&b'.') {
                stop = line_start;
                break;
            }
        }
        let content = &input[..stop];
        self.grow_line(stop - line_start);
        // Every CR must have been one of those endings, but for a last one whose LF may yet come.
        let ends_in_cr = content[stop - 1] == b'\r';
        let returns = memchr_iter(b'\r', content).count() + usize::from(after_cr) - usize::from(ends_in_cr);
        if returns != endings {
            self.inspection.find(BodyFault::BareLineEnding);
        }
        self.place = if ends_in_cr {
            Place::Cr
        } else if line_start == stop && (stop == 1 && after_cr || stop > 1 && content[stop - 2] == b'\r') {
            Place::LineStart
        } else {
            Place::InLine
        };
        (content, stop)
    }

    /// As `scan`, but gives each bare CR or LF the half that it lacks. Only for clients that are listed.
    fn scan_and_mend<'a>(&mut self, input: &'a [u8]) -> (&'a [u8], usize) {
        if self.place == Place::Cr {
            if input[0] == b'\n' {
                self.place = Place::LineStart;
                self.end_line(0);
                return (&input[..1], 1);
            }
            self.place = Place::InLine;
            self.end_line(0);
            return (b"\n", 0);
        }
        self.place = Place::InLine;
        match memchr2(b'\r', b'\n', input) {
            None => {
                self.grow_line(input.len());
                (input, input.len())
            }
            Some(0) if input[0] == b'\n' => {
                self.end_line(0);
                (b"\r\n", 1)
            }
            Some(lf) if input[lf] == b'\n' => {
                self.grow_line(lf);
                (&input[..lf], lf)
            }
            Some(cr) => {
                self.grow_line(cr + 1);
                self.place = Place::Cr;
                (&input[..=cr], cr + 1)
            }
        }
    }

    fn grow_line(&mut self, octets: usize) {
        self.line_length += octets;
        // The CR at its end is counted here, and no part of it.
        if self.line_length > LINE_LIMIT + 1 {
            self.inspection.find(BodyFault::LineTooLong);
        }
    }

    fn end_line(&mut self, octets: usize) {
        self.grow_line(octets);
        self.line_length = 0;
    }

    fn pass<'a>(&mut self, content: &'a [u8]) -> &'a [u8] {
        self.inspection.see_text(content);
        self.inspection.unless_faulty(content)
    }

    /// A CR at the very end has no LF to wait for. Only chunks can end so.
    fn finish(mut self) -> BodySummary {
        if self.place == Place::Cr {
            self.inspection.find(BodyFault::BareLineEnding);
        }
        self.inspection.summary
    }
}

/// What is noticed about content on its way through.
#[derive(Debug)]
struct Inspection {
    summary: BodySummary,
    size_limit: u64,
    header: Header,
}

/// Where in the header the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    /// This many octets of a line have matched `RECEIVED`.
    Name(usize),
    /// A CR at a line start: the empty line, if LF follows.
    EmptyLine,
    RestOfLine,
    Over,
}

const RECEIVED: &[u8] = b"received:";

impl Inspection {
    fn new(size_limit: u64) -> Self {
        Self { summary: BodySummary::default(), size_limit, header: Header::Name(0) }
    }

    /// The first fault is the one that is answered.
    fn find(&mut self, fault: BodyFault) {
        self.summary.fault.get_or_insert(fault);
    }

    fn unless_faulty<'a>(&self, content: &'a [u8]) -> &'a [u8] {
        if self.summary.fault.is_some() { &[] } else { content }
    }

    fn see_text(&mut self, content: &[u8]) {
        if memchr(0, content).is_some() {
            self.find(BodyFault::Nul);
        }
        self.see_binary(content);
    }

    fn see_binary(&mut self, content: &[u8]) {
        self.summary.size += content.len() as u64;
        if self.summary.size > self.size_limit {
            self.find(BodyFault::TooLarge);
        }
        self.summary.has_8bit = self.summary.has_8bit || !content.is_ascii();
        if self.header != Header::Over {
            self.count_hops(content);
        }
    }

    fn count_hops(&mut self, mut content: &[u8]) {
        while let Some(&octet) = content.first() {
            let mut consumed = 1;
            self.header = match self.header {
                Header::Over => return,
                Header::Name(0) if octet == b'\r' => Header::EmptyLine,
                Header::Name(matched) if RECEIVED[matched].eq_ignore_ascii_case(&octet) => {
                    if matched + 1 == RECEIVED.len() {
                        self.summary.hops = self.summary.hops.saturating_add(1);
                        Header::RestOfLine
                    } else {
                        Header::Name(matched + 1)
                    }
                }
                // `Received :` is the obsolete form (RFC 5322 §4.5), and counts.
                Header::Name(matched) if matched + 1 == RECEIVED.len() && matches!(octet, b' ' | b'\t') => {
                    Header::Name(matched)
                }
                Header::EmptyLine if octet == b'\n' => Header::Over,
                Header::Name(_) | Header::EmptyLine => {
                    consumed = 0;
                    Header::RestOfLine
                }
                Header::RestOfLine => match memchr(b'\n', content) {
                    Some(lf) => {
                        consumed = lf + 1;
                        Header::Name(0)
                    }
                    None => return,
                },
            };
            content = &content[consumed..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(line_endings: LineEndings) -> BodyRules {
        BodyRules { size_limit: 1_000_000, form: Form::Lines(line_endings) }
    }

    struct Decoded {
        content: Vec<u8>,
        /// What came behind the end, when there was one.
        rest: Option<Vec<u8>>,
        summary: BodySummary,
    }

    /// Feeds the input cut at the given places.
    fn decode(rules: BodyRules, input: &[u8], cuts: &[usize]) -> Decoded {
        let mut decoder = DataDecoder::new(rules);
        let mut content = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([input.len()]) {
            while start < end {
                let step = decoder.step(&input[start..end]);
                content.extend_from_slice(step.content);
                start += step.consumed;
                if step.ended {
                    let rest = Some(input[start..].to_vec());
                    return Decoded { content, rest, summary: decoder.summary() };
                }
            }
        }
        Decoded { content, rest: None, summary: decoder.summary() }
    }

    fn decode_chunks(rules: BodyRules, chunks: &[&[u8]], piece: usize) -> (Vec<u8>, BodySummary) {
        let mut decoder = ChunkDecoder::new(rules);
        let mut content = Vec::new();
        for chunk in chunks {
            decoder.begin(chunk.len() as u64);
            let mut at = 0;
            loop {
                let end = chunk.len().min(at + piece);
                let step = decoder.step(&chunk[at..end]);
                content.extend_from_slice(step.content);
                at += step.consumed;
                if step.ended {
                    break;
                }
            }
        }
        (content, decoder.finish())
    }

    /// What a client does (RFC 5321 §4.5.2).
    fn stuffed(content: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        for line in content.split_inclusive(|octet| *octet == b'\n') {
            if line.starts_with(b".") {
                wire.push(b'.');
            }
            wire.extend_from_slice(line);
        }
        wire.extend_from_slice(b".\r\n");
        wire
    }

    #[test]
    fn only_crlf_dot_crlf_ends_data() {
        for fake in [
            "\n.\n",
            "\n.\r\n",
            "\r\n.\n",
            "\r.\r",
            "\r\n.\r",
            "\r.\r\n",
            "\n.\r",
            "\r.\n",
            "\n\n.\n",
            "\r\r\n.\n",
            "\r\n.\r\r\n",
            "\r\n.\0\r\n",
            "\r\n\0.\r\n",
            "\n\r.\r\n",
            "\r\n.\n\r\n",
        ] {
            let input = format!("body{fake}MAIL FROM:<evil@sender.example>\r\n.\r\nQUIT\r\n");
            for cut in 0..input.len() {
                let decoded = decode(rules(LineEndings::Refuse), input.as_bytes(), &[cut]);
                assert_eq!(decoded.rest.as_deref(), Some(&b"QUIT\r\n"[..]), "{fake:?} cut at {cut}");
                assert!(decoded.summary.fault.is_some(), "{fake:?} cut at {cut}");
                let mended = decode(rules(LineEndings::Normalize), input.as_bytes(), &[cut]);
                assert_eq!(mended.rest.as_deref(), Some(&b"QUIT\r\n"[..]), "{fake:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn normalizing_leaves_no_bare_ending() {
        for (input, content) in [
            ("a\nb\r\n.\r\n", "a\r\nb\r\n"),
            ("a\rb\r\n.\r\n", "a\r\nb\r\n"),
            ("a\n.\nb\r\n.\r\n", "a\r\n.\r\nb\r\n"),
            ("a\r\r\nb\r\n.\r\n", "a\r\n\r\nb\r\n"),
            ("\n\n\r\n.\r\n", "\r\n\r\n\r\n"),
            (".\rb\r\n.\r\n", "\r\nb\r\n"),
        ] {
            let decoded = decode(rules(LineEndings::Normalize), input.as_bytes(), &[]);
            assert_eq!(
                decoded.content.escape_ascii().to_string(),
                content.as_bytes().escape_ascii().to_string()
            );
            assert_eq!(decoded.summary.fault, None, "{input:?}");
            assert_eq!(decoded.rest.as_deref(), Some(&b""[..]), "{input:?}");
        }
    }

    #[test]
    fn the_first_fault_is_reported_and_nothing_after_it_kept() {
        let long = format!("{}\r\n.\r\n", "x".repeat(LINE_LIMIT + 1));
        for (input, fault) in [
            ("a\0b\nc\r\n.\r\n", BodyFault::BareLineEnding),
            ("a\0b\r\n.\r\n", BodyFault::Nul),
            ("a\rb\r\n.\r\n", BodyFault::BareLineEnding),
            (long.as_str(), BodyFault::LineTooLong),
        ] {
            let decoded = decode(rules(LineEndings::Refuse), input.as_bytes(), &[]);
            assert_eq!(decoded.summary.fault, Some(fault));
            assert_eq!(decoded.content, b"");
            assert!(decoded.rest.is_some());
        }
    }

    #[test]
    fn a_line_may_have_64_kib_before_its_end() {
        let fits = format!("{}\r\n", "x".repeat(LINE_LIMIT));
        for line_endings in [LineEndings::Refuse, LineEndings::Normalize] {
            for splits in [&[][..], &[LINE_LIMIT], &[LINE_LIMIT + 1]] {
                let decoded = decode(rules(line_endings), format!("{fits}.\r\n").as_bytes(), splits);
                assert_eq!(decoded.summary.fault, None);
                assert_eq!(decoded.content, fits.as_bytes());
            }
        }
    }

    #[test]
    fn size_counts_content_and_is_limited_to_the_octet() {
        let tight = BodyRules { size_limit: 6, form: Form::Lines(LineEndings::Refuse) };
        assert_eq!(decode(tight, b"...abc\r\n.\r\n", &[]).summary.fault, Some(BodyFault::TooLarge));
        let decoded = decode(tight, b"..abc\r\n.\r\n", &[]);
        assert_eq!((decoded.summary.size, decoded.summary.fault), (6, None));
    }

    #[test]
    fn hops_are_the_received_fields_of_the_header() {
        for (input, hops) in [
            ("Received: a\r\nrEcEiVeD : b\r\n folded\r\n\r\nReceived: body\r\n.\r\n", 2),
            ("Received-SPF: x\r\n Received: folded\r\nX: Received: y\r\n\r\n.\r\n", 0),
            ("\r\nReceived: body\r\n.\r\n", 0),
            (".\r\n", 0),
            ("Receive\r\nReceived:\r\n.\r\n", 1),
        ] {
            for cut in 0..input.len() {
                assert_eq!(
                    decode(rules(LineEndings::Refuse), input.as_bytes(), &[cut]).summary.hops,
                    hops,
                    "{input:?}"
                );
            }
        }
    }

    #[test]
    fn chunks_are_checked_as_one_message() {
        let lines = rules(LineEndings::Refuse);
        let binary = BodyRules { size_limit: 20, form: Form::Binary };
        for (rules, chunks, fault) in [
            (lines, &[&b"a\r"[..], b"\nb"][..], None),
            (lines, &[b"a\r", b"b"], Some(BodyFault::BareLineEnding)),
            (lines, &[b"a", b"\nb"], Some(BodyFault::BareLineEnding)),
            (lines, &[b"a\r"], Some(BodyFault::BareLineEnding)),
            (lines, &[b"a\0"], Some(BodyFault::Nul)),
            (lines, &[b"a\r\n", b".\r\n", b"..\r\n", b""], None),
            (binary, &[b"\r\0\n", b"Received: \xff\r"], None),
            (binary, &[b"\r\0\n0123456789", b"0123456789"], Some(BodyFault::TooLarge)),
        ] {
            for piece in [1, 2, 100] {
                let (content, summary) = decode_chunks(rules, chunks, piece);
                assert_eq!(summary.fault, fault, "{chunks:?}");
                assert_eq!(summary.size, chunks.concat().len() as u64);
                if fault.is_none() {
                    assert_eq!(content, chunks.concat());
                }
            }
        }
    }

    /// Few octets, so that what matters is frequent.
    fn wire() -> impl Strategy<Value = Vec<u8>> {
        let octet =
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'.'), Just(b'a'), Just(0), Just(0xff)];
        let piece = prop_oneof![
            4 => octet.prop_map(|octet| vec![octet]),
            3 => Just(b"\r\n".to_vec()),
            1 => Just(b"\r\nReceived: ".to_vec()),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    /// Lines in CRLF, without NUL.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let line = prop::collection::vec(prop_oneof![Just(b'.'), Just(b'a'), 1u8..=255], 0..8);
        prop::collection::vec(line, 0..12).prop_map(|lines| {
            let mut message = Vec::new();
            for line in lines {
                message.extend(line.into_iter().filter(|octet| !matches!(octet, b'\r' | b'\n')));
                message.extend_from_slice(b"\r\n");
            }
            message
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_was_stuffed_comes_out_as_it_was(message in message(), line_endings in
            prop_oneof![Just(LineEndings::Refuse), Just(LineEndings::Normalize)]) {
            let decoded = decode(rules(line_endings), &stuffed(&message), &[]);
            prop_assert_eq!(decoded.content, message);
            prop_assert_eq!(decoded.summary.fault, None);
            prop_assert_eq!(decoded.rest, Some(Vec::new()));
        }

        #[test]
        fn where_the_input_is_cut_does_not_matter(wire in wire(), seed in any::<u64>(), line_endings in
            prop_oneof![Just(LineEndings::Refuse), Just(LineEndings::Normalize)]) {
            let whole = decode(rules(line_endings), &wire, &[]);
            let cuts: Vec<usize> = (1..wire.len()).filter(|cut| seed >> (cut % 64) & 1 == 1).collect();
            for cuts in [cuts, (1..wire.len()).collect()] {
                let pieces = decode(rules(line_endings), &wire, &cuts);
                prop_assert_eq!(&pieces.rest, &whole.rest);
                prop_assert_eq!(pieces.summary.size, whole.summary.size);
                prop_assert_eq!(pieces.summary.hops, whole.summary.hops);
                prop_assert_eq!(pieces.summary.has_8bit, whole.summary.has_8bit);
                prop_assert_eq!(pieces.summary.fault.is_some(), whole.summary.fault.is_some());
                if whole.rest.is_some() && whole.summary.fault.is_none() {
                    prop_assert_eq!(&pieces.content, &whole.content);
                }
            }
        }

        /// The end is where a search for CRLF.CRLF finds it, and nowhere else.
        #[test]
        fn the_end_is_the_first_crlf_dot_crlf(wire in wire()) {
            let decoded = decode(rules(LineEndings::Refuse), &wire, &[]);
            let framed = [b"\r\n", wire.as_slice()].concat();
            let end = framed.windows(5).position(|window| window == b"\r\n.\r\n").map(|at| at + 5 - 2);
            prop_assert_eq!(decoded.rest.map(|rest| wire.len() - rest.len()), end);
        }

        /// What is kept can be passed on without smuggling anything.
        #[test]
        fn kept_content_has_no_bare_ending(wire in wire(), line_endings in
            prop_oneof![Just(LineEndings::Refuse), Just(LineEndings::Normalize)]) {
            let decoded = decode(rules(line_endings), &wire, &[]);
            if decoded.rest.is_some() && decoded.summary.fault.is_none() {
                let text = String::from_utf8_lossy(&decoded.content).replace("\r\n", "");
                prop_assert!(!text.contains(['\r', '\n', '\0']));
            }
        }
    }
}
