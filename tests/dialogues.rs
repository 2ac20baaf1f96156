//! The conversations of `tests/smtp/`, once more, with the real daemon over a socket.

#[expect(dead_code, reason = "the rest of the script is for the session alone")]
mod script;
mod world;

use script::{Act, matches};
use world::{CONTOSO, Edge};

/// Beside Contoso's users, one whose name is not ASCII; and a tenant that lives elsewhere.
const OTHERS: &str = r#"
[[tenant.user]]
address = "añna@contoso.com"
preferred_data_location = "EUR"
[[tenant]]
id = "fabrikam"
default_region = "NAM"
allowed_regions = ["NAM"]
[[tenant.domain]]
name = "fabrikam.com"
"#;

#[test]
fn every_conversation_goes_as_written() {
    let edge = Edge::builder("EUR").directory(&format!("{CONTOSO}{OTHERS}")).start();
    let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/smtp"))
        .expect("the conversations are part of the source")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(files.len() > 20, "the conversations are there");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a readable file");
        converse(&edge, &file.display().to_string(), &text);
    }
}

fn converse(edge: &Edge, file: &str, text: &str) {
    let mut client = world::Client::silent(edge.address);
    let mut flight = Vec::new();
    for step in script::parse(text) {
        let place = format!("{file}:{}", step.number);
        if !matches!(step.act, Act::Client(_)) && !flight.is_empty() {
            client.send(std::mem::take(&mut flight));
        }
        match step.act {
            Act::Client(octets) => flight.extend_from_slice(&octets),
            Act::Server(pattern) => {
                let line = client.line();
                let line =
                    line.unwrap_or_else(|| panic!("{place}: the connection ended instead of: {pattern}"));
                assert!(matches(&pattern, &line), "{place}: expected {pattern}\n got {line}");
            }
            Act::ServerCloses => assert_eq!(client.line(), None, "{place}: more came than written"),
            Act::Judge(_) | Act::NotStored(_) | Act::Event(_) | Act::Term(_) => {
                panic!("{place}: only for the session alone: it belongs in judged/")
            }
        }
    }
}
