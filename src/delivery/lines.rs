//! Lines: whether content is what SMTP's DATA can carry, whatever it was declared as.
//!
//! Pure: pieces in, a verdict out. `transfer` looks where the next hop does not take what was declared.

use memchr::{memchr, memchr2};

use super::dialogue::Octets;

/// Without the CRLF. RFC 5322 §2.1.1
const LINE_LIMIT: usize = 998;

/// What was seen of the content so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    has_8bit: bool,
    /// NUL, a bare CR or LF, or too long a line.
    is_binary: bool,
    after_cr: bool,
    /// Octets of the line that is not over.
    line: usize,
}

impl Lines {
    pub(super) fn see(&mut self, mut part: &[u8]) {
        self.has_8bit |= !part.is_ascii();
        self.is_binary |= memchr(0, part).is_some();
        if self.is_binary {
            return;
        }
        if self.after_cr && !part.is_empty() {
            self.after_cr = false;
            match part.strip_prefix(b"\n") {
                Some(rest) => part = rest,
                None => self.is_binary = true,
            }
        }
        while let Some(at) = memchr2(b'\r', b'\n', part) {
            self.line += at;
            self.is_binary |= self.line > LINE_LIMIT || part[at] == b'\n';
            self.line = 0;
            match part.get(at + 1) {
                Some(b'\n') => part = &part[at + 2..],
                Some(_) => self.is_binary = true,
                None => {
                    self.after_cr = true;
                    return;
                }
            }
            if self.is_binary {
                return;
            }
        }
        self.line += part.len();
    }

    /// A last line without its end is one all the same: DATA gives it one.
    pub(super) fn octets(&self) -> Octets {
        if self.is_binary || self.after_cr || self.line > LINE_LIMIT {
            Octets::Binary
        } else {
            self.eight_bit_or_less()
        }
    }

    /// The same of what is known to be lines.
    pub(super) fn eight_bit_or_less(&self) -> Octets {
        if self.has_8bit { Octets::EightBit } else { Octets::SevenBit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_from_what_is_truly_binary_however_they_are_cut() {
        let long = |octets: usize| [vec![b'x'; octets], b"\r\n".to_vec()].concat();
        for (content, expected) in [
            (b"".to_vec(), Octets::SevenBit),
            (b"a: b\r\n\r\ntext\r\n".to_vec(), Octets::SevenBit),
            (b"no end".to_vec(), Octets::SevenBit),
            (b"caf\xc3\xa9\r\n".to_vec(), Octets::EightBit),
            (b"bare\nline\r\n".to_vec(), Octets::Binary),
            (b"\n".to_vec(), Octets::Binary),
            (b"bare\rcr\r\n".to_vec(), Octets::Binary),
            (b"\r\r\n".to_vec(), Octets::Binary),
            (b"ends in\r".to_vec(), Octets::Binary),
            (b"nul\0\r\n".to_vec(), Octets::Binary),
            (long(998), Octets::SevenBit),
            (long(999), Octets::Binary),
            (vec![b'x'; 999], Octets::Binary),
        ] {
            for piece in [1, 2, 3, 5000] {
                let mut lines = Lines::default();
                content.chunks(piece).for_each(|part| lines.see(part));
                let shown = String::from_utf8_lossy(&content);
                assert_eq!(lines.octets(), expected, "{shown} in pieces of {piece}");
            }
        }
    }
}
