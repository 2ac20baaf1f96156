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
    /// How much of the input is done with.
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

    /// Consumes some of the input; all of it when called until the rest is empty.
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
        if self.line_length > LINE_LIMIT {
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
