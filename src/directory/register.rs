//! Register: the directory as operators list and change it, whichever source it has.
//!
//! One set of questions for the command line; a file is edited in place, a database in a transaction.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use super::check::{self, Finding};
use super::held::Held;
use super::ldap::{Ldap, LdapDesk};
use super::postgres::{Desk, Imported, Postgres};
use super::remote::{Service, Settings};
use super::source::{Link, Source, Trouble};
use super::{Table, file_edit};
use crate::clock::Timestamp;
use crate::mail::{AcceptedDomain, Address, Domain, Licenses, Region, Regions, User};

pub struct Register {
    store: Store,
    /// Tenants and domains; users too when they come from a file.
    table: Arc<Table>,
    regions: Regions,
    outline: String,
}

enum Store {
    File {
        path: PathBuf,
    },
    Postgres(Box<Desk>),
    /// Users there, everything else in the file.
    Ldap {
        path: PathBuf,
        desk: Box<LdapDesk>,
    },
}

/// Where a user may be, what it holds, and how many there are.
pub type Homes = BTreeMap<(Option<Box<str>>, Holds), u64>;

/// The licences, in an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holds {
    pub multi_geo: bool,
    pub mail: bool,
}

impl From<Licenses> for Holds {
    fn from(Licenses { multi_geo, mail }: Licenses) -> Self {
        Self { multi_geo, mail }
    }
}

/// A domain's new mail flow region, and what it was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub domain: Domain,
    pub from: Option<Region>,
    pub to: Option<Region>,
    pub at: Timestamp,
}

impl Register {
    /// Of a directory file, read into `table` before.
    pub fn of_file(path: PathBuf, table: Table, regions: Regions) -> Self {
        Self { store: Store::File { path }, table: Arc::new(table), regions, outline: String::new() }
    }

    /// Of a directory service; asks it for tenants and domains. The warnings are what could not be read.
    /// `file` is where they are, and what was read there, for a service that has none.
    pub async fn of_service(
        settings: &Settings,
        file: (PathBuf, Table),
    ) -> Result<(Self, Vec<String>), Trouble> {
        match &settings.service {
            Service::Postgres(postgres) => {
                let source = Postgres::new(postgres, settings.terms.deadline, settings.node_region)?;
                let mut link = source.connect().await?;
                let outline = link.outline().await?;
                let mut regions = settings.regions.clone();
                outline.regions.iter().for_each(|region| regions.add(*region));
                let (table, warnings) =
                    super::held::read_outline(&outline.text, &regions, settings.subaddress);
                let store = Store::Postgres(Box::new(Desk::new(link)));
                let register = Self { store, table: Arc::new(table), regions, outline: outline.text };
                Ok((register, warnings))
            }
            Service::Ldap(ldap) => {
                let (path, table) = file;
                let held = Arc::new(Held::new(table, settings.regions.clone(), settings.subaddress));
                let table = held.table.load_full();
                let source = Ldap::new(ldap, &settings.terms, settings.node_region, held, settings.clock)?;
                let desk = Box::new(LdapDesk::new(source.connect().await?, source.name()));
                let store = Store::Ldap { path, desk };
                let regions = settings.regions.clone();
                Ok((Self { store, table, regions, outline: String::new() }, Vec::new()))
            }
        }
    }

    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The region codes that exist there.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    /// Whether a running daemon has to be told of a change.
    pub fn needs_reload(&self) -> bool {
        matches!(self.store, Store::File { .. } | Store::Ldap { .. })
    }

    /// Users with their aliases, those of one accepted domain or all, until `see` has seen enough.
    pub async fn each_user(
        &mut self,
        of: Option<&Domain>,
        mut see: impl FnMut(User, Vec<Address>) -> ControlFlow<()>,
    ) -> Result<(), Trouble> {
        match &mut self.store {
            Store::File { .. } => {
                for (user, aliases) in self.table.users() {
                    let is_asked = of.is_none_or(|of| {
                        self.table.domain(user.primary.domain()).is_some_and(|domain| domain.name == *of)
                    });
                    if is_asked && see(user, aliases).is_break() {
                        break;
                    }
                }
                Ok(())
            }
            Store::Postgres(desk) => desk.each_user(of, see).await,
            Store::Ldap { desk, .. } => desk.each_user(of, see).await,
        }
    }

    /// By primary address or alias, exactly.
    pub async fn user(&mut self, address: &Address) -> Result<Option<(User, Vec<Address>)>, Trouble> {
        match &mut self.store {
            Store::File { .. } => {
                let Some(domain) = self.table.domain(address.domain()) else { return Ok(None) };
                let Some(found) = self.table.user(domain, address) else { return Ok(None) };
                let all = self.table.users().find(|(user, _)| user.primary == found.primary);
                // A tag is no address of its own.
                Ok(all.filter(|(user, aliases)| user.primary == *address || aliases.contains(address)))
            }
            Store::Postgres(desk) => desk.user(address).await,
            Store::Ldap { desk, .. } => desk.user(address).await,
        }
    }

    /// How many users of an accepted domain are where.
    pub async fn homes(&mut self, of: &Domain) -> Result<Homes, Trouble> {
        match &mut self.store {
            Store::File { .. } => {
                let mut homes = Homes::new();
                self.each_user(Some(of), |user, _| {
                    *homes.entry((user.preferred_data_location, user.licenses.into())).or_default() += 1;
                    ControlFlow::Continue(())
                })
                .await?;
                Ok(homes)
            }
            Store::Postgres(desk) => desk.homes(of).await,
            Store::Ldap { desk, .. } => desk.homes(of).await,
        }
    }

    pub async fn user_count(&mut self) -> Result<u64, Trouble> {
        match &mut self.store {
            Store::File { .. } => Ok(self.table.user_count() as u64),
            Store::Postgres(desk) => desk.user_count().await,
            Store::Ldap { desk, .. } => desk.user_count().await,
        }
    }

    /// All that contradicts itself, domains first.
    pub async fn check(&mut self, mut tell: impl FnMut(Finding)) -> Result<(), Trouble> {
        let (table, regions) = (Arc::clone(&self.table), self.regions.clone());
        check::of_domains(&table).for_each(&mut tell);
        self.each_user(None, |user, _| {
            check::of_user(&table, &user, &regions).for_each(&mut tell);
            ControlFlow::Continue(())
        })
        .await
    }

    /// Sets it with what it was before and since when, as rule 21 needs it.
    pub async fn set_mail_flow_region(&mut self, change: &Move) -> Result<(), Trouble> {
        match &mut self.store {
            Store::File { path } | Store::Ldap { path, .. } => {
                let (path, change) = (path.clone(), change.clone());
                edited(move || file_edit::set_mail_flow_region(&path, &change)).await
            }
            Store::Postgres(desk) => desk.set_mail_flow_region(change).await,
        }
    }

    /// Of the user with this primary address; `None` leaves it to the tenant's default.
    pub async fn set_preferred_data_location(
        &mut self,
        primary: &Address,
        location: Option<Region>,
    ) -> Result<(), Trouble> {
        match &mut self.store {
            Store::File { path } => {
                let (path, primary) = (path.clone(), primary.clone());
                edited(move || file_edit::set_preferred_data_location(&path, &primary, location)).await
            }
            Store::Postgres(desk) => desk.set_preferred_data_location(primary, location).await,
            Store::Ldap { desk, .. } => Err(desk.refuse_change(primary).await),
        }
    }

    /// Makes the directory hold what this table does, and nothing of the tenants in it that it does not.
    /// `text` is the file that the table was read from; without it only users are added and changed. With
    /// `dry_run` nothing stays, and what would have changed is told all the same.
    pub async fn import(
        &mut self,
        text: Option<&str>,
        table: &Table,
        regions: &Regions,
        dry_run: bool,
    ) -> Result<Imported, Trouble> {
        match &mut self.store {
            Store::File { .. } => Err(Trouble::Refused("the directory is a file already".to_owned())),
            Store::Postgres(desk) => desk.import(text, table, regions, dry_run).await,
            Store::Ldap { .. } => Err(Trouble::Refused(
                "users are kept in LDAP, which is never written to from here".to_owned(),
            )),
        }
    }

    /// Tenants and domains as the directory file would have them, for users to be read against.
    pub fn outline(&self) -> &str {
        &self.outline
    }

    /// The accepted domain of exactly this name.
    pub fn domain(&self, name: &Domain) -> Option<&Arc<AcceptedDomain>> {
        self.table.domain(name).filter(|domain| domain.name == *name)
    }
}

async fn edited(edit: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), Trouble> {
    let edited = tokio::task::spawn_blocking(edit).await;
    edited.map_err(|error| Trouble::Refused(error.to_string()))?.map_err(Trouble::Refused)
}
