//! Limits: how much one client, recipient or tenant may have, by name; and who has had how much.
//!
//! Owns the counters of rules 58 and 59 and of directory harvesting. It counts and compares, and never
//! answers: `listener` asks, `decision::Reason` and `smtp::reply` say what becomes of it.

mod blocklist;
mod counters;

pub use blocklist::{Action, Blocklist, Finding, look_up, verdict};
pub use counters::{Counters, Key};

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::clock::Timestamp;
use crate::mail::{Address, Sender};
use crate::smtp::reply::Reply;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Above the limit so many times over, a client that guesses addresses is told nothing more for now.
const GUESSES_TOLERATED: u64 = 10;

/// Every limit that refuses something, by its key in `[limits]`. docs/LIMITS.md
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    MessageSize,
    RecipientsPerMessage,
    RecipientsPerDomain,
    Hops,
    Faults,
    SessionAge,
    ConnectionsPerIp,
    ConnectionsPerIpPerMinute,
    MessagesPerIpPerMinute,
    UnknownRecipientsPerIpPerMinute,
    PerRecipientPerHour,
    PerSenderRecipientPerHour,
    PerTenantPerMinute,
    Dnsbl,
}

impl Limit {
    pub const ALL: [Self; 14] = [
        Self::MessageSize,
        Self::RecipientsPerMessage,
        Self::RecipientsPerDomain,
        Self::Hops,
        Self::Faults,
        Self::SessionAge,
        Self::ConnectionsPerIp,
        Self::ConnectionsPerIpPerMinute,
        Self::MessagesPerIpPerMinute,
        Self::UnknownRecipientsPerIpPerMinute,
        Self::PerRecipientPerHour,
        Self::PerSenderRecipientPerHour,
        Self::PerTenantPerMinute,
        Self::Dnsbl,
    ];

    /// Its key in the configuration, and its name in the log and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::MessageSize => "message_size",
            Self::RecipientsPerMessage => "recipients_per_message",
            Self::RecipientsPerDomain => "recipients_per_domain",
            Self::Hops => "hops",
            Self::Faults => "faults",
            Self::SessionAge => "session_age",
            Self::ConnectionsPerIp => "connections_per_ip",
            Self::ConnectionsPerIpPerMinute => "connections_per_ip_per_minute",
            Self::MessagesPerIpPerMinute => "messages_per_ip_per_minute",
            Self::UnknownRecipientsPerIpPerMinute => "unknown_recipients_per_ip_per_minute",
            Self::PerRecipientPerHour => "per_recipient_per_hour",
            Self::PerSenderRecipientPerHour => "per_sender_recipient_per_hour",
            Self::PerTenantPerMinute => "per_tenant_per_minute",
            Self::Dnsbl => "dnsbl",
        }
    }

    /// The limit that the session itself keeps and answers so.
    pub fn of_session(reply: Reply) -> Option<Self> {
        match reply {
            Reply::TooLarge => Some(Self::MessageSize),
            Reply::TooManyRecipients => Some(Self::RecipientsPerMessage),
            Reply::TooManyOfDomain => Some(Self::RecipientsPerDomain),
            Reply::TooManyHops => Some(Self::Hops),
            Reply::TooManyFaults => Some(Self::Faults),
            Reply::SessionTooOld => Some(Self::SessionAge),
            _ => None,
        }
    }
}

/// So many in a minute or an hour; 0 is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub limit: u64,
    /// What nobody chose does not hold for clients of this very machine.
    pub spares_loopback: bool,
}

/// What is in force; replaced whole on reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Networks that no limit on addresses, rates or block lists holds for.
    pub exempt: Vec<IpNet>,
    /// At once; always on.
    pub connections_per_ip: usize,
    pub connections_per_ip_per_minute: Rate,
    pub messages_per_ip_per_minute: Rate,
    pub unknown_recipients_per_ip_per_minute: Rate,
    /// How long an answer waits for a client that guesses addresses.
    pub tarpit: Duration,
    pub per_recipient_per_hour: Rate,
    pub per_sender_recipient_per_hour: Rate,
    pub per_tenant_per_minute: Rate,
    pub blocklists: Vec<Blocklist>,
}

/// A client as limits see it: its network, and which limits spare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    network: IpAddr,
    spared: Spared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spared {
    Nothing,
    /// This machine: rates that nobody chose.
    Defaults,
    /// Exempt networks, edges of ours, and load balancers that look whether we are there.
    Everything,
}

impl Client {
    pub fn new(ip: IpAddr, terms: &Terms) -> Self {
        let ip = ip.to_canonical();
        let spared = if terms.exempt.iter().any(|network| network.contains(&ip)) {
            Spared::Everything
        } else if ip.is_loopback() {
            Spared::Defaults
        } else {
            Spared::Nothing
        };
        Self { network: network_of(ip), spared }
    }

    /// Itself, unless it speaks for a client elsewhere.
    pub fn at(self, ip: IpAddr, terms: &Terms) -> Self {
        if network_of(ip) == self.network { self } else { Self::new(ip, terms) }
    }

    /// The same client, for whom no limit holds.
    pub fn spared(self) -> Self {
        Self { spared: Spared::Everything, ..self }
    }

    pub fn is_spared(self) -> bool {
        self.spared == Spared::Everything
    }

    /// Whether block lists are asked about it: none knows this machine's own addresses.
    pub fn may_be_listed(self) -> bool {
        self.spared == Spared::Nothing
    }

    /// The limit that holds for it, if one does.
    fn bound(self, rate: Rate) -> Option<u64> {
        let spared = match self.spared {
            Spared::Nothing => false,
            Spared::Defaults => rate.spares_loopback,
            Spared::Everything => true,
        };
        (!spared && rate.limit > 0).then_some(rate.limit)
    }
}

/// An address, or the /64 of an IPv6 one: addresses within that cost nothing.
pub fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        // All of ::1/64 is this machine, and nobody else's.
        IpAddr::V6(v6) if v6.is_loopback() => IpAddr::V6(v6),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// How to answer a client about its next recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candour {
    AtOnce,
    /// It has guessed too often: each answer waits.
    After(Duration),
    /// It goes on guessing: it is told nothing, not even who does exist.
    NotNow,
}

/// One accepted recipient, as it will be counted when the message is: hashes, no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    recipient: Option<Key>,
    pair: Option<Key>,
    tenant: Option<Key>,
}

/// Whose recipient, for the limits of rule 58 and of tenants.
#[derive(Debug, Clone, Copy)]
pub struct Addressed<'a> {
    /// The primary address: aliases of one mailbox count together.
    pub mailbox: &'a Address,
    pub sender: &'a Sender,
    pub tenant: Option<Owner<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    pub id: &'a str,
    /// The tenant's own limit in place of the node's; 0 is off.
    pub messages_per_minute: Option<u64>,
}

/// All counters of a node.
pub struct Limits {
    terms: ArcSwap<Terms>,
    connections: Counters,
    messages: Counters,
    guesses: Counters,
    recipients: Counters,
    pairs: Counters,
    tenants: Counters,
}

impl Limits {
    /// `counters` is how many each of the tables can tell apart.
    pub fn new(terms: Terms, counters: usize) -> Self {
        Self {
            terms: ArcSwap::from_pointee(terms),
            connections: Counters::new(counters, MINUTE),
            messages: Counters::new(counters, MINUTE),
            guesses: Counters::new(counters, MINUTE),
            recipients: Counters::new(counters, HOUR),
            pairs: Counters::new(counters, HOUR),
            tenants: Counters::new(counters, MINUTE),
        }
    }

    pub fn replace(&self, terms: Terms) {
        self.terms.store(Arc::new(terms));
    }

    pub fn terms(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    /// Rule 59: whether its network has connected too often. A look only: who says nothing has cost nothing.
    pub fn may_connect(&self, terms: &Terms, client: Client, now: Timestamp) -> Result<(), Limit> {
        let Some(limit) = client.bound(terms.connections_per_ip_per_minute) else { return Ok(()) };
        let count = self.connections.count(self.connections.key(client.network), now);
        if count < limit { Ok(()) } else { Err(Limit::ConnectionsPerIpPerMinute) }
    }

    /// The client has said something: its connection counts.
    pub fn connected(&self, terms: &Terms, client: Client, now: Timestamp) {
        if client.bound(terms.connections_per_ip_per_minute).is_some() {
            self.connections.add(self.connections.key(client.network), now);
        }
    }

    /// It turned out to be an edge of ours (section 6): its connection does not count.
    pub fn forgive_connection(&self, client: Client, now: Timestamp) {
        self.connections.give_back(self.connections.key(client.network), now);
    }

    /// Rule 59: one more transaction, unless there were too many.
    pub fn begin_message(&self, terms: &Terms, client: Client, now: Timestamp) -> Result<(), Limit> {
        let Some(limit) = client.bound(terms.messages_per_ip_per_minute) else { return Ok(()) };
        let free = self.messages.take(self.messages.key(client.network), limit, now);
        if free { Ok(()) } else { Err(Limit::MessagesPerIpPerMinute) }
    }

    /// It asked for a recipient that nobody is.
    pub fn guessed_wrong(&self, terms: &Terms, client: Client, now: Timestamp) {
        if client.bound(terms.unknown_recipients_per_ip_per_minute).is_some() {
            self.guesses.add(self.guesses.key(client.network), now);
        }
    }

    /// How freely it is to be answered about recipients.
    pub fn candour(&self, terms: &Terms, client: Client, now: Timestamp) -> Candour {
        let Some(limit) = client.bound(terms.unknown_recipients_per_ip_per_minute) else {
            return Candour::AtOnce;
        };
        let guesses = self.guesses.count(self.guesses.key(client.network), now);
        if guesses >= limit.saturating_mul(GUESSES_TOLERATED) {
            Candour::NotNow
        } else if guesses >= limit && terms.tarpit > Duration::ZERO {
            Candour::After(terms.tarpit)
        } else {
            Candour::AtOnce
        }
    }

    /// Rule 58, and the tenant's rate: whether one more message may come for this recipient, and what is to
    /// be counted when it has.
    pub fn may_receive(
        &self,
        terms: &Terms,
        client: Client,
        addressed: Addressed<'_>,
        now: Timestamp,
    ) -> Result<Due, Limit> {
        let Addressed { mailbox, sender, tenant } = addressed;
        let recipient =
            self.within(&self.recipients, client.bound(terms.per_recipient_per_hour), mailbox, now);
        // Nobody in particular sends from `<>`.
        let pair = sender.as_ref().map_or(Ok(None), |sender| {
            let limit = client.bound(terms.per_sender_recipient_per_hour);
            self.within(&self.pairs, limit, &(sender, mailbox), now)
        });
        let of_tenant = tenant.map_or(Ok(None), |tenant| {
            let rate = match tenant.messages_per_minute {
                Some(limit) => Rate { limit, spares_loopback: false },
                None => terms.per_tenant_per_minute,
            };
            self.within(&self.tenants, client.bound(rate), &tenant.id, now)
        });
        Ok(Due {
            // What can be told to everybody comes before what can be told to one sender; what passes by
            // itself comes before what bounces.
            tenant: of_tenant.map_err(|()| Limit::PerTenantPerMinute)?,
            recipient: recipient.map_err(|()| Limit::PerRecipientPerHour)?,
            pair: pair.map_err(|()| Limit::PerSenderRecipientPerHour)?,
        })
    }

    /// The key to count by later, where a limit holds and is not reached.
    fn within(
        &self,
        counters: &Counters,
        limit: Option<u64>,
        who: &impl std::hash::Hash,
        now: Timestamp,
    ) -> Result<Option<Key>, ()> {
        let Some(limit) = limit else { return Ok(None) };
        let key = counters.key(who);
        if counters.count(key, now) < limit { Ok(Some(key)) } else { Err(()) }
    }

    /// The message is accepted: now it counts, once for each mailbox, each pair and each tenant.
    pub fn received(&self, dues: &[Due], now: Timestamp) {
        let once = |counters: &Counters, of: fn(&Due) -> Option<Key>| {
            for (index, key) in dues.iter().map(of).enumerate() {
                let Some(key) = key else { continue };
                if !dues[..index].iter().any(|earlier| of(earlier) == Some(key)) {
                    counters.add(key, now);
                }
            }
        };
        once(&self.recipients, |due| due.recipient);
        once(&self.pairs, |due| due.pair);
        once(&self.tenants, |due| due.tenant);
    }

    /// How many counted ones have made room for others, all tables together.
    pub fn evictions(&self) -> u64 {
        let tables =
            [&self.connections, &self.messages, &self.guesses, &self.recipients, &self.pairs, &self.tenants];
        tables.iter().map(|table| table.evictions()).sum()
    }
}

impl Due {
    /// Whether it counts anywhere.
    pub fn is_owed(&self) -> bool {
        self.recipient.is_some() || self.pair.is_some() || self.tenant.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(limit: u64) -> Rate {
        Rate { limit, spares_loopback: false }
    }

    fn terms() -> Terms {
        Terms {
            exempt: vec!["192.0.2.128/25".parse().expect("a network")],
            connections_per_ip: 100,
            connections_per_ip_per_minute: rate(2),
            messages_per_ip_per_minute: rate(2),
            unknown_recipients_per_ip_per_minute: rate(2),
            tarpit: Duration::from_secs(5),
            per_recipient_per_hour: rate(3),
            per_sender_recipient_per_hour: rate(2),
            per_tenant_per_minute: rate(0),
            blocklists: Vec::new(),
        }
    }

    fn client(ip: &str) -> Client {
        Client::new(ip.parse().expect("an address"), &terms())
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + seconds * 1000)
    }

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
    }

    #[test]
    fn ipv6_counts_by_64_bits_and_mapped_addresses_are_ipv4() {
        let network = |text: &str| network_of(text.parse().expect("an address"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::2"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        for (ip, asked) in
            [("::1", false), ("::ffff:127.0.0.1", false), ("192.0.2.200", false), ("192.0.2.1", true)]
        {
            assert_eq!(client(ip).may_be_listed(), asked, "{ip}");
        }
    }

    #[test]
    fn a_connection_counts_when_it_says_something_and_not_before() {
        let (limits, terms) = (Limits::new(terms(), 1000), terms());
        let one = client("192.0.2.1");
        for _ in 0..10 {
            assert_eq!(limits.may_connect(&terms, one, at(0)), Ok(()));
        }
        limits.connected(&terms, one, at(0));
        limits.connected(&terms, one, at(0));
        assert_eq!(limits.may_connect(&terms, one, at(1)), Err(Limit::ConnectionsPerIpPerMinute));
        assert_eq!(limits.may_connect(&terms, client("192.0.2.2"), at(1)), Ok(()));
        limits.forgive_connection(one, at(2));
        assert_eq!(limits.may_connect(&terms, one, at(2)), Ok(()));
    }

    #[test]
    fn who_is_exempt_is_never_counted_and_loopback_only_where_a_limit_was_chosen() {
        let limits = Limits::new(terms(), 1000);
        let by_default = Rate { limit: 2, spares_loopback: true };
        let defaults = Terms { messages_per_ip_per_minute: by_default, ..terms() };
        let all = |client: Client, terms: &Terms| -> Vec<bool> {
            (0..3).map(|_| limits.begin_message(terms, client, at(0)).is_ok()).collect()
        };
        assert_eq!(all(client("192.0.2.200"), &terms()), [true; 3]);
        let spared = client("192.0.2.2").spared();
        assert_eq!(all(spared, &terms()), [true; 3]);
        assert_eq!(spared.at("192.0.2.2".parse().expect("v4"), &terms()), spared);
        assert_eq!(spared.at("192.0.2.3".parse().expect("v4"), &terms()), client("192.0.2.3"));
        assert_eq!(all(client("127.0.0.1"), &defaults), [true; 3]);
        assert_eq!(all(client("127.0.0.1"), &terms()), [true, true, false]);
        assert_eq!(all(client("192.0.2.1"), &defaults), [true, true, false]);
        // Off.
        assert_eq!(
            all(client("192.0.2.1"), &Terms { messages_per_ip_per_minute: rate(0), ..terms() }),
            [true; 3]
        );
    }

    #[test]
    fn guesses_slow_the_answers_and_then_end_them() {
        let (limits, terms) = (Limits::new(terms(), 1000), terms());
        let guesser = client("2001:db8::1");
        for guess in 0..20 {
            let expected = if guess < 2 { Candour::AtOnce } else { Candour::After(terms.tarpit) };
            assert_eq!(limits.candour(&terms, guesser, at(0)), expected, "{guess}");
            limits.guessed_wrong(&terms, guesser, at(0));
        }
        assert_eq!(limits.candour(&terms, client("2001:db8::ffff"), at(0)), Candour::NotNow);
        assert_eq!(limits.candour(&terms, client("2001:db8:0:1::1"), at(0)), Candour::AtOnce);
        assert_eq!(limits.candour(&terms, guesser, at(180)), Candour::AtOnce);
    }

    /// Rule 58.
    #[test]
    fn a_recipient_has_its_hour_and_a_sender_its_part_of_it() {
        let (limits, terms) = (Limits::new(terms(), 1000), terms());
        let one = client("192.0.2.1");
        let anna = address("anna@contoso.com");
        let ask = |sender: &str, mailbox: &Address, seconds| {
            let sender = Address::parse(sender).ok();
            let addressed = Addressed { mailbox, sender: &sender, tenant: None };
            limits.may_receive(&terms, one, addressed, at(seconds))
        };
        // What was asked for and not accepted does not count.
        for _ in 0..10 {
            assert!(ask("ann@sender.example", &anna, 0).is_ok());
        }
        for _ in 0..2 {
            let due = ask("ann@sender.example", &anna, 0).expect("within the limit");
            limits.received(&[due, due], at(0));
        }
        assert_eq!(ask("Ann@SENDER.example", &anna, 0), Err(Limit::PerSenderRecipientPerHour));
        assert!(ask("ann@sender.example", &address("ben@contoso.com"), 0).is_ok());
        limits.received(&[ask("", &anna, 0).expect("the null sender has no pair")], at(0));
        assert_eq!(ask("bob@sender.example", &anna, 3599), Err(Limit::PerRecipientPerHour));
        assert_eq!(
            ask("bob@sender.example", &address("ANNA@contoso.com"), 0),
            Err(Limit::PerRecipientPerHour)
        );
        assert!(ask("bob@sender.example", &anna, 7200).is_ok());
    }

    #[test]
    fn a_tenant_has_the_nodes_limit_or_its_own() {
        let terms = Terms { per_tenant_per_minute: rate(2), ..terms() };
        let limits = Limits::new(terms.clone(), 1000);
        let anna = address("anna@contoso.com");
        let messages = |id: &str, messages_per_minute: Option<u64>| -> usize {
            let ask = |_: &usize| {
                let tenant = Some(Owner { id, messages_per_minute });
                let addressed = Addressed { mailbox: &anna, sender: &None, tenant };
                let terms = Terms { per_recipient_per_hour: rate(0), ..terms.clone() };
                match limits.may_receive(&terms, client("192.0.2.1"), addressed, at(0)) {
                    Ok(due) => limits.received(&[due], at(0)),
                    Err(limit) => {
                        assert_eq!(limit, Limit::PerTenantPerMinute);
                        return false;
                    }
                }
                true
            };
            (0..9).take_while(ask).count()
        };
        assert_eq!(messages("contoso", None), 2);
        assert_eq!(messages("fabrikam", Some(5)), 5);
        assert_eq!(messages("tailspin", Some(0)), 9);
    }

    #[test]
    fn names_are_unique() {
        let words: std::collections::BTreeSet<_> = Limit::ALL.iter().map(|limit| limit.word()).collect();
        assert_eq!(words.len(), Limit::ALL.len());
    }
}
