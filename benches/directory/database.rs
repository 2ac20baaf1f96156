//! PostgreSQL: users that are not cached, beside what pgbench gets out of the same server by the same question.

use std::process::Command;

use landfall::directory::{PostgresSettings, Service, Table};
use landfall::mail::TlsLevel;

use super::cold::{self, SPAN};
use super::world::{Edge, Postgres};
use super::{Size, row, timed};

pub(crate) fn run(size: &Size) {
    let postgres = Postgres::start_with("log_statement = none\nshared_buffers = 2GB\nmax_wal_size = 20GB");
    let edge = Edge::builder("EUR").with(&postgres.settings()).offline();
    assert_eq!(edge.command(&["directory", "migrate"]).code, 0);
    let ((), took) = timed(|| fill(size, &postgres));
    println!("| PostgreSQL source | |\n|---|---|");
    row("filling the database by SQL, without its checks", format!("{} s", took.as_secs()));
    let bytes = postgres.sql("SELECT pg_size_pretty(pg_database_size('landfall'))");
    row("its size", bytes);
    // In turn, so that whatever else the machine does meets both.
    let mut best = 0;
    println!("\n| connections | ours, addresses/s | pgbench, addresses/s | ratio |\n|---|---|---|---|");
    for connections in [1, 2, 4, 8] {
        let (ours, theirs) = (ours(size, &postgres, connections), pgbench(size, &postgres, connections, 1));
        println!("| {connections} | {ours} | {theirs} | {:.1} |", ours as f64 / theirs as f64);
        best = best.max(ours);
    }
    println!();
    row("pgbench with 32 connections", format!("{}/s", pgbench(size, &postgres, 32, 1)));
    let many = BATCH * pgbench(size, &postgres, 2, BATCH);
    row(
        "pgbench with 2 connections and 64 addresses a question, as we ask under load",
        format!("{many} addresses/s; our best is {:.0} % of it", 100.0 * best as f64 / many as f64),
    );
}

const BATCH: usize = 64;

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

fn ours(size: &Size, postgres: &Postgres, pool: usize) -> usize {
    let service = PostgresSettings { url: postgres.url(), password_file: None, tls: TlsLevel::Off, ca: None };
    cold::lookups(Service::Postgres(service), Table::default(), pool, size)
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
