//! Dane: a server that proves itself by what the signed DNS says of its certificate (RFC 6698, 7671, 7672).
//!
//! Owns the match of a TLSA record with a certificate, and the verifier of one connection. Who asks for the
//! records, and whether to believe them, is `delivery`'s.

use std::fmt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tls::signatures;

/// Records looked at for one server.
const ASSOCIATIONS_LIMIT: usize = 32;

/// One usable TLSA record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    whose: Whose,
    part: Part,
    form: Form,
    data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// DANE-TA(2): an authority in the chain.
    Authority,
    /// DANE-EE(3): the server's own.
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Certificate,
    PublicKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    Sha256,
    Sha512,
}

impl Association {
    /// `None` for what mail cannot use: usages 0 and 1 (RFC 7672 §3.1.3), unknown numbers, digests of a wrong size.
    pub fn usable(usage: u8, selector: u8, matching: u8, data: &[u8]) -> Option<Self> {
        let whose = match usage {
            2 => Whose::Authority,
            3 => Whose::Server,
            _ => return None,
        };
        let part = match selector {
            0 => Part::Certificate,
            1 => Part::PublicKey,
            _ => return None,
        };
        let (form, fits) = match matching {
            0 => (Form::Whole, !data.is_empty()),
            1 => (Form::Sha256, data.len() == 32),
            2 => (Form::Sha512, data.len() == 64),
            _ => return None,
        };
        fits.then(|| Self { whose, part, form, data: data.to_vec() })
    }

    fn matches(&self, certificate: &[u8]) -> bool {
        let key;
        let part = match self.part {
            Part::Certificate => certificate,
            Part::PublicKey => match X509Certificate::from_der(certificate) {
                Ok((_, parsed)) => {
                    key = parsed.tbs_certificate.subject_pki.raw.to_vec();
                    &key
                }
                Err(_) => return false,
            },
        };
        let digest = |algorithm| aws_lc_rs::digest::digest(algorithm, part).as_ref() == self.data;
        match self.form {
            Form::Whole => part == self.data,
            Form::Sha256 => digest(&aws_lc_rs::digest::SHA256),
            Form::Sha512 => digest(&aws_lc_rs::digest::SHA512),
        }
    }
}

/// What a server must prove on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dane {
    associations: Vec<Association>,
    /// Names of which one must be in a certificate that an authority vouches for. RFC 7672 §3.2.2
    names: Vec<String>,
}

impl Dane {
    pub fn new(mut associations: Vec<Association>, names: Vec<String>) -> Self {
        associations.truncate(ASSOCIATIONS_LIMIT);
        Self { associations, names }
    }

    fn verify(
        &self,
        first: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<(), rustls::Error> {
        let of = |whose| self.associations.iter().filter(move |association| association.whose == whose);
        // Neither names nor dates count: the record says which key it is. RFC 7671 §5.1
        if of(Whose::Server).any(|association| association.matches(first)) {
            return Ok(());
        }
        let mut failure = rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        for authority in others.iter().filter(|other| of(Whose::Authority).any(|it| it.matches(other))) {
            match self.verify_below(authority, first, others, now, algorithms) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        // An authority need not come along when the record holds all of it. RFC 7671 §5.2.2
        let whole = of(Whose::Authority).filter(|it| it.form == Form::Whole && it.part == Part::Certificate);
        for association in whole {
            let authority = CertificateDer::from(association.data.clone());
            match self.verify_below(&authority, first, others, now, algorithms) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn verify_below(
        &self,
        authority: &CertificateDer<'_>,
        first: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let parsed = ParsedCertificate::try_from(first)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, others, now, algorithms.all)?;
        let named = |name: &String| {
            ServerName::try_from(name.as_str()).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
        };
        if self.names.iter().any(named) {
            Ok(())
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }
}

/// Believes what the DNS says, and nobody else.
pub(super) struct DaneVerifier {
    dane: Dane,
    algorithms: WebPkiSupportedAlgorithms,
}

impl DaneVerifier {
    pub(super) fn new(dane: Dane, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { dane, algorithms }
    }
}

impl fmt::Debug for DaneVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DaneVerifier").field(&self.dane).finish()
    }
}

impl ServerCertVerifier for DaneVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.dane.verify(end_entity, intermediates, now, self.algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    struct Chain {
        leaf: CertificateDer<'static>,
        authority: CertificateDer<'static>,
        stranger: CertificateDer<'static>,
    }

    fn chain(name: &str) -> Chain {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("a certificate").der().clone();
            (certificate, Issuer::new(params, key))
        };
        let (ca, issuer) = authority("one");
        let (stranger, _) = authority("two");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let leaf = params.signed_by(&key, &issuer).expect("an issuer").der().clone();
        Chain { leaf, authority: ca, stranger }
    }

    fn sha256(bytes: &[u8]) -> Vec<u8> {
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
    }

    fn spki(certificate: &[u8]) -> Vec<u8> {
        X509Certificate::from_der(certificate)
            .expect("a certificate")
            .1
            .tbs_certificate
            .subject_pki
            .raw
            .to_vec()
    }

    fn verify(association: Option<Association>, chain: &Chain, names: &[&str]) -> bool {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let dane = Dane::new(association.into_iter().collect(), names);
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let others = [chain.authority.clone()];
        dane.verify(&chain.leaf, &others, UnixTime::now(), algorithms).is_ok()
    }

    #[test]
    fn the_servers_own_key_is_enough_whatever_its_name() {
        let chain = chain("other.example");
        let sha512 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, &chain.leaf).as_ref().to_vec();
        for (selector, matching, data) in [
            (0, 0, chain.leaf.to_vec()),
            (0, 1, sha256(&chain.leaf)),
            (0, 2, sha512),
            (1, 0, spki(&chain.leaf)),
            (1, 1, sha256(&spki(&chain.leaf))),
        ] {
            let association = Association::usable(3, selector, matching, &data);
            assert!(verify(association, &chain, &["mx.example"]), "3 {selector} {matching}");
        }
        let wrong = Association::usable(3, 1, 1, &sha256(&spki(&chain.authority)));
        assert!(!verify(wrong, &chain, &["mx.example"]));
        assert!(!verify(None, &chain, &["other.example"]));
    }

    #[test]
    fn an_authority_vouches_for_names() {
        let chain = chain("mx.example");
        for (selector, data) in [(0, chain.authority.to_vec()), (1, spki(&chain.authority))] {
            let association = || Association::usable(2, selector, 1, &sha256(&data));
            assert!(verify(association(), &chain, &["mx.example"]), "2 {selector} 1");
            assert!(verify(association(), &chain, &["example", "mx.example"]), "either name");
            assert!(!verify(association(), &chain, &["other.example"]), "a name of its own");
        }
        let stranger = Association::usable(2, 0, 1, &sha256(&chain.stranger));
        assert!(!verify(stranger, &chain, &["mx.example"]));
        let whole = Association::usable(2, 0, 0, &chain.authority);
        assert!(
            verify(whole, &Chain { authority: chain.stranger.clone(), ..self::chain("x") }, &[]).eq(&false)
        );
    }

    #[test]
    fn an_authority_that_does_not_come_along_may_be_in_the_record() {
        let chain = chain("mx.example");
        let whole = Association::usable(2, 0, 0, &chain.authority).expect("usable");
        let dane = Dane::new(vec![whole], vec!["mx.example".to_owned()]);
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        assert!(dane.verify(&chain.leaf, &[], UnixTime::now(), algorithms).is_ok());
    }

    #[test]
    fn what_mail_cannot_use_is_left_out() {
        for (usage, selector, matching, size) in [
            (0, 0, 1, 32),
            (1, 1, 1, 32),
            (4, 1, 1, 32),
            (3, 2, 1, 32),
            (3, 1, 3, 32),
            (3, 1, 1, 31),
            (3, 1, 2, 32),
            (3, 1, 0, 0),
        ] {
            assert_eq!(Association::usable(usage, selector, matching, &vec![0; size]), None);
        }
    }
}
