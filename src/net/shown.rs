//! Shown: the certificate that a server showed, and the verdict on it after the handshake.
//!
//! For those who want to know what is wrong with it and go on all the same; mail never comes here.

use std::fmt;
use std::sync::Arc;

use rustls::CertificateError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Error;
use super::dane::DaneVerifier;
use super::tls::{ClientTls, PROVIDER, Trust, names_of};
use crate::clock::Timestamp;

/// Names that are worth a line.
const NAMES_LIMIT: usize = 5;

#[derive(Debug, Clone)]
pub struct Shown {
    chain: Vec<CertificateDer<'static>>,
    /// Subject and DNS names, in lower case.
    pub names: Vec<String>,
    pub issuer: String,
    pub expires: Timestamp,
}

impl Shown {
    pub(super) fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(chain.first()?).ok()?;
        Some(Self {
            names: names_of(&parsed),
            issuer: parsed.issuer().to_string(),
            expires: Timestamp::from_millis(parsed.validity().not_after.timestamp().saturating_mul(1000)),
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
        })
    }

    /// Whether it would have been believed.
    pub fn verdict(&self, tls: &ClientTls, trust: Trust<'_>, server_name: &str) -> Result<(), Error> {
        let name =
            ServerName::try_from(server_name).map_err(|_| Error::ServerName(server_name.to_owned()))?;
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Anyone => return Ok(()),
            Trust::Dane(dane) => {
                Arc::new(DaneVerifier::new(dane.clone(), PROVIDER.signature_verification_algorithms))
            }
            Trust::Named | Trust::NamedBy(_) => {
                let roots = match trust {
                    Trust::NamedBy(file) => tls.roots().and_file(file)?,
                    Trust::Named | Trust::Anyone | Trust::Dane(_) => tls.roots(),
                };
                // Who believes nobody cannot be asked whom he believes.
                let built = WebPkiServerVerifier::builder_with_provider(
                    Arc::new(roots.into_store()),
                    PROVIDER.clone(),
                )
                .build();
                built.map_err(|_| {
                    Error::Tls(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
                })?
            }
        };
        let (first, others) = self.chain.split_first().expect("there is a first: it was read");
        verifier.verify_server_cert(first, others, &name, &[], UnixTime::now()).map_err(Error::Tls)?;
        Ok(())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.iter().take(NAMES_LIMIT).map(String::as_str).collect::<Vec<_>>().join(" ");
        let more = self.names.len().saturating_sub(NAMES_LIMIT);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        write!(f, "certificate of {names}{more} until {}, issued by {}", self.expires, self.issuer)
    }
}
