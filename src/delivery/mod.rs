//! Delivery: one attempt to hand one message to one next hop.
//!
//! Owns our side of the conversation with stores, other regions' edges and smart hosts. Knows neither the
//! queue nor when to try again: it says how it ended, for each recipient. `net`, `dns` and `spool` come
//! before; `queue` comes after.
//!
//! `courier` finds a connection, `transfer` drives it, `dialogue` knows what to say, `verdict` what the
//! answers mean; `maildir` delivers without a server. `inline` hands a message over while it comes in,
//! `internet` finds the way to domains that nobody here hosts.

mod courier;
mod dialogue;
mod inline;
mod internet;
mod leftovers;
mod lines;
mod maildir;
mod probe;
mod transfer;
mod trial;
mod troubled;
mod verdict;

#[cfg(test)]
mod tests;

pub use courier::Courier;
pub use inline::{Opening, Passage, Pool, Taken, Terms, Verdict};
pub use internet::{Counts, Internet, Ledger, Private, Settings as InternetSettings, StsSettings};
pub use leftovers::remove_leftovers;
pub use probe::{Letter, Means, Step, Wanted, probe, probe_domain};
pub use trial::{Line, Question, Trial, Validation};
pub use troubled::Troubled;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::dns::Resolver;
use crate::mail::{Envelope, Mailboxes, Outcome, RemoteReply};
use crate::net::{ClientTls, Dial};
use crate::spool::Content;

/// What every courier uses.
pub struct Services {
    /// What we call ourselves in EHLO.
    pub hostname: Arc<str>,
    pub dialer: Arc<dyn Dial>,
    pub resolver: Arc<Resolver>,
    pub tls: Arc<ClientTls>,
    pub patience: Patience,
    /// Endpoints that lately failed, for all couriers to see.
    pub troubled: Troubled,
    /// How domains that nobody here hosts are reached; absent where no mail goes there.
    pub internet: Option<Arc<Internet>>,
    pub clock: Clock,
}

/// How long a next hop may take, by what is waited for. RFC 5321 §4.5.3.2, which calls these minima.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub connect: Duration,
    pub handshake: Duration,
    pub greeting: Duration,
    pub hello: Duration,
    pub mail: Duration,
    pub recipient: Duration,
    pub data_start: Duration,
    pub data_block: Duration,
    pub data_end: Duration,
    /// RSET and QUIT, on which nothing depends.
    pub courtesy: Duration,
    /// How long a connection is kept while there is nothing to send.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        Self {
            connect: Duration::from_secs(30),
            handshake: minutes(1),
            greeting: minutes(5),
            hello: minutes(5),
            mail: minutes(5),
            recipient: minutes(5),
            data_start: minutes(2),
            data_block: minutes(3),
            data_end: minutes(10),
            courtesy: Duration::from_secs(10),
            idle: Duration::from_secs(30),
        }
    }
}

/// One message for some of its recipients.
#[derive(Debug, Clone, Copy)]
pub struct Parcel<'a> {
    pub envelope: &'a Envelope,
    /// Indices into the envelope's recipients; at least one.
    pub recipients: &'a [u32],
    pub content: &'a Content,
    /// Where final delivery is by this node.
    pub mailboxes: &'a Mailboxes,
}

impl<'a> Parcel<'a> {
    fn recipients(&self) -> impl Iterator<Item = &'a crate::mail::Recipient> + use<'a> {
        let all = &self.envelope.recipients;
        self.recipients.iter().map(move |index| &all[*index as usize])
    }
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// One outcome for each recipient of the parcel, in its order.
    Reached(Vec<Outcome>),
    /// No endpoint took part in the transaction: the destination is down, whatever the message.
    Unreached(RemoteReply),
}
