//! Service: life under a service manager: readiness, sockets handed over, upgrades, confinement, certificates.

mod world;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use world::{Authority, Builder, CONTOSO, Client, Edge, Folder, Process, free_address, letter, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_landfall");

fn edge() -> Builder {
    Edge::builder("EUR").directory(CONTOSO)
}

/// The service manager's end of sd_notify(3).
struct Manager {
    socket: UnixDatagram,
    folder: Folder,
}

impl Manager {
    fn new() -> Self {
        let folder = Folder::new();
        let socket = UnixDatagram::bind(folder.join("notify")).expect("a socket in our own folder");
        socket.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a deadline above zero");
        Self { socket, folder }
    }

    fn told(&self) -> String {
        let mut block = [0; 4096];
        let count = self.socket.recv(&mut block).expect("the daemon says something within half a minute");
        String::from_utf8_lossy(&block[..count]).into_owned()
    }

    /// What it is told next but signs of life.
    fn told_of_state(&self) -> String {
        loop {
            let told = self.told();
            if !told.starts_with("WATCHDOG=1") {
                return told;
            }
        }
    }
}

#[test]
fn a_service_manager_is_told_of_every_state() {
    let manager = Manager::new();
    let mut edge = edge()
        .environment("NOTIFY_SOCKET", manager.folder.join("notify"))
        .environment("WATCHDOG_USEC", "300000")
        .start();
    assert_eq!(manager.told_of_state().trim_end(), "READY=1");
    until("a sign of life", || manager.told().starts_with("WATCHDOG=1").then_some(()));
    edge.signal("HUP");
    let told = manager.told_of_state();
    assert!(told.contains("RELOADING=1") && told.contains("MONOTONIC_USEC="), "{told}");
    assert_eq!(manager.told_of_state().trim_end(), "READY=1");
    // A reload that is refused is over too.
    edge.configure("[limits]\nhops = \"many\"");
    edge.signal("HUP");
    assert!(manager.told_of_state().contains("RELOADING=1"));
    assert_eq!(manager.told_of_state().trim_end(), "READY=1");
    edge.signal("TERM");
    assert_eq!(manager.told_of_state().trim_end(), "STOPPING=1");
    assert!(edge.wait().success());
}

#[test]
fn a_socket_handed_over_by_a_service_manager_is_the_one_that_listens() {
    let edge = edge().offline();
    let log = edge.folder().join("log");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(edge.address.to_string()).arg(PROGRAM);
    command.args(["serve", "--config"]).arg(edge.config()).current_dir(edge.folder());
    // The manager has the socket; the program starts with the first caller, who notices nothing.
    let _manager = Process::start(&mut command, &log);
    until("the manager to listen", || world::is_listening(edge.address).then_some(()));
    let mut client = edge.client();
    client.deliver("you@example.org", &["anna@contoso.com"], letter("handed over"));
    edge.wait_for("anna@contoso.com", 1);
}

#[test]
fn an_upgrade_refuses_nobody_and_keeps_what_waits() {
    let sink_to_be = free_address();
    let mut edge = edge()
        .store(&[&format!("smtp://{sink_to_be}")])
        .with("[region.EUR]\ntls = \"off\"\n[queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"")
        .start();
    let mut client = edge.client();
    client.deliver("you@example.org", &["anna@contoso.com"], letter("before"));
    // A transaction under way is finished first; whoever comes meanwhile waits and is served.
    assert!(client.say("MAIL FROM:<you@example.org>").starts_with("250 "));
    assert!(client.say("RCPT TO:<anna@contoso.com>").starts_with("250 "));
    let process = edge.id();
    let upgraded = edge.command(&["upgrade"]);
    assert_eq!(upgraded.code, 0, "{upgraded:#?}");
    until("the drain to begin", || edge.log().contains("draining").then_some(()));
    let mut waiting = Client::silent(edge.address);
    client.say("DATA");
    client.send(letter("during") + ".\r\n");
    assert!(client.reply().starts_with("250 "));
    let banner = waiting.reply();
    assert!(banner.starts_with("220 "), "{banner}");
    waiting.say("EHLO client.example.org");
    waiting.deliver("you@example.org", &["anna@contoso.com"], letter("after"));
    assert_eq!(edge.id(), process, "the same process, another program");
    assert_eq!(edge.log().matches("\"event\":\"listening\"").count(), 2, "{}", edge.log());
    let _sink = world::Sink::start_at(sink_to_be, &[]);
    edge.wait_for_empty_queue();
    edge.stop();
}

#[test]
fn a_successor_that_cannot_read_the_configuration_is_not_let_in() {
    let mut edge = edge().start();
    edge.configure("[limits]\nhops = \"many\"");
    let refused = edge.command(&["upgrade"]);
    assert_eq!(refused.code, 2, "{refused:#?}");
    assert!(refused.stderr.contains("hops"), "{refused:#?}");
    edge.client().deliver("you@example.org", &["anna@contoso.com"], letter("still here"));
    edge.signal("USR2");
    until("the second refusal", || (edge.log().matches("not replaced").count() == 2).then_some(()));
    edge.client().deliver("you@example.org", &["anna@contoso.com"], letter("and still"));
    edge.configure("[limits]\nhops = 100");
    edge.stop();
}

fn status_of(process: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("a process that runs");
    let line = status.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap_or_default();
    line.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

#[test]
fn the_process_is_confined_in_every_thread() {
    let mut edge = edge().start();
    let process = edge.id();
    for thread in fs::read_dir(format!("/proc/{process}/task")).expect("a process that runs") {
        let status = fs::read_to_string(thread.expect("a thread").path().join("status")).expect("a thread");
        for sign in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(sign), "no {sign} in\n{status}");
        }
    }
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).expect("a process that runs");
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(cores.split_whitespace().nth(4), Some("0"), "{cores}");
    // A Maildir outside of what may be written since the start: refused, and nothing has changed.
    edge.configure(&format!("[region.EUR]\nstore = [\"maildir://{}/elsewhere\"]", edge.folder().display()));
    let refused = edge.command(&["reload"]);
    assert_eq!(refused.code, 2, "{refused:#?}");
    assert!(refused.stderr.contains("node.sandbox"), "{refused:#?}");
    edge.client().deliver("you@example.org", &["anna@contoso.com"], letter("here as before"));
    edge.wait_for("anna@contoso.com", 1);
    edge.stop();
    edge.start();
    edge.client().deliver("you@example.org", &["anna@contoso.com"], letter("there now"));
    until("the letter elsewhere", || {
        let there = edge.folder().join("elsewhere/contoso.com/anna/new");
        fs::read_dir(there).ok()?.next().map(|_| ())
    });
}

#[test]
fn root_is_given_up_once_the_sockets_are_bound() {
    if !nix::unistd::geteuid().is_root() {
        let edge = edge().with("[node]\nuser = \"root\"").offline();
        let told = edge.command(&["serve"]);
        assert_eq!(told.code, 1, "{told:#?}");
        assert!(told.stderr.contains("only root can become"), "{told:#?}");
        return;
    }
    let mut edge = edge().with("[node]\nuser = \"nobody\"").start();
    let nobody = nix::unistd::User::from_name("nobody").ok().flatten().expect("every Debian has nobody");
    assert_eq!(status_of(edge.id(), "Uid"), nobody.uid.to_string());
    assert_eq!(status_of(edge.id(), "Gid"), nobody.gid.to_string());
    edge.client().deliver("you@example.org", &["anna@contoso.com"], letter("unprivileged"));
    edge.wait_for("anna@contoso.com", 1);
    edge.stop();
    let edge = Edge::builder("EUR").directory(CONTOSO).with("[node]\nuser = \"no-such-user\"").offline();
    let told = edge.command(&["serve"]);
    assert_eq!(told.code, 1, "{told:#?}");
    assert!(told.stderr.contains("there is no user"), "{told:#?}");
}

/// The names of the certificate that a client is shown.
fn names_shown(edge: &Edge) -> String {
    let order = format!(
        "openssl s_client -starttls smtp -connect {} </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName",
        edge.address
    );
    let shown = Command::new("sh").args(["-c", &order]).output().expect("sh runs");
    String::from_utf8_lossy(&shown.stdout).into_owned()
}

/// As renewal tools do: written beside it and renamed.
fn replace(file: &Path, with: &Path) {
    let beside = file.with_extension("new");
    fs::copy(with, &beside).expect("our own folder");
    fs::rename(beside, file).expect("our own folder");
}

#[test]
fn certificates_replaced_on_disk_come_into_force_and_a_broken_pair_does_not() {
    let authority = Authority::new();
    let (first, second) = (authority.issue("first.example"), authority.issue("second.example"));
    let third = authority.issue("third.example");
    let folder = Folder::new();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    replace(&cert, &first.cert);
    replace(&key, &first.key);
    let edge = edge()
        .with(&format!(
            "[[tls.certificate]]\ncert = \"{}\"\nkey = \"{}\"\n[tls]\nself_signed = false",
            cert.display(),
            key.display()
        ))
        .start();
    assert!(names_shown(&edge).contains("first.example"), "{}", names_shown(&edge));
    replace(&cert, &second.cert);
    until("the pair that does not fit to be refused", || {
        edge.log().contains("the old one stays").then_some(())
    });
    assert!(names_shown(&edge).contains("first.example"), "the old one goes on");
    replace(&key, &second.key);
    until("the new one to be shown", || names_shown(&edge).contains("second.example").then_some(()));
    replace(&key, &third.key);
    replace(&cert, &third.cert);
    until("the next one to be shown", || names_shown(&edge).contains("third.example").then_some(()));
    until("its end in the log", || edge.log().contains("\"name\":\"third.example\"").then_some(()));
}

#[test]
fn a_log_file_can_be_rotated() {
    let folder = Folder::new();
    let file = folder.join("landfall.log");
    let edge = edge().with(&format!("[log]\nfile = \"{}\"", file.display())).start();
    until("the first line", || fs::read_to_string(&file).ok()?.contains("listening").then_some(()));
    fs::rename(&file, folder.join("landfall.log.1")).expect("our own folder");
    edge.reload();
    until("the new file's first line", || fs::read_to_string(&file).ok()?.contains("reloaded").then_some(()));
    assert!(edge.log().lines().all(|line| !line.contains("\"event\"")), "{}", edge.log());
}

#[test]
fn completions_and_manual_pages_are_made_from_the_commands() {
    let folder = Folder::new();
    let edge = edge().offline();
    let pages = folder.join("man");
    let made = edge.command(&["man", &pages.display().to_string()]);
    assert_eq!(made.code, 0, "{made:#?}");
    for page in ["landfall.1", "landfall-serve.1", "landfall-queue.1"] {
        assert!(pages.join(page).exists(), "no {page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let made = edge.command(&["completions", shell]);
        assert!(made.code == 0 && made.stdout.contains("landfall"), "{made:#?}");
    }
}
