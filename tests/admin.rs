//! Admin: the HTTP API on its address: who may read, who may change, over TLS or not.

mod world;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use world::{Authority, Builder, CONTOSO, Edge, Folder, Stopwatch, free_address, letter, until};

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
    for path in ["/healthz", "/readyz", "/metrics", "/v1/status", "/v1/queue", "/v1/history"] {
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
    for path in ["/v1/trace", "/v1/queue/messages", "/v1/explain?rcpt=anna@contoso.com"] {
        let (code, body) = curl(&[&url(path)]);
        assert_eq!(code, "403", "{path}: {body}");
        assert!(body.starts_with("what shows people's addresses"), "{path}: {body}");
    }
    // A browser that was lured here under a name of somebody's.
    let (code, body) = curl(&["--header", "Host: evil.example", &url("/v1/status")]);
    assert_eq!(code, "403", "{body}");
    // A load balancer whose checks are HTTP/1.0 and name no host.
    for path in ["/readyz", "/healthz", "/metrics"] {
        let (code, body) = curl(&["--http1.0", "--header", "Host:", &url(path)]);
        assert_eq!(code, "200", "{path}: {body}");
    }
    edge.client().deliver("you@example.org", &["anna@contoso.com"], letter("it goes on"));
}

#[test]
fn a_question_with_a_mistake_is_no_question_without_it() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    for (path, says) in [
        ("/v1/trace?form=x@y.example", "unknown field `form`"),
        ("/v1/trace?limit=0", "expected at least 1"),
        ("/v1/trace?to=contoso.com", "expected an address, @domain or <>"),
        ("/v1/explain?rcpt=anna@contoso.com&regoin=NAM", "unknown field `regoin`"),
        ("/v1/explain?rcpt=anna@contoso.com&region=EU", "'EU' is not a region code"),
        ("/v1/report/residency?domian=contoso.com", "unknown field `domian`"),
        ("/v1/report/residency?since=noon", "expected 2h, 2026-11-20 or RFC 3339"),
        ("/v1/report/verify?head=zz", "expected 8 to 64 hexadecimal digits"),
        ("/v1/history?hours=1", "unknown field `hours`"),
    ] {
        let (code, body) = edge.api("GET", path, "");
        assert!((code == 400 || code == 422) && body.contains(says), "{path}: {code} {body}");
    }
}

#[test]
fn explain_over_the_api_sees_with_another_regions_eyes_as_the_command_does() {
    let edge = Edge::builder("EUR").directory(CONTOSO).start();
    for region in ["EUR", "nam", "JPN"] {
        let command = edge.command(&["explain", "anna@contoso.com", "--region", region, "--json"]).json();
        let (code, body) = edge.api("GET", &format!("/v1/explain?rcpt=anna@contoso.com&region={region}"), "");
        let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((code, &answer), (200, &command), "{region}");
        assert_eq!(answer["node_region"], region.to_uppercase());
    }
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

/// The lines of the operators' audit.
fn audited(edge: &Edge) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(edge.state().join("queue-audit.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn domains_and_users_move_over_the_api_as_by_command() {
    let address = free_address();
    let folder = Folder::new();
    let file = folder.join("token");
    std::fs::write(&file, TOKEN).expect("our own folder");
    let builder = edge(address, &format!("token_file = \"{}\"", file.display()))
        .with("[directory]\npath = \"state/directory.toml\"");
    // Where the daemon may write: it is confined to its state.
    std::fs::create_dir_all(builder.folder().join("state")).expect("our own folder");
    let directory = builder.folder().join("state/directory.toml");
    std::fs::write(&directory, format!("# kept\n{CONTOSO}")).expect("our own folder");
    let edge = builder.start();
    let url = |path: &str| format!("http://{address}{path}");
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let post = |path: &str, body: &str| {
        let json = "Content-Type: application/json";
        curl(&["--header", &bearer, "--header", json, "--data", body, &url(path)])
    };
    let (code, body) = curl(&[
        "--header",
        "Content-Type: application/json",
        "--data",
        "{}",
        &url("/v1/domains/contoso.com"),
    ]);
    assert_eq!(code, "401", "{body}");

    let (domain, user) = ("/v1/domains/contoso.com", "/v1/users/anna@contoso.com");
    for (path, body, expected) in [
        (domain, r#"{"mail_flow_region":"EUX"}"#, "422"),
        (domain, r#"{"mail_flow_region":"NAM","typo":1}"#, "422"),
        (domain, r#"{"mail_flow_region":"JPN"}"#, "409"),
        ("/v1/domains/fabrikam.com", r#"{"mail_flow_region":"NAM"}"#, "404"),
        (user, r#"{"preferred_data_location":"JPN"}"#, "409"),
        ("/v1/users/nobody@contoso.com", r#"{"preferred_data_location":"NAM"}"#, "404"),
    ] {
        let (code, said) = post(path, body);
        assert_eq!(code, expected, "{path} {body}: {said}");
    }
    let json = |text: &str| -> serde_json::Value { serde_json::from_str(text).expect("JSON") };
    let timeless = |mut told: serde_json::Value| {
        told["window"] = serde_json::Value::Null;
        told
    };
    // The same words as the command's.
    let (code, tried) = post(domain, r#"{"mail_flow_region":"NAM","dry_run":true}"#);
    assert_eq!(code, "200", "{tried}");
    let command =
        edge.command(&["domain", "set", "contoso.com", "--mail-flow-region", "NAM", "--dry-run", "--json"]);
    assert_eq!(timeless(json(&tried)), timeless(command.json()));
    assert!(audited(&edge).is_empty(), "nothing was done so far");

    let (code, told) = post(domain, r#"{"mail_flow_region":"nam"}"#);
    assert_eq!((code.as_str(), &json(&told)["ingress"]["to"]), ("200", &"NAM".into()), "{told}");
    assert_eq!(json(&told)["in_force"], "now: the running daemon has reloaded", "{told}");
    let text = std::fs::read_to_string(&directory).expect("there");
    assert!(text.starts_with("# kept\n") && text.contains("mail_flow_region = \"NAM\""), "{text}");
    let (code, told) = post(user, r#"{"preferred_data_location":"NAM"}"#);
    assert_eq!((code.as_str(), &json(&told)["home"]["to"]), ("200", &"NAM".into()), "{told}");
    let (_, shown) = curl(&["--header", &bearer, &url(user)]);
    assert_eq!(json(&shown)["home"], "NAM", "in force at once: {shown}");
    let (_, all) = curl(&["--header", &bearer, &url("/v1/users?domain=contoso.com")]);
    let listed = edge.command(&["user", "list", "--domain", "contoso.com", "--json"]);
    assert_eq!(json(&all), listed.json());
    let (code, _) = curl(&[&url("/v1/users")]);
    assert_eq!(code, "401", "people are not for everybody");
    let (code, _) = curl(&["--header", &bearer, "--request", "POST", &url("/v1/reload")]);
    assert_eq!(code, "200");
    edge.command(&["reload"]);

    // Who did it: the token by its fingerprint, and from where; over the socket the user.
    let lines = audited(&edge);
    let verbs: Vec<_> = lines.iter().map(|line| line["verb"].as_str().unwrap_or_default()).collect();
    assert_eq!(verbs, ["domain-set", "user-set", "reload", "reload"], "{lines:#?}");
    let by = |index: usize| lines[index]["by"].as_str().unwrap_or_default();
    let printed = Command::new("sh")
        .args(["-c", &format!("printf %s {TOKEN} | sha256sum | cut -c1-8")])
        .output()
        .expect("coreutils");
    let fingerprint = String::from_utf8_lossy(&printed.stdout).trim().to_owned();
    for index in 0..3 {
        assert!(by(index).starts_with(&format!("api token {fingerprint} from 127.0.0.1:")), "{lines:#?}");
    }
    assert!(by(3).starts_with("uid "), "{lines:#?}");
    assert_eq!(lines[0]["detail"], "contoso.com: mail_flow_region EUR -> NAM");
    assert_eq!(lines[1]["detail"], "anna@contoso.com: preferred_data_location EUR -> NAM");
}

#[test]
fn a_directory_file_out_of_the_daemons_reach_is_said_to_be() {
    let address = free_address();
    let folder = Folder::new();
    let file = folder.join("token");
    std::fs::write(&file, TOKEN).expect("our own folder");
    let edge = edge(address, &format!("token_file = \"{}\"", file.display())).start();
    let (code, said) = curl(&[
        "--header",
        &format!("Authorization: Bearer {TOKEN}"),
        "--header",
        "Content-Type: application/json",
        "--data",
        r#"{"mail_flow_region":"NAM"}"#,
        &format!("http://{address}/v1/domains/contoso.com"),
    ]);
    assert_eq!(code, "503", "{said}");
    assert!(said.contains("directory.toml") && said.contains("Permission denied"), "{said}");
    let shown = edge.command(&["domain", "show", "contoso.com", "--json"]).json();
    assert_eq!(shown["mail_flow_region"], "EUR", "nothing has changed");
}

#[test]
fn readiness_says_why_no_mail_is_taken() {
    let address = free_address();
    let dead = free_address();
    let mut edge = edge(address, "").with("[queue]\nmax_messages = 1").relay("NAM", dead).start();
    let ready = || curl(&[&format!("http://{address}/readyz")]);
    assert_eq!(ready(), ("200".to_owned(), "ready\n".to_owned()));
    assert_eq!(edge.command(&["status"]).code, 0);
    let mut client = edge.client();
    for _ in 0..2 {
        client.deliver("you@example.org", &["ben@contoso.com"], letter("waits"));
    }
    until("the queue to be full", || (ready().0 == "503").then_some(()));
    assert!(client.say("MAIL FROM:<you@example.org>").starts_with("452 "));
    assert_eq!(ready(), ("503".to_owned(), "no mail is taken: queue.max_messages is reached\n".to_owned()));
    let status = edge.command(&["status"]);
    assert_eq!(status.code, 1);
    assert!(
        status.stdout.contains("PROBLEM       no mail is taken: queue.max_messages is reached"),
        "{status:?}"
    );

    edge.configure("[queue]\nmax_messages = 1000\n[limits]\nmemory = \"32MiB\"");
    edge.reload();
    until("the memory to be short", || ready().1.contains("limits.memory is reached").then_some(()));
    assert_eq!(ready().0, "503");
    assert_eq!(edge.command(&["status"]).code, 1);

    edge.configure("[limits]\nmemory = \"1GiB\"");
    edge.reload();
    until("there to be room", || (ready().0 == "200").then_some(()));
    client.deliver("you@example.org", &["anna@contoso.com"], letter("taken again"));
}

#[test]
fn nobody_is_ready_without_a_directory() {
    let (address, dead) = (free_address(), free_address());
    let directory = format!(
        "[directory]\nsource = \"postgres\"\nurl = \"postgres://landfall@{dead}/landfall\"\ntls = \"off\""
    );
    let edge = edge(address, "").with(&directory).start();
    for sender in ["you@example.org", ""] {
        let mut client = edge.client();
        client.expect(&format!("MAIL FROM:<{sender}>"), "250 2.1.0 Sender OK");
        let answer = "451 4.4.3 Temporary server error. Please try again later ATTR3.4";
        client.expect("RCPT TO:<anna@contoso.com>", answer);
        // The node's own is taken from whoever it is.
        client.expect("RCPT TO:<postmaster>", "250 2.1.5 Recipient OK");
    }
    let (code, body) = curl(&[&format!("http://{address}/readyz")]);
    assert_eq!(code, "503", "{body}");
    assert!(body.starts_with("no mail is taken: the directory service has not answered"), "{body}");
    assert_eq!(edge.command(&["status"]).code, 1);
}

#[test]
fn a_daemon_that_takes_calls_and_says_nothing_is_told_apart() {
    let edge = edge(free_address(), "").offline();
    std::fs::create_dir_all(edge.state()).expect("our own folder");
    let _silent =
        std::os::unix::net::UnixListener::bind(edge.state().join("admin.sock")).expect("our own folder");
    let watch = Stopwatch::start();
    let status = edge.command(&["status"]);
    assert_eq!(status.code, 1);
    assert!(status.stderr.contains("says nothing for 5 s"), "{status:?}");
    assert!(watch.elapsed() < Duration::from_secs(15), "{:?}", watch.elapsed());
}
