//! Encode: message content as it goes out by DATA.
//!
//! Owns dot-stuffing (RFC 5321 §4.5.2) and the promise that no bare CR or LF leaves toward a next hop
//! (rule 62). Passes slices of its input on and copies nothing. `body` is the other direction.

use bytes::Bytes;
use memchr::memchr2;

const DOT: Bytes = Bytes::from_static(b".");

/// The content has a CR without LF or an LF without CR: it cannot travel by DATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content has a bare CR or LF")]
pub struct BareLineEnding;

/// Encodes one message: `encode` for each chunk, then `finish`. After an error nothing more may be sent.
#[derive(Debug)]
pub struct DataEncoder {
    /// The next octet begins a line.
    at_line_start: bool,
    /// The last octet was a CR: the next must be an LF.
    after_cr: bool,
}

impl Default for DataEncoder {
    fn default() -> Self {
        Self { at_line_start: true, after_cr: false }
    }
}

impl DataEncoder {
    /// Hands the chunk on in slices, with a dot before each dot that begins a line.
    pub fn encode(&mut self, chunk: &Bytes, mut send: impl FnMut(Bytes)) -> Result<(), BareLineEnding> {
        let mut sent = 0;
        let mut at = 0;
        if self.after_cr {
            match chunk.first() {
                Some(b'\n') => at = 1,
                Some(_) => return Err(BareLineEnding),
                None => return Ok(()),
            }
            self.after_cr = false;
            self.at_line_start = true;
        }
        loop {
            if self.at_line_start && chunk.get(at) == Some(&b'.') {
                if at > sent {
                    send(chunk.slice(sent..at));
                }
                send(DOT);
                sent = at;
            }
            if at < chunk.len() {
                self.at_line_start = false;
            }
            let Some(found) = memchr2(b'\r', b'\n', &chunk[at..]) else { break };
            let found = at + found;
            match (chunk[found], chunk.get(found + 1)) {
                (b'\r', Some(b'\n')) => {
                    at = found + 2;
                    self.at_line_start = true;
                }
                (b'\r', None) => {
                    self.after_cr = true;
                    break;
                }
                _ => return Err(BareLineEnding),
            }
        }
        if sent < chunk.len() {
            send(chunk.slice(sent..));
        }
        Ok(())
    }

    /// What ends the message: a line ending if the last line lacks one, and the final dot.
    pub fn finish(self) -> Result<&'static [u8], BareLineEnding> {
        match (self.after_cr, self.at_line_start) {
            (true, _) => Err(BareLineEnding),
            (false, true) => Ok(b".\r\n"),
            (false, false) => Ok(b"\r\n.\r\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(chunks: &[&[u8]]) -> Result<Vec<u8>, BareLineEnding> {
        let mut encoder = DataEncoder::default();
        let mut out = Vec::new();
        for chunk in chunks {
            encoder.encode(&Bytes::copy_from_slice(chunk), |part| out.extend_from_slice(&part))?;
        }
        out.extend_from_slice(encoder.finish()?);
        Ok(out)
    }

    /// As a server reads it, by the letter of RFC 5321 §4.5.2: lines, until one that is a dot alone.
    fn decode(encoded: &[u8]) -> Vec<u8> {
        let text = encoded.strip_suffix(b"\r\n").expect("a last line ending");
        let mut content = Vec::new();
        let mut lines = text.split(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            if lines.peek().is_none() {
                assert_eq!(line, b".", "only the last line is a dot alone");
                return content;
            }
            assert_ne!(line, b".\r", "the message ends early");
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            content.push(b'\n');
        }
        unreachable!("split gives at least one line")
    }

    #[test]
    fn dots_that_begin_lines_are_doubled() {
        for (content, encoded) in [
            ("", ".\r\n"),
            (".", "..\r\n.\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".\r\n.\r\n", "..\r\n..\r\n.\r\n"),
            ("a.b\r\n..c\r\n", "a.b\r\n...c\r\n.\r\n"),
            ("\r\n.\r\n", "\r\n..\r\n.\r\n"),
        ] {
            assert_eq!(encode(&[content.as_bytes()]).expect(content), encoded.as_bytes(), "{content:?}");
        }
    }

    #[test]
    fn bare_line_endings_do_not_leave() {
        for content in ["a\nb", "a\rb", "\n", "\r", "a\r\r\n", "\r\n.\n", "\n.\r\n", "a\n\r\n"] {
            assert_eq!(encode(&[content.as_bytes()]), Err(BareLineEnding), "{content:?}");
            for cut in 0..content.len() {
                let (one, two) = content.as_bytes().split_at(cut);
                assert_eq!(encode(&[one, b"", two]), Err(BareLineEnding), "{content:?} cut at {cut}");
            }
        }
    }

    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![
            3 => Just(b".".to_vec()),
            3 => Just(b"\r\n".to_vec()),
            1 => any::<u8>().prop_filter("no line endings", |b| *b != b'\r' && *b != b'\n')
                .prop_map(|b| vec![b]),
        ];
        proptest::collection::vec(octet, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn a_server_reads_what_was_encoded(content in lines()) {
            let encoded = encode(&[&content]).expect("only whole line endings");
            let mut whole = content.clone();
            if !content.is_empty() && !content.ends_with(b"\r\n") {
                whole.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(decode(&encoded), whole);
        }

        #[test]
        fn chunking_does_not_matter(content in lines(), mut cuts in proptest::collection::vec(0usize..80, 0..5)) {
            let whole = encode(&[&content]).expect("only whole line endings");
            cuts.retain(|cut| *cut <= content.len());
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&content[from..cut]);
                from = cut;
            }
            chunks.push(&content[from..]);
            prop_assert_eq!(encode(&chunks).expect("the same content"), whole);
        }

        #[test]
        fn whatever_comes_nothing_bare_leaves(content in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a')], 0..30)) {
            if let Ok(encoded) = encode(&[&content]) {
                let without_pairs = String::from_utf8(encoded).expect("ASCII").replace("\r\n", "");
                prop_assert!(!without_pairs.contains(['\r', '\n']));
            }
        }
    }
}
