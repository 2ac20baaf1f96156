//! Audit: who changed what in the queue, the directory or the daemon, when, and what that met: a file that is
//! only appended to.
//!
//! A line is on disk before the change begins: what cannot be written down is not done.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

/// Below the state directory.
pub const FILE: &str = "queue-audit.jsonl";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    path: Arc<PathBuf>,
    /// One line after the other.
    writing: Arc<tokio::sync::Mutex<()>>,
}

/// One line.
#[derive(Debug, Serialize)]
pub(super) struct Entry<'a> {
    pub(super) at: String,
    pub(super) by: &'a str,
    pub(super) verb: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<&'a str>,
    #[serde(flatten)]
    pub(super) met: Option<Met<'a>>,
}

/// What a verb of the queue met.
#[derive(Debug, Serialize)]
pub(super) struct Met<'a> {
    pub(super) filter: &'a crate::mail::Filter,
    pub(super) messages: usize,
    pub(super) recipients: usize,
    /// The first of them.
    pub(super) ids: Vec<crate::mail::MessageId>,
}

impl Audit {
    pub fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path), writing: Arc::default() }
    }

    pub(super) async fn write(&self, entry: &Entry<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let path = self.path.clone();
        let _one_at_a_time = self.writing.lock().await;
        let written = tokio::task::spawn_blocking(move || {
            // Opened each time: whoever rotates the file needs to tell nobody.
            let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&*path)?;
            file.write_all(&line)?;
            file.sync_data()
        });
        written.await.map_err(io::Error::other)?
    }
}
