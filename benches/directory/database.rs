//! PostgreSQL: users that are not cached, beside what pgbench gets out of the same server by the same question.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use landfall::clock::Clock;
use landfall::directory::{PostgresSettings, Service, Settings, Table, Terms, open};
use landfall::mail::{Address, Lookup, Region, Regions, TlsLevel};

use super::world::{Edge, Postgres};
use super::{Numbers, Size, row, timed};

const SPAN: Duration = Duration::from_secs(10);
/// Recipients that are asked for at once, as of so many sessions.
const AT_ONCE: usize = 1_000;

pub(crate) fn run(size: &Size) {
    let postgres = Postgres::start_with("log_statement = none\nshared_buffers = 2GB\nmax_wal_size = 20GB");
    let edge = Edge::builder("EUR").with(&postgres.settings()).offline();
    assert_eq!(edge.command(&["directory", "migrate"]).code, 0);
    let ((), took) = timed(|| fill(size, &postgres));
    println!("| PostgreSQL source | |\n|---|---|");
    row("filling the database by SQL, without its checks", format!("{} s", took.as_secs()));
    let bytes = postgres.sql("SELECT pg_size_pretty(pg_database_size('landfall'))");
    row("its size", bytes);
    for pool in [1, 2, 4, 8] {
        row(&format!("cold lookups, pool = {pool}"), format!("{}/s", ours(size, &postgres, pool)));
    }
    for clients in [1, 2, 8, 32] {
        row(
            &format!("pgbench, the same question for one address, prepared, {clients} clients"),
            format!("{}/s", pgbench(size, &postgres, clients, 1)),
        );
    }
    row(
        "pgbench, the same question for 64 addresses, 2 clients: addresses",
        format!("{}/s", 64 * pgbench(size, &postgres, 2, 64)),
    );
}

fn fill(size: &Size, postgres: &Postgres) {
    let (users, domains) = (size.users, size.domains);
    postgres.sql(&format!(
        "SET session_replication_role = replica;
         INSERT INTO landfall.tenant (id, default_region) SELECT 't' || n, 'EUR' FROM generate_series(0, {domains} - 1) n;
         INSERT INTO landfall.domain (name, tenant)
             SELECT 'tenant' || n || '.example', 't' || n FROM generate_series(0, {domains} - 1) n;
         INSERT INTO landfall.mailbox (id, tenant, address, preferred_data_location)
             SELECT n, 't' || n % {domains}, 'firstname.lastname' || n || '@tenant' || n % {domains} || '.example', 'EUR'
             FROM generate_series(0, {users} - 1) n;
         INSERT INTO landfall.address (address, mailbox, tenant, domain)
             SELECT 'firstname.lastname' || n || '@tenant' || n % {domains} || '.example', n, 't' || n % {domains},
                    'tenant' || n % {domains} || '.example'
             FROM generate_series(0, {users} - 1) n"
    ));
    for table in ["tenant", "domain", "mailbox", "address"] {
        postgres.sql(&format!("VACUUM ANALYZE landfall.{table}"));
    }
}

/// Through the front, as sessions do, with a cache that keeps nothing.
fn ours(size: &Size, postgres: &Postgres, pool: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let postgres =
            PostgresSettings { url: postgres.url(), password_file: None, tls: TlsLevel::Off, ca: None };
        let settings = Settings {
            service: Service::Postgres(postgres),
            terms: Terms {
                cache: 0,
                cache_for: Duration::from_secs(1),
                cache_absent_for: Duration::ZERO,
                stale_for: Duration::from_secs(60),
                deadline: Duration::from_secs(5),
            },
            pool,
            node_region: Region::parse("EUR").expect("a code"),
            regions: Regions::default(),
            subaddress: None,
            snapshot: None,
            clock: Clock::System,
        };
        let (directory, _news) = open(settings, Table::default()).expect("the settings are good");
        directory.ready(Duration::from_secs(60)).await.expect("the server is there");
        let answered = Arc::new(AtomicUsize::new(0));
        let over = tokio::time::Instant::now() + SPAN;
        let askers: Vec<_> = (0..AT_ONCE)
            .map(|seed| {
                let (directory, answered) = (directory.clone(), Arc::clone(&answered));
                let (users, domains) = (size.users, size.domains);
                tokio::spawn(async move {
                    let size = Size { users, domains };
                    let mut numbers = Numbers(seed as u64 + 1);
                    while tokio::time::Instant::now() < over {
                        let address =
                            Address::parse(&size.address(numbers.below(users))).expect("an address");
                        let domain = directory.domain(address.domain()).await.found().expect("all are there");
                        let found = directory.user(&domain, &address).await;
                        assert!(matches!(found, Lookup::Found(_)), "{address}: {found:?}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for asker in askers {
            asker.await.expect("no panic");
        }
        answered.load(Ordering::Relaxed) / SPAN.as_secs() as usize
    })
}

fn pgbench(size: &Size, postgres: &Postgres, clients: usize, addresses: usize) -> usize {
    let (users, domains) = (size.users, size.domains);
    let folder = tempfile::tempdir().expect("a folder");
    let mut script = String::new();
    let mut keys = Vec::new();
    for at in 0..addresses {
        script.push_str(&format!("\\set n{at} random(0, {users} - 1)\n\\set d{at} :n{at} % {domains}\n"));
        keys.push(format!("'firstname.lastname' || :n{at} || '@tenant' || :d{at} || '.example'"));
    }
    let question =
        directory_question().replace("$1", &format!("ARRAY[{}]", keys.join(", "))).replace("$2", "'EUR'");
    script.push_str(&question.split_whitespace().collect::<Vec<_>>().join(" "));
    script.push_str(";\n");
    let path = folder.path().join("question.sql");
    std::fs::write(&path, script).expect("our own folder");
    let output = Command::new(super::world::postgres_program("pgbench"))
        .args(["-n", "-M", "prepared", "-j", "2", "-U", "landfall", "-T", &SPAN.as_secs().to_string()])
        .args(["-c", &clients.to_string(), "-h", &postgres.address.ip().to_string()])
        .args(["-p", &postgres.address.port().to_string(), "-f"])
        .arg(&path)
        .arg("landfall")
        .output()
        .expect("pgbench comes with PostgreSQL");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let tps =
        said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(['.', ' ']).next()?.parse().ok());
    tps.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

fn directory_question() -> &'static str {
    landfall::directory::POSTGRES_LOOK_UP
}
