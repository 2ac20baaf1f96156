//! Directory: whose domain is this, and where does this user live.
//!
//! Owns the answers, not what follows from them: that is `decision`'s. Today they come from a file
//! that is replaced whole; the calls wait, so that a service can answer them later.

mod table;
mod users;
mod file;
mod user_file;
mod check;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::mail::{AcceptedDomain, Address, Domain, Lookup, Regions, User};

pub use check::{Finding, Problem, Subject};
pub use file::read;
pub use table::Table;
pub use users::Taken;

/// The directory as of now. Clones share one table.
#[derive(Debug, Clone)]
pub struct Directory {
    table: Arc<ArcSwap<Table>>,
}

impl Directory {
    pub fn new(table: Table) -> Self {
        Self { table: Arc::new(ArcSwap::from_pointee(table)) }
    }

    /// Whose domain it is: exact, else the nearest parent with `match_subdomains` (rules 2 and 3).
    #[expect(clippy::unused_async, reason = "other sources will wait")]
    pub async fn domain(&self, domain: &Domain) -> Lookup<Arc<AcceptedDomain>> {
        match self.table.load().domain(domain) {
            Some(found) => Lookup::Found(Arc::clone(found)),
            None => Lookup::Absent,
        }
    }

    /// The mailbox behind a primary address or an alias, in a domain that `Directory::domain` gave.
    #[expect(clippy::unused_async, reason = "other sources will wait")]
    pub async fn user(&self, domain: &AcceptedDomain, address: &Address) -> Lookup<User> {
        match self.table.load().user(domain, address) {
            Some(user) => Lookup::Found(user),
            None => Lookup::Absent,
        }
    }

    /// All of it, as of now.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// What in it contradicts itself.
    pub fn check(&self, regions: &Regions) -> Vec<Finding> {
        self.table.load().check(regions).collect()
    }

    /// Puts another table in place; questions under way keep the old one.
    pub fn replace(&self, table: Table) {
        self.table.store(Arc::new(table));
    }
}
