//! LDAP: users that are not cached, beside what a plain client gets out of the same slapd, a search at a time.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use landfall::directory::{self, LdapAttributes, LdapSchema, LdapSettings, Service, Table, Tracking};
use landfall::document::Notes;
use landfall::mail::{Regions, TlsLevel};
use ldap3::{LdapConnAsync, Scope};

use super::cold::{self, SPAN};
use super::world::{BASE, READER, Slapd};
use super::{Numbers, Size};

const PASSWORD: &str = "secret of landfall";

pub(crate) fn run() {
    let size = Size { users: 10_000, domains: 10 };
    let mut slapd = Slapd::start();
    for from in (0..size.users).step_by(1_000) {
        let mut entries = String::new();
        for number in from..from + 1_000 {
            let address = size.address(number);
            writeln!(
                entries,
                "dn: uid=u{number},{BASE}\nobjectClass: inetOrgPerson\nuid: u{number}\ncn: U\nsn: U\nmail: {address}\n"
            )
            .expect("a String takes it");
        }
        slapd.add(&entries);
    }
    slapd.hush();
    println!("\n{} users in OpenLDAP", size.users);
    println!(
        "| connections | ours, addresses/s | a search at a time, addresses/s | ratio |\n|---|---|---|---|"
    );
    for connections in [1, 4] {
        let (ours, theirs) = (ours(&size, &slapd, connections), plain(&size, &slapd, connections));
        println!("| {connections} | {ours} | {theirs} | {:.1} |", ours as f64 / theirs as f64);
    }
}

fn ours(size: &Size, slapd: &Slapd, pool: usize) -> usize {
    let settings = LdapSettings {
        urls: vec![url(slapd)],
        starttls: false,
        tls: TlsLevel::Off,
        ca: None,
        bind_dn: Some(READER.to_owned()),
        password_file: Some(slapd.folder().join("password")),
        base_dn: BASE.to_owned(),
        base_dn_of: Default::default(),
        schema: LdapSchema::InetOrgPerson,
        filter: None,
        lookup_filter: None,
        accept_disabled: true,
        page_size: 500,
        tracking: Tracking::Timestamp,
        changes_every: Duration::from_secs(1),
        attributes: LdapAttributes::of(LdapSchema::InetOrgPerson),
    };
    cold::lookups(Service::Ldap(Box::new(settings)), tenants(size), pool, size)
}

fn url(slapd: &Slapd) -> String {
    format!("ldap://{}", slapd.address)
}

fn tenants(size: &Size) -> Table {
    let mut text = "[[tenant]]\nid = \"all\"\ndefault_region = \"EUR\"\n".to_owned();
    for number in 0..size.domains {
        writeln!(text, "[[tenant.domain]]\nname = \"{}\"", size.domain(number)).expect("a String takes it");
    }
    let notes = Notes::default();
    let table = directory::read("bench", &text, Path::new(""), &Regions::default(), None, &notes);
    notes.verdict().unwrap_or_else(|mistakes| panic!("{mistakes}"));
    table
}

/// The same question, without waiting for it to share anything.
fn plain(size: &Size, slapd: &Slapd, connections: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let answered = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let over = tokio::time::Instant::now() + SPAN;
        let askers: Vec<_> = (0..connections)
            .map(|seed| {
                let (answered, size, url) = (Arc::clone(&answered), size.clone(), url(slapd));
                tokio::spawn(async move {
                    let (connection, mut ldap) = LdapConnAsync::new(&url).await.expect("slapd is there");
                    tokio::spawn(connection.drive());
                    ldap.simple_bind(READER, PASSWORD).await.and_then(|done| done.success()).expect("it may");
                    let mut numbers = Numbers(seed as u64 + 1);
                    while tokio::time::Instant::now() < over {
                        let address = size.address(numbers.below(size.users));
                        let filter = format!(
                            "(|(mail={address})(mailAlternateAddress={address})(mailLocalAddress={address}))"
                        );
                        let attributes = vec!["mail", "entryUUID"];
                        let found = ldap.search(BASE, Scope::Subtree, &filter, attributes).await;
                        let (entries, _) = found.and_then(|found| found.success()).expect("slapd answers");
                        assert_eq!(entries.len(), 1, "{address}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for asker in askers {
            asker.await.expect("no panic");
        }
    });
    answered.load(Ordering::Relaxed) / SPAN.as_secs() as usize
}
