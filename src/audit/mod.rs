//! Audit: where each message was received, whether it rested on this disk, and where it went. Append-only.
//!
//! `chain` writes the records, each with the hash over the one before; `verify` reads a chain back and names
//! the first record that is not as it was written; `residency` counts. No addresses: domains and ids only.
//! `trace` feeds it, off the hot path. docs/TRACE.md says what it proves and what it does not.

mod chain;
mod entry;
mod residency;
mod verify;

pub use chain::{Chain, Head, Settings};
pub use entry::{Entry, Event, To};
pub use residency::{Asked, Residency, report};
pub use verify::{Verdict, verify};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Whether it can be the hash of a record, or the beginning of one that says which.
pub fn is_head(text: &str) -> bool {
    (8..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The files of a chain in their order.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("audit-") && name.ends_with(".log") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn name_of(number: u64) -> String {
    format!("audit-{number:012}.log")
}
