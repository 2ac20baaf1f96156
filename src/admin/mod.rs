//! Admin: the operator's door: HTTP on a socket below the state directory, and for reading on an address.
//!
//! The command line speaks through `client`; what changes something is taken on the socket only.

mod api;
mod audit;
pub mod client;
mod directory;
mod guard;
mod history;
mod https;
mod queue;
mod status;
mod page;

pub use api::{Address, Command, Door, serve};
pub use audit::{Audit, FILE as AUDIT_FILE};
pub use directory::{ConnectorRow, connector_rows, domain_row, routing, user_row};
pub use guard::Token;
pub use history::History;
