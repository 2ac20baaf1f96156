//! Admin: the HTTP API on its address: who may read, who may change, over TLS or not.

mod world;

use std::net::SocketAddr;
use std::process::Command;

use world::{Authority, Builder, CONTOSO, Edge, Folder, free_address, letter};

const TOKEN: &str = "a-token-of-thirty-two-characters";

fn edge(address: SocketAddr, extra: &str) -> Builder {
    Edge::builder("EUR").directory(CONTOSO).with(&format!("[admin]\naddress = \"{address}\"\n{extra}"))
}

/// The status code and body of what curl, somebody else's client, is answered.
fn curl(arguments: &[&str]) -> (String, String) {
    let called = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"])
        .args(arguments)
        .output()
        .expect("tests/run installs curl");
    let said = String::from_utf8_lossy(&called.stdout).into_owned();
    let (body, code) = said.rsplit_once('\n').expect("the code is on a line of its own");
    (code.to_owned(), format!("{body}{}", String::from_utf8_lossy(&called.stderr)))
}

#[test]
fn without_a_token_the_address_reads_and_changes_nothing() {
    let address = free_address();
    let edge = edge(address, "").start();
    edge.client().deliver("you@example.org", &["anna@contoso.com"], letter("counted"));
    let url = |path: &str| format!("http://{address}{path}");
    for path in
        ["/healthz", "/readyz", "/metrics", "/v1/status", "/v1/queue", "/v1/queue/messages", "/v1/history"]
    {
        let (code, body) = curl(&[&url(path)]);
        assert_eq!(code, "200", "{path}: {body}");
    }
    let (_, page) = curl(&[&url("/metrics")]);
    for part in [
        "landfall_messages_accepted_total 1",
        "landfall_end_of_data_seconds_bucket",
        "landfall_message_bytes_count 1",
        "landfall_certificate_expires_seconds{name=\"edge1.eur.example.net\"}",
    ] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    let (code, body) = curl(&["--request", "POST", &url("/v1/drain")]);
    assert_eq!(code, "403", "{body}");
    // A browser that was lured here under a name of somebody's.
    let (code, body) = curl(&["--header", "Host: evil.example", &url("/v1/status")]);
    assert_eq!(code, "403", "{body}");
    edge.client().deliver("you@example.org", &["anna@contoso.com"], letter("it goes on"));
}

#[test]
fn with_its_token_the_address_takes_changes_too() {
    let address = free_address();
    let folder = Folder::new();
    let file = folder.join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("our own folder");
    let mut edge = edge(address, &format!("token_file = \"{}\"", file.display())).start();
    let url = |path: &str| format!("http://{address}{path}");
    for wrong in ["", "Authorization: Bearer a-token-of-thirty-two-characterX", "Authorization: Basic eDp5"] {
        let (code, body) = curl(&["--request", "POST", "--header", wrong, &url("/v1/reload")]);
        assert_eq!(code, "401", "{wrong}: {body}");
    }
    let right = format!("Authorization: Bearer {TOKEN}");
    let (code, body) = curl(&["--request", "POST", "--header", &right, &url("/v1/reload")]);
    assert_eq!(code, "200", "{body}");
    assert!(edge.log().contains("\"event\":\"reloaded\""));
    assert!(!edge.command(&["config", "show"]).stdout.contains(TOKEN), "a secret is not shown");
    let (code, body) = curl(&["--request", "POST", "--header", &right, &url("/v1/drain")]);
    assert_eq!(code, "202", "{body}");
    assert!(edge.wait().success());
}

#[test]
fn over_tls_with_the_certificates_of_the_listeners() {
    let authority = Authority::new();
    let address = free_address();
    let pair = authority.issue_for(address);
    let edge = edge(address, "tls = true")
        .with(&format!(
            "[tls]\nself_signed = false\n[[tls.certificate]]\ncert = \"{}\"\nkey = \"{}\"",
            pair.cert.display(),
            pair.key.display()
        ))
        .start();
    let ca = authority.file().display().to_string();
    let (code, body) = curl(&["--cacert", &ca, &format!("https://{address}/readyz")]);
    assert_eq!((code.as_str(), body.as_str()), ("200", "ready\n"));
    // Somebody who connects and says nothing is in nobody's way.
    let _silent = std::net::TcpStream::connect(address).expect("the address listens");
    let (code, _) = curl(&["--cacert", &ca, &format!("https://{address}/healthz")]);
    assert_eq!(code, "200");
    let (code, _) = curl(&[&format!("http://{address}/healthz")]);
    assert_ne!(code, "200", "nothing goes in clear");
    drop(edge);
}

#[test]
fn an_address_for_others_needs_tls_and_a_token() {
    let folder = Folder::new();
    let (good, short) = (folder.join("good"), folder.join("short"));
    std::fs::write(&good, TOKEN).expect("our own folder");
    std::fs::write(&short, "secret").expect("our own folder");
    let outside: SocketAddr = "0.0.0.0:9090".parse().expect("an address");
    let file = |path: &std::path::Path| format!("token_file = \"{}\"", path.display());
    for (extra, says) in [
        (String::new(), Some("can be called from outside")),
        ("tls = true".to_owned(), Some("can be called from outside")),
        (file(&good), Some("can be called from outside")),
        (format!("tls = true\n{}", file(&short)), Some("holds no token")),
        (format!("tls = true\n{}", file(&folder.join("missing"))), Some("cannot read")),
        (format!("tls = true\n{}", file(&good)), None),
    ] {
        let checked = edge(outside, &extra).offline().command(&["config", "check"]);
        match says {
            Some(says) => {
                assert_eq!(checked.code, 2, "{extra}: {checked:#?}");
                assert!(checked.stderr.contains(says), "{extra}: {checked:#?}");
            }
            None => assert_eq!(checked.code, 0, "{checked:#?}"),
        }
    }
}
