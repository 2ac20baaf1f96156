//! Sink: Postfix's smtp-sink as a next hop that takes, refuses, dawdles or hangs up, as its options say.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::letter::Letter;
use super::place::{Folder, free_address, is_listening};
use super::process::Process;
use super::wait::until;

pub struct Sink {
    process: Process,
    folder: Folder,
    pub address: SocketAddr,
}

/// What smtp-sink took. Its dump has LF line ends: for bytes ask Dovecot or a Maildir.
#[derive(Debug, Clone)]
pub struct Taken {
    /// As on the wire, parameters included.
    pub sender: String,
    pub recipients: Vec<String>,
    pub message: Letter,
}

impl Sink {
    pub fn start(options: &[&str]) -> Self {
        Self::start_at(free_address(), options)
    }

    /// At an address given before, for a destination that comes back.
    pub fn start_at(address: SocketAddr, options: &[&str]) -> Self {
        let folder = Folder::new();
        let dump = folder.join("taken");
        fs::create_dir(&dump).expect("our own folder");
        fs::set_permissions(&dump, Permissions::from_mode(0o777)).expect("our own folder");
        let mut command = Command::new("smtp-sink");
        command.args(["-v", "-d", &dump.join("m.").to_string_lossy()]);
        // It insists on giving up root.
        if super::process::is_root() {
            command.args(["-u", "nobody"]);
        }
        command.args(options).arg(address.to_string()).arg("128");
        let process = Process::start(&mut command, &folder.join("log"));
        let mut sink = Self { process, folder, address };
        until("smtp-sink to listen", || {
            assert!(sink.process.exited().is_none(), "smtp-sink ended: {}", sink.log());
            is_listening(address).then_some(())
        });
        sink
    }

    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.log().matches(": connect (").count()
    }

    /// The commands so far, in order of arrival, that begin with `verb`.
    pub fn commands(&self, verb: &str) -> Vec<String> {
        let log = self.log();
        let said = log.lines().filter_map(|line| Some(line.split_once("smtp-sink: ")?.1.to_owned()));
        said.filter(|command| command.starts_with(verb)).collect()
    }

    /// Every complete message so far, in no particular order.
    pub fn taken(&self) -> Vec<Taken> {
        let files = fs::read_dir(self.folder.join("taken")).expect("our own folder");
        // smtp-sink empties what it does not end up taking, and writes a file while it grows.
        files
            .filter_map(|file| fs::read(file.expect("a readable entry").path()).ok())
            .filter(|bytes| bytes.ends_with(b"\n\n"))
            .map(|bytes| taken(&bytes))
            .collect()
    }

    pub fn wait_for(&self, count: usize) -> Vec<Taken> {
        until(&format!("{count} messages at smtp-sink"), || {
            Some(self.taken()).filter(|taken| taken.len() >= count)
        })
    }
}

/// Reads the `X-` lines and the Received field that smtp-sink puts in front.
fn taken(bytes: &[u8]) -> Taken {
    let text = String::from_utf8_lossy(bytes);
    let argument = |name: &str| -> Vec<String> {
        let lines = text.lines().take_while(|line| !line.starts_with("Received:"));
        lines.filter_map(|line| line.strip_prefix(name).map(str::to_owned)).collect()
    };
    let own = bytes.split_inclusive(|byte| *byte == b'\n').skip_while(|line| !line.starts_with(b"Received:"));
    let message: Vec<u8> =
        own.skip(1).skip_while(|line| line.starts_with(b"\t")).flatten().copied().collect();
    Taken {
        sender: argument("X-Mail-Args: ").concat(),
        recipients: argument("X-Rcpt-Args: "),
        message: Letter(message),
    }
}
