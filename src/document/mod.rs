//! Document: files that operators write, read with positions.
//!
//! Owns the walk over a TOML tree: typed getters that note a mistake and go on, unknown keys, and
//! the line that says what is wrong where. Pure over text. `directory` and `config` read with it.

mod mistake;
mod page;
mod section;
mod entry;
mod unit;

pub use entry::{Entry, is_name, parse_network};
pub use mistake::{Mistake, Mistakes, Notes};
pub use page::Page;
pub use section::{Section, suggestion};
pub use unit::{parse_duration, parse_size, show_duration, show_size};
