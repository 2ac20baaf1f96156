//! Authority: certificates that hold, for names and loopback addresses.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::place::Folder;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: Folder,
}

/// A certificate and its key as files.
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "Landfall test authority");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate of our own");
        let folder = Folder::new();
        fs::write(folder.join("ca.pem"), certificate.pem()).expect("our own folder");
        Self { issuer: Issuer::new(params, key), folder }
    }

    /// What a verifying side trusts.
    pub fn file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    pub fn issue(&self, name: &str) -> Pair {
        let params = CertificateParams::new([name.to_owned()]).expect("a name or an address");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("our own issuer");
        let pair = Pair {
            cert: self.folder.join(format!("{name}.cert.pem")),
            key: self.folder.join(format!("{name}.key.pem")),
        };
        fs::write(&pair.cert, certificate.pem()).expect("our own folder");
        fs::write(&pair.key, key.serialize_pem()).expect("our own folder");
        pair
    }

    pub fn issue_for(&self, address: SocketAddr) -> Pair {
        self.issue(&address.ip().to_string())
    }
}
