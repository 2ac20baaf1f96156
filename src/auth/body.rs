//! Body: the hash of a message's body while it comes in, as DKIM and ARC canonicalise it.
//!
//! Pure, and holds nothing of the body: bytes in, a hash out. RFC 6376 §3.4.3 and §3.4.4. Our own, because
//! the library's takes the body whole, and takes lines of spaces at its end for text.

use mail_auth::common::crypto::{HashContext, HashImpl, Sha256};
use mail_auth::common::headers::Writer;
use mail_auth::dkim::Canonicalization;

/// So much is gathered before it is hashed.
const BLOCK: usize = 4096;

type Context = <Sha256 as HashImpl>::Context;

/// One canonical form of the body, hashed by SHA-256.
pub(super) struct BodyHash {
    form: Canonicalization,
    context: Context,
    block: Vec<u8>,
    /// Line ends that count only if text follows.
    lines: u64,
    /// Spaces or tabs that count, as one space, only if text follows on the line.
    space: bool,
    /// The last byte was a CR, and its LF may follow.
    cr: bool,
    has_text: bool,
}

impl BodyHash {
    pub(super) fn new(form: Canonicalization) -> Self {
        Self {
            form,
            context: Sha256::hasher(),
            block: Vec::with_capacity(BLOCK),
            lines: 0,
            space: false,
            cr: false,
            has_text: false,
        }
    }

    pub(super) fn form(&self) -> Canonicalization {
        self.form
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        if self.cr && !bytes.is_empty() {
            self.cr = false;
            if bytes[0] == b'\n' {
                self.end_line();
                bytes = &bytes[1..];
            } else {
                self.text(b"\r");
            }
        }
        while !bytes.is_empty() {
            let at = self.special(bytes).unwrap_or(bytes.len());
            if at > 0 {
                self.text(&bytes[..at]);
            }
            bytes = match &bytes[at..] {
                [] => return,
                [b'\r', b'\n', rest @ ..] => {
                    self.end_line();
                    rest
                }
                [b'\r'] => {
                    self.cr = true;
                    return;
                }
                [b'\r', rest @ ..] => {
                    self.text(b"\r");
                    rest
                }
                [_, rest @ ..] => {
                    self.space = true;
                    rest
                }
            };
        }
    }

    /// The hash of the whole body.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.cr {
            self.text(b"\r");
        }
        // A last line gets its end, if it had none; a simple body is never empty.
        if self.has_text || self.form == Canonicalization::Simple {
            self.put(b"\r\n");
        }
        self.context.write(&self.block);
        self.context.complete().as_ref().to_vec()
    }

    /// Where the next byte is that is not simply text.
    fn special(&self, bytes: &[u8]) -> Option<usize> {
        match self.form {
            Canonicalization::Simple => memchr::memchr(b'\r', bytes),
            Canonicalization::Relaxed => memchr::memchr3(b'\r', b' ', b'\t', bytes),
        }
    }

    fn end_line(&mut self) {
        self.lines += 1;
        self.space = false;
    }

    fn text(&mut self, bytes: &[u8]) {
        for _ in 0..std::mem::take(&mut self.lines) {
            self.put(b"\r\n");
        }
        if std::mem::take(&mut self.space) {
            self.put(b" ");
        }
        self.put(bytes);
        self.has_text = true;
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.block.len() + bytes.len() > BLOCK {
            self.context.write(&self.block);
            self.block.clear();
            if bytes.len() > BLOCK {
                self.context.write(bytes);
                return;
            }
        }
        self.block.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(form: Canonicalization, pieces: &[&[u8]]) -> Vec<u8> {
        let mut body = BodyHash::new(form);
        pieces.iter().for_each(|piece| body.push(piece));
        body.finish()
    }

    fn plain(canonical: &str) -> Vec<u8> {
        let mut context = Sha256::hasher();
        context.write(canonical.as_bytes());
        context.complete().as_ref().to_vec()
    }

    /// Body, its relaxed form, its simple form.
    const BODIES: [(&str, &str, &str); 13] = [
        ("", "", "\r\n"),
        ("\r\n", "", "\r\n"),
        ("\r\n\r\n\r\n", "", "\r\n"),
        (" \t\r\n\r\n", "", " \t\r\n"),
        ("abc", "abc\r\n", "abc\r\n"),
        // The example of RFC 6376 §3.4.5.
        (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n", " C \r\nD \t E\r\n"),
        // What mail-auth's issue 62 is about: lines of spaces and tabs at the end.
        ("Hi\r\n \r\n\t\r\n", "Hi\r\n", "Hi\r\n \r\n\t\r\n"),
        ("Hi\r\n\t \r\n\r\n  ", "Hi\r\n", "Hi\r\n\t \r\n\r\n  \r\n"),
        ("Hi\r\n  \r\n  there \r\n", "Hi\r\n\r\n there\r\n", "Hi\r\n  \r\n  there \r\n"),
        ("a\rb\r\n", "a\rb\r\n", "a\rb\r\n"),
        ("a\nb \n\r\n", "a\nb \n\r\n", "a\nb \n\r\n"),
        ("end\r", "end\r\r\n", "end\r\r\n"),
        ("a\r\r\n", "a\r\r\n", "a\r\r\n"),
    ];

    #[test]
    fn both_forms_are_those_of_the_rfc() {
        for (body, relaxed, simple) in BODIES {
            assert_eq!(hash(Canonicalization::Relaxed, &[body.as_bytes()]), plain(relaxed), "{body:?}");
            assert_eq!(hash(Canonicalization::Simple, &[body.as_bytes()]), plain(simple), "{body:?}");
        }
    }

    #[test]
    fn it_does_not_matter_how_a_body_is_cut() {
        for (body, ..) in BODIES {
            for form in [Canonicalization::Relaxed, Canonicalization::Simple] {
                let whole = hash(form, &[body.as_bytes()]);
                let bytes: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
                assert_eq!(hash(form, &bytes), whole, "{body:?}");
                for at in 0..body.len() {
                    let (head, tail) = body.as_bytes().split_at(at);
                    assert_eq!(hash(form, &[head, b"", tail]), whole, "{body:?} cut at {at}");
                }
            }
        }
    }

    #[test]
    fn a_body_longer_than_a_block_is_hashed_whole() {
        let body = "word and word\r\n".repeat(3000);
        assert_eq!(hash(Canonicalization::Relaxed, &[body.as_bytes()]), plain(&body));
        let line = "x".repeat(3 * BLOCK) + "\r\n";
        assert_eq!(hash(Canonicalization::Simple, &[line.as_bytes()]), plain(&line));
    }
}
