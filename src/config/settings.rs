//! Settings: everything an operator may choose, typed and complete.
//!
//! Owns the defaults. Nothing here is optional that must be there at run time; `file` reads it,
//! `show` writes it, `daemon` hands each room its part.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::{Audit, DirectorySettings, Dns, Headers, Limits, Outbound, Trace};
use crate::mail::{Domain, Endpoint, Region, Regions, TlsLevel};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// The effective settings of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Codes beyond the table of 25 (`region_codes`).
    pub region_codes: Vec<Region>,
    pub node: Node,
    pub listeners: Vec<Listener>,
    pub tls: Tls,
    pub regions: BTreeMap<Region, RegionSettings>,
    pub directory: DirectorySettings,
    pub dns: Dns,
    pub auth: crate::auth::Settings,
    pub outbound: Outbound,
    pub routing: Routing,
    pub queue: Queue,
    pub limits: Limits,
    pub deadlines: Deadlines,
    pub spool: Spool,
    pub wire: Wire,
    pub headers: Headers,
    pub trace: Trace,
    pub audit: Audit,
    pub admin: Admin,
    pub onboarding: crate::onboarding::Settings,
    pub replies: Replies,
    pub log: Log,
}

impl Settings {
    /// Every region code that exists here.
    pub fn known_regions(&self) -> Regions {
        let mut regions = Regions::default();
        for code in &self.region_codes {
            regions.add(*code);
        }
        regions
    }

    /// The certificates to use: those given, else the self-signed pair's place, else none.
    pub fn certificate_files(&self) -> Vec<CertificateFiles> {
        if self.tls.certificates.is_empty() && self.tls.self_signed {
            let folder = self.node.state_dir.join("tls");
            return vec![CertificateFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") }];
        }
        self.tls.certificates.clone()
    }

    /// Where the command line finds the daemon.
    pub fn admin_socket(&self) -> PathBuf {
        self.node.state_dir.join(&self.admin.socket)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Banner, EHLO, Received.
    pub hostname: Domain,
    pub region: Region,
    /// Spool, trace, audit; relative to the working directory.
    pub state_dir: PathBuf,
    /// Whom the process becomes once its sockets are bound; whoever started it when absent.
    pub user: Option<String>,
    /// Whether it gives up what it never needs: writing elsewhere, and system calls that no mail server makes.
    pub sandbox: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    pub addresses: Vec<SocketAddr>,
    pub tls: ListenerTls,
    /// Rule 11: every recipient gets ATTR35.
    pub legacy: bool,
    /// Connections from here must begin with PROXY v1 or v2.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Peers that may say for which client they speak (XCLIENT).
    pub xclient_from: Vec<IpNet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListenerTls {
    Off,
    #[default]
    Starttls,
    /// STARTTLS before MAIL.
    Required,
    /// TLS from the first byte.
    Implicit,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Chosen by SNI; the first one is for clients that name none.
    pub certificates: Vec<CertificateFiles>,
    /// Authorities for client certificates, in PEM; the system's when absent.
    pub client_ca: Option<PathBuf>,
    /// Without a certificate: make a self-signed pair below `state_dir/tls` at first start.
    pub self_signed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// How one region is reached from here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegionSettings {
    /// Where its mailboxes are, when they are reached from here; tried in turn.
    pub store: Vec<Endpoint>,
    pub mode: StoreMode,
    /// Its edges, when mail is handed over; SMTP only, tried in turn.
    pub relay: Vec<Endpoint>,
    /// How its edges are recognised here (spec, section 6).
    pub peers: Vec<PeerPattern>,
    pub tls: TlsLevel,
    /// Authorities of its own besides the system's, in PEM.
    pub ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreMode {
    #[default]
    Spool,
    /// Stream to the store while it answers, spool only on failure.
    Inline,
}

/// A name in a verified certificate, or a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerPattern {
    Name(Domain),
    Network(IpNet),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// Rule 14.
    pub mixed_regions: MixedRegions,
    /// Rule 21.
    pub propagation_window: Duration,
    pub transit: Transit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MixedRegions {
    #[default]
    Defer,
    Split,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transit {
    #[default]
    Spool,
    /// Mail whose home is another region never rests on this disk.
    Inline,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            mixed_regions: MixedRegions::default(),
            propagation_window: minutes(30),
            transit: Transit::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Rule 82: each at most 15 min, none shorter than the one before.
    pub first_intervals: Vec<Duration>,
    /// Rule 82: at most 60 min.
    pub max_interval: Duration,
    pub expire_after: Duration,
    pub delay_dsn_after: Duration,
    /// Connections at once to one next hop.
    pub connections_per_next_hop: usize,
    /// After so many, a connection is closed and a new one made.
    pub messages_per_connection: usize,
    /// How long a connection waits for its next message.
    pub idle_connection: Duration,
    /// More waiting messages than this: rule 18 at RCPT.
    pub max_messages: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            first_intervals: vec![minutes(1), minutes(5), minutes(15)],
            max_interval: minutes(60),
            expire_after: minutes(24 * 60),
            delay_dsn_after: minutes(4 * 60),
            connections_per_next_hop: 20,
            messages_per_connection: 1000,
            idle_connection: seconds(10),
            max_messages: 1_000_000,
        }
    }
}

/// How long we wait for others; RFC 5321 §4.5.3.2 where it names a minimum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlines {
    /// A client's next command.
    pub command: Duration,
    /// A client's next bytes of a message.
    pub data: Duration,
    /// All of a message, however steadily it trickles in.
    pub body: Duration,
    /// A client's taking our reply.
    pub reply: Duration,
    /// A TLS handshake, either direction.
    pub handshake: Duration,
    /// A load balancer's PROXY header.
    pub proxy_header: Duration,
    /// The spool's commit: then 451.
    pub commit: Duration,
    /// One question to the DNS.
    pub resolve: Duration,
    /// A TCP connection to a next hop.
    pub connect: Duration,
    /// A next hop's greeting.
    pub greeting: Duration,
    /// A next hop's answer to EHLO, STARTTLS, MAIL or RCPT.
    pub answer: Duration,
    /// A next hop's 354.
    pub data_start: Duration,
    /// A next hop's taking a block of the message.
    pub data_block: Duration,
    /// A next hop's answer to the whole message.
    pub data_end: Duration,
    /// Inline relay: a next hop's taking a block of the message, and its verdict. Then the spool gets it.
    pub inline: Duration,
    /// Draining: then what is still open is closed.
    pub drain: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            command: minutes(5),
            data: minutes(3),
            body: minutes(60),
            reply: minutes(1),
            handshake: seconds(30),
            proxy_header: seconds(5),
            commit: seconds(30),
            resolve: seconds(10),
            connect: seconds(30),
            greeting: minutes(5),
            answer: minutes(5),
            data_start: minutes(2),
            data_block: minutes(3),
            data_end: minutes(10),
            inline: seconds(30),
            drain: seconds(30),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    pub segment_size: u64,
    /// Bodies above this get a file of their own.
    pub large_body: u64,
    /// What one message may hold in memory before it goes on in a file.
    pub draft_size: u64,
    /// What all messages under way may hold in memory together.
    pub draft_memory: u64,
    /// Free disk space below which MAIL is refused for now (rule 60).
    pub min_free: u64,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            segment_size: 64 * MIB,
            large_body: 2 * MIB,
            draft_size: 2 * MIB,
            draft_memory: 128 * MIB,
            min_free: 256 * MIB,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wire {
    /// Rule 62: bare LF and CR from these networks are made CRLF instead of refused.
    pub normalize_line_endings_from: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Below `state_dir`.
    pub socket: PathBuf,
    pub address: Option<SocketAddr>,
    /// Holds what whoever changes something on that address has to bring.
    pub token_file: Option<PathBuf>,
    /// With the certificates of `[tls]`.
    pub tls: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: PathBuf::from("admin.sock"), address: None, token_file: None, tls: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replies {
    pub service_name: String,
    pub help_url: String,
    /// Ends a reply in ` [<hostname> <time> <session>]`.
    pub context: bool,
}

impl Default for Replies {
    fn default() -> Self {
        Self {
            service_name: "Office 365".to_owned(),
            help_url: "https://go.microsoft.com/fwlink/?linkid=865268".to_owned(),
            context: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
    /// Instead of standard error; opened anew at each reload, so that it can be rotated.
    pub file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}
