//! NextHop: where a message goes from here, and what the connection must prove.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Domain, Region};

/// The four TLS levels of the interface page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsLevel {
    Off,
    /// TLS when it is offered, whatever the certificate; plain text otherwise.
    Opportunistic,
    /// TLS always, whatever the certificate.
    Encrypt,
    /// TLS always, and the chain and the host name hold.
    #[default]
    Verify,
}

/// One place that takes mail.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Smtp {
        host: String,
        port: u16,
    },
    /// TLS from the first byte.
    Smtps {
        host: String,
        port: u16,
    },
    Lmtp {
        host: String,
        port: u16,
    },
    LmtpUnix(PathBuf),
    /// A tree of Maildirs: `<path>/<domain>/<local part>/`.
    Maildir(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("expected smtp://, smtps://, lmtp://, lmtp+unix:///path or maildir:///path")]
    UnknownScheme,
    #[error("expected a host name or address with an optional port, such as smtp://store1.example.net:25")]
    BadHost,
    #[error("expected a path after the scheme, such as maildir:///var/mail/landfall")]
    NoPath,
}

impl Endpoint {
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = text.split_once("://").ok_or(EndpointError::UnknownScheme)?;
        let path = || if rest.is_empty() { Err(EndpointError::NoPath) } else { Ok(PathBuf::from(rest)) };
        // RFC 3986 §3.1: in any case of letters.
        match scheme.to_ascii_lowercase().as_str() {
            "smtp" => host_port(rest, 25).map(|(host, port)| Self::Smtp { host, port }),
            "smtps" => host_port(rest, 465).map(|(host, port)| Self::Smtps { host, port }),
            "lmtp" => host_port(rest, 24).map(|(host, port)| Self::Lmtp { host, port }),
            "lmtp+unix" => path().map(Self::LmtpUnix),
            "maildir" => path().map(Self::Maildir),
            _ => Err(EndpointError::UnknownScheme),
        }
    }
}

fn host_port(text: &str, default: u16) -> Result<(String, u16), EndpointError> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inner, after) = rest.split_once(']').ok_or(EndpointError::BadHost)?;
            inner.parse::<std::net::Ipv6Addr>().map_err(|_| EndpointError::BadHost)?;
            (
                inner,
                after
                    .strip_prefix(':')
                    .or_else(|| after.is_empty().then_some(""))
                    .ok_or(EndpointError::BadHost)?,
            )
        }
        None => {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            let domain = Domain::parse(host).map_err(|_| EndpointError::BadHost)?;
            if domain.is_literal() {
                return Err(EndpointError::BadHost);
            }
            (host, port)
        }
    };
    let port = match port {
        "" => default,
        digits => digits.parse().ok().filter(|port| *port != 0).ok_or(EndpointError::BadHost)?,
    };
    Ok((host.to_ascii_lowercase(), port))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host_port = |f: &mut fmt::Formatter<'_>, scheme: &str, host: &str, port: u16| {
            if host.contains(':') {
                write!(f, "{scheme}://[{host}]:{port}")
            } else {
                write!(f, "{scheme}://{host}:{port}")
            }
        };
        match self {
            Self::Smtp { host, port } => host_port(f, "smtp", host, *port),
            Self::Smtps { host, port } => host_port(f, "smtps", host, *port),
            Self::Lmtp { host, port } => host_port(f, "lmtp", host, *port),
            Self::LmtpUnix(path) => write!(f, "lmtp+unix://{}", path.display()),
            Self::Maildir(path) => write!(f, "maildir://{}", path.display()),
        }
    }
}

/// The name of a lane: messages with the same one share a queue, connections and fate (spec, section 6).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHopName {
    /// The stores of this node's own region.
    Store(Region),
    /// The edges of another region.
    Relay(Region),
    /// The smart hosts of a tenant's outbound connector.
    SmartHost { tenant: Arc<str>, connector: Arc<str> },
    /// The MX hosts of a domain that nobody here hosts.
    Internet(Domain),
    /// No way on could be decided: a lookup failed or a route is missing. Decided again later (rule 89).
    Undecided,
}

impl fmt::Display for NextHopName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(region) => write!(f, "store:{region}"),
            Self::Relay(region) => write!(f, "relay:{region}"),
            Self::SmartHost { tenant, connector } => write!(f, "smarthost:{tenant}/{connector}"),
            Self::Internet(domain) => write!(f, "internet:{domain}"),
            Self::Undecided => f.write_str("undecided"),
        }
    }
}

/// A lane's name and how to reach it now; configuration may change the latter under a waiting message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    pub name: NextHopName,
    /// Tried in turn. Empty for an internet destination, whose hosts the DNS names.
    pub endpoints: Arc<[Endpoint]>,
    pub tls: TlsLevel,
    /// Authorities of its own besides the system's, in PEM.
    pub ca: Option<Arc<Path>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_written_alike() {
        for text in [
            "smtp://edge.nam.example.net:25",
            "smtps://store.example.net:465",
            "lmtp://127.0.0.1:24",
            "smtp://[::1]:2525",
            "lmtp+unix:///run/lmtp.sock",
            "maildir:///var/mail/eur",
        ] {
            assert_eq!(Endpoint::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(Endpoint::parse("lmtp://Store1").expect("a host").to_string(), "lmtp://store1:24");
        assert_eq!(
            Endpoint::parse("maildir://landfall-data/mail").expect("relative").to_string(),
            "maildir://landfall-data/mail"
        );
    }

    #[test]
    fn what_is_no_endpoint_says_what_was_expected() {
        use EndpointError::*;
        for (text, error) in [
            ("store1:24", UnknownScheme),
            ("http://store1", UnknownScheme),
            ("smtp://", BadHost),
            ("smtp://a b", BadHost),
            ("smtp://a:0", BadHost),
            ("smtp://a:70000", BadHost),
            ("smtp://[::1", BadHost),
            ("smtp://[1.2.3.4]", BadHost),
            ("maildir://", NoPath),
            ("lmtp+unix://", NoPath),
        ] {
            assert_eq!(Endpoint::parse(text), Err(error), "{text}");
        }
    }
}
