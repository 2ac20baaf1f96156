//! Client: the same API, from the command line, over the socket.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// How long until somebody says anything at all.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(5);
/// How long the daemon may take to answer; a reload of a large directory takes the most.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no daemon answers on {0}: {1}")]
    NotRunning(String, std::io::Error),
    #[error(
        "the daemon on {0} says nothing for {seconds} s: see its log; it may be out of file descriptors",
        seconds = PATIENCE_AT_FIRST.as_secs()
    )]
    Silent(String),
    #[error("the daemon did not answer within {} s", PATIENCE.as_secs())]
    TooSlow,
    #[error("the conversation with the daemon broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// What the daemon said no with.
    #[error("{text}")]
    Refused { status: StatusCode, text: String },
}

impl Error {
    /// Whether the daemon found the question itself wrong.
    pub fn is_mistake(&self) -> bool {
        matches!(
            self,
            Self::Refused { status: StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY, .. }
        )
    }
}

pub async fn get(socket: &Path, path: &str) -> Result<String, Error> {
    ask(socket, Method::GET, path, Bytes::new()).await
}

pub async fn post(socket: &Path, path: &str) -> Result<String, Error> {
    ask(socket, Method::POST, path, Bytes::new()).await
}

pub async fn post_json(socket: &Path, path: &str, request: &serde_json::Value) -> Result<String, Error> {
    ask(socket, Method::POST, path, request.to_string().into()).await
}

async fn ask(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<String, Error> {
    tokio::time::timeout(PATIENCE, converse(socket, method, path, body)).await.map_err(|_| Error::TooSlow)?
}

async fn converse(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<String, Error> {
    let greeted = tokio::time::timeout(PATIENCE_AT_FIRST, greet(socket)).await;
    let mut sender = greeted.map_err(|_| Error::Silent(socket.display().to_string()))??;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "landfall")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .expect("the paths are this program's own");
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() {
        Ok(text)
    } else {
        Err(Error::Refused { status, text: text.trim_end().to_owned() })
    }
}

/// A socket takes a caller although nobody serves it: what may take long is asked of one who has spoken.
async fn greet(socket: &Path) -> Result<SendRequest<Full<Bytes>>, Error> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| Error::NotRunning(socket.display().to_string(), error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/healthz").header("host", "landfall").body(Full::default());
    let response = sender.send_request(request.expect("the path is this program's own")).await?;
    response.into_body().collect().await?;
    sender.ready().await?;
    Ok(sender)
}
