//! Parts: the MIME of a notice: what travels as it is, what is encoded, and where one part ends.
//!
//! Owns transfer encodings and boundaries, and reads back what it wrote, so that a notice can be written
//! again for a road that takes less. What the parts say is `notice`'s.

use std::fmt::Write as _;

/// RFC 5322 §2.1.1.
const LINE_LIMIT: usize = 998;
/// RFC 2045 §6.7.
const ENCODED_LINE_LIMIT: usize = 76;

/// How a content may travel without being encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    SevenBit,
    EightBit,
    /// Long lines, NUL, or a CR or LF by itself: only encoded.
    Unfit,
}

impl Form {
    pub(super) fn of(content: &[u8]) -> Self {
        let mut rest = content;
        loop {
            let (line, after) = match memchr::memmem::find(rest, b"\r\n") {
                Some(end) => (&rest[..end], Some(&rest[end + 2..])),
                None => (rest, None),
            };
            if line.len() > LINE_LIMIT || line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
                return Self::Unfit;
            }
            match after {
                Some(after) => rest = after,
                None if content.is_ascii() => return Self::SevenBit,
                None => return Self::EightBit,
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    SevenBit,
    EightBit,
    QuotedPrintable,
}

impl Encoding {
    fn word(self) -> &'static str {
        match self {
            Self::SevenBit => "7bit",
            Self::EightBit => "8bit",
            Self::QuotedPrintable => "quoted-printable",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The value of `Content-Type`.
    pub(super) kind: String,
    pub(super) encoding: Encoding,
    /// As it travels.
    pub(super) body: Vec<u8>,
}

impl Part {
    /// As it is where its form allows, else quoted-printable.
    pub(super) fn new(kind: &str, content: &[u8]) -> Self {
        let (encoding, body) = match Form::of(content) {
            Form::SevenBit => (Encoding::SevenBit, content.to_vec()),
            Form::EightBit => (Encoding::EightBit, content.to_vec()),
            Form::Unfit => (Encoding::QuotedPrintable, quoted_printable(content)),
        };
        Self { kind: kind.to_owned(), encoding, body }
    }

    /// Seven bits whatever the content.
    pub(super) fn narrow(kind: &str, content: &[u8]) -> Self {
        match Form::of(content) {
            Form::SevenBit => Self::new(kind, content),
            Form::EightBit | Form::Unfit => Self {
                kind: kind.to_owned(),
                encoding: Encoding::QuotedPrintable,
                body: quoted_printable(content),
            },
        }
    }
}

/// Header fields that end in CRLF, without those of MIME, and the parts: a `multipart/report`.
pub(super) fn assemble(header: &str, name: &str, parts: &[Part]) -> Vec<u8> {
    let boundary = boundary(name, parts);
    let eight_bit = parts.iter().any(|part| part.encoding == Encoding::EightBit);
    let encoding = if eight_bit { Encoding::EightBit } else { Encoding::SevenBit };
    let mut out = String::with_capacity(2048);
    out.push_str(header);
    let _ = write!(
        out,
        "MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\
         Content-Transfer-Encoding: {}\r\n\r\n\
         This is a report in MIME form (RFC 6522).\r\n",
        encoding.word()
    );
    let mut bytes = out.into_bytes();
    for part in parts {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: {}\r\nContent-Transfer-Encoding: {}\r\n\r\n",
            part.kind,
            part.encoding.word()
        );
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(&part.body);
    }
    bytes.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    bytes
}

/// One that no part holds: what comes back was written by others.
fn boundary(name: &str, parts: &[Part]) -> String {
    (0..)
        .map(|number| format!("=_{name}.{number}"))
        .find(|name| parts.iter().all(|part| memchr::memmem::find(&part.body, name.as_bytes()).is_none()))
        .expect("a content is finite, numbers are not")
}

/// The opposite of `assemble`; `None` for anything that it has not written.
pub(super) fn take_apart(message: &[u8]) -> Option<(String, Vec<Part>)> {
    let header_end = memchr::memmem::find(message, b"MIME-Version: 1.0\r\n")?;
    let header = std::str::from_utf8(&message[..header_end]).ok()?;
    let body_at = header_end + memchr::memmem::find(&message[header_end..], b"\r\n\r\n")? + 2;
    let fields = std::str::from_utf8(&message[header_end..body_at]).ok()?;
    let boundary = fields.split_once("boundary=\"")?.1.split_once('"')?.0;
    let delimiter = format!("\r\n--{boundary}");
    let mut parts = Vec::new();
    let mut rest = &message[body_at..];
    while let Some(at) = memchr::memmem::find(rest, delimiter.as_bytes()) {
        if let Some(part) = parts.last_mut() {
            let part: &mut Part = part;
            part.body = rest[..at].to_vec();
        }
        rest = &rest[at + delimiter.len()..];
        let Some(head) = rest.strip_prefix(b"\r\n") else {
            return rest.starts_with(b"--").then(|| (header.to_owned(), parts));
        };
        let end = memchr::memmem::find(head, b"\r\n\r\n")?;
        let fields = std::str::from_utf8(&head[..end]).ok()?;
        let (kind, encoding) =
            fields.strip_prefix("Content-Type: ")?.split_once("\r\nContent-Transfer-Encoding: ")?;
        let encoding = [Encoding::SevenBit, Encoding::EightBit, Encoding::QuotedPrintable]
            .into_iter()
            .find(|known| known.word() == encoding)?;
        parts.push(Part { kind: kind.to_owned(), encoding, body: Vec::new() });
        rest = &head[end + 4..];
    }
    None
}

/// RFC 2045 §6.7, for lines that end in CRLF; a CR or LF by itself is an octet like any other.
fn quoted_printable(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() * 3 / 2);
    let mut lines = content.split_inclusive(|byte| *byte == b'\n').peekable();
    let mut column = 0;
    while let Some(line) = lines.next() {
        let (text, ends) = match line.strip_suffix(b"\r\n") {
            Some(text) => (text, true),
            None => (line, false),
        };
        for (at, byte) in text.iter().enumerate() {
            let last = at + 1 == text.len() && (ends || lines.peek().is_none());
            let plain = match byte {
                b' ' | b'\t' => !last,
                b'=' => false,
                byte => byte.is_ascii_graphic(),
            };
            let width = if plain { 1 } else { 3 };
            // Room for the `=` of a soft line break.
            if column + width > ENCODED_LINE_LIMIT - 1 {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            if plain {
                out.push(*byte);
            } else {
                out.extend_from_slice(format!("={byte:02X}").as_bytes());
            }
            column += width;
        }
        if ends {
            out.extend_from_slice(b"\r\n");
            column = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::decoders::quoted_printable::quoted_printable_decode;
    use proptest::prelude::*;

    #[test]
    fn the_form_of_a_content_is_told() {
        for (content, form) in [
            (&b""[..], Form::SevenBit),
            (b"a\r\nb", Form::SevenBit),
            (b"a\xe9\r\n", Form::EightBit),
            (b"a\nb", Form::Unfit),
            (b"a\rb\r\n", Form::Unfit),
            (b"a\0b\r\n", Form::Unfit),
            (&[b'x'; 998], Form::SevenBit),
            (&[b'x'; 999], Form::Unfit),
        ] {
            assert_eq!(Form::of(content), form, "{}", content.escape_ascii());
        }
    }

    #[test]
    fn no_part_holds_the_boundary() {
        let part = Part::new("text/plain", b"\r\n--=_name.0\r\nContent-Type: text/html\r\n");
        let message = assemble("", "name", std::slice::from_ref(&part));
        assert_eq!(take_apart(&message), Some((String::new(), vec![part])));
    }

    proptest! {
        #[test]
        fn whatever_goes_in_comes_out(content in prop::collection::vec(any::<u8>(), 0..400), long in 0usize..1200) {
            let mut content = content;
            content.extend(std::iter::repeat_n(b' ', long));
            let encoded = quoted_printable(&content);
            prop_assert_eq!(Form::of(&encoded), Form::SevenBit);
            prop_assert!(encoded.split(|byte| *byte == b'\n').all(|line| line.len() <= ENCODED_LINE_LIMIT + 1));
            prop_assert_eq!(quoted_printable_decode(&encoded), Some(content.clone()));
            let parts = [Part::new("text/plain", b"words\r\n"), Part::new("message/global", &content)];
            let message = assemble("Subject: x\r\n", "name", &parts);
            prop_assert_ne!(Form::of(&message), Form::Unfit);
            prop_assert_eq!(take_apart(&message), Some(("Subject: x\r\n".to_owned(), parts.to_vec())));
        }
    }
}
