//! Certificates: the configured pairs, or one made here at a first start that asks for it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::config::{ListenerTls, Settings};
use crate::net::{self, Identity, Roots, ServerTls};

use super::{Error, io_error};

pub(super) fn server(settings: &Settings) -> Result<ServerTls, Error> {
    Ok(ServerTls::new(&identities(settings)?, client_roots(settings)?)?)
}

/// A pair that does not fit is refused, and the old one stays.
pub(super) fn replace(tls: &ServerTls, settings: &Settings) -> Result<(), Error> {
    Ok(tls.replace(&identities(settings)?, client_roots(settings)?)?)
}

fn client_roots(settings: &Settings) -> Result<Roots, Error> {
    match &settings.tls.client_ca {
        Some(path) => Ok(Roots::none().and_file(path)?),
        None => Ok(Roots::system()),
    }
}

/// Who we are; also shown to next hops that ask.
pub(super) fn identities(settings: &Settings) -> Result<Vec<Identity>, Error> {
    let configured: Result<Vec<Identity>, net::Error> =
        settings.tls.certificates.iter().map(|pair| Identity::load(&pair.cert, &pair.key)).collect();
    let mut identities = configured?;
    let spoken = settings.listeners.iter().any(|listener| listener.tls != ListenerTls::Off);
    if identities.is_empty() && (settings.tls.self_signed || spoken) {
        identities.push(self_signed(settings)?);
    }
    if identities.is_empty() {
        // Nobody will be shown it, but a server's settings need one.
        let (certificate, key) = net::self_signed(settings.node.hostname.as_str())?;
        identities.push(Identity::from_pem(certificate.as_bytes(), key.as_bytes())?);
    }
    Ok(identities)
}

/// Made once and kept, so that whoever pins it is not surprised by the next start.
fn self_signed(settings: &Settings) -> Result<Identity, Error> {
    let dir = settings.node.state_dir.join("tls");
    let (certificate_path, key_path) = (dir.join("self-signed.pem"), dir.join("self-signed.key"));
    if !certificate_path.exists() || !key_path.exists() {
        std::fs::create_dir_all(&dir).map_err(io_error(format!("{}", dir.display())))?;
        let (certificate, key) = net::self_signed(settings.node.hostname.as_str())?;
        write_private(&key_path, &key)?;
        write_private(&certificate_path, &certificate)?;
    }
    Ok(Identity::load(&certificate_path, &key_path)?)
}

fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let what = || format!("{}", path.display());
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error(what())(error)),
        Ok(()) | Err(_) => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io_error(what()))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error(what()))
}
