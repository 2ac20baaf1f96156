//! Guard: who may do what on the admin address. The socket has none: its file's permissions are its guard.
//!
//! Changes need the token, always, and so do people's addresses and the configuration. Other reading needs it
//! where others than this machine can call. A browser that was sent here under another name (DNS rebinding) is
//! refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// A secret that is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Shorter ones can be guessed.
const TOKEN_MINIMUM: usize = 16;

impl Token {
    /// From a file's content; `None` when it is too short or cannot stand in a header.
    pub fn parse(text: &str) -> Option<Self> {
        let token = text.trim();
        let fits = token.len() >= TOKEN_MINIMUM && token.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(token.to_owned()))
    }

    /// Takes the same time for every wrong token of a length.
    fn is(&self, other: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), other.as_bytes()).is_ok()
    }
}

/// A token as the audit names it: enough to tell which it was, and no help in guessing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(String);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Token {
    /// The first 32 bits of its SHA-256, as `printf %s TOKEN | sha256sum` begins.
    fn fingerprint(&self) -> Fingerprint {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.0.as_bytes());
        Fingerprint(hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What the admin address lets through.
#[derive(Debug)]
pub(super) struct Guard {
    token: Option<Token>,
    fingerprint: Option<Fingerprint>,
    /// Only this machine can call.
    loopback: bool,
    address: IpAddr,
    hostname: String,
}

impl Guard {
    pub(super) fn new(token: Option<Token>, address: SocketAddr, hostname: &str) -> Self {
        let loopback = address.ip().is_loopback();
        Self {
            fingerprint: token.as_ref().map(Token::fingerprint),
            token,
            loopback,
            address: address.ip(),
            hostname: hostname.to_ascii_lowercase(),
        }
    }

    fn judge(&self, request: &Request) -> Result<(), Refusal> {
        if let Some(offered) = bearer(request) {
            return match &self.token {
                Some(token) if token.is(offered) => Ok(()),
                Some(_) | None => Err(Refusal::WrongToken),
            };
        }
        if !self.is_for_us(request) {
            return Err(Refusal::OtherHost);
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/healthz" | "/readyz" => Ok(()),
            // The page itself holds nothing; what it shows it has to ask for.
            "/" if reads => Ok(()),
            // Who writes to whom, and who exists, is not for every user of this machine.
            path if reads && self.loopback && !is_kept(path) => Ok(()),
            _ if self.token.is_none() && reads => Err(Refusal::NoTokenToRead),
            _ if self.token.is_none() => Err(Refusal::NoToken),
            _ => Err(Refusal::TokenNeeded),
        }
    }

    fn is_for_us(&self, request: &Request) -> bool {
        let authority = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .or_else(|| request.uri().authority().map(axum::http::uri::Authority::as_str));
        // Browsers always name it; who does not is a load balancer that asks in HTTP/1.0.
        let Some(host) = authority.map(host_of) else { return true };
        match host.parse::<IpAddr>() {
            Ok(ip) => ip == self.address || ip.is_loopback() || self.address.is_unspecified(),
            Err(_) => host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case(&self.hostname),
        }
    }
}

/// The configuration names files and networks, which are not for every user of this machine either.
const KEPT: [&str; 6] =
    ["/v1/trace", "/v1/users", "/v1/queue/messages", "/v1/explain", "/v1/directory/check", "/v1/config"];

fn is_kept(path: &str) -> bool {
    KEPT.iter().any(|kept| path.starts_with(kept))
}

/// Without its port and an IPv6 address's brackets.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NoToken,
    NoTokenToRead,
    TokenNeeded,
    WrongToken,
    OtherHost,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, words) = match self {
            Self::NoToken => (
                StatusCode::FORBIDDEN,
                "changes are taken on the socket, or here once admin.token_file is set\n",
            ),
            Self::NoTokenToRead => (
                StatusCode::FORBIDDEN,
                "what shows people's addresses, and the configuration, is told on the socket, \
                 or here once admin.token_file is set\n",
            ),
            Self::TokenNeeded => (StatusCode::UNAUTHORIZED, "this needs Authorization: Bearer <token>\n"),
            Self::WrongToken => (StatusCode::UNAUTHORIZED, "the token is not the one of admin.token_file\n"),
            Self::OtherHost => (StatusCode::FORBIDDEN, "nothing is served under this host name\n"),
        };
        let mut response = (status, words).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

pub(super) async fn check(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    match guard.judge(&request) {
        Ok(()) => {
            if bearer(&request).is_some()
                && let Some(fingerprint) = guard.fingerprint.clone()
            {
                request.extensions_mut().insert(fingerprint);
            }
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn guard(token: Option<&str>, address: &str) -> Guard {
        let address = address.parse().expect("an address");
        Guard::new(token.map(|token| Token::parse(token).expect("a token")), address, "edge1.example.net")
    }

    fn ask(method: &str, path: &str, host: &str, authorization: Option<&str>) -> Request {
        let mut request = Request::builder().method(method).uri(path).header("host", host);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        request.body(Body::empty()).expect("a request")
    }

    #[test]
    fn reading_is_free_on_loopback_and_changing_never() {
        let right = format!("Bearer {TOKEN}");
        let (bare, with, public) = (
            guard(None, "127.0.0.1:9090"),
            guard(Some(TOKEN), "127.0.0.1:9090"),
            guard(Some(TOKEN), "0.0.0.0:9090"),
        );
        for (guard, method, path, host, authorization, expected) in [
            (&bare, "GET", "/metrics", "127.0.0.1:9090", None, Ok(())),
            (&bare, "GET", "/metrics", "localhost:9090", None, Ok(())),
            (&bare, "GET", "/metrics", "evil.example:9090", None, Err(Refusal::OtherHost)),
            (&bare, "POST", "/v1/drain", "127.0.0.1", None, Err(Refusal::NoToken)),
            (&bare, "POST", "/v1/drain", "127.0.0.1", Some(right.as_str()), Err(Refusal::WrongToken)),
            (&with, "GET", "/v1/queue", "[::1]:9090", None, Ok(())),
            (&with, "GET", "/v1/queue/messages", "127.0.0.1", None, Err(Refusal::TokenNeeded)),
            (&with, "GET", "/v1/queue/messages", "127.0.0.1", Some(right.as_str()), Ok(())),
            (&with, "GET", "/v1/explain", "127.0.0.1", None, Err(Refusal::TokenNeeded)),
            (&bare, "GET", "/v1/explain", "127.0.0.1", None, Err(Refusal::NoTokenToRead)),
            (&with, "GET", "/v1/config", "127.0.0.1", None, Err(Refusal::TokenNeeded)),
            (&bare, "GET", "/v1/directory/check", "127.0.0.1", None, Err(Refusal::NoTokenToRead)),
            (&with, "POST", "/v1/drain", "127.0.0.1", None, Err(Refusal::TokenNeeded)),
            (
                &with,
                "POST",
                "/v1/drain",
                "127.0.0.1",
                Some("Bearer 0123456789abcdeX"),
                Err(Refusal::WrongToken),
            ),
            (&with, "POST", "/v1/drain", "127.0.0.1", Some("Basic x"), Err(Refusal::TokenNeeded)),
            (&with, "POST", "/v1/drain", "127.0.0.1", Some(right.as_str()), Ok(())),
            (&public, "GET", "/healthz", "192.0.2.1", None, Ok(())),
            (&public, "GET", "/metrics", "192.0.2.1", None, Err(Refusal::TokenNeeded)),
            (&public, "GET", "/metrics", "edge1.example.net:9090", Some(right.as_str()), Ok(())),
            (&public, "GET", "/", "edge1.example.net:9090", None, Ok(())),
        ] {
            let judged = guard.judge(&ask(method, path, host, authorization));
            assert_eq!(judged, expected, "{method} {path} at {host} with {authorization:?}");
        }
    }

    #[test]
    fn a_token_is_long_enough_and_not_printed() {
        for bad in [
            "",
            "short",
            "fifteen-octets.",
            "with a space in it",
            "\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}",
        ] {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
        let token = Token::parse(&format!("{TOKEN}\n")).expect("a file ends in a line end");
        assert!(!format!("{token:?}").contains(TOKEN));
    }
}
