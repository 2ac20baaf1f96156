//! Hybrid: the four ways of docs/HYBRID.md, from the configuration that stands there, with a real Postfix on the
//! organisation's premises, a real name server, and sinks for the rest of the internet.

mod world;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use world::{
    Authority, Client, Edge, Nameserver, Postfix, Sink, Zone, free_address, holds_for, letter, swaks, until,
};

const ANNA: &str = "anna@contoso.com";
const BEN: &str = "ben@contoso.com";
/// Somebody on the internet.
const FOREIGN: &str = "x@foreign.test";
const DOCUMENT: &str = include_str!("../docs/HYBRID.md");

struct Hybrid {
    edge: Edge,
    postfix: Postfix,
    internet: Sink,
    _names: Nameserver,
    _authority: Authority,
}

/// Which way mail takes that Postfix sends to the internet.
enum Outward {
    ThroughTheEdge,
    Itself,
}

fn block(heading: &str) -> &'static str {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with(heading)).expect("a section");
    section.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of TOML")
}

impl Hybrid {
    fn start(scenario: &str, outward: Outward) -> Self {
        let authority = Authority::new();
        let pair = authority.issue("mail.contoso.com");
        let builder = Edge::builder("EUR");
        // Mail servers have one port and many addresses.
        let hq = SocketAddr::new(free_address().ip(), 25);
        let mx = SocketAddr::new(free_address().ip(), 25);
        let internet = Sink::start_at(mx, &[]);
        let names = Nameserver::start(&[
            Zone::signed("contoso.com", &format!("mail A {}\n", hq.ip())),
            Zone::unsigned("foreign.test", &format!("@ MX 10 mx\nmx A {}\n", mx.ip())),
        ]);
        let edge_at = builder.address();
        let (to_edge, to_internet) = (hop(edge_at), hop(mx));
        let out = match outward {
            Outward::ThroughTheEdge => &to_edge,
            Outward::Itself => &to_internet,
        };
        let postfix = Postfix::setup_at(hq)
            .mailboxes(&[ANNA, BEN])
            .with(&format!(
                "transport_maps = inline:{{ {{ {BEN} = virtual: }} {{ {ANNA} = {to_edge} }} {{ * = {out} }} }}"
            ))
            .with(&format!("smtpd_tls_chain_files = {}, {}", pair.key.display(), pair.cert.display()))
            .with(&format!("smtp_tls_chain_files = {}, {}", pair.key.display(), pair.cert.display()))
            .with("smtpd_tls_security_level = may\nsmtp_tls_security_level = may")
            .start();
        fs::copy(authority.file(), builder.folder().join("contoso-ca.pem")).expect("our own folder");
        let edge = builder
            .with(block("What all four share"))
            .with(&names.settings())
            .with("[outbound]\nallow_networks = [\"127.0.0.0/8\"]\nmta_sts = false")
            .with("[queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"")
            // The tests' own client calls from there.
            .directory(&block(scenario).replace("198.51.100.10", "127.0.0.1"))
            .start();
        Self { edge, postfix, internet, _names: names, _authority: authority }
    }

    /// Mail from the internet that comes by the edge.
    fn internet_sends(&self, to: &str, subject: &str) {
        self.edge.client().deliver(FOREIGN, &[to], letter(subject));
    }

    /// Mail that Postfix is given: from its own users, or from the internet where the MX points there.
    fn to_postfix(&self, from: &str, to: &str, subject: &str) {
        let mut client = Client::greeted(self.postfix.address);
        for line in [format!("MAIL FROM:<{from}>"), format!("RCPT TO:<{to}>")] {
            let said = client.say(&line);
            assert!(said.starts_with("250 "), "{line}: {said}");
        }
        let said = client.data(letter(subject));
        assert!(said.starts_with("250 "), "{said}");
    }

    /// The hosts that added a `Received` field, the last one first.
    fn hosts(&self, letter: &world::Letter) -> Vec<&'static str> {
        let name = |line: &String| if line.contains("by edge1.eur") { "edge" } else { "postfix" };
        letter.headers("Received").iter().map(name).collect()
    }

    /// What reached the internet, by sender and subject.
    fn out(&self, count: usize) -> Vec<(String, Vec<&'static str>)> {
        let taken = self.internet.wait_for(count);
        let path = |argument: &str| argument.split(' ').next().unwrap_or_default().to_owned();
        assert!(taken.iter().all(|taken| path(&taken.recipients[0]) == format!("<{FOREIGN}>")), "{taken:?}");
        taken.iter().map(|taken| (path(&taken.sender), self.hosts(&taken.message))).collect()
    }

    fn settles(&self) {
        self.edge.wait_for_empty_queue();
        holds_for("nothing goes round", Duration::from_millis(300), || self.edge.queue().is_empty());
    }
}

fn hop(address: SocketAddr) -> String {
    format!("smtp:[{}]:{}", address.ip(), address.port())
}

#[test]
fn scenario_1_mx_here_and_filtering_here() {
    let hybrid = Hybrid::start("Scenario 1", Outward::ThroughTheEdge);
    hybrid.internet_sends(ANNA, "for the store");
    hybrid.internet_sends(BEN, "for the premises");
    assert_eq!(hybrid.hosts(&hybrid.edge.wait_for(ANNA, 1)[0]), ["edge"]);
    assert_eq!(hybrid.hosts(&hybrid.postfix.wait_for(BEN, 1)[0]), ["postfix", "edge"]);
    // What the premises send: their users', notices, and what they forward for others.
    for from in [BEN, "", "john@fabrikam.test"] {
        hybrid.to_postfix(from, FOREIGN, "out");
    }
    let mut out = hybrid.out(3);
    out.sort();
    let senders: Vec<&str> = out.iter().map(|(sender, _)| sender.as_str()).collect();
    assert_eq!(senders, ["<>", "<ben@contoso.com>", "<john@fabrikam.test>"]);
    assert!(out.iter().all(|(_, hosts)| *hosts == ["edge", "postfix"]), "{out:?}");
    hybrid.to_postfix(BEN, ANNA, "within");
    hybrid.edge.wait_for(ANNA, 2);
    assert_eq!(hybrid.edge.log().matches(r#""connector":"contoso/from-hq""#).count(), 4);
    // Nobody without the certificate may.
    let (code, transcript) = swaks(hybrid.edge.address, &["--tls", "--from", BEN, "--to", FOREIGN]);
    assert!(code == 24 && transcript.contains("550 5.7.64"), "{transcript}");
    hybrid.settles();
}

#[test]
fn scenario_2_mx_here_and_filtering_on_premises() {
    let hybrid = Hybrid::start("Scenario 2", Outward::ThroughTheEdge);
    hybrid.internet_sends(ANNA, "in");
    hybrid.internet_sends(BEN, "in");
    assert_eq!(hybrid.hosts(&hybrid.edge.wait_for(ANNA, 1)[0]), ["edge", "postfix", "edge"]);
    assert_eq!(hybrid.hosts(&hybrid.postfix.wait_for(BEN, 1)[0]), ["postfix", "edge"]);
    // The store's mail to the world takes the same way.
    hybrid.edge.client().deliver(ANNA, &[FOREIGN], letter("out"));
    assert_eq!(hybrid.out(1), [("<anna@contoso.com>".to_owned(), vec!["edge", "postfix", "edge"])]);
    hybrid.to_postfix(BEN, FOREIGN, "out");
    hybrid.internet.wait_for(2);
    hybrid.settles();
    assert_eq!((hybrid.edge.mailbox(ANNA).len(), hybrid.postfix.mailbox(BEN).len()), (1, 1));
    assert_eq!(hybrid.internet.taken().len(), 2);
}

#[test]
fn scenario_2_waits_while_the_premises_are_down() {
    let hybrid = Hybrid::start("Scenario 2", Outward::ThroughTheEdge);
    let Hybrid { edge, postfix, _names, _authority, .. } = hybrid;
    let address = postfix.address;
    drop(postfix);
    edge.client().deliver(FOREIGN, &[ANNA], letter("later"));
    until("the message to wait", || (edge.queue().len() == 1).then_some(()));
    assert!(edge.mailbox(ANNA).is_empty());
    let pair = _authority.issue("mail.contoso.com");
    let postfix = Postfix::setup_at(address)
        .with(&format!("transport_maps = inline:{{ {{ * = {} }} }}", hop(edge.address)))
        .with(&format!("smtpd_tls_chain_files = {}, {}", pair.key.display(), pair.cert.display()))
        .with(&format!("smtp_tls_chain_files = {}, {}", pair.key.display(), pair.cert.display()))
        .with("smtpd_tls_security_level = may\nsmtp_tls_security_level = may")
        .start();
    let received = edge.wait_for(ANNA, 1)[0].headers("Received");
    assert_eq!(received.len(), 3, "{received:?}\n{}", postfix.log());
}

#[test]
fn scenario_3_mx_on_premises() {
    let hybrid = Hybrid::start("Scenario 3", Outward::Itself);
    hybrid.to_postfix(FOREIGN, ANNA, "in");
    hybrid.to_postfix(FOREIGN, BEN, "in");
    assert_eq!(hybrid.hosts(&hybrid.edge.wait_for(ANNA, 1)[0]), ["edge", "postfix"]);
    assert_eq!(hybrid.hosts(&hybrid.postfix.wait_for(BEN, 1)[0]), ["postfix"]);
    // The store's mail to the world goes out through the premises.
    hybrid.edge.client().deliver(ANNA, &[FOREIGN], letter("out"));
    assert_eq!(hybrid.out(1), [("<anna@contoso.com>".to_owned(), vec!["postfix", "edge"])]);
    // And nobody else may come in here.
    let (code, transcript) = swaks(hybrid.edge.address, &["--from", FOREIGN, "--to", ANNA]);
    assert!(code == 24 && transcript.contains("550 5.7.51"), "{transcript}");
    hybrid.settles();
}

#[test]
fn scenario_4_mx_on_premises_and_out_through_here() {
    let hybrid = Hybrid::start("Scenario 4", Outward::ThroughTheEdge);
    hybrid.to_postfix(FOREIGN, ANNA, "in");
    assert_eq!(hybrid.hosts(&hybrid.edge.wait_for(ANNA, 1)[0]), ["edge", "postfix"]);
    for from in [BEN, "", "john@fabrikam.test"] {
        hybrid.to_postfix(from, FOREIGN, "out");
    }
    let out = hybrid.out(3);
    assert!(out.iter().all(|(_, hosts)| *hosts == ["edge", "postfix"]), "{out:?}");
    let (code, transcript) = swaks(hybrid.edge.address, &["--tls", "--from", FOREIGN, "--to", ANNA]);
    assert!(code == 24 && transcript.contains("550 5.7.51"), "{transcript}");
    hybrid.settles();
}

/// Rule 39 by address alone: the organisation's server shows no certificate.
#[test]
fn what_comes_back_is_known_by_its_address_too() {
    let builder = Edge::builder("EUR");
    let postfix = Postfix::setup().transport(&[("*", builder.address())]).start();
    let edge = builder
        .directory(&format!(
            "[[tenant]]\nid = \"contoso\"\ndefault_region = \"EUR\"\nroute_all_via_on_premises = true\n\
             domain = [{{ name = \"contoso.com\" }}]\nuser = [{{ address = \"anna@contoso.com\" }}]\n\
             [[tenant.inbound_connector]]\nname = \"from-hq\"\ntype = \"on-premises\"\nsource_ips = [\"{}\"]\n\
             [[tenant.outbound_connector]]\nname = \"to-hq\"\nrecipient_domains = [\"*\"]\nsmart_hosts = [\"smtp://{}\"]\n\
             tls = \"off\"\n\
             [[tenant]]\nid = \"fabrikam\"\ndefault_region = \"EUR\"\ndomain = [{{ name = \"fabrikam.com\" }}]\n",
            postfix.address.ip(),
            postfix.address
        ))
        .start();
    // From the internet, and from others whose domain is hosted here too.
    for (count, from) in [(1, FOREIGN), (2, "bob@fabrikam.com")] {
        edge.client().deliver(from, &[ANNA], letter("round"));
        assert!(edge.wait_for(ANNA, count).iter().all(|letter| letter.headers("Received").len() == 3));
        edge.wait_for_empty_queue();
    }
    holds_for("two messages in the mailbox", Duration::from_millis(300), || edge.mailbox(ANNA).len() == 2);
    assert_eq!(postfix.log().matches("status=sent").count(), 2, "{}", postfix.log());
    let log = edge.log();
    assert_eq!(log.matches(r#""connector":"contoso/from-hq""#).count(), 2, "{log}");
    assert_eq!(log.matches(r#""event":"accepted""#).count(), 4, "{log}");
}

/// Rule 41.
#[test]
fn a_connector_is_validated_step_by_step() {
    let hybrid = Hybrid::start("Scenario 1", Outward::ThroughTheEdge);
    let edge = &hybrid.edge;
    let list = edge.command(&["connector", "list", "--json"]).json();
    let names: Vec<_> = list.as_array().expect("rows").iter().map(|row| row["name"].as_str()).collect();
    assert_eq!(names, [Some("from-hq"), Some("to-hq")]);

    let told = edge.command(&["connector", "validate", "to-hq", "--to", BEN, "--json"]);
    assert_eq!(told.code, 0, "{told:#?}");
    let told = told.json();
    let steps: Vec<_> = told["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .map(|step| step["step"].as_str().expect("a name"))
        .collect();
    assert_eq!(steps, ["dns", "tcp", "banner", "ehlo", "tls", "ehlo", "message"], "{told}");
    assert!(
        told["steps"][4]["says"].as_str().expect("words").contains("the chain holds for mail.contoso.com")
    );
    let sent = &hybrid.postfix.wait_for(BEN, 1)[0];
    assert_eq!(sent.header("Subject").as_deref(), Some("Test of connector to-hq"));

    // Over the API the same, but for the times, and one message more.
    let validate = |name: &str, to: &[&str]| {
        let asked = serde_json::json!({ "name": name, "to": to }).to_string();
        edge.api("POST", "/v1/connectors/validate", &asked)
    };
    let timeless = |told: &serde_json::Value| {
        let words =
            |step: &serde_json::Value| (step["step"].clone(), step["host"].clone(), step["ok"].clone());
        let steps: Vec<_> = told["steps"].as_array().expect("steps").iter().map(words).collect();
        (told["connector"].clone(), told["ok"].clone(), steps)
    };
    let (code, body) = validate("to-hq", &[BEN]);
    assert_eq!(code, 200, "{body}");
    let answered = serde_json::from_str(&body).expect("JSON");
    assert_eq!(timeless(&answered), timeless(&told), "{body}");
    hybrid.postfix.wait_for(BEN, 2);
    let (code, body) = validate("contoso/to-hq", &[FOREIGN]);
    assert!(code == 200 && body.contains("none of the connector's domains"), "{code} {body}");
    for name in ["from-hq", "to-nowhere", "fabrikam/to-hq"] {
        assert_eq!(validate(name, &[]).0, 422, "{name}");
    }
    assert_eq!(validate("to-hq", &["ben"]).0, 422);
    let audit = fs::read_to_string(edge.state().join("queue-audit.jsonl")).expect("written");
    let line = r#""verb":"connector-validate","detail":"contoso/to-hq, messages: 1""#;
    assert_eq!((audit.lines().count(), audit.matches(line).count()), (2, 2), "{audit}");

    // Recipients elsewhere, names that nobody has, and inbound connectors.
    let told = edge.command(&["connector", "validate", "contoso/to-hq", "--to", FOREIGN]);
    assert!(told.code == 1 && told.stdout.contains("none of the connector's domains"), "{told:#?}");
    for name in ["from-hq", "to-nowhere", "fabrikam/to-hq"] {
        assert_eq!(edge.command(&["connector", "validate", name]).code, 2, "{name}");
    }

    // A chain that does not hold fails where it is asked for, and is told where it is not.
    let directory = fs::read_to_string(edge.folder().join("directory.toml")).expect("written by us");
    edge.write_directory(&directory.replace("\nca = \"contoso-ca.pem\"", ""));
    let told = edge.command(&["connector", "validate", "to-hq"]);
    assert!(
        told.code == 1 && told.stdout.contains("FAIL tls") && told.stdout.contains("UnknownIssuer"),
        "{told:#?}"
    );
    let encrypt = directory.replace("tls = \"verify\"\nca = \"contoso-ca.pem\"", "tls = \"encrypt\"");
    edge.write_directory(&encrypt);
    let told = edge.command(&["connector", "validate", "to-hq"]);
    assert!(
        told.code == 0 && told.stdout.contains("chain") && told.stdout.contains("does not hold"),
        "{told:#?}"
    );
}
