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

/// Keeps the receiver's value true for as long as somebody listens.
pub(super) fn watch(
    spool: Spool,
    ceilings: watch::Receiver<Ceilings>,
    reporter: Reporter,
) -> watch::Receiver<Pressure> {
    let mut disk = spool.pressure();
    let (sender, receiver) = watch::channel(*disk.borrow_and_update());
    tokio::spawn(async move {
        // What a start finds is told too, unless all is well.
        let mut told = Pressure::Free;
        loop {
            let state = spool.state();
            let now =
                judge(*disk.borrow_and_update(), *ceilings.borrow(), resident_bytes(), state.live_messages);
            sender.send_if_modified(|pressure| std::mem::replace(pressure, now) != now);
            if now != told {
                told = now;
                let why = match now {
                    Pressure::Free => "there is room",
                    Pressure::Full => {
                        state.shortage.unwrap_or("limits.memory or queue.max_messages is reached")
                    }
                    Pressure::Failed => state.failure.as_deref().unwrap_or("the disk failed"),
                };
                reporter.note(&Event::Pressure { state: now, why });
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                changed = disk.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

fn judge(disk: Pressure, ceilings: Ceilings, resident_bytes: u64, messages: u64) -> Pressure {
    match disk {
        Pressure::Free if resident_bytes > ceilings.resident_bytes || messages > ceilings.messages => {
            Pressure::Full
        }
        Pressure::Free | Pressure::Full | Pressure::Failed => disk,
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
        assert_eq!(judge(Pressure::Free, ceilings, 100, 10), Pressure::Free);
        assert_eq!(judge(Pressure::Free, ceilings, 101, 0), Pressure::Full);
        assert_eq!(judge(Pressure::Free, ceilings, 0, 11), Pressure::Full);
        assert_eq!(judge(Pressure::Failed, ceilings, 101, 11), Pressure::Failed);
    }

    #[test]
    fn this_process_has_some_memory() {
        assert!(resident_bytes() > PAGE_BYTES);
    }
}
