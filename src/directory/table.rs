//! Table: a whole directory in memory, replaced whole.
//!
//! Owns the questions a directory answers, without waiting. `file` fills it, `check` judges it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::check::{self, Finding};
use super::connectors::Connectors;
use super::names::Names;
use super::users::{Taken, Users};
use crate::mail::{AcceptedDomain, Address, Domain, DomainPattern, OwnedConnector, Regions, Tenant, User};

/// Tenants, their domains and their users.
#[derive(Debug, Default)]
pub struct Table {
    tenants: Vec<Arc<Tenant>>,
    /// Where each stands among the tenants.
    ids: HashMap<Arc<str>, usize>,
    /// Of accepted domains, and of the subdomains that users are in.
    names: Names,
    /// By the number of the name.
    accepted: Vec<Option<Arc<AcceptedDomain>>>,
    domain_count: usize,
    connectors: Connectors,
    users: Users,
    subaddress: Option<char>,
}

impl Table {
    /// `subaddress` separates `user` and `tag` in `user+tag` (spec, section 6).
    pub fn new(subaddress: Option<char>) -> Self {
        Self { subaddress, ..Self::default() }
    }

    pub fn add_tenant(&mut self, tenant: Arc<Tenant>) {
        self.connectors.add(&tenant);
        self.ids.entry(Arc::clone(&tenant.id)).or_insert(self.tenants.len());
        self.tenants.push(tenant);
    }

    /// Gives the domain back when the name is accepted already.
    pub fn add_domain(&mut self, domain: AcceptedDomain) -> Result<(), AcceptedDomain> {
        let number = self.names.enter(&domain.name) as usize;
        if self.accepted.len() <= number {
            self.accepted.resize(number + 1, None);
        }
        if self.accepted[number].is_some() {
            return Err(domain);
        }
        self.accepted[number] = Some(Arc::new(domain));
        self.domain_count += 1;
        Ok(())
    }

    /// Adds a user and its aliases; none of them when one address is taken.
    pub fn add_user(&mut self, user: &User, aliases: &[Address]) -> Result<(), Taken> {
        self.users.add(&mut self.names, user, aliases)
    }

    /// Makes room for so many addresses more, which are so long in all; both may be guesses.
    pub(super) fn expect(&mut self, addresses: usize, bytes: usize) {
        self.users.expect(addresses, bytes);
    }

    /// Gives back the memory that filling has reserved.
    pub fn shrink(&mut self) {
        self.tenants.shrink_to_fit();
        self.ids.shrink_to_fit();
        self.names.shrink();
        self.accepted.shrink_to_fit();
        self.users.shrink();
    }

    /// Exact, else the nearest parent with `match_subdomains` (rules 2 and 3).
    pub fn domain(&self, domain: &Domain) -> Option<&Arc<AcceptedDomain>> {
        self.accepted(domain.as_str()).or_else(|| {
            let mut parents = domain.parents().filter_map(|name| self.accepted(name));
            parents.find(|parent| parent.match_subdomains)
        })
    }

    fn accepted(&self, name: &str) -> Option<&Arc<AcceptedDomain>> {
        self.accepted.get(self.names.number(name)? as usize)?.as_ref()
    }

    /// The certificate names of on-premises connectors that a verified name matches, the most exact first.
    pub fn certificate_patterns(&self, name: &str) -> Vec<DomainPattern> {
        self.connectors.patterns(name)
    }

    /// The on-premises connector that sends for this sender from this address: the most exact network's.
    pub fn connector_at(&self, ip: IpAddr, sender: Option<&Domain>) -> Option<&OwnedConnector> {
        self.connectors.at(ip, sender)
    }

    /// By primary address or alias; at a matched subdomain only the address as given.
    pub fn user(&self, domain: &AcceptedDomain, address: &Address) -> Option<User> {
        let separator = if *address.domain() == domain.name { self.subaddress } else { None };
        self.users.by_address(&self.names, address, separator)
    }

    /// Whether this is anybody's primary address or alias.
    pub fn has_address(&self, address: &Address) -> bool {
        self.users.contains(&self.names, address)
    }

    pub fn tenant(&self, id: &str) -> Option<&Arc<Tenant>> {
        self.ids.get(id).map(|place| &self.tenants[*place])
    }

    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.tenants.iter()
    }

    /// In no order.
    pub fn domains(&self) -> impl Iterator<Item = &Arc<AcceptedDomain>> {
        self.accepted.iter().flatten()
    }

    /// Every user with its aliases.
    pub fn users(&self) -> impl Iterator<Item = (User, Vec<Address>)> + '_ {
        self.users.iter(&self.names)
    }

    /// What in it contradicts itself, though each line of it can be read.
    pub fn check<'t>(&'t self, regions: &'t Regions) -> impl Iterator<Item = Finding> + 't {
        check::findings(self, regions)
    }

    pub fn domain_count(&self) -> usize {
        self.domain_count
    }

    pub fn user_count(&self) -> usize {
        self.users.len()
    }
}
