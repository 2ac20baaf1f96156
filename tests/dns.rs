//! Dns: what the resolver makes of real name servers: signed, bogus, stripped, stopped.

mod world;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use landfall::dns::{Answer, Meter, Mx, Resolver, Settings, Tlsa, Validation};
use landfall::mail::Lookup;
use world::{Nameserver, Unbound, Zone};

const RECORDS: &str = "@ MX 10 mx\n@ MX 20 mx2\n@ TXT \"v=spf1 \" \"-all\"\nmx A 127.0.0.9\nmx AAAA ::1\n\
                       mx2 CNAME mx\n_25._tcp.mx TLSA 3 1 1 00ff\n*.wild TXT \"any\"\nempty.node TXT x\n";

fn asking(server: std::net::SocketAddr, names: &Nameserver) -> Resolver {
    let settings = Settings {
        servers: vec![server],
        trust_anchors: Some(names.anchors()),
        timeout: Duration::from_millis(500),
        deadline: Duration::from_secs(5),
        ..Settings::default()
    };
    Resolver::new(settings, Meter::default())
}

#[tokio::test]
async fn a_signed_zone_is_proven_and_an_unsigned_one_still_works() {
    let names = Nameserver::start(&[
        Zone::signed("signed.test", RECORDS),
        Zone::unsigned("plain.test", RECORDS),
        Zone::signed("mixed.test", "www CNAME mx.plain.test.\ngood CNAME mx.signed.test.\n"),
    ]);
    let resolver = asking(names.address, &names);
    for (zone, proven) in [("signed.test", true), ("plain.test", false)] {
        let Answer::Found(mx) = resolver.mx(zone).await else { panic!("{:?}", resolver.mx(zone).await) };
        assert_eq!((mx.authentic, mx.name.as_str()), (proven, zone));
        let mut exchangers = mx.records;
        exchangers.sort_by_key(|mx| mx.preference);
        assert_eq!(exchangers[0], Mx { preference: 10, exchange: format!("mx.{zone}") });
        assert_eq!(exchangers.len(), 2);

        let a = resolver.a(&format!("mx2.{zone}")).await;
        let Answer::Found(a) = a else { panic!("{a:?}") };
        assert_eq!((a.records, a.authentic), (vec![Ipv4Addr::new(127, 0, 0, 9)], proven));
        assert_eq!(a.name, format!("mx.{zone}"), "an alias is followed");

        let txt = resolver.txt(zone).await;
        let Answer::Found(txt) = txt else { panic!("{txt:?}") };
        assert_eq!((txt.records, txt.authentic), (vec![b"v=spf1 -all".to_vec()], proven));

        let tlsa = resolver.tlsa(&format!("_25._tcp.mx.{zone}")).await;
        let Answer::Found(tlsa) = tlsa else { panic!("{tlsa:?}") };
        assert_eq!(tlsa.records, [Tlsa { usage: 3, selector: 1, matching: 1, data: vec![0, 0xff] }]);
        assert_eq!(tlsa.authentic, proven);

        let wild = resolver.txt(&format!("a.b.wild.{zone}")).await;
        let Answer::Found(wild) = wild else { panic!("{wild:?}") };
        assert_eq!((wild.records, wild.authentic), (vec![b"any".to_vec()], proven));

        let missing = format!("nobody.{zone}");
        assert_eq!(resolver.mx(&missing).await, Answer::NoName { authentic: proven });
        assert_eq!(resolver.mx(&format!("mx.{zone}")).await, Answer::NoData { authentic: proven });
        assert_eq!(resolver.txt(&format!("node.{zone}")).await, Answer::NoData { authentic: proven });
        assert_eq!(resolver.tlsa(&missing).await.lookup(), Lookup::Absent);
        let both = resolver.addresses(&format!("mx.{zone}")).await.found().expect("it has two");
        assert_eq!(both, ["127.0.0.9".parse::<IpAddr>().expect("v4"), "::1".parse().expect("v6")]);
    }
    // An alias into an unsigned zone proves nothing, one into a signed zone does.
    for (name, proven) in [("www.mixed.test", false), ("good.mixed.test", true)] {
        let Answer::Found(a) = resolver.a(name).await else { panic!("{:?}", resolver.a(name).await) };
        assert_eq!(a.authentic, proven, "{name}");
    }
    assert_eq!(*resolver.validation().borrow(), Validation::On);
}

#[tokio::test]
async fn bogus_answers_are_failures_and_never_absences() {
    let mut names = Nameserver::start(&[
        Zone::bogus("bogus.test", RECORDS),
        Zone::signed("tampered.test", RECORDS),
        Zone::signed("good.test", RECORDS),
    ]);
    let before = asking(names.address, &names);
    assert!(matches!(before.a("mx.tampered.test").await, Answer::Found(_)));
    names.tamper("tampered.test", "127.0.0.9", "127.0.0.66");
    let resolver = asking(names.address, &names);
    for answer in [resolver.a("mx.tampered.test").await, resolver.a("mx.bogus.test").await] {
        assert!(matches!(&answer, Answer::Failed(why) if why.contains("DNSSEC")), "{answer:?}");
        assert_eq!(answer.lookup(), Lookup::Failed);
    }
    assert!(matches!(resolver.mx("nobody.bogus.test").await, Answer::Failed(_)));
    // Records that nobody touched are as good as before.
    let Answer::Found(mx) = resolver.mx("tampered.test").await else { panic!("its MX still holds") };
    assert!(mx.authentic);
    assert!(matches!(resolver.a("mx.good.test").await, Answer::Found(_)));
}

#[tokio::test]
async fn a_server_that_fails_refuses_or_is_gone_is_no_absence() {
    let mut names = Nameserver::start(&[Zone::unsigned("plain.test", RECORDS)]);
    let open = Settings {
        servers: vec![names.address],
        dnssec: false,
        timeout: Duration::from_millis(300),
        deadline: Duration::from_secs(3),
        ..Settings::default()
    };
    let resolver = Resolver::new(open.clone(), Meter::default());
    assert!(matches!(resolver.mx("plain.test").await, Answer::Found(records) if !records.authentic));
    assert_eq!(resolver.mx("nobody.plain.test").await, Answer::NoName { authentic: false });
    names.stop();
    // What is remembered still counts; a reload forgets it.
    assert!(matches!(resolver.mx("plain.test").await, Answer::Found(_)));
    resolver.replace(open.clone());
    assert!(matches!(resolver.mx("plain.test").await, Answer::Failed(_)));
    assert_eq!(resolver.addresses("mx.plain.test").await, Lookup::Failed);
    // A zone that does not load is SERVFAIL.
    names.replace("plain.test", "@ CNAME broken\n( oops");
    assert!(matches!(resolver.mx("plain.test").await, Answer::Failed(_)));
}

#[tokio::test]
async fn a_validating_resolver_in_between_changes_nothing() {
    let names =
        Nameserver::start(&[Zone::signed("signed.test", RECORDS), Zone::bogus("bogus.test", RECORDS)]);
    let unbound = Unbound::validating(&names);
    let resolver = asking(unbound.address, &names);
    let found = resolver.mx("signed.test").await;
    assert!(matches!(&found, Answer::Found(mx) if mx.authentic), "{found:?}\n{}", unbound.log());
    assert!(matches!(resolver.mx("bogus.test").await, Answer::Failed(_)));
    assert_eq!(resolver.mx("nobody.signed.test").await, Answer::NoName { authentic: true });
}

#[tokio::test]
async fn servers_that_cannot_prove_the_root_still_answer() {
    // Its root key is not the real one: with the built-in keys nothing here can be proven.
    let names = Nameserver::start(&[Zone::unsigned("plain.test", RECORDS)]);
    let unbound = Unbound::stripping(&names);
    let settings = Settings { servers: vec![unbound.address], ..Settings::default() };
    let resolver = Resolver::new(settings, Meter::default());
    let found = resolver.mx("plain.test").await;
    assert!(matches!(&found, Answer::Found(mx) if !mx.authentic), "{found:?}\n{}", unbound.log());
    assert_eq!(*resolver.validation().borrow(), Validation::Impossible);
}
