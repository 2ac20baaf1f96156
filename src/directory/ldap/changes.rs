//! Changes: which entries are different since the last look, by what the server counts or by its time.
//!
//! An entry's change forgets its addresses of now and all that had led to it before. Deletions leave no
//! trace that every server shows: they are seen when the answer's time is over (`cache_for`).

use std::collections::HashMap;
use std::time::Duration;

use ldap3::{Scope, SearchEntry};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::link::LdapLink;
use super::mapping::{Reach, all_of, values};
use super::{Question, Shared, Tracking, nonsense, search_paged, trouble};
use crate::clock::Timestamp;
use crate::directory::source::{ChangedUsers, Changes, Mark, Trouble};
use crate::mail::Residency;

/// Servers write times in whole seconds, and another server's changes come a little later than they were
/// made: so far back each look goes.
const OVERLAP: Duration = Duration::from_secs(5);
/// A second change within the second of the first has the same time: so long the first is told again.
const AGAIN: Duration = Duration::from_secs(3);
/// The first look begins so long ago, since the server's clock may be another than ours.
const FIRST_LOOK: Duration = Duration::from_secs(600);
/// More changes at once are just "all", and so are those that take so long to read: the next look begins
/// after them instead of failing at them for good.
const LIMIT: usize = 10_000;
const READING: Duration = Duration::from_millis(700);
/// Where times tell of changes, it then begins so long ago.
const NEXT_LOOK: Duration = Duration::from_secs(30);

/// How far changes have been followed.
#[derive(Clone)]
pub(super) enum Progress {
    /// `counted` is what the server said itself, `number` the latest that was seen.
    Usn {
        server: String,
        counted: u64,
        number: u64,
    },
    Time {
        latest: Timestamp,
        told: HashMap<Told, Instant>,
    },
    Nothing,
}

/// An entry's id and the time of its change, as the server wrote it.
type Told = (Box<[u8]>, String);

pub(super) async fn changes(link: &LdapLink, is_known: bool) -> Result<Changes, Trouble> {
    let shared = &link.shared;
    let before = shared.progress.lock().expect("nobody panics while holding it").clone();
    // What a snapshot kept was followed by another process: whoever can be asked need not be remembered.
    let before = before.filter(|_| is_known);
    let is_first = before.is_none();
    let (progress, keys) = match shared.tracking {
        Tracking::Usn => by_number(link, before).await?,
        Tracking::Timestamp => by_time(link, before).await?,
        Tracking::Off => {
            root(link, vec!["1.1".to_owned()]).await?;
            (Progress::Nothing, Some(Vec::new()))
        }
    };
    let mark = match &progress {
        Progress::Usn { server, number, .. } => format!("usn {number} {server}"),
        Progress::Time { latest, .. } => format!("time {latest}"),
        Progress::Nothing => "nothing".to_owned(),
    };
    *shared.progress.lock().expect("nobody panics while holding it") = Some(progress);
    let users = match keys {
        Some(keys) if !is_first => ChangedUsers::These(keys),
        Some(_) | None => ChangedUsers::All,
    };
    Ok(Changes { mark: Mark(mark), outline: false, users })
}

/// What the server says of itself (RFC 4512 §5.1).
async fn root(link: &LdapLink, attributes: Vec<String>) -> Result<Option<SearchEntry>, Trouble> {
    let question = Question {
        base: String::new(),
        scope: Scope::Base,
        filter: "(objectClass=*)".to_owned(),
        attributes,
    };
    Ok(link.ask(question, 1).await?.into_iter().next())
}

/// Each domain controller counts for itself: another one's numbers mean nothing.
async fn by_number(
    link: &LdapLink,
    before: Option<Progress>,
) -> Result<(Progress, Option<Vec<String>>), Trouble> {
    let names = ["highestCommittedUSN", "dsServiceName"];
    let root = root(link, names.map(str::to_owned).to_vec()).await?;
    let value = |name| root.as_ref().and_then(|root| values(root, name).next());
    // Before the search, so that what comes meanwhile is found by the next one.
    let highest: u64 = value(names[0]).and_then(|text| text.parse().ok()).ok_or_else(|| {
        Trouble::Refused(
            "the server has no highestCommittedUSN: changes = \"timestamp\" is for it".to_owned(),
        )
    })?;
    let server = value(names[1]).unwrap_or_default().to_owned();
    let number = match before {
        Some(Progress::Usn { server: known, counted, number }) if known == server && counted <= highest => {
            number
        }
        // Another server, or an older state of this one.
        Some(_) | None => return Ok((Progress::Usn { server, counted: highest, number: highest }, None)),
    };
    let changed = &link.shared.mapping.attributes.changed;
    let mut latest = number.max(highest);
    let mut keys = Keys::default();
    // A filter has no "greater than".
    let filter = format!("({changed}>={})", number.saturating_add(1));
    let is_all = each(link, &filter, |shared, entry| {
        let number = values(entry, &shared.mapping.attributes.changed).next();
        latest = latest.max(number.and_then(|text| text.parse().ok()).unwrap_or(0));
        keys.add(shared, entry);
    })
    .await?;
    let keys = keys.list().filter(|_| is_all);
    Ok((Progress::Usn { server, counted: highest, number: latest }, keys))
}

async fn by_time(
    link: &LdapLink,
    before: Option<Progress>,
) -> Result<(Progress, Option<Vec<String>>), Trouble> {
    let (latest, told) = match before {
        Some(Progress::Time { latest, told }) => (latest, told),
        Some(_) | None => (link.shared.clock.now().minus(FIRST_LOOK), HashMap::new()),
    };
    let changed = &link.shared.mapping.attributes.changed;
    let filter = format!("({changed}>={})", written(latest.minus(OVERLAP)));
    let now = Instant::now();
    let (mut later, mut seen, mut keys) = (latest, HashMap::new(), Keys::default());
    let is_all = each(link, &filter, |shared, entry| {
        let time = values(entry, &shared.mapping.attributes.changed).next().unwrap_or_default();
        later = read(time).map_or(later, |time| later.max(time));
        let id = shared.mapping.id(entry).unwrap_or_else(|| entry.dn.as_bytes().into());
        let told_as = (id, time.to_owned());
        let since = told.get(&told_as).copied().unwrap_or(now);
        if now.duration_since(since) < AGAIN {
            keys.add(shared, entry);
        }
        if seen.len() < 2 * LIMIT {
            seen.insert(told_as, since);
        }
    })
    .await?;
    if !is_all {
        later = later.max(link.shared.clock.now().minus(NEXT_LOOK));
    }
    Ok((Progress::Time { latest: later, told: seen }, keys.list().filter(|_| is_all)))
}

/// What changed entries have to do with, unless that is too much.
#[derive(Default)]
struct Keys(Vec<String>);

impl Keys {
    fn add(&mut self, shared: &Shared, entry: &SearchEntry) {
        if self.0.len() > LIMIT {
            return;
        }
        self.0.extend(shared.mapping.addresses(entry).iter().map(crate::mail::Address::key));
        if let Some(id) = shared.mapping.id(entry)
            && let Some(keys) = shared.asked.remove(&id)
        {
            self.0
                .extend(keys.lock().expect("nobody panics while holding it").iter().map(ToString::to_string));
        }
    }

    fn list(mut self) -> Option<Vec<String>> {
        self.0.sort_unstable();
        self.0.dedup();
        (self.0.len() <= LIMIT).then_some(self.0)
    }
}

/// Every changed entry, wherever users are. With a strict tenant in the directory another region's users
/// are told of by their ids alone. False when there were too many.
async fn each(
    link: &LdapLink,
    changed: &str,
    mut see: impl FnMut(&Shared, &SearchEntry) + Send,
) -> Result<bool, Trouble> {
    let (began, mut left) = (Instant::now(), LIMIT);
    let shared = &link.shared;
    let stamped = |mut names: Vec<String>| {
        names.push(shared.mapping.attributes.changed.clone());
        names
    };
    let named = stamped(shared.mapping.of_addresses());
    let by_id = stamped(vec![shared.mapping.attributes.id.clone()]);
    let questions = match guard(shared) {
        None => vec![(changed.to_owned(), named)],
        Some(here) => vec![(changed.to_owned(), by_id), (all_of(&[Some(changed), Some(&here)]), named)],
    };
    for base in shared.bases() {
        for (filter, attributes) in &questions {
            let question = Question {
                base: base.to_owned(),
                scope: Scope::Subtree,
                filter: filter.clone(),
                attributes: attributes.clone(),
            };
            let is_all = pages(link, question, |entry| {
                see(shared, entry);
                left = left.saturating_sub(1);
                left > 0 && began.elapsed() < READING
            });
            if !is_all.await? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// What an entry must match for its addresses to be fetched, whichever strict tenant's it is.
fn guard(shared: &Shared) -> Option<String> {
    let table = shared.held.table.load();
    let strict = table.tenants().filter(|tenant| tenant.residency == Residency::Strict);
    let mut filters: Vec<String> = strict
        .filter_map(|tenant| match shared.mapping.reach(tenant, shared.node_region) {
            Reach::Here(filter) => Some(filter),
            Reach::All => None,
        })
        .collect();
    filters.sort_unstable();
    filters.dedup();
    let parts: Vec<Option<&str>> = filters.iter().map(|filter| Some(filter.as_str())).collect();
    (!parts.is_empty()).then(|| all_of(&parts))
}

/// Shows every match, a page at a time, for as long as `see` wants more; whether it was all.
async fn pages(
    link: &LdapLink,
    question: Question,
    mut see: impl FnMut(&SearchEntry) -> bool + Send,
) -> Result<bool, Trouble> {
    let (to, mut entries) = mpsc::channel(256);
    let mut asking = JoinSet::new();
    asking.spawn(search_paged(link.client(), question, link.shared.page_size, to));
    while let Some(entry) = entries.recv().await {
        if !see(&entry) {
            return Ok(false);
        }
    }
    match asking.join_next().await {
        Some(Ok(done)) => done.map(|()| true).map_err(|error| trouble(&error)),
        Some(Err(_)) | None => Err(nonsense()),
    }
}

/// GeneralizedTime (RFC 4517 §3.3.13), with the fraction that Active Directory wants.
fn written(time: Timestamp) -> String {
    let digits: String = time.to_string().chars().take(19).filter(char::is_ascii_digit).collect();
    format!("{digits}.0Z")
}

fn read(text: &str) -> Option<Timestamp> {
    let part =
        |from: usize, to: usize| text.get(from..to).filter(|part| part.bytes().all(|b| b.is_ascii_digit()));
    Timestamp::parse(&format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        part(12, 14)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_as_servers_do() {
        let time = Timestamp::parse("2026-11-21T04:29:44Z").expect("a time");
        assert_eq!(written(time), "20261121042944.0Z");
        for text in ["20261121042944Z", "20261121042944.0Z", "20261121042944.123456Z"] {
            assert_eq!(read(text), Some(time), "{text}");
        }
        for bad in ["", "2026", "2026112104294Z", "20261321042944Z"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
