//! Regions: what an edge answers to RCPT, rules 1 to 23 of the specification row by row over real sockets,
//! and that `landfall explain` says the same.

mod world;

use std::net::SocketAddr;

use world::{Client, Edge, letter};

const OK: &str = "250 2.1.5 Recipient OK";
const RELAY_DENIED: &str = "550 5.7.64 TenantAttribution; Relay Access Denied";
const UNKNOWN: &str = "550 5.4.1 Recipient address rejected: Access denied";
const ATTR35: &str = "451 4.4.62 Mail sent to the wrong Office 365 region. ATTR35. \
                      For more information please go to https://go.microsoft.com/fwlink/?linkid=865268";
const ATTR38: &str = "452 4.5.3 Recipients belong to multiple regions ATTR38";
const ATTR5: &str = "451 4.4.4 Mail received as unauthenticated, incoming to a recipient domain configured in a \
                     hosted tenant which has no mail-enabled subscriptions. ATTR5";
const NO_ROUTE: &str = "451 4.4.3 Temporary server error. Please try again later ATTR55.1";

/// One tenant for each way that a tenant can be; the same on every node.
fn directory() -> String {
    let now = jiff::Timestamp::now();
    let moments_ago = now - jiff::SignedDuration::from_mins(5);
    let long_ago = now - jiff::SignedDuration::from_hours(2);
    format!(
        r#"
[[tenant]]
id = "contoso"                          # spans regions
default_region = "NAM"
allowed_regions = ["NAM", "EUR", "GBR"]
multi_geo = true
in_region_routing = true
domain = [
  {{ name = "contoso.com", mail_flow_region = "EUR" }},
  {{ name = "na.contoso.com", mail_flow_region = "NAM" }},
  {{ name = "central.contoso.com" }},
  {{ name = "relay.contoso.com", mail_flow_region = "EUR", type = "internal-relay", match_subdomains = true }},
  {{ name = "labs.contoso.com", mail_flow_region = "EUR", type = "internal-relay", match_subdomains = true }},
  {{ name = "closed.contoso.com", mail_flow_region = "EUR", sending_to_disabled = true }},
]
user = [
  {{ address = "anna@contoso.com", preferred_data_location = "EUR" }},
  {{ address = "ben@contoso.com", preferred_data_location = "NAM" }},
  {{ address = "gwen@contoso.com", preferred_data_location = "GBR" }},
  {{ address = "nina@na.contoso.com", preferred_data_location = "NAM" }},
  {{ address = "zoe@central.contoso.com", aliases = ["zoe@contoso.com"], preferred_data_location = "EUR" }},
  {{ address = "iris@relay.contoso.com", preferred_data_location = "EUR" }},
  {{ address = "paul@closed.contoso.com", preferred_data_location = "EUR" }},
  {{ address = "xena@contoso.com", preferred_data_location = "JPN" }},
  {{ address = "yves@contoso.com", preferred_data_location = "" }},
]
outbound_connector = [
  {{ name = "to-hq", recipient_domains = ["relay.contoso.com", "*.relay.contoso.com", "labs.contoso.com"], smart_hosts = ["smtp://127.0.0.1:1"], tls = "off" }},
]

[[tenant]]
id = "fabrikam"                         # single-geo
default_region = "NAM"
allowed_regions = ["NAM", "EUR"]
domain = [{{ name = "fabrikam.com" }}]
user = [
  {{ address = "carol@fabrikam.com", preferred_data_location = "NAM" }},
  {{ address = "dave@fabrikam.com", preferred_data_location = "EUR" }},
]

[[tenant]]
id = "northwind"                        # multi-geo without in-region routing
default_region = "EUR"
allowed_regions = ["EUR", "GBR", "JPN"]
multi_geo = true
domain = [{{ name = "northwind.example" }}]
user = [{{ address = "eve@northwind.example", preferred_data_location = "GBR" }}]

[[tenant]]
id = "lapsed"
default_region = "EUR"
allowed_regions = ["EUR"]
subscription = false
domain = [{{ name = "lapsed.example" }}]
user = [{{ address = "lars@lapsed.example" }}]

[[tenant]]
id = "faraway"                          # a home that no node has a way to
default_region = "EUR"
allowed_regions = ["EUR", "QAT"]
multi_geo = true
in_region_routing = true
domain = [{{ name = "faraway.example", mail_flow_region = "EUR" }}]
user = [{{ address = "fay@faraway.example", preferred_data_location = "QAT" }}]

[[tenant]]
id = "strict"
default_region = "EUR"
allowed_regions = ["EUR", "NAM"]
multi_geo = true
in_region_routing = true
residency = "strict"
domain = [{{ name = "strict.example", mail_flow_region = "EUR" }}]
user = [
  {{ address = "home@strict.example", preferred_data_location = "EUR" }},
  {{ address = "away@strict.example", preferred_data_location = "NAM" }},
]

[[tenant]]
id = "moving"                           # from JPN to EUR
default_region = "EUR"
allowed_regions = ["EUR", "NAM"]
multi_geo = true
in_region_routing = true
domain = [
  {{ name = "moving.example", mail_flow_region = "EUR", previous_mail_flow_region = "JPN", mail_flow_region_changed_at = "{moments_ago}" }},
  {{ name = "moved.example", mail_flow_region = "EUR", previous_mail_flow_region = "JPN", mail_flow_region_changed_at = "{long_ago}" }},
]
user = [
  {{ address = "mia@moving.example", preferred_data_location = "EUR" }},
  {{ address = "max@moved.example", preferred_data_location = "EUR" }},
]
"#
    )
}

struct Row {
    rule: &'static str,
    node: &'static str,
    /// In one transaction.
    recipients: &'static [(&'static str, &'static str)],
}

const fn row(
    rule: &'static str,
    node: &'static str,
    recipients: &'static [(&'static str, &'static str)],
) -> Row {
    Row { rule, node, recipients }
}

/// `legacy` is the second listener of the node in EUR, `split` a node in EUR with that setting.
const TABLE: &[Row] = &[
    row("1 not our domain", "EUR", &[("ann@elsewhere.example", RELAY_DENIED)]),
    row("2 a subdomain without match_subdomains", "EUR", &[("anna@sub.contoso.com", RELAY_DENIED)]),
    row("3 a subdomain follows its parent", "EUR", &[("any@host.relay.contoso.com", OK)]),
    row(
        "3 and has its connector",
        "EUR",
        &[("any@labs.contoso.com", OK), ("any@a.host.labs.contoso.com", OK)],
    ),
    row("4 nobody of that name", "EUR", &[("nobody@contoso.com", UNKNOWN)]),
    row("4 nor at another allowed region", "NAM", &[("nobody@contoso.com", UNKNOWN)]),
    row("4 the wrong region tells nothing about users", "JPN", &[("nobody@contoso.com", ATTR35)]),
    row("5 internal relay takes unknown users", "EUR", &[("any@relay.contoso.com", OK)]),
    row("5 and known ones", "EUR", &[("iris@relay.contoso.com", OK)]),
    row("6 ingress, node and home are one", "EUR", &[("anna@contoso.com", OK), ("ANNA@Contoso.Com", OK)]),
    row(
        "7 not the ingress region, not allowed",
        "JPN",
        &[("anna@contoso.com", ATTR35), ("ben@contoso.com", ATTR35)],
    ),
    row("8 not the ingress region, but allowed", "NAM", &[("anna@contoso.com", OK)]),
    row("8 relayed to the user's home", "GBR", &[("ben@contoso.com", OK)]),
    row("8 central location without mail_flow_region", "EUR", &[("zoe@central.contoso.com", OK)]),
    row("9 no mail_flow_region, default region", "NAM", &[("zoe@central.contoso.com", OK)]),
    row("9 single-geo, default region", "NAM", &[("carol@fabrikam.com", OK), ("dave@fabrikam.com", OK)]),
    row("9 routing off, default region", "EUR", &[("eve@northwind.example", OK)]),
    row(
        "10 single-geo, whatever is allowed",
        "EUR",
        &[("carol@fabrikam.com", ATTR35), ("dave@fabrikam.com", ATTR35)],
    ),
    row("10 routing off, whatever is allowed", "GBR", &[("eve@northwind.example", ATTR35)]),
    row("10 and wherever the user lives", "JPN", &[("eve@northwind.example", ATTR35)]),
    row("11 legacy listener", "legacy", &[("anna@contoso.com", ATTR35), ("nobody@contoso.com", ATTR35)]),
    row("12 home elsewhere, both allowed", "EUR", &[("ben@contoso.com", OK)]),
    row("12 a home that is not allowed is the default region", "EUR", &[("xena@contoso.com", OK)]),
    row("12 and so is one that is nothing", "EUR", &[("yves@contoso.com", OK)]),
    row("13 an alias whose primary domain is another", "EUR", &[("zoe@contoso.com", OK)]),
    row(
        "14 a later recipient of another ingress region waits",
        "EUR",
        &[("anna@contoso.com", OK), ("nina@na.contoso.com", ATTR38), ("ben@contoso.com", OK)],
    ),
    row("14 rules 7 to 10 come first", "EUR", &[("anna@contoso.com", OK), ("carol@fabrikam.com", ATTR35)]),
    row("14 split takes both", "split", &[("anna@contoso.com", OK), ("nina@na.contoso.com", OK)]),
    row(
        "15 one ingress region, three homes",
        "EUR",
        &[("anna@contoso.com", OK), ("ben@contoso.com", OK), ("gwen@contoso.com", OK)],
    ),
    row("16 no subscription", "EUR", &[("lars@lapsed.example", ATTR5)]),
    row("16 before the region", "JPN", &[("lars@lapsed.example", ATTR5)]),
    row("19 no way to the home region", "EUR", &[("fay@faraway.example", NO_ROUTE)]),
    row("21 the old region still takes it", "JPN", &[("mia@moving.example", OK)]),
    row("21 the new region takes it", "EUR", &[("mia@moving.example", OK)]),
    row("21 the window is over", "JPN", &[("max@moved.example", ATTR35)]),
    row("22 strict, at home", "EUR", &[("home@strict.example", OK)]),
    row("22 strict, home elsewhere", "EUR", &[("away@strict.example", ATTR35)]),
    row(
        "22 strict, from the domain alone",
        "NAM",
        &[("home@strict.example", ATTR35), ("nobody@strict.example", ATTR35)],
    ),
    row("23 sending disabled", "EUR", &[("paul@closed.contoso.com", UNKNOWN)]),
    row("6 a tag is part of nobody's name", "EUR", &[("anna+news@contoso.com", OK)]),
];

/// An edge of `region` that knows a way to the other three; nothing needs to answer there.
fn edge(region: &str) -> world::Builder {
    let nowhere: SocketAddr = "127.0.0.1:1".parse().expect("an address");
    ["EUR", "NAM", "GBR", "JPN"]
        .iter()
        .filter(|other| **other != region)
        .fold(Edge::builder(region).directory(&directory()), |edge, other| edge.relay(other, nowhere))
}

#[test]
fn every_rule_of_the_recipient_is_answered_as_written() {
    let eur = edge("EUR");
    let main = eur.address();
    let legacy = world::free_address();
    let eur = eur
        .with(&format!(
            "listener = [{{ name = \"mx\", address = [\"{main}\"] }}, \
             {{ name = \"old\", address = [\"{legacy}\"], legacy = true }}]"
        ))
        .start();
    let split = edge("EUR").with("[routing]\nmixed_regions = \"split\"").start();
    let others = ["NAM", "GBR", "JPN"].map(|region| (region, edge(region).start()));
    let address = |node: &str| match node {
        "EUR" => main,
        "legacy" => legacy,
        "split" => split.address,
        region => others.iter().find(|(name, _)| *name == region).expect("a node of the table").1.address,
    };

    let mut wrong = Vec::new();
    for row in TABLE {
        let mut client = Client::greeted(address(row.node));
        client.expect("MAIL FROM:<ann@sender.example>", "250 2.1.0 Sender OK");
        for (recipient, expected) in row.recipients {
            let reply = client.say(&format!("RCPT TO:<{recipient}>"));
            if reply != *expected {
                wrong.push(format!(
                    "rule {} at {}: {recipient}\n  {reply}\n  not {expected}",
                    row.rule, row.node
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop(eur);
}

#[test]
fn explain_gives_the_reply_that_the_server_gives() {
    let edge = edge("EUR").offline();
    let single = TABLE.iter().filter(|row| row.recipients.len() == 1 && row.node != "split");
    let mut wrong = Vec::new();
    for row in single {
        let (recipient, expected) = row.recipients[0];
        let mut arguments =
            vec!["explain", recipient, "--from", "ann@sender.example", "--client-ip", "192.0.2.1"];
        match row.node {
            "legacy" => arguments.push("--legacy"),
            region => arguments.extend(["--region", region]),
        }
        arguments.push("--json");
        let told = edge.command(&arguments);
        // 1 is "the answer is no".
        let code = i32::from(expected != OK);
        let said = if told.code < 2 {
            told.json()["reply"].as_str().unwrap_or_default().to_owned()
        } else {
            String::new()
        };
        if told.code != code || said != expected {
            wrong.push(format!("rule {}: {recipient}\n  {told:?}\n  not {code}, {expected}", row.rule));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn explain_names_the_rule_and_the_next_hop() {
    let edge = edge("EUR").offline();
    for (recipient, rule, next_hop) in [
        ("anna@contoso.com", "6", "EUR"),
        ("ben@contoso.com", "12", "NAM"),
        ("any@relay.contoso.com", "5", "to-hq"),
    ] {
        let told = edge.command(&["explain", recipient, "--json"]).json();
        let steps = told["steps"].as_array().expect("a list of steps");
        assert!(steps.iter().any(|step| step["rule"] == rule), "{recipient} by rule {rule}: {told:#}");
        assert!(told["next_hop"].to_string().contains(next_hop), "{recipient} to {next_hop}: {told:#}");
    }
    let people = edge.command(&["explain", "carol@fabrikam.com"]);
    assert_eq!(people.code, 1);
    assert!(people.stdout.contains("rule 10") && people.stdout.contains(ATTR35), "{}", people.stdout);
    assert_eq!(edge.command(&["explain", "not an address"]).code, 2);
    assert_eq!(edge.command(&["explain", "anna@contoso.com", "--region", "XYZ"]).code, 2);
}

#[test]
fn postmaster_is_taken_with_and_without_a_domain() {
    let edge = edge("EUR").with("[directory]\npostmaster = \"anna@contoso.com\"").start();
    let mut client = edge.client();
    let recipients = ["postmaster", "Postmaster@contoso.com", "\"postmaster\"@closed.contoso.com"];
    client.envelope("ann@sender.example", &recipients);
    assert!(client.data(letter("to the postmaster")).starts_with("250 "));
    edge.wait_for("anna@contoso.com", recipients.len());
    // Our notices come from there, and are answered.
    let own = "Postmaster@EDGE1.eur.example.net";
    client.deliver("ann@sender.example", &[own], letter("to the notices' author"));
    edge.wait_for("anna@contoso.com", recipients.len() + 1);
    assert_eq!(edge.command(&["explain", own]).code, 0);
    assert_eq!(edge.command(&["explain", "<Postmaster>", "--from", "<ann@sender.example>"]).code, 0);
    client.expect("MAIL FROM:<ann@sender.example>", "250 2.1.0 Sender OK");
    client.expect("RCPT TO:<anna@edge1.eur.example.net>", RELAY_DENIED);
}

/// Section 6: always. An address that nobody has, one that nobody hosts, and one whose region is another.
#[test]
fn a_postmaster_whom_nobody_reads_is_kept_here() {
    for reader in ["nobody@contoso.com", "ops@elsewhere.example", "carol@fabrikam.com"] {
        let edge = edge("EUR").with(&format!("[directory]\npostmaster = \"{reader}\"")).start();
        let checked = edge.command(&["config", "check"]);
        let said = checked.stdout + &checked.stderr;
        let warned = said.contains("directory.postmaster: nobody here has");
        assert_eq!((checked.code, warned), (0, !reader.starts_with("carol")), "{said}");
        let mut client = edge.client();
        client.deliver("ann@sender.example", &["postmaster", "postmaster@contoso.com"], letter("to whom?"));
        if !reader.starts_with("carol") {
            edge.wait_for("postmaster@edge1.eur.example.net", 1);
            edge.wait_for("postmaster@contoso.com", 1);
        }
    }
}

#[test]
fn a_user_has_one_mailbox_whatever_the_address_that_was_used() {
    for mode in ["spool", "inline"] {
        let edge = edge("EUR").with(&format!("[region.EUR]\nmode = \"{mode}\"")).start();
        let mut client = edge.client();
        let addresses = ["zoe@contoso.com", "Zoe+list@central.contoso.com", "\"zoe\"@central.contoso.com"];
        for address in addresses {
            client.deliver("ann@sender.example", &[address], letter(address));
        }
        edge.wait_for("zoe@central.contoso.com", addresses.len());
    }
}

#[test]
fn from_a_peer_edge_mail_enters_by_any_door() {
    let legacy = world::free_address();
    let nam = edge("NAM");
    let main = nam.address();
    let nam = nam
        .with(&format!(
            "listener = [{{ name = \"mx\", address = [\"{main}\"] }}, \
             {{ name = \"old\", address = [\"{legacy}\"], legacy = true }}]"
        ))
        .with("[region.EUR]\npeers = [\"127.0.0.9/32\"]")
        .start();
    let mut stranger = Client::greeted(legacy);
    stranger.expect("MAIL FROM:<ann@sender.example>", "250 2.1.0 Sender OK");
    stranger.expect("RCPT TO:<ben@contoso.com>", ATTR35);
    let mut peer = Client::greeted_from("127.0.0.9".parse().expect("an address"), legacy);
    peer.expect("MAIL FROM:<ann@sender.example>", "250 2.1.0 Sender OK");
    peer.expect("RCPT TO:<ben@contoso.com>", OK);
    peer.expect("RCPT TO:<anna@contoso.com>", NO_ROUTE);
    drop(nam);
}

#[test]
fn a_draining_node_answers_for_now_and_finishes_what_is_under_way() {
    let mut edge = edge("EUR").start();
    let mut under_way = edge.client();
    under_way.envelope("ann@sender.example", &["anna@contoso.com"]);
    let mut idle = edge.client();
    edge.signal("TERM");
    // Rule 61: who has nothing under way is told to go.
    assert_eq!(idle.rest(), ["421 4.3.2 Service not available"]);
    // Rule 18: nothing new comes in, what came in before is finished.
    let later = under_way.say("RCPT TO:<ben@contoso.com>");
    assert_eq!(later, "451 4.3.2 Temporary server error. Please try again later ATTR55");
    let taken = under_way.data(letter("while draining"));
    assert!(taken.starts_with("250 2.6.0 "), "{taken}");
    drop(under_way);
    assert!(edge.wait().success(), "{}", edge.log());
    // Delivered before the end, or after the next start: never lost.
    edge.start();
    edge.wait_for("anna@contoso.com", 1);
}
