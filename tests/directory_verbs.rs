//! Directory verbs: listing, showing and changing domains and users, and putting them into a database; the same
//! answers for a file and for PostgreSQL.

mod world;

use std::fs;
use std::time::Duration;

use landfall::directory::{PostgresSettings, Service, Settings, Table, Terms};
use landfall::document::Notes;
use landfall::mail::Regions;
use serde_json::{Value, json};
use world::{Authority, CONTOSO, Edge, Postgres, until};

const OK: &str = "250 2.1.5 Recipient OK";

/// An edge with Contoso in a file, and one with the same in a database.
fn both() -> (Edge, Edge, Postgres) {
    let text = format!("# the directory of Contoso\n{CONTOSO}\n[[user_file]]\npath = \"users.csv\"\n");
    let users = "address,aliases,preferred_data_location,licenses\n\
                 carl@contoso.com,c@contoso.com;carlo@contoso.com,GBR,mail\nDora@contoso.com,,EUR,none\n";
    let of_file = Edge::builder("EUR").directory(&text).offline();
    fs::write(of_file.folder().join("users.csv"), users).expect("our own folder");
    let postgres = Postgres::start();
    let of_database = Edge::builder("EUR").with(&postgres.settings()).offline();
    assert_eq!(of_database.command(&["directory", "migrate"]).code, 0);
    let file = of_file.folder().join("directory.toml");
    let imported = of_database.command(&["directory", "import", &file.display().to_string()]);
    assert_eq!(imported.code, 0, "{imported:#?}");
    (of_file, of_database, postgres)
}

/// The document, without what is different each time.
fn timeless(mut document: Value) -> Value {
    for key in ["window", "safe_until", "in_force", "changed_at"] {
        if let Some(value) = document.get_mut(key).filter(|value| !value.is_null()) {
            *value = "some".into();
        }
    }
    document
}

/// Runs it with both; exit codes and documents must agree.
fn agreed(edges: [&Edge; 2], arguments: &[&str]) -> (i32, Value) {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let [one, two] = edges.map(|edge| edge.command(&arguments));
    assert_eq!(one.code, two.code, "{one:#?} {two:#?}");
    if one.stdout.is_empty() {
        assert_eq!(one.stderr, two.stderr);
        return (one.code, Value::Null);
    }
    let (first, second) = (timeless(one.json()), timeless(two.json()));
    assert_eq!(first, second, "{arguments:?}");
    (one.code, first)
}

#[test]
fn a_check_of_the_configuration_asks_the_database_and_warns_of_what_it_finds() {
    let (file, database, postgres) = both();
    let warnings = |edge: &Edge| {
        let told = edge.command(&["config", "check", "--json"]);
        assert_eq!((told.code, &told.json()["ok"]), (0, &true.into()), "{told:#?}");
        told.json()["warnings"].to_string()
    };
    let routes = "region.GBR: has no route";
    assert!(warnings(&file).contains(routes) && warnings(&database).contains(routes));
    drop(postgres);
    let told = warnings(&database);
    assert!(told.contains("directory: cannot be asked now: "), "{told}");
}

#[test]
fn a_file_and_a_database_give_the_same_answers() {
    let (file, database, _postgres) = both();
    let edges = [&file, &database];
    let (code, domains) = agreed(edges, &["domain", "list"]);
    assert_eq!(
        (code, &domains[0]["domain"], &domains[0]["ingress"]),
        (0, &json!("contoso.com"), &json!("EUR"))
    );
    let (code, shown) = agreed(edges, &["domain", "show", "CONTOSO.com"]);
    assert_eq!(code, 0);
    assert_eq!(
        shown["users"],
        json!({ "total": 6, "in_region_routing": 2, "by_home_region": { "EUR": 3, "GBR": 1, "NAM": 2 } })
    );
    let (_, stats) = agreed(edges, &["directory", "stats"]);
    assert_eq!(stats, json!({ "tenants": 1, "domains": 1, "users": 6 }));
    let (code, user) = agreed(edges, &["user", "show", "CARLO@contoso.com"]);
    assert_eq!((code, &user["address"], &user["home"]), (0, &json!("carl@contoso.com"), &json!("GBR")));
    assert_eq!(user["aliases"], json!(["c@contoso.com", "carlo@contoso.com"]));
    assert_eq!(user["in_region_routing"], "pdl-mismatch");
    let (_, dora) = agreed(edges, &["user", "show", "dora@contoso.com"]);
    assert_eq!((&dora["address"], &dora["licenses"]), (&json!("Dora@contoso.com"), &json!([])));
    for refused in [
        ["user", "show", "carl+tag@contoso.com"].as_slice(),
        &["user", "show", "nobody@contoso.com"],
        &["domain", "show", "fabrikam.com"],
        &["domain", "set", "fabrikam.com", "--mail-flow-region", "EUR"],
        &["domain", "set", "contoso.com", "--mail-flow-region", "JPN"],
        &["user", "set", "anna@contoso.com", "--preferred-data-location", "JPN"],
    ] {
        assert_eq!(agreed(edges, refused).0, 1, "{refused:?}");
    }
    for mistake in [
        ["domain", "set", "contoso.com", "--mail-flow-region", "EUX"].as_slice(),
        &["user", "set", "anna", "--preferred-data-location", "EUR"],
    ] {
        assert_eq!(agreed(edges, mistake).0, 2, "{mistake:?}");
    }
    let listed = |edge: &Edge| {
        let list = edge.command(&["user", "list", "--domain", "contoso.com", "--json"]).json();
        let mut rows = list.as_array().expect("rows").clone();
        rows.sort_by_key(|row| row["address"].to_string().to_lowercase());
        rows
    };
    assert_eq!(listed(&file), listed(&database));
    assert_eq!(listed(&file).len(), 6);
    let check = agreed_findings(edges);
    assert!(
        check.iter().any(|finding| finding.starts_with("carl@contoso.com: lacks a licence: multi-geo")),
        "{check:?}"
    );
}

/// Of `directory check`, in one order.
fn agreed_findings(edges: [&Edge; 2]) -> Vec<String> {
    let [one, two] = edges.map(|edge| {
        let check = edge.command(&["directory", "check", "--json"]);
        assert_eq!(check.code, 1, "{check:#?}");
        let mut findings: Vec<String> =
            serde_json::from_value(check.json()["findings"].clone()).expect("a list of texts");
        findings.sort();
        findings
    });
    assert_eq!(one, two);
    one
}

#[test]
fn a_domain_moves_with_its_window() {
    let (mut file, mut database, postgres) = both();
    file.start();
    database.start();
    let anna_is_taken = |edge: &Edge| {
        let mut client = edge.client();
        client.say("MAIL FROM:<sender@example.org>");
        client.say("RCPT TO:<anna@contoso.com>") == OK
    };
    let set = ["domain", "set", "contoso.com", "--mail-flow-region", "nam"];
    let tried = agreed([&file, &database], &[set.as_slice(), &["--dry-run"]].concat()).1;
    assert_eq!((&tried["changed"], &tried["dry_run"]), (&json!(true), &json!(true)));
    let unchanged = agreed([&file, &database], &["domain", "show", "contoso.com"]).1;
    assert_eq!(unchanged["mail_flow_region"], "EUR", "a dry run changes nothing");
    let (code, told) = agreed([&file, &database], &set);
    assert_eq!(code, 0);
    assert_eq!(told["mail_flow_region"], json!({ "from": "EUR", "to": "NAM" }));
    assert_eq!(told["ingress"], json!({ "from": "EUR", "to": "NAM" }));
    assert_eq!(told["users"], json!({ "total": 6, "in_region_routing": { "from": 2, "to": 2 } }));
    let shown = agreed([&file, &database], &["domain", "show", "contoso.com"]).1;
    assert_eq!((&shown["previous_mail_flow_region"], &shown["changed_at"]), (&json!("EUR"), &json!("some")));
    let text = fs::read_to_string(file.folder().join("directory.toml")).expect("there");
    assert!(
        text.starts_with("# the directory of Contoso\n") && text.contains("mail_flow_region = \"NAM\""),
        "{text}"
    );
    // The old region accepts within the window, at the running daemons too.
    for edge in [&file, &database] {
        until("the change to count", || {
            edge.command(&["explain", "anna@contoso.com"]).stdout.contains("rule 21").then_some(())
        });
        assert!(anna_is_taken(edge));
    }
    assert!(file.log().contains("\"reloaded\""), "the daemon was told");
    assert_eq!(postgres.sql("SELECT previous_mail_flow_region FROM landfall.domain"), "EUR");
    let again = file.command(&set);
    assert!(again.code == 0 && again.stdout.contains("is NAM already"), "{again:#?}");
    let back = file.command(&["domain", "set", "contoso.com", "--mail-flow-region", "none"]);
    assert!(back.stdout.contains("is still open") && back.stdout.contains("NAM -> -"), "{back:#?}");
}

#[test]
fn a_user_moves_in_the_file_that_has_it() {
    let (file, database, _postgres) = both();
    let edges = [&file, &database];
    for (who, alias, to) in
        [("anna@contoso.com", "anna@contoso.com", "NAM"), ("carl@contoso.com", "c@contoso.com", "EUR")]
    {
        let (code, told) = agreed(edges, &["user", "set", alias, "--preferred-data-location", to]);
        assert_eq!((code, &told["address"], &told["home"]["to"]), (0, &json!(who), &json!(to)));
        assert_eq!(agreed(edges, &["user", "show", who]).1["preferred_data_location"], to);
    }
    let (_, told) = agreed(edges, &["user", "set", "anna@contoso.com", "--preferred-data-location", "none"]);
    assert_eq!(told["preferred_data_location"], json!({ "from": "NAM", "to": null }));
    let users = fs::read_to_string(file.folder().join("users.csv")).expect("there");
    assert_eq!(users.lines().nth(1), Some("carl@contoso.com,c@contoso.com;carlo@contoso.com,EUR,mail"));
}

#[test]
fn an_import_is_all_or_nothing_and_says_what_it_changes() {
    let (file, database, postgres) = both();
    let path = file.folder().join("directory.toml").display().to_string();
    let import = |extra: &[&str]| {
        database.command(&[["directory", "import", &path, "--json"].as_slice(), extra].concat())
    };
    let counts = |imported: &world::Command, kind: &str| {
        assert_eq!(imported.code, 0, "{imported:#?}");
        let counts = &imported.json()["imported"][kind];
        ["added", "changed", "removed"].map(|count| counts[count].as_u64().expect("a count"))
    };
    let same = import(&[]);
    for kind in ["tenants", "domains", "connectors", "users", "addresses"] {
        assert_eq!(counts(&same, kind), [0, 0, 0], "{kind}: what is there is left alone");
    }
    // Another tenant stays, whatever the file says.
    postgres.sql("INSERT INTO landfall.tenant (id, default_region) VALUES ('other', 'EUR')");
    let other = "
        [[tenant]]
        id = \"contoso\"
        default_region = \"NAM\"
        allowed_regions = [\"eur\", \"NAM\"]
        multi_geo = true
        in_region_routing = true
        domain = [{ name = \"Contoso.com\", mail_flow_region = \"nam\" }, { name = \"hq.contoso.com\", type = \"internal-relay\" }]
        user = [{ address = \"Anna@contoso.com\", aliases = [\"c@contoso.com\"] }, { address = \"new@contoso.com\" }]
        inbound_connector = [{ name = \"hq\", type = \"on-premises\", source_ips = [\"192.0.2.7\", \"198.51.100.9/24\"] }]
        outbound_connector = [{ name = \"to-hq\", recipient_domains = [\"*\"], smart_hosts = [\"smtp://mail.hq.contoso.com\"] }]
    ";
    file.write_directory(other);
    let dump = || {
        postgres.sql(
            "SELECT (SELECT string_agg(d::text, ';' ORDER BY name) FROM landfall.domain d),
                    (SELECT string_agg(a::text, ';' ORDER BY address) FROM landfall.address a),
                    (SELECT string_agg(m::text, ';' ORDER BY id) FROM landfall.mailbox m),
                    (SELECT count(*) FROM landfall.change)",
        )
    };
    let before = dump();
    let tried = import(&["--dry-run"]);
    assert_eq!(dump(), before, "a dry run changes nothing");
    let done = import(&[]);
    for (kind, expected) in [
        ("tenants", [0, 0, 0]),
        ("domains", [1, 1, 0]),
        ("connectors", [2, 0, 0]),
        ("users", [1, 1, 5]),
        // c@ goes from Carl to Anna.
        ("addresses", [2, 0, 7]),
    ] {
        assert_eq!(counts(&tried, kind), expected, "{kind}");
        assert_eq!(counts(&done, kind), expected, "{kind}");
    }
    assert_eq!(
        postgres.sql("SELECT mail_flow_region, previous_mail_flow_region, now() - mail_flow_region_changed_at < '1 min' \
                      FROM landfall.domain WHERE name = 'contoso.com'"),
        "NAM|EUR|t",
        "a move by import has its window"
    );
    assert_eq!(
        postgres.sql("SELECT network FROM landfall.inbound_network ORDER BY 1"),
        "192.0.2.7/32\n198.51.100.0/24"
    );
    assert_eq!(postgres.sql("SELECT count(*) FROM landfall.tenant"), "2");
    // Users alone: one is added, one changed, nobody is taken away.
    let users = database.folder().join("users.csv");
    fs::write(&users, "address,preferred_data_location\nanna@contoso.com,EUR\nzoe@contoso.com,\n")
        .expect("our own folder");
    let done = database.command(&["directory", "import", &users.display().to_string(), "--json"]);
    assert_eq!((counts(&done, "users"), counts(&done, "domains")), ([1, 1, 0], [0, 0, 0]));
    // A mistake anywhere: nothing at all.
    let before = dump();
    fs::write(&users, "address\nyves@contoso.com\nxena@nowhere.example\n").expect("our own folder");
    let refused = database.command(&["directory", "import", &users.display().to_string()]);
    assert!(refused.code == 2 && refused.stderr.contains("is in no accepted domain"), "{refused:#?}");
    assert_eq!(dump(), before);
    // A domain of another tenant's cannot be taken over.
    file.write_directory(
        "[[tenant]]\nid = \"other\"\ndefault_region = \"EUR\"\ndomain = [{ name = \"contoso.com\" }]",
    );
    let refused = import(&[]);
    assert!(refused.code == 1 && refused.stdout.contains("already exists"), "{refused:#?}");
    assert_eq!(dump(), before);
}

/// All that a directory holds of tenants and domains, in words.
fn outline(table: &Table) -> String {
    let mut domains: Vec<_> = table.domains().collect();
    domains.sort_by(|one, two| one.name.cmp(&two.name));
    let tenants: Vec<_> = table.tenants().collect();
    format!("{tenants:#?} {domains:#?}")
}

/// As a node of EUR sees the database.
fn outline_of(postgres: &Postgres) -> String {
    let settings = PostgresSettings {
        url: postgres.url(),
        password_file: None,
        tls: landfall::mail::TlsLevel::Off,
        ca: None,
    };
    let span = Duration::from_secs(10);
    let settings = Settings {
        service: Service::Postgres(settings),
        terms: Terms { cache: 10, cache_for: span, cache_absent_for: span, stale_for: span, deadline: span },
        pool: 1,
        node_region: landfall::mail::Region::parse("EUR").expect("a code"),
        regions: Regions::default(),
        subaddress: None,
        snapshot: None,
        clock: landfall::clock::Clock::System,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (directory, mut news) =
            landfall::directory::open(settings, Table::default()).expect("the settings are good");
        directory.ready(span).await.expect("the server is there");
        let told = outline(&directory.table());
        directory.close().await;
        assert_eq!(news.try_recv().ok(), None, "a warning means that something was left out");
        told
    })
}

/// `tests/directory/every-key.toml` beside what it names, and what is read from it.
fn every_key() -> (Edge, String) {
    let file = Edge::builder("EUR").directory(include_str!("directory/every-key.toml")).offline();
    fs::copy(Authority::new().file(), file.folder().join("ca.pem")).expect("our own folder");
    fs::write(
        file.folder().join("users.csv"),
        "address,aliases,preferred_data_location,licenses\nBob@contoso.com,b@contoso.com,Mars,none\n",
    )
    .expect("our own folder");
    let text = fs::read_to_string(file.folder().join("directory.toml")).expect("there");
    let notes = Notes::default();
    let table = landfall::directory::read("d", &text, file.folder(), &Regions::default(), None, &notes);
    notes.verdict().unwrap_or_else(|mistakes| panic!("{mistakes}"));
    (file, outline(&table))
}

#[test]
fn every_key_moves_into_the_database() {
    let (file, of_file) = every_key();
    let postgres = Postgres::start();
    let database = Edge::builder("EUR").with(&postgres.settings()).offline();
    assert_eq!(database.command(&["directory", "migrate"]).code, 0);
    let path = file.folder().join("directory.toml").display().to_string();
    let imported = database.command(&["directory", "import", &path]);
    assert_eq!(imported.code, 0, "{imported:#?}");
    assert_eq!(outline_of(&postgres), of_file);
    for table in ["tenant", "domain", "inbound_connector", "outbound_connector"] {
        let without_column = postgres.sql(&format!("SELECT more FROM landfall.{table} WHERE more <> '{{}}'"));
        assert_eq!(without_column, "", "{table}: a key without a column");
    }
    for user in ["anna@lab.hq.contoso.com", "b@contoso.com"] {
        assert_eq!(agreed([&file, &database], &["user", "show", user]).0, 0);
    }
    // The same again changes nothing; every key can be taken away again.
    let again = database.command(&["directory", "import", &path, "--json"]).json();
    assert_eq!(again["imported"]["connectors"], json!({ "added": 0, "changed": 0, "removed": 0 }));
    let bare = "[[tenant]]\nid = \"contoso\"\ndefault_region = \"NAM\"\n[[tenant.domain]]\nname = \"contoso.com\"\n\
                mail_flow_region_changed_at = 2026-01-02T00:00:00Z\n\
                [[tenant.outbound_connector]]\nname = \"to-hq\"\nrecipient_domains = [\"hq.contoso.com\"]\n\
                smart_hosts = [\"smtp://mail.hq.contoso.com\"]\n";
    file.write_directory(bare);
    let imported = database.command(&["directory", "import", &path]);
    assert_eq!(imported.code, 0, "{imported:#?}");
    let notes = Notes::default();
    let table = landfall::directory::read("d", bare, file.folder(), &Regions::default(), None, &notes);
    assert_eq!(outline_of(&postgres), outline(&table));
}

/// A database of the first version of the schema, where many of the keys had no column.
#[test]
fn a_database_of_before_is_read_and_then_migrated() {
    let (file, of_file) = every_key();
    let postgres = Postgres::start();
    let database = Edge::builder("EUR").with(&postgres.settings()).offline();
    postgres.sql(&format!(
        "SET ROLE landfall; CREATE SCHEMA landfall;
         CREATE TABLE landfall.schema_version (version integer PRIMARY KEY,
             put_in_place timestamptz NOT NULL DEFAULT now());
         INSERT INTO landfall.schema_version (version) VALUES (1);
         {}",
        include_str!("../src/directory/postgres/schema/1.sql")
    ));
    let path = file.folder().join("directory.toml").display().to_string();
    let refused = database.command(&["directory", "import", &path]);
    assert!(refused.code == 1 && refused.stderr.contains("landfall directory migrate"), "{refused:#?}");
    postgres.sql(&format!(
        "INSERT INTO landfall.tenant (id, default_region, multi_geo, in_region_routing, subscription, residency,
             accept_ipv6, reject_direct_send, route_all_via_on_premises, more)
         VALUES ('contoso', 'NAM', true, true, false, 'strict', true, true, true, '{{\"messages_per_minute\": 1200}}');
         INSERT INTO landfall.tenant_region VALUES ('contoso', 'EUR', 1), ('contoso', 'GBR', 2), ('contoso', 'NAM', 3);
         INSERT INTO landfall.domain VALUES
             ('contoso.com', 'contoso', 'authoritative', false, 'EUR', 'NAM', '2026-01-01T00:00:00.125Z', true, false),
             ('hq.contoso.com', 'contoso', 'internal-relay', true, NULL, NULL, NULL, false, NULL);
         INSERT INTO landfall.inbound_connector VALUES
             ('contoso', 'from-hq', 1, 'on-premises', '{{*.hq.contoso.com, gate.contoso.com}}', NULL, true, false,
              false, '{{\"trusted_headers\": true, \"associated_domains\": [\"contoso.com\", \"hq.contoso.com\"],
                \"skip_ips\": [\"203.0.113.7\", \"203.0.113.32/28\", \"2001:db8::1-2001:db8::9\"],
                \"users\": [\"anna@contoso.com\"]}}'),
             ('contoso', 'filter', 2, 'partner', '{{mx.fabrikam.com}}', '{{fabrikam.com, *.fabrikam.com}}', false, true,
              true, '{{\"skip_last_ip\": true}}');
         INSERT INTO landfall.inbound_network VALUES ('contoso', 'from-hq', 1, '192.0.2.0/24'),
             ('contoso', 'from-hq', 2, '198.51.100.7'), ('contoso', 'filter', 3, '203.0.113.0/25');
         INSERT INTO landfall.outbound_connector (tenant, name, recipient_domains, smart_hosts, tls, more) VALUES
             ('contoso', 'to-hq', '{{hq.contoso.com, *.hq.contoso.com}}',
              '{{smtp://mail.hq.contoso.com, smtps://mail2.hq.contoso.com:4650}}', 'verify',
              '{{\"ca\": \"{ca}\", \"returns_by\": \"from-hq\"}}'),
             ('contoso', 'central', '{{gate.example}}', '{{smtp://gate.hq.contoso.com}}', 'encrypt',
              '{{\"all_accepted_domains\": true, \"route_all_via_on_premises\": true}}'),
             ('contoso', 'to-fabrikam', '{{fabrikam.com}}', '{{smtp://mx.fabrikam.com}}', 'verify',
              '{{\"type\": \"partner\"}}');",
        ca = file.folder().join("ca.pem").display()
    ));
    // The first version could not hold a connector that names no domains itself.
    let gate = "gate.example";
    let before = outline_of(&postgres);
    assert!(before.contains(gate), "{before}");
    assert_eq!(database.command(&["directory", "migrate"]).code, 0);
    assert_eq!(outline_of(&postgres), before, "it means the same in columns");
    assert_eq!(postgres.sql("SELECT count(*) FROM landfall.outbound_connector WHERE more <> '{}'"), "0");
    postgres.sql(&format!(
        "UPDATE landfall.outbound_connector SET recipient_domains = '{{}}' WHERE '{gate}' = ANY (recipient_domains)"
    ));
    assert_eq!(outline_of(&postgres), of_file);
    for refused in [
        "UPDATE landfall.outbound_connector SET all_accepted_domains = false, route_all_via_on_premises = false",
        "UPDATE landfall.outbound_connector SET returns_by = 'nobody'",
        "UPDATE landfall.outbound_connector SET tls = 'off'",
        "UPDATE landfall.inbound_connector SET trusted_headers = true",
        "UPDATE landfall.inbound_connector SET skip_last_ip = true",
        "UPDATE landfall.inbound_connector SET skip_ips = '{}', skip_last_ip = false",
    ] {
        let told = postgres.refused(refused);
        assert!(
            told.contains("violates check constraint") || told.contains("violates foreign key"),
            "{told}"
        );
    }
}

#[test]
fn the_quickstart_moves_into_postgresql_by_two_commands() {
    let postgres = Postgres::start();
    let file = "config/quickstart-directory.toml";
    let path = fs::canonicalize(file).expect("it is there").display().to_string();
    let store = "[region.EUR]\nstore = [\"lmtp://127.0.0.1:1\"]";
    let mut edge = Edge::builder("EUR").with(&postgres.settings()).with(store).offline();
    for command in [["directory", "migrate"].as_slice(), &["directory", "import", &path]] {
        let done = edge.command(command);
        assert_eq!(done.code, 0, "{done:#?}");
    }
    edge.start();
    let mut client = edge.client();
    client.say("MAIL FROM:<sender@example.org>");
    assert_eq!(client.say("RCPT TO:<anna.k@contoso.com>"), OK);
    let text = fs::read_to_string(file).expect("it is there");
    let of_file = Edge::builder("EUR").directory(&text).with(store).offline();
    agreed([&of_file, &edge], &["domain", "list"]);
    for user in ["anna@contoso.com", "ben@contoso.com", "carol@fabrikam.com"] {
        agreed([&of_file, &edge], &["user", "show", user]);
        agreed([&of_file, &edge], &["explain", user]);
    }
}

#[test]
fn what_a_move_says_of_the_old_region_is_what_the_old_region_does() {
    let strict = "
        [[tenant]]
        id = \"strict\"
        default_region = \"EUR\"
        allowed_regions = [\"EUR\", \"NAM\"]
        multi_geo = true
        in_region_routing = true
        residency = \"strict\"
        domain = [{ name = \"strict.example\", mail_flow_region = \"EUR\" }]
        user = [{ address = \"sara@strict.example\", preferred_data_location = \"EUR\" }]
    ";
    let edge = Edge::builder("EUR")
        .directory(&format!("{CONTOSO}{strict}"))
        .relay("NAM", world::free_address())
        .with("[routing]\npropagation_window = \"1s\"")
        .start();
    let set = |domain: &str, extra: &[&str]| {
        edge.command(&[&["domain", "set", domain, "--mail-flow-region", "NAM"], extra].concat())
    };
    // Multi-geo, and EUR stays among the allowed regions: it goes on taking mail (rule 8).
    let told = set("contoso.com", &[]);
    assert_eq!(told.code, 0, "{told:#?}");
    for part in [
        "EUR goes on accepting, and relays to each user's home",
        "NAM accepts for every user (rule 6)",
        "EUR accepts for every user and relays to the user's home region (rule 8)",
    ] {
        assert!(told.stdout.contains(part), "no {part} in {told:#?}");
    }
    assert!(!told.stdout.contains("refuses"), "{told:#?}");
    // Strict: EUR refuses, and who stays there is taken nowhere.
    let told = set("strict.example", &[]);
    for part in [
        "EUR refuses this mail after ",
        "NAM accepts for users at home there, and answers ATTR35 for others (rule 6)",
        "EUR answers ATTR35 for everybody (rule 22)",
        "mail for the 1 users whose home is not NAM is refused everywhere",
    ] {
        assert!(told.stdout.contains(part), "no {part} in {told:#?}");
    }
    let says = |recipient: &str| {
        let mut client = edge.client();
        client.say("MAIL FROM:<sender@example.org>");
        client.say(&format!("RCPT TO:<{recipient}>"))
    };
    until("the window to be over", || says("sara@strict.example").contains("ATTR35").then_some(()));
    until("rule 8", || {
        edge.command(&["explain", "anna@contoso.com"]).stdout.contains("rule 8").then_some(())
    });
    assert_eq!(says("anna@contoso.com"), OK);
}
