//! Connectors: rules 30 to 37 over real sockets, with client certificates and without, and `landfall explain`
//! beside them. Every row of the rules is in `src/inquiry/tests.rs`.

mod world;

use std::fs;
use std::process::Command;

use world::{Authority, Client, Edge, Folder, Pair, Postfix, Sink, free_address, letter, swaks, until};

const SENDER_OK: &str = "250 2.1.0 Sender OK";
const OK: &str = "250 2.1.5 Recipient OK";
const RELAY_DENIED: &str = "550 5.7.64 TenantAttribution; Relay Access Denied";
const DIRECT_SEND: &str = "550 5.7.68 TenantInboundAttribution; Direct Send not allowed for this organization from unauthorized sources";
const PARTNER: &str = "550 5.7.51 TenantInboundAttribution; There is a partner connector configured that matched \
                       the message's recipient domain. The connector had either the RestrictDomainsToIPAddresses \
                       or RestrictDomainsToCertificate set";
const TLS_NEEDED: &str = "530 5.7.0 Must issue a STARTTLS command first";
const ATTR35: &str = "451 4.4.62 Mail sent to the wrong Office 365 region. ATTR35. For more information please go to \
                      https://go.microsoft.com/fwlink/?linkid=865268";
const ANNA: &str = "anna@contoso.com";
const FOREIGN: &str = "x@foreign.example";

/// Contoso of EUR, whose mail to foreign.example goes to `sink`.
fn contoso(sink: &Sink, more: &str) -> String {
    format!(
        r#"
[[tenant]]
id = "contoso"
default_region = "EUR"
reject_direct_send = true
domain = [{{ name = "contoso.com" }}]
user = [{{ address = "anna@contoso.com" }}]
[[tenant.outbound_connector]]
name = "out"
recipient_domains = ["foreign.example"]
smart_hosts = ["smtp://{}"]
tls = "off"
{more}"#,
        sink.address
    )
}

/// By certificate only.
const CERTIFICATES: &str = r#"
[[tenant.inbound_connector]]
name = "hq"
type = "on-premises"
certificate_names = ["mail.contoso.com", "h.sub.contoso.com"]
[[tenant.inbound_connector]]
name = "bank"
type = "partner"
sender_domains = ["bank.example"]
certificate_names = ["mx.bank.example"]
restrict_to_certificate = true
"#;

fn with_certificates(authority: &Authority, directory: &str) -> Edge {
    let client_ca = format!("[tls]\nclient_ca = \"{}\"", authority.file().display());
    Edge::builder("EUR").with(&client_ca).directory(directory).start()
}

/// What a client with this certificate is told, as a transcript.
fn deliver(edge: &Edge, certificate: Option<&Pair>, from: &str, to: &str) -> (i32, String) {
    let mut arguments = vec!["--tls".to_owned(), "--from".into(), from.into(), "--to".into(), to.into()];
    if let Some(pair) = certificate {
        arguments.extend(["--tls-cert".to_owned(), pair.cert.display().to_string()]);
        arguments.extend(["--tls-key".to_owned(), pair.key.display().to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    swaks(edge.address, &arguments)
}

#[test]
fn a_certificate_of_its_own_lets_a_tenant_relay_anywhere() {
    let (sink, authority) = (Sink::start(&[]), Authority::new());
    let edge = with_certificates(&authority, &contoso(&sink, CERTIFICATES));
    let hq = authority.issue("mail.contoso.com");
    // Rule 30: whatever the sender, the null sender too.
    for from in [ANNA, FOREIGN, "<>"] {
        let (code, transcript) = deliver(&edge, Some(&hq), from, FOREIGN);
        assert_eq!(code, 0, "{transcript}");
    }
    let taken = sink.wait_for(3);
    assert!(taken.iter().all(|taken| taken.recipients == ["<x@foreign.example>"]), "{taken:?}");
    assert_eq!(edge.log().matches(r#""attribution":"contoso/hq""#).count(), 3, "{}", edge.log());

    // Rule 31, a certificate that no authority of ours signed, and none at all.
    let deep = authority.issue("h.sub.contoso.com");
    let stranger = Authority::new();
    let forged = stranger.issue("mail.contoso.com");
    for certificate in [Some(&deep), Some(&forged), None] {
        let (code, transcript) = deliver(&edge, certificate, FOREIGN, FOREIGN);
        assert_eq!(code, 24, "{transcript}");
        assert!(transcript.contains(RELAY_DENIED), "{transcript}");
        let (code, transcript) = deliver(&edge, certificate, ANNA, ANNA);
        assert_eq!(code, 23, "{transcript}");
        assert!(transcript.contains(DIRECT_SEND), "{transcript}");
        let (code, transcript) = deliver(&edge, certificate, FOREIGN, ANNA);
        assert_eq!(code, 0, "{transcript}");
    }
    assert_eq!(edge.wait_for(ANNA, 3).len(), 3);
}

#[test]
fn a_partners_domain_comes_with_the_partners_certificate_only() {
    let (sink, authority) = (Sink::start(&[]), Authority::new());
    let edge = with_certificates(&authority, &contoso(&sink, CERTIFICATES));
    let (code, transcript) = deliver(&edge, None, "x@bank.example", ANNA);
    assert_eq!(code, 24, "{transcript}");
    assert!(transcript.contains(PARTNER), "{transcript}");
    let bank = authority.issue("mx.bank.example");
    let (code, transcript) = deliver(&edge, Some(&bank), "x@bank.example", ANNA);
    assert_eq!(code, 0, "{transcript}");
    // It is a partner: it may not relay.
    let (code, transcript) = deliver(&edge, Some(&bank), "x@bank.example", FOREIGN);
    assert_eq!(code, 24, "{transcript}");
    assert!(transcript.contains(RELAY_DENIED), "{transcript}");
}

const ADDRESSES: &str = r#"
[[tenant.inbound_connector]]
name = "site"
type = "on-premises"
source_ips = ["127.0.0.0/24"]
"#;

fn attempt(client: &mut Client, from: &str, to: &str, recipient: &str) {
    client.expect(&format!("MAIL FROM:<{from}>"), SENDER_OK);
    client.expect(&format!("RCPT TO:<{to}>"), recipient);
    client.expect("RSET", "250 2.0.0 Resetting");
}

#[test]
fn an_address_speaks_for_the_tenants_own_senders_only() {
    let sink = Sink::start(&[]);
    let edge = Edge::builder("EUR").directory(&contoso(&sink, ADDRESSES)).start();
    let mut client = edge.client();
    // Attribution is each transaction's own: rules 32, 33, 34, and 32 again.
    attempt(&mut client, ANNA, FOREIGN, OK);
    attempt(&mut client, FOREIGN, FOREIGN, RELAY_DENIED);
    attempt(&mut client, "", FOREIGN, RELAY_DENIED);
    attempt(&mut client, FOREIGN, ANNA, OK);
    client.deliver(ANNA, &[FOREIGN], letter("through the smart host"));
    assert_eq!(sink.wait_for(1)[0].sender, "<anna@contoso.com>");
}

/// The trace and the log say by which connector a message came, also where it is anybody's (rules 34 and 35).
#[test]
fn the_trace_names_the_connector() {
    let sink = Sink::start(&[]);
    let partner = "[[tenant.inbound_connector]]\nname = \"bank\"\ntype = \"partner\"\n\
                   sender_domains = [\"bank.example\"]\nsource_ips = [\"127.0.0.1\"]\nrestrict_to_ip = true\n";
    let fabrikam = "[[tenant]]\nid = \"fabrikam\"\ndefault_region = \"EUR\"\ndomain = [{ name = \"fabrikam.com\" }]\n\
                    user = [{ address = \"bob@fabrikam.com\" }]\n";
    let directory = contoso(&sink, &format!("{ADDRESSES}{fabrikam}{partner}"));
    let edge = Edge::builder("EUR").directory(&directory).start();
    let mut client = edge.client();
    for (from, to, attribution, connector) in [
        (ANNA, ANNA, "contoso/site", "contoso/site"),
        (FOREIGN, ANNA, "incoming", "contoso/site"),
        ("x@bank.example", "bob@fabrikam.com", "incoming", "fabrikam/bank"),
    ] {
        client.deliver(from, &[to], letter("by a connector"));
        let row = until("a row of the trace", || {
            edge.command(&["trace", "--from", from, "--to", to, "--json"]).json().as_array()?.first().cloned()
        });
        assert_eq!(row["attribution"], attribution, "{row:#}");
        assert_eq!(row["connector"], connector, "{row:#}");
        assert!(edge.log().contains(&format!(r#""connector":"{connector}""#)), "{}", edge.log());
    }
}

#[test]
fn what_enters_elsewhere_is_relayed_there_and_its_users_are_that_regions_to_know() {
    let sink = Sink::start(&[]);
    let others = r#"
[[tenant]]
id = "fabrikam"
default_region = "NAM"
domain = [{ name = "fabrikam.com" }]
user = [{ address = "carol@fabrikam.com" }]
[[tenant]]
id = "strict"
default_region = "NAM"
allowed_regions = ["NAM", "EUR"]
multi_geo = true
residency = "strict"
domain = [{ name = "strict.example" }]
user = [{ address = "here@strict.example", preferred_data_location = "EUR" }]
"#;
    let directory = contoso(&sink, &format!("{ADDRESSES}{others}"));
    let edge = Edge::builder("EUR").directory(&directory).relay("NAM", sink.address).start();
    let mut client = edge.client();
    for strict in ["here@strict.example", "nobody@strict.example"] {
        attempt(&mut client, ANNA, strict, ATTR35);
    }
    // To strangers it is closed, whoever is asked for.
    attempt(&mut client, FOREIGN, "carol@fabrikam.com", ATTR35);
    client.deliver(ANNA, &["carol@fabrikam.com", "nobody@fabrikam.com"], letter("there"));
    assert_eq!(sink.wait_for(1)[0].recipients, ["<carol@fabrikam.com>", "<nobody@fabrikam.com>"]);
}

#[test]
fn a_connector_that_requires_tls_takes_no_plain_text() {
    let sink = Sink::start(&[]);
    let edge =
        Edge::builder("EUR").directory(&contoso(&sink, &format!("{ADDRESSES}require_tls = true"))).start();
    let mut client = edge.client();
    for from in [ANNA, FOREIGN, ""] {
        client.expect(&format!("MAIL FROM:<{from}>"), TLS_NEEDED);
    }
    // The session goes on, as the reply asks for.
    client.expect("STARTTLS", "220 2.0.0 Ready to start TLS");
    let (code, transcript) = deliver(&edge, None, ANNA, FOREIGN);
    assert_eq!(code, 0, "{transcript}");
    sink.wait_for(1);
}

#[test]
fn explain_attributes_as_the_server_does() {
    let sink = Sink::start(&[]);
    let directory = contoso(&sink, &format!("{CERTIFICATES}{ADDRESSES}require_tls = true"));
    let edge = Edge::builder("EUR").directory(&directory).offline();
    for (arguments, reply, rule) in [
        (["--client-cert", "mail.contoso.com", "--from", FOREIGN], OK, "30"),
        (["--client-cert", "h.sub.contoso.com", "--from", FOREIGN], RELAY_DENIED, "31"),
        (["--client-ip", "127.0.0.7", "--from", ANNA], TLS_NEEDED, "37"),
        (["--client-ip", "192.0.2.7", "--from", ANNA], DIRECT_SEND, "36"),
        (["--client-ip", "192.0.2.7", "--from", FOREIGN], RELAY_DENIED, "1"),
    ] {
        let told = edge.command(&[&["explain", FOREIGN, "--json"], &arguments[..]].concat());
        assert_eq!(told.code, i32::from(reply != OK), "{told:#?}");
        let told = told.json();
        assert_eq!(told["reply"], reply, "{arguments:?}");
        let steps = told["steps"].as_array().expect("steps");
        assert!(steps.iter().any(|step| step["rule"] == rule), "{arguments:?}: {steps:?}");
    }
    let over_tls = ["explain", FOREIGN, "--from", ANNA, "--client-ip", "127.0.0.7", "--tls", "--json"];
    let told = edge.command(&over_tls).json();
    assert_eq!(
        (told["reply"].as_str(), told["next_hop"].as_str()),
        (Some(OK), Some("smarthost:contoso/out"))
    );
}

/// Certificates as operators make them by hand.
struct ByHand {
    folder: Folder,
}

impl ByHand {
    fn new() -> Self {
        Self { folder: Folder::new() }
    }

    fn pair(&self, name: &str) -> Pair {
        let file = |kind: &str| self.folder.join(format!("{name}.{kind}"));
        Pair { cert: file("pem"), key: file("key") }
    }

    fn run(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(&*self.folder)
            .output()
            .expect("tests/run installs it");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// One that vouches for itself, and says that it is an authority.
    fn own(&self, name: &str, subject: &str, more: &str) -> Pair {
        let of = "-newkey rsa:2048 -nodes -days 30";
        self.run(&format!("req -x509 {of} -keyout {name}.key -out {name}.pem -subj {subject}{more}"));
        self.pair(name)
    }

    /// One of version 1, which has a subject and nothing else.
    fn plain(&self, name: &str, subject: &str, authority: &str, bits: u32, days: i32) -> Pair {
        self.run(&format!(
            "req -newkey rsa:{bits} -nodes -keyout {name}.key -out {name}.csr -subj {subject}"
        ));
        self.run(&format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -set_serial 7 -days {days} \
             -out {name}.pem"
        ));
        self.pair(name)
    }
}

/// Rule 30, by the subject alone: what `openssl x509 -req` makes without being told more.
#[test]
fn certificates_of_version_1_and_an_authoritys_own_count_too() {
    let (sink, hand) = (Sink::start(&[]), ByHand::new());
    let subject = "/CN=mail.contoso.com";
    let authority = hand.own("ca", "/CN=ByHand", "");
    // Whoever takes the authority's name has not its key.
    hand.own("impostor", "/CN=ByHand", "");
    let pinned = hand.own("pinned", subject, "");
    let both = hand.folder.join("both.pem");
    let pem = |pair: &Pair| fs::read_to_string(&pair.cert).expect("openssl wrote it");
    fs::write(&both, pem(&authority) + &pem(&pinned)).expect("our own folder");
    let client_ca = format!("[tls]\nclient_ca = {both:?}\n[log]\nlevel = \"debug\"");
    let edge = Edge::builder("EUR").with(&client_ca).directory(&contoso(&sink, CERTIFICATES)).start();
    for (pair, code) in [
        (hand.plain("good", subject, "ca", 2048, 30), 0),
        (pinned, 0),
        (hand.plain("expired", subject, "ca", 2048, -1), 24),
        (hand.plain("forged", subject, "impostor", 2048, 30), 24),
        (hand.plain("another", "/CN=mail.fabrikam.com", "ca", 2048, 30), 24),
        // Nobody can check what such a key signs; the session goes on.
        (hand.plain("short", subject, "ca", 1024, 30), 24),
        (hand.own("stranger", subject, ""), 24),
    ] {
        for version in ["tlsv1_2", "tlsv1_3"] {
            let (cert, key) = (pair.cert.display().to_string(), pair.key.display().to_string());
            let mut arguments =
                vec!["--tls", "--tls-protocol", version, "--tls-cert", &cert, "--tls-key", &key];
            arguments.extend(["--tls-cipher", "DEFAULT:@SECLEVEL=0", "--from", FOREIGN, "--to", FOREIGN]);
            let (found, transcript) = swaks(edge.address, &arguments);
            assert_eq!(found, code, "{cert}: {transcript}");
            assert!(code == 0 || transcript.contains(RELAY_DENIED), "{cert}: {transcript}");
        }
    }
    sink.wait_for(4);
    assert_eq!(edge.log().matches(r#""attribution":"contoso/hq""#).count(), 4, "{}", edge.log());
}

/// A smart host whose certificate is the very one that its connector names, as `postfix tls` makes it.
#[test]
fn a_smart_host_may_be_known_by_its_own_certificate() {
    let hand = ByHand::new();
    let serve = |name: &str, more: &dyn Fn(&str) -> String| {
        let address = free_address();
        let pair = hand.own(name, "/CN=hq", &more(&address.ip().to_string()));
        let chain = format!("smtpd_tls_chain_files = {}, {}", pair.key.display(), pair.cert.display());
        let setup = Postfix::setup_at(address).mailboxes(&["a@own.test", "a@nameless.test"]);
        (setup.with(&chain).with("smtpd_tls_security_level = may").start(), pair)
    };
    let (own, pair) = serve("own", &|ip| format!(" -addext subjectAltName=IP:{ip}"));
    let (nameless, other) = serve("nameless", &|_| String::new());
    let connector = |name: &str, url: String, ca: &Pair| {
        format!(
            "[[tenant.outbound_connector]]\nname = \"{name}\"\nrecipient_domains = [\"{name}.test\"]\n\
             smart_hosts = [\"{url}\"]\nca = {:?}\n",
            ca.cert
        )
    };
    let directory = format!(
        "[[tenant]]\nid = \"contoso\"\ndefault_region = \"EUR\"\ndomain = [{{ name = \"contoso.com\" }}]\n\
         [[tenant.inbound_connector]]\nname = \"site\"\ntype = \"on-premises\"\nsource_ips = [\"127.0.0.1\"]\n{}{}{}",
        connector("own", own.url(), &pair),
        connector("nameless", nameless.url(), &other),
        // Known, and somebody else.
        connector("other", own.url(), &other),
    );
    let edge = Edge::builder("EUR").directory(&directory).start();
    for name in ["own", "nameless", "other"] {
        edge.client().deliver(ANNA, &[&format!("a@{name}.test")], letter(name));
    }
    own.wait_for("a@own.test", 1);
    for name in ["nameless", "other"] {
        until("a deferral", || {
            edge.queue()
                .iter()
                .any(|row| {
                    row.to_string().contains(&format!("contoso/{name}")) && row["last_reply"].is_string()
                })
                .then_some(())
        });
    }
    assert!(nameless.mailbox("a@nameless.test").is_empty());
}

/// A hundred names, one of which is the one that matters.
fn hundred(authority: &Authority, name: &str) -> Pair {
    let others: Vec<String> = (1..100).map(|number| format!("host{number}.elsewhere.example")).collect();
    let names: Vec<&str> = others.iter().map(String::as_str).chain([name]).collect();
    authority.issue_for_all(&names)
}

#[test]
fn bad_certificates_of_clients_count_for_nothing() {
    let (sink, authority) = (Sink::start(&[]), Authority::new());
    let fabrikam = r#"
[[tenant]]
id = "fabrikam"
default_region = "EUR"
domain = [{ name = "fabrikam.com" }]
[[tenant.inbound_connector]]
name = "hq"
type = "on-premises"
certificate_names = ["mail.fabrikam.com"]
[[tenant.outbound_connector]]
name = "out"
recipient_domains = ["foreign.example"]
smart_hosts = ["smtp://127.0.0.1:1"]
"#;
    let client_ca =
        format!("[tls]\nclient_ca = \"{}\"\n[log]\nlevel = \"debug\"", authority.file().display());
    let directory = format!("{}{fabrikam}", contoso(&sink, CERTIFICATES));
    let edge = Edge::builder("EUR").with(&client_ca).directory(&directory).start();
    for (bad, why) in [
        (authority.issue_expired("mail.contoso.com"), "expired"),
        (authority.self_signed("mail.contoso.com"), "UnknownIssuer"),
    ] {
        let (code, transcript) = deliver(&edge, Some(&bad), FOREIGN, FOREIGN);
        assert!(code == 24 && transcript.contains(RELAY_DENIED), "{transcript}");
        let rejected = edge.log().lines().any(|line| line.contains("\"secured\"") && line.contains(why));
        assert!(rejected, "{why}: {}", edge.log());
    }
    // Another tenant's speaks for that tenant alone: its mail goes that tenant's way.
    let (code, transcript) = deliver(&edge, Some(&authority.issue("mail.fabrikam.com")), ANNA, FOREIGN);
    assert_eq!(code, 0, "{transcript}");
    assert!(edge.log().contains(r#""attribution":"fabrikam/hq""#), "{}", edge.log());
    assert!(!edge.log().contains(r#""attribution":"contoso/hq""#), "{}", edge.log());
    let many = hundred(&authority, "mail.contoso.com");
    let (code, transcript) = deliver(&edge, Some(&many), FOREIGN, FOREIGN);
    assert_eq!(code, 0, "{transcript}");
    assert_eq!(sink.wait_for(1).len(), 1);
    assert!(edge.log().contains(r#""attribution":"contoso/hq""#), "{}", edge.log());
}

#[test]
fn bad_certificates_of_smart_hosts_get_no_mail() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let serve = |pair: &dyn Fn(&str) -> Pair| {
        let address = free_address();
        let pair = pair(&address.ip().to_string());
        let chain = format!("smtpd_tls_chain_files = {}, {}", pair.key.display(), pair.cert.display());
        let mailboxes = ["a@expired.test", "a@own.test", "a@other.test", "a@stranger.test", "a@many.test"];
        let setup = Postfix::setup_at(address).mailboxes(&mailboxes);
        setup.with(&chain).with("smtpd_tls_security_level = may").start()
    };
    let servers = [
        ("expired", serve(&|ip| authority.issue_expired(ip))),
        ("own", serve(&|ip| authority.self_signed(ip))),
        ("other", serve(&|_| authority.issue("mail.fabrikam.com"))),
        ("stranger", serve(&|ip| stranger.issue(ip))),
        ("many", serve(&|ip| hundred(&authority, ip))),
    ];
    let mut directory = "[[tenant]]\nid = \"contoso\"\ndefault_region = \"EUR\"\ndomain = [{ name = \"contoso.com\" }]\n\
                         [[tenant.inbound_connector]]\nname = \"site\"\ntype = \"on-premises\"\nsource_ips = [\"127.0.0.1\"]\n"
        .to_owned();
    for (name, server) in &servers {
        directory.push_str(&format!(
            "[[tenant.outbound_connector]]\nname = \"{name}\"\nrecipient_domains = [\"{name}.test\"]\n\
             smart_hosts = [\"{}\"]\nca = \"{}\"\n",
            server.url(),
            authority.file().display()
        ));
    }
    // What the region's authority vouches for is vouched for in that region alone.
    directory.push_str(&format!(
        "[[tenant.outbound_connector]]\nname = \"elsewhere\"\nrecipient_domains = [\"elsewhere.test\"]\n\
         smart_hosts = [\"{}\"]\n",
        servers[4].1.url()
    ));
    let region = format!("[region.EUR]\nca = \"{}\"", authority.file().display());
    let edge = Edge::builder("EUR").with(&region).directory(&directory).start();
    edge.client().deliver(ANNA, &["a@elsewhere.test"], letter("elsewhere"));
    for (name, _) in &servers {
        edge.client().deliver(ANNA, &[&format!("a@{name}.test")], letter(name));
    }
    let many = &servers[4].1;
    many.wait_for("a@many.test", 1);
    for (name, why) in [
        ("expired", "expired"),
        ("own", "UnknownIssuer"),
        ("other", "not valid for name"),
        ("stranger", "BadSignature"),
        ("elsewhere", "UnknownIssuer"),
    ] {
        let reply = until("a deferral", || {
            let queue = edge.queue();
            let row = queue.iter().find(|row| row.to_string().contains(&format!("contoso/{name}")))?;
            Some(row["last_reply"].as_str()?.to_owned())
        });
        assert!(reply.to_lowercase().contains(&why.to_lowercase()), "{name}: {reply}");
    }
    for (name, server) in &servers[..4] {
        assert!(server.mailbox(&format!("a@{name}.test")).is_empty(), "{name}");
    }
}
