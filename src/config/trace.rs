//! Trace: what is kept of what happened (`[trace]`), and of where messages were (`[audit]`).

use std::time::Duration;

use super::show::{Page, duration, size};
use crate::document::{Entry, Section};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEARS: Duration = Duration::from_secs(20 * 366 * 24 * 3600);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    pub enabled: bool,
    pub keep: Duration,
    pub max_size: u64,
    /// Subjects are content: off unless somebody decides otherwise.
    pub subjects: bool,
    /// Rows of refusals kept in a second; the rest is counted.
    pub refusals_per_second: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self { enabled: true, keep: 30 * DAY, max_size: 4 * GIB, subjects: false, refusals_per_second: 1_000 }
    }
}

impl Trace {
    pub(super) fn read(top: &Section<'_>) -> Self {
        let section = top.section("trace");
        let default = Self::default();
        Self {
            enabled: section.read_or("enabled", default.enabled, Entry::flag),
            keep: section
                .read_or("keep", default.keep, |entry| entry.duration(Duration::from_millis(1)..=YEARS)),
            max_size: section.read_or("max_size", default.max_size, |entry| entry.size(MIB..=16 * TIB)),
            subjects: section.read_or("subjects", default.subjects, Entry::flag),
            refusals_per_second: section.read_or(
                "refusals_per_second",
                default.refusals_per_second,
                |entry| entry.integer(0..=1_000_000),
            ),
        }
    }

    pub(super) fn show(&self, page: &mut Page) {
        let Self { enabled, keep, max_size, subjects, refusals_per_second } = self;
        page.section("trace");
        page.key("enabled", *enabled);
        page.key("keep", duration(*keep));
        page.key("max_size", size(*max_size));
        page.key("subjects", *subjects);
        page.key(
            "refusals_per_second",
            toml::Value::Integer(i64::try_from(*refusals_per_second).unwrap_or(i64::MAX)),
        );
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    pub enabled: bool,
    pub keep: Duration,
    pub max_size: u64,
    /// How often the head of the chain goes into the log, where it is out of reach of who holds the files.
    pub head_every: Duration,
}

impl Default for Audit {
    fn default() -> Self {
        Self { enabled: true, keep: 365 * DAY, max_size: 16 * GIB, head_every: Duration::from_secs(600) }
    }
}

impl Audit {
    pub(super) fn read(top: &Section<'_>) -> Self {
        let section = top.section("audit");
        let default = Self::default();
        Self {
            enabled: section.read_or("enabled", default.enabled, Entry::flag),
            keep: section
                .read_or("keep", default.keep, |entry| entry.duration(Duration::from_millis(1)..=YEARS)),
            max_size: section.read_or("max_size", default.max_size, |entry| entry.size(MIB..=16 * TIB)),
            head_every: section.read_or("head_every", default.head_every, |entry| {
                entry.duration(Duration::from_secs(1)..=DAY)
            }),
        }
    }

    pub(super) fn show(&self, page: &mut Page) {
        let Self { enabled, keep, max_size, head_every } = self;
        page.section("audit");
        page.key("enabled", *enabled);
        page.key("keep", duration(*keep));
        page.key("max_size", size(*max_size));
        page.key("head_every", duration(*head_every));
    }
}
