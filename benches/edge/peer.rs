//! Peer: what stands between the generator and the sink: a daemon of ours, a Postfix, or nothing.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Options;
use crate::machine::{self, Usage};

pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    kind: Kind,
    dir: tempfile::TempDir,
}

enum Kind {
    Nothing,
    Landfall { process: Child, admin: SocketAddr },
    Postfix { master: u32 },
}

impl Peer {
    pub(crate) async fn start(name: &str, options: &Options, sink: SocketAddr) -> Self {
        let dir =
            tempfile::Builder::new().prefix("edge-bench").tempdir_in(".").expect("a directory on this disk");
        let address = free_address();
        let (address, kind) = match name {
            "sink" => (sink, Kind::Nothing),
            "landfall" => (address, landfall(options, dir.path(), address, sink, "spool")),
            "inline" => (address, landfall(options, dir.path(), address, sink, "inline")),
            "postfix" => (address, postfix(dir.path(), address, sink)),
            other => panic!("unknown peer '{other}': landfall, inline, postfix or sink"),
        };
        wait_until_open(address);
        Self { address, kind, dir }
    }

    pub(crate) fn usage(&self) -> Usage {
        match &self.kind {
            Kind::Nothing => Usage::default(),
            Kind::Landfall { process, .. } => machine::usage(process.id()),
            Kind::Postfix { master } => machine::usage(*master),
        }
    }

    /// How often it synced the disk, where it tells.
    pub(crate) async fn syncs(&self) -> Option<u64> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Kind::Landfall { admin, .. } = &self.kind else { return None };
        let mut stream = tokio::net::TcpStream::connect(admin).await.ok()?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await.ok()?;
        page.lines().find_map(|line| line.strip_prefix("landfall_spool_syncs ")?.trim().parse().ok())
    }

    /// kill -9 and start again on the same state; how long until it answers.
    pub(crate) fn restart(&mut self, options: &Options) -> Duration {
        let Kind::Landfall { process, .. } = &mut self.kind else {
            panic!("only a daemon of ours is restarted")
        };
        process.kill().and_then(|()| process.wait()).expect("it ran");
        let started = Instant::now();
        *process = start_landfall(options, self.dir.path());
        let banner = || {
            use std::io::Read;
            let mut stream = std::net::TcpStream::connect(self.address).ok()?;
            stream.read_exact(&mut [0; 3]).ok()
        };
        while banner().is_none() {
            assert!(started.elapsed() < Duration::from_secs(120), "it does not come back");
            std::thread::sleep(Duration::from_millis(5));
        }
        started.elapsed()
    }

    pub(crate) fn stop(&mut self) {
        match &mut self.kind {
            Kind::Nothing => {}
            Kind::Landfall { process, .. } => {
                let _ = process.kill();
                let _ = process.wait();
            }
            Kind::Postfix { .. } => {
                let config = self.dir.path().join("etc");
                let _ =
                    Command::new("postfix").arg("-c").arg(&config).arg("stop").stderr(Stdio::null()).status();
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port")
}

fn wait_until_open(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn write(path: &Path, text: &str) {
    fs::File::create(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("a file in our directory");
}

fn landfall(options: &Options, dir: &Path, address: SocketAddr, sink: SocketAddr, mode: &str) -> Kind {
    let admin = free_address();
    let config = dir.join("landfall.toml");
    write(
        &config,
        &format!(
            "[node]\nhostname = \"edge.example.test\"\nregion = \"EUR\"\nstate_dir = \"{}\"\n\
             [[listener]]\nname = \"mx\"\naddress = [\"{address}\"]\ntls = \"starttls\"\n\
             [tls]\nself_signed = true\n\
             [region.EUR]\nstore = [\"smtp://{sink}\"]\ntls = \"off\"\nmode = \"{mode}\"\n\
             [directory]\nsource = \"file\"\npath = \"directory.toml\"\n\
             [queue]\nfirst_intervals = [\"1s\"]\nmax_interval = \"1s\"\nmax_messages = 10000000\n\
             [limits]\nmemory = \"8GiB\"\nconnections = 20000\nconnections_per_ip = 100000\nper_recipient_per_hour = 0\n\
             [admin]\nsocket = \"admin.sock\"\naddress = \"{admin}\"\n",
            dir.join("state").display(),
        ),
    );
    let mut directory = "[[tenant]]\nid = \"load\"\ndefault_region = \"EUR\"\nallowed_regions = [\"EUR\"]\n\
                         [[tenant.domain]]\nname = \"example.test\"\n"
        .to_owned();
    for user in 0..1000 {
        directory.push_str(&format!("[[tenant.user]]\naddress = \"user{user}@example.test\"\n"));
    }
    write(&dir.join("directory.toml"), &directory);
    let process = start_landfall(options, dir);
    Kind::Landfall { process, admin }
}

fn start_landfall(options: &Options, dir: &Path) -> Child {
    let binary = options.binary.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_landfall")));
    let log =
        fs::File::options().create(true).append(true).open(dir.join("landfall.log")).expect("a log file");
    Command::new(binary)
        .arg("serve")
        .arg("--config")
        .arg(dir.join("landfall.toml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the daemon starts")
}

/// Debian's Postfix as the table in `docs/PERFORMANCE.md` has it: defaults, but its limits on connections
/// and concurrency raised and its pause after errors off. Nothing that weakens durability is changed.
fn postfix(dir: &Path, address: SocketAddr, sink: SocketAddr) -> Kind {
    let (etc, queue, data) = (dir.join("etc"), dir.join("queue"), dir.join("data"));
    for path in [&etc, &queue, &data] {
        fs::create_dir_all(path).expect("a directory");
    }
    let absolute = |path: &Path| path.canonicalize().expect("just made").display().to_string();
    let (etc, queue, data) = (absolute(&etc), absolute(&queue), absolute(&data));
    let _ = Command::new("chown").args(["postfix", &data]).status();
    let users: String = (0..1000).map(|user| format!("user{user}@example.test x\n")).collect();
    write(&Path::new(&etc).join("users"), &users);
    write(
        &Path::new(&etc).join("main.cf"),
        &format!(
            "compatibility_level = 3.6\nqueue_directory = {queue}\ndata_directory = {data}\n\
             myhostname = edge.example.test\nmydestination =\nmynetworks =\ninet_interfaces = 127.0.0.1\n\
             inet_protocols = ipv4\nrelay_domains = example.test\nrelay_recipient_maps = texthash:{etc}/users\n\
             relay_transport = smtp:[{}]:{}\nrelay_destination_concurrency_limit = 50\n\
             smtp_destination_concurrency_limit = 50\ndefault_destination_concurrency_limit = 50\n\
             smtpd_client_connection_count_limit = 0\nsmtpd_error_sleep_time = 0\n\
             default_process_limit = 200\nalias_maps =\nalias_database =\nmessage_size_limit = 157286400\n\
             maillog_file = /var/log/edge-bench-postfix.log\nsmtpd_tls_security_level = may\n\
             smtpd_tls_cert_file = {etc}/cert.pem\nsmtpd_tls_key_file = {etc}/key.pem\n",
            sink.ip(),
            sink.port(),
        ),
    );
    let key =
        rcgen::generate_simple_self_signed(vec!["edge.example.test".to_owned()]).expect("a certificate");
    write(&Path::new(&etc).join("cert.pem"), &key.cert.pem());
    write(&Path::new(&etc).join("key.pem"), &key.signing_key.serialize_pem());
    let master = fs::read_to_string("/etc/postfix/master.cf")
        .or_else(|_| fs::read_to_string("/usr/share/postfix/master.cf.dist"));
    let master: String = master
        .expect("Postfix is installed")
        .lines()
        .map(|line| match line.strip_prefix("smtp      inet") {
            Some(rest) => format!("{address} inet{}\n", rest.replacen(" y ", " n ", 1)),
            None if line.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{}\n", unchrooted(line)),
            None => format!("{line}\n"),
        })
        .collect();
    write(&Path::new(&etc).join("master.cf"), &master);
    let run = |verb: &str| {
        let status = Command::new("postfix").arg("-c").arg(&etc).arg(verb).stderr(Stdio::null()).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "postfix {verb} failed: see /var/log/edge-bench-postfix.log"
        );
    };
    run("start");
    let pid = fs::read_to_string(Path::new(&queue).join("pid/master.pid")).expect("a running master");
    Kind::Postfix { master: pid.trim().parse().expect("a process id") }
}

/// Debian runs most services chrooted; without its set-up scripts they run as they are.
fn unchrooted(line: &str) -> String {
    let mut fields: Vec<&str> = line.split_whitespace().collect();
    if fields.len() >= 8 && fields[4] == "y" {
        fields[4] = "n";
    }
    fields.join(" ")
}
