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
pub struct Trail {
    steps: Option<Vec<Step>>,
    last: &'static str,
}

impl Trail {
    /// Nobody listens.
    pub const fn off() -> Self {
        Self { steps: None, last: "" }
    }

    pub const fn on() -> Self {
        Self { steps: Some(Vec::new()), last: "" }
    }

    pub fn step(&mut self, rule: &'static str, says: impl FnOnce() -> String) {
        self.last = rule;
        if let Some(steps) = &mut self.steps {
            steps.push(Step { rule, says: says() });
        }
    }

    /// The rule of the last step, whether or not somebody listens: what a decision ended with.
    pub fn last_rule(&self) -> &'static str {
        self.last
    }

    pub fn into_steps(self) -> Vec<Step> {
        self.steps.unwrap_or_default()
    }
}
