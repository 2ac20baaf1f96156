//! Source: where a remote directory comes from, as the rooms in front of it see it.
//!
//! Owns the seam: what a database or an LDAP server must be able to answer. `lines` asks for users,
//! `follow` for tenants, domains and what changed; neither knows what is at the other end.

use std::future::Future;
use std::time::Duration;

use crate::mail::{Region, User};

/// Why a source gave no answer. Never an absence (rule 20).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The connection is of no more use.
    #[error("{0}")]
    Broken(String),
    /// The server understood and said no.
    #[error("{0}")]
    Refused(String),
}

/// What a source says of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    User(User),
    /// A strict tenant's user whose home is another region: that, and nothing else, is known here (rule 22).
    Elsewhere(Region),
    Absent,
}

/// Tenants, domains and connectors: the directory file without its users, as TOML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) text: String,
    /// Region codes that exist there, besides those that exist here.
    pub(super) regions: Vec<Region>,
}

/// How far changes have been followed, in the source's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark(pub(super) String);

/// What is different since a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) mark: Mark,
    pub(super) outline: bool,
    pub(super) users: ChangedUsers,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChangedUsers {
    /// By the key that lookups ask with (`Address::key`).
    These(Vec<String>),
    /// Too many to name, or nobody knows which.
    All,
}

/// A directory service.
pub(super) trait Source: Send + Sync + 'static {
    type Link: Link;

    /// As operators know it, without secrets.
    fn name(&self) -> String;

    /// The most addresses that one question asks for.
    fn batch(&self) -> usize;

    /// Whether it has tenants and domains; without them they come from a file.
    fn has_outline(&self) -> bool {
        true
    }

    /// A new connection, ready to be asked. The caller sees to the deadline.
    fn connect(&self) -> impl Future<Output = Result<Self::Link, Trouble>> + Send;
}

/// One connection to it. Whoever gets a `Trouble` or loses patience drops it.
pub(super) trait Link: Send + 'static {
    /// One answer for each key, in their order; `None` where what is there makes no sense, which is nobody
    /// else's trouble.
    fn look_up(&mut self, keys: &[&str])
    -> impl Future<Output = Result<Vec<Option<Answer>>, Trouble>> + Send;

    fn outline(&mut self) -> impl Future<Output = Result<Outline, Trouble>> + Send;

    /// What has changed since `mark`; everything without one. Never leaves anything out: a source that
    /// cannot tell says `All`.
    fn changes(&mut self, since: Option<&Mark>) -> impl Future<Output = Result<Changes, Trouble>> + Send;

    /// Until something may have changed, and no longer than that.
    fn wait(&mut self, at_most: Duration) -> impl Future<Output = ()> + Send;
}
