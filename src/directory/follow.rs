//! Follow: keeps what is held of a remote directory true: its outline, and what is cached of its users.
//!
//! Asks for changes each second and whenever the source calls; after a lost connection it asks from where
//! it was, so that nothing is missed. Writes the snapshot that the next start begins with.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::front::{Front, add};
use super::snapshot::Snapshot;
use super::source::{ChangedUsers, Changes, Link, Mark, Source, Trouble};
use super::{Held, News};

const POLL_EVERY: Duration = Duration::from_secs(1);
/// 100,000 domains take a few of these seconds where the source is slow.
const OUTLINE_PATIENCE: Duration = Duration::from_secs(60);
const LAST_PAUSE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Known users are written down so often.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Follower<S> {
    pub(super) source: Arc<S>,
    pub(super) front: Arc<Front>,
    pub(super) held: Arc<Held>,
    pub(super) snapshot: Option<Snapshot>,
    pub(super) news: mpsc::Sender<News>,
    /// From where to go on.
    pub(super) mark: Option<Mark>,
    /// How the first attempt ended; a success later replaces a failure.
    pub(super) first: watch::Sender<Option<Result<(), String>>>,
    /// Turns true when the node stops.
    pub(super) stop: watch::Receiver<bool>,
}

/// The source is away.
struct Outage {
    since: Instant,
    why: String,
}

impl<S: Source> Follower<S> {
    /// Until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = self.follow() => {}
            // Nobody is left to tell it to stop: the same.
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.write_users().await;
    }

    async fn follow(&mut self) {
        let mut pause = FIRST_PAUSE;
        let mut down: Option<Outage> = None;
        loop {
            let mut link = match self.connect().await {
                Ok(link) => link,
                Err(trouble) => {
                    self.lost(&mut down, &trouble);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                    continue;
                }
            };
            match self.keep_up(&mut link, &mut down, &mut pause).await {
                Ok(never) => match never {},
                Err(trouble) => self.lost(&mut down, &trouble),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<S::Link, Trouble> {
        let deadline = self.front.terms().deadline;
        within(deadline, self.source.connect()).await
    }

    fn lost(&self, down: &mut Option<Outage>, trouble: &Trouble) {
        self.front.lost();
        // A reason that changes is told too: how a connection ended is not why there is no other.
        let why = trouble.to_string();
        if down.as_ref().is_none_or(|outage| outage.why != why) {
            self.tell(News::Lost { source: self.source.name(), why: why.clone() });
        }
        let since = down.as_ref().map_or_else(Instant::now, |outage| outage.since);
        *down = Some(Outage { since, why });
        self.first
            .send_if_modified(|first| first.is_none() && first.replace(Err(trouble.to_string())).is_none());
    }

    fn tell(&self, news: News) {
        // Nobody reads as slowly as that; and what is lost is a line of the log.
        let _ = self.news.try_send(news);
    }

    async fn keep_up(
        &mut self,
        link: &mut S::Link,
        down: &mut Option<Outage>,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, Trouble> {
        let patience = self.front.terms().deadline.max(POLL_EVERY);
        // Whatever was held until now may be an outline of before the connection was lost.
        let mut outline_is_known = !self.source.has_outline();
        let mut written = Instant::now();
        loop {
            let Changes { mark, outline, users } = within(patience, link.changes(self.mark.as_ref())).await?;
            match &users {
                ChangedUsers::These(keys) if keys.is_empty() => {}
                ChangedUsers::These(keys) => {
                    add(&self.front.counts.changes, keys.len() as u64);
                    self.front.forget(keys);
                }
                ChangedUsers::All => {
                    add(&self.front.counts.changes, 1);
                    self.front.forget_all();
                }
            }
            if outline || !outline_is_known {
                let outline = within(OUTLINE_PATIENCE, link.outline()).await?;
                self.take(outline.text, outline.regions).await;
                outline_is_known = true;
            }
            self.mark = Some(mark);
            self.front.confirm();
            *pause = FIRST_PAUSE;
            self.first.send_if_modified(|first| {
                let is_first = !matches!(first, Some(Ok(())));
                *first = Some(Ok(()));
                is_first
            });
            if let Some(outage) = down.take() {
                self.tell(News::Back { source: self.source.name(), after: outage.since.elapsed() });
            }
            if written.elapsed() >= SNAPSHOT_EVERY {
                self.write_users().await;
                written = Instant::now();
            }
            link.wait(POLL_EVERY).await;
        }
    }

    async fn take(&self, text: String, regions: Vec<crate::mail::Region>) {
        let changed = match Held::take_outline(&self.held, text.clone(), regions.clone()).await {
            Some(warnings) => {
                self.front.outline_changed();
                for what in warnings {
                    self.tell(News::Warning { what });
                }
                true
            }
            None => false,
        };
        if changed
            && let Some(snapshot) = &self.snapshot
            && let Err(error) = snapshot.write_outline(text, regions).await
        {
            self.tell(News::Warning { what: format!("the directory's snapshot: {error}") });
        }
    }

    async fn write_users(&self) {
        let (Some(snapshot), Some(mark)) = (&self.snapshot, &self.mark) else { return };
        let written = snapshot.write_users(&self.front, mark).await;
        if let Err(error) = written {
            self.tell(News::Warning { what: format!("the directory's snapshot: {error}") });
        }
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(patience, work).await.unwrap_or(Err(Trouble::TimedOut(patience)))
}
