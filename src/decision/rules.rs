//! Rules: this node's own settings that decisions read, replaced whole on reload.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::auth::Ipv6;
use crate::mail::{Address, Domain, NextHop, NextHopName, Region};

use super::PeerPattern;

/// What becomes of a later recipient with another ingress region (rule 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MixedRegions {
    #[default]
    Defer,
    /// Accept what the node may accept.
    Split,
}

/// What becomes of mail for an inline next hop that gives no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// It is accepted all the same, and waits in the spool.
    Spool,
    /// It is refused for now: it may never rest on this node's disk.
    Refuse,
}

#[derive(Debug, Clone)]
pub struct Rules {
    pub node_region: Region,
    /// The name in banner and greeting; `postmaster` there is ours.
    pub hostname: Domain,
    pub mixed_regions: MixedRegions,
    pub propagation_window: Duration,
    /// How each region is reached from here: stores of our own, relays to the others.
    pub routes: BTreeMap<Region, NextHop>,
    /// Next hops to which mail goes while it comes in (`mode` and `transit` "inline").
    pub inline: BTreeMap<NextHopName, Otherwise>,
    /// By what the edges of other regions are recognised.
    pub peers: Vec<(Region, PeerPattern)>,
    /// Who reads `postmaster` where no such user exists.
    pub postmaster: Option<Address>,
    /// Whether rules 50 and 51 refuse, or only record.
    pub ipv6: Ipv6,
}
