//! Xclient: what a trusted peer says of the client that it speaks for (Postfix's XCLIENT_README).
//!
//! Owns the grammar of the attributes. Who may say it is `session`'s.

use std::net::IpAddr;

use super::command::{CommandError, greeting_name};
use super::xtext;

/// What `EHLO` says of it, to those who may use it.
pub(super) const OFFER: &[u8] = b"XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
const ATTRIBUTES: [&str; 8] = ["NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"];
/// Values that say that nothing is known, for good or for now.
const UNKNOWN: [&str; 2] = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"];

/// The client that a peer speaks for; what it does not name stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Introduction {
    pub ip: Option<IpAddr>,
    pub helo: Option<String>,
    /// Whether the client itself greets with EHLO.
    pub esmtp: Option<bool>,
}

impl Introduction {
    pub(super) fn parse(attributes: &str) -> Result<Self, CommandError> {
        let mut introduction = Self::default();
        let mut seen = [false; ATTRIBUTES.len()];
        for word in attributes.split(' ').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').ok_or(CommandError::BadParameter)?;
            let known = ATTRIBUTES.iter().position(|known| name.eq_ignore_ascii_case(known));
            let known = known.ok_or(CommandError::UnknownParameter)?;
            if std::mem::replace(&mut seen[known], true) {
                return Err(CommandError::RepeatedParameter);
            }
            if !xtext::is_xtext(value) || value.is_empty() {
                return Err(CommandError::BadParameter);
            }
            if UNKNOWN.iter().any(|unknown| value.eq_ignore_ascii_case(unknown)) {
                continue;
            }
            introduction.take(ATTRIBUTES[known], &xtext::decode(value))?;
        }
        if seen.contains(&true) { Ok(introduction) } else { Err(CommandError::BadParameter) }
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), CommandError> {
        match name {
            "ADDR" => self.ip = Some(address(value)?),
            "DESTADDR" => drop(address(value)?),
            "PORT" | "DESTPORT" => drop(value.parse::<u16>().map_err(|_| CommandError::BadParameter)?),
            "HELO" => self.helo = Some(greeting_name(value.as_bytes())?.to_owned()),
            "PROTO" if value.eq_ignore_ascii_case("SMTP") => self.esmtp = Some(false),
            "PROTO" if value.eq_ignore_ascii_case("ESMTP") => self.esmtp = Some(true),
            "PROTO" => return Err(CommandError::BadParameter),
            // The name is looked up again where it matters, and nobody logs in here.
            _ => {}
        }
        Ok(())
    }
}

fn address(text: &str) -> Result<IpAddr, CommandError> {
    let v6 = text.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPV6:")).map(|_| &text[5..]);
    let ip: IpAddr = v6.unwrap_or(text).parse().map_err(|_| CommandError::BadParameter)?;
    Ok(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read() {
        for (text, ip, helo, esmtp) in [
            ("ADDR=192.0.2.7", Some("192.0.2.7"), None, None),
            ("NAME=spike.example ADDR=IPV6:2001:db8::7 PROTO=ESMTP", Some("2001:db8::7"), None, Some(true)),
            (
                "addr=2001:db8::7 proto=smtp helo=a.example",
                Some("2001:db8::7"),
                Some("a.example"),
                Some(false),
            ),
            ("NAME=[UNAVAILABLE] ADDR=[TEMPUNAVAIL] HELO=[unavailable] PORT=25", None, None, None),
            ("LOGIN=anna+40contoso.com DESTADDR=192.0.2.1 DESTPORT=25", None, None, None),
            ("HELO=+5B192.0.2.7+5D", None, Some("[192.0.2.7]"), None),
        ] {
            let read = Introduction::parse(text).expect(text);
            assert_eq!(read.ip, ip.map(|ip| ip.parse().expect("an address")), "{text}");
            assert_eq!((read.helo.as_deref(), read.esmtp), (helo, esmtp), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        use CommandError::*;
        for (text, error) in [
            ("", BadParameter),
            ("ADDR", BadParameter),
            ("ADDR=", BadParameter),
            ("ADDR=192.0.2", BadParameter),
            ("PORT=70000", BadParameter),
            ("PROTO=LMTP", BadParameter),
            ("HELO=a+20b", BadSyntax),
            ("HELO=a+0D+0A", BadParameter),
            ("NAME=a=b", BadParameter),
            ("ADDR=192.0.2.7 addr=192.0.2.8", RepeatedParameter),
            ("SOURCE=LOCAL", UnknownParameter),
        ] {
            assert_eq!(Introduction::parse(text), Err(error), "{text}");
        }
    }
}
