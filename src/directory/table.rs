//! Table: a whole directory in memory, replaced whole.
//!
//! Owns the questions a directory answers, without waiting. `file` fills it, `check` judges it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::check::{self, Finding};
use super::connectors::Connectors;
use super::users::{Taken, Users};
use crate::mail::{AcceptedDomain, Address, Domain, DomainPattern, OwnedConnector, Regions, Tenant, User};

/// Tenants, their domains and their users.
#[derive(Debug, Default)]
pub struct Table {
    tenants: Vec<Arc<Tenant>>,
    /// Where each stands among the tenants.
    ids: HashMap<Arc<str>, usize>,
    domains: HashMap<Box<str>, Arc<AcceptedDomain>>,
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
        if self.domains.contains_key(domain.name.as_str()) {
            return Err(domain);
        }
        self.domains.insert(domain.name.as_str().into(), Arc::new(domain));
        Ok(())
    }

    /// Adds a user and its aliases; none of them when one address is taken.
    pub fn add_user(&mut self, user: &User, aliases: &[Address]) -> Result<(), Taken> {
        self.users.add(user, aliases)
    }

    /// Gives back the memory that filling has reserved.
    pub fn shrink(&mut self) {
        self.users.shrink();
    }

    /// Exact, else the nearest parent with `match_subdomains` (rules 2 and 3).
    pub fn domain(&self, domain: &Domain) -> Option<&Arc<AcceptedDomain>> {
        self.domains.get(domain.as_str()).or_else(|| {
            let mut parents = domain.parents().filter_map(|name| self.domains.get(name));
            parents.find(|parent| parent.match_subdomains)
        })
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
        self.users.by_address(address, separator)
    }

    /// Whether this is anybody's primary address or alias.
    pub fn has_address(&self, address: &Address) -> bool {
        self.users.contains(address)
    }

    pub fn tenant(&self, id: &str) -> Option<&Arc<Tenant>> {
        self.ids.get(id).map(|place| &self.tenants[*place])
    }

    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.tenants.iter()
    }

    /// In no order.
    pub fn domains(&self) -> impl Iterator<Item = &Arc<AcceptedDomain>> {
        self.domains.values()
    }

    /// Every user with its aliases.
    pub fn users(&self) -> impl Iterator<Item = (User, Vec<Address>)> + '_ {
        self.users.iter()
    }

    /// What in it contradicts itself, though each line of it can be read.
    pub fn check<'t>(&'t self, regions: &'t Regions) -> impl Iterator<Item = Finding> + 't {
        check::findings(self, regions)
    }

    pub fn domain_count(&self) -> usize {
        self.domains.len()
    }

    pub fn user_count(&self) -> usize {
        self.users.len()
    }
}
