//! Desk: the questions of operators to an LDAP server, a page at a time. Nothing is written there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use ldap3::{Scope, SearchEntry};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::link::LdapLink;
use super::mapping::values;
use super::{Question, nonsense, search_paged, trouble};
use crate::directory::Table;
use crate::directory::register::Homes;
use crate::directory::source::Trouble;
use crate::mail::{Address, Domain, User};

pub(in crate::directory) struct LdapDesk {
    link: LdapLink,
    /// As operators know it.
    name: String,
}

impl LdapDesk {
    pub(in crate::directory) fn new(link: LdapLink, name: String) -> Self {
        Self { link, name }
    }

    fn table(&self) -> Arc<Table> {
        self.link.shared.held.table.load_full()
    }

    /// Who has an address in an accepted domain; entries without one are no users of ours.
    pub(in crate::directory) async fn each_user(
        &mut self,
        of: Option<&Domain>,
        mut see: impl FnMut(User, Vec<Address>) -> ControlFlow<()>,
    ) -> Result<(), Trouble> {
        let (table, shared) = (self.table(), &self.link.shared);
        let filter =
            of.map_or_else(|| shared.mapping.of_anybody(), |domain| shared.mapping.of_domain(domain));
        for base in shared.bases() {
            let question = Question {
                base: base.to_owned(),
                scope: Scope::Subtree,
                filter: filter.clone(),
                attributes: shared.mapping.of_user(),
            };
            let (to, mut entries) = mpsc::channel(256);
            let mut asking = JoinSet::new();
            asking.spawn(search_paged(self.link.client(), question, shared.page_size, to));
            while let Some(entry) = entries.recv().await {
                let Some((user, aliases)) = self.read(&entry) else { continue };
                let place = |address: &Address| table.domain(address.domain());
                let is_asked = match of {
                    Some(of) => place(&user.primary).is_some_and(|domain| domain.name == *of),
                    None => std::iter::once(&user.primary).chain(&aliases).any(|any| place(any).is_some()),
                };
                // A place within another's is seen once: there.
                let own = place(&user.primary).map(|domain| shared.base_of(&domain.tenant.id));
                let is_here = own.is_none_or(|own| own == base);
                if is_asked && is_here && see(user, aliases).is_break() {
                    return Ok(());
                }
            }
            match asking.join_next().await {
                Some(Ok(done)) => done.map_err(|error| trouble(&error))?,
                Some(Err(_)) | None => return Err(nonsense()),
            }
        }
        Ok(())
    }

    fn read(&self, entry: &SearchEntry) -> Option<(User, Vec<Address>)> {
        let mapping = &self.link.shared.mapping;
        let first = mapping.addresses(entry).into_iter().next()?;
        mapping.user(entry, &first)
    }

    async fn entry(&self, address: &Address) -> Result<Option<SearchEntry>, Trouble> {
        let (table, shared) = (self.table(), &self.link.shared);
        let Some(domain) = table.domain(address.domain()) else { return Ok(None) };
        let question = Question {
            base: shared.base_of(&domain.tenant.id).to_owned(),
            scope: Scope::Subtree,
            filter: shared.mapping.of_address(&address.key()),
            attributes: shared.mapping.of_user(),
        };
        Ok(self.link.ask(question, 1).await?.into_iter().next())
    }

    pub(in crate::directory) async fn user(
        &mut self,
        address: &Address,
    ) -> Result<Option<(User, Vec<Address>)>, Trouble> {
        let entry = self.entry(address).await?;
        Ok(entry.and_then(|entry| self.link.shared.mapping.user(&entry, address)))
    }

    pub(in crate::directory) async fn homes(&mut self, of: &Domain) -> Result<Homes, Trouble> {
        let mut homes: Homes = BTreeMap::new();
        self.each_user(Some(of), |user, _| {
            *homes.entry((user.preferred_data_location, user.licenses.into())).or_default() += 1;
            ControlFlow::Continue(())
        })
        .await?;
        Ok(homes)
    }

    pub(in crate::directory) async fn user_count(&mut self) -> Result<u64, Trouble> {
        let mut count = 0;
        self.each_user(None, |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })
        .await?;
        Ok(count)
    }

    /// Where a user's home is to be changed, since we do not.
    pub(in crate::directory) async fn refuse_change(&self, primary: &Address) -> Trouble {
        let entry = match self.entry(primary).await {
            Ok(entry) => entry,
            Err(trouble) => return trouble,
        };
        let attribute = &self.link.shared.mapping.attributes.location;
        let (dn, now) = entry.as_ref().map_or((String::new(), "not set"), |entry| {
            (entry.dn.clone(), values(entry, attribute).next().unwrap_or("not set"))
        });
        Trouble::Refused(format!(
            "users are kept in LDAP, which is never written to from here: change {attribute} (now {now}) \
             of the entry \"{dn}\" at {}; nodes see it by themselves",
            self.name
        ))
    }
}
