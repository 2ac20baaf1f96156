//! World: real processes on loopback, one small world a test.
//!
//! Owns starting, finding and ending them: `Edge` is the program under test, `Sink` is Postfix's smtp-sink,
//! `Hop` a next hop that answers as it is told, `Dovecot` an LMTP store, `Postfix` an organisation's own
//! server, `Nameserver` a knotd, `Slapd` an LDAP server, `Client` and `swaks` are clients. Nothing is shared
//! between tests: each fixture has its own folder and its own loopback address, and is killed when dropped.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses its part of the world")]

mod authority;
mod babbler;
mod browser;
mod client;
mod dovecot;
mod edge;
mod hop;
mod letter;
mod nameserver;
mod pages;
mod place;
mod postfix;
mod postgres;
mod process;
mod report;
mod senders;
mod signer;
mod sink;
mod slapd;
mod tenants;
mod wait;

pub use authority::{Authority, Pair};
pub use babbler::Babbler;
pub use browser::Browser;
pub use client::{Client, swaks, told, until_told};
pub use dovecot::Dovecot;
pub use edge::{Builder, Command, Edge};
pub use hop::{Hop, Says};
pub use letter::{Letter, letter, subject_of};
pub use nameserver::{Nameserver, Unbound, Zone};
pub use pages::{Pages, ok};
pub use place::{Folder, free_address, is_listening};
pub use postfix::{Postfix, Setup};
pub use postgres::{Postgres, postgres_program};
pub use process::Process;
pub use report::Report;
pub use senders::Senders;
pub use signer::Signer;
pub use sink::{Sink, Taken};
pub use slapd::{BASE, READER, Slapd, ad_user};
pub use tenants::CONTOSO;
pub use wait::{Stopwatch, holds_for, median, until, wait_longer};
