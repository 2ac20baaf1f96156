//! Limits: rules 55 to 61, 64 and 65 and what else `[limits]` counts, over real sockets.
//!
//! Clients of other addresses come by the PROXY protocol, as through a load balancer.

mod world;

use std::time::Duration;

use world::{
    Builder, CONTOSO, Client, Edge, Nameserver, Stopwatch, Zone, free_address, holds_for, letter, until,
};

const OK: &str = "250 2.1.5 Recipient OK";
const SENDER_OK: &str = "250 2.1.0 Sender OK";
const UNKNOWN: &str = "550 5.4.1 Recipient address rejected: Access denied";
const RECIPIENT_BUSY: &str = "554 5.2.122 The recipient has exceeded their limit for the number of messages they can \
                              receive per hour. For more information go to \
                              http://go.microsoft.com/fwlink/?LinkId=526653.";
const SENDER_EAGER: &str = "554 5.2.121 The sender has exceeded the limit for the number of messages they can send \
                            to this recipient per hour. For more information go to \
                            http://go.microsoft.com/fwlink/?LinkId=526653.";

/// A second tenant, with a rate of its own.
const FABRIKAM: &str = r#"
[[tenant]]
id = "fabrikam"
default_region = "EUR"
messages_per_minute = 1

[[tenant.domain]]
name = "fabrikam.com"

[[tenant.user]]
address = "fay@fabrikam.com"

[[tenant.user]]
address = "finn@fabrikam.com"
"#;

/// Whoever sends from elsewhere is examined: nothing of that is asked here, and no DNS but our own.
const UNEXAMINED: &str =
    "[auth]\nenabled = false\nipv6 = \"record\"\n[dns]\nservers = [\"127.0.0.1:1\"]\ntimeout = \"50ms\"";

fn busy(ip: &str) -> String {
    format!("451 4.7.500 Server busy. Please try again later from [{ip}].")
}

fn crowded(ip: &str) -> String {
    format!("451 4.7.652 The mail server [{ip}] has exceeded the maximum number of connections.")
}

/// An edge behind a load balancer on loopback.
fn edge(limits: &str) -> Builder {
    let edge = Edge::builder("EUR").directory(&(CONTOSO.to_owned() + FABRIKAM));
    let address = edge.address();
    let listener = format!(
        "listener = [{{ name = \"mx\", address = [\"{address}\"], tls = \"starttls\", \
         proxy_protocol_from = [\"127.0.0.0/8\"] }}]\n[limits]\n{limits}"
    );
    edge.with(UNEXAMINED).with(&listener)
}

/// Connects as a load balancer does for the client at `ip`.
fn proxied(edge: &Edge, ip: &str) -> Client {
    let mut client = Client::silent(edge.address);
    let family = if ip.contains(':') { ("TCP6", "2001:db8::25") } else { ("TCP4", "192.0.2.25") };
    client.send(format!("PROXY {} {ip} {} 40000 25\r\n", family.0, family.1));
    client
}

fn greeted(edge: &Edge, ip: &str) -> Client {
    let mut client = proxied(edge, ip);
    let banner = client.reply();
    assert!(banner.starts_with("220 "), "{banner}");
    let hello = client.say("EHLO client.example.org");
    assert!(hello.starts_with("250-"), "{hello}");
    client
}

fn refusals(edge: &Edge, limit: &str) -> u64 {
    edge.metric(&format!("limit_refusals_total{{limit=\"{limit}\"}}"))
}

// ---- rule 58

#[test]
fn rule_58_a_recipient_in_all() {
    let edge = edge("per_recipient_per_hour = 3").start();
    let mut client = greeted(&edge, "192.0.2.1");
    for sender in ["a@example.org", "b@example.org", ""] {
        client.deliver(sender, &["anna@contoso.com"], letter("one of three"));
    }
    // Whoever sends, from wherever; and the others of the transaction go on.
    let mut other = greeted(&edge, "198.51.100.7");
    other.expect("MAIL FROM:<c@example.org>", SENDER_OK);
    other.expect("RCPT TO:<anna@contoso.com>", RECIPIENT_BUSY);
    other.expect("RCPT TO:<Anna+tag@contoso.com>", RECIPIENT_BUSY);
    other.expect("RCPT TO:<ida@contoso.com>", OK);
    assert!(other.data(letter("to Ida")).starts_with("250 2.6.0 "));
    // Who does not exist is not told apart by it.
    other.expect("MAIL FROM:<c@example.org>", SENDER_OK);
    other.expect("RCPT TO:<nobody@contoso.com>", UNKNOWN);
    edge.wait_for("anna@contoso.com", 3);
    edge.wait_for("ida@contoso.com", 1);
    assert_eq!(refusals(&edge, "per_recipient_per_hour"), 2);
}

#[test]
fn rule_58_one_sender_to_one_recipient() {
    let edge = edge("per_sender_recipient_per_hour = 2").start();
    let mut client = greeted(&edge, "192.0.2.1");
    for _ in 0..2 {
        client.deliver("a@example.org", &["anna@contoso.com"], letter("one of two"));
    }
    client.expect("MAIL FROM:<A@EXAMPLE.org>", SENDER_OK);
    client.expect("RCPT TO:<anna@contoso.com>", SENDER_EAGER);
    client.expect("RCPT TO:<ida@contoso.com>", OK);
    client.expect("RSET", "250 2.0.0 Resetting");
    client.deliver("b@example.org", &["anna@contoso.com"], letter("another sender"));
    // Nobody in particular sends from <>.
    for _ in 0..3 {
        client.deliver("", &["anna@contoso.com"], letter("a notice"));
    }
    assert_eq!(refusals(&edge, "per_sender_recipient_per_hour"), 1);
}

#[test]
fn rule_58_counts_what_was_accepted_and_nothing_else() {
    let edge = edge("per_recipient_per_hour = 2\nmessage_size = \"64KiB\"").start();
    let mut client = greeted(&edge, "192.0.2.1");
    let large = letter("large") + &"0123456789\r\n".repeat(10_000);
    for _ in 0..3 {
        client.envelope("a@example.org", &["anna@contoso.com"]);
        client.expect("RSET", "250 2.0.0 Resetting");
        client.envelope("a@example.org", &["anna@contoso.com"]);
        assert!(client.data(&large).starts_with("552 "));
    }
    for _ in 0..2 {
        client.deliver("a@example.org", &["anna@contoso.com"], letter("counts"));
    }
    client.expect("MAIL FROM:<a@example.org>", SENDER_OK);
    client.expect("RCPT TO:<anna@contoso.com>", RECIPIENT_BUSY);
}

#[test]
fn rule_58_holds_for_loopback_only_where_it_was_chosen() {
    let mut edge = Edge::builder("EUR").directory(CONTOSO).start();
    let mut client = edge.client();
    for _ in 0..1_300 {
        client.deliver("a@example.org", &["anna@contoso.com"], letter("at the default"));
    }
    // A reload puts a limit in force for the session that is open, and takes it back.
    edge.configure("[limits]\nper_recipient_per_hour = 1");
    edge.reload();
    client.deliver("a@example.org", &["ida@contoso.com"], letter("chosen"));
    client.expect("MAIL FROM:<a@example.org>", SENDER_OK);
    client.expect("RCPT TO:<ida@contoso.com>", RECIPIENT_BUSY);
    edge.configure("[limits]\nper_recipient_per_hour = 0");
    edge.reload();
    client.expect("RSET", "250 2.0.0 Resetting");
    client.deliver("a@example.org", &["ida@contoso.com"], letter("off"));
}

// ---- rule 59

#[test]
fn rule_59_connections_at_once_of_an_address_and_of_a_64() {
    let edge = edge("connections_per_ip = 2").start();
    for (ip, same, other) in [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"),
        // An IPv4 client stays one, however its address is written.
        ("203.0.113.1", "::ffff:203.0.113.1", "203.0.113.2"),
    ] {
        let held = [greeted(&edge, ip), greeted(&edge, same)];
        let shown = same.trim_start_matches("::ffff:").to_owned();
        let shown = if same.starts_with("::ffff:") { shown } else { same.to_owned() };
        assert_eq!(proxied(&edge, same).rest(), [crowded(&shown)]);
        greeted(&edge, other);
        drop(held);
        until("the slots to be free again", || {
            let banner = proxied(&edge, ip).reply();
            banner.starts_with("220 ").then_some(())
        });
    }
    assert!(refusals(&edge, "connections_per_ip") >= 3);
    let log = edge.log();
    let told = log.lines().find(|line| line.contains("\"turned-away\"")).expect("the log tells");
    assert!(told.contains("\"limit\":\"connections_per_ip\""), "{told}");
}

#[test]
fn rule_59_connections_in_a_minute() {
    let edge = edge("connections_per_ip_per_minute = 3").start();
    for _ in 0..3 {
        greeted(&edge, "2001:db8::1");
    }
    assert_eq!(proxied(&edge, "2001:db8::2").rest(), [busy("2001:db8::2")]);
    greeted(&edge, "2001:db8:0:1::1");
    assert_eq!(refusals(&edge, "connections_per_ip_per_minute"), 1);
}

#[test]
fn health_checks_are_never_counted_against_anyone() {
    let edge = edge("connections_per_ip_per_minute = 3\nconnections_per_ip = 1").start();
    for _ in 0..20 {
        // Connects and hangs up.
        drop(Client::silent(edge.address));
        // A load balancer on its own behalf, v1 and v2; it may even say something.
        for local in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
            let mut check = Client::silent(edge.address);
            check.send(local);
            assert!(check.reply().starts_with("220 "));
            check.expect("NOOP", "250 2.0.0 OK");
        }
        // A client that goes at once, with a word and without.
        until("one connection at a time", || {
            let mut check = proxied(&edge, "192.0.2.1");
            let banner = check.reply();
            (banner.starts_with("220 ")).then(|| {
                check.expect("QUIT", "221 2.0.0 Service closing transmission channel");
                assert!(check.rest().is_empty());
            })
        });
    }
    until("the slot to be free", || {
        let mut client = proxied(&edge, "192.0.2.1");
        client.reply().starts_with("220 ").then(|| assert!(client.say("EHLO x.example").starts_with("250-")))
    });
    assert_eq!(refusals(&edge, "connections_per_ip_per_minute"), 0);
}

#[test]
fn rule_59_messages_in_a_minute_are_deferred_and_the_session_goes_on() {
    let edge = edge("messages_per_ip_per_minute = 2").start();
    let mut client = greeted(&edge, "192.0.2.1");
    for _ in 0..2 {
        client.deliver("a@example.org", &["anna@contoso.com"], letter("within"));
    }
    for _ in 0..2 {
        client.expect("MAIL FROM:<a@example.org>", &busy("192.0.2.1"));
    }
    client.expect("RCPT TO:<anna@contoso.com>", "503 5.5.1 Need MAIL command");
    client.expect("NOOP", "250 2.0.0 OK");
    greeted(&edge, "192.0.2.2").deliver("a@example.org", &["anna@contoso.com"], letter("another client"));
    edge.wait_for("anna@contoso.com", 3);
    assert_eq!(refusals(&edge, "messages_per_ip_per_minute"), 2);
}

#[test]
fn exempt_networks_have_no_limits_and_a_reload_takes_them_up() {
    let mut edge = edge(
        "connections_per_ip = 1\nconnections_per_ip_per_minute = 1\nmessages_per_ip_per_minute = 1\n\
         per_recipient_per_hour = 1\nexempt = [\"192.0.2.0/24\"]",
    )
    .start();
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = greeted(&edge, "192.0.2.1");
        client.deliver("a@example.org", &["anna@contoso.com"], letter("from a friend"));
        held.push(client);
    }
    edge.configure("[limits]\nexempt = []");
    edge.reload();
    // Those within keep what they came with; who comes now is counted.
    held[0].deliver("a@example.org", &["anna@contoso.com"], letter("still a friend"));
    assert_eq!(proxied(&edge, "192.0.2.1").rest(), [crowded("192.0.2.1")]);
}

/// Section 6: from an authenticated peer edge rule 59 does not apply.
#[test]
fn edges_of_ours_are_not_held_up() {
    let edge = edge(
        "connections_per_ip = 1\nconnections_per_ip_per_minute = 1\nmessages_per_ip_per_minute = 1\n\
         per_recipient_per_hour = 1",
    )
    .with("[region.NAM]\nrelay = [\"smtp://127.0.0.1:1\"]\npeers = [\"198.51.100.0/24\"]")
    .start();
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut peer = greeted(&edge, "198.51.100.1");
        for _ in 0..2 {
            peer.deliver("a@example.org", &["anna@contoso.com"], letter("from an edge"));
        }
        held.push(peer);
    }
    edge.wait_for("anna@contoso.com", 6);
}

// ---- tenants and guessing

#[test]
fn a_tenant_has_a_rate_of_the_node_or_its_own() {
    let edge = edge("per_tenant_per_minute = 2").start();
    let mut client = greeted(&edge, "192.0.2.1");
    client.deliver("a@example.org", &["anna@contoso.com", "ida@contoso.com"], letter("one message"));
    client.deliver("a@example.org", &["ida@contoso.com"], letter("another"));
    client.deliver("a@example.org", &["fay@fabrikam.com"], letter("the only one"));
    client.expect("MAIL FROM:<a@example.org>", SENDER_OK);
    client.expect("RCPT TO:<anna@contoso.com>", &busy("192.0.2.1"));
    client.expect("RCPT TO:<fay@fabrikam.com>", &busy("192.0.2.1"));
    assert_eq!(refusals(&edge, "per_tenant_per_minute"), 2);
}

#[test]
fn guessing_recipients_slows_the_guesser_and_bounces_nobody() {
    let edge = edge("unknown_recipients_per_ip_per_minute = 3\ntarpit = \"300ms\"").start();
    let mut guesser = greeted(&edge, "2001:db8::1");
    guesser.expect("MAIL FROM:<a@example.org>", SENDER_OK);
    for _ in 0..3 {
        guesser.expect("RCPT TO:<nobody@contoso.com>", UNKNOWN);
    }
    let watch = Stopwatch::start();
    guesser.expect("RCPT TO:<nobody@contoso.com>", UNKNOWN);
    // Who exists takes as long, and is not refused.
    guesser.expect("RCPT TO:<anna@contoso.com>", OK);
    assert!(watch.elapsed() >= Duration::from_millis(600), "{:?}", watch.elapsed());
    // Others do not wait.
    let mut other = greeted(&edge, "2001:db8:0:1::1");
    other.deliver("a@example.org", &["ida@contoso.com"], letter("meanwhile"));
    // Ten times over the limit nothing is told any more, by whichever session of that network.
    edge.reload();
    let mut again = greeted(&edge, "2001:db8::2");
    again.expect("MAIL FROM:<a@example.org>", SENDER_OK);
    until("the answers to end", || {
        (again.say("RCPT TO:<nobody@contoso.com>") == busy("2001:db8::2")).then_some(())
    });
    again.expect("RCPT TO:<anna@contoso.com>", &busy("2001:db8::2"));
    assert!(guesser.data(letter("was accepted")).starts_with("250 2.6.0 "));
    edge.wait_for("anna@contoso.com", 1);
    assert!(refusals(&edge, "unknown_recipients_per_ip_per_minute") >= 2);
}

#[test]
fn a_guesser_in_the_tarpit_does_not_hold_up_the_end() {
    let mut edge = edge("unknown_recipients_per_ip_per_minute = 1\ntarpit = \"30s\"")
        .with("[deadlines]\ndrain = \"20s\"")
        .start();
    let mut guesser = greeted(&edge, "192.0.2.1");
    guesser.expect("MAIL FROM:<a@example.org>", SENDER_OK);
    guesser.expect("RCPT TO:<nobody@contoso.com>", UNKNOWN);
    guesser.send("RCPT TO:<nobody@contoso.com>\r\nQUIT\r\n");
    holds_for("the answer in the tarpit", Duration::from_millis(300), || guesser.hears_nothing());
    let watch = Stopwatch::start();
    edge.stop();
    assert!(watch.elapsed() < Duration::from_secs(10), "{:?}", watch.elapsed());
    assert_eq!(guesser.rest().len(), 2);
}

/// Millions of addresses cost no more memory than a few, and do not hide who does much.
#[test]
fn a_flood_of_networks_is_forgotten_and_the_heavy_one_is_not() {
    let edge = edge("connections_per_ip_per_minute = 20\ncounters = 1024").start();
    let connect = |ip: &str| {
        let mut client = proxied(&edge, ip);
        let banner = client.reply();
        if banner.starts_with("220 ") {
            client.send("NOOP\r\nQUIT\r\n");
            client.rest();
        }
        banner
    };
    let mut turned_away = 0;
    for stranger in 0..3_000 {
        let banner = connect(&format!("2001:db8:{:x}:{:x}::1", stranger / 1000, stranger % 1000));
        assert!(banner.starts_with("220 "), "{banner}");
        if stranger % 50 == 0 && connect("203.0.113.1") == busy("203.0.113.1") {
            turned_away += 1;
        }
    }
    assert!(turned_away >= 30, "{turned_away}");
    assert!(edge.metric("limit_evictions") > 500);
    let status = edge.command(&["status", "--json"]).json();
    assert_eq!(status["limited"]["connections_per_ip_per_minute"], turned_away);
}

// ---- block lists

/// 192.0.2.7 and 2001:db8::7 are on it, with different codes.
const LISTED: &str = "7.2.0.192 A 127.0.0.2\n8.2.0.192 A 127.0.0.10\n9.2.0.192 A 127.255.255.254\n\
                      7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2 A 127.0.0.2\n";

fn refused(class: &str, ip: &str, zone: &str) -> String {
    format!("{class}.7.1 Service unavailable; Client host [{ip}] blocked using {zone}")
}

#[test]
fn block_lists_refuse_defer_or_only_write_down() {
    let names = Nameserver::start(&[
        Zone::unsigned("hard.test", LISTED),
        Zone::unsigned("soft.test", LISTED),
        Zone::unsigned("quiet.test", "6.2.0.192 A 127.0.0.2\n7.2.0.192 A 127.0.0.2\n"),
    ]);
    let lists = "exempt = [\"198.51.100.7/32\"]\n\
                 [[limits.dnsbl]]\nzone = \"quiet.test\"\naction = \"record\"\n\
                 [[limits.dnsbl]]\nzone = \"soft.test\"\naction = \"defer\"\n\
                 [[limits.dnsbl]]\nzone = \"hard.test\"\ncodes = [\"127.0.0.2\", \"127.0.0.4/30\"]\n";
    let edge = edge(lists).with(&names.settings()).start();

    let asked = |ip: &str, recipient: &str| {
        let mut client = greeted(&edge, ip);
        client.expect("MAIL FROM:<a@example.org>", SENDER_OK);
        client.say(&format!("RCPT TO:<{recipient}>"))
    };
    for (ip, expected) in [
        ("192.0.2.7", refused("550 5", "192.0.2.7", "hard.test")),
        ("2001:db8::7", refused("550 5", "2001:db8::7", "hard.test")),
        // The code is none that the first list was asked for.
        ("192.0.2.8", refused("451 4", "192.0.2.8", "soft.test")),
        // The list refuses to answer us: that lists nobody.
        ("192.0.2.9", OK.to_owned()),
        ("192.0.2.6", OK.to_owned()),
        ("192.0.2.1", OK.to_owned()),
        ("198.51.100.7", OK.to_owned()),
    ] {
        // The tenant takes no mail over IPv6: whoever is listed is told that first.
        assert_eq!(asked(ip, "anna@contoso.com"), expected, "{ip}");
    }
    assert_eq!(asked("192.0.2.7", "postmaster"), OK);
    assert_eq!(refusals(&edge, "dnsbl"), 3);
    let found = |zone: &str, outcome: &str| {
        edge.metric(&format!("dnsbl_findings_total{{zone=\"{zone}\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!((found("hard.test", "reject"), found("quiet.test", "record")), (3, 3));
    assert_eq!((found("hard.test", "failed"), found("soft.test", "failed")), (1, 1));
    assert!(edge.log().contains("\"block-listed\""), "{}", edge.log());
}

#[test]
fn a_block_list_that_does_not_answer_lists_nobody_and_holds_up_little() {
    let mut names = Nameserver::start(&[Zone::unsigned("hard.test", LISTED)]);
    let settings = names.settings();
    names.stop();
    // Somebody who takes questions and says nothing.
    let silent = std::net::UdpSocket::bind(names.address).expect("the server is gone");
    let edge = edge("[[limits.dnsbl]]\nzone = \"hard.test\"\ndeadline = \"500ms\"").with(&settings).start();
    let mut client = greeted(&edge, "192.0.2.7");
    let watch = Stopwatch::start();
    client.deliver("a@example.org", &["anna@contoso.com"], letter("not listed as far as we know"));
    assert!(watch.elapsed() < Duration::from_secs(3), "{:?}", watch.elapsed());
    client.deliver("a@example.org", &["anna@contoso.com"], letter("and another"));
    let failed = edge.metric("dnsbl_findings_total{zone=\"hard.test\",outcome=\"failed\"}");
    assert_eq!(failed, 1, "asked once a session");
    drop(silent);
}

// ---- what the session keeps itself

#[test]
fn every_limit_of_the_session_is_answered_and_counted() {
    let edge = edge(
        "message_size = \"64KiB\"\nrecipients_per_message = 3\nrecipients_per_domain = 2\nhops = 2\nfaults = 3",
    )
    .start();
    let hop = "Received: from a.example by b.example; Sat, 21 Nov 2026 04:29:44 +0000\r\n";
    let mut client = greeted(&edge, "192.0.2.1");
    client.expect(
        "MAIL FROM:<a@example.org> SIZE=65537",
        "552 5.3.4 Message size exceeds fixed maximum message size",
    );
    client.envelope("a@example.org", &["anna@contoso.com", "ida@contoso.com"]);
    client.expect("RCPT TO:<nobody@contoso.com>", "452 4.5.3 Too many recipients");
    client.expect("RCPT TO:<fay@fabrikam.com>", OK);
    client.expect("RCPT TO:<finn@fabrikam.com>", "452 4.5.3 Too many recipients");
    assert_eq!(
        client.data(hop.repeat(3) + &letter("looped")),
        "554 5.4.14 Hop count exceeded - possible mail loop ATTR34"
    );
    let mut faulty = greeted(&edge, "192.0.2.1");
    for _ in 0..3 {
        faulty.say("FROB");
    }
    faulty.expect("FROB", "421 4.7.0 Too many errors on this connection");
    let limits = ["message_size", "recipients_per_message", "recipients_per_domain", "hops", "faults"];
    for limit in limits {
        assert_eq!(refusals(&edge, limit), 1, "{limit}");
    }
    let told = edge.log();
    assert!(told.contains("\"limit-reached\"") && told.contains("\"limit\":\"hops\""), "{told}");

    let edge = self::edge("session_age = \"1s\"").start();
    let mut old = greeted(&edge, "192.0.2.1");
    assert_eq!(old.rest(), ["421 4.4.2 Session time limit exceeded"]);
    assert_eq!(refusals(&edge, "session_age"), 1);
}

/// Every key of `[limits]` stands in its document with its default, and every limit with its metric.
#[test]
fn the_document_has_every_key_at_its_default() {
    let page = include_str!("../docs/LIMITS.md");
    let example = landfall::config::example();
    let start = example.find("\n[limits]\n").expect("the example has the section");
    let section = &example[start + 1..];
    let section = &section[..section.find("\n[deadlines]").expect("the next section")];
    let lines = section.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    let keys: Vec<_> =
        lines.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_once(" = ")).collect();
    assert!(keys.len() > 18, "{keys:?}");
    for (key, default) in keys {
        let default = if key == "zone" { "none".to_owned() } else { format!("`{default}`") };
        assert!(page.contains(&format!("\n| `{key}` | {default} | ")), "no row of {key} with {default}");
    }
    for limit in landfall::limits::Limit::ALL {
        let word = limit.word();
        assert!(
            page.contains(&format!("| `{word}` |\n")) || page.contains(&format!("{{limit=\"{word}\"}}")),
            "{word}"
        );
    }
}

// ---- a full house

#[test]
fn every_slot_can_be_had_at_any_listener() {
    let builder = Edge::builder("EUR").directory(CONTOSO);
    let (first, second) = (builder.address(), free_address());
    let listeners = format!(
        "listener = [{{ name = \"mx\", address = [\"{first}\"], tls = \"starttls\" }}, \
         {{ name = \"mx2\", address = [\"{second}\"], tls = \"starttls\" }}]\n[limits]\nconnections = 1"
    );
    let edge = builder.with(&listeners).start();
    // The test world looked whether the edge listens: that visit may still have the slot.
    let mut one = edge.client();
    one.expect("NOOP", "250 2.0.0 OK");
    // The house is full: whoever calls now waits, and is served when there is room.
    let mut two = Client::silent(second);
    holds_for("a caller waits", Duration::from_millis(300), || edge.metric("sessions") == 1);
    one.expect("QUIT", "221 2.0.0 Service closing transmission channel");
    assert!(two.reply().starts_with("220 "));
    drop(two);
    edge.client().expect("NOOP", "250 2.0.0 OK");
    Client::greeted(second).expect("NOOP", "250 2.0.0 OK");
}

#[test]
fn connections_that_the_descriptors_do_not_suffice_for_are_not_promised() {
    let edge = Edge::builder("EUR").directory(CONTOSO).descriptors(128).start();
    let told = "limits.connections is 10000, but this process may open 128 files only";
    assert!(edge.log().contains(told), "{}", edge.log());
    // More callers than there are descriptors: the operator is answered all the same.
    let callers: Vec<_> = (0..140).map(|_| Client::silent(edge.address)).collect();
    until("the house to be full", || (edge.metric("sessions") == 64).then_some(()));
    let status = edge.command(&["status"]);
    assert_eq!(status.code, 0, "{status:#?}");
    assert!(!edge.log().contains("accept failed"), "{}", edge.log());
    drop(callers);
    edge.client().deliver("you@example.org", &["anna@contoso.com"], letter("afterwards"));
    edge.wait_for("anna@contoso.com", 1);
}

#[test]
fn a_daemon_that_may_open_nothing_more_says_so_once_and_recovers() {
    let mut edge = Edge::builder("EUR").directory(CONTOSO).start();
    let id = edge.id();
    let set_limit = |files: u64| {
        let set = format!("prlimit --pid {id} --nofile={files}:20000");
        let done = std::process::Command::new("sh").args(["-c", &set]).status().expect("util-linux is here");
        assert!(done.success());
    };
    set_limit(4);
    let mut caller = Client::silent(edge.address);
    until("a complaint", || edge.log().contains("accept failed").then_some(()));
    holds_for("one complaint", Duration::from_secs(1), || edge.log().matches("accept failed").count() == 1);
    set_limit(10_000);
    assert!(caller.reply().starts_with("220 "));
}
