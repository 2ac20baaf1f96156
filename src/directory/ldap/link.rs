//! Link: one connection to an LDAP server, and the questions that nodes ask over it.

use std::sync::Arc;
use std::time::Duration;

use ldap3::{LdapError, Scope, SearchEntry};
use tokio::task::JoinSet;

use super::mapping::{Reach, all_of, home};
use super::{Question, Settings, Shared, guarded, nonsense, search, trouble};
use crate::directory::source::{Answer, Changes, Link, Mark, Outline, Trouble};
use crate::mail::{Address, Domain};

/// An address should lead to one entry; of several the one that is called by it counts.
const ENTRIES: usize = 10;

pub(in crate::directory) struct LdapLink {
    client: ldap3::Ldap,
    /// Ends with the link.
    _driver: JoinSet<()>,
    pub(super) shared: Arc<Shared>,
}

impl LdapLink {
    pub(super) fn new(client: ldap3::Ldap, driver: JoinSet<()>, shared: Arc<Shared>) -> Self {
        Self { client, _driver: driver, shared }
    }

    /// For one operation.
    pub(super) fn client(&self) -> ldap3::Ldap {
        self.client.clone()
    }

    pub(super) async fn ask(&self, question: Question, limit: usize) -> Result<Vec<SearchEntry>, Trouble> {
        guarded(search(self.client(), question, limit)).await
    }

    /// Where nobody at all can be seen, everybody would be called unknown: that is a failure (rule 20).
    pub(super) async fn see_somebody(&self, settings: &Settings) -> Result<(), Trouble> {
        let question = Question {
            base: settings.base_dn.clone(),
            scope: Scope::Subtree,
            filter: self.shared.mapping.of_anybody(),
            // RFC 4511 §4.5.1.8: no attribute.
            attributes: vec!["1.1".to_owned()],
        };
        match self.ask(question, 1).await?.is_empty() {
            false => Ok(()),
            true => Err(Trouble::Refused(format!(
                "nobody with an address can be seen below {}: it may be the wrong base_dn, or {} may not read it",
                settings.base_dn,
                settings.bind_dn.as_deref().unwrap_or("an anonymous client")
            ))),
        }
    }
}

impl Link for LdapLink {
    async fn look_up(&mut self, keys: &[&str]) -> Result<Vec<Option<Answer>>, Trouble> {
        let mut asked = JoinSet::new();
        for (at, key) in keys.iter().enumerate() {
            let (shared, client, key) = (Arc::clone(&self.shared), self.client(), (*key).to_owned());
            asked.spawn(async move { (at, look_up(&shared, &client, &key).await) });
        }
        let mut answers = vec![Some(Answer::Absent); keys.len()];
        while let Some(answered) = asked.join_next().await {
            let (at, answer) = answered.map_err(|_| nonsense())?;
            answers[at] = Some(answer?);
        }
        Ok(answers)
    }

    async fn outline(&mut self) -> Result<Outline, Trouble> {
        Err(Trouble::Refused("LDAP has no tenants".to_owned()))
    }

    async fn changes(&mut self, since: Option<&Mark>) -> Result<Changes, Trouble> {
        super::changes::changes(self, since.is_some()).await
    }

    async fn wait(&mut self, _at_most: Duration) {
        tokio::time::sleep(self.shared.changes_every).await;
    }
}

async fn look_up(shared: &Shared, client: &ldap3::Ldap, key: &str) -> Result<Answer, Trouble> {
    let table = shared.held.table.load_full();
    let domain = key.rsplit_once('@').and_then(|(_, domain)| Domain::parse(domain).ok());
    // The domain may have left the file while the question waited.
    let Some(domain) = domain.as_ref().and_then(|domain| table.domain(domain)) else {
        return Ok(Answer::Absent);
    };
    let (tenant, mapping) = (&domain.tenant, &shared.mapping);
    let base = shared.base_of(&tenant.id).to_owned();
    let who = mapping.of_address(key);
    let reach = mapping.reach(tenant, shared.node_region);
    let filter = match &reach {
        Reach::All => who.clone(),
        Reach::Here(here) => all_of(&[Some(&who), Some(here)]),
    };
    let ask = |filter, attributes| {
        let question = Question { base: base.clone(), scope: Scope::Subtree, filter, attributes };
        let asked = search(client.clone(), question, ENTRIES);
        async { asked.await.map_err(|error: LdapError| trouble(&error)) }
    };
    let found = ask(filter, mapping.of_user()).await?;
    let written = Address::parse(key).unwrap_or_else(|_| Address::postmaster_at(domain.name.clone()));
    if let Some(entry) = the_one(shared, found, &written) {
        shared.note(&entry, key);
        let Some((user, _)) = mapping.user(&entry, &written) else { return Ok(Answer::Absent) };
        let home = home(tenant, user.preferred_data_location.as_deref());
        // A server that compares otherwise than we do.
        let is_elsewhere = reach != Reach::All && home != shared.node_region;
        return Ok(if is_elsewhere { Answer::Elsewhere(home) } else { Answer::User(user) });
    }
    if reach == Reach::All {
        return Ok(Answer::Absent);
    }
    // Nobody here. Whether somebody elsewhere has the address decides between rules 4 and 22: nothing but
    // the region, and the id under which a change will be told, is asked for.
    let attributes = vec![mapping.attributes.location.clone(), mapping.attributes.id.clone()];
    let Some(entry) = the_one(shared, ask(who, attributes).await?, &written) else {
        return Ok(Answer::Absent);
    };
    let home = home(tenant, mapping.location(&entry).as_deref());
    if home == shared.node_region {
        return Err(Trouble::Refused(format!(
            "a search by {} finds nobody who lives here: does the server's schema have it?",
            mapping.attributes.location
        )));
    }
    shared.note(&entry, key);
    Ok(Answer::Elsewhere(home))
}

fn the_one(shared: &Shared, mut entries: Vec<SearchEntry>, asked: &Address) -> Option<SearchEntry> {
    if entries.len() > 1 {
        let is_called_so = |entry: &SearchEntry| shared.mapping.addresses(entry).first() == Some(asked);
        // The same one each time.
        entries.sort_by_cached_key(|entry| (!is_called_so(entry), entry.dn.clone()));
    }
    entries.into_iter().next()
}

impl Shared {
    /// This key led to this entry.
    fn note(&self, entry: &SearchEntry, key: &str) {
        /// More than a user has addresses: tags are not among them.
        const KEYS: usize = 1_000;
        let Some(id) = self.mapping.id(entry) else { return };
        let keys = self.asked.get_with(id, Arc::default);
        let mut keys = keys.lock().expect("nobody panics while holding it");
        if keys.len() < KEYS && !keys.iter().any(|known| **known == *key) {
            keys.push(key.into());
        }
    }
}
