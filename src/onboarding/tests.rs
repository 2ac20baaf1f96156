//! What is derived, planned, checked and written for a small directory.

use super::*;
use crate::clock::Timestamp;
use crate::dns::{Resolver, Table};
use crate::mail::Lookup;

fn settings() -> Settings {
    let domain = |name: &str| Domain::parse(name).expect("a host name");
    let region = |code: &str| Region::parse(code).expect("a code");
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    Settings {
        target: Template::parse("{domain}.mx.example.net"),
        targets: [(domain("my-contoso.com"), domain("mycontoso.mx.example.net"))].into(),
        ingress: [
            (region("EUR"), vec![address("192.0.2.25"), address("2001:db8::25")]),
            (region("NAM"), vec![address("198.51.100.25")]),
        ]
        .into(),
        ..Settings::default()
    }
}

fn domains(extra: &str) -> Vec<std::sync::Arc<AcceptedDomain>> {
    let text = format!(
        "[[tenant]]\nid = \"contoso\"\ndefault_region = \"NAM\"\nallowed_regions = [\"NAM\", \"EUR\"]\n\
         multi_geo = true\nin_region_routing = true\n{extra}\n\
         [[tenant.domain]]\nname = \"contoso.com\"\nmail_flow_region = \"EUR\"\n\
         [[tenant.domain]]\nname = \"my-contoso.com\"\n\
         [[tenant.domain]]\nname = \"other-contoso.com\"\n"
    );
    let notes = crate::document::Notes::default();
    let regions = crate::mail::Regions::default();
    let table =
        crate::directory::read("directory.toml", &text, std::path::Path::new("."), &regions, None, &notes);
    notes.verdict().expect("no mistakes");
    let mut domains: Vec<_> = table.domains().cloned().collect();
    domains.sort_by_key(|domain| domain.name.to_string());
    domains
}

fn own(records: &[crate::dns::Tlsa]) -> OwnCertificates<'_> {
    OwnCertificates { region: Region::parse("EUR").expect("a code"), records }
}

#[test]
fn a_target_is_derived_only_where_it_cannot_be_mistaken() {
    let settings = settings();
    for (domain, expected) in [
        ("contoso.com", Ok("contoso-com.mx.example.net")),
        ("a.contoso.co.uk", Ok("a-contoso-co-uk.mx.example.net")),
        ("my-contoso.com", Ok("mycontoso.mx.example.net")),
        ("a-b.com", Err(NoTarget::Hyphen)),
        ("xn--bcher-kva.example", Err(NoTarget::Hyphen)),
        ("abcdefghijklmnopqrstuvwxyz.abcdefghijklmnopqrstuvwxyz.abcdefghijk.com", Err(NoTarget::TooLong)),
    ] {
        let target = target_of(&settings, &Domain::parse(domain).expect("a domain"));
        assert_eq!(target.as_ref().map(Domain::as_str).map_err(|why| *why), expected, "{domain}");
    }
    let none = Settings::default();
    assert_eq!(target_of(&none, &Domain::parse("contoso.com").expect("a domain")), Err(NoTarget::NoTemplate));
    for bad in ["mx.example.net", "{domain}", "{domain}.", "x{domain}.example.net", "{domain}.[192.0.2.1]"] {
        assert_eq!(Template::parse(bad), None, "{bad}");
    }
}

/// The finding about `about` that says `says`, by level.
async fn levels(table: Table, tlsa: &[crate::dns::Tlsa]) -> Vec<(Level, String)> {
    let domain = &domains("")[0];
    assert_eq!(domain.name.as_str(), "contoso.com");
    let found = check(&settings(), domain, &own(tlsa), None, &Resolver::written(table)).await;
    found.into_iter().map(|finding| (finding.level, format!("{}: {}", finding.about, finding.says))).collect()
}

#[track_caller]
fn says(findings: &[(Level, String)], level: Level, part: &str) {
    let found = findings.iter().any(|(other, text)| *other == level && text.contains(part));
    assert!(found, "no {level:?} of '{part}' in {findings:#?}");
}

#[tokio::test]
async fn a_domain_as_planned_has_no_fault() {
    let tlsa = [crate::dns::Tlsa { usage: 3, selector: 1, matching: 1, data: vec![7; 32] }];
    let host = "contoso-com.mx.example.net";
    let table = Table::default()
        .mx("contoso.com", &[(0, host)])
        .txt("contoso.com", &["v=spf1 -all", "other=1"])
        .txt("_mta-sts.contoso.com", &["v=STSv1; id=1;"])
        .host(host, Lookup::Found(vec!["192.0.2.25".parse().expect("v4")]))
        .tlsa(&format!("_25._tcp.{host}"), 3, 1, 1, vec![7; 32])
        .authentic("contoso.com")
        .authentic(&format!("_25._tcp.{host}"));
    let found = levels(table, &tlsa).await;
    assert!(found.iter().all(|(level, _)| *level == Level::Good), "{found:#?}");
}

#[tokio::test]
async fn what_leads_mail_astray_is_a_fault() {
    let host = "contoso-com.mx.example.net";
    let at = |address: &str| Lookup::Found(vec![address.parse::<IpAddr>().expect("an address")]);
    let nothing = levels(Table::default().txt("contoso.com", &["x"]), &[]).await;
    says(&nothing, Level::Fault, "there is none: nobody finds");

    let legacy = Table::default()
        .mx("contoso.com", &[(0, host), (30, "contoso-com.mail.protection.outlook.com")])
        .host(host, at("198.51.100.25"));
    let legacy = levels(legacy, &[]).await;
    says(&legacy, Level::Fault, "legacy target");
    says(&legacy, Level::Warning, "more than one");
    says(&legacy, Level::Fault, "198.51.100.25 leads to NAM, and the domain enters in EUR");
    says(&legacy, Level::Warning, "not signed");

    let elsewhere = Table::default().mx("contoso.com", &[(0, "mx.gateway.example")]);
    let elsewhere = levels(elsewhere.host("mx.gateway.example", at("203.0.113.1")), &[]).await;
    says(&elsewhere, Level::Fault, "does not name contoso-com.mx.example.net");
    says(&elsewhere, Level::Warning, "no edge that is known here");

    let failing = levels(Table::default().failing("contoso.com").failing("_mta-sts.contoso.com"), &[]).await;
    says(&failing, Level::Fault, "MX: could not be asked");
    says(&failing, Level::Fault, "SPF: could not be asked");

    let two =
        Table::default().mx("contoso.com", &[(0, host)]).txt("contoso.com", &["v=spf1 -all", "v=spf1 ~all"]);
    says(&levels(two, &[]).await, Level::Fault, "there are 2");

    let stale = Table::default()
        .mx("contoso.com", &[(0, host)])
        .host(host, at("192.0.2.25"))
        .tlsa(&format!("_25._tcp.{host}"), 3, 1, 1, vec![1; 32])
        .authentic(&format!("_25._tcp.{host}"));
    says(&levels(stale, &[]).await, Level::Fault, "names none of the certificates in use here");
}

#[test]
fn the_zone_holds_each_host_once_with_its_regions_addresses() {
    let now = Timestamp::from_millis(1_800_000_000_000);
    let zone = zone(&settings(), domains(""), &own(&[]), now).expect("there is a template");
    assert!(zone.text.contains("$ORIGIN mx.example.net.\n"), "{}", zone.text);
    assert!(zone.text.contains("contoso-com A 192.0.2.25\n"), "{}", zone.text);
    assert!(!zone.text.contains("AAAA"), "nobody opted in: {}", zone.text);
    assert!(zone.text.contains("mycontoso A 198.51.100.25\n"), "the default region: {}", zone.text);
    assert_eq!(zone.hosts, 2);
    assert!(zone.left_out.iter().any(|left| left.starts_with("other-contoso.com: ")), "{:?}", zone.left_out);

    let opted_in =
        super::zone(&settings(), domains("accept_ipv6 = true"), &own(&[]), now).expect("a template");
    assert!(opted_in.text.contains("contoso-com AAAA 2001:db8::25\n"), "{}", opted_in.text);
    assert_eq!(super::zone(&Settings::default(), domains(""), &own(&[]), now), None);
}

#[tokio::test]
async fn the_plan_has_the_documented_priorities_and_waits() {
    let table = Table::default().mx("contoso.com", &[(10, "contoso-com.mail.protection.outlook.com")]);
    let now = Timestamp::from_millis(1_800_000_000_000);
    let window = Duration::from_secs(1800);
    let resolver = Resolver::written(table);
    let plan = plan(&settings(), &domains("")[0], &own(&[]), window, &resolver, now).await.expect("a target");
    assert_eq!(plan.mx_target, "contoso-com.mx.example.net");
    assert_eq!((plan.records[0].kind, plan.records[0].ttl_s), ("MX", 3600));
    assert_eq!(plan.records[0].value, "0 contoso-com.mx.example.net.");
    let steps: Vec<&str> = plan.steps.iter().map(|step| step.what.as_str()).collect();
    for (index, part) in [
        (0, "to 60 s, and wait"),
        (2, "Add MX 20 contoso-com.mx.example.net."),
        (
            4,
            "(contoso-com.mail.protection.outlook.com) to priority 30 and MX contoso-com.mx.example.net. to priority 0",
        ),
        (5, "to 3600 s"),
        (6, "gateway's smart host"),
        (7, "domain set contoso.com --mail-flow-region"),
    ] {
        assert!(steps[index].contains(part), "step {}: {}", index + 1, steps[index]);
    }
    assert_eq!(plan.steps[7].then_wait_s, Some(1800));
}
