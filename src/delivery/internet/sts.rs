//! Sts: what a domain asks of those who send it mail, by its MTA-STS policy (RFC 8461).
//!
//! Owns the policy's text, where it is fetched, and the memory of it: on disk, because a policy protects
//! against whoever can keep us from fetching it again. A failure to find one is never a failure of mail.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mail_auth::report::tlsrpt::ResultType;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Internet;
use super::ledger::{Session, of_sts};
use crate::clock::{Clock, Timestamp};
use crate::dns::{Answer, Resolver};
use crate::mail::Domain;
use crate::net::ClientTls;

/// RFC 8461 §3.3: larger ones may be left.
const PAGE_LIMIT: usize = 64 * 1024;
/// RFC 8461 §3.2
const AGE_LIMIT: Duration = Duration::from_secs(31_557_600);
const PATTERNS_LIMIT: usize = 256;
/// A domain whose policy could not be had is left alone for so long. RFC 8461 §3.3
const RETRY_AFTER: Duration = Duration::from_secs(300);
/// Domains remembered, in memory and on disk.
const DOMAINS_LIMIT: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    Enforce,
    Testing,
    None,
}

/// RFC 8461 §3.2
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Policy {
    pub(super) mode: Mode,
    pub(super) mx: Vec<String>,
    pub(super) max_age: Duration,
}

impl Policy {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut fields: HashMap<&str, &str> = HashMap::new();
        let mut mx = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once(':').ok_or("a line is no `key: value`")?;
            let (key, value) = (key.trim(), value.trim());
            if key == "mx" {
                mx.push(value.to_ascii_lowercase());
            } else {
                // Of fields given twice, all but the first are passed over.
                fields.entry(key).or_insert(value);
            }
        }
        if fields.get("version") != Some(&"STSv1") {
            return Err("the version is not STSv1");
        }
        let mode = match fields.get("mode") {
            Some(&"enforce") => Mode::Enforce,
            Some(&"testing") => Mode::Testing,
            Some(&"none") => Mode::None,
            Some(_) | None => return Err("there is no known mode"),
        };
        let seconds = fields.get("max_age").and_then(|age| age.parse().ok()).ok_or("there is no max_age")?;
        if (mx.is_empty() && mode != Mode::None) || mx.len() > PATTERNS_LIMIT {
            return Err("there are no mx patterns, or too many");
        }
        Ok(Self { mode, mx, max_age: Duration::from_secs(seconds).min(AGE_LIMIT) })
    }

    /// RFC 8461 §4.1: exactly, or one label below `*.`
    pub(super) fn covers(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
            }
            None => *pattern == host,
        })
    }
}

/// The id of the policy in force, as `_mta-sts` says. RFC 8461 §3.1
fn id_of(records: &[Vec<u8>]) -> Option<String> {
    let mut valid = records.iter().filter_map(|record| {
        let text = std::str::from_utf8(record).ok()?;
        let mut fields = text.split(';').map(str::trim);
        (fields.next()? == "v=STSv1").then_some(())?;
        let id = fields.find_map(|field| field.strip_prefix("id="))?.trim();
        let fits = (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        fits.then(|| id.to_owned())
    });
    // More than one is as good as none.
    valid.next().filter(|_| valid.next().is_none())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    id: String,
    until: Timestamp,
    policy: Arc<Policy>,
}

/// Where policies are fetched and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StsSettings {
    pub dir: PathBuf,
    /// Of the policy server: 443, but in tests.
    pub port: u16,
}

pub(super) struct Sts {
    settings: StsSettings,
    tls: Arc<ClientTls>,
    clock: Clock,
    kept: Mutex<HashMap<Domain, Option<Kept>>>,
    failed: Mutex<HashMap<Domain, Instant>>,
}

impl Sts {
    pub(super) fn new(settings: StsSettings, tls: Arc<ClientTls>, clock: Clock) -> Self {
        Self { settings, tls, clock, kept: Mutex::default(), failed: Mutex::default() }
    }

    /// The policy in force for a domain, if it has one. RFC 8461 §5.1
    pub(super) async fn policy_of(
        &self,
        domain: &Domain,
        internet: &Internet,
        resolver: &Resolver,
    ) -> Option<Arc<Policy>> {
        if domain.is_literal() {
            return None;
        }
        let kept = self.recall(domain).await.filter(|kept| self.clock.now() < kept.until);
        let id = match resolver.txt(&format!("_mta-sts.{domain}.")).await {
            Answer::Found(found) => id_of(&found.records),
            Answer::NoData { .. } | Answer::NoName { .. } | Answer::Failed(_) => None,
        };
        // Without a word in the DNS the old one holds: who took it away may be the one in the middle.
        let Some(id) = id else { return kept.map(|kept| kept.policy) };
        if let Some(kept) = kept.as_ref().filter(|kept| kept.id == id) {
            return Some(kept.policy.clone());
        }
        if self.failed_lately(domain) {
            return kept.map(|kept| kept.policy);
        }
        match self.fetch(domain, internet, resolver).await {
            Ok(policy) => {
                let policy = Arc::new(policy);
                let until = self.clock.now().plus(policy.max_age);
                self.remember(domain, Kept { id, until, policy: policy.clone() }).await;
                Some(policy)
            }
            Err(why) => {
                tracing::debug!(%domain, why, "no MTA-STS policy");
                if let Some(ledger) = &internet.ledger {
                    let host = format!("mta-sts.{domain}");
                    let result = ResultType::StsPolicyFetchError;
                    let failed = Session::Failed { result, host, address: None };
                    ledger.note(domain, of_sts(domain, None), failed);
                }
                let mut failed = self.failed.lock().expect("nobody panics while holding it");
                if failed.len() >= DOMAINS_LIMIT {
                    failed.clear();
                }
                failed.insert(domain.clone(), Instant::now());
                kept.map(|kept| kept.policy)
            }
        }
    }

    fn failed_lately(&self, domain: &Domain) -> bool {
        let failed = self.failed.lock().expect("nobody panics while holding it");
        failed.get(domain).is_some_and(|at| at.elapsed() < RETRY_AFTER)
    }

    async fn fetch(
        &self,
        domain: &Domain,
        internet: &Internet,
        resolver: &Resolver,
    ) -> Result<Policy, String> {
        let host = format!("mta-sts.{domain}");
        let port = self.settings.port;
        let client = internet.client_for(&host, port, &self.tls, resolver).await?;
        let url = format!("https://{host}:{port}/.well-known/mta-sts.txt");
        let mut answer = client.get(url).send().await.map_err(|error| error.to_string())?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("the policy server said {}", answer.status()));
        }
        let mut page = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| error.to_string())? {
            page.extend_from_slice(&part);
            if page.len() > PAGE_LIMIT {
                return Err("the policy is too long".to_owned());
            }
        }
        let page = String::from_utf8(page).map_err(|_| "the policy is no text".to_owned())?;
        Policy::parse(&page).map_err(str::to_owned)
    }

    /// From memory, else from disk.
    async fn recall(&self, domain: &Domain) -> Option<Kept> {
        if let Some(known) = self.kept.lock().expect("nobody panics while holding it").get(domain) {
            return known.clone();
        }
        let path = self.path_of(domain);
        let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
        let kept = read.ok().and_then(Result::ok).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        self.keep(domain, kept.clone());
        kept
    }

    fn keep(&self, domain: &Domain, kept: Option<Kept>) {
        let mut known = self.kept.lock().expect("nobody panics while holding it");
        if known.len() >= DOMAINS_LIMIT {
            known.clear();
        }
        known.insert(domain.clone(), kept);
    }

    /// A disk that does not take it costs only the memory across a restart.
    async fn remember(&self, domain: &Domain, kept: Kept) {
        self.keep(domain, Some(kept.clone()));
        let (dir, path) = (self.settings.dir.clone(), self.path_of(domain));
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&dir)?;
            make_room(&dir)?;
            let half = path.with_extension("new");
            std::fs::write(&half, serde_json::to_vec(&kept).expect("plain values"))?;
            std::fs::rename(half, path)
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%domain, %error, "an MTA-STS policy is not kept on disk"),
            Err(_) => {}
        }
    }

    fn path_of(&self, domain: &Domain) -> PathBuf {
        self.settings.dir.join(format!("{domain}.json"))
    }
}

/// Removes the oldest tenth when the folder is full.
fn make_room(dir: &std::path::Path) -> std::io::Result<()> {
    let mut files: Vec<_> = std::fs::read_dir(dir)?.flatten().collect();
    if files.len() < DOMAINS_LIMIT {
        return Ok(());
    }
    files.sort_by_cached_key(|file| file.metadata().and_then(|about| about.modified()).ok());
    for file in files.iter().take(DOMAINS_LIMIT / 10) {
        std::fs::remove_file(file.path())?;
    }
    Ok(())
}

impl Internet {
    pub(super) async fn policy_of(&self, domain: &Domain, resolver: &Resolver) -> Option<Arc<Policy>> {
        Box::pin(self.sts.as_ref()?.policy_of(domain, self, resolver)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version: STSv1\r\nmode: enforce\r\nmx: MX.contoso.com\r\nmx: *.mail.contoso.com\r\nmax_age: 604800\r\n";

    #[test]
    fn a_policy_is_read_as_written() {
        let policy = Policy::parse(TEXT).expect("a policy");
        assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, Duration::from_secs(604_800)));
        for (host, covered) in [
            ("mx.contoso.com", true),
            ("MX.Contoso.com.", true),
            ("a.mail.contoso.com", true),
            ("a.b.mail.contoso.com", false),
            ("mail.contoso.com", false),
            (".mail.contoso.com", false),
            ("mx2.contoso.com", false),
        ] {
            assert_eq!(policy.covers(host), covered, "{host}");
        }
        for (change, to) in [
            ("STSv1", "STSv2"),
            ("enforce", "strict"),
            ("max_age: 604800", ""),
            ("604800", "soon"),
            ("version", "v"),
        ] {
            assert!(Policy::parse(&TEXT.replace(change, to)).is_err(), "{change} -> {to}");
        }
        assert!(Policy::parse("version: STSv1\nmode: enforce\nmax_age: 1").is_err(), "no mx");
        assert!(Policy::parse("version: STSv1\nmode: none\nmax_age: 1\nunknown: x").is_ok());
        let longest = Policy::parse(&TEXT.replace("604800", "99999999999")).expect("a policy");
        assert_eq!(longest.max_age, AGE_LIMIT);
        assert!(Policy::parse("<html>").is_err());
    }

    #[test]
    fn one_record_names_the_policy() {
        let of =
            |texts: &[&str]| id_of(&texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(of(&["v=STSv1; id=2026x;"]).as_deref(), Some("2026x"));
        assert_eq!(of(&["something else", "v=STSv1;id=1"]).as_deref(), Some("1"));
        for none in [
            &["v=STSv1; id=1", "v=STSv1; id=2"] as &[&str],
            &["v=STSv1"],
            &["v=STSv2; id=1"],
            &["v=STSv1; id=a b"],
            &[],
        ] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
