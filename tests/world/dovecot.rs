//! Dovecot: a real LMTP store with its own small configuration, read back through doveadm.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;

use super::letter::Letter;
use super::place::{Folder, free_address, is_listening};
use super::process::{Process, is_root};
use super::wait::until;

pub struct Dovecot {
    process: Process,
    folder: Folder,
    pub address: SocketAddr,
}

impl Dovecot {
    /// Takes mail for `users` and answers 550 for everybody else.
    pub fn start(users: &[&str]) -> Self {
        Self::start_at(free_address(), users, "ssl = no")
    }

    /// `extra` is configuration: TLS, chiefly.
    pub fn start_at(address: SocketAddr, users: &[&str], extra: &str) -> Self {
        let folder = Folder::new();
        fs::create_dir(folder.join("mail")).expect("our own folder");
        let passwd: String = users.iter().map(|user| format!("{user}:::::::\n")).collect();
        fs::write(folder.join("users"), passwd).expect("our own folder");
        fs::write(folder.join("dovecot.conf"), configuration(&folder, address, extra))
            .expect("our own folder");
        let mut command = Command::new("dovecot");
        command.arg("-F").arg("-c").arg(folder.join("dovecot.conf"));
        let process = Process::start(&mut command, &folder.join("output"));
        let mut dovecot = Self { process, folder, address };
        until("dovecot to listen", || {
            assert!(dovecot.process.exited().is_none(), "dovecot ended: {}", dovecot.log());
            is_listening(address).then_some(())
        });
        dovecot
    }

    pub fn url(&self) -> String {
        format!("lmtp://{}", self.address)
    }

    /// The same server by its socket file.
    pub fn unix_url(&self) -> String {
        format!("lmtp+unix://{}", self.folder.join("lmtp.sock").display())
    }

    pub fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        format!("{}{}", read("output"), read("log"))
    }

    /// Every complete message of a user, as doveadm gives it.
    pub fn mailbox(&self, user: &str) -> Vec<Letter> {
        let output = Command::new("doveadm")
            .arg("-c")
            .arg(self.folder.join("dovecot.conf"))
            .args(["-f", "json", "fetch", "-u", user, "text", "mailbox", "INBOX", "ALL"])
            .output()
            .expect("doveadm comes with dovecot");
        // Before the first delivery there is no mailbox to look into.
        let Ok(serde_json::Value::Array(rows)) = serde_json::from_slice(&output.stdout) else {
            return Vec::new();
        };
        rows.iter().filter_map(|row| row["text"].as_str()).map(|text| Letter(text.into())).collect()
    }

    /// The files themselves, for bytes that are no text.
    pub fn files(&self, user: &str) -> Vec<Letter> {
        let Ok(entries) = fs::read_dir(self.home(user).join("new")) else { return Vec::new() };
        entries.filter_map(|entry| Some(Letter(fs::read(entry.ok()?.path()).ok()?))).collect()
    }

    pub fn wait_for(&self, user: &str, count: usize) -> Vec<Letter> {
        until(&format!("{count} messages for {user} in dovecot"), || {
            Some(self.files(user)).filter(|files| files.len() >= count)
        })
    }

    fn home(&self, user: &str) -> PathBuf {
        let (local, domain) = user.split_once('@').expect("a user is an address");
        self.folder.join("mail").join(domain).join(local)
    }

    /// Makes this user's deliveries fail for now: a file lies where the mailbox should be.
    pub fn obstruct(&self, user: &str) {
        let home = self.home(user);
        fs::create_dir_all(home.parent().expect("a home has a parent")).expect("our own folder");
        fs::write(&home, "").expect("our own folder");
        own(&self.folder);
    }

    pub fn clear(&self, user: &str) {
        fs::remove_file(self.home(user)).expect("obstructed before");
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.log().matches("Connect from").count()
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // Its children go with it only when the master ends in order.
        if self.process.exited().is_none() {
            self.process.signal("TERM");
            self.process.wait();
        }
    }
}

/// Mail is never stored as root, so the tree belongs to the one who stores it.
fn own(folder: &Folder) {
    if !is_root() {
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody").ok().flatten().expect("every system has nobody");
    let mut open = vec![folder.join("mail")];
    while let Some(path) = open.pop() {
        chown(&path, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).expect("root may");
        if let Ok(entries) = fs::read_dir(&path) {
            open.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
    }
}

fn configuration(folder: &Folder, address: SocketAddr, extra: &str) -> String {
    own(folder);
    let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().expect("we are somebody");
    let group = nix::unistd::Group::from_gid(me.gid).ok().flatten().expect("we have a group");
    let storing = if is_root() { "nobody".to_owned() } else { me.name.clone() };
    let storing_group = if is_root() { "nogroup".to_owned() } else { group.name.clone() };
    let (here, ip, port) = (folder.display(), address.ip(), address.port());
    let (me, group) = (me.name, group.name);
    format!(
        "base_dir = {here}/run
log_path = {here}/log
protocols = lmtp
listen = {ip}
default_internal_user = {me}
default_internal_group = {group}
default_login_user = {me}
first_valid_uid = 1
first_valid_gid = 1
mail_uid = {storing}
mail_gid = {storing_group}
mail_location = maildir:{here}/mail/%d/%n
mail_save_crlf = yes
lmtp_add_received_header = no
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
service lmtp {{
  chroot =
  inet_listener lmtp {{
    address = {ip}
    port = {port}
  }}
  unix_listener {here}/lmtp.sock {{
    mode = 0600
  }}
}}
passdb {{
  driver = passwd-file
  args = {here}/users
}}
userdb {{
  driver = passwd-file
  args = {here}/users
}}
{extra}
"
    )
}
