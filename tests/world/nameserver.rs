//! Nameserver: a real knotd with a root of its own below which its zones hang, signed or not; and unbound,
//! the resolver in front of it that validates or strips.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::place::{Folder, free_address, is_listening};
use super::process::Process;
use super::wait::until;

/// Knot has no smaller one: every key of a zone is its key-signing and its zone-signing key in turn.
const ALGORITHM: &str = "ECDSAP256SHA256";

/// A zone to serve: its records as zone file text, relative to its name; SOA and NS are put in front.
#[derive(Clone)]
pub struct Zone {
    name: String,
    records: String,
    signing: Signing,
    /// The records are the whole zone, SOA and NS included.
    whole: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum Signing {
    /// An unsigned zone, which the root proves to be one.
    No,
    Yes,
    /// Signed, but the root vouches for a key that it does not have: bogus from the start.
    WithAnotherKey,
    /// Signed once, then changed behind the signatures' back.
    Tampered {
        signed: String,
    },
}

impl Zone {
    pub fn signed(name: &str, records: &str) -> Self {
        Self { name: name.to_owned(), records: records.to_owned(), signing: Signing::Yes, whole: false }
    }

    pub fn signed_whole(name: &str, text: &str) -> Self {
        Self { whole: true, ..Self::signed(name, text) }
    }

    pub fn unsigned(name: &str, records: &str) -> Self {
        Self { signing: Signing::No, ..Self::signed(name, records) }
    }

    pub fn bogus(name: &str, records: &str) -> Self {
        Self { signing: Signing::WithAnotherKey, ..Self::signed(name, records) }
    }

    fn is_signed(&self) -> bool {
        matches!(self.signing, Signing::Yes | Signing::WithAnotherKey)
    }

    fn text(&self) -> String {
        if let Signing::Tampered { signed } = &self.signing {
            return signed.clone();
        }
        if self.whole {
            return self.records.clone();
        }
        format!(
            "$ORIGIN {}.\n$TTL 60\n@ SOA ns.{ROOT_HOST}. hostmaster.{ROOT_HOST}. 1 3600 600 86400 60\n\
             @ NS ns.{ROOT_HOST}.\n{}\n",
            self.name, self.records
        )
    }
}

/// Where the server says that it is.
const ROOT_HOST: &str = "root-servers.test";

pub struct Nameserver {
    process: Option<Process>,
    folder: Folder,
    pub address: SocketAddr,
    zones: Vec<Zone>,
}

impl Nameserver {
    pub fn start(zones: &[Zone]) -> Self {
        let folder = Folder::new();
        for name in ["db", "run"] {
            fs::create_dir(folder.join(name)).expect("our own folder");
        }
        let mut server = Self { process: None, folder, address: free_address(), zones: zones.to_vec() };
        server.write_configuration();
        server.generate_key(".");
        for zone in zones.iter().filter(|zone| zone.is_signed()) {
            server.generate_key(&zone.name);
        }
        server.resume();
        server
    }

    /// The `[dns]` of an edge that asks this server and begins at its root's key.
    pub fn settings(&self) -> String {
        format!("[dns]\nservers = [\"{}\"]\ntrust_anchors = \"{}\"\n", self.address, self.anchors().display())
    }

    /// The root's key, as a DNSKEY record.
    pub fn anchors(&self) -> PathBuf {
        self.folder.join("anchors")
    }

    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again, with whatever its zones are now.
    pub fn resume(&mut self) {
        self.stop();
        self.write_configuration();
        self.write_zones();
        let log = self.folder.join("log");
        let from = self.log().len();
        let mut command = Command::new("knotd");
        command.arg("-c").arg(self.folder.join("knot.conf"));
        let mut process = Process::start(&mut command, &log);
        let names = self.zones.iter().map(|zone| zone.name.clone());
        let names: Vec<String> = names.chain(["".to_owned()]).collect();
        until("knotd to serve its zones", || {
            assert!(process.exited().is_none(), "knotd ended: {}", self.log());
            let said = self.log().split_off(from);
            let said_of = |name: &String, what: &str| said.contains(&format!("[{name}.] {what}"));
            let served =
                |name: &String| said_of(name, "loaded, serial") || said_of(name, "zone event 'load' failed");
            let ready = is_listening(self.address) && names.iter().all(served);
            ready.then_some(())
        });
        self.process = Some(process);
    }

    /// Gives a zone other records.
    pub fn replace(&mut self, name: &str, records: &str) {
        records.clone_into(&mut self.zone(name).records);
        self.resume();
    }

    /// Changes a signed zone without its key: `from` becomes `to` in the signed text.
    pub fn tamper(&mut self, name: &str, from: &str, to: &str) {
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let transfer = Command::new("kdig")
            .args([&format!("@{host}"), "-p", &port, "+noidn", "AXFR", &format!("{name}.")])
            .output()
            .expect("tests/run installs kdig");
        let signed = String::from_utf8_lossy(&transfer.stdout).into_owned();
        assert!(signed.contains(from) && signed.contains("RRSIG"), "{signed}");
        self.zone(name).signing = Signing::Tampered { signed: signed.replace(from, to) };
        self.resume();
    }

    fn zone(&mut self, name: &str) -> &mut Zone {
        self.zones.iter_mut().find(|zone| zone.name == name).expect("one of its zones")
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    fn keymgr(&self, arguments: &[&str]) -> String {
        let output = Command::new("keymgr")
            .arg("-c")
            .arg(self.folder.join("knot.conf"))
            .args(arguments)
            .output()
            .expect("tests/run installs knot");
        assert!(output.status.success(), "keymgr {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn generate_key(&self, zone: &str) {
        self.keymgr(&[zone, "generate", &format!("algorithm={ALGORITHM}"), "ksk=yes", "zsk=yes"]);
    }

    fn write_zones(&self) {
        let mut root = format!(
            "$TTL 60\n. SOA ns.{ROOT_HOST}. hostmaster.{ROOT_HOST}. 1 3600 600 86400 60\n\
             . NS ns.{ROOT_HOST}.\nns.{ROOT_HOST}. A 127.0.0.1\n"
        );
        for zone in &self.zones {
            fs::write(self.folder.join(format!("{}.zone", zone.name)), zone.text()).expect("our own folder");
            root.push_str(&format!("{}. NS ns.{ROOT_HOST}.\n", zone.name));
            let vouched = match zone.signing {
                Signing::No => None,
                Signing::Yes | Signing::Tampered { .. } => Some(self.keymgr(&[&zone.name, "ds"])),
                Signing::WithAnotherKey => Some(self.keymgr(&[".", "ds"])),
            };
            let digest = vouched.as_deref().and_then(|all| all.lines().find(|line| line.contains(" 13 2 ")));
            if let Some((_, digest)) = digest.and_then(|line| line.split_once(" DS ")) {
                root.push_str(&format!("{}. DS {digest}\n", zone.name));
            }
        }
        fs::write(self.folder.join("root.zone"), root).expect("our own folder");
        let key = self.keymgr(&[".", "dnskey"]).replace(" DNSKEY ", " 3600 IN DNSKEY ");
        fs::write(self.anchors(), key).expect("our own folder");
    }

    fn write_configuration(&self) {
        let here = self.folder.display();
        let mut text = format!(
            "server:\n    rundir: \"{here}/run\"\n    listen: {}@{}\n\
             database:\n    storage: \"{here}/db\"\n\
             log:\n  - target: stderr\n    any: info\n\
             acl:\n  - id: local\n    address: 127.0.0.0/8\n    action: transfer\n\
             policy:\n  - id: own\n    algorithm: {ALGORITHM}\n    manual: on\n\
             template:\n  - id: default\n    journal-content: none\n    zonefile-load: whole\n    \
             zonefile-sync: -1\n    acl: local\nzone:\n",
            self.address.ip(),
            self.address.port()
        );
        let mut zone = |name: &str, file: &str, signed: bool| {
            text.push_str(&format!("  - domain: {name}\n    file: \"{here}/{file}.zone\"\n"));
            if signed {
                text.push_str("    dnssec-signing: on\n    dnssec-policy: own\n");
            }
        };
        zone(".", "root", true);
        for served in &self.zones {
            zone(&format!("{}.", served.name), &served.name, served.is_signed());
        }
        fs::write(self.folder.join("knot.conf"), text).expect("our own folder");
    }
}

/// A real recursive resolver that sends all it does not know to one server.
pub struct Unbound {
    process: Process,
    folder: Folder,
    pub address: SocketAddr,
}

impl Unbound {
    /// Validates with that server's root key, and hands the signatures on.
    pub fn validating(server: &Nameserver) -> Self {
        let anchors = format!(
            "trust-anchor-file: \"{}\"\n    module-config: \"validator iterator\"",
            server.anchors().display()
        );
        Self::start(server.address, &anchors)
    }

    /// Neither validates nor hands signatures on, like many a home router.
    pub fn stripping(server: &Nameserver) -> Self {
        Self::start(server.address, "module-config: \"iterator\"\n    disable-dnssec-lame-check: yes")
    }

    fn start(server: SocketAddr, extra: &str) -> Self {
        let folder = Folder::new();
        let address = free_address();
        let here = folder.display();
        let text = format!(
            "server:\n    interface: {}@{}\n    port: {}\n    directory: \"{here}\"\n    chroot: \"\"\n    username: \"\"\n    \
             pidfile: \"\"\n    use-syslog: no\n    logfile: \"\"\n    do-daemonize: no\n    num-threads: 1\n    \
             do-not-query-localhost: no\n    access-control: 127.0.0.0/8 allow\n    do-ip6: no\n    \
             local-zone: \"test.\" nodefault\n    \
             {extra}\nremote-control:\n    control-enable: no\n\
             stub-zone:\n    name: \".\"\n    stub-addr: {}@{}\n",
            address.ip(),
            address.port(),
            address.port(),
            server.ip(),
            server.port()
        );
        fs::write(folder.join("unbound.conf"), text).expect("our own folder");
        let mut command = Command::new("unbound");
        command.arg("-d").arg("-c").arg(folder.join("unbound.conf"));
        let process = Process::start(&mut command, &folder.join("log"));
        let mut unbound = Self { process, folder, address };
        until("unbound to listen", || {
            assert!(unbound.process.exited().is_none(), "unbound ended: {}", unbound.log());
            is_listening(address).then_some(())
        });
        unbound
    }

    pub fn log(&self) -> String {
        read(&self.folder.join("log"))
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
