//! Pages: a small https server that answers by host name, and remembers what it was asked and told.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::authority::Pair;
use super::wait::PATIENCE;

/// The whole response, from its status line on.
type Responses = HashMap<String, String>;

/// Path and body of each POST.
type Heard = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

pub struct Pages {
    pub address: SocketAddr,
    heard: Heard,
    pages: Arc<Mutex<Responses>>,
    stopping: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

impl Pages {
    pub fn start_at(address: SocketAddr, pair: &Pair, pages: &[(&str, String)]) -> Self {
        let listener = TcpListener::bind(address).expect("an address of this test");
        let pages: Responses = pages.iter().map(|(host, page)| ((*host).to_owned(), page.clone())).collect();
        let pages = Arc::new(Mutex::new(pages));
        let config = Arc::new(configuration(pair));
        let (heard, stopping) = (Arc::<Mutex<_>>::default(), Arc::new(AtomicBool::new(false)));
        let state = (heard.clone(), pages.clone(), stopping.clone());
        let server = thread::spawn(move || {
            let (heard, pages, stopping) = state;
            for stream in listener.incoming() {
                if stopping.load(Ordering::Acquire) {
                    return;
                }
                if let Ok(stream) = stream {
                    // A client that does not believe us goes without a request.
                    let _ = answer(stream, &config, &pages, &heard);
                }
            }
        });
        Self { address, heard, pages, stopping, server: Some(server) }
    }

    pub fn replace(&self, host: &str, page: String) {
        self.pages.lock().expect("no panic").insert(host.to_owned(), page);
    }

    /// Requests so far, each its head and its body.
    pub fn heard(&self) -> Vec<(String, Vec<u8>)> {
        self.heard.lock().expect("no panic").clone()
    }

    /// How often this host was asked.
    pub fn asked(&self, host: &str) -> usize {
        self.heard().iter().filter(|(head, _)| host_of(head) == host).count()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn configuration(pair: &Pair) -> ServerConfig {
    let chain =
        CertificateDer::pem_file_iter(&pair.cert).expect("a file").map(|it| it.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("usual versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they belong together")
}

fn answer(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    pages: &Mutex<Responses>,
    heard: &Mutex<Vec<(String, Vec<u8>)>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let connection = ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut request = Vec::new();
    let mut block = [0; 4096];
    let (head, body) = loop {
        let count = stream.read(&mut block)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&block[..count]);
        let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).into_owned();
        let length = field(&head, "content-length").and_then(|size| size.parse().ok()).unwrap_or(0);
        if request.len() >= end + 4 + length {
            break (head, request[end + 4..].to_vec());
        }
    };
    let page = pages.lock().expect("no panic").get(&host_of(&head)).cloned();
    heard.lock().expect("no panic").push((head, body));
    let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned();
    stream.write_all(page.unwrap_or(missing).as_bytes())?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn field(head: &str, name: &str) -> Option<String> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}

fn host_of(head: &str) -> String {
    let host = field(head, "host").unwrap_or_default();
    host.rsplit_once(':').map_or(host.clone(), |(name, _)| name.to_owned())
}
