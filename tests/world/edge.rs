//! Edge: the program under test, as its own process with its own state.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{self, ExitStatus};

use serde_json::Value;

use super::client::Client;
use super::letter::Letter;
use super::place::{Folder, free_address, is_listening};
use super::process::Process;
use super::wait::until;

const PROGRAM: &str = env!("CARGO_BIN_EXE_landfall");

/// What an edge starts from: a small configuration that works, changed key by key.
pub struct Builder {
    region: String,
    address: SocketAddr,
    settings: toml::Table,
    directory: String,
    environment: Vec<(String, String)>,
    descriptors: Option<u64>,
    folder: Folder,
}

impl Builder {
    /// Where it will listen: known before it starts, so that edges can name each other.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The region's mail lies below it, as `<domain>/<local part>/new`.
    pub fn maildir(&self) -> PathBuf {
        self.folder.join("mail")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lays keys over the configuration: tables are merged, everything else is replaced.
    pub fn with(mut self, text: &str) -> Self {
        merge(&mut self.settings, text.parse().unwrap_or_else(|error| panic!("{error} in {text}")));
        self
    }

    pub fn directory(mut self, text: &str) -> Self {
        text.to_owned().clone_into(&mut self.directory);
        self
    }

    pub fn store(self, urls: &[&str]) -> Self {
        let text = format!("[region.{}]\nstore = {urls:?}", self.region);
        self.with(&text)
    }

    /// How another region is reached.
    pub fn relay(self, region: &str, to: SocketAddr) -> Self {
        self.with(&format!("[region.{region}]\nrelay = [\"smtp://{to}\"]\ntls = \"off\""))
    }

    pub fn environment(mut self, key: &str, value: impl AsRef<Path>) -> Self {
        self.environment.push((key.to_owned(), value.as_ref().display().to_string()));
        self
    }

    /// How many files the program may open.
    pub fn descriptors(mut self, limit: u64) -> Self {
        self.descriptors = Some(limit);
        self
    }

    pub fn start(self) -> Edge {
        let mut edge = self.offline();
        edge.start();
        edge
    }

    /// Writes the files and starts nothing: for commands that work offline, and for bad configurations.
    pub fn offline(self) -> Edge {
        let edge = Edge {
            program: None,
            address: self.address,
            settings: self.settings,
            environment: self.environment,
            descriptors: self.descriptors,
            folder: self.folder,
        };
        edge.write_directory(&self.directory);
        edge.write_settings();
        edge
    }
}

pub struct Edge {
    program: Option<Process>,
    pub address: SocketAddr,
    settings: toml::Table,
    environment: Vec<(String, String)>,
    descriptors: Option<u64>,
    folder: Folder,
}

/// How a command of the command line ended.
#[derive(Debug)]
pub struct Command {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Command {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl Edge {
    pub fn builder(region: &str) -> Builder {
        Self::builder_at(region, free_address())
    }

    pub fn builder_at(region: &str, address: SocketAddr) -> Builder {
        let folder = Folder::new();
        let here = folder.display();
        let settings = format!(
            "[node]\nhostname = \"edge1.{}.example.net\"\nregion = \"{region}\"\nstate_dir = \"{here}/state\"\n\
             [[listener]]\nname = \"mx\"\naddress = [\"{address}\"]\ntls = \"starttls\"\n\
             [tls]\nself_signed = true\n\
             [region.{region}]\nstore = [\"maildir://{here}/mail\"]\n\
             [directory]\nsource = \"file\"\npath = \"directory.toml\"\n\
             [spool]\nmin_free = \"1MiB\"\n\
             [log]\nformat = \"json\"\n",
            region.to_lowercase()
        );
        Builder {
            region: region.to_owned(),
            address,
            settings: settings.parse().expect("the small configuration is TOML"),
            directory: String::new(),
            environment: Vec::new(),
            descriptors: None,
            folder,
        }
    }

    pub fn start(&mut self) {
        let mut command = match self.descriptors {
            None => process::Command::new(PROGRAM),
            Some(limit) => {
                let mut shell = process::Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\""), PROGRAM]);
                shell
            }
        };
        command.args(["serve", "--config"]).arg(self.config());
        command.envs(self.environment.iter().cloned()).current_dir(&*self.folder);
        let mut program = Process::start(&mut command, &self.folder.join("log"));
        until("the edge to listen", || {
            assert!(program.exited().is_none(), "the edge ended at start:\n{}", self.log());
            is_listening(self.address).then_some(())
        });
        self.program = Some(program);
    }

    pub fn config(&self) -> PathBuf {
        self.folder.join("landfall.toml")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    /// A client at another loopback address.
    pub fn client_from(&self, address: &str) -> Client {
        Client::greeted_from(address.parse().expect("an address"), self.address)
    }

    pub fn client(&self) -> Client {
        Client::greeted(self.address)
    }

    /// Changes the file; what runs takes it up at reload or restart.
    pub fn configure(&mut self, text: &str) {
        merge(&mut self.settings, text.parse().unwrap_or_else(|error| panic!("{error} in {text}")));
        self.write_settings();
    }

    fn write_settings(&self) {
        fs::write(self.config(), self.settings.to_string()).expect("our own folder");
    }

    pub fn write_directory(&self, text: &str) {
        fs::write(self.folder.join("directory.toml"), text).expect("our own folder");
    }

    fn program(&mut self) -> &mut Process {
        self.program.as_mut().expect("the edge was started")
    }

    pub fn signal(&mut self, name: &str) {
        self.program().signal(name);
    }

    pub fn id(&mut self) -> u32 {
        self.program().id()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let status = self.program().wait();
        self.program = None;
        status
    }

    /// SIGTERM, and it ends in good order.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// SIGKILL: nothing is finished, nothing is flushed.
    pub fn kill(&mut self) {
        self.program().kill();
        self.program = None;
    }

    /// Runs `landfall` with this edge's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let said = Folder::new();
        let (stdout, stderr) = (said.join("stdout"), said.join("stderr"));
        let mut command = process::Command::new(PROGRAM);
        command.arg("--config").arg(self.config()).args(arguments);
        command.envs(self.environment.iter().cloned()).current_dir(&*self.folder);
        let code = Process::start_apart(&mut command, &stdout, &stderr).wait().code();
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("just written")).into_owned();
        Command {
            code: code.expect("a command ends by itself"),
            stdout: read(&stdout),
            stderr: read(&stderr),
        }
    }

    pub fn reload(&self) {
        let reload = self.command(&["reload"]);
        assert_eq!(reload.code, 0, "{reload:#?}");
    }

    /// A question or a change over the admin socket: the status code, and the body of the answer.
    pub fn api(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(self.state().join("admin.sock"))
            .expect("the daemon answers");
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: landfall\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("the daemon takes our bytes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (code, body.to_owned())
    }

    /// The page of metrics, over the admin socket.
    pub fn metrics(&self) -> String {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(self.state().join("admin.sock"))
            .expect("the daemon answers");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: landfall\r\nConnection: close\r\n\r\n")
            .expect("the daemon takes our bytes");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("the page is text");
        page
    }

    /// A figure of that page, by its name without ours in front.
    pub fn metric(&self, name: &str) -> u64 {
        let page = self.metrics();
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("landfall_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().expect("a whole number")
    }

    /// Complete messages of a mailbox in this region's Maildir store.
    pub fn mailbox(&self, address: &str) -> Vec<Letter> {
        let (local, domain) = address.split_once('@').expect("a mailbox is an address");
        let Ok(entries) = fs::read_dir(self.folder.join("mail").join(domain).join(local).join("new")) else {
            return Vec::new();
        };
        entries.filter_map(|entry| Some(Letter(fs::read(entry.ok()?.path()).ok()?))).collect()
    }

    pub fn wait_for(&self, address: &str, count: usize) -> Vec<Letter> {
        until(&format!("{count} messages for {address}"), || {
            Some(self.mailbox(address)).filter(|letters| letters.len() >= count)
        })
    }

    /// The rows of `landfall queue list --json`, whatever the document around them looks like.
    pub fn queue(&self) -> Vec<Value> {
        let list = self.command(&["queue", "list", "--json"]);
        assert_eq!(list.code, 0, "{list:#?}");
        rows(list.json())
    }

    pub fn wait_for_empty_queue(&self) {
        until("the queue to be empty", || self.queue().is_empty().then_some(()));
    }
}

fn rows(document: Value) -> Vec<Value> {
    match document {
        Value::Array(rows) => rows,
        Value::Object(fields) => fields
            .into_iter()
            .find_map(|(_, value)| match value {
                Value::Array(rows) => Some(rows),
                _ => None,
            })
            .expect("the document holds one list"),
        other => panic!("no list: {other}"),
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if std::thread::panicking() && self.program.is_some() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("-- the log of {} ends in:", self.address);
            for line in tail.into_iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
