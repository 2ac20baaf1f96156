//! Rules 30 to 37 as a table, from the directory's file to the place or the reason: who calls, in whose name, for whom.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use super::*;
use crate::decision::MixedRegions;
use crate::document::Notes;
use crate::mail::{Endpoint, NextHop, NextHopName, Regions, TlsFacts, TlsLevel, Transport};

const DIRECTORY: &str = r#"
    [[tenant]]
    id = "contoso"
    default_region = "EUR"
    reject_direct_send = true
    [[tenant.domain]]
    name = "contoso.com"
    [[tenant.domain]]
    name = "relay.contoso.com"
    type = "internal-relay"
    match_subdomains = true
    [[tenant.user]]
    address = "anna@contoso.com"
    [[tenant.inbound_connector]]
    name = "hq"
    type = "on-premises"
    certificate_names = ["mail.contoso.com", "h.sub.contoso.com"]
    source_ips = ["198.51.100.7"]
    [[tenant.inbound_connector]]
    name = "any"
    type = "on-premises"
    certificate_names = ["*.wild.contoso.com", "*.relay.contoso.com"]
    [[tenant.inbound_connector]]
    name = "secure"
    type = "on-premises"
    source_ips = ["198.51.100.16/28"]
    require_tls = true
    [[tenant.inbound_connector]]
    name = "sales"
    type = "on-premises"
    certificate_names = ["sales.contoso.com"]
    source_ips = ["198.51.100.40"]
    sender_domains = ["*.relay.contoso.com"]
    [[tenant.inbound_connector]]
    name = "newsletters"
    type = "partner"
    sender_domains = ["contoso.com"]
    source_ips = ["203.0.113.50"]
    certificate_names = ["*.letters.example"]
    [[tenant.inbound_connector]]
    name = "bank"
    type = "partner"
    sender_domains = ["bank.example", "*.bank.example"]
    source_ips = ["203.0.113.0/28"]
    restrict_to_ip = true
    [[tenant.inbound_connector]]
    name = "broker"
    type = "partner"
    sender_domains = ["broker.example"]
    certificate_names = ["mx.broker.example"]
    restrict_to_certificate = true
    [[tenant.inbound_connector]]
    name = "broker-backup"
    type = "partner"
    sender_domains = ["broker.example"]
    certificate_names = ["mx2.broker.example"]
    restrict_to_certificate = true
    [[tenant.inbound_connector]]
    name = "secretive"
    type = "partner"
    sender_domains = ["secretive.example"]
    require_tls = true
    [[tenant.inbound_connector]]
    name = "lab-secure"
    type = "on-premises"
    source_ips = ["198.18.0.16/28"]
    require_tls = true
    [[tenant.inbound_connector]]
    name = "lab"
    type = "on-premises"
    source_ips = ["198.18.0.30", "198.18.0.0/24"]
    [[tenant.outbound_connector]]
    name = "to-relay"
    recipient_domains = ["*.relay.contoso.com", "relay.contoso.com", "supplier.example"]
    smart_hosts = ["smtp://mail.hq.contoso.com:25"]

    [[tenant]]
    id = "fabrikam"
    default_region = "NAM"
    [[tenant.domain]]
    name = "fabrikam.com"
    [[tenant.user]]
    address = "bob@fabrikam.com"
    [[tenant.inbound_connector]]
    name = "shared"
    type = "on-premises"
    certificate_names = ["mail.fabrikam.com", "mail.contoso.com", "mx.fabrikam.com"]
    source_ips = ["198.51.100.0/24"]

    [[tenant]]
    id = "subsidiary"
    default_region = "EUR"
    [[tenant.domain]]
    name = "mx.fabrikam.com"
    [[tenant.inbound_connector]]
    name = "mx"
    type = "on-premises"
    certificate_names = ["mx.fabrikam.com"]

    [[tenant]]
    id = "locked"
    default_region = "EUR"
    subscription = false
    [[tenant.domain]]
    name = "locked.example"
    [[tenant.inbound_connector]]
    name = "gateway"
    type = "partner"
    sender_domains = ["*"]
    certificate_names = ["*.gateway.example"]
    restrict_to_certificate = true
    require_tls = true
    [[tenant.inbound_connector]]
    name = "friend"
    type = "partner"
    sender_domains = ["friend.example"]
"#;

fn region(code: &str) -> Region {
    Region::parse(code).expect("a region code")
}

/// A node of EUR that also reaches NAM; NAM's edges come from 192.0.2.0/24.
fn inquiry() -> Inquiry {
    let notes = Notes::default();
    let table = crate::directory::read("d", DIRECTORY, Path::new("."), &Regions::default(), None, &notes);
    notes.verdict().unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let hop = |name, endpoint: &str| NextHop {
        name,
        endpoints: Arc::new([Endpoint::parse(endpoint).expect("an endpoint")]),
        tls: TlsLevel::Verify,
        ca: None,
    };
    let rules = Rules {
        inline: BTreeMap::new(),
        node_region: region("EUR"),
        hostname: Domain::parse("edge1.eur.example.net").expect("a name"),
        mixed_regions: MixedRegions::Defer,
        propagation_window: Duration::from_secs(30 * 60),
        routes: BTreeMap::from([
            (region("EUR"), hop(NextHopName::Store(region("EUR")), "lmtp://store.eur.example.net")),
            (region("NAM"), hop(NextHopName::Relay(region("NAM")), "smtp://edge.nam.example.net")),
        ]),
        peers: vec![(
            region("NAM"),
            decision::PeerPattern::Network("192.0.2.0/24".parse().expect("a network")),
        )],
        postmaster: None,
        ipv6: crate::auth::Ipv6::Enforce,
    };
    Inquiry::new(Directory::new(table), rules, Duration::from_secs(5), Clock::System)
}

/// What the client has shown of itself.
#[derive(Debug, Clone, Copy)]
enum Shown {
    PlainText,
    /// TLS, with a certificate of these verified names; of none when it showed no good one.
    Tls(&'static [&'static str]),
}

use Shown::{PlainText, Tls};

fn peer(ip: &str, shown: Shown) -> Peer {
    let ip: IpAddr = ip.parse().expect("an address");
    let tls = match shown {
        PlainText => None,
        Tls(names) => {
            let verified_names = names.iter().map(|name| (*name).to_owned()).collect();
            Some(TlsFacts { verified_names, ..TlsFacts::default() })
        }
    };
    Peer { tls, ..Peer::new(ip) }
}

/// What MAIL and then RCPT come to: `contoso/hq, internet:x.example` or `MAIL tls-needed`.
async fn answer(inquiry: &Inquiry, ip: &str, shown: Shown, sender: &str, recipient: &str) -> String {
    let (rules, peer) = (inquiry.rules(), peer(ip, shown));
    let sender = (!sender.is_empty()).then(|| Address::parse(sender).expect("a sender"));
    let sender = sender.as_ref().map(Address::domain);
    let mut trail = Trail::on();
    let attributed = inquiry.attribute(&rules, &peer, sender, Door::Regular, &mut trail).await;
    assert!(!trail.into_steps().is_empty(), "every attribution leaves a trail");
    let Attributed { attribution, via } = match attributed {
        Ok(attributed) => attributed,
        Err(reason) => return format!("MAIL {}", reason.word()),
    };
    let asked = Asked::Mailbox(Address::parse(recipient).expect("a recipient"));
    let circumstances = Circumstances {
        attribution: &attribution,
        via: via.as_ref(),
        peer: &peer,
        sender,
        door: Door::Regular,
        region_so_far: None,
    };
    match inquiry.admit(&rules, &asked, &circumstances, &mut Trail::off()).await {
        Ok((_, place)) => format!("{attribution}, {}", place.next_hop.name),
        Err(refused) => format!("{attribution}, RCPT {}", refused.reason.word()),
    }
}

type Row = (&'static str, Shown, &'static str, &'static str, &'static str);

async fn holds(rows: &[Row]) {
    let inquiry = inquiry();
    for (ip, shown, sender, recipient, expected) in rows {
        let found = answer(&inquiry, ip, *shown, sender, recipient).await;
        assert_eq!(found, *expected, "{ip} {shown:?} <{sender}> <{recipient}>");
    }
}

const ANNA: &str = "anna@contoso.com";
const BOB: &str = "bob@fabrikam.com";
const FOREIGN: &str = "x@foreign.example";
/// In no connector's network.
const STRANGER: &str = "203.0.113.99";

#[tokio::test]
async fn rule_30_a_certificate_makes_a_client_its_tenants_whatever_the_sender() {
    let hq = Tls(&["mail.contoso.com"]);
    holds(&[
        (STRANGER, hq, ANNA, FOREIGN, "contoso/hq, internet:foreign.example"),
        (STRANGER, hq, FOREIGN, FOREIGN, "contoso/hq, internet:foreign.example"),
        (STRANGER, hq, "", FOREIGN, "contoso/hq, internet:foreign.example"),
        (STRANGER, hq, BOB, FOREIGN, "contoso/hq, internet:foreign.example"),
        (STRANGER, hq, FOREIGN, ANNA, "contoso/hq, store:EUR"),
        (STRANGER, hq, FOREIGN, "nobody@contoso.com", "contoso/hq, RCPT unknown-recipient"),
        // Section 6: a domain that enters elsewhere is relayed there.
        (STRANGER, hq, ANNA, BOB, "contoso/hq, relay:NAM"),
        // Rule 38.
        (STRANGER, hq, ANNA, "x@supplier.example", "contoso/hq, smarthost:contoso/to-relay"),
        // The wildcard of a connector covers every depth, if its own domain is accepted.
        (
            STRANGER,
            Tls(&["a.b.relay.contoso.com"]),
            FOREIGN,
            FOREIGN,
            "contoso/any, internet:foreign.example",
        ),
        (STRANGER, Tls(&["*.relay.contoso.com"]), FOREIGN, FOREIGN, "contoso/any, internet:foreign.example"),
        (STRANGER, Tls(&["a.wild.contoso.com"]), FOREIGN, FOREIGN, "incoming, RCPT relay-denied"),
        // A certificate comes before the address.
        (
            "198.51.100.7",
            Tls(&["mail.fabrikam.com"]),
            ANNA,
            FOREIGN,
            "fabrikam/shared, internet:foreign.example",
        ),
        // A certificate that does not count is as none.
        (STRANGER, Tls(&[]), FOREIGN, FOREIGN, "incoming, RCPT relay-denied"),
        (STRANGER, Tls(&["mail.foreign.example"]), FOREIGN, FOREIGN, "incoming, RCPT relay-denied"),
    ])
    .await;
}

#[tokio::test]
async fn rule_30_the_most_exact_name_wins_then_the_senders_tenant() {
    let both = Tls(&["mail.fabrikam.com", "mail.contoso.com"]);
    let deep = Tls(&["a.relay.contoso.com", "mail.fabrikam.com"]);
    holds(&[
        (STRANGER, deep, FOREIGN, FOREIGN, "fabrikam/shared, internet:foreign.example"),
        // The name itself before its parent, whosever the sender.
        (STRANGER, Tls(&["mx.fabrikam.com"]), BOB, FOREIGN, "subsidiary/mx, internet:foreign.example"),
        (STRANGER, both, ANNA, FOREIGN, "contoso/hq, internet:foreign.example"),
        (STRANGER, both, BOB, FOREIGN, "fabrikam/shared, internet:foreign.example"),
        (STRANGER, both, "", FOREIGN, "fabrikam/shared, internet:foreign.example"),
    ])
    .await;
}

#[tokio::test]
async fn rule_31_a_certificate_name_needs_itself_or_its_parent_accepted() {
    let deep = Tls(&["h.sub.contoso.com"]);
    holds(&[
        (STRANGER, deep, FOREIGN, FOREIGN, "incoming, RCPT relay-denied"),
        (STRANGER, deep, FOREIGN, ANNA, "incoming, store:EUR"),
        ("198.51.100.7", deep, ANNA, FOREIGN, "contoso/hq, internet:foreign.example"),
    ])
    .await;
}

#[tokio::test]
async fn sender_domains_narrow_a_connector() {
    let sales = Tls(&["sales.contoso.com"]);
    let own = "x@a.relay.contoso.com";
    holds(&[
        (STRANGER, sales, own, FOREIGN, "contoso/sales, internet:foreign.example"),
        ("198.51.100.40", PlainText, own, FOREIGN, "contoso/sales, internet:foreign.example"),
        (STRANGER, sales, FOREIGN, FOREIGN, "incoming, RCPT relay-denied"),
        (STRANGER, sales, "", FOREIGN, "incoming, RCPT relay-denied"),
        ("198.51.100.40", PlainText, ANNA, FOREIGN, "MAIL direct-send-forbidden"),
    ])
    .await;
}

#[tokio::test]
async fn rules_32_to_34_an_address_speaks_for_its_tenants_senders_only() {
    let hq = "198.51.100.7";
    holds(&[
        (hq, PlainText, ANNA, FOREIGN, "contoso/hq, internet:foreign.example"),
        ("::ffff:198.51.100.7", PlainText, ANNA, FOREIGN, "contoso/hq, internet:foreign.example"),
        (hq, PlainText, "x@a.relay.contoso.com", FOREIGN, "contoso/hq, internet:foreign.example"),
        // The network of one tenant within another's: the sender says whose.
        (hq, PlainText, BOB, FOREIGN, "fabrikam/shared, internet:foreign.example"),
        ("198.51.100.9", PlainText, BOB, FOREIGN, "fabrikam/shared, internet:foreign.example"),
        (hq, PlainText, FOREIGN, FOREIGN, "incoming, RCPT relay-denied"),
        (hq, PlainText, "x@sub.contoso.com", FOREIGN, "incoming, RCPT relay-denied"),
        (hq, PlainText, "", FOREIGN, "incoming, RCPT relay-denied"),
        (hq, PlainText, FOREIGN, ANNA, "incoming, store:EUR"),
        (hq, PlainText, "", ANNA, "incoming, store:EUR"),
    ])
    .await;
}

#[tokio::test]
async fn rule_35_a_partners_domain_comes_with_what_its_connector_asks_for() {
    let (bank, sub) = ("x@bank.example", "x@a.bank.example");
    let broker = "x@broker.example";
    holds(&[
        ("203.0.113.15", PlainText, bank, ANNA, "incoming, store:EUR"),
        ("203.0.113.16", PlainText, bank, ANNA, "incoming, RCPT partner-restricted"),
        ("203.0.113.16", PlainText, sub, ANNA, "incoming, RCPT partner-restricted"),
        ("2001:db8::1", PlainText, bank, ANNA, "incoming, RCPT partner-restricted"),
        (STRANGER, Tls(&["mx.broker.example"]), broker, ANNA, "incoming, store:EUR"),
        (STRANGER, Tls(&["mx2.broker.example"]), broker, ANNA, "incoming, store:EUR"),
        (STRANGER, Tls(&["mx3.broker.example"]), broker, ANNA, "incoming, RCPT partner-restricted"),
        (STRANGER, Tls(&[]), broker, ANNA, "incoming, RCPT partner-restricted"),
        (STRANGER, PlainText, FOREIGN, ANNA, "incoming, store:EUR"),
        // The recipient's tenant decides, and whether there is one comes first.
        ("203.0.113.16", PlainText, bank, BOB, "incoming, RCPT wrong-region"),
        ("203.0.113.16", PlainText, bank, FOREIGN, "incoming, RCPT relay-denied"),
        // Before the recipient: nobody learns who exists.
        ("203.0.113.16", PlainText, bank, "nobody@contoso.com", "incoming, RCPT partner-restricted"),
        // The tenant's own servers pass on what they were sent.
        (STRANGER, Tls(&["mail.contoso.com"]), bank, ANNA, "contoso/hq, store:EUR"),
    ])
    .await;
}

#[tokio::test]
async fn rule_35_a_tenant_may_be_reached_through_its_gateway_only() {
    let locked = "x@locked.example";
    holds(&[
        (STRANGER, Tls(&[]), FOREIGN, locked, "incoming, RCPT partner-restricted"),
        (STRANGER, PlainText, "", locked, "incoming, RCPT partner-restricted"),
        // Past the gateway comes rule 16.
        (STRANGER, Tls(&["a.gateway.example"]), FOREIGN, locked, "incoming, RCPT no-subscription"),
        (STRANGER, Tls(&["*.gateway.example"]), "", locked, "incoming, RCPT no-subscription"),
        (STRANGER, PlainText, "x@friend.example", locked, "incoming, RCPT no-subscription"),
        // Another tenant's servers are strangers here.
        (STRANGER, Tls(&["mail.contoso.com"]), ANNA, locked, "contoso/hq, RCPT partner-restricted"),
    ])
    .await;
}

#[tokio::test]
async fn rule_36_a_tenants_own_name_from_a_stranger() {
    let letters = "203.0.113.50";
    holds(&[
        (STRANGER, PlainText, ANNA, ANNA, "MAIL direct-send-forbidden"),
        (STRANGER, Tls(&["mail.foreign.example"]), ANNA, BOB, "MAIL direct-send-forbidden"),
        (STRANGER, PlainText, "x@a.relay.contoso.com", ANNA, "MAIL direct-send-forbidden"),
        // Another tenant's address does not speak for this one's senders.
        ("198.51.100.9", PlainText, ANNA, ANNA, "MAIL direct-send-forbidden"),
        // No domain of the tenant's; a tenant that does not mind; the null sender.
        (STRANGER, PlainText, "x@sub.contoso.com", ANNA, "incoming, store:EUR"),
        (STRANGER, PlainText, BOB, ANNA, "incoming, store:EUR"),
        (STRANGER, PlainText, "", ANNA, "incoming, store:EUR"),
        // A service that the tenant lets send in its name.
        (letters, PlainText, ANNA, ANNA, "incoming, store:EUR"),
        (letters, PlainText, ANNA, FOREIGN, "incoming, RCPT relay-denied"),
        (letters, PlainText, "x@relay.contoso.com", ANNA, "MAIL direct-send-forbidden"),
        (STRANGER, Tls(&["a.letters.example"]), ANNA, ANNA, "incoming, store:EUR"),
    ])
    .await;
}

#[tokio::test]
async fn rule_37_a_connector_that_requires_tls() {
    let secure = "198.51.100.17";
    let secretive = "x@secretive.example";
    holds(&[
        (secure, PlainText, ANNA, FOREIGN, "MAIL tls-needed"),
        // Of a tenant's own networks the most exact.
        ("198.18.0.20", PlainText, ANNA, FOREIGN, "MAIL tls-needed"),
        ("198.18.0.20", PlainText, FOREIGN, ANNA, "MAIL tls-needed"),
        ("198.18.0.30", PlainText, ANNA, FOREIGN, "contoso/lab, internet:foreign.example"),
        ("198.18.0.30", PlainText, FOREIGN, ANNA, "incoming, store:EUR"),
        (secure, PlainText, FOREIGN, ANNA, "MAIL tls-needed"),
        (secure, PlainText, "", ANNA, "MAIL tls-needed"),
        (secure, Tls(&[]), ANNA, FOREIGN, "contoso/secure, internet:foreign.example"),
        (secure, Tls(&[]), FOREIGN, ANNA, "incoming, store:EUR"),
        ("198.18.0.20", PlainText, BOB, ANNA, "MAIL tls-needed"),
        // The network's other tenant does not ask for it.
        (secure, PlainText, BOB, FOREIGN, "fabrikam/shared, internet:foreign.example"),
        // A partner's connector speaks for the recipient's tenant.
        (STRANGER, PlainText, secretive, ANNA, "incoming, RCPT tls-needed"),
        (STRANGER, Tls(&[]), secretive, ANNA, "incoming, store:EUR"),
        (STRANGER, PlainText, secretive, BOB, "incoming, RCPT wrong-region"),
    ])
    .await;
}

#[tokio::test]
async fn section_6_an_edge_of_another_region_is_asked_nothing() {
    holds(&[
        ("192.0.2.9", PlainText, ANNA, ANNA, "edge:NAM, store:EUR"),
        ("192.0.2.9", PlainText, "x@bank.example", ANNA, "edge:NAM, store:EUR"),
        ("192.0.2.9", Tls(&["mail.contoso.com"]), ANNA, FOREIGN, "edge:NAM, RCPT relay-denied"),
    ])
    .await;
}

#[tokio::test]
async fn rule_11_a_legacy_listener_attributes_nobody() {
    let inquiry = inquiry();
    let rules = inquiry.rules();
    let sender = Domain::parse("contoso.com").expect("a domain");
    for peer in [peer(STRANGER, PlainText), peer(STRANGER, Tls(&["mail.contoso.com"]))] {
        let attributed =
            inquiry.attribute(&rules, &peer, Some(&sender), Door::Legacy, &mut Trail::off()).await;
        assert_eq!(attributed, Ok(Attributed::default()));
    }
}

#[tokio::test]
async fn rule_89_originating_mail_keeps_its_tenants_way_out() {
    let inquiry = inquiry();
    let recipient = Address::parse("x@supplier.example").expect("an address");
    for (transport, tenant, expected) in [
        (Transport::Originating, Some("contoso"), Ok("smarthost:contoso/to-relay".to_owned())),
        (Transport::Originating, Some("fabrikam"), Ok("internet:supplier.example".to_owned())),
        (Transport::Originating, Some("gone"), Ok("internet:supplier.example".to_owned())),
        (Transport::Incoming, None, Err(Reason::RelayDenied)),
    ] {
        let envelope = Envelope {
            body: crate::mail::BodyType::SevenBit,
            transport,
            tenant: tenant.map(Into::into),
            ..Envelope::new(crate::mail::MessageId::from_raw(1), Clock::System.now(), None, Vec::new())
        };
        let place = inquiry.place(&envelope, &recipient).await;
        assert_eq!(place.map(|place| place.next_hop.name.to_string()), expected, "{tenant:?}");
    }
}
