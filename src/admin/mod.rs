//! Admin: the operator's door: HTTP on a socket below the state directory, and on an address where one is set.
//!
//! The command line speaks through `client`, over the socket. `api` puts the routes together and has those
//! that belong to no other file; what may be asked on the address, and by whom, is `guard`'s.

mod api;
mod audit;
mod caller;
pub mod client;
mod directory;
mod guard;
mod history;
mod https;
mod moving;
mod outside;
mod page;
mod queue;
mod status;

pub use api::{Address, Command, Door, OpenRegister, serve};
pub use audit::{Audit, FILE as AUDIT_FILE};
pub use directory::{ConnectorRow, connector_rows, domain_row};
pub use guard::Token;
pub use history::History;
pub use moving::{
    Manner, Plan, Refusal, find_domain, find_user, plan_domain, plan_user, users_of, whole_user_row,
};
pub use outside::{InForce, Outside};
