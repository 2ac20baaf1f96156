//! Lookup: found, absent or failed. A failure is never an absence.
//!
//! Every question to a directory or to the DNS is answered with one of these, so that
//! "no lookup failure ever becomes a 5xx" (rule 20) is a matter of matching.

/// The answer to a question put to the outside world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    Found(T),
    /// The source answered: there is no such thing.
    Absent,
    /// The source did not answer, or answered nonsense. Says nothing about existence.
    Failed,
}

impl<T> Lookup<T> {
    pub fn found(self) -> Option<T> {
        match self {
            Self::Found(value) => Some(value),
            Self::Absent | Self::Failed => None,
        }
    }

    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Found(value) => Lookup::Found(change(value)),
            Self::Absent => Lookup::Absent,
            Self::Failed => Lookup::Failed,
        }
    }

    pub fn as_ref(&self) -> Lookup<&T> {
        match self {
            Self::Found(value) => Lookup::Found(value),
            Self::Absent => Lookup::Absent,
            Self::Failed => Lookup::Failed,
        }
    }
}
