//! Filter: which of the queue an operator means: by id, next hop, recipient, sender and age.
//!
//! Everything that is named has to match. Pure; `queue` applies it, and holds what arrives later by it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Address, Domain, Envelope, MessageId};
use crate::clock::Timestamp;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MessageId>,
    /// A lane's name, as `queue summary` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<AddressPattern>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<AddressPattern>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_s: Option<u64>,
}

/// `anna@contoso.com`, `@contoso.com` for everybody there, or `<>` for the null sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum AddressPattern {
    One(Address),
    At(Domain),
    Null,
}

impl Filter {
    /// Whether it names nothing and so means everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it can hold what is not here yet: by where it goes, from whom and to whom.
    pub fn can_wait(&self) -> bool {
        !self.is_empty() && self.id.is_none() && self.older_than_s.is_none()
    }

    /// Whether anything that waits for this next hop can be meant.
    pub fn concerns(&self, destination: &str) -> bool {
        self.destination.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(destination))
    }

    /// Whether this recipient of this message is meant, wherever it waits.
    pub fn picks(&self, envelope: &Envelope, recipient: u32, now: Timestamp) -> bool {
        let fits = |pattern: &Option<AddressPattern>, address: Option<&Address>| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(address))
        };
        let age = now.since(envelope.received_at);
        self.id.is_none_or(|id| id == envelope.id)
            && self.older_than_s.is_none_or(|seconds| age >= Duration::from_secs(seconds))
            && fits(&self.sender, envelope.sender.as_ref())
            && fits(&self.recipient, Some(&envelope.recipients[recipient as usize].address))
    }
}

impl AddressPattern {
    pub fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
        if bare == Some("") {
            return Some(Self::Null);
        }
        let bare = bare.unwrap_or(text);
        match bare.trim_start_matches('*').strip_prefix('@') {
            Some(domain) => Domain::parse(domain).ok().map(Self::At),
            None => Address::parse(bare).ok().map(Self::One),
        }
    }

    fn matches(&self, address: Option<&Address>) -> bool {
        match (self, address) {
            (Self::One(wanted), Some(address)) => wanted == address,
            (Self::At(domain), Some(address)) => domain == address.domain(),
            (Self::Null, None) => true,
            (Self::One(_) | Self::At(_), None) | (Self::Null, Some(_)) => false,
        }
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => write!(f, "{address}"),
            Self::At(domain) => write!(f, "@{domain}"),
            Self::Null => f.write_str("<>"),
        }
    }
}

impl From<AddressPattern> for String {
    fn from(pattern: AddressPattern) -> Self {
        pattern.to_string()
    }
}

impl TryFrom<String> for AddressPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let expected = || format!("'{text}' is no address, no '@domain' and not '<>'");
        Self::parse(&text).ok_or_else(expected)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.id.map(|id| format!("id {id}")));
        words.extend(self.destination.as_ref().map(|name| format!("destination {name}")));
        words.extend(self.recipient.as_ref().map(|pattern| format!("recipient {pattern}")));
        words.extend(self.sender.as_ref().map(|pattern| format!("sender {pattern}")));
        words.extend(self.older_than_s.map(|seconds| format!("older than {seconds} s")));
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Recipient;

    fn envelope(sender: &str) -> Envelope {
        Envelope::new(
            MessageId::from_raw(7),
            Timestamp::from_millis(0),
            Address::parse(sender).ok(),
            ["anna@contoso.com", "ben@fabrikam.com"]
                .map(|text| Recipient::new(Address::parse(text).expect("an address")))
                .to_vec(),
        )
    }

    fn filter(json: &str) -> Filter {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    #[test]
    fn everything_that_is_named_has_to_match() {
        let now = Timestamp::from_millis(60_000);
        for (json, picked) in [
            ("{}", [true, true]),
            (r#"{"id":"0000000000000007"}"#, [true, true]),
            (r#"{"id":"0000000000000008"}"#, [false, false]),
            (r#"{"recipient":"Anna@Contoso.com"}"#, [true, false]),
            (r#"{"recipient":"@fabrikam.com"}"#, [false, true]),
            (r#"{"sender":"sue@sender.example"}"#, [true, true]),
            (r#"{"sender":"<sue@sender.example>"}"#, [true, true]),
            (r#"{"sender":"<>"}"#, [false, false]),
            (r#"{"older_than_s":60}"#, [true, true]),
            (r#"{"older_than_s":61}"#, [false, false]),
            (r#"{"sender":"@sender.example","recipient":"@contoso.com"}"#, [true, false]),
        ] {
            let (filter, envelope) = (filter(json), envelope("sue@sender.example"));
            assert_eq!([0, 1].map(|index| filter.picks(&envelope, index, now)), picked, "{json}");
        }
        assert!(filter(r#"{"sender":"<>"}"#).picks(&envelope("<>"), 0, now));
        let empty =
            serde_json::from_str::<Filter>(r#"{"sender":""}"#).expect_err("a variable that was not set");
        assert!(empty.to_string().contains("'' is no address, no '@domain' and not '<>'"), "{empty}");
        assert!(filter(r#"{"destination":"RELAY:nam"}"#).concerns("relay:NAM"));
        assert!(!filter(r#"{"destination":"relay:NAM"}"#).concerns("store:EUR"));
        assert!(serde_json::from_str::<Filter>(r#"{"recipient":"nobody"}"#).is_err());
        assert!(serde_json::from_str::<Filter>(r#"{"recipients":"a@b.example"}"#).is_err());
    }
}
