//! Place: a folder and a loopback address that no other test has.

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use tempfile::TempDir;

/// A folder that is gone with its test. Peers drop their privileges, so others may pass through it.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("landfall-test-").tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("our own folder");
        Self(folder)
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        self.0.path()
    }
}

/// An address of 127/8 that belongs to this process and this call alone, with a port that was free just now:
/// between the look and the bind nobody else asks for that address.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let host = NEXT.fetch_add(1, Ordering::Relaxed).clamp(1, 254);
    let byte = |shift: u32| u8::try_from(pid >> shift & 0xff).expect("masked to a byte");
    let ip = Ipv4Addr::new(127, byte(8).max(1), byte(0), host);
    let probe = TcpListener::bind((ip, 0)).expect("all of 127/8 is loopback on Linux");
    probe.local_addr().expect("a bound socket has an address")
}

/// Whether somebody listens there, without a connection that a test might count.
pub fn is_listening(address: SocketAddr) -> bool {
    let IpAddr::V4(ip) = address.ip() else { panic!("the tests use IPv4") };
    // proc(5): the address in the machine's byte order, the port as a number, state 0A is LISTEN.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(local.as_str()) && fields.nth(1) == Some("0A")
    })
}
