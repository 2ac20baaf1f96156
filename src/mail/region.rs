//! Region: a place where mail enters and lives, by code.
//!
//! A code is an opaque label: upper case, compared whole, and one never implies another.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The 25 codes of the multi-geo table; configuration may add more.
pub const KNOWN_REGIONS: [&str; 25] = [
    "APC", "AUS", "BRA", "CAN", "EUR", "FRA", "DEU", "IND", "ISR", "ITA", "JPN", "KOR", "MEX", "NZL", "NOR",
    "POL", "QAT", "ZAF", "ESP", "SWE", "CHE", "TWN", "ARE", "GBR", "NAM",
];

const CODE_LIMIT: usize = 8;

/// A region code, stored upper case. `Copy`, because every decision compares several.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Region([u8; CODE_LIMIT]);

impl Region {
    /// Reads a code by its form alone (2 to 8 letters or digits); `Regions` knows which exist.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if !(2..=CODE_LIMIT).contains(&bytes.len()) || !bytes.iter().all(u8::is_ascii_alphanumeric) {
            return None;
        }
        let mut code = [0; CODE_LIMIT];
        code[..bytes.len()].copy_from_slice(bytes);
        code.make_ascii_uppercase();
        Some(Self(code))
    }

    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(CODE_LIMIT);
        std::str::from_utf8(&self.0[..end]).expect("a region code is ASCII")
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Region> for String {
    fn from(region: Region) -> Self {
        region.as_str().to_owned()
    }
}

impl TryFrom<String> for Region {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or_else(|| format!("'{text}' is not a region code"))
    }
}

/// Which region codes exist: the 25 of the table and those that configuration adds.
#[derive(Debug, Clone)]
pub struct Regions(BTreeSet<Region>);

impl Default for Regions {
    fn default() -> Self {
        Self(KNOWN_REGIONS.iter().filter_map(|code| Region::parse(code)).collect())
    }
}

impl Regions {
    pub fn add(&mut self, region: Region) {
        self.0.insert(region);
    }

    pub fn contains(&self, region: Region) -> bool {
        self.0.contains(&region)
    }

    /// A code that exists, in any case.
    pub fn find(&self, text: &str) -> Option<Region> {
        Region::parse(text).filter(|region| self.contains(*region))
    }

    pub fn iter(&self) -> impl Iterator<Item = Region> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_upper_case_and_compared_in_any_case() {
        assert_eq!(Region::parse("eur"), Region::parse("EUR"));
        assert_eq!(Region::parse("eur").expect("a code").as_str(), "EUR");
        for bad in ["", "E", "EU-R", "TOOLONGCODE", "EÜR"] {
            assert_eq!(Region::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_listed_codes_exist() {
        let mut regions = Regions::default();
        assert_eq!(regions.iter().count(), 25);
        assert_eq!(regions.find("NAN"), None);
        regions.add(Region::parse("nan").expect("a code"));
        assert!(regions.find("NAN").is_some());
    }
}
