//! The parts alone: session, body decoder, decision, schedule, directory and spool.
//!
//! `cargo bench --bench micro`. For comparing two versions of one part on one machine, not for totals: the
//! whole program is `--bench edge`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use landfall::auth;
use landfall::clock::{Clock, Timestamp};
use landfall::decision::{Admitted, Attribution, Door, MixedRegions, Rules, Trail};
use landfall::directory::{Directory, Table};
use landfall::dns::{self, Resolver};
use landfall::inquiry::{Asked, Circumstances, Inquiry};
use landfall::mail::{
    AcceptedDomain, Address, Domain, DomainKind, Endpoint, Envelope, Licenses, NextHop, NextHopName, Peer,
    Priority, Recipient, Region, Residency, Tenant, TlsLevel, User,
};
use landfall::queue::Backoff;
use landfall::session::{Input, Limits, Ruling, Session, Terms, TlsOffer};
use landfall::smtp::body::{BodyRules, DataDecoder, Form, LineEndings};
use landfall::spool::{Settings, Spool};

fn region(code: &str) -> Region {
    Region::parse(code).expect("a region code")
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).expect("a domain")
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("an address")
}

/// MAIL, RCPT, DATA and what follows, as the session sees them.
fn session(criterion: &mut Criterion) {
    let terms = Arc::new(Terms {
        hostname: "edge1.eur.example.net".into(),
        tls: TlsOffer::StartTls,
        line_endings: LineEndings::Refuse,
        xclient_from: Vec::new(),
        limits: Limits::default(),
    });
    let peer = Peer::new(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut session = Session::new(peer, terms);
    session.on(Input::Connected);
    session.on(Input::Line(b"EHLO load.sender.example"));
    criterion.bench_function("session: envelope of one recipient, and RSET", |bencher| {
        bencher.iter(|| {
            black_box(session.on(Input::Line(b"MAIL FROM:<load@sender.example> SIZE=4096 BODY=8BITMIME")));
            black_box(session.on(Input::Judged(Ruling::Sender(Ok(())))));
            black_box(session.on(Input::Line(b"RCPT TO:<anna@contoso.com>")));
            let admitted = Admitted {
                address: address("anna@contoso.com"),
                domain: domain("contoso.com"),
                ingress: None,
                mailbox: None,
                tenant: None,
                via: None,
                recorded: None,
            };
            black_box(session.on(Input::Judged(Ruling::Recipient(Ok(admitted)))));
            black_box(session.on(Input::Line(b"RSET")));
        });
    });
}

fn body(criterion: &mut Criterion) {
    let mut text = b"Subject: load\r\n\r\n".to_vec();
    while text.len() < 64 * 1024 {
        text.extend_from_slice(b"the quick brown fox jumps over the lazy dog 0123456789 abcdefg\r\n");
    }
    text.extend_from_slice(b".\r\n");
    let mut group = criterion.benchmark_group("body");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("decode 64 KiB of DATA", |bencher| {
        bencher.iter(|| {
            let rules = BodyRules { size_limit: u64::MAX, form: Form::Lines(LineEndings::Refuse) };
            let mut decoder = DataDecoder::new(rules);
            let mut rest = &text[..];
            loop {
                let step = decoder.step(rest);
                black_box(step.content);
                if step.ended {
                    break;
                }
                rest = &rest[step.consumed..];
            }
            decoder.summary()
        });
    });
    group.finish();
}

fn inquiry(users: usize) -> Inquiry {
    let tenant = Arc::new(Tenant {
        id: "contoso".into(),
        default_region: region("NAM"),
        allowed_regions: vec![region("NAM"), region("EUR")],
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
    });
    let mut table = Table::new(Some('+'));
    table.add_tenant(tenant.clone());
    let accepted = AcceptedDomain {
        name: domain("contoso.com"),
        tenant,
        kind: DomainKind::Authoritative,
        match_subdomains: false,
        mail_flow_region: Some(region("EUR")),
        previous_mail_flow_region: None,
        mail_flow_region_changed_at: None,
        sending_to_disabled: false,
        accept_ipv6: None,
    };
    table.add_domain(accepted).expect("the first domain");
    for number in 0..users {
        let user = User {
            primary: address(&format!("user{number}@contoso.com")),
            preferred_data_location: Some("EUR".into()),
            licenses: Licenses::default(),
        };
        table.add_user(&user, &[]).expect("all are different");
    }
    let store = NextHop {
        name: NextHopName::Store(region("EUR")),
        endpoints: Arc::new([Endpoint::parse("lmtp://store").expect("an endpoint")]),
        tls: TlsLevel::Verify,
        ca: None,
    };
    let rules = Rules {
        node_region: region("EUR"),
        hostname: domain("edge1.eur.example.net"),
        mixed_regions: MixedRegions::Defer,
        propagation_window: Duration::from_secs(1800),
        routes: [(region("EUR"), store)].into(),
        inline: std::collections::BTreeMap::new(),
        peers: Vec::new(),
        postmaster: None,
        ipv6: landfall::auth::Ipv6::Enforce,
    };
    Inquiry::new(Directory::new(table), rules, Duration::from_secs(5), Clock::System)
}

/// From MAIL to whose client it is; from RCPT to its place or refusal: two lookups and two decisions.
fn decision(criterion: &mut Criterion) {
    let inquiry = inquiry(100_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let rules = inquiry.rules();
    let stranger = Peer::new(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let sender = domain("sender.example");
    let circumstances = Circumstances {
        attribution: &Attribution::Incoming,
        via: None,
        peer: &stranger,
        sender: Some(&sender),
        door: Door::Regular,
        region_so_far: None,
    };
    criterion.bench_function("decision: a stranger's sender", |bencher| {
        bencher.iter(|| {
            let mut trail = Trail::off();
            let attributed = inquiry.attribute(&rules, &stranger, Some(&sender), Door::Regular, &mut trail);
            black_box(runtime.block_on(attributed))
        });
    });
    for (name, recipient) in [("known", "user77777@contoso.com"), ("unknown", "nobody@contoso.com")] {
        let asked = Asked::Mailbox(address(recipient));
        criterion.bench_function(&format!("decision: a recipient, {name}, of 100,000 users"), |bencher| {
            bencher.iter(|| {
                let mut trail = Trail::off();
                black_box(runtime.block_on(inquiry.admit(&rules, &asked, &circumstances, &mut trail)))
            });
        });
    }
}

fn schedule(criterion: &mut Criterion) {
    let backoff = Backoff::default();
    criterion.bench_function("schedule: the intervals of a day", |bencher| {
        bencher.iter(|| {
            let mut last = Duration::ZERO;
            for attempts in 1..=26 {
                last = backoff.interval(attempts, last, black_box(10), Priority::Normal);
            }
            last
        });
    });
}

/// 64 messages of 4 KiB committed together: what one sync is shared by.
fn spool(criterion: &mut Criterion) {
    const MESSAGES: u64 = 64;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let dir =
        tempfile::Builder::new().prefix("micro-bench").tempdir_in(".").expect("a directory on this disk");
    let settings = Settings::new(dir.path().join("spool"));
    let (spool, _) = runtime.block_on(async { Spool::open(settings, Clock::System) }).expect("a fresh spool");
    let body = vec![b'x'; 4096];
    let mut group = criterion.benchmark_group("spool");
    group.throughput(Throughput::Elements(MESSAGES));
    group.sample_size(50);
    group.bench_function("commit 64 messages of 4 KiB at once", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let commits: Vec<_> = (0..MESSAGES)
                    .map(|_| {
                        let mut draft = spool.draft();
                        draft.push(&body);
                        let envelope = envelope(draft.id());
                        tokio::spawn(draft.commit(envelope, b"Received: here\r\n".to_vec()))
                    })
                    .collect();
                for commit in commits {
                    let accepted = commit.await.expect("no panic").expect("there is room");
                    let end = landfall::spool::RecipientProgress::ended(landfall::spool::End::Delivered);
                    spool.record(accepted.envelope.id, &[(0, end)]);
                }
            });
        });
    });
    group.finish();
}

fn envelope(id: landfall::mail::MessageId) -> Envelope {
    Envelope {
        peer: Some(Peer::new(IpAddr::V4(Ipv4Addr::LOCALHOST))),
        ..Envelope::new(
            id,
            Timestamp::from_millis(1_800_000_000_000),
            Some(address("load@sender.example")),
            vec![Recipient::new(address("anna@contoso.com"))],
        )
    }
}

/// The checks of one message without the DNS: what a body costs that nobody signed, and one that is hashed.
fn examination(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let settings = || auth::Settings { spf: false, iprev: false, ..auth::Settings::default() };
    let resolver = Arc::new(Resolver::written(dns::Table::default()));
    let auth = auth::Auth::new(settings(), "edge.example", "edge.example", resolver, Clock::System);
    let signature = "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=sender.example; s=s; h=from;\r\n \
                     bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AAAA\r\n";
    let head = "From: a@sender.example\r\nTo: b@contoso.com\r\nSubject: hello\r\n\r\n";
    let body = "words and more words of one line of an ordinary message of ordinary length\r\n".repeat(1000);
    let mut group = criterion.benchmark_group("examination");
    group.throughput(Throughput::Bytes(body.len() as u64));
    for (name, head) in [("unsigned", head.to_owned()), ("signed", format!("{signature}{head}"))] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let sender = Address::parse("a@sender.example").ok();
                    let ip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
                    let client = auth::Client { ip, helo: "mail.sender.example".to_owned(), sender };
                    let mut examination = auth.begin(client, auth::Extent::Whole(auth::Rule52::Spared));
                    examination.push(head.as_bytes());
                    body.as_bytes().chunks(16 * 1024).for_each(|piece| examination.push(piece));
                    black_box(examination.conclude().await)
                })
            });
        });
    }
    group.finish();
}

criterion_group!(parts, session, body, decision, schedule, spool, examination);
criterion_main!(parts);
