//! Postgres: a directory in a real PostgreSQL: what clients see while it is well and while it is not.

mod world;

use std::time::Duration;

use world::{Edge, Postgres, letter, until};

const OK: &str = "250 2.1.5 Recipient OK";
const UNKNOWN: &str = "550 5.4.1 Recipient address rejected: Access denied";
const RELAY_DENIED: &str = "550 5.7.64 TenantAttribution; Relay Access Denied";

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
    let builder = Edge::builder("EUR").with(&postgres.settings()).with(settings);
    let mut edge = builder.offline();
    let migrated = edge.command(&["directory", "migrate"]);
    assert_eq!(migrated.code, 0, "{migrated:#?}");
    postgres.sql(CONTOSO);
    edge.start();
    (postgres, edge)
}

/// What RCPT is told for each of these, in sessions of their own.
fn told(edge: &Edge, recipient: &str) -> String {
    let mut client = edge.client();
    client.expect("MAIL FROM:<sender@example.org>", "250 2.1.0 Sender OK");
    client.say(&format!("RCPT TO:<{recipient}>"))
}

fn until_told(edge: &Edge, recipient: &str, reply: &str) {
    until(&format!("{recipient} to be told {reply}"), || (told(edge, recipient) == reply).then_some(()));
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
    edge.wait_for("anna.k@contoso.com", 1);
    let explained = edge.command(&["explain", "anna@contoso.com"]);
    assert_eq!(explained.code, 0, "{explained:#?}");
}

#[test]
fn a_change_is_seen_within_two_seconds() {
    let (postgres, edge) = world();
    assert_eq!(told(&edge, "new@contoso.com"), UNKNOWN);
    assert_eq!(told(&edge, "anna@new.example"), RELAY_DENIED);
    assert_eq!(told(&edge, "ida@contoso.com"), OK);
    let watch = world::Stopwatch::start();
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
    until_told(&edge, "new@contoso.com", "451 4.4.3 Temporary server error. Please try again later ATTR55.1");
    until_told(&edge, "anna@new.example", OK);
    until_told(&edge, "ida@contoso.com", UNKNOWN);
    assert!(watch.elapsed() < Duration::from_secs(2), "{:?}", watch.elapsed());
}
