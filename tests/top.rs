//! Top: the live screen in a real terminal of 80 by 24, by its keys.

mod world;

use std::fs;
use std::process::{Command, Stdio};

use world::{CONTOSO, Edge, free_address, letter, until};

/// tmux: a terminal that somebody else made, whose screen can be read back.
struct Terminal {
    server: String,
}

impl Terminal {
    fn open(edge: &Edge, order: &str) -> Self {
        let server = edge.folder().join("tmux").display().to_string();
        let terminal = Self { server };
        terminal.tmux(&["new-session", "-d", "-x", "80", "-y", "24", order]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let called = Command::new("tmux")
            .args(["-S", &self.server, "-f", "/dev/null"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("tests/run installs tmux");
        String::from_utf8_lossy(&called.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn the_screen_follows_the_daemon_and_obeys_its_keys() {
    let edge = Edge::builder("EUR").directory(CONTOSO).relay("NAM", free_address()).start();
    edge.client().deliver("you@example.org", &["ben@contoso.com"], letter("waits"));
    until("the relay to be down", || edge.log().contains("destination-down").then_some(()));
    let ended = edge.folder().join("ended");
    let order = format!(
        "cd {} && {} --config {} top; echo $? > {}",
        edge.folder().display(),
        env!("CARGO_BIN_EXE_landfall"),
        edge.config().display(),
        ended.display()
    );
    let terminal = Terminal::open(&edge, &order);
    let screen =
        until("the lane that is down", || Some(terminal.screen()).filter(|seen| seen.contains("relay:NAM")));
    for part in ["edge1.eur.example.net in EUR, running", "per second", "1 waiting", "down", "q quit"] {
        assert!(screen.contains(part), "no '{part}' in\n{screen}");
    }
    // What comes is seen without a key.
    edge.client().deliver("you@example.org", &["bob@contoso.com"], letter("waits too"));
    until("two to wait", || terminal.screen().contains("2 waiting").then_some(()));
    terminal.press("p");
    until("the pause", || terminal.screen().contains("paused").then_some(()));
    terminal.press("q");
    until("the end", || fs::read_to_string(&ended).ok().filter(|code| code.trim() == "0"));
}

#[test]
fn without_a_daemon_it_says_so() {
    let edge = Edge::builder("EUR").directory(CONTOSO).offline();
    let told = edge.command(&["top"]);
    assert_eq!(told.code, 1, "{told:#?}");
    assert!(told.stderr.contains("no daemon answers"), "{told:#?}");
}
