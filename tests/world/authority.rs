//! Authority: certificates that hold, for names and loopback addresses.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use landfall::clock::Clock;
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

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
        self.issue_for_all(&[name])
    }

    /// One certificate of several names; the first one names its files.
    pub fn issue_for_all(&self, names: &[&str]) -> Pair {
        let name = names[0];
        let all: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(all).expect("names or addresses");
        self.sign(name, &params)
    }

    /// One whose time is over.
    pub fn issue_expired(&self, name: &str) -> Pair {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name or an address");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.sign(&format!("{name}.expired"), &params)
    }

    fn sign(&self, file: &str, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("our own issuer");
        self.write(file, &certificate, &key)
    }

    /// As a public authority issues it to a mail server: for 90 days, with what it is for and where a
    /// revocation would stand.
    pub fn issue_for_a_season(&self, name: &str) -> Pair {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        let today = Clock::System.now().to_string();
        let mut parts = today.split(['-', 'T']).map(|part| part.parse().unwrap_or(1u16));
        let mut next = || parts.next().expect("a date has three parts");
        let (year, month, day) = (i32::from(next()), next(), next());
        let byte = |part: u16| u8::try_from(part).expect("a month or a day");
        params.not_before = rcgen::date_time_ymd(year, byte(month), byte(day));
        params.not_after = params.not_before + Duration::from_secs(90 * 24 * 3600);
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let uris = vec!["http://crl.contoso.com/ca.crl".to_owned()];
        params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
        self.sign(name, &params)
    }

    /// One that nobody but itself vouches for.
    pub fn self_signed(&self, name: &str) -> Pair {
        let params = CertificateParams::new([name.to_owned()]).expect("a name or an address");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate of its own");
        self.write(&format!("own-{name}"), &certificate, &key)
    }

    fn write(&self, file: &str, certificate: &rcgen::Certificate, key: &KeyPair) -> Pair {
        let pair = Pair {
            cert: self.folder.join(format!("{file}.cert.pem")),
            key: self.folder.join(format!("{file}.key.pem")),
        };
        fs::write(&pair.cert, certificate.pem()).expect("our own folder");
        fs::write(&pair.key, key.serialize_pem()).expect("our own folder");
        pair
    }

    pub fn issue_for(&self, address: SocketAddr) -> Pair {
        self.issue(&address.ip().to_string())
    }
}
