//! Headers: which header fields are ours to write, and nobody else's.

use super::show;
use crate::document::{Entry, Section};
use crate::mail::firewall::FieldPattern;

/// What a field name may be here: short enough for a line of its own.
const NAME: &str = "a header field name such as \"X-Original-Sender\"";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// How the names of our own trust headers begin; taken out of mail from outside.
    pub trust_prefix: String,
    /// Rule 42: taken out of mail from outside as well.
    pub firewall: Vec<FieldPattern>,
    /// Rule 40: what records the address that mail really came from, where the recipients match.
    pub original_sender: String,
    /// Rule 40: the same, whoever the recipients are.
    pub skip_listed_sender: String,
}

impl Default for Headers {
    fn default() -> Self {
        let pattern = |text| FieldPattern::parse(text).expect("a pattern");
        Self {
            trust_prefix: "X-Landfall-".to_owned(),
            firewall: vec![
                pattern("X-MS-Exchange-Organization-*"),
                pattern("X-MS-Exchange-Forest-*"),
                pattern("X-MS-Exchange-CrossPremises-*"),
            ],
            original_sender: "X-MS-Exchange-ExternalOriginalInternetSender".to_owned(),
            skip_listed_sender: "X-MS-Exchange-SkipListedInternetSender".to_owned(),
        }
    }
}

impl Headers {
    pub(super) fn read(top: &Section<'_>) -> Self {
        let section = top.section("headers");
        let default = Self::default();
        let name = |entry: &Entry<'_>| {
            entry.text_as(NAME, |text| match FieldPattern::parse(text) {
                Some(FieldPattern::Name(name)) => Some(name.into()),
                Some(FieldPattern::Prefix(_) | FieldPattern::ResultsOf(_)) | None => None,
            })
        };
        let prefix = |entry: &Entry<'_>| {
            entry.text_as("how header field names begin, such as \"X-Landfall-\"", |text| {
                FieldPattern::parse(&format!("{text}*")).map(|_| text.to_owned())
            })
        };
        let pattern = |entry: &Entry<'_>| {
            entry.text_as("a header field name, or its beginning and \"*\"", FieldPattern::parse)
        };
        Self {
            trust_prefix: section.read_or("trust_prefix", default.trust_prefix, prefix),
            firewall: section.list("firewall", pattern).unwrap_or(default.firewall),
            original_sender: section.read_or("original_sender", default.original_sender, name),
            skip_listed_sender: section.read_or("skip_listed_sender", default.skip_listed_sender, name),
        }
    }

    pub(super) fn show(&self, page: &mut show::Page) {
        let Self { trust_prefix, firewall, original_sender, skip_listed_sender } = self;
        page.section("headers");
        page.key("trust_prefix", show::text(trust_prefix));
        page.key("firewall", show::list(firewall));
        page.key("original_sender", show::text(original_sender));
        page.key("skip_listed_sender", show::text(skip_listed_sender));
    }
}
