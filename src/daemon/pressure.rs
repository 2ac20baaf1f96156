//! Pressure: whether there is room for more mail: on the disk, in memory and in the queue (rules 18 and 60).
//!
//! The spool says at once when the disk is full; memory and queue are looked at every second.

use std::time::Duration;

use tokio::sync::watch;

use crate::report::{Event, Reporter};
use crate::spool::{Pressure, Spool};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of `/proc/self/statm`, on every Linux this runs on.
const PAGE_BYTES: u64 = 4096;

/// What the node may use, replaced on reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ceilings {
    pub(super) resident_bytes: u64,
    pub(super) messages: u64,
}

/// What goes with the memory and the queue alone.
const OUT_OF_MEMORY: &str = "limits.memory is reached";
const QUEUE_FULL: &str = "queue.max_messages is reached";

/// Keeps the receivers' values true for as long as somebody listens to the first. The second says why no mail
/// is taken, while none is.
pub(super) fn watch(
    spool: Spool,
    ceilings: watch::Receiver<Ceilings>,
    reporter: Reporter,
) -> (watch::Receiver<Pressure>, watch::Receiver<Option<String>>) {
    let mut disk = spool.pressure();
    let (sender, receiver) = watch::channel(*disk.borrow_and_update());
    let (reason, told_why) = watch::channel(None);
    tokio::spawn(async move {
        // What a start finds is told too, unless all is well.
        let mut told = Pressure::Free;
        loop {
            let state = spool.state();
            let (now, ours) =
                judge(*disk.borrow_and_update(), *ceilings.borrow(), resident_bytes(), state.live_messages);
            let why = match now {
                Pressure::Free => None,
                Pressure::Full => Some(ours.or(state.shortage).unwrap_or("the disk is full")),
                Pressure::Failed => Some(state.failure.as_deref().unwrap_or("the disk failed")),
            };
            // Why comes first: who sees the pressure finds its reason.
            reason.send_if_modified(|told| {
                let changed = told.as_deref() != why;
                *told = why.map(ToOwned::to_owned);
                changed
            });
            sender.send_if_modified(|pressure| std::mem::replace(pressure, now) != now);
            if now != told {
                told = now;
                reporter.note(&Event::Pressure { state: now, why: why.unwrap_or("there is room") });
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                changed = disk.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    (receiver, told_why)
}

/// With the ceiling that was reached, where it is not the disk that is short.
fn judge(
    disk: Pressure,
    ceilings: Ceilings,
    resident_bytes: u64,
    messages: u64,
) -> (Pressure, Option<&'static str>) {
    match disk {
        Pressure::Free if resident_bytes > ceilings.resident_bytes => (Pressure::Full, Some(OUT_OF_MEMORY)),
        Pressure::Free if messages > ceilings.messages => (Pressure::Full, Some(QUEUE_FULL)),
        Pressure::Free | Pressure::Full | Pressure::Failed => (disk, None),
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_queue_count_only_while_the_disk_is_well() {
        let ceilings = Ceilings { resident_bytes: 100, messages: 10 };
        assert_eq!(judge(Pressure::Free, ceilings, 100, 10), (Pressure::Free, None));
        assert_eq!(judge(Pressure::Free, ceilings, 101, 0), (Pressure::Full, Some(OUT_OF_MEMORY)));
        assert_eq!(judge(Pressure::Free, ceilings, 0, 11), (Pressure::Full, Some(QUEUE_FULL)));
        assert_eq!(judge(Pressure::Failed, ceilings, 101, 11), (Pressure::Failed, None));
    }

    #[test]
    fn this_process_has_some_memory() {
        assert!(resident_bytes() > PAGE_BYTES);
    }
}
