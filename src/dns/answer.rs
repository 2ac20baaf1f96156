//! Answer: what a question comes to, and how a server's response becomes one.
//!
//! Owns the difference between no such name, no such record, and no answer. Pure.

use std::time::Duration;

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use crate::mail::Lookup;

/// Aliases followed before a name counts as going round in circles.
pub(super) const ALIASES_LIMIT: usize = 16;
/// How much of a library's words is kept.
const WORDS_LIMIT: usize = 200;

/// The kinds of question there are; also the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    A,
    Aaaa,
    Mx,
    Txt,
    Ptr,
    Tlsa,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::Aaaa => "aaaa",
            Self::Mx => "mx",
            Self::Txt => "txt",
            Self::Ptr => "ptr",
            Self::Tlsa => "tlsa",
        }
    }
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// At least one record.
    Found(Records<T>),
    /// The name exists, without a record of this kind.
    NoData { authentic: bool },
    /// There is no such name.
    NoName { authentic: bool },
    /// Nobody answered in time, a server failed, or signatures do not hold; with the reason.
    Failed(String),
}

/// Records of one name and kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records<T> {
    pub records: Vec<T>,
    /// Whether signatures prove them from a trusted key down, every alias on the way included.
    pub authentic: bool,
    /// Whose records they are: the name that was asked for, or what its aliases (CNAME) lead to.
    pub name: String,
    pub ttl: Duration,
}

impl<T> Answer<T> {
    /// For who needs to know only whether it is there.
    pub fn lookup(self) -> Lookup<Records<T>> {
        match self {
            Self::Found(records) => Lookup::Found(records),
            Self::NoData { .. } | Self::NoName { .. } => Lookup::Absent,
            Self::Failed(_) => Lookup::Failed,
        }
    }

    /// The records alone; none for every other answer, failures included.
    pub fn into_records(self) -> Vec<T> {
        match self {
            Self::Found(records) => records.records,
            Self::NoData { .. } | Self::NoName { .. } | Self::Failed(_) => Vec::new(),
        }
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Found(Records { authentic: true, .. }) => "found_authentic",
            Self::Found(Records { authentic: false, .. }) => "found",
            Self::NoData { .. } => "no_data",
            Self::NoName { .. } => "no_name",
            Self::Failed(why) if why == BOGUS => "bogus",
            Self::Failed(_) => "failed",
        }
    }
}

/// The reason of a failure that is somebody's doing: signatures that do not hold.
const BOGUS: &str = "DNSSEC signatures do not hold";

/// A mail exchanger. RFC 5321 §5.1
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mx {
    pub preference: u16,
    /// Without a final dot; empty for the root, which says that there is none (RFC 7505).
    pub exchange: String,
}

/// What a server's certificate must match. RFC 6698 §2.1
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tlsa {
    pub usage: u8,
    pub selector: u8,
    pub matching: u8,
    pub data: Vec<u8>,
}

/// A name of whatever bytes its labels have; one without any dot may be a short name of the own network. `None` when no name can be like that.
pub(super) fn name_of(text: &str) -> Option<Name> {
    let (text, whole) = match text.strip_suffix('.') {
        Some(rest) => (rest, true),
        None => (text, text.contains('.')),
    };
    if text.is_empty() {
        return None;
    }
    let ascii = match text.is_ascii() {
        true => std::borrow::Cow::Borrowed(text),
        false => std::borrow::Cow::Owned(idna::domain_to_ascii(text).ok()?),
    };
    let mut name = Name::from_labels(ascii.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(whole);
    Some(name)
}

/// A name as the rest of the program writes them: lower case, no final dot.
pub(super) fn text_of(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

/// What a response to a question for `wanted` at `name` says.
pub(super) fn read<T>(
    outcome: Result<Vec<Record>, NetError>,
    name: &Name,
    wanted: RecordType,
    take: fn(&RData) -> Option<T>,
) -> Answer<T> {
    match outcome {
        Ok(answers) => of_records(&answers, name, wanted, take),
        Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
            // The proof is not kept; that of the SOA beside it stands for it. Unproven absences never get here.
            let authentic = nothing.soa.is_some_and(|soa| soa.proof == Proof::Secure);
            absence(nothing.response_code, authentic)
        }
        // Proven to be unprovable: below an opt-out, or with more iterations than are worth it (RFC 9276).
        Err(NetError::Dns(DnsError::Nsec { response, proof: Proof::Insecure, .. })) => {
            match found(&response.answers, name, wanted, take) {
                Some(Answer::Found(records)) => Answer::Found(Records { authentic: false, ..records }),
                Some(other) => other,
                None => absence(response.response_code, false),
            }
        }
        Err(NetError::Dns(DnsError::DnssecBogus | DnsError::Nsec { .. })) => Answer::Failed(BOGUS.to_owned()),
        Err(error) => Answer::Failed(words(&error)),
    }
}

pub(super) fn of_records<T>(
    answers: &[Record],
    name: &Name,
    wanted: RecordType,
    take: fn(&RData) -> Option<T>,
) -> Answer<T> {
    found(answers, name, wanted, take).unwrap_or(Answer::NoData { authentic: false })
}

/// A server's no. Any other code is no answer.
fn absence<T>(code: ResponseCode, authentic: bool) -> Answer<T> {
    match code {
        ResponseCode::NXDomain => Answer::NoName { authentic },
        ResponseCode::NoError => Answer::NoData { authentic },
        other => Answer::Failed(format!("the server said {other}")),
    }
}

/// The name whose alias is missing between `name` and records of another: hickory leaves aliases out when it
/// knew already what they lead to.
pub(super) fn missing_alias(answers: &[Record], name: &Name, wanted: RecordType) -> Option<Name> {
    let mut owner = name;
    for _ in 0..ALIASES_LIMIT {
        match alias_of(answers, owner) {
            Some((_, target)) => owner = target,
            None => break,
        }
    }
    let mut records = answers.iter().filter(|record| record.record_type() == wanted).peekable();
    let elsewhere = records.peek().is_some() && records.all(|record| record.name != *owner);
    (elsewhere && owner.is_fqdn()).then(|| owner.clone())
}

fn alias_of<'r>(answers: &'r [Record], owner: &Name) -> Option<(&'r Record, &'r Name)> {
    answers.iter().filter(|record| record.name == *owner).find_map(|record| match &record.data {
        RData::CNAME(target) => Some((record, &target.0)),
        _ => None,
    })
}

fn found<T>(
    answers: &[Record],
    name: &Name,
    wanted: RecordType,
    take: fn(&RData) -> Option<T>,
) -> Option<Answer<T>> {
    let (mut owner, mut authentic, mut ttl) = (name.clone(), true, u32::MAX);
    for _ in 0..ALIASES_LIMIT {
        let Some((alias, target)) = alias_of(answers, &owner) else { break };
        authentic &= alias.proof == Proof::Secure;
        ttl = ttl.min(alias.ttl);
        owner = target.clone();
    }
    // A short name was completed from the system's search list.
    if !owner.is_fqdn() {
        owner = answers.iter().find(|record| record.record_type() == wanted)?.name.clone();
    }
    let mut records = Vec::new();
    for record in answers.iter().filter(|record| record.record_type() == wanted && record.name == owner) {
        if let Some(value) = take(&record.data) {
            authentic &= record.proof == Proof::Secure;
            ttl = ttl.min(record.ttl);
            records.push(value);
        }
    }
    if records.is_empty() {
        return None;
    }
    let ttl = Duration::from_secs(ttl.into());
    Some(Answer::Found(Records { records, authentic, name: text_of(&owner), ttl }))
}

fn words(error: &NetError) -> String {
    error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use hickory_resolver::net::NoRecords;
    use hickory_resolver::proto::op::Query;

    use super::*;

    fn told(error: NetError) -> Answer<()> {
        let name = name_of("contoso.com").expect("a name");
        read(Err(error), &name, RecordType::MX, |_| None)
    }

    #[test]
    fn only_a_servers_no_is_an_absence() {
        let no = |code| NetError::Dns(DnsError::NoRecordsFound(NoRecords::new(Query::default(), code)));
        assert_eq!(told(no(ResponseCode::NXDomain)), Answer::NoName { authentic: false });
        assert_eq!(told(no(ResponseCode::NoError)), Answer::NoData { authentic: false });
        for failure in [
            no(ResponseCode::ServFail),
            NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)),
            NetError::Dns(DnsError::DnssecBogus),
            NetError::Timeout,
            NetError::NoConnections,
        ] {
            assert!(matches!(told(failure), Answer::Failed(_)));
        }
    }

    #[test]
    fn aliases_are_followed_and_weaken_what_they_lead_to() {
        let name = |text| name_of(text).expect("a name");
        let alias = |from, to| {
            let target = hickory_resolver::proto::rr::rdata::CNAME(name(to));
            Record::from_rdata(name(from), 60, RData::CNAME(target))
        };
        let address = RData::A("192.0.2.1".parse().expect("an A"));
        let mut end = Record::from_rdata(name("c.example"), 30, address);
        end.proof = Proof::Secure;
        let missing = |answers: &[Record]| missing_alias(answers, &name("a.example"), RecordType::A);
        assert_eq!(missing(std::slice::from_ref(&end)), Some(name("a.example")));
        let answers = [alias("a.example", "b.example"), alias("b.example", "c.example"), end];
        assert_eq!(missing(&answers), None);
        let take = |data: &RData| if let RData::A(a) = data { Some(a.0) } else { None };
        let Some(Answer::Found(records)) = found(&answers, &name("a.example"), RecordType::A, take) else {
            panic!("it is there")
        };
        assert_eq!((records.name.as_str(), records.authentic), ("c.example", false));
        assert_eq!(records.ttl, Duration::from_secs(30));
        let circle = [alias("a.example", "b.example"), alias("b.example", "a.example")];
        assert_eq!(found(&circle, &name("a.example"), RecordType::A, take), None);
    }

    #[test]
    fn names_are_any_labels_that_fit() {
        for (text, read) in [
            ("Contoso.com.", Some("contoso.com")),
            ("_25._tcp.mx", Some("_25._tcp.mx")),
            ("bücher.example", Some("xn--bcher-kva.example")),
            ("a b.example", Some("a\\040b.example")),
            ("a..b", None),
            (".", None),
        ] {
            assert_eq!(name_of(text).map(|name| text_of(&name)).as_deref(), read, "{text}");
        }
    }
}
