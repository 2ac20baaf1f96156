//! Xtext: how DSN parameters write what a command line cannot hold, and how notices write it again.
//!
//! RFC 3461 §4 for `ENVID` and `ORCPT`, RFC 6533 §3 for addresses of the type `utf-8`. `command` lets in
//! only what decodes to printable characters, so that nothing here can begin a field of a notice.

use std::fmt::Write as _;

/// The address type of RFC 6533, in any case.
pub const UTF8: &str = "utf-8";

/// A character of an address type: an atom's, without `=`, which a parameter cannot hold.
pub(super) fn is_atom(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*-/?^_`{|}~".contains(&byte)
}

/// Printable ASCII, with `+XX` for the rest. What it encodes must be printable too.
pub(super) fn is_xtext(value: &str) -> bool {
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => {
                let (Some(high), Some(low)) = (bytes.next().and_then(hex), bytes.next().and_then(hex)) else {
                    return false;
                };
                if !matches!(high * 16 + low, b' '..=b'~') {
                    return false;
                }
            }
            b'=' => return false,
            b'!'..=b'~' => {}
            _ => return false,
        }
    }
    true
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// What `+XX` stands for. What does not decode stays as it is.
pub fn decode(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('+') {
        decoded.push_str(plain);
        let octet = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match octet.filter(|octet| (b' '..=b'~').contains(octet)) {
            Some(octet) => {
                decoded.push(char::from(octet));
                rest = &after[2..];
            }
            None => {
                decoded.push('+');
                rest = after;
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

/// As `ENVID=` and `ORCPT=` take it; the text is printable ASCII.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '!'..='~' if c != '+' && c != '=' => encoded.push(c),
            _ => {
                for octet in c.to_string().bytes() {
                    let _ = write!(encoded, "+{octet:02X}");
                }
            }
        }
    }
    encoded
}

/// Reads `utf-8-addr-xtext` and `utf-8-addr-unitext`: `\x{HEX}` stands for a character. `None` for what is
/// neither, and for characters that are not printable.
pub fn decode_address(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let (digits, after) = rest.strip_prefix("x{")?.split_once('}')?;
                let fits =
                    (2..=6).contains(&digits.len()) && digits.bytes().all(|digit| hex(digit).is_some());
                let c =
                    fits.then(|| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)).flatten()?;
                decoded.push(printable(c)?);
                rest = after;
            }
            '+' | '=' | ' ' => return None,
            c => decoded.push(printable(c)?),
        }
    }
    (!decoded.is_empty()).then_some(decoded)
}

fn printable(c: char) -> Option<char> {
    // Line and paragraph separators end a line for some readers.
    (!c.is_control() && c != '\u{2028}' && c != '\u{2029}').then_some(c)
}

/// `utf-8-addr-xtext`: ASCII throughout, for `ORCPT` without SMTPUTF8 and for `message/delivery-status`.
pub fn encode_address(address: &str) -> String {
    let mut encoded = String::with_capacity(address.len());
    for c in address.chars() {
        match c {
            '\\' | '+' | '=' => {
                let _ = write!(encoded, "\\x{{{:02X}}}", u32::from(c));
            }
            '!'..='~' => encoded.push(c),
            _ => {
                let _ = write!(encoded, "\\x{{{:02X}}}", u32::from(c));
            }
        }
    }
    encoded
}

/// `ORCPT=` for a next hop without SMTPUTF8 (RFC 6533 §3); the same when it is ASCII already.
pub fn ascii_orcpt(orcpt: &str) -> std::borrow::Cow<'_, str> {
    let international = orcpt.split_once(';').filter(|_| !orcpt.is_ascii());
    match international.and_then(|(kind, address)| Some((kind, decode_address(address)?))) {
        Some((kind, address)) => format!("{kind};{}", encode_address(&address)).into(),
        None => orcpt.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn xtext_hides_no_control_characters() {
        for (text, fine) in [
            ("abc", true),
            ("+2B+3D", true),
            ("+20", true),
            ("a=b", false),
            ("a b", false),
            ("+2b", false),
            ("+2", false),
            ("+", false),
            ("+0D+0A", false),
            ("+7F", false),
            ("+C3", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(is_xtext(text), fine, "{text}");
        }
    }

    #[test]
    fn xtext_that_does_not_decode_stays() {
        for (text, decoded) in
            [("a+2Bb", "a+b"), ("a+", "a+"), ("+ZZ", "+ZZ"), ("+0D+0A", "+0D+0A"), ("plain", "plain")]
        {
            assert_eq!(decode(text), decoded);
        }
    }

    #[test]
    fn an_international_original_recipient_has_an_ascii_form() {
        assert_eq!(ascii_orcpt("utf-8;j\u{fc}rgen@contoso.com"), "utf-8;j\\x{FC}rgen@contoso.com");
        assert_eq!(ascii_orcpt("utf-8;j\\x{FC}rgen@contoso.com"), "utf-8;j\\x{FC}rgen@contoso.com");
        assert_eq!(ascii_orcpt("rfc822;anna+2B@contoso.com"), "rfc822;anna+2B@contoso.com");
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(text in "[ -~]{0,40}", address in "[!-~\u{a1}-\u{fff}\u{1f600}]{1,40}") {
            prop_assert!(is_xtext(&encode(&text)));
            prop_assert_eq!(decode(&encode(&text)), text);
            let encoded = encode_address(&address);
            prop_assert!(encoded.is_ascii());
            prop_assert_eq!(decode_address(&encoded), Some(address));
        }
    }
}
