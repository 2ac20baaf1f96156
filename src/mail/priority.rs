//! Priority: how much a message matters among those that wait.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Notices, as far as their retries go: nobody waits for them.
    Low,
    #[default]
    Normal,
    /// Raised by the operator.
    High,
}

impl Priority {
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}
