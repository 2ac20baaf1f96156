//! Decision: what to accept, and for which region. Pure.
//!
//! Facts in, a `Place` or a `Reason` out, and on request the trail of steps that led there.
//! It knows no reply codes: `session::refusal` is the one table from `Reason` to `Reply`.
//! `inquiry` looks the facts up and asks here.

mod attribution;
mod entry;
mod home;
mod ipv6;
mod restriction;
mod rules;
mod trail;

pub use attribution::{
    Attributed, Attribution, Came, Claim, ClientFacts, PeerPattern, Proof, Via, attribute, peer_edge,
    vouching_domains,
};
pub use entry::{Door, Entry, EntryFacts, decide_entry};
pub use home::{
    Irr, IrrMiss, Place, decide_home, decide_place, home_region, in_region_routing, is_own_postmaster,
    node_postmaster, own_store,
};
pub use ipv6::{decide_ipv6, needs_reverse_name};
pub use restriction::{decide_partner, decide_sender};
pub use rules::{MixedRegions, Otherwise, Rules};
pub use trail::{Step, Trail};

use std::sync::Arc;

use crate::limits::Limit;
use crate::mail::{Address, Domain, Region, Tenant};

/// Why something was not accepted. Knows nothing of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Rules 1 and 2: nobody here hosts the domain, and the client may not relay.
    RelayDenied,
    /// Rule 4: directory-based edge blocking.
    UnknownRecipient,
    /// Rule 23: the domain takes no mail; answered as rule 4.
    SendingDisabled,
    /// Rules 7, 10, 11 and 22: this mail does not enter at this node.
    WrongRegion,
    /// Rule 14: an earlier recipient of the transaction enters in another region.
    MixedRegions,
    /// Rule 35: a partner's domain, and the client lacks what the partner connector asks for.
    PartnerRestricted,
    /// Rule 36.
    DirectSendForbidden,
    /// Rule 37: a connector that requires TLS, and the client speaks plain text.
    TlsNeeded,
    /// Mail in transit by inline relay: this recipient has to come in a transaction of its own.
    ComesAlone,
    /// Rule 50: an IPv6 client, and this domain takes no mail over IPv6.
    Ipv6NotAccepted(Domain),
    /// Rule 51: an IPv6 client whose address has no name, as far as could be found out.
    Ipv6WithoutPtr,
    /// Rule 52: a message over IPv6 that passes neither SPF nor DKIM.
    Ipv6Unauthenticated,
    /// What fails DMARC, where its author's domain asks that such mail be refused.
    DmarcRejected(Domain),
    /// Where DMARC is enforced: a header section of which nobody can say whose it is.
    HeaderUnreadable,
    /// Rule 16.
    NoSubscription,
    /// Rule 17: the accepted-domain lookup failed or timed out.
    DomainLookupFailed,
    /// Rule 18: the recipient or PDL lookup failed or timed out.
    RecipientLookupFailed,
    /// Rule 18: draining, or over a memory or spool limit at RCPT.
    Overloaded,
    /// Rule 19: the home region has no usable route; also a peer edge's mail whose home is elsewhere.
    NoRoute,
    /// Rule 60: disk or memory pressure at MAIL FROM.
    InsufficientResources,
    /// Rules 58 and 59, and what else `[limits]` counts.
    Limited(Limit),
    /// A block list has the client's address.
    BlockListed { zone: Arc<str> },
    /// The same, of a list by whose word clients are told to come again.
    BlockListedForNow { zone: Arc<str> },
}

impl Reason {
    /// The word that logs, metrics and traces use.
    pub fn word(&self) -> &'static str {
        match self {
            Self::RelayDenied => "relay-denied",
            Self::UnknownRecipient => "unknown-recipient",
            Self::SendingDisabled => "sending-disabled",
            Self::WrongRegion => "wrong-region",
            Self::MixedRegions => "mixed-regions",
            Self::PartnerRestricted => "partner-restricted",
            Self::DirectSendForbidden => "direct-send-forbidden",
            Self::TlsNeeded => "tls-needed",
            Self::ComesAlone => "comes-alone",
            Self::Ipv6NotAccepted(_) => "ipv6-not-accepted",
            Self::Ipv6WithoutPtr => "ipv6-without-ptr",
            Self::Ipv6Unauthenticated => "ipv6-unauthenticated",
            Self::DmarcRejected(_) => "dmarc-rejected",
            Self::HeaderUnreadable => "header-unreadable",
            Self::NoSubscription => "no-subscription",
            Self::DomainLookupFailed => "domain-lookup-failed",
            Self::RecipientLookupFailed => "recipient-lookup-failed",
            Self::Overloaded => "overloaded",
            Self::NoRoute => "no-route",
            Self::InsufficientResources => "insufficient-resources",
            Self::Limited(limit) => limit.word(),
            Self::BlockListed { .. } => "block-listed",
            Self::BlockListedForNow { .. } => "block-listed-for-now",
        }
    }

    /// The limit of `[limits]` that it is about.
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Self::Limited(limit) => Some(*limit),
            Self::BlockListed { .. } | Self::BlockListedForNow { .. } => Some(Limit::Dnsbl),
            Self::RelayDenied
            | Self::UnknownRecipient
            | Self::SendingDisabled
            | Self::WrongRegion
            | Self::MixedRegions
            | Self::PartnerRestricted
            | Self::DirectSendForbidden
            | Self::TlsNeeded
            | Self::ComesAlone
            | Self::Ipv6NotAccepted(_)
            | Self::Ipv6WithoutPtr
            | Self::Ipv6Unauthenticated
            | Self::DmarcRejected(_)
            | Self::HeaderUnreadable
            | Self::NoSubscription
            | Self::DomainLookupFailed
            | Self::RecipientLookupFailed
            | Self::Overloaded
            | Self::NoRoute
            | Self::InsufficientResources => None,
        }
    }
}

/// A recipient that may be accepted, as the session keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Where the message will go: as written, or the configured postmaster.
    pub address: Address,
    /// The domain that counts for `limits.recipients_per_domain` (rule 56).
    pub domain: Domain,
    /// The ingress region of its domain; `None` for a domain that nobody here hosts (originating mail).
    pub ingress: Option<Region>,
    /// The mailbox's primary address, where it has one: its aliases count together (rule 58).
    pub mailbox: Option<Address>,
    /// Whose mail it is: the recipient's tenant, or the client's own for a domain that nobody here hosts.
    pub tenant: Option<Arc<Tenant>>,
    /// The connector of the recipient's tenant that it comes by, a partner's or its own.
    pub via: Option<Via>,
    /// For what it would be refused, if that were not only recorded (rules 50 and 51, `auth.ipv6`).
    pub recorded: Option<Reason>,
}

#[cfg(test)]
mod tests;
