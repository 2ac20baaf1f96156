//! Clock: the only place that asks what time it is.
//!
//! Owns `Timestamp`, wall-clock milliseconds. Pure rooms take `now` as an argument;
//! elapsed time in shells is tokio's. Nothing comes before this room.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment, in milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Parses RFC 3339, as operators write times: `2026-01-01T00:00:00Z`.
    pub fn parse(text: &str) -> Option<Self> {
        let moment: jiff::Timestamp = text.parse().ok()?;
        Some(Self(moment.as_millisecond()))
    }

    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead, as after a clock step backwards.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// `Sat, 21 Nov 2026 04:29:44 +0000`, as RFC 5322 §3.3 wants it.
    pub fn rfc5322(self) -> String {
        self.moment().strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
    }

    fn moment(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with milliseconds: `2026-11-21T04:29:44.123Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.moment().strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))
    }
}

/// Where `now` comes from: the system, or a start that follows tokio's clock, for paused tests.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    System,
    Started { at: Timestamp, since: tokio::time::Instant },
}

impl Clock {
    pub fn starting_at(at: Timestamp) -> Self {
        Self::Started { at, since: tokio::time::Instant::now() }
    }

    pub fn now(&self) -> Timestamp {
        match self {
            #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for the time")]
            Self::System => {
                let since = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or(Duration::ZERO);
                Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Self::Started { at, since } => at.plus(since.elapsed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_mail_and_operators_expect() {
        let moment = Timestamp::parse("2026-11-21T04:29:44.123Z").expect("a valid time");
        assert_eq!(moment.to_string(), "2026-11-21T04:29:44.123Z");
        assert_eq!(moment.rfc5322(), "Sat, 21 Nov 2026 04:29:44 +0000");
    }

    #[test]
    fn a_clock_that_steps_back_gives_no_negative_age() {
        let early = Timestamp::from_millis(1_000);
        let late = Timestamp::from_millis(3_000);
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
