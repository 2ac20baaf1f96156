//! Postfix: a whole mail server as an organisation has it on its premises: takes, stores, and passes on.
//!
//! Its instance has its own configuration, queue and address, which it also calls from. Needs root, as every
//! Postfix does.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use super::letter::Letter;
use super::place::{Folder, free_address, is_listening};
use super::process::{Process, is_root};
use super::wait::until;

pub struct Postfix {
    process: Process,
    folder: Folder,
    pub address: SocketAddr,
}

/// What an instance begins with: mail for nobody, and everybody may relay.
pub struct Setup {
    folder: Folder,
    pub address: SocketAddr,
    main: String,
}

impl Setup {
    pub fn with(mut self, text: &str) -> Self {
        self.main.push_str(text.trim_end());
        self.main.push('\n');
        self
    }

    /// Has these mailboxes; other addresses of their domains are unknown to it.
    pub fn mailboxes(self, addresses: &[&str]) -> Self {
        let mut domains: Vec<&str> =
            addresses.iter().filter_map(|address| Some(address.split_once('@')?.1)).collect();
        domains.sort_unstable();
        domains.dedup();
        let boxes: String =
            addresses.iter().map(|address| format!(" {{ {address} = {address}/ }}")).collect();
        let text = format!(
            "virtual_mailbox_domains = {}\nvirtual_mailbox_maps = inline:{{{boxes} }}\n",
            domains.join(" ")
        );
        self.with(&text)
    }

    /// Where mail for these domains or addresses goes on, `*` for all else.
    pub fn transport(self, routes: &[(&str, SocketAddr)]) -> Self {
        let routes: String = routes
            .iter()
            .map(|(key, to)| format!(" {{ {key} = smtp:[{}]:{} }}", to.ip(), to.port()))
            .collect();
        self.with(&format!("transport_maps = inline:{{{routes} }}\n"))
    }

    pub fn start(self) -> Postfix {
        let Self { folder, address, main } = self;
        let etc = folder.join("etc");
        for name in ["etc", "queue", "data", "mail"] {
            fs::create_dir(folder.join(name)).expect("our own folder");
        }
        own(&folder.join("data"), "postfix");
        own(&folder.join("mail"), "nobody");
        fs::write(etc.join("main.cf"), main).expect("our own folder");
        fs::write(etc.join("master.cf"), master(address)).expect("our own folder");
        let mut command = Command::new("postfix");
        command.arg("-c").arg(&etc).arg("start-fg");
        let process = Process::start(&mut command, &folder.join("log"));
        let mut postfix = Postfix { process, folder, address };
        until("postfix to listen", || {
            assert!(postfix.process.exited().is_none(), "postfix ended: {}", postfix.log());
            is_listening(address).then_some(())
        });
        postfix
    }
}

impl Postfix {
    pub fn setup() -> Setup {
        Self::setup_at(free_address())
    }

    pub fn setup_at(address: SocketAddr) -> Setup {
        assert!(is_root(), "postfix needs root: run this test as root");
        let folder = Folder::new();
        let (here, ip) = (folder.display(), address.ip());
        let main = format!(
            "compatibility_level = 3.6
queue_directory = {here}/queue
data_directory = {here}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = /dev/stdout
myhostname = mail.contoso.com
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
inet_interfaces = loopback-only
inet_protocols = ipv4
smtp_bind_address = {ip}
mynetworks = 127.0.0.0/8
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtp_host_lookup = native
smtp_dns_support_level = disabled
smtp_tls_security_level = none
virtual_mailbox_base = {here}/mail
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
smtp_address_preference = ipv4
"
        );
        Setup { folder, address, main }
    }

    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    pub fn mailbox(&self, address: &str) -> Vec<Letter> {
        let Ok(entries) = fs::read_dir(self.folder.join("mail").join(address).join("new")) else {
            return Vec::new();
        };
        entries.filter_map(|entry| Some(Letter(fs::read(entry.ok()?.path()).ok()?))).collect()
    }

    pub fn wait_for(&self, address: &str, count: usize) -> Vec<Letter> {
        until(&format!("{count} messages for {address} in postfix"), || {
            Some(self.mailbox(address)).filter(|letters| letters.len() >= count)
        })
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- the log of postfix at {}:\n{}", self.address, self.log());
        }
        // `start-fg` waits for a master that is not its child to kill: that one is named in a file.
        let master = fs::read_to_string(self.folder.join("queue/pid/master.pid")).unwrap_or_default();
        if let Ok(id) = master.trim().parse::<u32>() {
            let _ = Command::new("sh").args(["-c", &format!("kill -TERM {id}")]).status();
            until("postfix to end", || {
                (!std::path::Path::new(&format!("/proc/{id}")).exists()).then_some(())
            });
        }
    }
}

fn own(path: &std::path::Path, name: &str) {
    let user = nix::unistd::User::from_name(name).ok().flatten().expect("the package made its user");
    chown(path, Some(user.uid.as_raw()), None).expect("root may");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("root may");
}

fn master(address: SocketAddr) -> String {
    let services = [
        ("pickup", "unix n - n 60 1 pickup"),
        ("cleanup", "unix n - n - 0 cleanup"),
        ("qmgr", "unix n - n 300 1 qmgr"),
        ("rewrite", "unix - - n - - trivial-rewrite"),
        ("bounce", "unix - - n - 0 bounce"),
        ("defer", "unix - - n - 0 bounce"),
        ("trace", "unix - - n - 0 bounce"),
        ("verify", "unix - - n - 1 verify"),
        ("flush", "unix n - n 1000? 0 flush"),
        ("tlsmgr", "unix - - n 1000? 1 tlsmgr"),
        ("proxymap", "unix - - n - - proxymap"),
        ("smtp", "unix - - n - - smtp"),
        ("relay", "unix - - n - - smtp"),
        ("error", "unix - - n - - error"),
        ("retry", "unix - - n - - error"),
        ("discard", "unix - - n - - discard"),
        ("local", "unix - n n - - local"),
        ("virtual", "unix - n n - - virtual"),
        ("lmtp", "unix - - n - - lmtp"),
        ("anvil", "unix - - n - 1 anvil"),
        ("scache", "unix - - n - 1 scache"),
        ("postlog", "unix-dgram n - n - 1 postlogd"),
    ];
    let mut text = format!("{address} inet n - n - - smtpd\n");
    for (name, rest) in services {
        text.push_str(&format!("{name} {rest}\n"));
    }
    text
}
