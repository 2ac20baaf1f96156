//! Relay: where accepted mail goes, and that it arrives as it came: Maildir, LMTP and SMTP stores, other
//! regions' edges, smart hosts.

mod world;

use std::time::Duration;

use world::{Authority, CONTOSO, Dovecot, Edge, Letter, Sink, free_address, holds_for, letter, until};

/// Everything that is easily damaged on the way and may not be.
fn fragile() -> Vec<u8> {
    let mut message = letter("fragile").into_bytes();
    message.extend_from_slice(
        b".\r\n..\r\n.leading dot\r\nFrom the start of a line\r\n \t \r\ntrailing blanks  \t\r\n\r\n",
    );
    message.extend_from_slice("grüße, 你好\r\n".as_bytes());
    message.extend_from_slice(b"latin-1 \xe4\xf6\xfc and stray \x80\xff\r\n");
    message.extend_from_slice("x".repeat(5_000).as_bytes());
    message.extend_from_slice(b"\r\n\r\n\r\n");
    message
}

/// Final delivery adds these two, newest on top, and nothing else.
fn assert_only_our_headers(kept: &Letter, original: &[u8]) {
    assert_only_headers(kept, original, &["Return-Path", "Received"]);
}

fn assert_only_headers(kept: &Letter, original: &[u8], expected: &[&str]) {
    let added = kept.added_before(original);
    let names: Vec<_> = added
        .split("\r\n")
        .filter(|line| !line.is_empty() && !line.starts_with([' ', '\t']))
        .map(|line| line.split(':').next().unwrap_or_default())
        .collect();
    assert_eq!(names, expected, "{added}");
}

#[test]
fn a_maildir_keeps_every_byte_with_our_headers_in_front() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let message = fragile();
    edge.client().deliver("ann@sender.example", &["anna@contoso.com"], &message);
    let kept = edge.wait_for("anna@contoso.com", 1).remove(0);
    assert_only_our_headers(&kept, &message);
    assert_eq!(kept.header("Return-Path").as_deref(), Some("<ann@sender.example>"));
    let received = kept.header("Received").expect("we were here");
    assert!(
        received.starts_with("from client.example.org ([127.0.0.1]) by edge1.eur.example.net "),
        "{received}"
    );
    assert!(received.contains("with ESMTP"), "{received}");
}

#[test]
fn dovecot_gets_every_byte_and_answers_for_each_recipient() {
    let dovecot = Dovecot::start(&["anna@contoso.com", "ida@contoso.com"]);
    dovecot.obstruct("ida@contoso.com");
    let directory = CONTOSO.to_owned()
        + "[[tenant.user]]\naddress = \"olga@contoso.com\"\npreferred_data_location = \"EUR\"\n";
    let edge = Edge::builder("EUR")
        .directory(&directory)
        .store(&[&dovecot.url()])
        .with("[region.EUR]\ntls = \"off\"\n[queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"")
        .start();
    let message = fragile();
    // Olga is in the directory and not in Dovecot: its 550 fails her alone, and Anna, who wrote, is told.
    edge.client().deliver(
        "anna@contoso.com",
        &["anna@contoso.com", "ida@contoso.com", "olga@contoso.com"],
        &message,
    );
    let inbox = dovecot.wait_for("anna@contoso.com", 2);
    let (notices, letters): (Vec<_>, Vec<_>) =
        inbox.iter().partition(|kept| kept.header("Return-Path").as_deref() == Some("<>"));
    assert_eq!((notices.len(), letters.len()), (1, 1));
    // Dovecot puts its own on top of ours, and Delivered-To where a transaction had one recipient.
    assert_only_headers(letters[0], &message, &["Return-Path", "Return-Path", "Received"]);
    assert!(notices[0].text().contains("olga@contoso.com"), "{:?}", notices[0]);
    assert!(notices[0].text().contains("550 5.1.1"), "{:?}", notices[0]);

    // Ida's 451 came at the end of data, beside Anna's 250. She gets hers when her box is in order again.
    until("Ida's attempt", || dovecot.log().contains("lmtp(ida@contoso.com)").then_some(()));
    dovecot.clear("ida@contoso.com");
    let kept = dovecot.wait_for("ida@contoso.com", 1).remove(0);
    assert_only_headers(&kept, &message, &["Return-Path", "Delivered-To", "Return-Path", "Received"]);
    edge.wait_for_empty_queue();
    assert_eq!(dovecot.files("anna@contoso.com").len(), 2, "nothing comes twice");
    assert_eq!(dovecot.mailbox("anna@contoso.com").len(), 2, "and doveadm sees what lies there");
}

#[test]
fn a_connection_to_a_store_serves_many_messages() {
    let dovecot = Dovecot::start(&["anna@contoso.com"]);
    let sink = Sink::start(&[]);
    let edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .store(&[&dovecot.url()])
        .with("[region.EUR]\ntls = \"off\"")
        .relay("NAM", sink.address)
        .start();
    let mut client = edge.client();
    for count in 1..=20 {
        client.deliver("ann@sender.example", &["anna@contoso.com", "ben@contoso.com"], letter("one of many"));
        dovecot.wait_for("anna@contoso.com", count);
        sink.wait_for(count);
    }
    assert_eq!(dovecot.connections(), 1);
    assert_eq!(sink.connections(), 1);
}

#[test]
fn an_smtp_store_gets_no_return_path() {
    let sink = Sink::start(&[]);
    let edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .store(&[&sink.url()])
        .with("[region.EUR]\ntls = \"off\"")
        .start();
    edge.client().deliver(
        "ann@sender.example",
        &["anna@contoso.com", "ida@contoso.com"],
        letter("to a sink"),
    );
    let taken = sink.wait_for(1).remove(0);
    assert!(taken.sender.starts_with("<ann@sender.example>"), "{taken:?}");
    assert_eq!(taken.recipients.len(), 2, "one transaction for both: {taken:?}");
    assert_eq!(taken.message.headers("Return-Path"), Vec::<String>::new());
    assert_eq!(taken.message.headers("Received").len(), 1);
}

#[test]
fn a_store_on_this_machine_is_reached_by_its_socket_file() {
    let dovecot = Dovecot::start(&["anna@contoso.com"]);
    let edge = Edge::builder("EUR").directory(CONTOSO).store(&[&dovecot.unix_url()]).start();
    let mut client = edge.client();
    for count in 1..=2 {
        client.deliver("ann@sender.example", &["anna@contoso.com"], letter("by the socket file"));
        dovecot.wait_for("anna@contoso.com", count);
    }
    assert_eq!(dovecot.connections(), 1);
    edge.wait_for_empty_queue();
    assert!(edge.log().contains(&format!(r#""host":"{}""#, dovecot.unix_url())), "{}", edge.log());
}

#[test]
fn a_next_hop_may_speak_tls_from_the_first_byte() {
    let nam = Edge::builder("NAM").directory(CONTOSO);
    let address = nam.address();
    let listener =
        format!("listener = [{{ name = \"smtps\", address = [\"{address}\"], tls = \"implicit\" }}]");
    let nam = nam.with(&listener).with("[region.EUR]\npeers = [\"127.0.0.0/8\"]").start();
    let eur = Edge::builder("EUR")
        .directory(CONTOSO)
        .with(&format!("[region.NAM]\nrelay = [\"smtps://{address}\"]\ntls = \"encrypt\""))
        .start();
    let mut client = eur.client();
    for count in 1..=2 {
        client.deliver("ann@sender.example", &["ben@contoso.com"], letter("never in plain text"));
        let kept = nam.wait_for("ben@contoso.com", count);
        assert!(kept.iter().all(|letter| letter.headers("Received")[0].contains("with ESMTPS")), "{kept:?}");
    }
    eur.wait_for_empty_queue();
}

#[test]
fn the_stores_of_a_region_are_tried_in_turn() {
    let closing = Sink::start(&["-q", "CONNECT"]);
    let refusing = Sink::start(&["-f", "EHLO,HELO"]);
    let healthy = Sink::start(&[]);
    let dead = format!("smtp://{}", free_address());
    let edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .store(&[&dead, &closing.url(), &refusing.url(), &healthy.url()])
        .with("[region.EUR]\ntls = \"off\"\n[queue]\nfirst_intervals = [\"15m\"]")
        .start();
    edge.client().deliver("ann@sender.example", &["anna@contoso.com"], letter("third time lucky"));
    healthy.wait_for(1);
    edge.wait_for_empty_queue();
}

#[test]
fn what_a_next_hop_cannot_take_fails_honestly() {
    let sink = Sink::start(&["-8"]);
    let edge = Edge::builder("EUR").directory(CONTOSO).relay("NAM", sink.address).start();
    let mut client = edge.client();
    let eight_bit = letter("grüße").into_bytes();
    client.expect("MAIL FROM:<anna@contoso.com> BODY=8BITMIME", "250 2.1.0 Sender OK");
    client.expect("RCPT TO:<ben@contoso.com>", "250 2.1.5 Recipient OK");
    assert!(client.data(&eight_bit).starts_with("250 2.6.0 "));
    let notice = edge.wait_for("anna@contoso.com", 1).remove(0);
    assert_eq!(notice.header("Return-Path").as_deref(), Some("<>"));
    assert!(notice.text().contains("5.6."), "{notice:?}");
    // Plain text still goes.
    client.deliver("anna@contoso.com", &["ben@contoso.com"], letter("plain"));
    assert_eq!(sink.wait_for(1).len(), 1);
}

/// An edge in EUR that NAM's edge knows as a peer. The other way round the tests' own clients, whose
/// address is the same, would pass for a peer.
fn two_regions(directory_of_nam: &str) -> (Edge, Edge) {
    let eur = Edge::builder("EUR").directory(CONTOSO);
    let nam = Edge::builder("NAM").directory(directory_of_nam);
    let (eur_address, nam_address) = (eur.address(), nam.address());
    let nam = nam.relay("EUR", eur_address).with("[region.EUR]\npeers = [\"127.0.0.0/8\"]");
    (
        eur.relay("NAM", nam_address)
            .with("[queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"")
            .start(),
        nam.start(),
    )
}

#[test]
fn one_message_lands_in_two_regions() {
    let (eur, nam) = two_regions(CONTOSO);
    let message = letter("to both");
    eur.client().deliver("ann@sender.example", &["anna@contoso.com", "ben@contoso.com"], &message);
    assert_only_our_headers(&eur.wait_for("anna@contoso.com", 1)[0], message.as_bytes());
    let kept = nam.wait_for("ben@contoso.com", 1).remove(0);
    kept.added_before(message.as_bytes());
    assert_eq!(kept.headers("Received").len(), 2, "{kept:?}");
    assert_eq!(kept.headers("Return-Path"), ["<ann@sender.example>"]);
    eur.wait_for_empty_queue();
    assert!(eur.mailbox("ben@contoso.com").is_empty() && nam.mailbox("anna@contoso.com").is_empty());
}

#[test]
fn stale_directories_cannot_play_ping_pong() {
    // NAM's directory says that Ben has moved to EUR, EUR's still says NAM.
    let moved = CONTOSO.replace(
        "address = \"ben@contoso.com\"\npreferred_data_location = \"NAM\"",
        "address = \"ben@contoso.com\"\npreferred_data_location = \"EUR\"",
    );
    let (eur, nam) = two_regions(&moved);
    eur.client().deliver("ann@sender.example", &["ben@contoso.com"], letter("where is Ben"));
    let reply = until("NAM's answer", || {
        eur.queue().first().and_then(|row| row["last_reply"].as_str().map(str::to_owned))
    });
    assert!(reply.contains("451 4.4.3") && reply.contains("ATTR55.1"), "{reply}");
    assert!(nam.queue().is_empty() && nam.mailbox("ben@contoso.com").is_empty());

    // When EUR learns, its own store takes it: the way is decided again before each attempt (rule 89).
    eur.write_directory(&moved);
    eur.reload();
    eur.wait_for("ben@contoso.com", 1);
}

#[derive(Debug, Clone, Copy)]
enum Certificate {
    None,
    SelfSigned,
    OtherName,
    Trusted,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Arrives {
    InTls,
    Plain,
    Never,
}

const LEVELS: [&str; 4] = ["off", "opportunistic", "encrypt", "verify"];

/// What arrives at a smart host with such a certificate, by the connector's level.
const TLS_TABLE: [(Certificate, [Arrives; 4]); 4] = {
    use Arrives::{InTls, Never, Plain};
    [
        (Certificate::None, [Plain, Plain, Never, Never]),
        (Certificate::SelfSigned, [Plain, InTls, InTls, Never]),
        (Certificate::OtherName, [Plain, InTls, InTls, Never]),
        (Certificate::Trusted, [Plain, InTls, InTls, InTls]),
    ]
};

fn relayed_domain(level: &str, certificate: Certificate) -> String {
    format!("{level}.{certificate:?}.example").to_lowercase()
}

/// What stands at the other end of the connectors: an edge of its own, which can do TLS.
fn smart_host(authority: &Authority, certificate: Certificate) -> Edge {
    let mut directory =
        "[[tenant]]\nid = \"hq\"\ndefault_region = \"EUR\"\nallowed_regions = [\"EUR\"]\n".to_owned();
    for level in LEVELS {
        let domain = relayed_domain(level, certificate);
        directory.push_str(&format!(
            "[[tenant.domain]]\nname = \"{domain}\"\n[[tenant.user]]\naddress = \"any@{domain}\"\n"
        ));
    }
    let host = Edge::builder("EUR").with("[node]\nhostname = \"hq.contoso.com\"").directory(&directory);
    let address = host.address();
    let pair = match certificate {
        Certificate::Trusted => authority.issue_for(address),
        Certificate::OtherName => authority.issue("elsewhere.example"),
        Certificate::SelfSigned => return host.start(),
        Certificate::None => {
            return host
                .with(&format!("listener = [{{ name = \"mx\", address = [\"{address}\"], tls = \"off\" }}]"))
                .start();
        }
    };
    host.with(&format!("[tls]\ncertificate = [{{ cert = {:?}, key = {:?} }}]", pair.cert, pair.key)).start()
}

/// An internal-relay domain with a connector of its own for each level and each host.
fn relaying_directory(hosts: &[Edge]) -> String {
    let mut directory =
        "[[tenant]]\nid = \"contoso\"\ndefault_region = \"EUR\"\nallowed_regions = [\"EUR\"]\n".to_owned();
    for ((certificate, _), host) in TLS_TABLE.iter().zip(hosts) {
        for level in LEVELS {
            let domain = relayed_domain(level, *certificate);
            directory.push_str(&format!(
                "[[tenant.domain]]\nname = \"{domain}\"\ntype = \"internal-relay\"\n\
                 [[tenant.outbound_connector]]\nname = \"to-{domain}\"\nrecipient_domains = [\"{domain}\"]\n\
                 smart_hosts = [\"smtp://{}\"]\ntls = \"{level}\"\n",
                host.address
            ));
        }
    }
    directory
}

#[test]
fn rule_5_a_smart_host_gets_the_mail_at_the_tls_level_asked_for() {
    let authority = Authority::new();
    let hosts = TLS_TABLE.map(|(certificate, _)| smart_host(&authority, certificate));
    let edge = Edge::builder("EUR")
        .directory(&relaying_directory(&hosts))
        // What the process trusts besides the system.
        .environment("SSL_CERT_FILE", authority.file())
        .with("[queue]\nfirst_intervals = [\"15m\"]")
        .start();
    let mut client = edge.client();
    for (certificate, _) in TLS_TABLE {
        for level in LEVELS {
            let recipient = format!("any@{}", relayed_domain(level, certificate));
            client.deliver("ann@sender.example", &[&recipient], letter("to a smart host"));
        }
    }
    for ((certificate, row), host) in TLS_TABLE.iter().zip(&hosts) {
        for (level, expected) in LEVELS.iter().zip(row) {
            let recipient = format!("any@{}", relayed_domain(level, *certificate));
            let found = if *expected == Arrives::Never {
                until("a deferral", || {
                    edge.queue()
                        .iter()
                        .any(|entry| entry["recipients"][0] == *recipient && entry["last_reply"].is_string())
                        .then_some(())
                });
                assert!(host.mailbox(&recipient).is_empty(), "{level} towards {certificate:?}");
                Arrives::Never
            } else {
                let kept = host.wait_for(&recipient, 1).remove(0);
                let trace = kept.header("Received").expect("a trace of each hop");
                if trace.contains("with ESMTPS") { Arrives::InTls } else { Arrives::Plain }
            };
            assert_eq!(found, *expected, "{level} towards {certificate:?}");
        }
    }
}

#[test]
fn a_relay_is_verified_by_default_with_the_authority_of_its_region() {
    let authority = Authority::new();
    let nam = Edge::builder("NAM").directory(CONTOSO);
    let pair = authority.issue_for(nam.address());
    let nam = nam
        .with(&format!("[tls]\ncertificate = [{{ cert = {:?}, key = {:?} }}]", pair.cert, pair.key))
        .with("[region.EUR]\nrelay = [\"smtp://127.0.0.1:1\"]\npeers = [\"127.0.0.0/8\"]")
        .start();
    let edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .with(&format!("[region.NAM]\nrelay = [\"smtp://{}\"]\nca = {:?}", nam.address, authority.file()))
        .start();
    edge.client().deliver("ann@sender.example", &["ben@contoso.com"], letter("verified"));
    let kept = nam.wait_for("ben@contoso.com", 1).remove(0);
    assert!(kept.header("Received").is_some_and(|trace| trace.contains("with ESMTPS")), "{kept:?}");
}

#[test]
fn a_peer_edge_is_known_by_the_name_in_its_certificate() {
    let authority = Authority::new();
    let ours = authority.issue("edge1.eur.example.net");
    let nam = Edge::builder("NAM").directory(CONTOSO);
    let theirs = authority.issue_for(nam.address());
    let nam = nam
        .with(&format!(
            "[tls]\nclient_ca = {:?}\ncertificate = [{{ cert = {:?}, key = {:?} }}]\n\
             [region.EUR]\nrelay = [\"smtp://127.0.0.1:1\"]\npeers = [\"edge1.eur.example.net\"]",
            authority.file(),
            theirs.cert,
            theirs.key
        ))
        .start();
    // Anna lives in EUR. Only a peer is told 451 for her at NAM, where rule 8 takes her from others.
    let moved = CONTOSO.replacen("preferred_data_location = \"EUR\"", "preferred_data_location = \"NAM\"", 1);
    let edge = Edge::builder("EUR")
        .directory(&moved)
        .with(&format!(
            "[tls]\ncertificate = [{{ cert = {:?}, key = {:?} }}]\n\
             [region.NAM]\nrelay = [\"smtp://{}\"]\nca = {:?}",
            ours.cert,
            ours.key,
            nam.address,
            authority.file()
        ))
        .start();
    edge.client().deliver("ann@sender.example", &["anna@contoso.com", "ben@contoso.com"], letter("known"));
    nam.wait_for("ben@contoso.com", 1);
    let row =
        until("the answer for Anna", || edge.queue().into_iter().find(|row| row["last_reply"].is_string()));
    assert!(row["last_reply"].as_str().is_some_and(|reply| reply.contains("ATTR55.1")), "{row}");
    let mut stranger = nam.client();
    stranger.envelope("ann@sender.example", &["anna@contoso.com"]);
}

#[test]
fn a_strict_tenants_body_never_leaves_its_region() {
    let strict =
        CONTOSO.replace("in_region_routing = true", "in_region_routing = true\nresidency = \"strict\"");
    let sink = Sink::start(&[]);
    let edge = Edge::builder("EUR").directory(&strict).relay("NAM", sink.address).start();
    let mut client = edge.client();
    client.say("MAIL FROM:<ann@sender.example>");
    assert!(client.say("RCPT TO:<ben@contoso.com>").starts_with("451 4.4.62 "));
    client.expect("RCPT TO:<anna@contoso.com>", "250 2.1.5 Recipient OK");
    assert!(client.data(letter("stays here")).starts_with("250 "));
    edge.wait_for("anna@contoso.com", 1);
    holds_for("no connection to the other region", Duration::from_millis(300), || sink.connections() == 0);
}
