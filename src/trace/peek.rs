//! Peek: Message-ID and Subject of a message, read from its header section while it streams past.
//!
//! Pure and bounded: it looks at the first octets of each line and keeps only the fields it is after.

/// Header sections are looked at so far and no further.
const HEADER_LIMIT_BYTES: usize = 64 * 1024;
/// As much of one field is kept.
const FIELD_LIMIT_BYTES: usize = 998;
const MESSAGE_ID: &[u8] = b"message-id:";
const SUBJECT: &[u8] = b"subject:";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    MessageId,
    Subject,
}

/// One message's header section. Cheap: one search for a line's end per line.
#[derive(Debug, Default)]
pub struct Peek {
    seen: usize,
    over: bool,
    subjects: bool,
    /// The line under way, as far as it came in an earlier block, and no further than a field is kept.
    line: Vec<u8>,
    /// The line under way is longer than `line` holds.
    cut: bool,
    open: Option<Field>,
    message_id: Vec<u8>,
    subject: Vec<u8>,
}

impl Peek {
    pub fn new(subjects: bool) -> Self {
        Self { subjects, ..Self::default() }
    }

    pub fn see(&mut self, mut content: &[u8]) {
        while !self.over && !content.is_empty() {
            let Some(at) = memchr::memchr(b'\n', content) else {
                self.hold(content);
                self.seen += content.len();
                self.over |= self.seen > HEADER_LIMIT_BYTES;
                return;
            };
            let (here, rest) = content.split_at(at + 1);
            self.seen += here.len();
            if self.line.is_empty() && !self.cut {
                self.end_line(here);
            } else {
                self.hold(here);
                let line = std::mem::take(&mut self.line);
                self.end_line(&line);
                self.line = line;
                self.line.clear();
                self.cut = false;
            }
            content = rest;
            self.over |= self.seen > HEADER_LIMIT_BYTES;
        }
    }

    fn hold(&mut self, part: &[u8]) {
        let room = FIELD_LIMIT_BYTES.saturating_sub(self.line.len()).min(part.len());
        self.line.extend_from_slice(&part[..room]);
        self.cut |= room < part.len();
    }

    fn end_line(&mut self, line: &[u8]) {
        match line.first() {
            None | Some(b'\n') => self.over = true,
            Some(b'\r') if line.len() <= 2 => self.over = true,
            // A folded line belongs to the field before it. RFC 5322 §2.2.3
            Some(b' ' | b'\t') => match self.open {
                Some(Field::MessageId) => append(&mut self.message_id, line),
                Some(Field::Subject) => append(&mut self.subject, line),
                None => {}
            },
            Some(b'm' | b'M') if has_name(line, MESSAGE_ID) => {
                // The first one counts; a second is nobody's.
                self.open = self.message_id.is_empty().then_some(Field::MessageId);
                if self.open.is_some() {
                    append(&mut self.message_id, &line[MESSAGE_ID.len()..]);
                }
            }
            Some(b's' | b'S') if self.subjects && has_name(line, SUBJECT) => {
                self.open = self.subject.is_empty().then_some(Field::Subject);
                if self.open.is_some() {
                    append(&mut self.subject, &line[SUBJECT.len()..]);
                }
            }
            Some(_) => self.open = None,
        }
    }

    /// Without white space around it; empty when there is none.
    pub fn message_id(&self) -> String {
        text(&self.message_id)
    }

    pub fn subject(&self) -> String {
        text(&self.subject)
    }
}

fn has_name(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name))
}

fn append(field: &mut Vec<u8>, part: &[u8]) {
    let part = part.trim_ascii();
    if !field.is_empty() && !part.is_empty() {
        field.push(b' ');
    }
    let room = FIELD_LIMIT_BYTES.saturating_sub(field.len()).min(part.len());
    field.extend_from_slice(&part[..room]);
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] =
        b"Received: from a\r\n\tby b\r\nMESSAGE-id:\r\n <a.1@b.example>\r\nSubject: one\r\n two\r\n\
                             X-Message-ID: <no@b>\r\n\r\nMessage-ID: <body@b>\r\nSubject: body\r\n";

    #[test]
    fn the_fields_are_found_however_the_message_is_cut() {
        for size in 1..MESSAGE.len() {
            let mut peek = Peek::new(true);
            MESSAGE.chunks(size).for_each(|block| peek.see(block));
            assert_eq!(peek.message_id(), "<a.1@b.example>", "in blocks of {size}");
            assert_eq!(peek.subject(), "one two", "in blocks of {size}");
        }
    }

    #[test]
    fn a_subject_is_not_even_looked_at_unless_asked_for() {
        let mut peek = Peek::new(false);
        peek.see(MESSAGE);
        assert_eq!((peek.message_id().as_str(), peek.subject().as_str()), ("<a.1@b.example>", ""));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut peek = Peek::new(true);
        peek.see(b"Subject: ");
        for _ in 0..1000 {
            peek.see(&[b'x'; 1000]);
        }
        peek.see(b"\r\nMessage-ID: <late@b>\r\n");
        assert!(peek.line.len() <= FIELD_LIMIT_BYTES && peek.subject.len() <= FIELD_LIMIT_BYTES);
        assert_eq!(peek.message_id(), "", "beyond the limit nothing is looked at");
    }
}
