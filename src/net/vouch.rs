//! Vouch: what the verifier of chains leaves open, for mail servers with certificates of other people's making.
//!
//! It reads no certificate of version 1, and takes no authority's own certificate from its bearer: the plain
//! ways of `openssl x509 -req` and `openssl req -x509`. Keys too short to be checked never count.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::asn1_rs::{Any, Sequence};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};
use x509_parser::public_key::PublicKey;

use super::tls::signatures;

/// Shorter RSA keys sign nothing that is verified here.
const RSA_BITS: usize = 2048;

/// Whether a signature by its key can be checked at all.
pub(super) fn is_checkable(certificate: &CertificateDer<'_>, algorithms: &WebPkiSupportedAlgorithms) -> bool {
    let Some((parsed, key)) = read(certificate) else { return false };
    let is_known = algorithms.all.iter().any(|algorithm| *algorithm.public_key_alg_id() == *key.algorithm);
    let is_short = match parsed.public_key().parsed() {
        Ok(PublicKey::RSA(rsa)) => rsa.key_size() < RSA_BITS,
        Ok(_) => false,
        Err(_) => true,
    };
    is_known && !is_short
}

/// The proof of the key where the certificate could not be read to look at it.
pub(super) fn proves_key(
    verified: Result<HandshakeSignatureValid, rustls::Error>,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    if verified.is_ok() || ParsedCertificate::try_from(certificate).is_ok() {
        return verified;
    }
    let fitting = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let proven = read(certificate)
        .zip(fitting)
        .is_some_and(|((_, key), (_, fitting))| key.has_signed(fitting, None, message, signed.signature()));
    if proven { Ok(HandshakeSignatureValid::assertion()) } else { verified }
}

/// Whether a certificate holds all the same: it is one of these authorities', shown by the authority, or of
/// version 1 and signed by one of them.
pub(super) fn is_vouched(
    certificate: &CertificateDer<'_>,
    roots: &RootCertStore,
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let Some((parsed, key)) = read(certificate) else { return false };
    let validity = parsed.validity();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if !(validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now) {
        return false;
    }
    let is_own = |root: &TrustAnchor<'_>| {
        content(parsed.subject().as_raw()).as_deref() == Some(&*root.subject)
            && *root.subject_public_key_info == *key.whole
    };
    let is_issuer = |root: &TrustAnchor<'_>| {
        parsed.version() == X509Version::V1
            && root.name_constraints.is_none()
            && content(parsed.issuer().as_raw()).as_deref() == Some(&*root.subject)
            && has_issued(root, certificate, &parsed, algorithms)
    };
    roots.roots.iter().any(|root| is_own(root) || is_issuer(root))
}

fn has_issued(
    root: &TrustAnchor<'_>,
    certificate: &CertificateDer<'_>,
    parsed: &X509Certificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let signed_with = || {
        let whole = content(certificate)?;
        let (behind, _) = Any::from_der(&whole).ok()?;
        let (_, algorithm) = Sequence::from_der(behind).ok()?;
        Some(algorithm.content.into_owned())
    };
    let Some((key, signed_with)) = Key::read(&root.subject_public_key_info).zip(signed_with()) else {
        return false;
    };
    let message = parsed.tbs_certificate.as_ref();
    key.has_signed(algorithms.all, Some(&signed_with), message, &parsed.signature_value.data)
}

/// A public key, in the pieces that algorithms ask for.
struct Key {
    whole: Vec<u8>,
    algorithm: Vec<u8>,
    bits: Vec<u8>,
}

impl Key {
    /// From what is inside of `SubjectPublicKeyInfo`. RFC 5280 §4.1
    fn read(whole: &[u8]) -> Option<Self> {
        let (rest, algorithm) = Sequence::from_der(whole).ok()?;
        let (_, bits) = Any::from_der(rest).ok()?;
        // The first octet of a bit string says how many bits at its end are none.
        let (unused, bits) = bits.data.split_first()?;
        (*unused == 0).then(|| Self {
            whole: whole.to_vec(),
            algorithm: algorithm.content.into_owned(),
            bits: bits.to_vec(),
        })
    }

    fn has_signed(
        &self,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        signed_with: Option<&[u8]>,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        algorithms.iter().any(|algorithm| {
            *algorithm.public_key_alg_id() == *self.algorithm
                && signed_with.is_none_or(|with| *algorithm.signature_alg_id() == *with)
                && algorithm.verify_signature(&self.bits, message, signature).is_ok()
        })
    }
}

fn read<'c>(certificate: &'c CertificateDer<'_>) -> Option<(X509Certificate<'c>, Key)> {
    let (behind, parsed) = X509Certificate::from_der(certificate).ok()?;
    let key = Key::read(&content(parsed.public_key().raw)?)?;
    behind.is_empty().then_some((parsed, key))
}

/// What is inside of a sequence.
fn content(sequence: &[u8]) -> Option<Vec<u8>> {
    Sequence::from_der(sequence).ok().map(|(_, sequence)| sequence.content.into_owned())
}

/// Verifies servers by chain and name, and takes an authority's own certificate from the authority.
#[derive(Debug)]
pub(super) struct ByName {
    chains: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ByName {
    pub(super) fn new(
        chains: Arc<WebPkiServerVerifier>,
        roots: Arc<RootCertStore>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self { chains, roots, algorithms }
    }
}

impl ServerCertVerifier for ByName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // What it says of itself otherwise, such as its time, is said of any certificate.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if is_vouched(end_entity, &self.roots, now, &self.algorithms) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    signatures!();
}
