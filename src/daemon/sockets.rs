//! Sockets: the listening ones, bound here or handed over by whoever started us.
//!
//! A service manager, or the process that this one replaces, may hand over sockets that are open already
//! (`LISTEN_FDS`): then nobody is refused meanwhile, callers only wait in the backlog.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use listenfd::ListenFd;
use nix::fcntl::{FcntlArg, fcntl};

use super::{Error, io_error};
use crate::config::Settings;
use crate::net;

/// High enough that a process at its end has nothing there.
const FIRST_HANDED_ON: i32 = 200;

/// One for each address of each listener, in the order of the configuration.
#[derive(Debug, Default)]
pub(super) struct Sockets(Vec<TcpListener>);

impl Sockets {
    /// Takes over what was handed to this process and fits, and binds the rest. All or nothing.
    pub(super) fn open(settings: &Settings) -> Result<Self, Error> {
        let mut handed = handed_over();
        let mut sockets = Vec::new();
        for address in settings.listeners.iter().flat_map(|listener| &listener.addresses) {
            let fitting = handed
                .iter()
                .position(|socket| socket.local_addr().is_ok_and(|bound| is_at(bound, *address)));
            sockets.push(match fitting {
                Some(at) => handed.swap_remove(at),
                None => net::bind(*address).map_err(io_error(format!("listening on {address}")))?,
            });
        }
        Ok(Self(sockets))
    }

    /// The same sockets once more, for those who accept.
    pub(super) fn share(&self) -> io::Result<Vec<TcpListener>> {
        self.0.iter().map(TcpListener::try_clone).collect()
    }

    /// Leaves them open for the program that this process becomes. Returns its environment.
    pub(super) fn hand_on(&self) -> Result<Vec<(&'static str, String)>, Error> {
        let failed = |errno: nix::Error| io_error("handing the sockets on")(errno.into());
        let mut next = FIRST_HANDED_ON;
        let mut first = None;
        for socket in &self.0 {
            // A duplicate made so survives the change of program.
            let number = fcntl(socket.as_fd(), FcntlArg::F_DUPFD(next)).map_err(failed)?;
            if first.is_some() && number != next {
                let why = io::Error::other("the descriptors are not in a row");
                return Err(io_error("handing the sockets on")(why));
            }
            first.get_or_insert(number);
            next = number + 1;
        }
        Ok(vec![
            ("LISTEN_FDS", self.0.len().to_string()),
            ("LISTEN_FDS_FIRST_FD", first.unwrap_or(FIRST_HANDED_ON).to_string()),
            ("LISTEN_PID", std::process::id().to_string()),
        ])
    }
}

fn handed_over() -> Vec<TcpListener> {
    let mut handed = ListenFd::from_env();
    (0..handed.len()).filter_map(|index| handed.take_tcp_listener(index).ok().flatten()).collect()
}

/// Port 0 asks for any.
fn is_at(bound: SocketAddr, wanted: SocketAddr) -> bool {
    bound.ip() == wanted.ip() && (wanted.port() == 0 || bound.port() == wanted.port())
}
