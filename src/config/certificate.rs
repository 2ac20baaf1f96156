//! Certificate: whether the PEM files that a configuration names can be used.
//!
//! Owns the check beforehand; `net::tls` reads them again when it needs them.

use std::path::Path;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::CertificateFiles;
use crate::document::Entry;

/// Both readable, and the key is the certificate's.
pub(super) fn check_pair(cert: &Entry<'_>, key: &Entry<'_>, files: &CertificateFiles) {
    let chain = read_chain(cert, &files.cert);
    let private = match PrivateKeyDer::from_pem_file(&files.key) {
        Ok(private) => Some(private),
        Err(error) => {
            key.mistake(format!("{} cannot be used: {error}", written(key)), "a private key in PEM");
            None
        }
    };
    let (Some(chain), Some(private)) = (chain, private) else { return };
    if let Err(error) = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()) {
        let problem = format!("{} cannot be used with {}: {error}", written(key), written(cert));
        key.mistake(problem, "the private key of the certificate");
    }
}

/// Readable, and at least one certificate.
pub(super) fn check_authorities(entry: &Entry<'_>, path: &Path) {
    read_chain(entry, path);
}

fn read_chain(entry: &Entry<'_>, path: &Path) -> Option<Vec<CertificateDer<'static>>> {
    let expected = "certificates in PEM";
    let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match chain {
        Ok(chain) if chain.is_empty() => {
            entry.mistake(format!("{} has no certificate", written(entry)), expected)
        }
        Ok(chain) => return Some(chain),
        Err(error) => entry.mistake(format!("{} cannot be used: {error}", written(entry)), expected),
    }
    None
}

/// The path as the operator wrote it.
fn written(entry: &Entry<'_>) -> String {
    format!("{:?}", entry.text().unwrap_or_default())
}
