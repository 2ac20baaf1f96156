//! Inquiry: look up, decide, look up, decide. The only place that puts directory and decision together.
//!
//! `listener` asks it at RCPT, `queue` before each attempt (rule 89), `landfall explain` from the command
//! line: the same code, so that they cannot disagree. Every lookup has a deadline; one that passes counts
//! as failed, never as absent (rule 20).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::{Clock, Timestamp};
use crate::decision::{
    self, Admitted, Attributed, Attribution, Came, Claim, ClientFacts, Door, Entry, EntryFacts, Place, Proof,
    Reason, Rules, Trail, Via, attribute, decide_entry, decide_home, decide_place, decide_sender,
    is_own_postmaster, needs_reverse_name, own_store, peer_edge, vouching_domains,
};
use crate::directory::Directory;
use crate::dns::Resolver;
use crate::mail::{
    AcceptedDomain, Address, Domain, DomainPattern, Envelope, Lookup, Peer, Region, Residency, Tenant,
    Transport, User,
};
use crate::report::{Privacy, Withheld};

/// What RCPT TO asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Mailbox(Address),
    /// `<postmaster>` without a domain (RFC 5321 §4.5.1).
    Postmaster,
}

/// What is known of the client and the transaction when a recipient is asked for.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// As `attribute` gave it for this transaction.
    pub attribution: &'a Attribution,
    /// The connector by which it found out.
    pub via: Option<&'a Via>,
    pub peer: &'a Peer,
    /// The domain of MAIL FROM; `None` for the null sender.
    pub sender: Option<&'a Domain>,
    pub door: Door,
    pub region_so_far: Option<Region>,
}

impl Circumstances<'_> {
    /// The on-premises connector of this tenant that the client comes by. A network may be several tenants', and
    /// mail to each comes by its own (rule 34).
    fn via_of(&self, tenant: &Arc<Tenant>) -> Option<Via> {
        match self.attribution {
            _ if self.via.is_some_and(|via| via.tenant.id == tenant.id) => self.via.cloned(),
            Attribution::Incoming => {
                let connector = tenant.network_connector(self.peer.ip, self.sender, None)?.clone();
                Some(Via { tenant: tenant.clone(), connector, proof: Proof::Address })
            }
            Attribution::Originating { .. } | Attribution::PeerEdge(_) => None,
        }
    }
}

/// Not accepted: why, and whether the recipient's name may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub reason: Reason,
    pub names: Names,
}

/// What of a refused recipient may be logged and traced here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    Address,
    /// A strict tenant's recipient in the wrong region (spec, section 6).
    DomainOnly,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { reason, names: Names::Address }
    }
}

pub struct Inquiry {
    directory: Directory,
    rules: ArcSwap<Rules>,
    lookup_deadline: Duration,
    /// For reverse names of IPv6 clients (rule 51).
    resolver: Arc<Resolver>,
    clock: Clock,
    withheld: OnceLock<Arc<Withheld>>,
}

impl Inquiry {
    pub fn new(directory: Directory, rules: Rules, lookup_deadline: Duration, clock: Clock) -> Self {
        let resolver = Arc::new(Resolver::system());
        Self {
            directory,
            rules: ArcSwap::from_pointee(rules),
            lookup_deadline,
            resolver,
            clock,
            withheld: OnceLock::new(),
        }
    }

    /// Asks these name servers, instead of the system's.
    #[must_use]
    pub fn asking(self, resolver: Arc<Resolver>) -> Self {
        Self { resolver, ..self }
    }

    /// This node's rules as of now; a transaction keeps those it began with.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    pub fn replace_rules(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Whose client is this, and may it use this sender? Asked once a transaction, at MAIL.
    pub async fn attribute(
        &self,
        rules: &Rules,
        peer: &Peer,
        sender: Option<&Domain>,
        door: Door,
        trail: &mut Trail,
    ) -> Result<Attributed, Reason> {
        if let Some(attribution) = peer_edge(rules, peer, trail) {
            return Ok(Attributed { attribution, via: None });
        }
        match door {
            Door::Regular => {}
            // Rule 11 refuses every recipient, whoever else asks: nothing is looked up.
            Door::Legacy => return Ok(Attributed::default()),
        }
        let facts = self.client_facts(peer, sender).await;
        let attributed = attribute(&facts, trail)?;
        decide_sender(&facts, &attributed.attribution, trail)?;
        Ok(attributed)
    }

    async fn client_facts<'a>(&self, peer: &'a Peer, sender: Option<&'a Domain>) -> ClientFacts<'a> {
        let sender_domain = match sender {
            Some(domain) => self.domain(domain).await,
            None => Lookup::Absent,
        };
        let mut claims = Vec::new();
        for name in peer.verified_names() {
            for pattern in self.directory.certificate_patterns(name) {
                claims.push(self.claim(pattern).await);
            }
        }
        let at_address = self.directory.connector_at(peer.ip, sender);
        ClientFacts { peer, sender, sender_domain, claims, at_address }
    }

    async fn claim(&self, pattern: DomainPattern) -> Claim {
        let mut vouched = Vec::new();
        for domain in vouching_domains(&pattern) {
            vouched.push(self.domain(&domain).await);
        }
        Claim { pattern, vouched }
    }

    /// May this recipient be accepted here, and where does its mail go?
    pub async fn admit(
        &self,
        rules: &Rules,
        asked: &Asked,
        circumstances: &Circumstances<'_>,
        trail: &mut Trail,
    ) -> Result<(Admitted, Place), Refused> {
        // To a peer edge it is a door like any other: rules 7 to 14 do not apply (section 6).
        let door = match circumstances.attribution {
            Attribution::PeerEdge(_) => Door::Regular,
            Attribution::Incoming | Attribution::Originating { .. } => circumstances.door,
        };
        let circumstances = &Circumstances { door, ..circumstances.clone() };
        let to_node = match asked {
            Asked::Postmaster => true,
            // Notices come from there, so what answers them is taken; as anybody's own domain it has its own.
            Asked::Mailbox(address) => {
                is_own_postmaster(rules, address) && self.domain(address.domain()).await == Lookup::Absent
            }
        };
        let address = match asked {
            Asked::Mailbox(address) if !to_node => address.clone(),
            Asked::Mailbox(_) | Asked::Postmaster => own_postmaster(rules),
        };
        let kept_here = to_node && circumstances.door == Door::Regular;
        if kept_here && is_own_postmaster(rules, &address) {
            return Ok(admit_to_node(rules, trail)?);
        }
        let (entry, mailbox, place) = match self.decide(rules, &address, circumstances, trail).await {
            // Section 6: it is always accepted, even if its reader is none, or none that mail enters for here.
            Err(refused) if kept_here && is_unread(&refused.reason) => {
                return Ok(admit_to_node(rules, trail)?);
            }
            decided => decided?,
        };
        let (ingress, tenant, via, recorded) = match entry {
            Entry::Hosted { domain, ingress, partner, recorded } => {
                let own = circumstances.via_of(&domain.tenant);
                (Some(ingress), Some(domain.tenant.clone()), own.or(partner), recorded)
            }
            Entry::Foreign => {
                (None, circumstances.attribution.tenant().cloned(), circumstances.via.cloned(), None)
            }
        };
        let domain = address.domain().clone();
        Ok((Admitted { address, domain, ingress, mailbox, tenant, via, recorded }, place))
    }

    async fn decide(
        &self,
        rules: &Rules,
        address: &Address,
        circumstances: &Circumstances<'_>,
        trail: &mut Trail,
    ) -> Result<(Entry, Option<Address>, Place), Refused> {
        let domain = match circumstances.door {
            Door::Regular => self.hosted(address.domain(), circumstances.attribution.transport()).await,
            // Rule 11 refuses whatever the domain: nothing is looked up.
            Door::Legacy => Lookup::Absent,
        };
        let privacy = match circumstances.door {
            Door::Regular => self.privacy(rules, &domain),
            Door::Legacy => Privacy::Unsure,
        };
        if circumstances.door == Door::Regular {
            self.learned(address.domain(), &domain, privacy);
        }
        let strict = matches!(&domain, Lookup::Found(domain) if domain.tenant.residency == Residency::Strict);
        let refused = |reason: Reason| {
            // Elsewhere at home, or by what could be learned maybe so: then not to be named here.
            let elsewhere = privacy != Privacy::Open
                || strict
                    && matches!(
                        reason,
                        Reason::WrongRegion | Reason::NoRoute | Reason::RecipientLookupFailed
                    );
            Refused { reason, names: if elsewhere { Names::DomainOnly } else { Names::Address } }
        };
        let mut facts = EntryFacts {
            recipient_domain: address.domain(),
            domain,
            attribution: circumstances.attribution,
            via: circumstances.via,
            peer: circumstances.peer,
            sender: circumstances.sender,
            door: circumstances.door,
            region_so_far: circumstances.region_so_far,
            reverse_name: Lookup::Absent,
            now: self.now(),
        };
        if needs_reverse_name(&facts) {
            let asked = Box::pin(self.resolver.ptr(circumstances.peer.ip));
            facts.reverse_name = asked.await.lookup().map(|_| ());
        }
        let entry = decide_entry(rules, &facts, trail).map_err(refused)?;
        let user = match &entry {
            Entry::Hosted { domain, .. } if domain.sending_to_disabled => Lookup::Absent,
            Entry::Hosted { domain, .. } => self.user(domain, address).await,
            Entry::Foreign => Lookup::Absent,
        };
        let of_tenant = match &entry {
            Entry::Hosted { domain, .. } => circumstances.via_of(&domain.tenant),
            Entry::Foreign => None,
        };
        let came = Came::by(circumstances.attribution, of_tenant.as_ref().or(circumstances.via));
        let place = decide_home(rules, &entry, address, user.as_ref(), &came, trail).map_err(refused)?;
        Ok((entry, user.found().map(|user| user.primary), place))
    }

    /// Whether a domain's addresses may be written down at this node (section 6, strict tenants).
    fn privacy(&self, rules: &Rules, domain: &Lookup<Arc<AcceptedDomain>>) -> Privacy {
        match domain {
            Lookup::Found(domain) if domain.tenant.residency == Residency::Strict => {
                let here = rules.node_region;
                let enters_here = domain.ingress_region() == here
                    || domain.former_ingress_region(rules, self.now()) == Some(here);
                if enters_here { Privacy::Open } else { Privacy::Withheld }
            }
            Lookup::Found(_) | Lookup::Absent => Privacy::Open,
            Lookup::Failed => Privacy::Unsure,
        }
    }

    fn learned(&self, asked: &Domain, domain: &Lookup<Arc<AcceptedDomain>>, privacy: Privacy) {
        if let Some(withheld) = self.withheld.get() {
            withheld.learn(domain.as_ref().found().map_or(asked, |domain| &domain.name), privacy);
        }
    }

    /// Asks whose domain this is, so that the log and the trace know whether its addresses may be named.
    pub async fn learn_privacy(&self, rules: &Rules, domain: &Domain) {
        let found = self.domain(domain).await;
        self.learned(domain, &found, self.privacy(rules, &found));
    }

    /// Who wants to know which domains' addresses may not be named here.
    pub fn tell_privacy(&self, withheld: Arc<Withheld>) {
        let _ = self.withheld.set(withheld);
    }

    /// Where a recipient of a message that is already ours goes on (rule 89).
    pub async fn place(&self, envelope: &Envelope, recipient: &Address) -> Result<Place, Reason> {
        let rules = self.rules.load();
        if let Some(sender) = &envelope.sender {
            // A notice would be addressed to it.
            self.learn_privacy(&rules, sender.domain()).await;
        }
        // An unread postmaster's mail goes to the configured reader.
        let reader = match &rules.postmaster {
            Some(reader) if recipient.is_postmaster() && reader != recipient => {
                self.reader_of(&rules, recipient, reader).await
            }
            Some(_) | None => None,
        };
        let placed = match &reader {
            Some(reader) => self.place_at(&rules, envelope, reader).await,
            None => return self.place_at(&rules, envelope, recipient).await,
        };
        match placed {
            Err(reason) if is_unread(&reason) => self.place_at(&rules, envelope, recipient).await,
            placed => placed,
        }
    }

    async fn place_at(
        &self,
        rules: &Rules,
        envelope: &Envelope,
        recipient: &Address,
    ) -> Result<Place, Reason> {
        let domain = self.hosted(recipient.domain(), envelope.transport).await;
        self.learned(recipient.domain(), &domain, self.privacy(rules, &domain));
        let user = match &domain {
            Lookup::Found(domain) => self.user(domain, recipient).await,
            Lookup::Absent | Lookup::Failed => Lookup::Absent,
        };
        let came = Came {
            transport: envelope.transport,
            tenant: envelope.tenant.as_deref().and_then(|id| self.tenant(id)),
            connector: envelope.connector.as_deref().map(Into::into),
        };
        decide_place(rules, &came, domain, recipient, user.as_ref())
    }

    /// Who reads this postmaster's mail, when it is nobody of that name.
    async fn reader_of(&self, rules: &Rules, recipient: &Address, reader: &Address) -> Option<Address> {
        if is_own_postmaster(rules, recipient) {
            return Some(reader.clone());
        }
        let domain = self.domain(recipient.domain()).await.found()?;
        match self.user(&domain, recipient).await {
            Lookup::Absent => Some(reader.clone()),
            Lookup::Found(_) | Lookup::Failed => None,
        }
    }

    /// Whose domain a recipient is in. That it is nobody's counts only while the directory is heard: it may
    /// have been added since, and relay would be denied for good (rule 20). Who may address any domain is
    /// denied nothing.
    async fn hosted(&self, domain: &Domain, transport: Transport) -> Lookup<Arc<AcceptedDomain>> {
        match (self.domain(domain).await, transport) {
            (Lookup::Absent, Transport::Incoming | Transport::PeerEdge) if !self.directory.is_current() => {
                Lookup::Failed
            }
            (answer, _) => answer,
        }
    }

    async fn domain(&self, domain: &Domain) -> Lookup<Arc<AcceptedDomain>> {
        let lookup = self.directory.domain(domain);
        tokio::time::timeout(self.lookup_deadline, lookup).await.unwrap_or(Lookup::Failed)
    }

    async fn user(&self, domain: &AcceptedDomain, address: &Address) -> Lookup<User> {
        let lookup = self.directory.user(domain, address);
        tokio::time::timeout(self.lookup_deadline, lookup).await.unwrap_or(Lookup::Failed)
    }

    fn tenant(&self, id: &str) -> Option<Arc<Tenant>> {
        self.directory.tenant(id)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Whether the reader of a postmaster's mail is nobody who can have it.
fn is_unread(reason: &Reason) -> bool {
    use Reason::{RelayDenied, SendingDisabled, UnknownRecipient, WrongRegion};
    matches!(reason, RelayDenied | SendingDisabled | UnknownRecipient | WrongRegion)
}

/// The node's own postmaster.
fn admit_to_node(rules: &Rules, trail: &mut Trail) -> Result<(Admitted, Place), Reason> {
    let place = own_store(rules, trail)?;
    let address = decision::node_postmaster(rules);
    let domain = address.domain().clone();
    let admitted =
        Admitted { address, domain, ingress: None, mailbox: None, tenant: None, via: None, recorded: None };
    Ok((admitted, place))
}

/// What `<postmaster>` means: the configured reader, or the node's own.
fn own_postmaster(rules: &Rules) -> Address {
    rules.postmaster.clone().unwrap_or_else(|| decision::node_postmaster(rules))
}

#[cfg(test)]
mod tests;
