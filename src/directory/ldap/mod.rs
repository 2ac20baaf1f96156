//! Ldap: users in Active Directory or another LDAP server; tenants, domains and connectors stay in a file.
//!
//! Owns connecting. What nodes ask is in `link`, what changed in `changes`, which attribute is what in
//! `mapping`.

mod changes;
mod desk;
mod link;
mod mapping;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ldap3::adapters::{Adapter, EntriesOnly, PagedResults};
use ldap3::{LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use mapping::{Attributes, Schema, check_filter};

pub(super) use desk::LdapDesk;
pub(super) use link::LdapLink;

use super::front::Terms;
use super::held::Held;
use super::source::{Source, Trouble};
use crate::clock::Clock;
use crate::mail::{Region, TlsLevel};
use crate::net::{self, Trust};
use changes::Progress;
use mapping::Mapping;

/// So many searches are under way at once over one connection.
const BATCH: usize = 64;

/// How changes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// By update sequence numbers, as Active Directory counts them.
    Usn,
    /// By the time of the last change.
    Timestamp,
    Off,
}

/// Where the servers are, how to get in, and what means what there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `ldaps://host:port` or `ldap://host:port`, tried in turn.
    pub urls: Vec<String>,
    pub starttls: bool,
    pub tls: TlsLevel,
    /// Authorities besides the system's, in PEM.
    pub ca: Option<PathBuf>,
    /// `None` is anonymous.
    pub bind_dn: Option<String>,
    /// Read at each connection, so that a password can be changed.
    pub password_file: Option<PathBuf>,
    pub base_dn: String,
    /// Tenants whose users have a place of their own.
    pub base_dn_of: BTreeMap<String, String>,
    pub schema: Schema,
    /// What every entry must match besides.
    pub filter: Option<String>,
    /// Takes the place of the composed question for an address, with `{address}` in it.
    pub lookup_filter: Option<String>,
    /// Whether accounts that are disabled get mail: rooms and shared mailboxes are.
    pub accept_disabled: bool,
    pub page_size: u32,
    pub tracking: Tracking,
    pub changes_every: Duration,
    pub attributes: Attributes,
}

/// What is wrong with a list of URLs, if anything; for the configuration's check.
pub fn check_urls(urls: &[String], starttls: bool, tls: TlsLevel) -> Result<(), String> {
    for url in urls {
        let rest = url.strip_prefix("ldaps://").or_else(|| url.strip_prefix("ldap://"));
        let Some(host) = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest)) else {
            return Err("does not begin with ldaps:// or ldap://".to_owned());
        };
        if host.is_empty() || host.contains(['/', '@', '?']) {
            return Err("is more than a host and a port".to_owned());
        }
        let plain = url.starts_with("ldap://") && !starttls;
        if plain && tls != TlsLevel::Off {
            return Err("speaks without TLS, which starttls = true adds and tls = \"off\" permits".to_owned());
        }
    }
    if urls.is_empty() { Err("names no server".to_owned()) } else { Ok(()) }
}

pub(super) struct Ldap {
    settings: Settings,
    tls: Option<Arc<ClientConfig>>,
    patience: Duration,
    /// The server that answered last is asked first.
    preferred: AtomicUsize,
    shared: Arc<Shared>,
}

/// The keys that led to an entry.
type AskedBy = Arc<Mutex<Vec<Box<str>>>>;

/// What all connections share.
struct Shared {
    held: Arc<Held>,
    node_region: Region,
    mapping: Mapping,
    base_dn: String,
    base_dn_of: BTreeMap<String, String>,
    page_size: i32,
    tracking: Tracking,
    changes_every: Duration,
    /// What was asked for and led to an entry, by the entry's own id: so that an address which it loses is
    /// forgotten too.
    asked: moka::sync::Cache<Box<[u8]>, AskedBy>,
    progress: Mutex<Option<Progress>>,
    clock: Clock,
}

impl Shared {
    fn base_of(&self, tenant: &str) -> &str {
        self.base_dn_of.get(tenant).unwrap_or(&self.base_dn)
    }

    fn bases(&self) -> Vec<&str> {
        let mut bases: Vec<&str> = self.base_dn_of.values().map(String::as_str).collect();
        bases.push(&self.base_dn);
        bases.sort_unstable();
        bases.dedup();
        bases
    }
}

impl Ldap {
    pub(super) fn new(
        settings: &Settings,
        terms: &Terms,
        node_region: Region,
        held: Arc<Held>,
        clock: Clock,
    ) -> Result<Self, Trouble> {
        let trust = match settings.tls {
            TlsLevel::Off
                if !settings.starttls && settings.urls.iter().all(|url| url.starts_with("ldap:")) =>
            {
                None
            }
            TlsLevel::Off | TlsLevel::Opportunistic | TlsLevel::Encrypt => Some(Trust::Anyone),
            TlsLevel::Verify => Some(settings.ca.as_deref().map_or(Trust::Named, Trust::NamedBy)),
        };
        let tls = trust.map(net::library_tls).transpose();
        let shared = Shared {
            held,
            node_region,
            mapping: Mapping::new(settings),
            base_dn: settings.base_dn.clone(),
            base_dn_of: settings.base_dn_of.clone(),
            page_size: i32::try_from(settings.page_size).unwrap_or(i32::MAX),
            tracking: settings.tracking,
            changes_every: settings.changes_every,
            asked: moka::sync::Cache::builder()
                .max_capacity(terms.cache as u64)
                .time_to_idle(terms.cache_for.max(terms.stale_for))
                .build(),
            progress: Mutex::new(None),
            clock,
        };
        Ok(Self {
            settings: settings.clone(),
            tls: tls.map_err(|error| Trouble::Refused(error.to_string()))?,
            patience: terms.deadline,
            preferred: AtomicUsize::new(0),
            shared: Arc::new(shared),
        })
    }

    async fn dial(&self, url: &str, patience: Duration) -> Result<LdapLink, Trouble> {
        let mut how = LdapConnSettings::new().set_conn_timeout(patience).set_starttls(self.settings.starttls);
        if let Some(tls) = &self.tls {
            how = how.set_config(Arc::clone(tls));
        }
        let to = url.to_owned();
        let (connection, client) =
            guarded(async move { LdapConnAsync::with_settings(how, &to).await }).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Whoever waits for an answer is told that it ended.
            let _ = connection.drive().await;
        });
        let link = LdapLink::new(client, driver, Arc::clone(&self.shared));
        self.bind(&link).await?;
        link.see_somebody(&self.settings).await?;
        Ok(link)
    }

    async fn bind(&self, link: &LdapLink) -> Result<(), Trouble> {
        let Some(name) = self.settings.bind_dn.clone() else { return Ok(()) };
        let password = match &self.settings.password_file {
            Some(path) => tokio::fs::read_to_string(path)
                .await
                .map_err(|error| Trouble::Refused(format!("{}: {error}", path.display())))?,
            None => String::new(),
        };
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        // RFC 4513 §5.1.2: servers take a name without a password for nobody, and say that all is well.
        if password.is_empty() {
            return Err(Trouble::Refused(format!("there is no password for {name}")));
        }
        let mut client = link.client();
        guarded(async move { client.simple_bind(&name, &password).await?.success().map(drop) }).await
    }
}

impl Source for Ldap {
    type Link = LdapLink;

    fn name(&self) -> String {
        format!("{} {}", self.settings.urls.join(" "), self.settings.base_dn)
    }

    fn batch(&self) -> usize {
        BATCH
    }

    fn has_outline(&self) -> bool {
        false
    }

    async fn connect(&self) -> Result<LdapLink, Trouble> {
        let urls = &self.settings.urls;
        // All of them within the caller's deadline.
        let share = self.patience * 9 / 10 / u32::try_from(urls.len().max(1)).unwrap_or(u32::MAX);
        let first = self.preferred.load(Ordering::Relaxed);
        let mut troubles = Vec::new();
        for at in (0..urls.len()).map(|turn| (first + turn) % urls.len()) {
            match tokio::time::timeout(share, self.dial(&urls[at], share)).await {
                Ok(Ok(link)) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(link);
                }
                Ok(Err(trouble)) => troubles.push(format!("{}: {trouble}", urls[at])),
                Err(_) => troubles.push(format!("{}: {}", urls[at], Trouble::TimedOut(share))),
            }
        }
        Err(Trouble::Broken(troubles.join("; ")))
    }
}

/// Runs apart what may panic: the library does when a server sends what is no LDAP.
async fn guarded<T: Send + 'static>(
    work: impl Future<Output = Result<T, LdapError>> + Send + 'static,
) -> Result<T, Trouble> {
    let mut apart = JoinSet::new();
    apart.spawn(work);
    match apart.join_next().await {
        Some(Ok(done)) => done.map_err(|error| trouble(&error)),
        Some(Err(_)) | None => Err(nonsense()),
    }
}

fn nonsense() -> Trouble {
    Trouble::Broken("what the server sends is no LDAP".to_owned())
}

fn trouble(error: &LdapError) -> Trouble {
    match error {
        // RFC 4511 §4.1.9: busy, unavailable, and operationsError, which Active Directory gives to nobody.
        LdapError::LdapResult { result } if ![1, 51, 52].contains(&result.rc) => {
            Trouble::Refused(result.to_string())
        }
        LdapError::EndOfStream | LdapError::ResultRecv { .. } | LdapError::OpSend { .. } => {
            Trouble::Broken("the server has hung up".to_owned())
        }
        other => Trouble::Broken(other.to_string()),
    }
}

/// A question to the server.
struct Question {
    base: String,
    scope: Scope,
    filter: String,
    attributes: Vec<String>,
}

/// What matches, but no more than `limit`.
async fn search(
    mut client: ldap3::Ldap,
    question: Question,
    limit: usize,
) -> Result<Vec<SearchEntry>, LdapError> {
    const SIZE_LIMIT_EXCEEDED: u32 = 4;
    let Question { base, scope, filter, attributes } = question;
    let options = SearchOptions::new().sizelimit(i32::try_from(limit).unwrap_or(i32::MAX));
    let mut stream =
        client.with_search_options(options).streaming_search(&base, scope, &filter, attributes).await?;
    let mut entries = Vec::new();
    while let Some(entry) = stream.next().await? {
        if !entry.is_ref() && !entry.is_intermediate() && entries.len() < limit {
            entries.push(SearchEntry::construct(entry));
        }
    }
    let done = stream.finish().await;
    match done.rc {
        0 => Ok(entries),
        SIZE_LIMIT_EXCEEDED if !entries.is_empty() => Ok(entries),
        _ => Err(done.into()),
    }
}

/// Everything that matches, a page at a time (RFC 2696).
async fn search_paged(
    mut client: ldap3::Ldap,
    question: Question,
    page_size: i32,
    to: mpsc::Sender<SearchEntry>,
) -> Result<(), LdapError> {
    let Question { base, scope, filter, attributes } = question;
    let adapters: Vec<Box<dyn Adapter<'_, String, Vec<String>>>> =
        vec![Box::new(EntriesOnly::new()), Box::new(PagedResults::new(page_size))];
    let mut stream = client.streaming_search_with(adapters, &base, scope, &filter, attributes).await?;
    while let Some(entry) = stream.next().await? {
        if to.send(SearchEntry::construct(entry)).await.is_err() {
            // Whoever asked has seen enough.
            return Ok(());
        }
    }
    stream.finish().await.success().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_judged() {
        use TlsLevel::{Off, Verify};
        for (urls, starttls, tls, fine) in [
            ("ldaps://dc1.example.net", false, Verify, true),
            ("ldaps://dc1.example.net ldaps://dc2.example.net:3269/", false, Verify, true),
            ("ldap://dc1.example.net", true, Verify, true),
            ("ldap://dc1.example.net", false, Off, true),
            ("ldap://dc1.example.net", false, Verify, false),
            ("ldaps://dc1.example.net ldap://dc2.example.net", false, Verify, false),
            ("https://dc1.example.net", false, Verify, false),
            ("ldaps://dc1.example.net/dc=example", false, Verify, false),
            ("ldaps://me:secret@dc1.example.net", false, Verify, false),
            ("", false, Verify, false),
        ] {
            let list: Vec<String> = urls.split_whitespace().map(str::to_owned).collect();
            let verdict = check_urls(&list, starttls, tls);
            assert_eq!(verdict.is_ok(), fine, "{urls}: {verdict:?}");
        }
    }
}
