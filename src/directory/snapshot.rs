//! Snapshot: what a node needs to start while its directory is away, below `state_dir/directory`.
//!
//! `outline.toml` holds tenants, domains and connectors as the directory file would; `users.csv` the users
//! that were known, and up to where changes had been followed. Another directory's snapshot counts for nothing.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::front::Front;
use super::rewrite::rewrite;
use super::source::{Mark, Outline};
use crate::clock::{Clock, Timestamp};
use crate::mail::{Address, Licenses, Region, User};

const MODE: u32 = 0o600;

#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    folder: PathBuf,
    /// Whose it is.
    source: String,
    clock: Clock,
}

/// What was there.
#[derive(Debug)]
pub(super) struct Restored {
    /// `None` of a source that has none.
    pub(super) outline: Option<Outline>,
    pub(super) mark: Option<Mark>,
    /// How long ago the source was last heard.
    pub(super) age: Duration,
}

impl Snapshot {
    pub(super) fn new(folder: PathBuf, source: String, clock: Clock) -> Self {
        Self { folder, source, clock }
    }

    fn outline_path(&self) -> PathBuf {
        self.folder.join("outline.toml")
    }

    fn users_path(&self) -> PathBuf {
        self.folder.join("users.csv")
    }

    pub(super) async fn write_outline(&self, text: String, regions: Vec<Region>) -> io::Result<()> {
        let this = self.clone();
        blocking(move || {
            make_folder(&this.folder)?;
            let regions: Vec<String> = regions.iter().map(ToString::to_string).collect();
            let head = format!(
                "# of {}\n# heard {}\n# regions {}\n",
                this.source,
                this.clock.now(),
                regions.join(" ")
            );
            rewrite(&this.outline_path(), MODE, |out| {
                out.write_all(head.as_bytes())?;
                out.write_all(text.as_bytes())
            })
        })
        .await
    }

    pub(super) async fn write_users(&self, front: &Arc<Front>, mark: &Mark) -> io::Result<()> {
        let Some(silence) = front.silence() else { return Ok(()) };
        let (this, front, mark) = (self.clone(), Arc::clone(front), mark.clone());
        blocking(move || {
            make_folder(&this.folder)?;
            let now = this.clock.now();
            let head = format!("# of {}\n# heard {}\n# mark {}\n", this.source, before(now, silence), mark.0);
            rewrite(&this.users_path(), MODE, |out| {
                out.write_all(head.as_bytes())?;
                let mut rows = csv::Writer::from_writer(out);
                rows.write_record([
                    "asked",
                    "address",
                    "preferred_data_location",
                    "licenses",
                    "known_since",
                ])?;
                for (key, user, age) in front.known() {
                    let location = user.preferred_data_location.as_deref().unwrap_or_default();
                    let since = before(now, age).to_string();
                    let primary = user.primary.to_string();
                    rows.write_record([&key, primary.as_str(), location, &licenses(user.licenses), &since])?;
                }
                rows.flush()
            })
        })
        .await
    }

    /// What was held of this source, if anything; puts the users into the front.
    pub(super) fn restore(&self, front: &Front, has_outline: bool) -> Option<Restored> {
        if !has_outline {
            let (mark, age) = self.restore_known(front)?;
            return Some(Restored { outline: None, mark: Some(mark), age });
        }
        let text = std::fs::read_to_string(self.outline_path()).ok()?;
        let head = Head::of(&text);
        if head.source != Some(&*self.source) {
            return None;
        }
        let regions = head.regions.unwrap_or_default().split(' ').filter_map(Region::parse).collect();
        let mut age = self.clock.now().since(head.heard?);
        let mut mark = None;
        if let Some((followed, heard)) = self.restore_known(front) {
            (mark, age) = (Some(followed), heard);
        }
        Some(Restored { outline: Some(Outline { text, regions }), mark, age })
    }

    /// Up to where changes had been followed, and how long ago.
    fn restore_known(&self, front: &Front) -> Option<(Mark, Duration)> {
        let users = std::fs::read_to_string(self.users_path()).ok()?;
        let head = Head::of(&users);
        if head.source != Some(&*self.source) {
            return None;
        }
        let (heard, mark) = (head.heard?, head.mark?);
        self.restore_users(&users, front);
        Some((Mark(mark.to_owned()), self.clock.now().since(heard)))
    }

    fn restore_users(&self, text: &str, front: &Front) {
        let now = self.clock.now();
        let mut rows = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
        // A row that cannot be read is one user who is asked for again.
        for row in rows.records().flatten() {
            let field = |at: usize| row.get(at).unwrap_or_default();
            let (Ok(primary), Some(since)) = (Address::parse(field(1)), Timestamp::parse(field(4))) else {
                continue;
            };
            let location = field(2);
            let user = User {
                primary,
                preferred_data_location: (!location.is_empty()).then(|| location.into()),
                licenses: Licenses {
                    multi_geo: field(3).split(' ').any(|word| word == "multi-geo"),
                    mail: field(3).split(' ').any(|word| word == "mail"),
                },
            };
            front.remember(field(0), user, now.since(since));
        }
    }
}

/// The comment lines that a snapshot begins with.
#[derive(Default)]
struct Head<'t> {
    source: Option<&'t str>,
    heard: Option<Timestamp>,
    mark: Option<&'t str>,
    regions: Option<&'t str>,
}

impl<'t> Head<'t> {
    fn of(text: &'t str) -> Self {
        let mut head = Self::default();
        for line in text.lines().map_while(|line| line.strip_prefix("# ")) {
            match line.split_once(' ') {
                Some(("of", source)) => head.source = Some(source),
                Some(("heard", time)) => head.heard = Timestamp::parse(time),
                Some(("mark", mark)) => head.mark = Some(mark),
                Some(("regions", regions)) => head.regions = Some(regions),
                Some(_) | None => {}
            }
        }
        head
    }
}

fn licenses(held: Licenses) -> String {
    let mut words = String::new();
    for (word, held) in [("multi-geo", held.multi_geo), ("mail", held.mail)] {
        if held {
            write!(words, "{}{word}", if words.is_empty() { "" } else { " " }).expect("a String takes it");
        }
    }
    words
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    Timestamp::from_millis(now.millis().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
}

fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
