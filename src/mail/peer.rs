//! Peer: who is connected: network address, greeting, TLS facts.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Names one connection in logs and replies: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

/// What a finished TLS handshake tells.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TlsFacts {
    /// `TLSv1.3`
    pub version: String,
    /// `TLS_AES_256_GCM_SHA384`
    pub cipher: String,
    /// Subject and SAN names of a client certificate whose chain was verified; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verified_names: Vec<String>,
    /// Why a certificate that was shown counts for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_certificate: Option<String>,
}

/// The client of one inbound session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub ip: IpAddr,
    /// What it called itself in EHLO or HELO; empty before.
    #[serde(default)]
    pub helo: String,
    /// EHLO, not HELO: it may use extensions.
    #[serde(default)]
    pub esmtp: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFacts>,
}

impl Peer {
    pub fn new(ip: IpAddr) -> Self {
        // An IPv4 client of a dual-stack socket is an IPv4 client.
        Self { ip: ip.to_canonical(), helo: String::new(), esmtp: false, tls: None }
    }

    pub fn verified_names(&self) -> &[String] {
        self.tls.as_ref().map_or(&[], |tls| &tls.verified_names)
    }
}
