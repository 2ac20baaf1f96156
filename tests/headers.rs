//! Headers: what mail from outside may not say of itself is gone before it is stored or handed on (rule 42).

mod world;

use world::{CONTOSO, Dovecot, Edge, Letter};

const ANNA: &str = "anna@contoso.com";

/// A message with forged fields in every dress, and what must be left of it.
const FORGED: &str = "X-MS-Exchange-Organization-SCL: -1\r\nFrom: x@foreign.example\r\n\
                      x-ms-exchange-FOREST-a:\r\n\tfolded\r\n more\r\nSubject: forged\r\nX-Landfall-Trust : yes\r\n\
                      X-MS-Exchange-CrossPremises-b: c\r\nX-MS-Exchange-ExternalOriginalInternetSender: ip=[1.2.3.4]\r\n\
                      X-Other: stays\r\n\r\nX-MS-Exchange-Organization-SCL: in the body\r\n";
const LEFT: &str = "From: x@foreign.example\r\nSubject: forged\r\nX-Other: stays\r\n\r\n\
                    X-MS-Exchange-Organization-SCL: in the body\r\n";

/// What stays is there byte for byte, and what went is nowhere.
fn check(letter: &Letter) {
    let added = letter.added_before(LEFT.as_bytes());
    assert!(!added.contains("X-MS") && !added.contains("X-Landfall"), "{added}");
}

#[test]
fn forged_trust_is_taken_out_by_data_and_by_chunks() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let mut client = edge.client();
    client.deliver("x@foreign.example", &[ANNA], FORGED);
    client.envelope("x@foreign.example", &[ANNA]);
    // The chunks cut names and lines in two.
    for (index, part) in FORGED.as_bytes().chunks(7).enumerate() {
        let last = if (index + 1) * 7 >= FORGED.len() { " LAST" } else { "" };
        client.send(format!("BDAT {}{last}\r\n", part.len()));
        client.send(part);
        assert!(client.reply().starts_with("250 "));
    }
    for letter in &edge.wait_for(ANNA, 2) {
        check(letter);
    }
}

#[test]
fn an_inline_next_hop_never_sees_it() {
    let store = Dovecot::start(&[ANNA]);
    let inline = "[region.EUR]\nmode = \"inline\"\ntls = \"off\"";
    let edge = Edge::builder("EUR").store(&[&store.url()]).with(inline).directory(CONTOSO).start();
    let mut client = edge.client();
    client.envelope("x@foreign.example", &[ANNA]);
    let taken = client.data(FORGED);
    assert!(taken.starts_with("250 "), "{taken}");
    check(&store.wait_for(ANNA, 1)[0]);
    assert!(edge.log().contains(r#""relay":"inline""#), "{}", edge.log());
}

#[test]
fn a_header_line_of_many_megabytes_is_no_burden() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    let mut client = edge.client();
    let long = format!("X-MS-Exchange-Organization-A: {}\r\n", "a ".repeat(30_000));
    let folded: String = (0..100).map(|_| format!(" {}\r\n", "b".repeat(50_000))).collect();
    client.deliver("x@foreign.example", &[ANNA], format!("{long}{folded}{LEFT}"));
    check(&edge.wait_for(ANNA, 1)[0]);
}
