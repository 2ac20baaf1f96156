//! Line: one command line in a buffer of bytes that came in.
//!
//! Only CRLF ends a line; a CR or LF of its own makes the whole line refused, never two lines of it.
//! Allocates nothing. `net` owns the buffer and calls; `command` reads what is inside.

use memchr::{memchr, memchr_iter};

/// Longest command line, CRLF included. RFC 5321 §4.5.3.1.4 asks for 512; parameters of extensions add to
/// that (RFC 1870, 3461, 6531), and AUTH-sized lines are not offered.
pub const LINE_LIMIT: usize = 2048;

/// What stands at the front of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// Not a whole line yet, and not too long yet either.
    Incomplete,
    /// A line without its CRLF.
    Line { line: &'a [u8], consumed: usize },
    /// A whole line over the limit, or one with a CR or LF of its own: drop it and say so once.
    Refused { fault: LineFault, consumed: usize },
    /// The front of a line that is too long already: drop it; the finder remembers that its end is still to
    /// come. Nothing is answered yet.
    Swallowed { consumed: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFault {
    TooLong,
    BareLineEnding,
}

/// Finds lines. Remembers only whether it is in the middle of one that is being dropped.
#[derive(Debug, Default, Clone)]
pub struct LineFinder {
    swallowing: Option<Swallowing>,
}

#[derive(Debug, Clone, Copy)]
struct Swallowing {
    /// The part dropped so far ended in CR, so that an LF next is the end of the line.
    ended_in_cr: bool,
}

impl LineFinder {
    /// Looks at the front of the buffer. The caller drops what is `consumed` and calls again.
    pub fn find<'a>(&mut self, buffer: &'a [u8]) -> Found<'a> {
        let end = self.line_end(buffer);
        let Some(end) = end else {
            if self.swallowing.is_none() && buffer.len() < LINE_LIMIT {
                return Found::Incomplete;
            }
            if buffer.is_empty() {
                return Found::Incomplete;
            }
            self.swallowing = Some(Swallowing { ended_in_cr: buffer.last() == Some(&b'\r') });
            return Found::Swallowed { consumed: buffer.len() };
        };
        let consumed = end + 1;
        if self.swallowing.take().is_some() || consumed > LINE_LIMIT {
            return Found::Refused { fault: LineFault::TooLong, consumed };
        }
        let line = &buffer[..end - 1];
        // A bare LF before the CRLF: splitting there is what smugglers hope for. RFC 5321 §2.3.8
        if memchr(b'\n', line).is_some() || memchr(b'\r', line).is_some() {
            return Found::Refused { fault: LineFault::BareLineEnding, consumed };
        }
        Found::Line { line, consumed }
    }

    /// Where the LF of the first CRLF is.
    fn line_end(&self, buffer: &[u8]) -> Option<usize> {
        memchr_iter(b'\n', buffer).find(|&lf| match lf.checked_sub(1) {
            Some(before) => buffer[before] == b'\r',
            None => self.swallowing.is_some_and(|swallowing| swallowing.ended_in_cr),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_crlf_ends_a_line() {
        let line = |line: &'static [u8], consumed| Found::Line { line, consumed };
        let bare = |consumed| Found::Refused { fault: LineFault::BareLineEnding, consumed };
        let cases: &[(&[u8], Found<'_>)] = &[
            (b"", Found::Incomplete),
            (b"NOOP", Found::Incomplete),
            (b"NOOP\r", Found::Incomplete),
            (b"NOOP\n", Found::Incomplete),
            (b"\r\n", line(b"", 2)),
            (b"NOOP\r\n", line(b"NOOP", 6)),
            (b"NOOP\r\nQUIT\r\n", line(b"NOOP", 6)),
            (b"NOOP\nQUIT\r\n", bare(11)),
            (b"NOOP\rQUIT\r\nRSET\r\n", bare(11)),
            (b"NOOP\r\r\n", bare(7)),
            (b"\nNOOP\r\n", bare(7)),
            (b"NO\0OP\r\n", line(b"NO\0OP", 7)),
        ];
        for (buffer, found) in cases {
            assert_eq!(LineFinder::default().find(buffer), *found, "{:?}", buffer.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_line_too_long_is_dropped_up_to_its_crlf_and_answered_once() {
        let mut finder = LineFinder::default();
        let mut just_fits = vec![b'x'; LINE_LIMIT - 2];
        just_fits.extend_from_slice(b"\r\n");
        assert!(matches!(finder.find(&just_fits), Found::Line { consumed: LINE_LIMIT, .. }));

        let mut too_long = vec![b'x'; LINE_LIMIT - 1];
        too_long.extend_from_slice(b"\r\nNOOP\r\n");
        assert_eq!(
            finder.find(&too_long),
            Found::Refused { fault: LineFault::TooLong, consumed: LINE_LIMIT + 1 }
        );
        assert_eq!(finder.find(&too_long[LINE_LIMIT + 1..]), Found::Line { line: b"NOOP", consumed: 6 });
    }

    #[test]
    fn a_line_too_long_may_come_in_pieces_even_between_cr_and_lf() {
        let mut finder = LineFinder::default();
        assert_eq!(finder.find(&[b'x'; LINE_LIMIT]), Found::Swallowed { consumed: LINE_LIMIT });
        assert_eq!(finder.find(b""), Found::Incomplete);
        assert_eq!(finder.find(b"more\n and\r"), Found::Swallowed { consumed: 10 });
        assert_eq!(finder.find(b"\nNOOP\r\n"), Found::Refused { fault: LineFault::TooLong, consumed: 1 });
        assert_eq!(finder.find(b"NOOP\r\n"), Found::Line { line: b"NOOP", consumed: 6 });
    }
}
