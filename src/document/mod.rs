//! Document: files that operators write, read with positions.
//!
//! Owns the walk over a TOML tree: typed getters that note a mistake and go on, unknown keys, and
//! the line that says what is wrong where. Pure over text. `directory` and `config` read with it.

mod mistake;

pub use mistake::{Mistake, Mistakes, Notes};
