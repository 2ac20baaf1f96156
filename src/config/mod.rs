//! Config: the file an operator writes, as every room's settings.
//!
//! Owns the keys, their defaults and bounds, and what may not stand together. All mistakes of the
//! configuration and its directory are given at once; nothing starts half-configured.

mod settings;
mod file;
mod certificate;
mod show;

use std::path::{Path, PathBuf};

use file::NamedFile;
pub use settings::*;
pub use show::{show, show_json};

use crate::directory::{self, Table};
use crate::document::{Entry, Mistake, Mistakes, Notes, Page};
use crate::mail::Region;

/// A configuration without mistakes, and the directory it names.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub table: Table,
    /// No reason not to start.
    pub warnings: Vec<Mistake>,
}

/// Every key at its default, commented.
pub fn example() -> &'static str {
    include_str!("../../config/landfall.toml")
}

/// Reads and checks everything that `path` names: the directory, its user files, certificates.
pub fn load(path: &Path) -> Result<Loaded, Mistakes> {
    let file = path.display().to_string();
    let base = path.parent().unwrap_or(Path::new(""));
    let text = std::fs::read_to_string(path).map_err(|error| {
        Mistakes(vec![whole(&file, "", format!("cannot be read: {error}"), "a readable TOML file in UTF-8")])
    })?;
    let notes = Notes::default();
    let loaded = Page::open(&file, &text, &notes).map(|page| {
        let reading = file::read(&page, base);
        let mut table = Table::default();
        for named in &reading.files {
            match named {
                NamedFile::Certificate { cert, key, files } => certificate::check_pair(cert, key, files),
                NamedFile::Authorities { entry, path } => certificate::check_authorities(entry, path),
                NamedFile::Directory { entry, path, shown } => {
                    table = read_directory(entry, path, shown, &reading.settings, &notes);
                }
            }
        }
        note_missing_routes(&file, &reading.settings, &table, &notes);
        (reading.settings, table)
    });
    let warnings = notes.verdict()?;
    let (settings, table) = loaded.expect("a page that does not open leaves a mistake");
    Ok(Loaded { settings, table, warnings })
}

/// Where the daemon of this file has its admin socket, read from two keys alone: for commands that must
/// reach a running daemon although the file has mistakes now.
pub fn socket_of(path: &Path) -> Option<PathBuf> {
    let table: toml::Table = std::fs::read_to_string(path).ok()?.parse().ok()?;
    let state_dir = table.get("node")?.get("state_dir")?.as_str()?;
    let socket = table.get("admin").and_then(|admin| admin.get("socket")?.as_str()).map(PathBuf::from);
    Some(Path::new(state_dir).join(socket.unwrap_or(Admin::default().socket)))
}

fn read_directory(entry: &Entry<'_>, path: &Path, shown: &str, settings: &Settings, notes: &Notes) -> Table {
    let base = Path::new(shown).parent().unwrap_or(Path::new(""));
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let regions = settings.known_regions();
            directory::read(shown, &text, base, &regions, settings.directory.subaddress, notes)
        }
        Err(error) => {
            entry.mistake(format!("cannot read {shown}: {error}"), "a readable TOML file in UTF-8");
            Table::default()
        }
    }
}

/// Section 6, Codes: missing routes for regions other than the node's own are warnings.
fn note_missing_routes(file: &str, settings: &Settings, table: &Table, notes: &Notes) {
    let mut said: Vec<Region> = Vec::new();
    for tenant in table.tenants() {
        for region in &tenant.allowed_regions {
            let route = settings.regions.get(region);
            let reached = route.is_some_and(|route| !(route.store.is_empty() && route.relay.is_empty()));
            if reached || *region == settings.node.region || said.contains(region) {
                continue;
            }
            said.push(*region);
            let problem = format!("has no route, but tenant \"{}\" may have mailboxes there", tenant.id);
            notes.warning(whole(file, &format!("region.{region}"), problem, "store or relay"));
        }
    }
}

/// A mistake of no one line.
fn whole(file: &str, key: &str, problem: String, expected: &str) -> Mistake {
    Mistake { file: file.to_owned(), line: None, key: key.to_owned(), problem, expected: expected.to_owned() }
}
