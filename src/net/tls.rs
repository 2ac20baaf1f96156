//! Tls: certificates and verification, both directions.
//!
//! Owns what we prove and what we believe. A client's bad certificate never breaks a handshake: it only
//! counts for nothing, and the facts say why. `Wire` performs the handshakes.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, ProtocolVersion,
    RootCertStore, ServerConfig, SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::dane::{Dane, DaneVerifier};
use super::vouch::{self, ByName};
use super::{Error, Stream};
use crate::clock::Timestamp;
use crate::mail::TlsFacts;

/// Named here and nowhere else: nothing depends on a process-wide default.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// A certificate chain with its key: who we are.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    names: Vec<String>,
    expires: Timestamp,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of logs.
        f.debug_struct("Identity").field("names", &self.names).field("expires", &self.expires).finish()
    }
}

impl Identity {
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| Error::Certificate(format!("{}: {error}", path.display())))
        };
        Self::from_pem(&read(certificate)?, &read(key)?).map_err(|error| {
            Error::Certificate(format!("{} with {}: {error}", certificate.display(), key.display()))
        })
    }

    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, Error> {
        let chain = certificates(certificate)?;
        let first = chain
            .first()
            .ok_or_else(|| Error::Certificate("there is no certificate in the file".to_owned()))?;
        let (_, parsed) = X509Certificate::from_der(first)
            .map_err(|error| Error::Certificate(format!("the certificate is damaged: {error}")))?;
        let names = names_of(&parsed);
        let expires = Timestamp::from_millis(parsed.validity().not_after.timestamp().saturating_mul(1000));
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| Error::Certificate(format!("no private key: {error}")))?;
        let certified = CertifiedKey::from_der(chain, key, &PROVIDER)
            .map_err(|error| Error::Certificate(format!("certificate and key: {error}")))?;
        Ok(Self { certified: Arc::new(certified), names, expires })
    }

    /// The subject and every DNS name, in lower case.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// SHA-256 of the public key: what a TLSA record `3 1 1` holds (RFC 7671 §5.1).
    pub fn key_digest(&self) -> Vec<u8> {
        let certificate = self.certified.end_entity_cert().expect("an identity has a certificate");
        let (_, parsed) = X509Certificate::from_der(certificate).expect("it was parsed before");
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, parsed.public_key().raw).as_ref().to_vec()
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Certificate(format!("not a PEM certificate: {error}")))
}

/// Subject CN and SAN DNS names, in lower case, each once.
pub(super) fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        let name = name.to_ascii_lowercase();
        if !names.contains(&name) {
            names.push(name);
        }
    };
    for common_name in certificate.subject().iter_common_name() {
        if let Ok(name) = common_name.as_str() {
            add(name);
        }
    }
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            if let GeneralName::DNSName(name) = name {
                add(name);
            }
        }
    }
    names
}

/// A certificate made here, for a first start without one. Returns certificate and key as PEM.
pub fn self_signed(hostname: &str) -> Result<(String, String), Error> {
    let made = |error: rcgen::Error| Error::Certificate(error.to_string());
    let mut parameters = rcgen::CertificateParams::new(vec![hostname.to_owned()]).map_err(made)?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, hostname);
    let key = rcgen::KeyPair::generate().map_err(made)?;
    let certificate = parameters.self_signed(&key).map_err(made)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Whose signatures are believed.
#[derive(Debug, Clone)]
pub struct Roots(RootCertStore);

impl Roots {
    /// Believes nobody.
    pub fn none() -> Self {
        Self(RootCertStore::empty())
    }

    /// What the operating system believes. A system without any is no error: then nothing verifies.
    pub fn system() -> Self {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self(store)
    }

    pub(super) fn into_store(self) -> RootCertStore {
        self.0
    }

    /// Believes these as well.
    pub fn and_pem(mut self, pem: &[u8]) -> Result<Self, Error> {
        for certificate in certificates(pem)? {
            self.0.add(certificate).map_err(|error| Error::Certificate(format!("a root: {error}")))?;
        }
        Ok(self)
    }

    pub fn and_file(self, path: &Path) -> Result<Self, Error> {
        let pem =
            fs::read(path).map_err(|error| Error::Certificate(format!("{}: {error}", path.display())))?;
        self.and_pem(&pem).map_err(|error| Error::Certificate(format!("{}: {error}", path.display())))
    }
}

/// TLS as a server: certificates chosen by SNI, client certificates asked for and never required.
/// Can be replaced while connections go on; each keeps what it began with.
pub struct ServerTls {
    ready: ArcSwap<ServerReady>,
}

/// One generation of settings.
pub(super) struct ServerReady {
    pub(super) config: Arc<ServerConfig>,
    roots: Arc<RootCertStore>,
    /// Absent when there are no roots: then no client certificate counts.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

impl ServerTls {
    /// The first identity answers clients that name no server, or one that nobody here is.
    pub fn new(identities: &[Identity], client_roots: Roots) -> Result<Self, Error> {
        Ok(Self { ready: ArcSwap::from_pointee(ServerReady::new(identities, client_roots)?) })
    }

    pub fn replace(&self, identities: &[Identity], client_roots: Roots) -> Result<(), Error> {
        self.ready.store(Arc::new(ServerReady::new(identities, client_roots)?));
        Ok(())
    }

    /// A handshake without anything before it, and without a look at the client's certificate.
    pub async fn accept(&self, stream: tokio::net::TcpStream, patience: Duration) -> std::io::Result<Stream> {
        let acceptor = tokio_rustls::TlsAcceptor::from(self.current().config.clone());
        let stream =
            super::within(patience, async { Box::pin(acceptor.accept(stream.into())).await }).await?;
        Ok(Stream::Tls(Box::new(tokio_rustls::TlsStream::Server(stream))))
    }

    pub(super) fn current(&self) -> Arc<ServerReady> {
        self.ready.load_full()
    }
}

impl ServerReady {
    fn new(identities: &[Identity], client_roots: Roots) -> Result<Self, Error> {
        let resolver = BySni::new(identities)?;
        let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_client_cert_verifier(Arc::new(AskClient {
                algorithms: PROVIDER.signature_verification_algorithms,
            }))
            .with_cert_resolver(Arc::new(resolver));
        // Tickets keep the state with the client: resuming costs us no memory. New settings bring a new
        // key, so that nothing proven under old ones is resumed under them.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(Error::Tls)?;
        config.send_tls13_tickets = 1;
        // Of several that both know, the strongest: ours come in that order.
        config.ignore_client_order = true;
        let roots = Arc::new(client_roots.0);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), PROVIDER.clone())
            .allow_unauthenticated()
            .build()
            .ok();
        Ok(Self { config: Arc::new(config), roots, verifier })
    }

    /// Judges the chain that the client showed, after the handshake proved that it holds the key.
    pub(super) fn judge_client(&self, chain: Option<&[CertificateDer<'static>]>, facts: &mut TlsFacts) {
        let Some([first, intermediates @ ..]) = chain else { return };
        match self.verify_client(first, intermediates) {
            Ok(()) => match X509Certificate::from_der(first) {
                Ok((_, parsed)) => facts.verified_names = names_of(&parsed),
                Err(error) => facts.rejected_certificate = Some(error.to_string()),
            },
            Err(error) => facts.rejected_certificate = Some(error.to_string()),
        }
    }

    fn verify_client(
        &self,
        first: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        let algorithms = PROVIDER.signature_verification_algorithms;
        if !vouch::is_checkable(first, &algorithms) {
            return Err(rustls::Error::General("its key cannot be checked".to_owned()));
        }
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let verifier = self.verifier.as_ref().ok_or(unknown)?;
        let now = UnixTime::now();
        match verifier.verify_client_cert(first, intermediates, now) {
            Ok(_) => Ok(()),
            Err(_) if vouch::is_vouched(first, &self.roots, now, &algorithms) => Ok(()),
            // Mail servers show as clients the certificate they serve with, and public authorities no
            // longer issue them for both purposes: here either will do.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            )) => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(first)?,
                &self.roots,
                intermediates,
                now,
                algorithms.all,
            ),
            Err(error) => Err(error),
        }
    }
}

/// Chooses our certificate by the name the client asked for.
#[derive(Debug)]
struct BySni {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl BySni {
    fn new(identities: &[Identity]) -> Result<Self, Error> {
        let first = identities
            .first()
            .ok_or_else(|| Error::Certificate("TLS needs at least one certificate".to_owned()))?;
        let mut chosen =
            Self { exact: HashMap::new(), wildcard: HashMap::new(), default: first.certified.clone() };
        for identity in identities {
            for name in &identity.names {
                let (table, key) = match name.strip_prefix("*.") {
                    Some(suffix) => (&mut chosen.wildcard, suffix),
                    None => (&mut chosen.exact, name.as_str()),
                };
                // Where two have the same name, the first in the configuration wins.
                table.entry(key.to_owned()).or_insert_with(|| identity.certified.clone());
            }
        }
        Ok(chosen)
    }

    fn choose(&self, asked: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(asked) = asked else { return &self.default };
        let asked = asked.to_ascii_lowercase();
        // A wildcard stands for exactly one label. RFC 9525 §6.3
        let under = || asked.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix));
        self.exact.get(&asked).or_else(under).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(client_hello.server_name()).clone())
    }
}

/// What rustls's traits ask of every verifier, of servers and of clients alike: whether whoever shows a
/// certificate holds its key. `$judge` has the last word on a signature; without one it counts as it is.
macro_rules! signatures {
    () => {
        signatures!(crate::net::tls::proves_key);
    };
    ($judge:path) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.algorithms;
            let verified = rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms);
            let verified = crate::net::vouch::proves_key(verified, message, certificate, signed, algorithms);
            $judge(verified, certificate, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.algorithms;
            let verified = rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms);
            let verified = crate::net::vouch::proves_key(verified, message, certificate, signed, algorithms);
            $judge(verified, certificate, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}
pub(super) use signatures;

/// Even where it cannot be read: whoever has seen it could show it again.
pub(super) fn proves_key(
    verified: Result<HandshakeSignatureValid, rustls::Error>,
    _: &CertificateDer<'_>,
    _: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    verified
}

/// A certificate that cannot be read, or whose key cannot be checked, is let pass: it never counts.
fn proves_key_if_checkable(
    verified: Result<HandshakeSignatureValid, rustls::Error>,
    certificate: &CertificateDer<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    match verified {
        Err(_) if !vouch::is_checkable(certificate, algorithms) => Ok(HandshakeSignatureValid::assertion()),
        other => other,
    }
}

/// Asks clients for a certificate and takes any. The chain is judged after the handshake (and again when
/// a session is resumed), where the verdict can be recorded; only a forged signature ends the handshake,
/// because a resumed session would no longer know of it.
#[derive(Debug)]
struct AskClient {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AskClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: clients then show what they have, and the handshake stays small.
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    signatures!(proves_key_if_checkable);
}

/// Takes any server certificate: for TLS that keeps out listeners, not impostors.
#[derive(Debug)]
struct AnyServer {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures!(proves_key_if_checkable);
}

/// What a server must prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust<'a> {
    /// Nothing: any certificate will do.
    Anyone,
    /// That a known authority calls it by the name we dialled.
    Named,
    /// The same, where the authorities in this file are known too.
    NamedBy(&'a Path),
    /// What the signed DNS says of its certificate.
    Dane(&'a Dane),
}

/// TLS as a client. Shows our own certificate to servers that ask, so that other regions' edges know us
/// (spec, section 6). Sessions are resumed.
#[derive(Debug)]
pub struct ClientTls {
    anyone: Arc<ClientConfig>,
    named: Arc<ClientConfig>,
    roots: Roots,
    identity: Option<Identity>,
    /// For next hops with authorities of their own, each with sessions of its own; read when first needed.
    named_by: Mutex<HashMap<PathBuf, Arc<ClientConfig>>>,
}

/// So many files of authorities are kept; beyond that all are read again.
const AUTHORITIES_LIMIT: usize = 1024;

impl ClientTls {
    pub fn new(roots: Roots, identity: Option<&Identity>) -> Result<Self, Error> {
        let any = AnyServer { algorithms: PROVIDER.signature_verification_algorithms };
        let anyone = builder()?.dangerous().with_custom_certificate_verifier(Arc::new(any));
        Ok(Self {
            anyone: Arc::new(showing(anyone, identity)),
            named: named(roots.clone(), identity)?,
            roots,
            identity: identity.cloned(),
            named_by: Mutex::default(),
        })
    }

    pub(super) fn config(&self, trust: Trust<'_>) -> Result<Arc<ClientConfig>, Error> {
        match trust {
            Trust::Anyone => Ok(self.anyone.clone()),
            Trust::Named => Ok(self.named.clone()),
            Trust::NamedBy(authorities) => self.named_by(authorities),
            // Made for this connection alone, so that nothing is resumed that was proven otherwise.
            Trust::Dane(dane) => believing(dane),
        }
    }

    /// Whose signatures are believed.
    pub(super) fn roots(&self) -> Roots {
        self.roots.clone()
    }

    /// For fetching pages: names are proven by known authorities, and nothing of ours is shown.
    pub fn for_pages(&self) -> ClientConfig {
        ClientConfig::clone(&self.named)
    }

    fn named_by(&self, authorities: &Path) -> Result<Arc<ClientConfig>, Error> {
        let known = || self.named_by.lock().expect("nobody panics while holding a map of files");
        if let Some(config) = known().get(authorities) {
            return Ok(config.clone());
        }
        let config = named(self.roots.clone().and_file(authorities)?, self.identity.as_ref())?;
        let mut known = known();
        if known.len() >= AUTHORITIES_LIMIT {
            known.clear();
        }
        known.insert(authorities.to_owned(), config.clone());
        Ok(config)
    }
}

fn believing(dane: &Dane) -> Result<Arc<ClientConfig>, Error> {
    let verifier = DaneVerifier::new(dane.clone(), PROVIDER.signature_verification_algorithms);
    let builder = builder()?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(Arc::new(builder.with_no_client_auth()))
}

fn named(roots: Roots, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, Error> {
    let roots = Arc::new(roots.0);
    let chains = WebPkiServerVerifier::builder_with_provider(roots.clone(), PROVIDER.clone()).build();
    let builder = match chains {
        Ok(chains) => {
            let by_name = ByName::new(chains, roots, PROVIDER.signature_verification_algorithms);
            builder()?.dangerous().with_custom_certificate_verifier(Arc::new(by_name))
        }
        // Without authorities nobody is verified.
        Err(_) => builder()?.with_root_certificates(roots),
    };
    Ok(Arc::new(showing(builder, identity)))
}

type Builder<State> = rustls::ConfigBuilder<ClientConfig, State>;

fn builder() -> Result<Builder<rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)
}

/// Our own certificate, for servers that ask.
fn showing(builder: Builder<rustls::client::WantsClientCert>, identity: Option<&Identity>) -> ClientConfig {
    match identity {
        Some(identity) => {
            let show = rustls::sign::SingleCertAndKey::from(identity.certified.clone());
            builder.with_client_cert_resolver(Arc::new(show))
        }
        None => builder.with_no_client_auth(),
    }
}

/// For client libraries that do their own handshake: of a directory's servers, for one.
pub fn library_tls(trust: Trust<'_>) -> Result<Arc<ClientConfig>, Error> {
    let roots = match trust {
        Trust::Dane(dane) => return believing(dane),
        Trust::Anyone => Roots::none(),
        Trust::Named => Roots::system(),
        Trust::NamedBy(file) => Roots::system().and_file(file)?,
    };
    let tls = ClientTls::new(roots, None)?;
    Ok(match trust {
        Trust::Anyone => tls.anyone,
        Trust::Named | Trust::NamedBy(_) | Trust::Dane(_) => tls.named,
    })
}

/// What both sides can tell of a finished handshake.
pub(super) fn facts_of(connection: &CommonState) -> TlsFacts {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".to_owned(),
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".to_owned(),
        other => format!("{other:?}"),
    };
    // rustls writes TLS13_AES_256_GCM_SHA384; the registry, TLS_AES_256_GCM_SHA384.
    let cipher = connection
        .negotiated_cipher_suite()
        .map(|suite| format!("{:?}", suite.suite()).replace("TLS13_", "TLS_"))
        .unwrap_or_default();
    TlsFacts { version, cipher, ..TlsFacts::default() }
}
