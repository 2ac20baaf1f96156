//! Postgres: a real server of its own, that can be stopped, frozen, and made to refuse.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::authority::Pair;
use super::place::{Folder, free_address, is_listening};
use super::process::{Process, is_root};
use super::wait::until;

pub struct Postgres {
    process: Option<Process>,
    folder: Folder,
    pub address: SocketAddr,
}

impl Postgres {
    /// An empty database `landfall`, owned by a user of that name, that lets everybody on loopback in.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With more lines of postgresql.conf.
    pub fn start_with(extra: &str) -> Self {
        Self::start_at(free_address(), extra, None)
    }

    /// Speaks TLS with this certificate; `address` is where it will be, since the certificate names it.
    pub fn start_secure(address: SocketAddr, pair: &Pair) -> Self {
        Self::start_at(address, "ssl = on", Some(pair))
    }

    fn start_at(address: SocketAddr, extra: &str, pair: Option<&Pair>) -> Self {
        let folder = Folder::new();
        let data = folder.join("data");
        fs::create_dir(&data).expect("our own folder");
        fs::create_dir(folder.join("socket")).expect("our own folder");
        own(&data);
        own(&folder.join("socket"));
        let made = as_postgres("initdb", &folder)
            .args([
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .output()
            .expect("PostgreSQL is installed; tests/run installs what is missing");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let settings = format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = '{}'\n\
             fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nlog_statement = all\n\
             log_line_prefix = ''\nautovacuum = off\n{extra}\n",
            address.ip(),
            address.port(),
            folder.join("socket").display()
        );
        let file = data.join("postgresql.conf");
        let before = fs::read_to_string(&file).expect("initdb wrote it");
        fs::write(&file, before + &settings).expect("our own folder");
        let mut postgres = Self { process: None, folder, address };
        if let Some(pair) = pair {
            postgres.lay(pair);
        }
        postgres.run();
        postgres.sql_in("postgres", "CREATE ROLE landfall LOGIN");
        postgres.sql_in("postgres", "CREATE DATABASE landfall OWNER landfall");
        postgres
    }

    /// One that follows this one and takes no changes itself.
    pub fn replica(&self) -> Self {
        let (folder, address) = (Folder::new(), free_address());
        fs::create_dir(folder.join("socket")).expect("our own folder");
        own(&folder.join("socket"));
        // The server's own user makes it, in a folder that it may write to.
        own(&folder);
        let copied = as_postgres("pg_basebackup", &folder)
            .args(["-R", "-X", "stream", "-c", "fast", "-U", "postgres", "-h"])
            .arg(self.folder.join("socket"))
            .args(["-p", &self.address.port().to_string(), "-D"])
            .arg(folder.join("data"))
            .output()
            .expect("pg_basebackup comes with PostgreSQL");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let settings = format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = '{}'\n",
            address.ip(),
            address.port(),
            folder.join("socket").display()
        );
        let file = folder.join("data").join("postgresql.conf");
        let before = fs::read_to_string(&file).expect("it was copied");
        fs::write(&file, before + &settings).expect("our own folder");
        let mut replica = Self { process: None, folder, address };
        replica.run();
        replica
    }

    /// Starts it again after `stop`.
    pub fn run(&mut self) {
        let mut command = as_postgres("postgres", &self.folder);
        command.arg("-D").arg(self.data());
        let mut process = Process::start(&mut command, &self.folder.join("log"));
        let address = self.address;
        until("PostgreSQL to answer", || {
            assert!(process.exited().is_none(), "PostgreSQL ended:\n{}", self.log());
            (is_listening(address) && self.try_sql("postgres", "SELECT 1").is_ok()).then_some(())
        });
        self.process = Some(process);
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn url(&self) -> String {
        format!("postgres://landfall@{}/landfall", self.address)
    }

    /// `[directory]` for an edge.
    pub fn settings(&self) -> String {
        format!(
            "[directory]\nsource = \"postgres\"\nurl = \"{}\"\ntls = \"off\"\nlookup_deadline = \"5s\"\n",
            self.url()
        )
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    /// Runs SQL as the server's owner; what it gives, row by row, columns separated by `|`.
    pub fn sql(&self, sql: &str) -> String {
        self.sql_in("landfall", sql)
    }

    fn sql_in(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The error's text when the server refuses.
    pub fn refused(&self, sql: &str) -> String {
        self.try_sql("landfall", sql).expect_err(sql)
    }

    fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = Command::new(postgres_program("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"])
            .arg(self.folder.join("socket"))
            .args(["-p", &self.address.port().to_string(), "-c", sql])
            .output()
            .expect("psql comes with PostgreSQL");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("PostgreSQL runs")
    }

    /// As a server's restart does it: open connections are cut.
    pub fn stop(&mut self) {
        self.process().signal("INT");
        self.process().wait();
        self.process = None;
    }

    /// Connections stay open, and nothing answers.
    pub fn freeze(&mut self) {
        self.process().freeze();
    }

    pub fn thaw(&mut self) {
        self.process().thaw();
    }

    /// Lets these in from now on, as a line of pg_hba.conf, and cuts the connections that are.
    pub fn admit(&mut self, line: &str) {
        self.admit_later(line);
        self.process().signal("HUP");
        self.cut();
    }

    /// As `admit`, for when it runs again.
    pub fn admit_later(&self, line: &str) {
        let lines = format!("local all postgres trust\n{line}\n");
        fs::write(self.data().join("pg_hba.conf"), lines).expect("our own folder");
    }

    pub fn admit_all(&mut self) {
        self.admit("host all all 127.0.0.0/8 trust");
    }

    /// Ends the connections of clients that are not the server's owner.
    pub fn cut(&self) {
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'landfall'");
    }

    /// Shows this certificate from now on.
    pub fn show(&mut self, pair: &Pair) {
        self.lay(pair);
        self.process().signal("HUP");
        self.cut();
    }

    fn lay(&self, pair: &Pair) {
        for (from, name) in [(&pair.cert, "server.crt"), (&pair.key, "server.key")] {
            let to = self.data().join(name);
            fs::copy(from, &to).expect("our own folder");
            fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .expect("our own file");
            own(&to);
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process
            && process.exited().is_none()
        {
            self.thaw();
            // Its children go with it only when the postmaster ends by itself.
            self.process().signal("QUIT");
            self.process().wait();
        }
    }
}

/// Debian keeps them out of the path.
pub fn postgres_program(program: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest =
        versions.map(|version| version.path().join("bin").join(program)).filter(|path| path.exists()).max();
    newest.unwrap_or_else(|| program.into())
}

/// PostgreSQL refuses root.
fn as_postgres(program: &str, folder: &Folder) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(postgres_program(program));
        command
    } else {
        Command::new(postgres_program(program))
    };
    command.current_dir(&**folder).env("LC_ALL", "C");
    command
}

fn own(path: &Path) {
    if is_root() {
        let user = nix::unistd::User::from_name("postgres").ok().flatten();
        let user = user.expect("PostgreSQL is installed; tests/run installs what is missing");
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may");
    }
}
