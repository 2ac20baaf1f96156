//! Findings: what the checks came to, and the one header field that tells it. RFC 8601.

use std::fmt::{self, Write as _};

use crate::mail::{Domain, SpfResult};

/// The results of RFC 8601 §2.7, of all methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    None,
    Pass,
    Fail,
    SoftFail,
    Neutral,
    /// A signature that we do not take, whether it holds or not.
    Policy,
    TempError,
    PermError,
}

impl Mark {
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::Neutral => "neutral",
            Self::Policy => "policy",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

impl From<SpfResult> for Mark {
    fn from(result: SpfResult) -> Self {
        match result {
            SpfResult::None => Self::None,
            SpfResult::Neutral => Self::Neutral,
            SpfResult::Pass => Self::Pass,
            SpfResult::Fail => Self::Fail,
            SpfResult::SoftFail => Self::SoftFail,
            SpfResult::TempError => Self::TempError,
            SpfResult::PermError => Self::PermError,
        }
    }
}

/// One result: a method, how it came out and about what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub method: &'static str,
    pub mark: Mark,
    pub reason: Option<String>,
    /// `header.d` and its value, and so on.
    pub properties: Vec<(&'static str, String)>,
}

impl Finding {
    pub(super) fn new(method: &'static str, mark: Mark) -> Self {
        Self { method, mark, reason: None, properties: Vec::new() }
    }

    pub(super) fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    pub(super) fn about(mut self, property: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        if !value.is_empty() {
            self.properties.push((property, value));
        }
        self
    }
}

/// As in the header field and the log: `dkim=pass header.d=contoso.com`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.method, self.mark.word())?;
        if let Some(reason) = &self.reason {
            f.write_str(" (")?;
            // A comment (RFC 5322 §3.2.2) without what would end it.
            for c in reason.chars().take(REASON_LIMIT) {
                f.write_char(match c {
                    '(' | ')' | '\\' => '_',
                    ' '..='~' => c,
                    _ => '?',
                })?;
            }
            f.write_char(')')?;
        }
        for (property, value) in &self.properties {
            write!(f, " {property}={}", Value(value))?;
        }
        Ok(())
    }
}

const REASON_LIMIT: usize = 120;
/// No address or domain is longer; what a stranger wrote instead is cut.
const VALUE_LIMIT: usize = 320;

/// A pvalue: bare where it can be, else a quoted string, never with control characters (RFC 8601 §2.2).
struct Value<'v>(&'v str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A token of RFC 2045 §5.1, with the '@' of an address.
        let plain = |c: char| c.is_ascii_graphic() && !"()<>,;:\\\"/[]?=".contains(c);
        if self.0.len() <= VALUE_LIMIT && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars().filter(|c| !c.is_control()).take(VALUE_LIMIT) {
            if matches!(c, '"' | '\\') {
                f.write_char('\\')?;
            }
            f.write_char(c)?;
        }
        f.write_char('"')
    }
}

/// What DMARC came to, for who acts on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dmarc {
    pub mark: Mark,
    /// The author's domain.
    pub domain: Option<Domain>,
    pub policy: Policy,
}

/// What the author's domain asks to be done with mail that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    None,
    Quarantine,
    Reject,
}

impl Policy {
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }
}

/// All that was found out about one message, in the order in which it is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    pub all: Vec<Finding>,
    pub spf: Option<SpfResult>,
    /// What the domain that SPF fails says to it.
    pub spf_explanation: Option<String>,
    pub dmarc: Option<Dmarc>,
    /// Why the message itself was not looked at.
    pub unread: Option<Unread>,
}

/// Why nothing can be said of what a message is signed by, or of its author.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// Its header section is malformed, too long, or has too many fields.
    Header,
    /// Too much is under way at once.
    NoRoom,
}

impl Findings {
    /// Rule 52.
    pub fn passes_spf_or_dkim(&self) -> bool {
        self.spf == Some(SpfResult::Pass)
            || self.all.iter().any(|finding| finding.method == "dkim" && finding.mark == Mark::Pass)
    }

    /// The domain whose owner asks that this message be refused.
    pub fn rejected_by(&self) -> Option<&Domain> {
        let dmarc = self.dmarc.as_ref()?;
        let rejected = dmarc.mark == Mark::Fail && dmarc.policy == Policy::Reject;
        dmarc.domain.as_ref().filter(|_| rejected)
    }

    /// The header field, folded, ending in CRLF.
    pub fn header(&self, authserv_id: &str) -> String {
        let mut field = format!("Authentication-Results: {authserv_id}");
        if self.all.is_empty() {
            field.push_str("; none");
        }
        for finding in &self.all {
            let _ = write!(field, ";\r\n\t{finding}");
        }
        field.push_str("\r\n");
        field
    }
}

/// On one line, for the log.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, finding) in self.all.iter().enumerate() {
            let between = if at == 0 { "" } else { "; " };
            write!(f, "{between}{finding}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_cannot_be_broken_out_of() {
        let findings = Findings {
            all: vec![
                Finding::new("spf", Mark::Pass).about("smtp.mailfrom", "anna@contoso.com"),
                Finding::new("dkim", Mark::Fail)
                    .because("bad) evil\r\nX: y")
                    .about("header.d", "a;\r\n dkim=pass")
                    .about("header.b", "a/b+c==")
                    .about("header.s", ""),
                Finding::new("iprev", Mark::None).about("policy.iprev", "2001:db8::1"),
            ],
            ..Findings::default()
        };
        assert_eq!(
            findings.header("edge1.example.net"),
            "Authentication-Results: edge1.example.net;\r\n\tspf=pass smtp.mailfrom=anna@contoso.com;\r\n\
             \tdkim=fail (bad_ evil??X: y) header.d=\"a; dkim=pass\" header.b=\"a/b+c==\";\r\n\
             \tiprev=none policy.iprev=\"2001:db8::1\"\r\n"
        );
        assert_eq!(Findings::default().header("a.example"), "Authentication-Results: a.example; none\r\n");
    }
}
