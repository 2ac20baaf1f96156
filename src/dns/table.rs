//! Table: answers that are written down, for tests that need no servers.
//!
//! Answers like servers do: a name without records of one kind has no data, a name that is not here does not
//! exist.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::rdata::tlsa::TLSA;
use hickory_resolver::proto::rr::rdata::{A, AAAA, MX, TXT};

use super::answer::{Answer, Kind, Records, name_of};
use crate::mail::Lookup;

/// How long what is written here may be remembered.
const TTL: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Default)]
pub struct Table {
    records: HashMap<String, Vec<(Kind, RData)>>,
    failing: HashSet<String>,
    authentic: HashSet<String>,
}

impl Table {
    pub fn host(self, name: &str, found: Lookup<Vec<IpAddr>>) -> Self {
        match found {
            Lookup::Found(addresses) => addresses.into_iter().fold(self, |table, address| match address {
                IpAddr::V4(four) => table.with(name, Kind::A, RData::A(A(four))),
                IpAddr::V6(six) => table.with(name, Kind::Aaaa, RData::AAAA(AAAA(six))),
            }),
            Lookup::Absent => self,
            Lookup::Failed => self.failing(name),
        }
    }

    pub fn mx(self, name: &str, exchangers: &[(u16, &str)]) -> Self {
        exchangers.iter().fold(self, |table, (preference, exchange)| {
            let exchange = name_of(exchange).unwrap_or_default();
            table.with(name, Kind::Mx, RData::MX(MX::new(*preference, exchange)))
        })
    }

    pub fn txt(self, name: &str, texts: &[&str]) -> Self {
        texts.iter().fold(self, |table, text| {
            table.with(name, Kind::Txt, RData::TXT(TXT::new(vec![(*text).to_owned()])))
        })
    }

    pub fn tlsa(self, name: &str, usage: u8, selector: u8, matching: u8, data: Vec<u8>) -> Self {
        let record = TLSA::new(usage.into(), selector.into(), matching.into(), data);
        self.with(name, Kind::Tlsa, RData::TLSA(record))
    }

    /// No question about this name is answered.
    pub fn failing(mut self, name: &str) -> Self {
        self.failing.insert(key(name));
        self
    }

    /// What is found at this name counts as proven.
    pub fn authentic(mut self, name: &str) -> Self {
        self.authentic.insert(key(name));
        self
    }

    fn with(mut self, name: &str, kind: Kind, data: RData) -> Self {
        self.records.entry(key(name)).or_default().push((kind, data));
        self
    }

    pub(super) fn ask<T>(&self, kind: Kind, name: &str, take: fn(&RData) -> Option<T>) -> Answer<T> {
        let key = key(name);
        let authentic = self.authentic.contains(&key);
        if self.failing.contains(&key) {
            return Answer::Failed("the table says so".to_owned());
        }
        let Some(records) = self.records.get(&key) else { return Answer::NoName { authentic } };
        let of_kind = records.iter().filter(|(of, _)| *of == kind);
        let records: Vec<T> = of_kind.filter_map(|(_, data)| take(data)).collect();
        match records.is_empty() {
            true => Answer::NoData { authentic },
            false => Answer::Found(Records { records, authentic, name: key, ttl: TTL }),
        }
    }
}

fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
