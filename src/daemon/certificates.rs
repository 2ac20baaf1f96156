//! Certificates: the configured pairs, or one made here at a first start that asks for it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{CertificateFiles, Settings};
use crate::net::{self, Identity, Roots, ServerTls};

use crate::report::{Event, Reporter};

use super::{Error, io_error};

/// How often the files are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The files of certificates, keys and authorities as they were when they were last read.
pub(super) struct Watch {
    files: Vec<(PathBuf, Option<Stamp>)>,
    /// Seen changed at the last look: they are read once they have come to rest, key and certificate both.
    unsettled: bool,
}

/// What a file looks like from outside; a replacement differs in one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        let modified = (found.mtime(), found.mtime_nsec());
        Some(Self { inode: found.ino(), bytes: found.len(), modified })
    }
}

impl Watch {
    pub(super) fn new(settings: &Settings) -> Self {
        let pairs = settings.certificate_files().into_iter().flat_map(|pair| [pair.cert, pair.key]);
        let files = pairs.chain(settings.tls.client_ca.clone()).map(|path| {
            let stamp = Stamp::of(&path);
            (path, stamp)
        });
        Self { files: files.collect(), unsettled: false }
    }

    /// True once for each change, one look after it was first seen and nothing else has changed since.
    pub(super) fn has_changed(&mut self) -> bool {
        let mut changed = false;
        for (path, stamp) in &mut self.files {
            let now = Stamp::of(path);
            if now != *stamp {
                *stamp = now;
                changed = true;
            }
        }
        let settled = self.unsettled && !changed;
        self.unsettled = changed;
        settled
    }
}

/// Says how long each certificate holds that anybody may be shown.
pub(super) fn report(identities: &[Identity], settings: &Settings, reporter: &Reporter) {
    for identity in identities.iter().take(settings.certificate_files().len()) {
        // Some subjects are no host names.
        let names = identity.names();
        let name = names.iter().find(|name| name.contains('.')).or(names.first()).map_or("", String::as_str);
        reporter.note(&Event::Certificate { name, expires: identity.expires() });
    }
}

pub(super) fn server(identities: &[Identity], settings: &Settings) -> Result<ServerTls, Error> {
    Ok(ServerTls::new(identities, client_roots(settings)?)?)
}

/// A pair that does not fit is refused, and the old one stays.
pub(super) fn replace(tls: &ServerTls, identities: &[Identity], settings: &Settings) -> Result<(), Error> {
    Ok(tls.replace(identities, client_roots(settings)?)?)
}

fn client_roots(settings: &Settings) -> Result<Roots, Error> {
    match &settings.tls.client_ca {
        Some(path) => Ok(Roots::none().and_file(path)?),
        None => Ok(Roots::system()),
    }
}

/// Who we are; also shown to next hops that ask. One made here is made once and kept, so that whoever pins
/// it is not surprised by the next start.
pub fn identities(settings: &Settings) -> Result<Vec<Identity>, Error> {
    let hostname = settings.node.hostname.as_str();
    let files = settings.certificate_files();
    if settings.tls.certificates.is_empty() {
        match files.first() {
            Some(pair) if !(pair.cert.exists() && pair.key.exists()) => make_self_signed(hostname, pair)?,
            Some(_) => {}
            // No listener speaks TLS: nobody will be shown it, but a server's settings need one.
            None => {
                let (certificate, key) = net::self_signed(hostname)?;
                return Ok(vec![Identity::from_pem(certificate.as_bytes(), key.as_bytes())?]);
            }
        }
    }
    files.iter().map(|pair| Ok(Identity::load(&pair.cert, &pair.key)?)).collect()
}

fn make_self_signed(hostname: &str, pair: &CertificateFiles) -> Result<(), Error> {
    for path in [&pair.cert, &pair.key] {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(io_error(format!("{}", dir.display())))?;
    }
    let (certificate, key) = net::self_signed(hostname)?;
    write_private(&pair.key, &key)?;
    write_private(&pair.cert, &certificate)
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
