//! Service: what the service manager is told, where there is one (sd_notify(3)).
//!
//! Without one every call is nothing. A watchdog is fed by the daemon's own loop: when that hangs, or the
//! spool's lock does, the manager ends the process and starts it anew.

use std::time::Duration;

use sd_notify::NotifyState;

pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// `Type=notify-reload` asks for the time, so that an old answer is not taken for a new one.
pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often `alive` is due; a day where nobody asks.
pub(super) fn pulse() -> Duration {
    const NEVER: Duration = Duration::from_secs(24 * 3600);
    sd_notify::watchdog_enabled().map_or(NEVER, |limit| limit / 3)
}

/// A manager that does not listen any more is its own trouble.
fn tell(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}
