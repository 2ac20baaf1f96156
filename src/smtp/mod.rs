//! SMTP as text: bytes to values and back, in both directions.
//!
//! Owns the grammar and the catalogue of everything Landfall can answer. Decides nothing and waits for
//! nothing. `mail` comes before; `net`, `session` and `delivery` speak with these words.

pub mod line;
pub mod xtext;
pub mod command;
pub mod xclient;
pub mod reply;
pub mod extension;
pub mod body;
pub mod response;
pub mod encode;
