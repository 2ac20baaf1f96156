//! Postgres: a directory in a real PostgreSQL: what clients see while it is well and while it is not.

mod world;

use std::fs;
use std::time::Duration;

use world::{
    Authority, Babbler, Edge, Postgres, Stopwatch, free_address, holds_for, letter, median, told, until,
    until_told,
};

const OK: &str = "250 2.1.5 Recipient OK";
const UNKNOWN: &str = "550 5.4.1 Recipient address rejected: Access denied";
const RELAY_DENIED: &str = "550 5.7.64 TenantAttribution; Relay Access Denied";

const DOMAIN_FAILED: &str = "451 4.4.3 Temporary server error. Please try again later ATTR3.4";
const USER_FAILED: &str = "451 4.3.2 Temporary server error. Please try again later ATTR55";
const NO_ROUTE: &str = "451 4.4.3 Temporary server error. Please try again later ATTR55.1";
const ATTR35: &str = "451 4.4.62 Mail sent to the wrong Office 365 region. ATTR35. \
                      For more information please go to https://go.microsoft.com/fwlink/?linkid=865268";

/// Contoso as in a file: Anna and Ida live in EUR; a strict tenant whose Away lives in NAM.
const CONTOSO: &str = "
    INSERT INTO landfall.tenant (id, default_region, multi_geo, in_region_routing)
        VALUES ('contoso', 'NAM', true, true);
    INSERT INTO landfall.tenant_region (tenant, region) VALUES ('contoso', 'EUR'), ('contoso', 'NAM');
    INSERT INTO landfall.domain (name, tenant, mail_flow_region) VALUES ('contoso.com', 'contoso', 'EUR');
    INSERT INTO landfall.tenant (id, default_region, multi_geo, in_region_routing, residency)
        VALUES ('strict', 'EUR', true, true, 'strict');
    INSERT INTO landfall.tenant_region (tenant, region) VALUES ('strict', 'EUR'), ('strict', 'NAM');
    INSERT INTO landfall.domain (name, tenant, mail_flow_region)
        VALUES ('strict.example', 'strict', 'EUR'), ('na.strict.example', 'strict', 'NAM');
    INSERT INTO landfall.mailbox (id, tenant, address, preferred_data_location) VALUES
        (1, 'contoso', 'anna@contoso.com', 'EUR'), (2, 'contoso', 'ida@contoso.com', 'EUR'),
        (3, 'strict', 'home@strict.example', 'EUR'), (4, 'strict', 'away@strict.example', 'NAM'),
        (5, 'strict', 'far@na.strict.example', 'NAM');
    INSERT INTO landfall.address (address, mailbox, tenant, domain) VALUES
        ('anna@contoso.com', 1, 'contoso', 'contoso.com'), ('anna.k@contoso.com', 1, 'contoso', 'contoso.com'),
        ('ida@contoso.com', 2, 'contoso', 'contoso.com'),
        ('home@strict.example', 3, 'strict', 'strict.example'),
        ('away@strict.example', 4, 'strict', 'strict.example'),
        ('far@na.strict.example', 5, 'strict', 'na.strict.example');";

/// A database with Contoso in it, and an edge of EUR that uses it.
fn world() -> (Postgres, Edge) {
    world_with("", "")
}

fn world_with(database: &str, settings: &str) -> (Postgres, Edge) {
    let postgres = Postgres::start_with(database);
    let edge = edge_of(&postgres, settings);
    (postgres, edge)
}

fn edge_of(postgres: &Postgres, settings: &str) -> Edge {
    let builder = Edge::builder("EUR").with(&postgres.settings()).with(settings);
    let mut edge = builder.offline();
    let migrated = edge.command(&["directory", "migrate"]);
    assert_eq!(migrated.code, 0, "{migrated:#?}");
    postgres.sql(CONTOSO);
    edge.start();
    edge
}

#[test]
fn a_directory_in_postgresql_answers_as_a_file_does() {
    let (_postgres, edge) = world();
    for (recipient, reply) in [
        ("anna@contoso.com", OK),
        ("ANNA.K@Contoso.com", OK),
        ("anna+list@contoso.com", OK),
        ("nobody@contoso.com", UNKNOWN),
        ("postmaster@contoso.com", OK),
        ("anna@fabrikam.com", RELAY_DENIED),
    ] {
        assert_eq!(told(&edge, recipient), reply, "{recipient}");
    }
    edge.client().deliver("sender@example.org", &["anna.k@contoso.com"], letter("from postgres"));
    edge.wait_for("anna@contoso.com", 1);
    let explained = edge.command(&["explain", "anna@contoso.com"]);
    assert_eq!(explained.code, 0, "{explained:#?}");
}

#[test]
fn a_change_is_seen_within_two_seconds() {
    let (postgres, edge) = world();
    assert_eq!(told(&edge, "new@contoso.com"), UNKNOWN);
    assert_eq!(told(&edge, "anna@new.example"), RELAY_DENIED);
    assert_eq!(told(&edge, "ida@contoso.com"), OK);
    let changes = [("NAM", NO_ROUTE), ("EUR", OK), ("NAM", NO_ROUTE)];
    seen_within_two_seconds(&edge, changes, |home| {
        postgres.sql(&format!("UPDATE landfall.mailbox SET preferred_data_location = '{home}' WHERE id = 2"));
    });
    postgres.sql(
        "BEGIN;
         INSERT INTO landfall.mailbox (id, tenant, address) VALUES (9, 'contoso', 'new@contoso.com');
         INSERT INTO landfall.address VALUES ('new@contoso.com', 9, 'contoso', 'contoso.com');
         DELETE FROM landfall.mailbox WHERE address = 'ida@contoso.com';
         INSERT INTO landfall.domain (name, tenant, mail_flow_region) VALUES ('new.example', 'contoso', 'EUR');
         INSERT INTO landfall.address VALUES ('anna@new.example', 1, 'contoso', 'new.example');
         COMMIT;",
    );
    // New lives in NAM, where no way leads: that it is known shows in the reply.
    until_told(&edge, "new@contoso.com", NO_ROUTE);
    until_told(&edge, "anna@new.example", OK);
    until_told(&edge, "ida@contoso.com", UNKNOWN);
}

/// Ida moves some times.
fn seen_within_two_seconds<const N: usize>(edge: &Edge, changes: [(&str, &str); N], change: impl Fn(&str)) {
    let times = changes.map(|(home, reply)| {
        let watch = Stopwatch::start();
        change(home);
        until_told(edge, "ida@contoso.com", reply);
        watch.elapsed()
    });
    assert!(median(times.to_vec()) < Duration::from_secs(2), "{times:?}");
}

/// The outage matrix: Anna was looked up before, Ida was not. What each client sees, and that mail flows
/// again by itself.
fn outage(
    (mut postgres, edge): (Postgres, Edge),
    strike: impl FnOnce(&mut Postgres, &Edge),
    heal: impl FnOnce(&mut Postgres, &Edge),
) {
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    strike(&mut postgres, &edge);
    until_told(&edge, "anna@unknown.example", DOMAIN_FAILED);
    let watch = Stopwatch::start();
    assert_eq!(told(&edge, "anna@contoso.com"), OK, "who is cached waits for nobody");
    // A question would wait for the deadline of five.
    assert!(watch.elapsed() < Duration::from_secs(4), "{:?}", watch.elapsed());
    assert_eq!(told(&edge, "ida@contoso.com"), USER_FAILED);
    assert_eq!(told(&edge, "nobody@contoso.com"), USER_FAILED, "an unknown address is not called absent");
    edge.client().deliver("sender@example.org", &["anna@contoso.com"], letter("in the outage"));
    edge.wait_for("anna@contoso.com", 1);
    heal(&mut postgres, &edge);
    until_told(&edge, "ida@contoso.com", OK);
    until_told(&edge, "nobody@contoso.com", UNKNOWN);
    until_told(&edge, "anna@unknown.example", RELAY_DENIED);
    edge.client().deliver("sender@example.org", &["ida@contoso.com"], letter("after it"));
    edge.wait_for("ida@contoso.com", 1);
    let log = edge.log();
    assert!(log.contains("\"directory-lost\"") && log.contains("\"directory-back\""), "{log}");
}

#[test]
fn outage_stopped() {
    outage(world(), |postgres, _| postgres.stop(), |postgres, _| postgres.run());
}

#[test]
fn outage_frozen() {
    outage(world(), |postgres, _| postgres.freeze(), |postgres, _| postgres.thaw());
}

#[test]
fn outage_refused_by_its_rules() {
    let refuse = |postgres: &mut Postgres, _: &Edge| postgres.admit("host all all 127.0.0.0/8 reject");
    outage(world(), refuse, |postgres, _| postgres.admit_all());
}

#[test]
fn outage_too_many_connections() {
    let refuse = |postgres: &mut Postgres, _: &Edge| {
        postgres.sql("ALTER ROLE landfall CONNECTION LIMIT 0");
        postgres.cut();
    };
    let heal = |postgres: &mut Postgres, _: &Edge| {
        postgres.sql("ALTER ROLE landfall CONNECTION LIMIT -1");
    };
    outage(world(), refuse, heal);
}

const NOT_POSTGRESQL: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n\0\xff\x01garbage";

#[test]
fn outage_garbage_in_its_place() {
    let babbler = std::cell::Cell::new(None);
    let strike = |postgres: &mut Postgres, _: &Edge| {
        postgres.stop();
        babbler.set(Some(Babbler::start(postgres.address, NOT_POSTGRESQL)));
    };
    let heal = |postgres: &mut Postgres, _: &Edge| {
        babbler.set(None);
        postgres.run();
    };
    outage(world(), strike, heal);
}

#[test]
fn outage_certificate_expired() {
    let (authority, address) = (Authority::new(), free_address());
    let good = authority.issue_for(address);
    let postgres = Postgres::start_secure(address, &good);
    let tls = format!("[directory]\ntls = \"verify\"\nca = \"{}\"", authority.file().display());
    let edge = edge_of(&postgres, &tls);
    assert_eq!(
        postgres.sql(
            "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                      WHERE usename = 'landfall' AND NOT ssl"
        ),
        "0"
    );
    let expired = authority.issue_expired(&address.ip().to_string());
    outage((postgres, edge), |postgres, _| postgres.show(&expired), |postgres, _| postgres.show(&good));
}

#[test]
fn a_read_only_server_serves_as_ever() {
    let (postgres, edge) = world();
    postgres.sql("ALTER ROLE landfall SET default_transaction_read_only = on");
    postgres.cut();
    until_told(&edge, "ida@contoso.com", OK);
    assert_eq!(told(&edge, "nobody@contoso.com"), UNKNOWN);
    until_told(&edge, "anna@unknown.example", RELAY_DENIED);
}

#[test]
fn a_restart_of_the_server_is_hardly_seen() {
    let (mut postgres, edge) = world();
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    postgres.stop();
    // What happens meanwhile is not missed: this server takes writes before the edge is back.
    postgres.admit_later("host all all 127.0.0.0/8 reject");
    postgres.run();
    postgres.sql("UPDATE landfall.domain SET sending_to_disabled = true WHERE name = 'contoso.com'");
    postgres.admit_all();
    until_told(&edge, "anna@contoso.com", UNKNOWN);
}

/// Whose connections wait for notifications.
const LISTENERS: &str = "SELECT pid FROM pg_stat_activity WHERE usename = 'landfall'
                         AND query LIKE '%landfall.revision%'";

#[test]
fn a_lost_listening_connection_misses_no_change() {
    let (postgres, edge) = world();
    let mut times = Vec::new();
    for round in 0..10 {
        let (home, reply) = if round % 2 == 0 { ("NAM", NO_ROUTE) } else { ("EUR", OK) };
        until_told(&edge, "ida@contoso.com", if round % 2 == 0 { OK } else { NO_ROUTE });
        let listening = format!("SELECT count(*) FROM ({LISTENERS}) AS l");
        until("one connection to listen", || (postgres.sql(&listening) == "1").then_some(()));
        let watch = Stopwatch::start();
        // The connection ends around the change: before it, in the same moment, and after it.
        let cut = format!("SELECT count(pg_terminate_backend(pid)) FROM ({LISTENERS}) AS l;");
        let change = format!("UPDATE landfall.mailbox SET preferred_data_location = '{home}' WHERE id = 2;");
        let cut_count = postgres.sql(&match round % 3 {
            0 => format!("{cut} {change}"),
            1 => format!("BEGIN; {change} {cut} COMMIT;"),
            _ => format!("{change} {cut}"),
        });
        assert_eq!(cut_count, "1", "there was one that listened");
        until_told(&edge, "ida@contoso.com", reply);
        times.push(watch.elapsed());
    }
    assert!(median(times.clone()) < Duration::from_secs(2), "{times:?}");
}

#[test]
fn what_changes_while_nobody_can_listen_is_seen_afterwards() {
    let (postgres, edge) = world();
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    assert_eq!(told(&edge, "ida@contoso.com"), OK);
    postgres.sql("ALTER ROLE landfall CONNECTION LIMIT 0");
    postgres.cut();
    // More than a node would take in one by one, and among them Anna.
    postgres.sql(
        "BEGIN;
         INSERT INTO landfall.mailbox (id, tenant, address)
             SELECT 100 + n, 'contoso', 'user' || n || '@contoso.com' FROM generate_series(1, 12000) n;
         INSERT INTO landfall.address (address, mailbox, tenant, domain)
             SELECT 'user' || n || '@contoso.com', 100 + n, 'contoso', 'contoso.com'
             FROM generate_series(1, 12000) n;
         COMMIT;
         UPDATE landfall.mailbox SET preferred_data_location = 'NAM' WHERE id = 1;
         DELETE FROM landfall.mailbox WHERE id = 2;",
    );
    assert_eq!(told(&edge, "anna@contoso.com"), OK, "as it was known");
    postgres.sql("ALTER ROLE landfall CONNECTION LIMIT -1");
    until_told(&edge, "anna@contoso.com", NO_ROUTE);
    until_told(&edge, "ida@contoso.com", UNKNOWN);
    assert_eq!(told(&edge, "user7@contoso.com"), NO_ROUTE);
}

/// A replica refuses LISTEN: what is left is the question of each second.
#[test]
fn without_notifications_a_change_is_seen_within_two_seconds_all_the_same() {
    let primary = Postgres::start_with("wal_level = replica\nmax_wal_senders = 4\nhot_standby = on");
    let writer = Edge::builder("EUR").with(&primary.settings()).offline();
    assert_eq!(writer.command(&["directory", "migrate"]).code, 0);
    primary.sql(CONTOSO);
    let replica = primary.replica();
    let edge = Edge::builder("EUR").with(&replica.settings()).start();
    until_told(&edge, "ida@contoso.com", OK);
    until_told(&edge, "anna@contoso.com", OK);
    seen_within_two_seconds(&edge, [("NAM", NO_ROUTE), ("EUR", OK), ("NAM", NO_ROUTE)], |home| {
        primary.sql(&format!("UPDATE landfall.mailbox SET preferred_data_location = '{home}' WHERE id = 2"));
    });
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    assert!(replica.log().contains("cannot execute LISTEN during recovery"), "{}", replica.log());
    let refused = Edge::builder("EUR").with(&replica.settings()).offline().command(&[
        "user",
        "set",
        "anna@contoso.com",
        "--preferred-data-location",
        "NAM",
    ]);
    assert!(refused.code == 1 && refused.stderr.contains("read-only"), "{refused:#?}");
}

#[test]
fn a_node_starts_without_its_directory_from_the_snapshot() {
    let (mut postgres, mut edge) = world();
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    assert_eq!(told(&edge, "away@strict.example"), ATTR35);
    edge.stop();
    postgres.stop();
    let kept = fs::read_to_string(edge.state().join("directory/users.csv")).expect("a snapshot");
    assert!(kept.contains("anna@contoso.com") && !kept.contains("away"), "{kept}");
    edge.start();
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    assert_eq!(told(&edge, "ida@contoso.com"), USER_FAILED);
    assert_eq!(told(&edge, "anna@unknown.example"), DOMAIN_FAILED);
    let log = edge.log();
    let restored = log.lines().find(|line| line.contains("\"directory-from-snapshot\"")).expect("it says so");
    assert!(restored.contains("\"users\":1"), "Anna: {restored}");
    postgres.run();
    // Anna left while neither was there to see it.
    postgres.sql("DELETE FROM landfall.mailbox WHERE id = 1");
    until_told(&edge, "ida@contoso.com", OK);
    until_told(&edge, "anna@contoso.com", UNKNOWN);
}

#[test]
fn without_a_directory_and_without_a_snapshot_everybody_is_told_to_come_back() {
    let mut postgres = Postgres::start();
    let mut edge = Edge::builder("EUR").with(&postgres.settings()).offline();
    postgres.stop();
    edge.start();
    let mut early = edge.client();
    early.expect("MAIL FROM:<sender@example.org>", "250 2.1.0 Sender OK");
    early.expect("RCPT TO:<anna@contoso.com>", DOMAIN_FAILED);
    postgres.run();
    // There is no schema yet, which is as good as no directory.
    assert_eq!(told(&edge, "anna@contoso.com"), DOMAIN_FAILED);
    assert_eq!(edge.command(&["directory", "migrate"]).code, 0);
    postgres.sql(CONTOSO);
    until_told(&edge, "anna@contoso.com", OK);
    // Whose client that was is found out at its next MAIL: until then nothing is refused for good (rule 20).
    early.expect("RCPT TO:<elsewhere@unknown.example>", DOMAIN_FAILED);
    early.expect("RSET", "250 2.0.0 Resetting");
    early.envelope("sender@example.org", &["anna@contoso.com"]);
}

#[test]
fn what_was_known_counts_for_so_long_and_no_longer() {
    let (mut postgres, edge) = world_with("", "[directory]\ncache_for = \"1s\"\nstale_for = \"4s\"");
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    postgres.stop();
    until("Anna to be answered from an old answer", || {
        assert_eq!(told(&edge, "anna@contoso.com"), OK);
        (edge.metric("directory_stale_served") > 0).then_some(())
    });
    until("nothing to be known any more", || {
        let reply = told(&edge, "anna@contoso.com");
        assert!(reply == DOMAIN_FAILED || reply == OK, "{reply}");
        (reply == DOMAIN_FAILED).then_some(())
    });
    postgres.run();
    until_told(&edge, "anna@contoso.com", OK);
}

#[test]
fn a_frozen_server_slows_nobody_who_is_cached() {
    let (mut postgres, edge) = world();
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    postgres.freeze();
    // Fifty who are not cached wait for the deadline of five seconds meanwhile.
    let mut waiting: Vec<_> = (0..50)
        .map(|number| {
            let mut client = edge.client();
            client.expect("MAIL FROM:<sender@example.org>", "250 2.1.0 Sender OK");
            client.send(format!("RCPT TO:<user{number}@contoso.com>\r\n"));
            client
        })
        .collect();
    let mut cached = edge.client();
    holds_for("Anna is answered at once", Duration::from_millis(500), || {
        let watch = Stopwatch::start();
        cached.expect("MAIL FROM:<sender@example.org>", "250 2.1.0 Sender OK");
        cached.expect("RCPT TO:<anna@contoso.com>", OK);
        cached.say("RSET");
        watch.elapsed() < Duration::from_secs(4)
    });
    for client in &mut waiting {
        assert_eq!(client.reply(), USER_FAILED);
    }
    postgres.thaw();
    until_told(&edge, "ida@contoso.com", OK);
}

#[test]
fn the_same_question_is_asked_once_and_many_share_one() {
    let (postgres, edge) = world();
    postgres.sql("BEGIN; LOCK landfall.mailbox IN ACCESS EXCLUSIVE MODE; COMMIT");
    let mut clients: Vec<_> = (0..40)
        .map(|_| {
            let mut client = edge.client();
            client.expect("MAIL FROM:<sender@example.org>", "250 2.1.0 Sender OK");
            client
        })
        .collect();
    for client in &mut clients {
        client.send("RCPT TO:<ida@contoso.com>\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.reply(), OK);
    }
    assert_eq!(edge.metric("directory_lookups"), 1, "one address was asked for, once");
    assert_eq!(told(&edge, "ida@contoso.com"), OK);
    assert_eq!(edge.metric("directory_lookups"), 1);
    assert!(edge.metric("directory_cache_hits") > 0);
}

#[test]
fn a_user_that_makes_no_sense_is_nobody_elses_trouble() {
    let (mut postgres, edge) = world_with("", "[directory]\npool = 1");
    // As a schema of before could hold it.
    postgres.sql(
        "ALTER TABLE landfall.mailbox DROP CONSTRAINT mailbox_written_domain;
         ALTER TABLE landfall.mailbox DROP CONSTRAINT mailbox_written_local_part;
         UPDATE landfall.mailbox SET written = 'Anna' WHERE id = 1",
    );
    assert_eq!(told(&edge, "anna@contoso.com"), USER_FAILED);
    let outages = edge.metric("directory_outages_total");
    // Asked in one question with others.
    let mut asking: Vec<_> =
        ["anna@contoso.com", "anna.k@contoso.com", "ida@contoso.com", "nobody@contoso.com"]
            .into_iter()
            .map(|recipient| {
                let mut client = edge.client();
                client.expect("MAIL FROM:<sender@example.org>", "250 2.1.0 Sender OK");
                (client, recipient)
            })
            .collect();
    postgres.freeze();
    for (client, recipient) in &mut asking {
        client.send(format!("RCPT TO:<{recipient}>\r\n"));
    }
    postgres.thaw();
    let replies: Vec<String> = asking.iter_mut().map(|(client, _)| client.reply()).collect();
    assert_eq!(replies, [USER_FAILED, USER_FAILED, OK, UNKNOWN]);
    assert_eq!(edge.metric("directory_outages_total"), outages);
    postgres.sql("UPDATE landfall.mailbox SET written = 'Anna@contoso.com' WHERE id = 1");
    until_told(&edge, "anna@contoso.com", OK);
}

#[test]
fn another_regions_users_of_a_strict_tenant_are_never_fetched() {
    let (postgres, edge) = world();
    assert_eq!(told(&edge, "home@strict.example"), OK);
    assert_eq!(told(&edge, "away@strict.example"), ATTR35);
    assert_eq!(told(&edge, "far@na.strict.example"), ATTR35);
    let log = postgres.log();
    assert!(log.contains("home@strict.example"), "the server logs what it is asked: {log}");
    assert!(!log.contains("{far@na.strict.example}"), "where mail does not enter nobody is asked for");
    // The question as the server logged it, asked again: of Away only the region leaves the server.
    let question = log.split("execute s").find(|said| said.contains("landfall.address a")).expect("a lookup");
    let (_, question) = question.split_once(':').expect("the statement's name ends so");
    let (question, _) = question.split_once("DETAIL").expect("its parameters follow");
    let ask = |address: &str| {
        postgres.sql(&question.replace("$1", &format!("'{{{address}}}'")).replace("$2", "'EUR'"))
    };
    assert_eq!(ask("away@strict.example"), "away@strict.example|NAM|||f|f");
    assert_eq!(ask("home@strict.example"), "home@strict.example||home@strict.example|EUR|t|t");
    assert_eq!(ask("anna.k@contoso.com"), "anna.k@contoso.com||anna@contoso.com|EUR|t|t");
    // A change of who is strict, or of where it may be, counts at once.
    postgres.sql("UPDATE landfall.mailbox SET preferred_data_location = 'EUR' WHERE id = 4");
    until_told(&edge, "away@strict.example", OK);
    postgres.sql("DELETE FROM landfall.tenant_region WHERE tenant = 'strict' AND region = 'EUR'");
    postgres.sql("UPDATE landfall.tenant SET default_region = 'NAM' WHERE id = 'strict'");
    until_told(&edge, "home@strict.example", ATTR35);
    assert_eq!(told(&edge, "away@strict.example"), ATTR35);
    postgres.sql("UPDATE landfall.tenant SET residency = 'documented' WHERE id = 'strict'");
    until_told(&edge, "away@strict.example", NO_ROUTE);
}

#[test]
fn the_schema_has_no_room_for_what_cannot_be() {
    let postgres = Postgres::start();
    let edge = Edge::builder("EUR").with(&postgres.settings()).offline();
    for version in ["went from version 0 to 3", "up to date: version 3"] {
        let migrated = edge.command(&["directory", "migrate"]);
        assert!(migrated.code == 0 && migrated.stdout.contains(version), "{migrated:#?}");
    }
    postgres.sql(CONTOSO);
    for (what, sql) in [
        ("an unknown region", "UPDATE landfall.domain SET mail_flow_region = 'EUX'"),
        ("a tenant without a region", "UPDATE landfall.tenant SET default_region = NULL"),
        ("a word of no meaning", "UPDATE landfall.tenant SET residency = 'mostly'"),
        ("subdomains of an authoritative domain", "UPDATE landfall.domain SET match_subdomains = true"),
        ("a former region without a time", "UPDATE landfall.domain SET previous_mail_flow_region = 'NAM'"),
        ("a domain in capitals", "INSERT INTO landfall.domain (name, tenant) VALUES ('A.example', 'contoso')"),
        (
            "an address of two users",
            "INSERT INTO landfall.address VALUES ('anna@contoso.com', 2, 'contoso', 'contoso.com')",
        ),
        (
            "an address at another tenant's domain",
            "INSERT INTO landfall.address VALUES ('x@strict.example', 1, 'contoso', 'strict.example')",
        ),
        (
            "an address outside of its domain",
            "INSERT INTO landfall.address VALUES ('x@xcontoso.com', 1, 'contoso', 'contoso.com')",
        ),
        ("an address of nobody at a domain", "INSERT INTO landfall.address VALUES ('@contoso.com', 1, 'contoso', 'contoso.com')"),
        ("a name that is no address", "UPDATE landfall.mailbox SET written = 'Anna' WHERE id = 1"),
        ("a name that is another's", "UPDATE landfall.mailbox SET written = 'Ida@contoso.com' WHERE id = 1"),
        ("a user without its primary address", "DELETE FROM landfall.address WHERE address = 'anna@contoso.com'"),
        ("a user who is called by another's address", "UPDATE landfall.mailbox SET address = 'ida@contoso.com' WHERE id = 1"),
        (
            "a connector for half the internet",
            "INSERT INTO landfall.inbound_connector (tenant, name, type) VALUES ('contoso', 'hq', 'on-premises');
             INSERT INTO landfall.inbound_network (tenant, connector, network) VALUES ('contoso', 'hq', '10.0.0.0/8')",
        ),
        (
            "a partner without domains",
            "INSERT INTO landfall.inbound_connector (tenant, name, type) VALUES ('contoso', 'p', 'partner')",
        ),
        (
            "a connector to nowhere",
            "INSERT INTO landfall.outbound_connector (tenant, name, recipient_domains, smart_hosts)
             VALUES ('contoso', 'hq', '{*}', '{}')",
        ),
        ("a second state", "INSERT INTO landfall.revision VALUES (false, 1, 'x')"),
        ("a domain that users are in, gone", "DELETE FROM landfall.domain WHERE name = 'contoso.com'"),
    ] {
        let refusal = postgres.refused(sql);
        assert!(refusal.contains("ERROR:") && refusal.contains("violates"), "{what}: {refusal}");
    }
}

#[test]
fn a_password_is_read_anew_at_each_connection_and_never_shown() {
    let mut postgres = Postgres::start();
    postgres.sql("ALTER ROLE landfall PASSWORD 'first'");
    postgres.admit("host all all 127.0.0.0/8 scram-sha-256");
    let builder = Edge::builder("EUR");
    let secret = builder.folder().join("secret");
    fs::write(&secret, "first\n").expect("our own folder");
    let file = format!("[directory]\npassword_file = \"{}\"", secret.display());
    let mut edge = builder.with(&postgres.settings()).with(&file).offline();
    assert_eq!(edge.command(&["directory", "migrate"]).code, 0);
    postgres.sql(CONTOSO);
    edge.start();
    assert_eq!(told(&edge, "anna@contoso.com"), OK);
    postgres.sql("ALTER ROLE landfall PASSWORD 'zweites'");
    postgres.cut();
    until_told(&edge, "ida@contoso.com", USER_FAILED);
    until("the log to say why", || edge.log().contains("password authentication failed").then_some(()));
    fs::write(&secret, "zweites\n").expect("our own folder");
    until_told(&edge, "ida@contoso.com", OK);
    // In the URL as well; what is shown has none.
    edge.configure(&format!(
        "[directory]\nurl = \"postgres://landfall:zweites@{}/landfall\"",
        postgres.address
    ));
    let shown = edge.command(&["config", "show"]);
    assert!(
        shown.stdout.contains("postgres://landfall:********@") && !shown.stdout.contains("zweites"),
        "{shown:#?}"
    );
    assert!(
        edge.command(&["reload"]).code == 0 && edge.log().contains("[directory] and its service has changed")
    );
    edge.stop();
    edge.start();
    until_told(&edge, "anna@contoso.com", OK);
    assert!(!edge.log().contains("zweites"), "{}", edge.log());
}
