//! The rules of the specification as a table: facts in, place or reason out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::Timestamp;
use crate::mail::{
    AcceptedDomain, ConnectorKind, DomainKind, DomainPattern, Endpoint, InboundConnector, Licenses, Lookup,
    NextHop, NextHopName, OutboundConnector, Peer, Residency, Skipping, Tenant, TlsLevel, Transport, User,
};

fn region(code: &str) -> Region {
    Region::parse(code).expect("a region code")
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000)
}

/// A node of EUR that reaches NAM and GBR through their edges, and no other region.
fn rules() -> Rules {
    let hop = |name, endpoint: &str| NextHop {
        name,
        endpoints: Arc::new([Endpoint::parse(endpoint).expect("an endpoint")]),
        tls: TlsLevel::Verify,
        ca: None,
    };
    let routes = BTreeMap::from([
        (region("EUR"), hop(NextHopName::Store(region("EUR")), "lmtp://store.eur.example.net")),
        (region("NAM"), hop(NextHopName::Relay(region("NAM")), "smtp://edge.nam.example.net")),
        (region("GBR"), hop(NextHopName::Relay(region("GBR")), "smtp://edge.gbr.example.net")),
    ]);
    Rules {
        node_region: region("EUR"),
        hostname: Domain::parse("edge1.eur.example.net").expect("a name"),
        mixed_regions: MixedRegions::Defer,
        propagation_window: Duration::from_secs(30 * 60),
        routes,
        inline: BTreeMap::new(),
        peers: vec![
            (region("NAM"), PeerPattern::Network("192.0.2.0/24".parse().expect("a network"))),
            (
                region("GBR"),
                PeerPattern::Certificate(DomainPattern::parse("edge.gbr.example.net").expect("a name")),
            ),
        ],
        postmaster: None,
        ipv6: crate::auth::Ipv6::Enforce,
    }
}

fn tenant(default: &str, allowed: &[&str]) -> Tenant {
    Tenant {
        id: "contoso".into(),
        default_region: region(default),
        allowed_regions: allowed.iter().map(|code| region(code)).collect(),
        multi_geo: true,
        in_region_routing: true,
        subscription: true,
        residency: Residency::Documented,
        accept_ipv6: false,
        reject_direct_send: false,
        route_all_via_on_premises: false,
        messages_per_minute: None,
        inbound_connectors: Vec::new(),
        outbound_connectors: Vec::new(),
    }
}

fn domain(tenant: Tenant, mail_flow_region: Option<&str>) -> AcceptedDomain {
    AcceptedDomain {
        name: Domain::parse("contoso.com").expect("a domain"),
        tenant: Arc::new(tenant),
        kind: DomainKind::Authoritative,
        match_subdomains: false,
        mail_flow_region: mail_flow_region.map(region),
        previous_mail_flow_region: None,
        mail_flow_region_changed_at: None,
        sending_to_disabled: false,
        accept_ipv6: None,
    }
}

fn anna() -> Address {
    Address::parse("anna@contoso.com").expect("an address")
}

fn user(pdl: Option<&str>) -> User {
    User { primary: anna(), preferred_data_location: pdl.map(Into::into), licenses: Licenses::default() }
}

/// One recipient's facts, changed by each row where it differs from the plain case.
struct Case {
    rules: Rules,
    domain: Lookup<AcceptedDomain>,
    user: Lookup<User>,
    attribution: Attribution,
    via: Option<Via>,
    door: Door,
    region_so_far: Option<Region>,
    ip: std::net::IpAddr,
    reverse_name: Lookup<()>,
    recipient: Address,
}

impl Case {
    fn new(domain: AcceptedDomain, user: User) -> Self {
        Self {
            rules: rules(),
            domain: Lookup::Found(domain),
            user: Lookup::Found(user),
            attribution: Attribution::Incoming,
            via: None,
            door: Door::Regular,
            region_so_far: None,
            ip: "203.0.113.1".parse().expect("an address"),
            reverse_name: Lookup::Absent,
            recipient: anna(),
        }
    }

    fn decide(self) -> Result<Place, Reason> {
        let domain = match self.domain {
            Lookup::Found(domain) => Lookup::Found(Arc::new(domain)),
            Lookup::Absent => Lookup::Absent,
            Lookup::Failed => Lookup::Failed,
        };
        let facts = EntryFacts {
            recipient_domain: self.recipient.domain(),
            domain,
            attribution: &self.attribution,
            via: None,
            peer: &Peer::new(self.ip),
            sender: None,
            door: self.door,
            region_so_far: self.region_so_far,
            reverse_name: self.reverse_name,
            now: now(),
        };
        let mut trail = Trail::on();
        let place = decide_entry(&self.rules, &facts, &mut trail).and_then(|entry| {
            decide_home(
                &self.rules,
                &entry,
                &self.recipient,
                self.user.as_ref(),
                &Came::by(&self.attribution, self.via.as_ref()),
                &mut trail,
            )
        });
        assert!(!trail.into_steps().is_empty(), "every decision leaves a trail");
        place
    }

    fn hop(self) -> Result<String, Reason> {
        self.decide().map(|place| place.next_hop.name.to_string())
    }

    fn irr(self) -> String {
        self.decide().expect("accepted").irr.word().to_owned()
    }
}

fn contoso() -> AcceptedDomain {
    domain(tenant("NAM", &["NAM", "EUR", "GBR"]), Some("EUR"))
}

#[test]
fn rules_1_and_17_and_20_a_domain_is_absent_or_its_lookup_failed() {
    let with = |lookup| Case { domain: lookup, ..Case::new(contoso(), user(None)) }.hop();
    assert_eq!(with(Lookup::Absent), Err(Reason::RelayDenied));
    assert_eq!(with(Lookup::Failed), Err(Reason::DomainLookupFailed));
}

#[test]
fn rule_4_and_18_a_recipient_is_absent_or_its_lookup_failed() {
    let with = |lookup| Case { user: lookup, ..Case::new(contoso(), user(None)) }.hop();
    assert_eq!(with(Lookup::Absent), Err(Reason::UnknownRecipient));
    assert_eq!(with(Lookup::Failed), Err(Reason::RecipientLookupFailed));
}

fn outbound(name: &str, recipient_domains: &[&str]) -> OutboundConnector {
    let pattern = |text: &&str| DomainPattern::parse(text).expect("a pattern");
    OutboundConnector {
        name: name.into(),
        kind: ConnectorKind::OnPremises,
        recipient_domains: recipient_domains.iter().map(pattern).collect(),
        all_accepted_domains: false,
        smart_hosts: Arc::new([]),
        tls: TlsLevel::Verify,
        ca: None,
        route_all_via_on_premises: false,
        returns_by: None,
    }
}

#[test]
fn rule_5_an_unknown_recipient_of_an_internal_relay_domain_goes_to_its_connector() {
    let mut owner = tenant("NAM", &["NAM", "EUR"]);
    let relay = |owner: Tenant| {
        let domain = AcceptedDomain { kind: DomainKind::InternalRelay, ..domain(owner, Some("EUR")) };
        Case { user: Lookup::Absent, ..Case::new(domain, user(None)) }.hop()
    };
    assert_eq!(relay(owner.clone()), Err(Reason::NoRoute));
    owner.outbound_connectors =
        ["*", "contoso.com", "*.com"].iter().map(|pattern| Arc::new(outbound(pattern, &[pattern]))).collect();
    assert_eq!(relay(owner), Ok("smarthost:contoso/contoso.com".to_owned()));
}

#[test]
fn rule_6_ingress_node_and_home_agree() {
    let case = || Case::new(contoso(), user(Some("EUR")));
    assert_eq!(case().hop(), Ok("store:EUR".to_owned()));
    assert_eq!(case().irr(), "applied");
}

#[test]
fn rule_7_the_node_is_not_among_the_allowed_regions() {
    let case = Case::new(domain(tenant("NAM", &["NAM", "GBR"]), Some("GBR")), user(Some("GBR")));
    assert_eq!(case.hop(), Err(Reason::WrongRegion));
}

#[test]
fn rule_8_an_allowed_region_accepts_and_relays_to_the_home_region() {
    let case = Case::new(domain(tenant("NAM", &["NAM", "EUR", "GBR"]), Some("GBR")), user(Some("GBR")));
    assert_eq!(case.hop(), Ok("relay:GBR".to_owned()));
    // In-region routing on, no mail_flow_region: the default region is the ingress, and EUR is allowed.
    let case = Case::new(domain(tenant("NAM", &["NAM", "EUR"]), None), user(Some("EUR")));
    assert_eq!(case.hop(), Ok("store:EUR".to_owned()));
}

#[test]
fn rule_9_without_in_region_routing_the_default_region_takes_everything() {
    let mut owner = tenant("EUR", &["NAM", "EUR"]);
    owner.in_region_routing = false;
    let case = || Case::new(domain(owner.clone(), Some("NAM")), user(Some("NAM")));
    assert_eq!(case().hop(), Ok("relay:NAM".to_owned()));
    assert_eq!(case().irr(), "not-enabled");
}

#[test]
fn rule_10_without_in_region_routing_allowed_regions_do_not_help() {
    for (multi_geo, in_region_routing) in [(true, false), (false, true), (false, false)] {
        let owner = Tenant { multi_geo, in_region_routing, ..tenant("NAM", &["NAM", "EUR"]) };
        let case = Case::new(domain(owner, Some("EUR")), user(Some("EUR")));
        assert_eq!(case.hop(), Err(Reason::WrongRegion), "multi_geo {multi_geo}, irr {in_region_routing}");
    }
}

#[test]
fn rule_11_a_legacy_listener_takes_nothing() {
    let case = || Case { door: Door::Legacy, ..Case::new(contoso(), user(Some("EUR"))) };
    assert_eq!(case().hop(), Err(Reason::WrongRegion));
    assert_eq!(Case { domain: Lookup::Absent, ..case() }.hop(), Err(Reason::WrongRegion));
}

#[test]
fn rules_12_and_13_and_licences_mail_flows_and_the_reason_is_known() {
    assert_eq!(Case::new(contoso(), user(Some("NAM"))).hop(), Ok("relay:NAM".to_owned()));
    assert_eq!(Case::new(contoso(), user(Some("NAM"))).irr(), "pdl-mismatch");
    let elsewhere = Address::parse("anna@other.example").expect("an address");
    let alias = User { primary: elsewhere, ..user(Some("EUR")) };
    assert_eq!(Case::new(contoso(), alias).irr(), "not-primary-domain");
    let unlicensed = User { licenses: Licenses { multi_geo: false, mail: true }, ..user(Some("EUR")) };
    assert_eq!(Case::new(contoso(), unlicensed).irr(), "missing-license");
}

#[test]
fn section_0_a_pdl_that_is_unset_unknown_or_not_allowed_means_the_default_region() {
    for pdl in [None, Some("NAN"), Some("JPN"), Some("not a code")] {
        assert_eq!(Case::new(contoso(), user(pdl)).hop(), Ok("relay:NAM".to_owned()), "{pdl:?}");
    }
    assert_eq!(Case::new(contoso(), user(Some("eur"))).hop(), Ok("store:EUR".to_owned()));
}

#[test]
fn rule_14_a_later_recipient_of_another_region_waits_unless_split() {
    let case = || Case { region_so_far: Some(region("GBR")), ..Case::new(contoso(), user(Some("EUR"))) };
    assert_eq!(case().hop(), Err(Reason::MixedRegions));
    let mut split = case();
    split.rules.mixed_regions = MixedRegions::Split;
    assert_eq!(split.hop(), Ok("store:EUR".to_owned()));
    // It comes after rules 7 to 10: what does not enter here at all is told so.
    let wrong = domain(tenant("NAM", &["NAM"]), Some("NAM"));
    let case = Case { region_so_far: Some(region("EUR")), ..Case::new(wrong, user(None)) };
    assert_eq!(case.hop(), Err(Reason::WrongRegion));
}

#[test]
fn rule_16_no_subscription_comes_before_the_region() {
    let owner = Tenant { subscription: false, ..tenant("NAM", &["NAM"]) };
    assert_eq!(Case::new(domain(owner, Some("NAM")), user(None)).hop(), Err(Reason::NoSubscription));
}

#[test]
fn rule_19_a_home_region_without_a_route() {
    let case = Case::new(domain(tenant("JPN", &["EUR", "JPN"]), Some("EUR")), user(Some("JPN")));
    assert_eq!(case.hop(), Err(Reason::NoRoute));
}

#[test]
fn rule_21_the_old_region_accepts_while_a_change_propagates() {
    let moved = |minutes_ago: i64, previous: Option<&str>| AcceptedDomain {
        mail_flow_region_changed_at: Some(Timestamp::from_millis(now().millis() - minutes_ago * 60_000)),
        previous_mail_flow_region: previous.map(region),
        ..domain(tenant("NAM", &["NAM", "GBR"]), Some("GBR"))
    };
    let hop = |domain| Case::new(domain, user(Some("GBR"))).hop();
    assert_eq!(hop(moved(29, Some("EUR"))), Ok("relay:GBR".to_owned()));
    assert_eq!(hop(moved(30, Some("EUR"))), Err(Reason::WrongRegion));
    assert_eq!(hop(moved(1, Some("NAM"))), Err(Reason::WrongRegion));
    assert_eq!(hop(moved(1, None)), Err(Reason::WrongRegion));
    assert_eq!(hop(moved(-29, Some("EUR"))), Ok("relay:GBR".to_owned()), "a clock that runs ahead");
    assert_eq!(hop(moved(-30, Some("EUR"))), Err(Reason::WrongRegion));
}

#[test]
fn rule_22_strict_residency_accepts_only_what_lives_here() {
    let strict =
        |default: &str| Tenant { residency: Residency::Strict, ..tenant(default, &["NAM", "EUR", "GBR"]) };
    let hop = |flow: &str, user| Case::new(domain(strict("NAM"), Some(flow)), user).hop();
    assert_eq!(hop("EUR", user(Some("EUR"))), Ok("store:EUR".to_owned()));
    assert_eq!(hop("EUR", user(Some("GBR"))), Err(Reason::WrongRegion));
    // Told the same where no way to the home region is configured.
    let strict_jpn = Tenant { residency: Residency::Strict, ..tenant("NAM", &["NAM", "EUR", "JPN"]) };
    let nowhere = Case::new(domain(strict_jpn, Some("EUR")), user(Some("JPN")));
    assert_eq!(nowhere.hop(), Err(Reason::WrongRegion));
    // Outside the ingress region the domain alone answers: nobody is looked up.
    let outside = Case { user: Lookup::Failed, ..Case::new(domain(strict("NAM"), Some("GBR")), user(None)) };
    assert_eq!(outside.hop(), Err(Reason::WrongRegion));
}

#[test]
fn rule_23_sending_disabled_is_told_only_where_the_domain_enters() {
    let disabled = AcceptedDomain { sending_to_disabled: true, ..contoso() };
    assert_eq!(Case::new(disabled, user(Some("EUR"))).hop(), Err(Reason::SendingDisabled));
    let owner = tenant("NAM", &["NAM"]);
    let elsewhere = AcceptedDomain { sending_to_disabled: true, ..domain(owner, Some("NAM")) };
    assert_eq!(Case::new(elsewhere, user(None)).hop(), Err(Reason::WrongRegion));
}

#[test]
fn section_6_a_peer_edge_hands_over_and_is_never_relayed_onward() {
    let peer = || Attribution::PeerEdge(region("NAM"));
    let wrong_here = || domain(tenant("NAM", &["NAM"]), Some("NAM"));
    let from_peer = |domain, pdl| Case { attribution: peer(), ..Case::new(domain, user(pdl)) };
    assert_eq!(from_peer(contoso(), Some("EUR")).hop(), Ok("store:EUR".to_owned()));
    assert_eq!(from_peer(contoso(), Some("GBR")).hop(), Err(Reason::NoRoute));
    assert_eq!(from_peer(wrong_here(), None).hop(), Err(Reason::NoRoute));
    let mixed = Case { region_so_far: Some(region("GBR")), ..from_peer(contoso(), Some("EUR")) };
    assert_eq!(mixed.hop(), Ok("store:EUR".to_owned()));
    let stranger = Case { domain: Lookup::Absent, ..from_peer(contoso(), None) };
    assert_eq!(stranger.hop(), Err(Reason::RelayDenied));
}

#[test]
fn section_6_peers_are_recognised_by_network_or_certificate() {
    let rules = rules();
    let peer = |ip: &str, names: &[&str]| {
        let mut peer = Peer::new(ip.parse().expect("an address"));
        peer.tls = Some(crate::mail::TlsFacts {
            verified_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        });
        peer_edge(&rules, &peer, &mut Trail::off())
    };
    let edge_of = |code| Some(Attribution::PeerEdge(region(code)));
    assert_eq!(peer("192.0.2.9", &[]), edge_of("NAM"));
    assert_eq!(peer("::ffff:192.0.2.9", &[]), edge_of("NAM"));
    assert_eq!(peer("198.51.100.1", &["Edge.GBR.example.net"]), edge_of("GBR"));
    assert_eq!(peer("198.51.100.1", &["*.gbr.example.net"]), None);
    assert_eq!(peer("198.51.100.1", &["other.example.net"]), None);
}

fn connector(name: &str, certificate_names: &[&str]) -> InboundConnector {
    InboundConnector {
        name: name.into(),
        kind: ConnectorKind::OnPremises,
        certificate_names: certificate_names
            .iter()
            .map(|name| DomainPattern::parse(name).expect("a name"))
            .collect(),
        source_ips: Vec::new(),
        sender_domains: vec![DomainPattern::All],
        require_tls: false,
        restrict_to_ip: false,
        restrict_to_certificate: false,
        associated_domains: Vec::new(),
        trusted_headers: false,
        skipping: Skipping::default(),
    }
}

fn claim(pattern: &str, vouched: Vec<Lookup<Arc<AcceptedDomain>>>) -> Claim {
    Claim { pattern: DomainPattern::parse(pattern).expect("a name"), vouched }
}

#[test]
fn rules_30_and_31_which_domains_vouch_for_a_certificate_name() {
    for (pattern, domains) in [
        ("mail.contoso.com", vec!["mail.contoso.com", "contoso.com"]),
        ("h.sub.contoso.com", vec!["h.sub.contoso.com", "sub.contoso.com"]),
        ("*.contoso.com", vec!["contoso.com"]),
        ("localhost", vec!["localhost"]),
        ("*", vec![]),
    ] {
        let pattern = DomainPattern::parse(pattern).expect("a pattern");
        let vouching: Vec<String> = vouching_domains(&pattern).map(|domain| domain.to_string()).collect();
        assert_eq!(vouching, domains, "{pattern}");
    }
}

#[test]
fn rule_20_attribution_that_cannot_look_a_domain_up_is_temporary() {
    let peer = Peer::new("203.0.113.1".parse().expect("an address"));
    let mut owner = tenant("EUR", &["EUR"]);
    owner.inbound_connectors = vec![Arc::new(connector("hq", &["mail.contoso.com"]))];
    let accepted = || Lookup::Found(Arc::new(domain(owner.clone(), None)));
    let attributed = |claims, sender_domain| {
        let facts = ClientFacts { peer: &peer, sender: None, sender_domain, claims, at_address: None };
        attribute(&facts, &mut Trail::off()).map(|attributed| attributed.attribution.transport())
    };
    // The sender's domain, unless the certificate is enough.
    assert_eq!(attributed(Vec::new(), Lookup::Failed), Err(Reason::DomainLookupFailed));
    let by_parent = || claim("mail.contoso.com", vec![Lookup::Absent, accepted()]);
    assert_eq!(attributed(vec![by_parent()], Lookup::Failed), Ok(Transport::Originating));
    // The certificate's own domain, unless its other one vouches already.
    let failing = |other| vec![claim("mail.contoso.com", vec![Lookup::Failed, other])];
    assert_eq!(attributed(failing(Lookup::Absent), Lookup::Absent), Err(Reason::DomainLookupFailed));
    assert_eq!(attributed(failing(accepted()), Lookup::Absent), Ok(Transport::Originating));
    let unknown = vec![claim("mail.contoso.com", vec![Lookup::Absent, Lookup::Absent])];
    assert_eq!(attributed(unknown, Lookup::Absent), Ok(Transport::Incoming));
}

#[test]
fn rules_35_to_37_are_not_asked_of_edges_of_other_regions() {
    let peer = Peer::new("192.0.2.9".parse().expect("an address"));
    let partner = InboundConnector {
        kind: ConnectorKind::Partner,
        require_tls: true,
        restrict_to_ip: true,
        ..connector("gateway", &[])
    };
    let mut owner = tenant("EUR", &["EUR"]);
    owner.inbound_connectors = vec![Arc::new(partner)];
    let from = |attribution| {
        let case = Case { attribution, ..Case::new(domain(owner.clone(), Some("EUR")), user(Some("EUR"))) };
        case.hop()
    };
    assert_eq!(from(Attribution::Incoming), Err(Reason::PartnerRestricted));
    assert_eq!(from(Attribution::PeerEdge(region("NAM"))), Ok("store:EUR".to_owned()));
    let known = peer_edge(&rules(), &peer, &mut Trail::off());
    assert_eq!(known, Some(Attribution::PeerEdge(region("NAM"))));
}

#[test]
fn section_6_originating_clients_reach_foreign_and_elsewhere_hosted_domains() {
    let owner = Arc::new(tenant("EUR", &["EUR"]));
    let originating = || Attribution::Originating { tenant: owner.clone(), connector: "hq".into() };
    let elsewhere = domain(tenant("NAM", &["NAM"]), Some("NAM"));
    let case = Case { attribution: originating(), ..Case::new(elsewhere, user(None)) };
    assert_eq!(case.hop(), Ok("relay:NAM".to_owned()));
    let foreign =
        Case { attribution: originating(), domain: Lookup::Absent, ..Case::new(contoso(), user(None)) };
    assert_eq!(foreign.hop(), Ok("internet:contoso.com".to_owned()));
}

fn by(owner: &Arc<Tenant>, inbound: &str) -> Via {
    let connector = owner.inbound_connectors.iter().find(|one| *one.name == *inbound).expect("a connector");
    Via { tenant: owner.clone(), connector: connector.clone(), proof: Proof::Address }
}

#[test]
fn rule_38_the_most_specific_connector_takes_it() {
    let owner = Tenant {
        outbound_connectors: vec![
            Arc::new(OutboundConnector { kind: ConnectorKind::Partner, ..outbound("all", &["*"]) }),
            Arc::new(OutboundConnector { all_accepted_domains: true, ..outbound("own", &[]) }),
            Arc::new(outbound("below", &["*.contoso.com"])),
            Arc::new(outbound("deeper", &["*.hq.contoso.com", "*.foreign.example"])),
            Arc::new(outbound("exact", &["mail.hq.contoso.com"])),
        ],
        ..tenant("EUR", &["EUR"])
    };
    for (domain, own, foreign) in [
        ("contoso.com", "own", "all"),
        ("x.contoso.com", "below", "below"),
        ("hq.contoso.com", "below", "below"),
        ("x.hq.contoso.com", "deeper", "deeper"),
        ("mail.hq.contoso.com", "exact", "exact"),
        ("x.mail.hq.contoso.com", "deeper", "deeper"),
        ("other.example", "own", "all"),
        ("foreign.example", "own", "all"),
        ("a.foreign.example", "deeper", "deeper"),
    ] {
        let domain = Domain::parse(domain).expect("a domain");
        let name = |found: Option<&Arc<OutboundConnector>>| found.map(|one| one.name.to_string());
        assert_eq!(name(owner.outbound_connector_of_own(&domain)).as_deref(), Some(own), "{domain}");
        assert_eq!(name(owner.outbound_connector(&domain, |_| true)).as_deref(), Some(foreign), "{domain}");
    }
}

/// With rules 3 and 5: below an accepted domain its own connector counts, but for a more exact one.
#[test]
fn rule_38_below_an_accepted_domain_its_connector_counts() {
    let owner = Tenant {
        outbound_connectors: vec![
            Arc::new(outbound("all", &["*"])),
            Arc::new(outbound("parent", &["contoso.com"])),
            Arc::new(outbound("site", &["*.site.contoso.com"])),
        ],
        ..tenant("EUR", &["EUR"])
    };
    for (accepted, domain, expected) in [
        ("contoso.com", "contoso.com", "parent"),
        ("contoso.com", "a.b.contoso.com", "parent"),
        ("contoso.com", "a.site.contoso.com", "site"),
        ("other.example", "a.other.example", "all"),
    ] {
        let (accepted, domain) =
            (Domain::parse(accepted).expect(accepted), Domain::parse(domain).expect(domain));
        let found = owner.outbound_connector_below(&accepted, &domain).expect("a connector");
        assert_eq!(&*found.name, expected, "{domain}");
    }
}

/// A tenant whose mail all passes its own servers, which hand it back as `from-hq`.
fn centralised() -> Tenant {
    let partner = InboundConnector { kind: ConnectorKind::Partner, ..connector("bank", &[]) };
    Tenant {
        route_all_via_on_premises: true,
        inbound_connectors: vec![
            Arc::new(connector("from-hq", &["mail.contoso.com"])),
            Arc::new(connector("cloud", &["store.contoso.com"])),
            Arc::new(partner),
        ],
        outbound_connectors: vec![Arc::new(OutboundConnector {
            returns_by: Some("from-hq".into()),
            ..outbound("to-hq", &["*"])
        })],
        ..tenant("NAM", &["NAM", "EUR"])
    }
}

#[test]
fn rule_39_all_mail_passes_the_tenants_own_servers_once() {
    let owner = centralised();
    let shared = Arc::new(owner.clone());
    let other = Arc::new(Tenant { id: "fabrikam".into(), ..centralised() });
    let decide = |attribution: Attribution, via: Option<Via>| {
        Case { attribution, via, ..Case::new(domain(owner.clone(), Some("EUR")), user(Some("EUR"))) }.hop()
    };
    let originating =
        |owner: &Arc<Tenant>| Attribution::Originating { tenant: owner.clone(), connector: "x".into() };
    let (there, here) = (Ok("smarthost:contoso/to-hq".to_owned()), Ok("store:EUR".to_owned()));
    // From the internet, from a partner, from another tenant's servers: there first.
    assert_eq!(decide(Attribution::Incoming, None), there);
    assert_eq!(decide(Attribution::Incoming, Some(by(&other, "from-hq"))), there);
    assert_eq!(decide(originating(&other), Some(by(&other, "from-hq"))), there);
    assert_eq!(decide(originating(&shared), Some(by(&shared, "cloud"))), there);
    // It comes back by certificate or by address; or from an edge that has seen to it.
    assert_eq!(decide(Attribution::Incoming, Some(by(&shared, "from-hq"))), here);
    assert_eq!(decide(originating(&shared), Some(by(&shared, "from-hq"))), here);
    assert_eq!(decide(Attribution::PeerEdge(region("NAM")), None), here);
    // Unknown recipients and lookups that fail are answered here.
    let unknown = Case { user: Lookup::Absent, ..Case::new(domain(owner.clone(), Some("EUR")), user(None)) };
    assert_eq!(unknown.hop(), Err(Reason::UnknownRecipient));

    // Without a pair any on-premises connector is the way back, and a partner's is not.
    let mut unpaired = owner.clone();
    unpaired.outbound_connectors = vec![Arc::new(outbound("to-hq", &["*"]))];
    let decide = |via: &str| {
        let via = Some(by(&Arc::new(unpaired.clone()), via));
        Case { via, ..Case::new(domain(unpaired.clone(), Some("EUR")), user(Some("EUR"))) }.hop()
    };
    assert_eq!((decide("cloud"), decide("bank")), (here, there));

    // A way that a database lost is a way missing, never a way around.
    let lost = Tenant { outbound_connectors: Vec::new(), ..owner };
    let case = Case::new(domain(lost, Some("EUR")), user(Some("EUR")));
    assert_eq!(case.hop(), Err(Reason::NoRoute));
}

#[test]
fn what_a_tenants_servers_send_to_the_world_does_not_come_back_to_them() {
    let foreign = |owner: &Tenant, inbound: &str| {
        let owner = Arc::new(owner.clone());
        let attribution = Attribution::Originating { tenant: owner.clone(), connector: inbound.into() };
        let via = Some(by(&owner, inbound));
        Case { attribution, via, domain: Lookup::Absent, ..Case::new(contoso(), user(None)) }.hop()
    };
    let (internet, there) = (Ok("internet:contoso.com".to_owned()), Ok("smarthost:contoso/to-hq".to_owned()));
    // Rule 39, outward: from the cloud there, and from there to the world.
    assert_eq!(foreign(&centralised(), "cloud"), there);
    assert_eq!(foreign(&centralised(), "from-hq"), internet);
    let plain = |connector| Tenant {
        route_all_via_on_premises: false,
        outbound_connectors: vec![Arc::new(connector)],
        ..centralised()
    };
    assert_eq!(foreign(&plain(outbound("to-hq", &["*"])), "from-hq"), internet);
    // A partner's filter takes everything, and a domain's own connector what is named.
    let filter = OutboundConnector { kind: ConnectorKind::Partner, ..outbound("to-hq", &["*"]) };
    assert_eq!(foreign(&plain(filter), "from-hq"), there);
    assert_eq!(foreign(&plain(outbound("to-hq", &["contoso.com"])), "from-hq"), there);
}

#[test]
fn section_6_postmaster_is_always_accepted_where_its_domain_is_hosted() {
    let postmaster = Address::parse("PostMaster@contoso.com").expect("an address");
    let case = Case { recipient: postmaster, user: Lookup::Absent, ..Case::new(contoso(), user(None)) };
    assert_eq!(case.hop(), Ok("store:EUR".to_owned()));
}

#[test]
fn rule_89_the_way_on_is_decided_anew_for_what_is_already_ours() {
    let rules = rules();
    let place = |transport, domain: Lookup<AcceptedDomain>, user: Lookup<User>| {
        let domain = match domain {
            Lookup::Found(domain) => Lookup::Found(Arc::new(domain)),
            Lookup::Absent => Lookup::Absent,
            Lookup::Failed => Lookup::Failed,
        };
        let came = Came { transport, ..Came::default() };
        decide_place(&rules, &came, domain, &anna(), user.as_ref())
            .map(|place| place.next_hop.name.to_string())
    };
    let found = |pdl| (Lookup::Found(contoso()), Lookup::Found(user(pdl)));
    let (domain, moved) = found(Some("GBR"));
    assert_eq!(place(Transport::Incoming, domain, moved), Ok("relay:GBR".to_owned()));
    let (domain, moved) = found(Some("GBR"));
    assert_eq!(place(Transport::PeerEdge, domain, moved), Err(Reason::NoRoute));
    assert_eq!(place(Transport::Incoming, Lookup::Failed, Lookup::Absent), Err(Reason::DomainLookupFailed));
    assert_eq!(place(Transport::Incoming, Lookup::Absent, Lookup::Absent), Err(Reason::RelayDenied));
    assert_eq!(
        place(Transport::Notice, Lookup::Absent, Lookup::Absent),
        Ok("internet:contoso.com".to_owned())
    );
    assert_eq!(
        place(Transport::Incoming, Lookup::Found(contoso()), Lookup::Absent),
        Err(Reason::UnknownRecipient)
    );
}

/// Rules 50, 51 and 53.
#[test]
fn mail_over_ipv6_is_for_who_wants_it_and_from_who_has_a_name() {
    let tenant = |accepts| Arc::new(Tenant { accept_ipv6: accepts, ..(*contoso().tenant).clone() });
    let domain = |of_tenant, of_domain| AcceptedDomain {
        tenant: tenant(of_tenant),
        accept_ipv6: of_domain,
        ..contoso()
    };
    let refused = Reason::Ipv6NotAccepted(Domain::parse("contoso.com").expect("a domain"));
    let case = |domain| Case {
        ip: "2001:db8::25".parse().expect("an address"),
        reverse_name: Lookup::Found(()),
        ..Case::new(domain, user(Some("EUR")))
    };
    for (of_tenant, of_domain, accepted) in
        [(false, None, false), (true, None, true), (false, Some(true), true), (true, Some(false), false)]
    {
        let decided = case(domain(of_tenant, of_domain)).decide().map(|_| ());
        let due = if accepted { Ok(()) } else { Err(refused.clone()) };
        assert_eq!(decided, due, "tenant {of_tenant}, domain {of_domain:?}");
    }
    // An IPv4 client is not asked.
    assert!(Case::new(domain(false, None), user(Some("EUR"))).decide().is_ok());
    for unnamed in [Lookup::Absent, Lookup::Failed] {
        let case = Case { reverse_name: unnamed, ..case(domain(true, None)) };
        assert_eq!(case.decide(), Err(Reason::Ipv6WithoutPtr));
    }
    // Rule 53, and edges of our own.
    for attribution in [
        Attribution::Originating { tenant: tenant(false), connector: "hq".into() },
        Attribution::PeerEdge(region("NAM")),
    ] {
        let case = Case { attribution, reverse_name: Lookup::Absent, ..case(domain(false, None)) };
        assert!(case.decide().is_ok());
    }
    // The dry run.
    for (domain, reverse_name) in
        [(domain(false, None), Lookup::Found(())), (domain(true, None), Lookup::Absent)]
    {
        let rules = Rules { ipv6: crate::auth::Ipv6::Record, ..rules() };
        assert!(Case { rules, reverse_name, ..case(domain) }.decide().is_ok());
    }
}
