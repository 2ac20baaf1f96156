//! Target: the host that a domain's MX record should name.

use std::fmt;

use crate::mail::Domain;

use super::Settings;

/// `{domain}.mx.example.net`: each domain gets a host of its own below one zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    zone: Domain,
}

const PLACE: &str = "{domain}";

impl Template {
    pub fn parse(text: &str) -> Option<Self> {
        let zone = text.strip_prefix(PLACE)?.strip_prefix('.')?;
        Domain::parse(zone).ok().filter(|zone| !zone.is_literal()).map(|zone| Self { zone })
    }

    /// Where all derived targets are.
    pub fn zone(&self) -> &Domain {
        &self.zone
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PLACE}.{}", self.zone)
    }
}

/// Why a domain has no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTarget {
    #[error("onboarding.mx_target is not set, and onboarding.mx_targets does not name this domain")]
    NoTemplate,
    #[error(
        "a name with a hyphen cannot be turned into a label: a-b.com and a.b.com would share one; \
         name its host in [onboarding.mx_targets]"
    )]
    Hyphen,
    #[error("its label would be longer than 63 octets; name its host in [onboarding.mx_targets]")]
    TooLong,
}

/// What is written down wins; else dots become hyphens, where that cannot be mistaken.
pub fn target_of(settings: &Settings, domain: &Domain) -> Result<Domain, NoTarget> {
    if let Some(host) = settings.targets.get(domain) {
        return Ok(host.clone());
    }
    let template = settings.target.as_ref().ok_or(NoTarget::NoTemplate)?;
    let name = domain.as_str();
    if name.contains('-') {
        return Err(NoTarget::Hyphen);
    }
    let label = name.replace('.', "-");
    if label.len() > 63 {
        return Err(NoTarget::TooLong);
    }
    Domain::parse(&format!("{label}.{}", template.zone)).map_err(|_| NoTarget::TooLong)
}
