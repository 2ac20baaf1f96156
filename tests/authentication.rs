//! Sender authentication over sockets: a real name server, messages signed by another hand, and clients of
//! other addresses through the PROXY protocol. The published SPF suite is in `tests/spf.rs`.

mod world;

use std::fs;
use std::time::Duration;

use world::{CONTOSO, Client, Edge, Letter, Nameserver, Signer, Sink, Zone, letter, until};

const ANNA: &str = "anna@contoso.com";
const SENDER: &str = "eve@sender.example";
/// What the sender's SPF allows, and its name leads back to.
const GOOD: &str = "192.0.2.10";
/// An address of nobody's.
const BAD: &str = "192.0.2.66";
const GOOD_V6: &str = "2001:db8::10";
const NAMELESS_V6: &str = "2001:db8::66";
const HOST: &str = "edge1.eur.example.net";

/// sender.example, whose mail comes from `GOOD`, with more records; and the names of the addresses.
fn zones(more: &str) -> Vec<Zone> {
    let sender = format!(
        "@ TXT \"v=spf1 ip4:{GOOD} ip6:{GOOD_V6} -all\"\nmail A {GOOD}\nmail AAAA {GOOD_V6}\n\
         _dmarc TXT \"v=DMARC1; p=reject\"\n{more}"
    );
    let nibbles = format!("0.1{}", ".0".repeat(22));
    vec![
        Zone::unsigned("sender.example", &sender),
        Zone::unsigned("2.0.192.in-addr.arpa", "10 PTR mail.sender.example."),
        Zone::unsigned("8.b.d.0.1.0.0.2.ip6.arpa", &format!("{nibbles} PTR mail.sender.example.")),
    ]
}

fn edge(server: &Nameserver, settings: &str) -> Edge {
    Edge::builder("EUR")
        .with(&format!("[node]\nhostname = \"{HOST}\"\n[deadlines]\nresolve = \"3s\""))
        .with(&server.settings())
        .with(settings)
        .directory(CONTOSO)
        .with("[dns]\ntimeout = \"1s\"")
        .start()
}

/// All clients of tests come from loopback: who they are is said in front.
fn behind_a_proxy(address: std::net::SocketAddr) -> String {
    format!(
        "[[listener]]\nname = \"mx\"\naddress = [\"{address}\"]\ntls = \"off\"\n\
         proxy_protocol_from = [\"127.0.0.0/8\"]\n"
    )
}

fn start(server: &Nameserver, settings: &str) -> Edge {
    let builder = Edge::builder("EUR");
    let listener = behind_a_proxy(builder.address());
    builder
        .with(&listener)
        .with(&format!("[node]\nhostname = \"{HOST}\"\n[deadlines]\nresolve = \"3s\""))
        .with(&server.settings())
        .with("[dns]\ntimeout = \"1s\"")
        .with(settings)
        .directory(CONTOSO)
        .start()
}

fn client(edge: &Edge, ip: &str) -> Client {
    let mut client = Client::silent(edge.address);
    let (family, local) = if ip.contains(':') { ("TCP6", "2001:db8::1") } else { ("TCP4", "192.0.2.1") };
    client.send(format!("PROXY {family} {ip} {local} 40000 25\r\n"));
    let banner = client.reply();
    assert!(banner.starts_with("220 "), "{banner}");
    let hello = client.say("EHLO mail.sender.example");
    assert!(hello.starts_with("250-"), "{hello}");
    client
}

fn from_sender(body: &str) -> String {
    format!(
        "From: Eve <{SENDER}>\r\nTo: {ANNA}\r\nSubject: hello\r\nDate: Fri, 21 Nov 2025 04:29:44 +0000\r\n\r\n{body}"
    )
}

/// The results that this edge has put in front, method by method.
fn results(letter: &Letter) -> Vec<String> {
    let fields = letter.headers("Authentication-Results");
    let ours: Vec<_> = fields.iter().filter(|field| field.starts_with(&format!("{HOST};"))).collect();
    let [ours] = ours[..] else { panic!("one field of ours, not {fields:#?}") };
    ours.split(';').skip(1).map(|result| result.trim().to_owned()).collect()
}

fn result<'r>(results: &'r [String], method: &str) -> &'r str {
    let prefix = format!("{method}=");
    let found: Vec<_> = results.iter().filter_map(|result| result.strip_prefix(&prefix)).collect();
    let [one] = found[..] else { panic!("one {method} in {results:#?}") };
    one
}

#[test]
fn one_field_tells_all_results_and_forged_ones_go() {
    let (rsa, ed25519) = (Signer::rsa(), Signer::ed25519());
    let keys = format!("rsa._domainkey {}\ned._domainkey {}\n", rsa.record(), ed25519.record());
    let server = Nameserver::start(&zones(&keys));
    let edge = start(&server, "");
    let forged = format!(
        "Authentication-Results: {HOST};\r\n spf=pass smtp.mailfrom=bank.example\r\n\
         Authentication-Results: other.example; spf=fail smtp.mailfrom=x@y.example\r\n"
    );
    let signed =
        rsa.sign(("relaxed", "relaxed"), "rsa", "sender.example", &from_sender("Hello  you \r\n \r\n\t\r\n"));
    let signed = ed25519.sign(("simple", "simple"), "ed", "sender.example", &signed);
    client(&edge, GOOD).deliver(SENDER, &[ANNA], format!("{forged}{signed}"));
    let letter = edge.wait_for(ANNA, 1).remove(0);
    let told = results(&letter);
    assert_eq!(result(&told, "spf"), format!("pass smtp.mailfrom={SENDER}"));
    assert_eq!(result(&told, "dmarc"), "pass header.from=sender.example policy.dmarc=reject");
    assert_eq!(result(&told, "iprev"), format!("pass (mail.sender.example) policy.iprev={GOOD}"));
    let dkim: Vec<_> = told.iter().filter(|result| result.starts_with("dkim=")).collect();
    assert_eq!(dkim.len(), 2, "{told:#?}");
    assert!(
        dkim[0].starts_with("dkim=pass header.d=sender.example header.s=ed header.a=ed25519-sha256"),
        "{dkim:?}"
    );
    assert!(
        dkim[1].starts_with("dkim=pass header.d=sender.example header.s=rsa header.a=rsa-sha256"),
        "{dkim:?}"
    );
    // Others' results are others' business.
    let fields = letter.headers("Authentication-Results");
    assert_eq!(fields.len(), 2, "{fields:#?}");
    assert!(fields[1].starts_with("other.example;"), "{fields:#?}");
    assert!(letter.text().starts_with("Return-Path") && letter.text().ends_with("\r\n \r\n\t\r\n"));
    // The same in the log, and counted.
    let log = edge.log();
    let examined = log.lines().find(|line| line.contains("\"examined\"")).expect("a line about it");
    assert!(examined.contains("dmarc=pass header.from=sender.example"), "{examined}");
    let metrics = edge.metrics();
    assert!(metrics.contains("landfall_auth_results_total{method=\"dkim\",result=\"pass\"} 2"), "{metrics}");
}

#[test]
fn what_is_changed_on_the_way_fails() {
    let rsa = Signer::rsa();
    let server = Nameserver::start(&zones(&format!("rsa._domainkey {}", rsa.record())));
    let edge = start(&server, "[auth]\nauthserv_id = \"mail.example.net\"");
    let signed = rsa.sign(("relaxed", "relaxed"), "rsa", "sender.example", &from_sender("Hello\r\n"));
    for (message, due) in [
        (signed.replace("Hello", "Hallo"), "dkim=fail (body hash did not verify)"),
        (signed.replace("Subject: hello", "Subject: hallo"), "dkim=fail (signature did not verify)"),
        (signed.replace("d=sender.example", "d=other.example"), "dkim=permerror (no key for signature)"),
    ] {
        let before = edge.mailbox("ida@contoso.com").len();
        client(&edge, BAD).deliver(SENDER, &["ida@contoso.com"], &message);
        let letters = edge.wait_for("ida@contoso.com", before + 1);
        let told: Vec<String> =
            letters.iter().flat_map(|letter| letter.headers("Authentication-Results")).collect();
        let ours =
            told.iter().find(|field| field.contains(due)).unwrap_or_else(|| panic!("{due} in {told:#?}"));
        assert!(ours.starts_with("mail.example.net; spf=fail smtp.mailfrom="), "{ours}");
        assert!(ours.contains("dmarc=fail header.from=sender.example policy.dmarc=reject"), "{ours}");
        assert!(ours.contains("iprev=permerror (no reverse name)"), "{ours}");
    }
}

/// RFC 6376 §3.6.1: a key's owner says what it is for.
#[test]
fn a_key_for_something_else_proves_nothing() {
    let rsa = Signer::rsa();
    let record = rsa.record();
    let keys = [
        ("mail", record.replace("v=DKIM1;", "v=DKIM1; s=tlsrpt : email;")),
        ("any", record.replace("v=DKIM1;", "v=DKIM1; s=*;")),
        ("reports", record.replace("v=DKIM1;", "v=DKIM1; s=tlsrpt;")),
        ("old", record.replace("h=sha256", "h=sha1")),
    ];
    let zone: String = keys.iter().map(|(name, record)| format!("{name}._domainkey {record}\n")).collect();
    let server = Nameserver::start(&zones(&zone));
    let edge = start(&server, "");
    for (name, due) in [
        ("mail", "pass header.d=sender.example"),
        ("any", "pass header.d=sender.example"),
        ("reports", "permerror (no key for signature)"),
        ("old", "permerror (unsupported algorithm)"),
    ] {
        let before = edge.mailbox(ANNA).len();
        let message = from_sender("Hello\r\n").replace("hello", name);
        let signed = rsa.sign(("relaxed", "relaxed"), name, "sender.example", &message);
        client(&edge, GOOD).deliver(SENDER, &[ANNA], signed);
        let letters = edge.wait_for(ANNA, before + 1);
        let letter = letters.iter().find(|letter| letter.header("Subject").as_deref() == Some(name));
        let told = results(letter.expect("the one of this key"));
        assert!(result(&told, "dkim").starts_with(due), "{name}: {told:#?}");
    }
}

#[test]
fn a_chain_of_another_hand_holds() {
    let rsa = Signer::rsa();
    let server = Nameserver::start(&zones(&format!("rsa._domainkey {}", rsa.record())));
    let edge = start(&server, "");
    let signed = rsa.sign(("relaxed", "relaxed"), "rsa", "sender.example", &from_sender("Hello \r\n\t\r\n"));
    let received =
        format!("Authentication-Results: list.example; dkim=pass header.d=sender.example\r\n{signed}");
    let sealed = rsa.seal("rsa", "sender.example", "list.example", &received);
    client(&edge, BAD).deliver(SENDER, &[ANNA], &sealed);
    client(&edge, BAD).deliver(SENDER, &["ida@contoso.com"], sealed.replace("Hello", "Hallo"));
    let told = results(&edge.wait_for(ANNA, 1)[0]);
    assert_eq!(result(&told, "arc"), "pass header.d=sender.example");
    let told = results(&edge.wait_for("ida@contoso.com", 1)[0]);
    assert!(result(&told, "arc").starts_with("fail (body hash did not verify)"), "{told:#?}");
}

#[test]
fn a_policy_of_reject_is_followed_only_where_the_operator_wants_it() {
    const REFUSED: &str = "550 5.7.509 Access denied, sending domain [sender.example] does not pass DMARC \
                           verification and has a DMARC policy of reject.";
    let server = Nameserver::start(&zones(""));
    let mut edge = start(&server, "");
    let forged = from_sender("Hello\r\n");
    client(&edge, BAD).deliver("x@elsewhere.example", &[ANNA], &forged);
    edge.wait_for(ANNA, 1);
    edge.configure("[auth]\ndmarc_reject = true");
    edge.reload();
    let mut bad = client(&edge, BAD);
    bad.envelope("x@elsewhere.example", &[ANNA]);
    assert_eq!(bad.data(&forged), REFUSED);
    // The session goes on, and the same mail from where it belongs is taken.
    bad.expect("NOOP", "250 2.0.0 OK");
    client(&edge, GOOD).deliver(SENDER, &["ida@contoso.com"], &forged);
    edge.wait_for("ida@contoso.com", 1);
    assert_eq!(edge.mailbox(ANNA).len(), 1);
    // What hides its author from us is not let in for that.
    let hidden = format!("X-Long: x\r\n{}{forged}", format!(" {}\r\n", "x".repeat(1000)).repeat(300));
    bad.envelope("x@elsewhere.example", &[ANNA]);
    assert_eq!(bad.data(hidden), "550 5.6.0 Message header cannot be read");
    bad.envelope("x@elsewhere.example", &[ANNA]);
    assert_eq!(
        bad.data(format!("a line that is no field\r\n{forged}")),
        "550 5.6.0 Message header cannot be read"
    );
    let from = |value: &str| format!("From: {value}\r\nSubject: hello\r\n\r\nHello\r\n");
    for (author, reply) in [
        ("Eve <eve@sender.example.>", REFUSED),
        ("eve@sender.example\u{a0}", REFUSED),
        ("eve@sender\u{ad}.example", REFUSED),
        ("eve@sender.\u{202e}example", "550 5.6.0 Message header cannot be read"),
        // Which of them is shown is the reader's choice.
        ("x@elsewhere.example\r\nFrom: eve@sender.example", "550 5.6.0 Message header cannot be read"),
        ("x@elsewhere.example\r\nfrom : x@elsewhere.example", "550 5.6.0 Message header cannot be read"),
    ] {
        bad.envelope("x@elsewhere.example", &[ANNA]);
        assert_eq!(bad.data(from(author)), reply, "{author}");
    }
    // Authors of several domains are exempt (RFC 9989 §5.3.2).
    bad.deliver("x@elsewhere.example", &["ida@contoso.com"], from("x@elsewhere.example, eve@sender.example"));
    // A domain without a policy has nothing to be refused for.
    client(&edge, BAD).deliver("x@elsewhere.example", &["ida@contoso.com"], letter("no policy"));
}

#[test]
fn who_is_exempt_and_whose_connector_it_is_are_not_checked() {
    let server = Nameserver::start(&zones(""));
    let edge = edge(&server, "");
    edge.client().deliver(SENDER, &[ANNA], from_sender("Hello\r\n"));
    let letter = edge.wait_for(ANNA, 1).remove(0);
    assert_eq!(letter.headers("Authentication-Results"), Vec::<String>::new());
    assert!(!edge.log().contains("\"examined\""), "{}", edge.log());
}

/// Section 6: a notice would go to whoever was forged. The edge that examined the sender knows, and the one in
/// the home region, whose store refuses the message, has its word.
#[test]
fn nobody_is_told_of_mail_that_spf_fails_for_in_its_own_region_or_another() {
    let server = Nameserver::start(&zones(""));
    let refusing = Sink::start(&["-f", "RCPT", "-B", "550 5.1.1 Nobody here"]);
    let nam = Edge::builder("NAM")
        .directory(CONTOSO)
        .store(&[&refusing.url()])
        .with("[region.NAM]\ntls = \"off\"\n[region.EUR]\nrelay = [\"smtp://127.0.0.1:1\"]\npeers = [\"127.0.0.0/8\"]")
        .with(&server.settings())
        .start();
    let eur = Edge::builder("EUR");
    let listener = behind_a_proxy(eur.address());
    let eur = eur
        .relay("NAM", nam.address)
        .store(&[&refusing.url()])
        .with("[region.EUR]\ntls = \"off\"")
        .with(&listener)
        .with(&server.settings())
        .directory(CONTOSO)
        .start();
    // A forged field of the sender's own says nothing.
    let message = format!("Authentication-Results: {HOST}; spf=pass\r\n{}", from_sender("Hello\r\n"));
    for (edge, to) in [(&eur, ANNA), (&nam, "ben@contoso.com")] {
        let heard = |what: &str| edge.log().matches(what).count();
        client(&eur, BAD).deliver(SENDER, &[to], &message);
        until("it ends untold", || (heard("SPF fails for the sender, who may be forged") == 1).then_some(()));
        assert_eq!(heard(r#""event":"notified""#), 0, "{}", edge.log());
        let forged = message.replace("pass", "fail");
        client(&eur, GOOD).deliver(SENDER, &[to], &forged);
        until("its sender is told", || (heard(r#""event":"notified""#) == 1).then_some(()));
    }
}

const NOT_OVER_IPV6: &str = "550 5.2.1 Service unavailable, [contoso.com] does not accept email over IPv6.";
const NAMELESS: &str =
    "450 4.7.25 Service unavailable, sending IPv6 address [2001:db8::66] must have reverse DNS record.";
const UNPROVEN: &str = "450 4.7.26 Service unavailable, message sent over IPv6 [2001:db8::10] must pass either SPF \
                        or DKIM validation.";

/// Contoso, with mail over IPv6 for the tenant or the domain.
fn contoso(tenant: bool, domain: &str) -> String {
    CONTOSO
        .replace("multi_geo = true", &format!("multi_geo = true\naccept_ipv6 = {tenant}"))
        .replace("mail_flow_region = \"EUR\"", &format!("mail_flow_region = \"EUR\"\n{domain}"))
}

#[test]
fn mail_over_ipv6_needs_leave_a_name_and_a_proof() {
    let server = Nameserver::start(&zones(""));
    let edge = start(&server, "");
    let to_anna = format!("RCPT TO:<{ANNA}>");
    let ask = |ip: &str| {
        let mut client = client(&edge, ip);
        client.expect(&format!("MAIL FROM:<{SENDER}>"), "250 2.1.0 Sender OK");
        client.say(&to_anna)
    };
    // Rule 50: by the tenant, and the domain's own word over it.
    assert_eq!(ask(GOOD_V6), NOT_OVER_IPV6);
    edge.write_directory(&contoso(true, "accept_ipv6 = false"));
    edge.reload();
    assert_eq!(ask(GOOD_V6), NOT_OVER_IPV6);
    edge.write_directory(&contoso(false, "accept_ipv6 = true"));
    edge.reload();
    assert_eq!(ask(GOOD_V6), "250 2.1.5 Recipient OK");
    edge.write_directory(&contoso(true, ""));
    edge.reload();
    assert_eq!(ask(GOOD_V6), "250 2.1.5 Recipient OK");
    // Rule 51.
    assert_eq!(ask(NAMELESS_V6), NAMELESS);
    // Rule 52: neither SPF nor DKIM, then SPF.
    let mut good = client(&edge, GOOD_V6);
    good.envelope("x@elsewhere.example", &[ANNA]);
    assert_eq!(good.data(from_sender("Hello\r\n")), UNPROVEN);
    good.deliver(SENDER, &[ANNA], from_sender("Hello\r\n"));
    edge.wait_for(ANNA, 1);
    // `explain` says the same.
    for (ip, code, reply) in [(GOOD_V6, 0, "250 2.1.5 Recipient OK"), (NAMELESS_V6, 1, NAMELESS)] {
        let explained = edge.command(&["explain", ANNA, "--client-ip", ip, "--json"]);
        assert_eq!(
            (explained.code, explained.json()["reply"].as_str()),
            (code, Some(reply)),
            "{explained:#?}"
        );
        assert!(explained.stdout.contains("\"51\""), "{explained:#?}");
    }
    edge.write_directory(CONTOSO);
    let explained = edge.command(&["explain", ANNA, "--client-ip", GOOD_V6, "--json"]);
    assert_eq!(
        (explained.code, explained.json()["reply"].as_str()),
        (1, Some(NOT_OVER_IPV6)),
        "{explained:#?}"
    );
}

/// Rule 53 is for who is attributed to a connector, and a partner's domain in MAIL FROM attributes nobody.
#[test]
fn over_ipv6_a_partners_domain_alone_is_no_proof() {
    let server = Nameserver::start(&zones(""));
    let edge = start(&server, "");
    let partner = "[[tenant.inbound_connector]]\nname = \"partner\"\ntype = \"partner\"\n\
                   sender_domains = [\"elsewhere.example\", \"sender.example\"]\nsource_ips = [\"203.0.113.1\"]\n";
    edge.write_directory(&format!("{}\n{partner}", contoso(false, "")));
    edge.reload();
    let mut client = client(&edge, GOOD_V6);
    client.expect(&format!("MAIL FROM:<{SENDER}>"), "250 2.1.0 Sender OK");
    client.expect(&format!("RCPT TO:<{ANNA}>"), NOT_OVER_IPV6);
    client.expect("RSET", "250 2.0.0 Resetting");
    edge.write_directory(&format!("{}\n{partner}", contoso(true, "")));
    edge.reload();
    client.envelope("x@elsewhere.example", &[ANNA]);
    assert_eq!(client.data(from_sender("Hello\r\n")), UNPROVEN);
    let explained = edge.command(&["explain", ANNA, "--from", SENDER, "--client-ip", NAMELESS_V6]);
    assert_eq!(explained.code, 1, "{explained:#?}");
    assert!(explained.stdout.contains(NAMELESS), "{explained:#?}");
}

#[test]
fn a_signature_is_proof_enough_over_ipv6_and_exemption_does_not_help() {
    let rsa = Signer::rsa();
    let server = Nameserver::start(&zones(&format!("rsa._domainkey {}", rsa.record())));
    let edge = start(&server, "[auth]\nexempt = [\"2001:db8::/32\"]\nspf = false\ndkim = false");
    edge.write_directory(&contoso(true, ""));
    edge.reload();
    let message = from_sender("Hello\r\n");
    let mut client = client(&edge, GOOD_V6);
    client.envelope("x@elsewhere.example", &[ANNA]);
    assert_eq!(client.data(&message), UNPROVEN);
    let signed = rsa.sign(("relaxed", "relaxed"), "rsa", "sender.example", &message);
    client.deliver("x@elsewhere.example", &[ANNA], signed);
    let letter = edge.wait_for(ANNA, 1).remove(0);
    assert_eq!(letter.headers("Authentication-Results"), Vec::<String>::new());
}

#[test]
fn a_dry_run_records_what_ipv6_would_be_refused_for() {
    let server = Nameserver::start(&zones(""));
    let edge = start(&server, "[auth]\nipv6 = \"record\"");
    client(&edge, GOOD_V6).deliver("x@elsewhere.example", &[ANNA], from_sender("Hello\r\n"));
    edge.write_directory(&contoso(true, ""));
    edge.reload();
    client(&edge, NAMELESS_V6).deliver(SENDER, &[ANNA], from_sender("Hello\r\n"));
    edge.wait_for(ANNA, 2);
    let metrics = edge.metrics();
    for (reason, count) in [("ipv6-not-accepted", 1), ("ipv6-without-ptr", 1), ("ipv6-unauthenticated", 2)] {
        let line = format!("landfall_recorded_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert!(edge.log().contains("\"recorded\""));
}

#[test]
fn a_dns_that_does_not_answer_costs_time_and_never_the_message() {
    let mut server = Nameserver::start(&zones(""));
    let edge = start(&server, "[auth]\ndeadline = \"500ms\"\ndmarc_reject = true");
    server.stop();
    client(&edge, BAD).deliver(SENDER, &[ANNA], from_sender("Hello\r\n"));
    let told = results(&edge.wait_for(ANNA, 1)[0]);
    for method in ["spf", "dmarc", "iprev"] {
        assert!(result(&told, method).starts_with("temperror"), "{told:#?}");
    }
    // Rule 51: temporary as well (rule 20).
    edge.write_directory(&contoso(true, ""));
    edge.reload();
    let mut client = client(&edge, NAMELESS_V6);
    client.expect(&format!("MAIL FROM:<{SENDER}>"), "250 2.1.0 Sender OK");
    client.expect(&format!("RCPT TO:<{ANNA}>"), NAMELESS);
}

#[test]
fn inline_the_head_tells_of_the_client_and_the_end_is_still_ours() {
    let server = Nameserver::start(&zones(""));
    let sink = Sink::start(&[]);
    let store = format!("[region.EUR]\nstore = [\"{}\"]\nmode = \"inline\"\ntls = \"off\"", sink.url());
    let edge = start(&server, &format!("{store}\n[auth]\ndmarc_reject = true"));
    client(&edge, GOOD).deliver(SENDER, &[ANNA], from_sender("Hello\r\n"));
    let taken = sink.wait_for(1);
    let told = results(&taken[0].message);
    assert_eq!(result(&told, "spf"), format!("pass smtp.mailfrom={SENDER}"));
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(edge.log().contains("dmarc=pass"), "{}", edge.log());
    let mut bad = client(&edge, BAD);
    bad.envelope("x@elsewhere.example", &[ANNA]);
    let refused = bad.data(from_sender("Forged\r\n"));
    assert!(refused.starts_with("550 5.7.509 "), "{refused}");
    client(&edge, GOOD).deliver(SENDER, &[ANNA], from_sender("Last\r\n"));
    assert!(sink.wait_for(2).iter().all(|taken| !taken.message.text().contains("Forged")));
}

/// Peak resident memory of a process, in KiB.
fn peak(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_large_signed_body_is_verified_and_never_held() {
    const LINES: usize = 1_500_000;
    let rsa = Signer::rsa();
    let server = Nameserver::start(&zones(&format!("rsa._domainkey {}", rsa.record())));
    let mut edge = start(&server, "[spool]\ndraft_size = \"1MiB\"");
    // Once on a small scale, so that what is there anyway is.
    let sign = |body: &str| rsa.sign(("relaxed", "relaxed"), "rsa", "sender.example", &from_sender(body));
    client(&edge, BAD).deliver(SENDER, &["ida@contoso.com"], sign("Hello\r\n"));
    edge.wait_for("ida@contoso.com", 1);
    let before = peak(edge.id());
    // 100 octets a line: 143 MiB.
    let line = format!("{} \t{}  \r\n", "word ".repeat(10).trim_end(), "x".repeat(45));
    let message = sign(&line.repeat(LINES));
    assert!(message.len() > 140 * 1024 * 1024);
    client(&edge, BAD).deliver(SENDER, &[ANNA], &message);
    let grown = peak(edge.id()) - before;
    let told = results(&edge.wait_for(ANNA, 1)[0]);
    assert!(result(&told, "dkim").starts_with("pass"), "{told:#?}");
    assert!(grown < 40 * 1024, "the edge grew by {grown} KiB over a body of {} octets", message.len());
}

#[test]
fn messages_made_to_hurt_are_bounded_in_time_and_memory() {
    let many: String = (0..12).map(|at| format!("l{at} TXT \"v=spf1 ip4:192.0.2.{at} -all\"\n")).collect();
    let includes: Vec<String> = (0..12).map(|at| format!("include:l{at}.sender.example")).collect();
    let loops = format!(
        "loop TXT \"v=spf1 include:loop.sender.example -all\"\nmany TXT \"v=spf1 {} -all\"\n{many}",
        includes.join(" ")
    );
    let server = Nameserver::start(&zones(&loops));
    let mut edge = start(&server, "");
    let before = peak(edge.id());
    let watch = world::Stopwatch::start();
    let mut count = 0;
    let mut told = |from: &str, message: &str| {
        client(&edge, BAD).deliver(from, &[ANNA], message);
        count += 1;
        let letters = edge.wait_for(ANNA, count);
        let newest = letters.iter().find(|letter| letter.text().contains(&format!("Return-Path: <{from}>")));
        results(newest.expect("the letter of this sender"))
    };
    // SPF in circles, and beyond ten lookups.
    let results = told("a@loop.sender.example", &from_sender("Hello\r\n"));
    assert!(result(&results, "spf").starts_with("permerror (more than ten lookups)"), "{results:#?}");
    let results = told("b@many.sender.example", &from_sender("Hello\r\n"));
    assert!(result(&results, "spf").starts_with("permerror (more than ten lookups)"), "{results:#?}");
    // Signatures by the dozen, each of so many names that they would be searched for long.
    let names = "from:".to_owned() + &"a:".repeat(200);
    let signatures: String = (0..150)
        .map(|at| {
            let names = names.trim_end_matches(':');
            format!(
                "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=sender.example; s=s{at};\r\n \
                 h={names}; bh=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=; b=AAAA\r\n"
            )
        })
        .collect();
    let results = told("c@sender.example", &(signatures + &from_sender("Hello\r\n")));
    assert_eq!(results.iter().filter(|result| result.starts_with("dkim=fail")).count(), 10, "{results:#?}");
    assert!(
        results.iter().any(|result| result == "dkim=policy (140 more signatures were not looked at)"),
        "{results:#?}"
    );
    // A header section of a megabyte, in lines of the length that DATA takes.
    let long: String = (0..32).map(|at| format!("X-Long-{at}: {}\r\n", "x".repeat(32 * 1024))).collect();
    let results = told("d@sender.example", &(long + &from_sender("Hello\r\n")));
    assert_eq!(result(&results, "dkim"), "permerror (header section is too long)");
    assert_eq!(result(&results, "dmarc"), "permerror (header section is too long)");
    // As one line it is refused.
    let mut one_line = client(&edge, BAD);
    one_line.envelope(SENDER, &[ANNA]);
    let message = format!("X-Long: {}\r\n{}", "x".repeat(1024 * 1024), from_sender("Hello\r\n"));
    assert_eq!(one_line.data(message), "550 5.6.0 Line exceeds 64 KiB");
    one_line.expect("NOOP", "250 2.0.0 OK");
    // One field of a megabyte, folded.
    let folded = format!("X-Long: x\r\n{}", format!(" {}\r\n", "x".repeat(1000)).repeat(1000));
    let results = told("e@sender.example", &(folded + &from_sender("Hello\r\n")));
    assert_eq!(result(&results, "dkim"), "permerror (header section is too long)");
    // Ten thousand fields; ten thousand authors.
    let fields = "A: b\r\n".repeat(10_000);
    let results = told("f@sender.example", &(fields + &from_sender("Hello\r\n")));
    assert_eq!(result(&results, "dmarc"), "permerror (too many header fields)");
    let authors = "a@b.example,\r\n ".repeat(10_000);
    let results = told("g@sender.example", &format!("From: {authors}c@d.example\r\n\r\nHello\r\n"));
    assert_eq!(result(&results, "dmarc"), "none (authors of several domains)");
    // MIME in MIME, ten thousand deep: nobody here looks inside.
    let mut nested = from_sender("").trim_end().to_owned() + "\r\nMIME-Version: 1.0\r\n";
    for at in 0..10_000 {
        nested.push_str(&format!("Content-Type: multipart/mixed; boundary=\"b{at}\"\r\n\r\n--b{at}\r\n"));
    }
    nested.push_str("Content-Type: text/plain\r\n\r\nHello\r\n");
    let results = told("h@sender.example", &nested);
    assert_eq!(result(&results, "dmarc"), "fail header.from=sender.example policy.dmarc=reject");
    let (took, grown) = (watch.elapsed(), peak(edge.id()) - before);
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(grown < 40 * 1024, "the edge grew by {grown} KiB");
}
