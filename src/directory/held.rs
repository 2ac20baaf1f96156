//! Held: the table in force, and how another takes its place without anybody waiting for it.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::{Table, file};
use crate::document::Notes;
use crate::mail::{Region, Regions};

/// How often it is looked whether the last question has let go of an old table.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const LOOKS_LIMIT: u32 = 1_000;
/// Of one outline so many complaints are passed on.
const WARNINGS_LIMIT: usize = 20;

#[derive(Debug)]
pub(super) struct Held {
    pub(super) table: ArcSwap<Table>,
    regions: Regions,
    pub(super) subaddress: Option<char>,
    /// Of the outline in force, so that the same one is not read again; zero is none.
    fingerprint: AtomicU64,
    hasher: RandomState,
}

impl Held {
    pub(super) fn new(table: Table, regions: Regions, subaddress: Option<char>) -> Self {
        Self {
            table: ArcSwap::from_pointee(table),
            regions,
            subaddress,
            fingerprint: AtomicU64::new(0),
            hasher: RandomState::new(),
        }
    }

    /// Puts another table in force. The old one, which may be a gibibyte, is taken apart on a thread of its
    /// own once the last question has let go of it.
    pub(super) fn replace(&self, table: Table) {
        let old = self.table.swap(Arc::new(table));
        let retire = move || {
            let mut looks = 0;
            // Whoever keeps it for longer takes it apart, and no stop waits for that.
            while Arc::strong_count(&old) > 1 && looks < LOOKS_LIMIT {
                std::thread::sleep(LOOK_EVERY);
                looks += 1;
            }
            drop(old);
        };
        // Without a runtime nobody asks.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(retire);
        }
    }

    /// Reads an outline and puts it in force: the warnings it gave, or nothing when it is the same again.
    /// What cannot be read in it is left out and told: a remote directory's mistake must not stop all mail.
    pub(super) async fn take_outline(
        self: &Arc<Self>,
        text: String,
        regions: Vec<Region>,
    ) -> Option<Vec<String>> {
        let fingerprint = self.hasher.hash_one((&text, &regions)).max(1);
        if self.fingerprint.load(Ordering::Relaxed) == fingerprint {
            return None;
        }
        let this = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            let mut known = this.regions.clone();
            regions.into_iter().for_each(|region| known.add(region));
            let (table, warnings) = read_outline(&text, &known, this.subaddress);
            // Nothing at all out of something is a text that does not open, not a directory without tenants.
            if table.tenants().next().is_some() || !text.contains("[[tenant]]") {
                this.replace(table);
                this.fingerprint.store(fingerprint, Ordering::Relaxed);
            }
            warnings
        });
        Some(read.await.unwrap_or_else(|error| vec![error.to_string()]))
    }
}

pub(super) fn read_outline(text: &str, regions: &Regions, subaddress: Option<char>) -> (Table, Vec<String>) {
    let notes = Notes::default();
    let table = file::read("directory", text, Path::new(""), regions, subaddress, &notes);
    let complaints = match notes.verdict() {
        Ok(warnings) => warnings,
        Err(mistakes) => mistakes.0,
    };
    let count = complaints.len();
    let mut warnings: Vec<String> = complaints
        .into_iter()
        .take(WARNINGS_LIMIT)
        // The line is that of a text nobody sees.
        .map(|complaint| crate::document::Mistake { line: None, ..complaint }.to_string())
        .collect();
    if count > WARNINGS_LIMIT {
        warnings.push(format!("directory: {} more like these", count - WARNINGS_LIMIT));
    }
    (table, warnings)
}
