//! Admin: the operator's door: HTTP on a socket below the state directory, and for reading on an address.
//!
//! The command line speaks through `client`; what changes something is taken on the socket only.

mod api;
pub mod client;
mod guard;
mod history;
mod https;

pub use api::{Address, Command, Door, Status, serve};
pub use guard::Token;
pub use history::History;
