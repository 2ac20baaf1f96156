//! Handover: where the recipients of a transaction go, and a message that goes on while it comes in.
//!
//! Owns the rule of when inline relay applies: all recipients have one next hop, and that hop takes mail so.
//! What a passage is, `delivery` knows; what its verdict is answered with, `connection` and `session`.

use std::sync::Arc;

use crate::decision::{Otherwise, Reason, Rules};
use crate::delivery::{Passage, Pool, Taken};
use crate::mail::{Envelope, NextHop, NextHopName, RemoteReply};

/// The next hops of the recipients so far; kept only where some next hop is inline.
#[derive(Debug, Default)]
pub(super) enum Hops {
    #[default]
    None,
    One(NextHop),
    Several,
}

impl Hops {
    /// Takes note of one more recipient's next hop, or says why that recipient has to come separately: what
    /// may never rest on this disk cannot share a transaction with what goes elsewhere.
    pub(super) fn join(&mut self, hop: &NextHop, rules: &Rules, pool: &Pool) -> Result<(), Reason> {
        if rules.inline.is_empty() {
            return Ok(());
        }
        let in_transit = |name: &NextHopName| rules.inline.get(name) == Some(&Otherwise::Refuse);
        match self {
            Self::None => *self = Self::One(hop.clone()),
            Self::One(first) if first.name == hop.name => {
                if in_transit(&hop.name) && pool.takes_one(&hop.name) {
                    return Err(Reason::ComesAlone);
                }
            }
            Self::One(first) if in_transit(&first.name) || in_transit(&hop.name) => {
                return Err(Reason::MixedRegions);
            }
            Self::Several if in_transit(&hop.name) => return Err(Reason::MixedRegions),
            Self::One(_) | Self::Several => *self = Self::Several,
        }
        Ok(())
    }

    /// The one next hop, when it takes mail inline, and what to do when it gives no verdict.
    pub(super) fn inline(&self, rules: &Rules) -> Option<(&NextHop, Otherwise)> {
        match self {
            Self::One(hop) => rules.inline.get(&hop.name).map(|otherwise| (hop, *otherwise)),
            Self::None | Self::Several => None,
        }
    }
}

/// One message on its way through.
pub(super) struct Handover {
    pub(super) passage: Passage,
    pub(super) envelope: Arc<Envelope>,
    pub(super) next_hop: NextHopName,
    pub(super) otherwise: Otherwise,
    pub(super) bytes: u64,
    /// Its beginning, where a notice of success may have to bring back the header.
    pub(super) original: Option<Vec<u8>>,
}

/// What an inline next hop did not take, or not for all: the rest goes on from the spool.
pub(super) struct Left {
    /// With all its recipients.
    pub(super) envelope: Arc<Envelope>,
    pub(super) next_hop: NextHopName,
    pub(super) taken: Vec<Taken>,
    pub(super) reply: RemoteReply,
    pub(super) bytes: u64,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::decision::MixedRegions;
    use crate::delivery::{Patience, Services, Terms, Troubled};
    use crate::dns::Resolver;
    use crate::mail::{Domain, Region, TlsLevel};
    use crate::net::{ClientTls, Network, Roots};

    fn region(code: &str) -> Region {
        Region::parse(code).expect("a code")
    }

    fn hop(name: NextHopName) -> NextHop {
        NextHop { name, endpoints: Arc::new([]), tls: TlsLevel::Off, ca: None }
    }

    fn rules(inline: &[(NextHopName, Otherwise)]) -> Rules {
        Rules {
            node_region: region("EUR"),
            hostname: Domain::parse("edge1.eur.example.net").expect("a name"),
            mixed_regions: MixedRegions::Defer,
            propagation_window: Duration::ZERO,
            routes: BTreeMap::new(),
            inline: inline.iter().cloned().collect(),
            peers: Vec::new(),
            postmaster: None,
            ipv6: crate::auth::Ipv6::Enforce,
        }
    }

    fn pool() -> Pool {
        let services = Services {
            hostname: "edge1.eur.example.net".into(),
            dialer: Arc::new(Network),
            resolver: Arc::new(Resolver::system()),
            tls: Arc::new(ClientTls::new(Roots::system(), None).expect("no certificate can be wrong")),
            patience: Patience::default(),
            troubled: Troubled::default(),
            internet: None,
            clock: Clock::System,
        };
        Pool::new(Terms {
            services: Arc::new(services),
            connections_per_next_hop: 1,
            messages_per_connection: 1,
        })
    }

    #[tokio::test]
    async fn inline_is_for_one_next_hop_and_transit_never_mixes() {
        let store = || hop(NextHopName::Store(region("EUR")));
        let nam = || hop(NextHopName::Relay(region("NAM")));
        let gbr = || hop(NextHopName::Relay(region("GBR")));
        let pool = pool();
        let both = rules(&[
            (store().name, Otherwise::Spool),
            (nam().name, Otherwise::Refuse),
            (gbr().name, Otherwise::Refuse),
        ]);
        let store_only = rules(&[(store().name, Otherwise::Spool)]);
        for (rules, recipients, refused, inline) in [
            (&both, &[store(), store()][..], None, Some(Otherwise::Spool)),
            (&both, &[nam(), nam()], None, Some(Otherwise::Refuse)),
            (&both, &[store(), nam()], Some(1), Some(Otherwise::Spool)),
            (&both, &[nam(), store(), nam()], Some(1), Some(Otherwise::Refuse)),
            (&both, &[nam(), gbr()], Some(1), Some(Otherwise::Refuse)),
            (&store_only, &[store(), nam()], None, None),
            (&store_only, &[nam(), nam()], None, None),
            (&store_only, &[store()], None, Some(Otherwise::Spool)),
        ] {
            let mut hops = Hops::default();
            for (index, recipient) in recipients.iter().enumerate() {
                let expected = if refused == Some(index) { Err(Reason::MixedRegions) } else { Ok(()) };
                assert_eq!(hops.join(recipient, rules, &pool), expected, "{index} of {recipients:?}");
            }
            assert_eq!(hops.inline(rules).map(|(_, otherwise)| otherwise), inline, "{recipients:?}");
        }
    }
}
