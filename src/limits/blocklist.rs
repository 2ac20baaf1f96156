//! Blocklist: whether a client's address stands on a list in the DNS (RFC 5782).
//!
//! All lists are asked at once, each under its deadline. Who does not answer lists nobody. Answers are
//! remembered by the resolver for as long as they say.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::dns::{Answer, Resolver};

/// Lists answer so when they refuse to answer at all, as to askers with too many questions.
const REFUSALS: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 0);

/// One list, and what becomes of those on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocklist {
    pub zone: Arc<str>,
    /// The answers that count.
    pub codes: Vec<Ipv4Net>,
    pub action: Action,
    pub deadline: Duration,
}

/// In the order of what outweighs what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Only written down.
    Record,
    /// Told to come again.
    Defer,
    Reject,
}

impl Action {
    pub fn word(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Defer => "defer",
            Self::Reject => "reject",
        }
    }
}

/// What one list said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    Listed {
        zone: Arc<str>,
        action: Action,
    },
    /// It did not answer, or refused to.
    Failed {
        zone: Arc<str>,
        why: String,
    },
}

/// Asks every list. Those that do not have the address are left out.
pub async fn look_up(lists: &[Blocklist], resolver: &Arc<Resolver>, ip: IpAddr) -> Vec<Finding> {
    let mut asked = JoinSet::new();
    for (index, list) in lists.iter().enumerate() {
        let (list, resolver) = (list.clone(), resolver.clone());
        let name = name_of(ip, &list.zone);
        asked.spawn(async move {
            let answer = timeout(list.deadline, resolver.a(&name)).await;
            let answer = answer.unwrap_or_else(|_| Answer::Failed("no answer in time".to_owned()));
            (index, finding(&list, answer))
        });
    }
    let mut findings: Vec<(usize, Finding)> =
        asked.join_all().await.into_iter().filter_map(|(index, finding)| Some((index, finding?))).collect();
    // In the order of the configuration, not of the answers.
    findings.sort_by_key(|(index, _)| *index);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

/// What weighs most of what was found; among equals the first.
pub fn verdict(findings: &[Finding]) -> Option<(Arc<str>, Action)> {
    let listed = findings.iter().filter_map(|finding| match finding {
        Finding::Listed { zone, action } => Some((zone, *action)),
        Finding::Failed { .. } => None,
    });
    let most = listed.reduce(|most, next| if next.1 > most.1 { next } else { most });
    most.map(|(zone, action)| (zone.clone(), action))
}

fn finding(list: &Blocklist, answer: Answer<Ipv4Addr>) -> Option<Finding> {
    let failed = |why: String| Some(Finding::Failed { zone: list.zone.clone(), why });
    let codes = match answer {
        Answer::Found(found) => found.records,
        Answer::NoData { .. } | Answer::NoName { .. } => return None,
        Answer::Failed(why) => return failed(why),
    };
    let refusals = Ipv4Net::new_assert(REFUSALS, 24);
    if let Some(code) = codes.iter().find(|code| refusals.contains(*code)) {
        return failed(format!("the list does not answer us: {code}"));
    }
    let counts = codes.iter().any(|code| list.codes.iter().any(|network| network.contains(code)));
    counts.then(|| Finding::Listed { zone: list.zone.clone(), action: list.action })
}

/// The address backwards below the zone: by octets, or by half octets. RFC 5782 §2.1, §2.4
fn name_of(ip: IpAddr, zone: &str) -> String {
    let mut name = String::new();
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            for octet in v4.octets().iter().rev() {
                name.push_str(&format!("{octet}."));
            }
        }
        IpAddr::V6(v6) => {
            for octet in v6.octets().iter().rev() {
                name.push_str(&format!("{:x}.{:x}.", octet & 0xf, octet >> 4));
            }
        }
    }
    name + zone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Records;

    fn list(codes: &[&str]) -> Blocklist {
        Blocklist {
            zone: "bl.example".into(),
            codes: codes.iter().map(|code| code.parse().expect("a network")).collect(),
            action: Action::Reject,
            deadline: Duration::from_secs(3),
        }
    }

    #[test]
    fn an_address_is_asked_for_backwards() {
        let name = |ip: &str| name_of(ip.parse().expect("an address"), "bl.example");
        assert_eq!(name("192.0.2.99"), "99.2.0.192.bl.example");
        assert_eq!(name("::ffff:192.0.2.99"), "99.2.0.192.bl.example");
        // The example of RFC 5782 §2.4.
        assert_eq!(
            name("2001:db8:1:2:3:4:567:89ab"),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bl.example"
        );
    }

    #[test]
    fn only_the_codes_that_count_list_and_a_refusal_lists_nobody() {
        let found = |codes: &[Ipv4Addr]| {
            Answer::Found(Records {
                records: codes.to_vec(),
                authentic: false,
                name: String::new(),
                ttl: Duration::ZERO,
            })
        };
        let at = |last: u8| Ipv4Addr::new(127, 0, 0, last);
        let one = list(&["127.0.0.2/31"]);
        assert!(matches!(finding(&one, found(&[at(9), at(3)])), Some(Finding::Listed { .. })));
        assert_eq!(finding(&one, found(&[at(4)])), None);
        assert_eq!(finding(&one, Answer::NoName { authentic: true }), None);
        assert_eq!(finding(&one, Answer::NoData { authentic: true }), None);
        for answer in
            [Answer::Failed("SERVFAIL".to_owned()), found(&[at(2), Ipv4Addr::new(127, 255, 255, 254)])]
        {
            assert!(matches!(finding(&list(&["127.0.0.0/8"]), answer), Some(Finding::Failed { .. })));
        }
    }

    #[test]
    fn the_hardest_action_weighs_most() {
        let listed = |zone: &str, action| Finding::Listed { zone: zone.into(), action };
        let failed = Finding::Failed { zone: "d".into(), why: String::new() };
        let findings =
            [listed("a", Action::Record), failed, listed("b", Action::Reject), listed("c", Action::Reject)];
        assert_eq!(verdict(&findings), Some(("b".into(), Action::Reject)));
        assert_eq!(verdict(&findings[..2]), Some(("a".into(), Action::Record)));
        assert_eq!(verdict(&[]), None);
    }
}
