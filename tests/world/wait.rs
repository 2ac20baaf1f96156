//! Waiting: for a condition, never for a time.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything in a test may take before the test fails. Two cores may be shared by many tests.
pub const PATIENCE: Duration = Duration::from_secs(30);
static LONGER: OnceLock<Duration> = OnceLock::new();

/// For benchmarks, whose directories take longer to load than a test may last.
pub fn wait_longer(patience: Duration) {
    LONGER.get_or_init(|| patience);
}

/// How often a condition that nobody signals is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "tests with real processes run on real time")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// What half of these took: what a promise of time is held to on a machine that others load too.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Looks until `attempt` finds something; panics with `what` when patience is over.
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let watch = Stopwatch::start();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        let patience = *LONGER.get().unwrap_or(&PATIENCE);
        assert!(watch.elapsed() < patience, "waited {patience:?} in vain: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// Watches that `condition` stays true for a while: the only way to see that something does not happen.
pub fn holds_for(what: &str, span: Duration, mut condition: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while watch.elapsed() < span {
        assert!(condition(), "did not last {span:?}: {what}");
        thread::sleep(LOOK_EVERY);
    }
}
