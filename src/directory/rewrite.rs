//! Rewrite: a file replaced whole or not at all, and on disk before anybody is told.
//!
//! For the snapshot of a remote directory and for the edits of a directory file.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Writes what `fill` gives and puts it in the place of `path`. An existing file's owner and mode stay;
/// a new one gets `mode`.
pub(super) fn rewrite(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    // What a link points to is replaced, not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = draft_beside(&path);
    let written = write_draft(&path, &draft, mode, fill).and_then(|()| fs::rename(&draft, &path));
    if written.is_err() {
        // The error that counts is the first one.
        let _ = fs::remove_file(&draft);
        return written;
    }
    File::open(folder)?.sync_all()
}

fn draft_beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn write_draft(
    path: &Path,
    draft: &Path,
    mode: u32,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    // A draft that a crash left behind may be in the way.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = File::options().write(true).create_new(true).mode(mode).open(draft)?;
    if let Ok(old) = fs::metadata(path) {
        file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        if let Ok(new) = file.metadata()
            && (new.uid(), new.gid()) != (old.uid(), old.gid())
        {
            chown(draft, Some(old.uid()), Some(old.gid()))?;
        }
    }
    let mut out = io::BufWriter::with_capacity(256 * 1024, file);
    fill(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}
