//! Caller: who asks, as the audit names them: a user of this machine over the socket, or a token and the address
//! it came from.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::serve::IncomingStream;
use tokio::net::{TcpListener, UnixListener};

use super::guard::Fingerprint;
use super::https::Https;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Caller {
    Socket { uid: Option<u32> },
    Address(SocketAddr),
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self::Socket { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self::Address(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, Https>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Https>) -> Self {
        Self::Address(*stream.remote_addr())
    }
}

/// In the audit's words: `uid 0`, or `api token 1f2e3d4c from 192.0.2.7:50412`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who(pub(super) String);

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let caller = parts.extensions.get::<ConnectInfo<Caller>>().map(|ConnectInfo(caller)| *caller);
        let token = parts.extensions.get::<Fingerprint>();
        Ok(Self(match (caller, token) {
            (Some(Caller::Socket { uid: Some(uid) }), _) => format!("uid {uid}"),
            (Some(Caller::Socket { uid: None }), _) => "socket".to_owned(),
            (Some(Caller::Address(at)), Some(token)) => format!("api token {token} from {at}"),
            (Some(Caller::Address(at)), None) => format!("api from {at}"),
            (None, _) => "api".to_owned(),
        }))
    }
}

/// Whether the caller may see people's addresses where others are shown the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SeesPeople(pub(super) bool);

impl<S: Sync> FromRequestParts<S> for SeesPeople {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let caller = parts.extensions.get::<ConnectInfo<Caller>>().map(|ConnectInfo(caller)| *caller);
        let is_owner = matches!(caller, Some(Caller::Socket { .. }));
        Ok(Self(is_owner || parts.extensions.get::<Fingerprint>().is_some()))
    }
}
