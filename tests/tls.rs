//! Tls: what testssl.sh finds at our STARTTLS listener.
//!
//! Left out are HTTP headers and simulations of browsers, which mail has none of, and what needs the internet
//! (CAA records, OCSP). The authority of the test's certificate is made known to it with `--add-ca`.

mod world;

use std::fs;
use std::process::Command;

use serde_json::Value;
use world::{Authority, CONTOSO, Edge, Folder};

/// What it cannot look at: it has no GOST engine, and tries no resumption where the server asks for a client
/// certificate.
const NOT_LOOKED_AT: [&str; 3] = ["engine_problem", "sessionresumption_ticket", "sessionresumption_ID"];
/// So that what was looked at is known to have been: a sample of each kind.
const LOOKED_AT: [&str; 16] = [
    "SSLv2",
    "TLS1",
    "TLS1_1",
    "TLS1_2",
    "TLS1_3",
    "cipherlist_NULL",
    "cipherlist_STRONG",
    "PFS_ciphers",
    "cipher_order",
    "cert_chain_of_trust",
    "cert_trust",
    "heartbleed",
    "ROBOT",
    "secure_client_renego",
    "LUCKY13",
    "RC4",
];

#[test]
fn testssl_finds_nothing_at_the_listener() {
    let name = "mx.contoso.com";
    let authority = Authority::new();
    let pair = authority.issue_for_a_season(name);
    let edge = Edge::builder("EUR")
        .directory(CONTOSO)
        .with(&format!(
            "tls = {{ self_signed = false, certificate = [{{ cert = {:?}, key = {:?} }}] }}",
            pair.cert, pair.key
        ))
        .start();
    let folder = Folder::new();
    let findings = folder.join("findings.json");
    let said = Command::new("timeout")
        .args(["--kill-after=5", "300", "testssl", "--quiet", "--color", "0", "--warnings", "off"])
        .args(["--nodns", "none", "--starttls", "smtp"])
        .args(["--protocols", "--std", "--pfs", "--server-defaults", "--server-preference"])
        .args(["--vulnerable", "--grease", "--rc4"])
        .arg("--add-ca")
        .arg(authority.file())
        .arg("--jsonfile")
        .arg(&findings)
        .args(["--ip", &edge.address.ip().to_string()])
        .arg(format!("{name}:{}", edge.address.port()))
        .output()
        .expect("tests/run installs testssl");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let text = fs::read_to_string(&findings).unwrap_or_else(|error| panic!("{error}:\n{said}"));
    let found: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}:\n{said}"));
    let id = |finding: &Value| finding["id"].as_str().expect("every finding has an id").to_owned();
    for sample in LOOKED_AT {
        assert!(found.iter().any(|finding| id(finding) == sample), "nothing about {sample}:\n{said}");
    }
    let bad: Vec<_> = found
        .iter()
        .filter(|finding| !matches!(finding["severity"].as_str(), Some("OK" | "INFO" | "LOW")))
        .filter(|finding| !NOT_LOOKED_AT.contains(&id(finding).as_str()))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}\n{said}");
}
