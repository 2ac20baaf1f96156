//! Lines: the few connections over which users are looked up, and the questions that share them.
//!
//! A line takes all questions that wait and asks them as one, so that a cold start costs the source one
//! round trip for many. While no line is up, questions fail at once instead of waiting for a deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::front::{Front, Request, add};
use super::source::{Link, Source, Trouble};

/// Between attempts to connect, from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// What all lines share.
struct Exchange<S> {
    source: Arc<S>,
    front: Arc<Front>,
    waiting: Mutex<mpsc::Receiver<Request>>,
    /// Lines that have a connection.
    up: AtomicUsize,
    /// Attempts to connect that failed in a row, over all lines.
    failures: AtomicUsize,
}

/// Runs `count` lines for as long as somebody holds the set.
pub(super) fn open<S: Source>(
    source: &Arc<S>,
    front: &Arc<Front>,
    waiting: mpsc::Receiver<Request>,
    count: usize,
) -> JoinSet<()> {
    let exchange = Arc::new(Exchange {
        source: Arc::clone(source),
        front: Arc::clone(front),
        waiting: Mutex::new(waiting),
        up: AtomicUsize::new(0),
        failures: AtomicUsize::new(0),
    });
    (0..count).map(|_| Arc::clone(&exchange).keep_line()).collect()
}

impl<S: Source> Exchange<S> {
    async fn keep_line(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.connect_meanwhile_refuse().await {
                Ok(link) => {
                    pause = FIRST_PAUSE;
                    self.serve(link).await;
                }
                Err(_) => {
                    self.refuse_for(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }

    async fn connect(&self) -> Result<S::Link, Trouble> {
        let deadline = self.front.terms().deadline;
        let connected = match tokio::time::timeout(deadline, self.source.connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(Trouble::TimedOut(deadline)),
        };
        match &connected {
            Ok(_) => self.failures.store(0, Ordering::Relaxed),
            Err(_) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        connected
    }

    /// Connects; when that is known to fail, nobody waits for it.
    async fn connect_meanwhile_refuse(&self) -> Result<S::Link, Trouble> {
        let mut connecting = std::pin::pin!(self.connect());
        loop {
            tokio::select! {
                connected = &mut connecting => return connected,
                () = self.refuse_one(), if self.is_down() => {}
                () = tokio::time::sleep(FIRST_PAUSE), if !self.is_down() => {}
            }
        }
    }

    async fn refuse_for(&self, pause: Duration) {
        let mut over = std::pin::pin!(tokio::time::sleep(pause));
        loop {
            tokio::select! {
                () = &mut over => return,
                () = self.refuse_one(), if self.is_down() => {}
                () = tokio::time::sleep(FIRST_PAUSE), if !self.is_down() => {}
            }
        }
    }

    /// No line has a connection, and the last attempt failed.
    fn is_down(&self) -> bool {
        self.up.load(Ordering::Relaxed) == 0 && self.failures.load(Ordering::Relaxed) > 0
    }

    async fn refuse_one(&self) {
        let request = self.waiting.lock().await.recv().await;
        match request {
            // Dropped is failed.
            Some(request) => drop(request),
            None => std::future::pending().await,
        }
    }

    /// Answers questions until the connection fails or none can come any more.
    async fn serve(&self, link: S::Link) {
        let _up = Up::new(&self.up, &self.front.counts.links);
        let mut link = link;
        let mut batch = Vec::new();
        loop {
            batch.clear();
            self.waiting.lock().await.recv_many(&mut batch, self.source.batch()).await;
            if batch.is_empty() {
                return std::future::pending().await;
            }
            batch.retain(|request| !request.is_abandoned());
            if batch.is_empty() {
                continue;
            }
            match self.look_up(&mut link, &mut batch).await {
                Ok(()) => {}
                // A restarted server has closed what was open: once more over a new connection.
                Err(Trouble::Broken(_)) => match self.connect().await {
                    Ok(fresh) => {
                        link = fresh;
                        if self.look_up(&mut link, &mut batch).await.is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                },
                Err(Trouble::TimedOut(_) | Trouble::Refused(_)) => return,
            }
        }
    }

    /// Empties the batch when it is answered.
    async fn look_up(&self, link: &mut S::Link, batch: &mut Vec<Request>) -> Result<(), Trouble> {
        let keys: Vec<&str> = batch.iter().map(|request| &*request.key).collect();
        let deadline = self.front.terms().deadline;
        let began = Instant::now();
        let answers = tokio::time::timeout(deadline, link.look_up(&keys))
            .await
            .unwrap_or(Err(Trouble::TimedOut(deadline)))?;
        let counts = &self.front.counts;
        add(&counts.questions, 1);
        add(&counts.lookups, keys.len() as u64);
        add(&counts.lookup_micros, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        for (request, answer) in batch.drain(..).zip(answers) {
            match answer {
                Some(answer) => request.answer(answer),
                // Dropped is failed.
                None => drop(request),
            }
        }
        Ok(())
    }
}

/// Counts a line as connected while it is.
struct Up<'a>(&'a AtomicUsize, &'a AtomicU64);

impl<'a> Up<'a> {
    fn new(up: &'a AtomicUsize, gauge: &'a AtomicU64) -> Self {
        up.fetch_add(1, Ordering::Relaxed);
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(up, gauge)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}
