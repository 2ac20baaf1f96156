//! Smoke: the README, followed word for word.

mod world;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use world::{Folder, Process, free_address, swaks, until};

/// The shipped quickstart in a folder of its own; only its three loopback ports are other ones.
struct Quickstart {
    _program: Process,
    folder: Folder,
    mx: SocketAddr,
    admin: SocketAddr,
}

impl Quickstart {
    fn start() -> Self {
        let folder = Folder::new();
        let (mx, admin, relay) = (free_address(), free_address(), free_address());
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        let config = fs::read_to_string(shipped.join("quickstart.toml")).expect("the quickstart is shipped");
        let config = [("127.0.0.1:2525", mx), ("127.0.0.1:9090", admin), ("127.0.0.1:2526", relay)]
            .iter()
            .fold(config, |text, (port, own)| {
                assert!(text.contains(port), "the quickstart names {port}");
                text.replace(port, &own.to_string())
            });
        fs::write(folder.join("quickstart.toml"), config).expect("our own folder");
        fs::copy(shipped.join("quickstart-directory.toml"), folder.join("quickstart-directory.toml"))
            .expect("the directory is shipped");
        let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
        command.args(["serve", "--config", "quickstart.toml"]).current_dir(&*folder);
        let mut program = Process::start(&mut command, &folder.join("output"));
        let output = folder.join("output");
        until("the quickstart to listen", || {
            let said = fs::read_to_string(&output).unwrap_or_default();
            assert!(program.exited().is_none(), "{said}");
            // The banner of a server that is up, and the lines that it prints for people.
            said.contains("nobody@").then_some(())
        });
        Self { _program: program, folder, mx, admin }
    }
}

#[test]
fn the_readme_does_what_it_says() {
    let quickstart = Quickstart::start();
    let said = fs::read_to_string(quickstart.folder.join("output")).expect("a log");
    assert!(said.contains("region EUR") && said.contains(&quickstart.mx.to_string()), "{said}");

    let (code, transcript) =
        swaks(quickstart.mx, &["--from", "you@example.org", "--to", "anna@contoso.com", "--tls"]);
    assert_eq!(code, 0, "{transcript}");
    assert!(
        transcript.contains("250 2.6.0 ") && transcript.contains("Queued mail for delivery"),
        "{transcript}"
    );
    let new = quickstart.folder.join("landfall-data/mail/EUR/contoso.com/anna/new");
    let message = until("the message to lie in the Maildir", || {
        let file = fs::read_dir(&new).ok()?.next()?.ok()?.path();
        fs::read_to_string(file).ok()
    });
    assert!(message.starts_with("Return-Path: <you@example.org>\r\nReceived: from "), "{message}");
    assert!(message.contains("This is a test mailing"), "{message}");

    // 24: swaks had no recipient left.
    let (code, transcript) =
        swaks(quickstart.mx, &["--from", "you@example.org", "--to", "carol@fabrikam.com"]);
    assert_eq!(code, 24, "{transcript}");
    assert!(
        transcript.contains("451 4.4.62 Mail sent to the wrong Office 365 region. ATTR35."),
        "{transcript}"
    );

    let (code, transcript) =
        swaks(quickstart.mx, &["--from", "you@example.org", "--to", "nobody@contoso.com"]);
    assert_eq!(code, 24, "{transcript}");
    assert!(transcript.contains("550 5.4.1 Recipient address rejected: Access denied"), "{transcript}");
}

#[test]
fn the_lines_that_a_start_prints_can_be_run_as_they_are() {
    let quickstart = Quickstart::start();
    let said = fs::read_to_string(quickstart.folder.join("output")).expect("a log");
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| line.starts_with("swaks ")).collect();
    assert_eq!(lines.len(), 3, "{said}");
    for (line, answer) in lines.iter().zip(["250 2.6.0 ", "451 4.4.62 ", "550 5.4.1 "]) {
        let output = Command::new("sh").args(["-c", line]).output().expect("sh runs");
        let transcript = String::from_utf8_lossy(&output.stdout);
        assert!(transcript.contains(answer), "{line}\n{transcript}");
    }
}

#[test]
fn the_admin_address_answers_what_only_reads() {
    let quickstart = Quickstart::start();
    for (path, part) in [("/healthz", "ok"), ("/readyz", "ready"), ("/metrics", "landfall_sessions")] {
        let page = get(quickstart.admin, path);
        assert!(page.starts_with("HTTP/1.1 200") && page.contains(part), "{path}: {page}");
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).expect("the admin address listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the request is taken");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page of text");
    page
}
