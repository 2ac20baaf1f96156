//! Generator: sessions in closed loop, each sending one message after another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Options;

pub(crate) struct Load {
    /// Message number to checksum, for the sink to compare with.
    pub(crate) sent: Vec<u32>,
    latencies: Vec<Duration>,
}

impl Load {
    /// From the end of data to 250.
    pub(crate) fn latency(&self, percent: f64) -> Duration {
        let at = (self.latencies.len() as f64 * percent / 100.0) as usize;
        self.latencies[at.min(self.latencies.len() - 1)]
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(crate) async fn run(options: &Options, address: SocketAddr) -> Load {
    let sessions: Vec<_> = (0..options.sessions)
        .map(|session| tokio::spawn(serve_session(options.clone(), session, address)))
        .collect();
    let mut load = Load { sent: vec![0; options.sessions * options.messages], latencies: Vec::new() };
    for (index, session) in sessions.into_iter().enumerate() {
        let (sums, latencies) = session.await.expect("a session ends well");
        for (message, sum) in sums.into_iter().enumerate() {
            load.sent[index * options.messages + message] = sum;
        }
        load.latencies.extend(latencies);
    }
    load.latencies.sort();
    load
}

async fn serve_session(options: Options, session: usize, address: SocketAddr) -> (Vec<u32>, Vec<Duration>) {
    let mut sums = Vec::with_capacity(options.messages);
    let mut latencies = Vec::with_capacity(options.messages);
    let mut wire: Option<Wire> = None;
    for message in 0..options.messages {
        if message % options.per_connection == 0 {
            if let Some(old) = wire.take() {
                old.quit().await;
            }
            wire = Some(Wire::open(address, options.tls).await);
        }
        let wire = wire.as_mut().expect("opened above");
        let number = session * options.messages + message;
        let (data, sum) = compose(options.first + number, options.size);
        sums.push(sum);
        let to = format!("user{}@example.test", number % 1000);
        if options.no_pipelining {
            wire.command("MAIL FROM:<load@sender.example>\r\n", 250).await;
            wire.command(&format!("RCPT TO:<{to}>\r\n"), 250).await;
            wire.command("DATA\r\n", 354).await;
        } else {
            let flight = format!("MAIL FROM:<load@sender.example>\r\nRCPT TO:<{to}>\r\nDATA\r\n");
            wire.send(flight.as_bytes()).await;
            for code in [250, 250, 354] {
                wire.expect(code).await;
            }
        }
        wire.send(&data).await;
        let ended = Instant::now();
        wire.expect(250).await;
        latencies.push(ended.elapsed());
    }
    if let Some(wire) = wire {
        wire.quit().await;
    }
    (sums, latencies)
}

/// A message of about `size` octets with its number in the header, dot included; and the sum of its body.
fn compose(number: usize, size: usize) -> (Vec<u8>, u32) {
    let mut data =
        format!("From: <load@sender.example>\r\nSubject: load\r\nX-Load: {number}\r\n\r\n").into_bytes();
    let body_start = data.len();
    let line = format!("{number:08} the quick brown fox jumps over the lazy dog 0123456789 abcdefg\r\n");
    while data.len() < size {
        data.extend_from_slice(line.as_bytes());
    }
    let sum = crc32fast::hash(&data[body_start..]);
    data.extend_from_slice(b".\r\n");
    (data, sum)
}

pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
}

impl Wire {
    pub(crate) async fn open(address: SocketAddr, tls: bool) -> Self {
        let stream = TcpStream::connect(address).await.expect("the peer listens");
        stream.set_nodelay(true).expect("a socket option");
        let mut wire = Self { stream: Box::new(stream), input: Vec::new() };
        wire.expect(220).await;
        wire.command("EHLO load.sender.example\r\n", 250).await;
        if tls {
            wire.command("STARTTLS\r\n", 220).await;
            let connector = tokio_rustls::TlsConnector::from(client_config());
            let name = "edge.example.test".try_into().expect("a name");
            wire.stream = Box::new(connector.connect(name, wire.stream).await.expect("a handshake"));
            wire.command("EHLO load.sender.example\r\n", 250).await;
        }
        wire
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the peer reads");
        self.stream.flush().await.expect("the peer reads");
    }

    pub(crate) async fn command(&mut self, line: &str, code: u16) {
        self.send(line.as_bytes()).await;
        self.expect(code).await;
    }

    /// The last line of the next reply must bear this code.
    pub(crate) async fn expect(&mut self, code: u16) {
        loop {
            while let Some(end) = memchr::memchr(b'\n', &self.input) {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                if line.get(3) == Some(&b'-') {
                    continue;
                }
                let text = String::from_utf8_lossy(&line);
                assert!(text.starts_with(&code.to_string()), "expected {code}, got {text}");
                return;
            }
            let read = self.stream.read_buf(&mut self.input).await.expect("the peer answers");
            assert!(read > 0, "the peer closed the connection where {code} was expected");
        }
    }

    async fn quit(mut self) {
        self.command("QUIT\r\n", 221).await;
    }
}

fn client_config() -> Arc<rustls::ClientConfig> {
    static CONFIG: std::sync::OnceLock<Arc<rustls::ClientConfig>> = std::sync::OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .expect("the provider has them")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
                .with_no_client_auth();
            // Each connection pays for its own handshake.
            config.resumption = rustls::client::Resumption::disabled();
            Arc::new(config)
        })
        .clone()
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
