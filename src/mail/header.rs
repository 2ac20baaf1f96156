//! Header: the lines we put in front of a message. Pure; bytes in, bytes out.

use std::fmt::Write as _;

use super::{Domain, Envelope, Peer, Sender};

/// `Received`, as RFC 5321 §4.4 wants it, folded, ending in CRLF.
pub fn received(hostname: &Domain, envelope: &Envelope) -> String {
    let mut line = String::with_capacity(256);
    if let Some(peer) = &envelope.peer {
        let _ = write!(line, "Received: from {} ({})\r\n\t", name_of(peer), literal(peer));
    } else {
        line.push_str("Received: ");
    }
    let _ = write!(line, "by {hostname} (Landfall) with {}", protocol(envelope));
    if let Some(tls) = envelope.peer.as_ref().and_then(|peer| peer.tls.as_ref()) {
        let _ = write!(line, "\r\n\t({} {})", tls.version, tls.cipher);
    }
    let _ = write!(line, "\r\n\tid {}", envelope.id);
    // More than one would tell each recipient of the others. RFC 5321 §4.4
    if let [only] = &envelope.recipients[..] {
        let _ = write!(line, "\r\n\tfor <{}>", only.address);
    }
    let _ = write!(line, "; {}\r\n", envelope.received_at.rfc5322());
    line
}

/// `Return-Path`, which final delivery puts first (RFC 5321 §4.4).
pub fn return_path(sender: &Sender) -> String {
    match sender {
        Some(address) => format!("Return-Path: <{address}>\r\n"),
        None => "Return-Path: <>\r\n".to_owned(),
    }
}

/// What the client called itself, with everything that could end the clause or the line replaced.
fn name_of(peer: &Peer) -> String {
    if peer.helo.is_empty() {
        return "unknown".to_owned();
    }
    let plain =
        |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c) || !c.is_ascii() && !c.is_control();
    peer.helo.chars().take(255).map(|c| if plain(c) { c } else { '?' }).collect()
}

fn literal(peer: &Peer) -> String {
    match peer.ip {
        std::net::IpAddr::V4(v4) => format!("[{v4}]"),
        std::net::IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    }
}

/// The words of the IANA registry "Mail Transmission Types" (RFC 3848, RFC 6531 §3.7.3).
fn protocol(envelope: &Envelope) -> &'static str {
    let Some(peer) = &envelope.peer else { return "local" };
    match (peer.esmtp, envelope.smtputf8, peer.tls.is_some()) {
        (false, _, _) => "SMTP",
        (true, false, false) => "ESMTP",
        (true, false, true) => "ESMTPS",
        (true, true, false) => "UTF8SMTP",
        (true, true, true) => "UTF8SMTPS",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::mail::{Address, MessageId, Recipient};

    fn envelope(helo: &str) -> Envelope {
        let mut peer = Peer::new("192.0.2.7".parse().expect("an address"));
        peer.helo = helo.to_owned();
        peer.esmtp = true;
        Envelope {
            peer: Some(peer),
            ..Envelope::new(
                MessageId::from_raw(0xabc),
                Timestamp::from_millis(1_763_699_384_000),
                None,
                vec![Recipient::new(Address::parse("anna@contoso.com").expect("an address"))],
            )
        }
    }

    #[test]
    fn received_names_both_hosts_the_id_and_a_single_recipient() {
        let host = Domain::parse("edge1.eur.example.net").expect("a name");
        assert_eq!(
            received(&host, &envelope("mail.sender.example")),
            "Received: from mail.sender.example ([192.0.2.7])\r\n\tby edge1.eur.example.net (Landfall) with ESMTP\r\n\
             \tid 0000000000000abc\r\n\tfor <anna@contoso.com>; Fri, 21 Nov 2025 04:29:44 +0000\r\n"
        );
        let mut two = envelope("x");
        two.recipients.push(two.recipients[0].clone());
        assert!(!received(&host, &two).contains("for <"));
    }

    #[test]
    fn a_greeting_cannot_break_out_of_the_line() {
        let host = Domain::parse("edge1.eur.example.net").expect("a name");
        let text = received(&host, &envelope("a)\r\nX: y;("));
        assert!(text.starts_with("Received: from a???X:?y?? ([192.0.2.7])\r\n"), "{text}");
    }
}
