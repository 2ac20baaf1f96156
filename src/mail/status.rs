//! Status: an enhanced status code such as 5.1.1 (RFC 3463).

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Status {
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl Status {
    /// Rule 83: delivery time expired, with the documented detail.
    pub const EXPIRED: Self = Self::new(5, 4, 300);

    /// Of its class, and nothing more is known.
    pub fn is_plain(&self) -> bool {
        self.subject == 0 && self.detail == 0
    }

    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// Reads `4.4.62`; class 2, 4 or 5, the others up to three digits (RFC 3463 §2).
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut number = |limit: usize| {
            let part = parts.next()?;
            let digits = !part.is_empty() && part.len() <= limit && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse::<u16>().ok()).flatten()
        };
        let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
        let known = matches!(class, 2 | 4 | 5) && parts.next().is_none();
        known.then(|| Self::new(u8::try_from(class).expect("one digit"), subject, detail))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl From<Status> for String {
    fn from(status: Status) -> Self {
        status.to_string()
    }
}

impl TryFrom<String> for Status {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or_else(|| format!("'{text}' is not an enhanced status code"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_and_written_alike() {
        for text in ["2.0.0", "4.4.62", "5.7.506", "4.7.652"] {
            assert_eq!(Status::parse(text).expect(text).to_string(), text);
        }
        for bad in ["", "3.0.0", "5.1", "5.1.1.1", "5.x.1", "5.1234.1", "55.1.1"] {
            assert_eq!(Status::parse(bad), None, "{bad}");
        }
    }
}
