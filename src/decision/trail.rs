//! Trail: the steps of a decision, for `landfall explain` and the trace.
//!
//! Off on the hot path, where a step costs one branch: its words are only made when somebody listens.

use serde::Serialize;

/// One step: the rule behind it and what it saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The rule number in the specification, or the name of a section 6 entry.
    pub rule: &'static str,
    pub says: String,
}

#[derive(Debug, Default)]
pub struct Trail(Option<Vec<Step>>);

impl Trail {
    /// Nobody listens.
    pub const fn off() -> Self {
        Self(None)
    }

    pub const fn on() -> Self {
        Self(Some(Vec::new()))
    }

    pub fn step(&mut self, rule: &'static str, says: impl FnOnce() -> String) {
        if let Some(steps) = &mut self.0 {
            steps.push(Step { rule, says: says() });
        }
    }

    pub fn into_steps(self) -> Vec<Step> {
        self.0.unwrap_or_default()
    }
}
