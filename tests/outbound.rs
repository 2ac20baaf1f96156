//! Outbound: rule 90 over real servers: knot names them, Postfix and smtp-sink are them.

mod world;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use world::{
    Authority, Builder, Edge, Nameserver, Pages, Pair, Postfix, Report, Sink, Zone, free_address, holds_for,
    letter, ok, until,
};

/// Contoso's own servers call from 127.0.0.1 and may send anywhere; Anna's notices come home.
const DIRECTORY: &str = r#"
[[tenant]]
id = "contoso"
default_region = "EUR"
allowed_regions = ["EUR"]
domain = [{ name = "contoso.com" }]
user = [{ address = "anna@contoso.com" }]
[[tenant.inbound_connector]]
name = "from-hq"
type = "on-premises"
source_ips = ["127.0.0.1"]
"#;
const ANNA: &str = "anna@contoso.com";
const IMPATIENT: &str =
    "[queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"\nmessages_per_connection = 1\n";
const PATIENT: &str = "[queue]\nfirst_intervals = [\"15m\"]\nmax_interval = \"60m\"\n";

/// Mail servers of the internet have one port and many addresses.
struct Internet {
    port: u16,
}

impl Internet {
    fn new() -> Self {
        Self { port: free_address().port() }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(free_address().ip(), self.port)
    }

    /// An edge that asks `names` and may call loopback.
    fn edge(&self, names: &Nameserver) -> Builder {
        self.strict_edge(names).with("[outbound]\nallow_networks = [\"127.0.0.0/8\"]")
    }

    fn strict_edge(&self, names: &Nameserver) -> Builder {
        Edge::builder("EUR")
            .directory(DIRECTORY)
            .with(&names.settings())
            .with(&format!("[outbound]\nport = {}\nmta_sts = false\n", self.port))
            .with("[dns]\ntimeout = \"500ms\"\n[deadlines]\nresolve = \"3s\"\n")
            .with(IMPATIENT)
    }
}

fn send(edge: &Edge, to: &[&str]) {
    edge.client().deliver(ANNA, to, letter("out"));
}

/// What Anna is told of a failed recipient.
fn told(edge: &Edge, recipient: &str) -> (String, String) {
    let report = until(&format!("a report about {recipient}"), || {
        let letters = edge.mailbox(ANNA);
        let of = |letter: &&world::Letter| letter.text().contains(recipient);
        letters.iter().find(of).map(Report::of)
    });
    assert_eq!(report.action(recipient), "failed");
    let field = |name| report.about(recipient, name).expect("every report has it");
    (field("Status"), field("Diagnostic-Code"))
}

fn last_reply(edge: &Edge, domain: &str) -> String {
    until(&format!("a reply about {domain}"), || {
        let rows = edge.queue();
        let row = rows.iter().find(|row| row.to_string().contains(domain))?;
        Some(row["last_reply"].as_str()?.to_owned())
    })
}

#[test]
fn mail_goes_to_the_best_mx_that_answers() {
    let internet = Internet::new();
    let [dead, one, two, plain] = [0; 4].map(|_| internet.address());
    let names = Nameserver::start(&[
        Zone::unsigned(
            "dest.test",
            &format!(
                "@ MX 5 dead\n@ MX 10 one\n@ MX 20 two\ndead A {}\none CNAME real\nreal A {}\ntwo A {}\n\
                 equal MX 10 one\nequal MX 10 two\nplain A {}\nsix MX 10 six-host\nsix-host AAAA ::1\nsix-host A {}\n",
                dead.ip(),
                one.ip(),
                two.ip(),
                plain.ip(),
                plain.ip(),
            ),
        ),
        Zone::unsigned("other.test", "@ CNAME dest.test.\n"),
    ]);
    let (first, second, bare) =
        (Sink::start_at(one, &[]), Sink::start_at(two, &[]), Sink::start_at(plain, &[]));
    let edge = internet.edge(&names).start();
    send(&edge, &["a@dest.test"]);
    assert_eq!(first.wait_for(1)[0].recipients, ["<a@dest.test>"], "the dead one is passed over");
    assert_eq!(second.taken().len(), 0);
    send(&edge, &["b@plain.dest.test"]);
    assert_eq!(bare.wait_for(1)[0].recipients, ["<b@plain.dest.test>"], "no MX: its own address");
    send(&edge, &["b@six.dest.test"]);
    bare.wait_for(2);
    for number in 0..30 {
        send(&edge, &[&format!("u{number}@equal.dest.test")]);
    }
    until("all of them", || (first.taken().len() + second.taken().len() >= 31).then_some(()));
    assert!(first.taken().len() > 1 && !second.taken().is_empty(), "equals share by chance");
    edge.wait_for_empty_queue();
    drop(first);
    send(&edge, &["c@dest.test"]);
    until("the next best", || {
        second.commands("RCPT").contains(&"RCPT TO:<c@dest.test>".to_owned()).then_some(())
    });
    assert!(edge.mailbox(ANNA).is_empty(), "nobody was told of any failure");
}

#[test]
fn what_cannot_take_mail_is_told_at_once_and_never_called() {
    let internet = Internet::new();
    let builder_port = internet.address();
    let names = Nameserver::start(&[Zone::unsigned(
        "bad.test",
        "null MX 0 .\nnothing MX 10 nowhere\nnothing MX 20 nowhere2\nempty TXT x\n\
         loopback MX 10 lo\nlo A 127.0.0.1\nlo AAAA ::1\nprivate MX 10 p\np A 10.1.2.3\np A 192.168.1.1\np AAAA fd00::1\n\
         metadata MX 10 m\nm A 169.254.169.254\nmapped MX 10 mp\nmp AAAA ::ffff:127.0.0.1\n\
         self MX 10 edge1.eur.example.net.\nworse MX 10 edge1.eur.example.net.\nworse MX 20 lo\n",
    )]);
    let sink =
        Sink::start_at(SocketAddr::new("127.0.0.1".parse::<IpAddr>().expect("v4"), builder_port.port()), &[]);
    let edge = internet.strict_edge(&names).with(PATIENT).start();
    for (domain, status, words) in [
        ("null.bad.test", "5.1.10", "takes no mail"),
        ("nobody.bad.test", "5.1.2", "does not exist"),
        ("empty.bad.test", "5.1.2", "has no mail server"),
        ("nothing.bad.test", "5.4.4", "have no address"),
        ("loopback.bad.test", "5.4.4", "not on the internet"),
        ("private.bad.test", "5.4.4", "not on the internet"),
        ("metadata.bad.test", "5.4.4", "not on the internet"),
        ("mapped.bad.test", "5.4.4", "not on the internet"),
        ("self.bad.test", "5.4.6", "loops back"),
        ("worse.bad.test", "5.4.6", "loops back"),
    ] {
        let recipient = format!("x@{domain}");
        send(&edge, &[&recipient]);
        let (said, diagnostic) = told(&edge, &recipient);
        assert_eq!(said, status, "{domain}: {diagnostic}");
        assert!(diagnostic.contains(words), "{domain}: {diagnostic}");
    }
    let literal = "x@[127.0.0.1]";
    send(&edge, &[literal]);
    assert_eq!(told(&edge, literal).0, "5.4.4");
    edge.wait_for_empty_queue();
    assert_eq!(sink.connections(), 0, "nobody was called");
}

#[test]
fn an_mx_at_our_own_address_is_ourselves() {
    let builder = Edge::builder("EUR");
    let own = builder.address();
    let names =
        Nameserver::start(&[Zone::unsigned("loop.test", &format!("@ MX 10 mx\nmx A {}\n", own.ip()))]);
    let edge = builder
        .directory(DIRECTORY)
        .with(&names.settings())
        .with(&format!("[outbound]\nport = {}\nallow_private = true\nmta_sts = false\n", own.port()))
        .start();
    send(&edge, &["x@loop.test"]);
    assert_eq!(told(&edge, "x@loop.test").0, "5.4.6");
}

#[test]
fn a_dns_that_fails_delays_mail_and_loses_none() {
    let internet = Internet::new();
    let at = internet.address();
    let mut names =
        Nameserver::start(&[Zone::signed("dest.test", &format!("@ MX 10 mx\nmx A {}\n", at.ip()))]);
    let sink = Sink::start_at(at, &[]);
    let edge = internet.edge(&names).start();
    names.stop();
    send(&edge, &["a@dest.test"]);
    let reply = last_reply(&edge, "dest.test");
    assert!(reply.contains("4.4.312"), "{reply}");
    names.resume();
    sink.wait_for(1);
    // A zone that somebody changed on the way is no reason to deliver there, and none to give up.
    names.tamper("dest.test", "MX\t10 mx.dest.test.", "MX\t10 evil.dest.test.");
    edge.reload();
    send(&edge, &["b@dest.test"]);
    let reply = last_reply(&edge, "dest.test");
    assert!(reply.contains("4.4.312") && reply.contains("DNSSEC"), "{reply}");
    assert!(edge.mailbox(ANNA).is_empty() && sink.taken().len() == 1);
}

#[test]
fn a_stranger_is_told_by_way_of_its_mx() {
    let internet = Internet::new();
    let at = internet.address();
    let names =
        Nameserver::start(&[Zone::unsigned("stranger.test", &format!("@ MX 10 mx\nmx A {}\n", at.ip()))]);
    let theirs = Postfix::setup_at(at).mailboxes(&["sue@stranger.test"]).start();
    let store = Sink::start(&["-f", "RCPT", "-B", "550 5.1.1 Nobody here"]);
    let edge = internet.edge(&names).store(&[&store.url()]).with("[region.EUR]\ntls = \"off\"").start();
    // From another address: a stranger, not Contoso's own server.
    edge.client_from("127.0.0.2").deliver("sue@stranger.test", &[ANNA], letter("hello"));
    let report = Report::of(&theirs.wait_for("sue@stranger.test", 1)[0]);
    assert_eq!(report.about(ANNA, "Status").as_deref(), Some("5.1.1"));
    edge.wait_for_empty_queue();
}

/// `3 1 1` and its kin for the first certificate of a file.
fn tlsa(pair: &Pair, usage: u8) -> String {
    let certificate = CertificateDer::from_pem_file(&pair.cert).expect("a certificate");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("TLSA {usage} 0 1 {hex}")
}

fn with_tls(setup: world::Setup, pair: &Pair) -> world::Setup {
    setup.with(&format!(
        "smtpd_tls_security_level = may\nsmtpd_tls_loglevel = 1\nsmtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n",
        pair.cert.display(),
        pair.key.display()
    ))
}

#[test]
fn dane_says_whose_certificate_is_right() {
    let internet = Internet::new();
    let authority = Authority::new();
    // The name on it is nobody's: with usage 3 only the key counts.
    let right = authority.issue("whatever.test");
    let [good, bad, clear] = [0; 3].map(|_| internet.address());
    let other = Authority::new();
    let wrong = other.issue("good.dane.test");
    let records = |sign: &str| {
        format!(
            "good MX 10 good-mx\ngood-mx A {}\n_{port}._tcp.good-mx {tlsa}\n\
             bad MX 10 bad-mx\nbad-mx A {}\n_{port}._tcp.bad-mx {tlsa}\n\
             clear MX 10 clear-mx\nclear-mx A {}\n_{port}._tcp.clear-mx {tlsa}\n\
             unusable MX 10 un-mx\nun-mx A {}\n_{port}._tcp.un-mx TLSA 1 1 1 {zeros}\n\
             void MX 10 void-mx\nvoid-mx A {}\n_{port}._tcp.void-mx TLSA 1 1 1 {zeros}\n\
             both MX 10 bad-mx\nboth MX 20 good-mx\n{sign}",
            good.ip(),
            bad.ip(),
            clear.ip(),
            bad.ip(),
            clear.ip(),
            port = internet.port,
            tlsa = tlsa(&right, 3),
            zeros = "00".repeat(32),
        )
    };
    let names = Nameserver::start(&[
        Zone::signed("dane.test", &records("")),
        Zone::unsigned("plain.test", &records("")),
    ]);
    let boxes = ["good", "bad", "clear", "unusable", "void", "both"];
    let boxes: Vec<String> =
        boxes.iter().flat_map(|name| ["dane", "plain"].map(|zone| format!("x@{name}.{zone}.test"))).collect();
    let boxes: Vec<&str> = boxes.iter().map(String::as_str).collect();
    let good = with_tls(Postfix::setup_at(good).mailboxes(&boxes), &right).start();
    let bad = with_tls(Postfix::setup_at(bad).mailboxes(&boxes), &wrong).start();
    let clear = Postfix::setup_at(clear).mailboxes(&boxes).start();
    let edge = internet.edge(&names).with(PATIENT).start();
    for name in ["good", "bad", "clear", "unusable", "void", "both"] {
        send(&edge, &[&format!("x@{name}.dane.test")]);
    }
    good.wait_for("x@good.dane.test", 1);
    good.wait_for("x@both.dane.test", 1);
    // TLS, whatever the certificate, where no record can be used.
    bad.wait_for("x@unusable.dane.test", 1);
    for (name, status) in
        [("bad", "4.7.323 tlsa-invalid"), ("clear", "4.7.321 starttls-not-supported"), ("void", "4.7.10")]
    {
        let reply = last_reply(&edge, &format!("{name}.dane.test"));
        assert!(reply.contains(status), "{name}: {reply}");
    }
    assert!(good.log().contains("TLS connection established"), "{}", good.log());
    // The same records prove nothing in an unsigned zone.
    for name in ["good", "bad", "clear", "void"] {
        send(&edge, &[&format!("x@{name}.plain.test")]);
    }
    good.wait_for("x@good.plain.test", 1);
    bad.wait_for("x@bad.plain.test", 1);
    clear.wait_for("x@clear.plain.test", 1);
    clear.wait_for("x@void.plain.test", 1);
    holds_for("nothing goes where DANE forbids it", Duration::from_millis(500), || {
        bad.mailbox("x@bad.dane.test").is_empty() && clear.mailbox("x@clear.dane.test").is_empty()
    });
}

fn policy(mode: &str, mx: &str) -> String {
    ok(&format!("version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: 86400\r\n"))
}

#[test]
fn a_policy_fetched_over_https_is_kept_and_held_to() {
    const NAMES: [&str; 6] = ["good", "wrong", "absent", "trial", "moved", "huge"];
    let internet = Internet::new();
    let authority = Authority::new();
    let [right_at, wrong_at] = [0; 2].map(|_| internet.address());
    let pages_at = free_address();
    let mut records = format!("mx-right A {}\nmx-wrong A {}\n", right_at.ip(), wrong_at.ip());
    for name in NAMES {
        let mx = if matches!(name, "good" | "absent") { "mx-right" } else { "mx-wrong" };
        records.push_str(&format!(
            "{name} MX 10 {mx}\n_mta-sts.{name} TXT \"v=STSv1; id=1;\"\nmta-sts.{name} A {}\n",
            pages_at.ip()
        ));
    }
    let mut names = Nameserver::start(&[Zone::unsigned("sts.test", &records)]);
    let hosts: Vec<String> = NAMES.iter().map(|name| format!("mta-sts.{name}.sts.test")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let moved = "HTTP/1.1 302 Found\r\nLocation: https://mta-sts.good.sts.test/.well-known/mta-sts.txt\r\nContent-Length: 0\r\n\r\n";
    let pages = Pages::start_at(
        pages_at,
        &authority.issue_for_all(&hosts),
        &[
            (hosts[0], policy("enforce", "*.sts.test")),
            (hosts[1], policy("enforce", "mx-wrong.sts.test")),
            (hosts[2], policy("enforce", "other.sts.test")),
            (hosts[3], policy("testing", "mx-wrong.sts.test")),
            (hosts[4], moved.to_owned()),
            (hosts[5], ok(&"x".repeat(100_000))),
        ],
    );
    let boxes: Vec<String> = NAMES.iter().map(|name| format!("x@{name}.sts.test")).collect();
    let boxes: Vec<&str> = boxes.iter().map(String::as_str).collect();
    let right =
        with_tls(Postfix::setup_at(right_at).mailboxes(&boxes), &authority.issue("mx-right.sts.test"))
            .start();
    let wrong =
        with_tls(Postfix::setup_at(wrong_at).mailboxes(&boxes), &authority.issue("elsewhere.sts.test"))
            .start();
    let outbound = format!(
        "[outbound]\nmta_sts = true\nmta_sts_port = {}\nca = \"{}\"\n",
        pages_at.port(),
        authority.file().display()
    );
    let mut edge = internet.edge(&names).with(PATIENT).with(&outbound).start();
    for to in &boxes {
        send(&edge, &[to]);
    }
    right.wait_for("x@good.sts.test", 1);
    wrong.wait_for("x@trial.sts.test", 1);
    // Where no policy can be had, mail goes as ever.
    wrong.wait_for("x@moved.sts.test", 1);
    wrong.wait_for("x@huge.sts.test", 1);
    for (name, status) in [("wrong", "4.7.5 "), ("absent", "4.4.8 ")] {
        let reply = last_reply(&edge, &format!("{name}.sts.test"));
        assert!(reply.contains(status), "{name}: {reply}");
    }
    assert_eq!(pages.asked(hosts[4]), 1, "redirects are not followed");
    assert!(right.log().contains("TLS connection established"));

    // The same id is not fetched again, not even after a restart; without a word in the DNS it holds as well.
    assert_eq!(pages.asked(hosts[1]), 1);
    names.replace("sts.test", &records.replace("_mta-sts.wrong TXT", "_gone.wrong TXT"));
    edge.stop();
    edge.start();
    send(&edge, &[boxes[0], boxes[1]]);
    right.wait_for("x@good.sts.test", 2);
    until("both attempts", || {
        let log = edge.log();
        (log.matches("4.7.5").count() >= 2).then_some(())
    });
    assert_eq!((pages.asked(hosts[0]), pages.asked(hosts[1])), (1, 1));
    assert!(wrong.mailbox("x@wrong.sts.test").is_empty() && right.mailbox("x@absent.sts.test").is_empty());

    // Another id is another policy.
    pages.replace(hosts[1], policy("none", "mx-wrong.sts.test"));
    names.replace(
        "sts.test",
        &records.replace("_mta-sts.wrong TXT \"v=STSv1; id=1", "_mta-sts.wrong TXT \"v=STSv1; id=2"),
    );
    edge.reload();
    assert_eq!(edge.command(&["queue", "retry"]).code, 0);
    wrong.wait_for("x@wrong.sts.test", 1);
    assert_eq!(pages.asked(hosts[1]), 2);
}

/// Contoso's server, over TLS, with REQUIRETLS: what the edge offers there. Python's smtplib says it.
fn send_requiring_tls(edge: &Edge, to: &str) -> String {
    const CLIENT: &str = r#"
import smtplib, ssl, sys
host, port, sender, to = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with smtplib.SMTP(host, int(port), local_hostname="hq.contoso.com", timeout=30) as client:
    client.ehlo()
    assert "requiretls" not in client.esmtp_features
    client.starttls(context=context)
    client.ehlo()
    print(" ".join(client.esmtp_features))
    client.sendmail(sender, [to], "Subject: secret\r\n\r\nHello.\r\n", mail_options=["REQUIRETLS"])
"#;
    let (host, port) = (edge.address.ip().to_string(), edge.address.port().to_string());
    let output = std::process::Command::new("python3")
        .args(["-c", CLIENT, &host, &port, ANNA, to])
        .output()
        .expect("tests/run installs python3");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_message_that_requires_tls_goes_to_those_who_keep_it() {
    let internet = Internet::new();
    let authority = Authority::new();
    let [kept, broken] = [0; 2].map(|_| internet.address());
    let records = |port: u16, tlsa: &str| {
        format!(
            "keeps MX 10 keeps-mx\nkeeps-mx A {}\n_{port}._tcp.keeps-mx {tlsa}\n\
             breaks MX 10 breaks-mx\nbreaks-mx A {}\n_{port}._tcp.breaks-mx {tlsa}\n\
             unproven MX 10 breaks-mx.plain.test.\n",
            kept.ip(),
            broken.ip()
        )
    };
    let pair = authority.issue("any.test");
    let records = records(internet.port, &tlsa(&pair, 3));
    let names =
        Nameserver::start(&[Zone::signed("dane.test", &records), Zone::unsigned("plain.test", &records)]);
    // Another region's edge is a server that offers REQUIRETLS; Postfix 3.7 is one that does not.
    let keeping = Edge::builder_at("NAM", kept)
        .directory("[[tenant]]\nid = \"k\"\ndefault_region = \"NAM\"\nallowed_regions = [\"NAM\"]\n\
                    domain = [{ name = \"keeps.dane.test\" }]\nuser = [{ address = \"x@keeps.dane.test\" }]\n")
        .with(&format!(
            "[tls]\nself_signed = false\ncertificate = [{{ cert = {:?}, key = {:?} }}]\n",
            pair.cert, pair.key
        ))
        .start();
    let breaking =
        with_tls(Postfix::setup_at(broken).mailboxes(&["x@breaks.dane.test", "x@breaks.plain.test"]), &pair)
            .start();
    let edge = internet.edge(&names).with(PATIENT).start();
    let offers = send_requiring_tls(&edge, "x@keeps.dane.test");
    assert!(offers.contains("requiretls") && !offers.contains("starttls"), "{offers}");
    keeping.wait_for("x@keeps.dane.test", 1);
    for (to, status) in [
        ("x@breaks.dane.test", "5.7.30"),
        ("x@breaks.plain.test", "5.7.10"),
        ("x@unproven.plain.test", "5.7.10"),
    ] {
        send_requiring_tls(&edge, to);
        let (said, diagnostic) = told(&edge, to);
        assert_eq!(said, status, "{to}: {diagnostic}");
    }
    // Without the promise the same servers take it.
    send(&edge, &["x@breaks.dane.test"]);
    assert_eq!(breaking.wait_for("x@breaks.dane.test", 1).len(), 1);

    // In clear it is neither offered nor understood.
    let mut client = edge.client();
    client.expect(&format!("MAIL FROM:<{ANNA}> REQUIRETLS"), "555 5.5.4 Unsupported parameter");
}

/// The one report in a gzip file.
fn unzipped(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_reader(flate2::read::GzDecoder::new(bytes)).expect("a report is JSON in gzip")
}

#[test]
fn domains_that_ask_are_told_how_tls_went() {
    let internet = Internet::new();
    let authority = Authority::new();
    let [at, desk_at] = [0; 2].map(|_| internet.address());
    let pages_at = free_address();
    let names = Nameserver::start(&[Zone::unsigned(
        "rpt.test",
        &format!(
            "@ MX 10 mx\nmx A {mx}\n_mta-sts TXT \"v=STSv1; id=1\"\nmta-sts A {pages}\nreports A {pages}\n\
             _smtp._tls TXT \"v=TLSRPTv1; rua=mailto:tls@desk.rpt.test,https://reports.rpt.test:{port}/v1/tlsrpt\"\n\
             desk MX 10 desk-mx\ndesk-mx A {desk}\n",
            mx = at.ip(),
            desk = desk_at.ip(),
            pages = pages_at.ip(),
            port = pages_at.port()
        ),
    )]);
    let pages = Pages::start_at(
        pages_at,
        &authority.issue_for_all(&["mta-sts.rpt.test", "reports.rpt.test"]),
        &[("mta-sts.rpt.test", policy("testing", "mx.rpt.test")), ("reports.rpt.test", ok(""))],
    );
    let wrong = authority.issue("elsewhere.rpt.test");
    let mx = with_tls(Postfix::setup_at(at).mailboxes(&["x@rpt.test"]), &wrong).start();
    let desk = Postfix::setup_at(desk_at).mailboxes(&["tls@desk.rpt.test"]).start();
    let outbound = format!(
        "[outbound]\nmta_sts = true\nmta_sts_port = {}\nca = \"{}\"\ntls_reports = true\n\
         tls_report_interval = \"3s\"\n",
        pages_at.port(),
        authority.file().display()
    );
    let edge = internet.edge(&names).with(&outbound).start();
    send(&edge, &["x@rpt.test"]);
    mx.wait_for("x@rpt.test", 1);
    let letter = desk.wait_for("tls@desk.rpt.test", 1).remove(0);
    assert_eq!(letter.header("TLS-Report-Domain").as_deref(), Some("rpt.test"), "{letter:?}");
    assert_eq!(letter.header("TLS-Report-Submitter").as_deref(), Some("edge1.eur.example.net"));
    let message = mail_parser::MessageParser::new().parse(&letter.0).expect("a message");
    let attached = message.attachments().next().expect("the report").contents().to_vec();
    let posted = until("the report over https", || {
        let heard = pages.heard();
        heard.into_iter().find(|(head, _)| head.starts_with("POST /v1/tlsrpt ")).map(|(_, body)| body)
    });
    for report in [unzipped(&attached), unzipped(&posted)] {
        assert_eq!(report["organization-name"], "edge1.eur.example.net", "{report:#}");
        let policy = &report["policies"][0];
        assert_eq!(policy["policy"]["policy-type"], "sts");
        assert_eq!(policy["policy"]["policy-domain"], "rpt.test");
        assert_eq!(policy["policy"]["mx-host"][0], "mx.rpt.test");
        assert_eq!(policy["summary"]["total-failure-session-count"], 1);
        let failure = &policy["failure-details"][0];
        assert_eq!(failure["result-type"], "certificate-host-mismatch", "{report:#}");
        assert_eq!(failure["receiving-ip"], at.ip().to_string());
    }
    holds_for("one report and no more", Duration::from_secs(4), || {
        desk.mailbox("tls@desk.rpt.test").len() == 1
    });
}
