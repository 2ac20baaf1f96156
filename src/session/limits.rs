//! Limits: how much, how many and how long, for one session.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// SIZE: octets of one message (rule 55).
    pub message_size: u64,
    /// Accepted recipients of one message, and of one domain in it (rule 56).
    pub recipients_per_message: usize,
    pub recipients_per_domain: usize,
    /// `Received` fields that a message may bring (rule 57).
    pub hops: u32,
    /// Faulty commands in one session before it is closed. Refused recipients are no faults.
    pub faults: u32,
    /// How long a client may take for its next command (RFC 5321 §4.5.3.2.7).
    pub command_patience: Duration,
    /// How long it may take for the next block of a body (RFC 5321 §4.5.3.2.5).
    pub body_patience: Duration,
    /// Age at which the session is told to go, once its transaction is over (rule 65).
    pub session_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 150 * 1024 * 1024,
            recipients_per_message: 500,
            recipients_per_domain: 200,
            // RFC 5321 §6.3 asks for at least 100.
            hops: 100,
            faults: 20,
            command_patience: Duration::from_secs(5 * 60),
            body_patience: Duration::from_secs(3 * 60),
            session_age: Duration::from_secs(20 * 60),
        }
    }
}
