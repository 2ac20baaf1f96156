//! Mail: the vocabulary everyone shares.
//!
//! Owns plain values: who, where to, whose, and how it ended. Nothing here waits or fails for
//! outside reasons. `clock` comes before; every other room comes after.

mod address;
pub mod chain;
mod envelope;
mod filter;
mod findings;
pub mod firewall;
mod foreword;
pub mod header;
mod lookup;
mod mailboxes;
mod next_hop;
mod outcome;
mod peer;
mod priority;
mod region;
mod status;
mod tenant;

pub use address::{Address, AddressError, Domain, DomainPattern};
pub use envelope::{BodyType, Envelope, MessageId, Notify, Recipient, Ret, Sender, Transport};
pub use filter::{AddressPattern, Filter};
pub use findings::SpfResult;
pub use foreword::Foreword;
pub use lookup::Lookup;
pub use mailboxes::Mailboxes;
pub use next_hop::{Endpoint, EndpointError, NextHop, NextHopName, TlsLevel};
pub use outcome::{Handed, Outcome, RemoteReply};
pub use peer::{Peer, SessionId, TlsFacts};
pub use priority::Priority;
pub use region::{KNOWN_REGIONS, Region, Regions};
pub use status::Status;
pub use tenant::{
    AcceptedDomain, ConnectorKind, DomainKind, InboundConnector, Licenses, OutboundConnector, OwnedConnector,
    Residency, Skipping, Tenant, User,
};
