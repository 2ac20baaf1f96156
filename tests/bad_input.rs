//! Bad input: what no honest client sends. A clear reply or an end, in bounded time and memory; the others are
//! served meanwhile, and what was accepted is delivered whole.

mod world;

use std::fs;
use std::time::Duration;

use world::{Builder, CONTOSO, Client, Edge, Nameserver, Stopwatch, Zone, letter, until};

const UNKNOWN_COMMAND: &str = "500 5.5.1 Unrecognized command";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn edge() -> Builder {
    Edge::builder("EUR").directory(CONTOSO)
}

/// One that takes the word of load balancers on loopback.
fn behind_a_balancer() -> Edge {
    let unexamined = "[auth]\nenabled = false\nipv6 = \"record\"\n";
    let no_dns = "[dns]\nservers = [\"127.0.0.1:1\"]\ntimeout = \"50ms\"\n";
    behind_a_balancer_with(&(unexamined.to_owned() + no_dns)).start()
}

fn behind_a_balancer_with(settings: &str) -> Builder {
    let edge = edge();
    let address = edge.address();
    edge.with(&format!(
        "listener = [{{ name = \"mx\", address = [\"{address}\"], tls = \"starttls\", \
         proxy_protocol_from = [\"127.0.0.0/8\"] }}]\n[deadlines]\nproxy_header = \"1s\"\n{settings}"
    ))
}

/// Version 2 for the client 192.0.2.7, with so many octets of TLVs that nobody knows.
fn v2(tlv_octets: u16) -> Vec<u8> {
    let value = tlv_octets.saturating_sub(3);
    let mut header = V2.to_vec();
    header.extend([0x21, 0x11]);
    header.extend((12 + tlv_octets).to_be_bytes());
    header.extend([192, 0, 2, 7, 192, 0, 2, 1, 0x13, 0x88, 0, 25]);
    if tlv_octets > 0 {
        header.push(0xE0);
        header.extend(value.to_be_bytes());
        header.extend(std::iter::repeat_n(b'x', value.into()));
    }
    header
}

fn served(edge: &Edge, mut client: Client) {
    let before = edge.mailbox("ida@contoso.com").len();
    assert!(client.reply().starts_with("220 "));
    assert!(client.say("EHLO client.example.org").starts_with("250-"));
    client.deliver("ann@sender.example", &["ida@contoso.com"], letter("meanwhile"));
    edge.wait_for("ida@contoso.com", before + 1);
}

fn balanced(edge: &Edge, header: impl AsRef<[u8]>) -> Client {
    let mut client = Client::silent(edge.address);
    let _ = client.try_send(header);
    client
}

/// Kilobytes of resident memory.
fn resident(edge: &mut Edge) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", edge.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_proxy_header_from_a_stranger_is_no_header() {
    let edge = edge().start();
    let mut client = Client::silent(edge.address);
    client.send("PROXY TCP4 192.0.2.7 192.0.2.1 5000 25\r\n");
    assert!(client.reply().starts_with("220 "));
    assert_eq!(client.reply(), UNKNOWN_COMMAND);
    let hello = client.say("EHLO client.example.org");
    assert!(hello.contains("Hello [127.0.0.1]"), "{hello}");
    // Version 2 is a few faulty lines, and what is behind it is still no header.
    let mut client = Client::silent(edge.address);
    client.send(v2(0));
    client.send("\r\nQUIT\r\n");
    let said = client.rest();
    assert!(said[0].starts_with("220 "), "{said:?}");
    assert!(said[1..said.len() - 1].iter().all(|reply| reply.starts_with("500 ")), "{said:?}");
    assert_eq!(said.last().map(String::as_str), Some("221 2.0.0 Service closing transmission channel"));
    served(&edge, Client::silent(edge.address));
}

#[test]
fn a_balancer_without_a_whole_header_is_told_nothing() {
    let edge = behind_a_balancer();
    let long_v1 = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 5_000], b"\r\n".to_vec()].concat();
    let long_unknown = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 92], b"\r\n".to_vec()].concat();
    let bad: [(&str, &[u8]); 14] = [
        ("none", b"EHLO client.example.org\r\n"),
        ("another command", b"PROXI TCP4 192.0.2.7 192.0.2.1 5000 25\r\n"),
        ("version 1 without addresses", b"PROXY TCP4\r\n"),
        ("no address", b"PROXY TCP4 192.0.2.777 192.0.2.1 5000 25\r\n"),
        ("no port", b"PROXY TCP4 192.0.2.7 192.0.2.1 500000 25\r\n"),
        ("the wrong family", b"PROXY TCP4 2001:db8::1 2001:db8::2 5000 25\r\n"),
        ("a bare line end", b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 25\n"),
        ("oversized version 1", &long_v1),
        ("version 1 of 108 octets", &long_unknown),
        ("oversized version 2", &v2(60_000)),
        ("oversized version 2 in one piece", &v2(4_100)),
        ("version 3", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\x13\x88\0\x19"),
        ("a length too short for its addresses", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\xc0\0\x02\x07"),
        ("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
    ];
    for (what, header) in bad {
        let watch = Stopwatch::start();
        let mut client = balanced(&edge, header);
        let _ = client.try_send("MAIL FROM:<a@example.org>\r\n");
        assert!(client.rest().is_empty(), "{what}");
        assert!(watch.elapsed() < Duration::from_secs(5), "{what}: {:?}", watch.elapsed());
    }
    until("the log to tell", || edge.log().contains("is to send a PROXY header and did not").then_some(()));
    // Cut short, by hanging up and by falling silent.
    for whole in [&b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 25\r\n"[..], &v2(0), &v2(100)] {
        for length in 1..whole.len() {
            drop(balanced(&edge, &whole[..length]));
        }
        let mut silent = balanced(&edge, &whole[..whole.len() - 1]);
        assert!(silent.rest().is_empty());
        served(&edge, balanced(&edge, whole));
    }
    served(&edge, balanced(&edge, v2(4_000)));
}

#[test]
fn a_header_line_of_a_megabyte_is_refused_and_a_folded_field_of_one_is_not() {
    let edge = edge().start();
    let mut client = edge.client();
    let long = format!("X-Long: {}\r\n{}", "x".repeat(1 << 20), letter("too long"));
    client.envelope("ann@sender.example", &["anna@contoso.com"]);
    assert_eq!(client.data(&long), "550 5.6.0 Line exceeds 64 KiB");
    client.envelope("ann@sender.example", &["anna@contoso.com"]);
    client.send(format!("BDAT {} LAST\r\n{long}", long.len()));
    assert_eq!(client.reply(), "550 5.6.0 Line exceeds 64 KiB");
    let line = format!(" {}\r\n", "x".repeat(1_000));
    let folded = format!("X-Long: x\r\n{}{}", line.repeat(1_000), letter("folded"));
    client.deliver("ann@sender.example", &["anna@contoso.com"], &folded);
    let many = "X-One: of many\r\n".repeat(60_000) + &letter("many fields");
    client.deliver("ann@sender.example", &["anna@contoso.com"], &many);
    let kept = edge.wait_for("anna@contoso.com", 2);
    assert!(kept.iter().any(|letter| letter.text().ends_with(&folded)));
    assert!(kept.iter().any(|letter| letter.text().ends_with(&many)));
}

/// A multipart in a multipart, ten thousand deep.
fn nested() -> String {
    let mut message = letter("nested");
    let body = message.split_off(message.find("\r\n\r\n").expect("a body") + 2);
    message.push_str("MIME-Version: 1.0\r\n");
    for depth in 0..10_000 {
        message.push_str(&format!("Content-Type: multipart/mixed; boundary=b{depth}\r\n\r\n--b{depth}\r\n"));
    }
    message + "Content-Type: text/plain\r\n" + &body
}

/// From this machine, and from elsewhere with everything that is examined.
#[test]
fn mime_ten_thousand_deep_is_mail_like_any_other() {
    let spf = "@ TXT \"v=spf1 ip4:192.0.2.7 -all\"\n";
    let names = Nameserver::start(&[Zone::unsigned("sender.example", spf)]);
    let mut edge = behind_a_balancer_with(&names.settings()).start();
    let nested = nested();
    let headers = ["PROXY UNKNOWN\r\n", "PROXY TCP4 192.0.2.7 192.0.2.1 40000 25\r\n"];
    for header in headers {
        let mut client = balanced(&edge, header);
        assert!(client.reply().starts_with("220 "));
        assert!(client.say("EHLO client.example.org").starts_with("250-"));
        client.deliver("ann@sender.example", &["anna@contoso.com"], letter("before"));
        let before = resident(&mut edge);
        let watch = Stopwatch::start();
        for _ in 0..10 {
            client.deliver("ann@sender.example", &["anna@contoso.com"], &nested);
        }
        assert!(watch.elapsed() < Duration::from_secs(20), "{header}: {:?}", watch.elapsed());
        let after = resident(&mut edge);
        assert!(after < before + 64 * 1024, "{header}: {before} kB, then {after} kB");
    }
    let kept = edge.wait_for("anna@contoso.com", 22);
    assert_eq!(kept.iter().filter(|letter| letter.text().ends_with(&nested)).count(), 20);
    let results = kept.iter().filter_map(|letter| letter.header("Authentication-Results"));
    assert_eq!(results.filter(|results| results.contains("spf=pass")).count(), 11);
}
