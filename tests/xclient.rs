//! Xclient: a trusted peer says for which client it speaks; nobody else may.

mod world;

use world::{CONTOSO, Client, Edge, letter, swaks};

const ANNA: &str = "anna@contoso.com";
const OFFER: &str = "250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
const BANNER: &str = "220 edge1.eur.example.net ESMTP Landfall";

fn edge(from: &str, more: &str) -> Edge {
    let builder = Edge::builder("EUR");
    let listener = format!(
        "[[listener]]\nname = \"mx\"\naddress = [\"{}\"]\ntls = \"starttls\"\nxclient_from = [\"{from}\"]",
        builder.address()
    );
    builder.with(&listener).directory(&format!("{CONTOSO}{more}")).start()
}

#[test]
fn only_listed_peers_are_offered_it_and_may_use_it() {
    let trusted = edge("127.0.0.0/8", "");
    let stranger = edge("192.0.2.0/24", "");
    let hello = |edge: &Edge| {
        let mut client = Client::silent(edge.address);
        client.reply();
        client.say("EHLO client.example.org")
    };
    assert_eq!(hello(&trusted).replace(&format!("{OFFER}\n"), ""), hello(&stranger));
    assert!(hello(&trusted).contains(OFFER) && !hello(&stranger).contains("XCLIENT"));
    stranger.client().expect("XCLIENT ADDR=192.0.2.7", "502 5.5.1 Command not implemented");

    let mut client = trusted.client();
    for (words, reply) in [
        ("XCLIENT", "501 5.5.4 Invalid arguments"),
        ("XCLIENT ADDR=nonsense", "501 5.5.4 Invalid arguments"),
        ("XCLIENT SOURCE=LOCAL", "555 5.5.4 Unsupported option"),
    ] {
        let said = client.say(words);
        assert!(said.starts_with(&reply[..3]), "{words}: {said}");
    }
    client.expect("MAIL FROM:<x@foreign.example>", "250 2.1.0 Sender OK");
    client.expect("XCLIENT ADDR=192.0.2.7", "503 5.5.1 Bad sequence of commands");
    client.expect("RSET", "250 2.0.0 Resetting");
    // The session begins anew, and may again.
    client.expect("XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7 HELO=other.example PROTO=ESMTP", BANNER);
    client.expect("MAIL FROM:<x@foreign.example>", "503 5.5.1 Send hello first");
    assert!(client.say("EHLO sender.example").contains("Hello [192.0.2.7]"));
    client.expect("XCLIENT ADDR=IPV6:2001:db8::7", BANNER);
    assert!(client.say("EHLO sender.example").contains("Hello [2001:db8::7]"));
    client.expect("XCLIENT ADDR=192.0.2.8", BANNER);
    client.say("EHLO sender.example");
    client.deliver("x@foreign.example", &[ANNA], letter("for another"));
    let received = trusted.wait_for(ANNA, 1)[0].header("Received").expect("ours");
    assert!(received.contains("from sender.example ([192.0.2.8])"), "{received}");
}

/// The client that is spoken for is attributed, not the one that speaks.
#[test]
fn the_address_that_is_told_is_the_one_that_counts() {
    let connector = "[[tenant.inbound_connector]]\nname = \"site\"\ntype = \"on-premises\"\nsource_ips = [\"198.51.100.7\"]\n";
    let edge = edge("127.0.0.0/8", connector);
    for (address, code) in [("198.51.100.7", 0), ("198.51.100.8", 24)] {
        let xclient = format!("ADDR={address} NAME=host.example PROTO=ESMTP HELO=host.example");
        let arguments =
            ["--xclient", &xclient, "--from", ANNA, "--to", "x@foreign.example", "--quit-after", "RCPT"];
        let (found, transcript) = swaks(edge.address, &arguments);
        assert_eq!(found, code, "{transcript}");
    }
}
