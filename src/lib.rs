//! Landfall: an inbound SMTP edge that lands every message in its recipient's region.
//!
//! This file is the map: every room in reading order, floor by floor.
//! A room may use only rooms listed above it; `tests/architecture.rs` holds that.

// FLOOR 1 · WORDS: plain values; nothing waits, nothing fails for outside reasons.
pub mod clock;
pub mod chance;
pub mod mail;
pub mod smtp;

// FLOOR 2 · ROOMS: each knows one thing.
pub mod net;
pub mod dns;
pub mod auth;
pub mod limits;
pub mod document;
pub mod directory;
pub mod decision;
pub mod spool;
pub mod audit;
pub mod trace;
pub mod report;

// FLOOR 3 · CONVERSATIONS
pub mod inquiry;
pub mod session;
pub mod delivery;
pub mod onboarding;
pub mod explain;

// FLOOR 4 · WORKERS
pub mod listener;
pub mod queue;

// FLOOR 5 · OPERATION
pub mod admin;
pub mod config;
pub mod daemon;
pub mod cli;
