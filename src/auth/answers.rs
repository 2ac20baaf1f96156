//! Answers: what the DNS said, in the shape in which mail-auth reads it.
//!
//! mail-auth asks no server here: every name it may want is looked up before through `dns`, at once, bounded
//! and under our deadline. What it does not find in here counts as not answered.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::dkim::DkimError;
use mail_auth::dmarc;
use mail_auth::{DnsError, Error, ResolverCache, Txt};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::dns::{Answer, Resolver};

/// Names that are looked up for one message.
const NAMES_LIMIT: usize = 96;

/// What kind of record is wanted at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Key,
    Policy,
}

#[derive(Default)]
pub(super) struct Answers {
    known: HashMap<Box<str>, Txt>,
}

impl Answers {
    /// Looks up what is not known yet, all of it at once; what has not come by `until` stays unknown.
    pub(super) async fn look_up(
        &mut self,
        resolver: &Arc<Resolver>,
        kind: Kind,
        names: impl IntoIterator<Item = String>,
        until: tokio::time::Instant,
    ) {
        let mut asked = JoinSet::new();
        let mut seen = HashSet::new();
        for name in names {
            let name = as_asked(&name);
            let room = self.known.len() + asked.len() < NAMES_LIMIT;
            if room && !self.known.contains_key(name.as_str()) && seen.insert(name.clone()) {
                let resolver = Arc::clone(resolver);
                asked.spawn(async move {
                    let answer = resolver.txt(&name).await;
                    (name, answer)
                });
            }
        }
        while let Ok(Some(answered)) = timeout_at(until, asked.join_next()).await {
            let Ok((name, answer)) = answered else { continue };
            self.known.insert(name.into(), read(kind, answer));
        }
    }

    /// The policy record at `_dmarc.` and a domain, where there is one.
    pub(super) fn policy_at(&self, domain: &str) -> Option<&dmarc::Dmarc> {
        match self.known.get(policy_name(domain).as_str()) {
            Some(Txt::Dmarc(record)) => Some(record),
            Some(_) | None => None,
        }
    }
}

pub(super) fn policy_name(domain: &str) -> String {
    as_asked(&format!("_dmarc.{domain}"))
}

/// As mail-auth asks: lower case, with a final dot.
fn as_asked(name: &str) -> String {
    let mut name = name.to_lowercase();
    if !name.ends_with('.') {
        name.push('.');
    }
    name
}

fn read(kind: Kind, answer: Answer<Vec<u8>>) -> Txt {
    let absent = |code| Txt::Error(Error::Dns(DnsError::RecordNotFound(code)));
    match answer {
        Answer::Found(found) => match kind {
            Kind::Key => key_of(&found.records),
            Kind::Policy => policy_of(&found.records),
        },
        Answer::NoData { .. } => absent(ResponseCode::NoError),
        Answer::NoName { .. } => absent(ResponseCode::NXDomain),
        Answer::Failed(why) => Txt::Error(Error::Dns(DnsError::Resolver(why))),
    }
}

/// The first record that is a key; else what is wrong with the last one.
fn key_of(records: &[Vec<u8>]) -> Txt {
    let mut wrong = Error::Dns(DnsError::InvalidRecordType);
    for record in records {
        match DomainKey::parse(record).and_then(|key| meant_for_mail(record).map(|()| key)) {
            Ok(key) => return Txt::DomainKey(key.into()),
            Err(error) => wrong = error,
        }
    }
    Txt::Error(wrong)
}

/// Its owner may keep a key to other services, or to a hash that is none of ours. RFC 6376 §3.6.1
fn meant_for_mail(record: &[u8]) -> Result<(), Error> {
    let lists = |tag: &[u8], items: &[&str]| {
        let mut tags = record.split(|byte| *byte == b';').filter_map(|part| {
            let equals = part.iter().position(|byte| *byte == b'=')?;
            (part[..equals].trim_ascii() == tag).then_some(&part[equals + 1..])
        });
        let is_named =
            |item: &[u8]| items.iter().any(|one| item.trim_ascii().eq_ignore_ascii_case(one.as_bytes()));
        tags.all(|list| list.split(|byte| *byte == b':').any(is_named))
    };
    if !lists(b"s", &["*", "email"]) {
        return Err(Error::Dns(DnsError::RecordNotFound(ResponseCode::NoError)));
    }
    if !lists(b"h", &["sha256"]) {
        return Err(Error::Dkim(DkimError::UnsupportedAlgorithm));
    }
    Ok(())
}

/// More than one policy is none (RFC 9989 §4.7, RFC 7489 §6.6.3).
fn policy_of(records: &[Vec<u8>]) -> Txt {
    let mut policies = records.iter().filter(|record| record.starts_with(b"v=DMARC1"));
    let parsed = match (policies.next(), policies.next()) {
        (Some(only), None) => dmarc::Dmarc::parse(only).ok(),
        _ => None,
    };
    match parsed {
        Some(policy) => Txt::Dmarc(policy.into()),
        None => Txt::Error(Error::Dns(DnsError::InvalidRecordType)),
    }
}

impl ResolverCache<Box<str>, Txt> for Answers {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.known.get(name).cloned()
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}
