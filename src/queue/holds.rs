//! Holds: what is kept back when it comes, until the operator releases it.
//!
//! A few filters, in a file below the state directory that is replaced whole, so that they outlive the daemon.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::job::Job;
use crate::clock::Timestamp;
use crate::mail::Filter;

/// More than an operator has in mind.
const HOLDS_LIMIT: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub filter: Filter,
    pub since: String,
    /// Who ordered it.
    pub by: String,
}

/// The filters in force, for whoever has to keep mail back.
pub type Filters = Arc<[Filter]>;

pub struct Holds {
    path: PathBuf,
    holds: tokio::sync::Mutex<Vec<Hold>>,
    filters: watch::Sender<Filters>,
}

impl Holds {
    /// What an earlier run left; none when there is no file.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let holds: Vec<Hold> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let filters = watch::Sender::new(filters_of(&holds));
        Ok(Self { path, holds: tokio::sync::Mutex::new(holds), filters })
    }

    pub fn subscribe(&self) -> watch::Receiver<Filters> {
        self.filters.subscribe()
    }

    pub async fn list(&self) -> Vec<Hold> {
        self.holds.lock().await.clone()
    }

    /// From now on everything that it picks is held, once this returns also after a crash.
    pub async fn add(&self, filter: &Filter, by: &str, now: Timestamp) -> io::Result<()> {
        let mut holds = self.holds.lock().await;
        let mut wanted = holds.clone();
        if wanted.iter().any(|hold| hold.filter == *filter) {
            return Ok(());
        }
        if wanted.len() >= HOLDS_LIMIT {
            return Err(io::Error::other(format!("there are {HOLDS_LIMIT} holds already")));
        }
        wanted.push(Hold { filter: filter.clone(), since: now.to_string(), by: by.to_owned() });
        self.replace(&mut holds, wanted).await
    }

    /// Ends the hold of exactly this filter; whether there was one.
    pub async fn remove(&self, filter: &Filter) -> io::Result<bool> {
        let mut holds = self.holds.lock().await;
        let wanted: Vec<Hold> = holds.iter().filter(|hold| hold.filter != *filter).cloned().collect();
        let removed = wanted.len() < holds.len();
        if removed {
            self.replace(&mut holds, wanted).await?;
        }
        Ok(removed)
    }

    async fn replace(&self, holds: &mut Vec<Hold>, wanted: Vec<Hold>) -> io::Result<()> {
        let (path, bytes) = (self.path.clone(), serde_json::to_vec_pretty(&wanted)?);
        let written = tokio::task::spawn_blocking(move || write_whole(&path, &bytes));
        written.await.map_err(io::Error::other)??;
        self.filters.send_replace(filters_of(&wanted));
        *holds = wanted;
        Ok(())
    }

    /// Takes out of a job whoever is to be held.
    pub(super) fn split(&self, destination: &str, job: &mut Job, now: Timestamp) -> Option<Job> {
        let filters = self.filters.borrow();
        let envelope = job.envelope.clone();
        job.split(|index| {
            filters.iter().any(|filter| filter.concerns(destination) && filter.picks(&envelope, index, now))
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filters.borrow().is_empty()
    }
}

fn filters_of(holds: &[Hold]) -> Filters {
    holds.iter().map(|hold| hold.filter.clone()).collect()
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
