//! Config: the file an operator writes, as every room's settings.
//!
//! Owns the keys, their defaults and bounds, and what may not stand together. All mistakes of the
//! configuration and its directory are given at once; nothing starts half-configured.

mod settings;

use std::path::Path;

pub use settings::*;

use crate::directory::Table;
use crate::document::{Mistake, Mistakes};

/// A configuration without mistakes, and the directory it names.
pub struct Loaded {
    pub settings: Settings,
    pub table: Table,
    /// No reason not to start.
    pub warnings: Vec<Mistake>,
}

/// Reads and checks everything that `path` names: directory, user files, certificates.
pub fn load(path: &Path) -> Result<Loaded, Mistakes> {
    let _ = path;
    Err(Mistakes(Vec::new()))
}
