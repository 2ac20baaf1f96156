//! Decision: what to accept, and for which region. Pure.
//!
//! Facts in, a home or a `Reason` out, and on request the trail of steps that led there.
//! It knows no reply codes: `session::refusal` is the one table from `Reason` to `Reply`.

use crate::mail::{Address, Domain, Region};

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
}
