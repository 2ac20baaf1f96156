//! Remote: a directory service put together: its source, the lines to it, the front, and who follows it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::follow::Follower;
use super::front::{Front, Terms};
use super::held::{Held, read_outline};
use super::ldap::{self, Ldap};
use super::lines;
use super::postgres::{self, Migration, Postgres};
use super::snapshot::Snapshot;
use super::source::{Source, Trouble};
use super::{Directory, Table};
use crate::clock::Clock;
use crate::mail::{Region, Regions};

const NEWS_LIMIT: usize = 64;

/// Which service, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    Postgres(postgres::Settings),
    Ldap(Box<ldap::Settings>),
}

/// What a node needs to know to use it.
#[derive(Debug, Clone)]
pub struct Settings {
    pub service: Service,
    pub terms: Terms,
    /// Connections for looking users up.
    pub pool: usize,
    pub node_region: Region,
    pub regions: Regions,
    pub subaddress: Option<char>,
    /// Where the snapshot is; commands have none.
    pub snapshot: Option<PathBuf>,
    pub clock: Clock,
}

/// What the operator should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Lost {
        source: String,
        why: String,
    },
    Back {
        source: String,
        after: Duration,
    },
    /// A start without the source.
    FromSnapshot {
        age: Duration,
        domains: usize,
        users: u64,
    },
    Warning {
        what: String,
    },
}

/// What `Directory` holds of it.
pub(super) struct Remote {
    pub(super) front: Arc<Front>,
    /// Otherwise tenants and domains are a file's, and hold whether or not the service answers.
    pub(super) has_outline: bool,
    first: watch::Receiver<Option<Result<(), String>>>,
    stop: watch::Sender<bool>,
    follower: Mutex<Option<JoinHandle<()>>>,
    /// Dropped with the directory, and the lines with it.
    _lines: JoinSet<()>,
}

/// Connects in the background; answers come from the snapshot until then, and without one they fail.
/// `table` is the directory file's, for a service that has no tenants and domains.
pub fn open(settings: Settings, table: Table) -> Result<(Directory, mpsc::Receiver<News>), Trouble> {
    let held = |table| Arc::new(Held::new(table, settings.regions.clone(), settings.subaddress));
    match &settings.service {
        Service::Postgres(postgres) => {
            let source = Postgres::new(postgres, settings.terms.deadline, settings.node_region)?;
            let held = held(Table::new(settings.subaddress));
            Ok(put_together(source, held, settings))
        }
        Service::Ldap(ldap) => {
            let held = held(table);
            let source =
                Ldap::new(ldap, &settings.terms, settings.node_region, Arc::clone(&held), settings.clock)?;
            Ok(put_together(source, held, settings))
        }
    }
}

/// Puts the schema in place, or brings it up to date.
pub async fn migrate(settings: &Settings, region_codes: &[Region]) -> Result<Migration, Trouble> {
    match &settings.service {
        Service::Postgres(postgres) => {
            let source = Postgres::new(postgres, settings.terms.deadline, settings.node_region)?;
            source.migrate(region_codes).await
        }
        Service::Ldap(_) => Err(Trouble::Refused("only a database has a schema of ours".to_owned())),
    }
}

fn put_together(
    source: impl Source,
    held: Arc<Held>,
    settings: Settings,
) -> (Directory, mpsc::Receiver<News>) {
    let source = Arc::new(source);
    let (front, waiting) = Front::new(settings.terms);
    let (news, newsstand) = mpsc::channel(NEWS_LIMIT);
    let snapshot = settings.snapshot.map(|folder| Snapshot::new(folder, source.name(), settings.clock));
    let restored = snapshot.as_ref().and_then(|snapshot| snapshot.restore(&front, source.has_outline()));
    let mut mark = None;
    if let Some(restored) = restored {
        if let Some(outline) = restored.outline {
            let mut known = settings.regions.clone();
            outline.regions.iter().for_each(|region| known.add(*region));
            held.replace(read_outline(&outline.text, &known, settings.subaddress).0);
        }
        mark = restored.mark;
        front.confirmed_before(restored.age);
        // The cache's own count lags behind what was just put in.
        let (domains, users) = (held.table.load().domain_count(), front.known().count() as u64);
        // The channel is new and empty.
        let _ = news.try_send(News::FromSnapshot { age: restored.age, domains, users });
    }
    let (first, ready) = watch::channel(None);
    let (stop, stopping) = watch::channel(false);
    let follower = Follower {
        source: Arc::clone(&source),
        front: Arc::clone(&front),
        held: Arc::clone(&held),
        snapshot,
        news,
        mark,
        first,
        stop: stopping,
    };
    let remote = Remote {
        has_outline: source.has_outline(),
        first: ready,
        stop,
        follower: Mutex::new(Some(tokio::spawn(follower.run()))),
        _lines: lines::open(&source, &front, waiting, settings.pool),
        front,
    };
    (Directory { held, remote: Some(Arc::new(remote)) }, newsstand)
}

impl Directory {
    /// Waits for the source's first word; at once where there is no source to wait for.
    pub async fn ready(&self, patience: Duration) -> Result<(), String> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let mut first = remote.first.clone();
        match tokio::time::timeout(patience, first.wait_for(Option::is_some)).await {
            Ok(Ok(word)) => word.clone().unwrap_or(Ok(())),
            Ok(Err(_)) | Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
        }
    }

    /// Writes the snapshot and lets go of the source.
    pub async fn close(&self) {
        let Some(remote) = &self.remote else { return };
        remote.stop.send_replace(true);
        let follower = remote.follower.lock().expect("nobody panics while holding it").take();
        if let Some(follower) = follower {
            // It has nothing left to do but to write.
            let _ = follower.await;
        }
    }

    /// What a scrape of the metrics should see: name, help, value.
    pub fn figures(&self) -> Vec<(&'static str, &'static str, u64)> {
        use std::sync::atomic::Ordering::Relaxed;
        let table = self.held.table.load();
        let mut figures = vec![
            ("directory_domains", "Accepted domains in memory", table.domain_count() as u64),
            (
                "directory_users",
                "Users in memory, or cached of a directory service",
                match &self.remote {
                    None => table.user_count() as u64,
                    Some(remote) => remote.front.kept_count(),
                },
            ),
        ];
        let Some(remote) = &self.remote else { return figures };
        let (front, counts) = (&remote.front, &remote.front.counts);
        let silence = front.silence().map_or(u64::MAX, |silence| silence.as_secs());
        figures.extend([
            ("directory_age_seconds", "Since the directory service last confirmed what is held", silence),
            ("directory_cache_hits", "Users answered from the cache", counts.hits.load(Relaxed)),
            ("directory_cache_misses", "Users that had to be asked for", counts.misses.load(Relaxed)),
            (
                "directory_stale_served",
                "Users answered from an old answer for want of a new one",
                counts.stale.load(Relaxed),
            ),
            (
                "directory_lookup_failures",
                "Users that could not be answered (rule 18)",
                counts.failures.load(Relaxed),
            ),
            (
                "directory_lookup_overloads",
                "Lookups refused because too many waited",
                counts.overloads.load(Relaxed),
            ),
            ("directory_lookups", "Addresses that the service answered for", counts.lookups.load(Relaxed)),
            (
                "directory_questions",
                "Questions to the service, each for many addresses",
                counts.questions.load(Relaxed),
            ),
            (
                "directory_question_micros",
                "Time that the service took for them, in microseconds",
                counts.lookup_micros.load(Relaxed),
            ),
            ("directory_lookups_waiting", "Lookups that wait for a connection now", front.waiting_count()),
            ("directory_connections", "Connections for lookups that are up", counts.links.load(Relaxed)),
            (
                "directory_outlines",
                "Times that tenants and domains were taken in anew",
                counts.outlines.load(Relaxed),
            ),
            ("directory_changes", "Changed users that the service told of", counts.changes.load(Relaxed)),
        ]);
        figures
    }
}
