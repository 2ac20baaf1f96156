//! Foreword: what another edge of ours wrote in front of a message about the check of its sender.
//!
//! The field that it puts first, and no other: whatever stands behind came with the message. Believed only
//! from edges, which put at least their `Received` in front of what strangers say.

use super::SpfResult;

/// Longer fields are none of ours.
const FIELD_LIMIT: usize = 4096;
const NAME: &[u8] = b"authentication-results:";

/// The first field of one message, while it comes in.
#[derive(Debug, Default)]
pub struct Foreword {
    field: Vec<u8>,
    over: bool,
}

impl Foreword {
    pub fn push(&mut self, content: &[u8]) {
        if self.over {
            return;
        }
        let before = self.field.len();
        let room = (FIELD_LIMIT - before).min(content.len());
        self.field.extend_from_slice(&content[..room]);
        let ends = |at: &usize| matches!(self.field.get(at + 1), Some(next) if !b" \t".contains(next));
        let end = memchr::memchr_iter(b'\n', &self.field).find(ends);
        self.over = end.is_some() || room < content.len();
        if self.over {
            self.field.truncate(end.map_or(0, |at| at + 1));
        }
    }

    /// What SPF came to, which our fields say first.
    pub fn spf(&self) -> Option<SpfResult> {
        let (name, value) = self.field.split_at_checked(NAME.len())?;
        if !name.eq_ignore_ascii_case(NAME) {
            return None;
        }
        let (_, results) = std::str::from_utf8(value).ok()?.split_once(';')?;
        let word = results.trim_start().strip_prefix("spf=")?;
        let word = word.split(|c: char| !c.is_ascii_alphabetic()).next()?;
        SpfResult::ALL.into_iter().find(|result| result.to_string() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(message: &str, size: usize) -> Option<SpfResult> {
        let mut foreword = Foreword::default();
        message.as_bytes().chunks(size).for_each(|part| foreword.push(part));
        foreword.spf()
    }

    #[test]
    fn only_the_first_field_counts() {
        let ours = "Authentication-Results: edge1.example.net;\r\n\tspf=fail (why) smtp.mailfrom=a@b.example;\r\n\
                    \tiprev=none\r\n";
        let rest = "Received: from x\r\n\tby y\r\n";
        let forged = "Authentication-Results: edge1.example.net; spf=pass\r\n";
        let long = format!("X: {}\r\n", "x".repeat(5000));
        for size in [1, 7, 10_000] {
            assert_eq!(told(&format!("{ours}{rest}{forged}\r\n"), size), Some(SpfResult::Fail));
            for other in [
                format!("{rest}{ours}\r\n"),
                format!("{long}{ours}\r\n"),
                "Authentication-Results: edge1.example.net; dkim=pass; spf=fail\r\n\r\n".to_owned(),
                "Authentication-Results: edge1.example.net; none\r\n\r\n".to_owned(),
                "Authentication-Results: edge1.example.net; spf=failure\r\n\r\n".to_owned(),
                "Authentication-Resultsx: edge1.example.net; spf=fail\r\n\r\n".to_owned(),
                String::new(),
            ] {
                assert_eq!(told(&other, size), None, "{other}");
            }
        }
    }
}
