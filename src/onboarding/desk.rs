//! Desk: the three questions that operators ask, by a domain's name. `landfall dns` and the API both ask here.

use std::sync::Arc;

use serde::Serialize;

use super::{Finding, Level, OwnCertificates, Plan, Settings, Zone, check, plan, zone};
use crate::clock::Timestamp;
use crate::decision::Rules;
use crate::directory::Directory;
use crate::dns::Resolver;
use crate::mail::{AcceptedDomain, Domain, Lookup};

/// What a question is answered from.
pub struct Desk<'d> {
    pub settings: &'d Settings,
    pub directory: &'d Directory,
    pub rules: &'d Rules,
    pub own: OwnCertificates<'d>,
    pub now: Timestamp,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    #[error("{0}")]
    Mistake(String),
    #[error("{0} is not hosted here")]
    Absent(Domain),
    /// It is hosted, and the settings do not say what its target is.
    #[error("{0}")]
    NoTarget(String),
    #[error("the directory does not answer")]
    Directory,
}

/// A domain's public records against the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub domain: String,
    pub ingress_region: String,
    /// No mail goes astray.
    pub ok: bool,
    pub findings: Vec<Finding>,
}

impl Desk<'_> {
    pub async fn plan(&self, name: &str, resolver: &Resolver) -> Result<Plan, Unanswered> {
        let domain = self.find(name).await?;
        let window = self.rules.propagation_window;
        plan(self.settings, &domain, &self.own, window, resolver, self.now)
            .await
            .map_err(|why| Unanswered::NoTarget(format!("{}: {why}", domain.name)))
    }

    pub async fn check(&self, name: &str, resolver: &Resolver) -> Result<Checked, Unanswered> {
        let domain = self.find(name).await?;
        let former = domain.former_ingress_region(self.rules, self.now);
        let findings = check(self.settings, &domain, &self.own, former, resolver).await;
        Ok(Checked {
            domain: domain.name.to_string(),
            ingress_region: domain.ingress_region().to_string(),
            ok: findings.iter().all(|finding| finding.level != Level::Fault),
            findings,
        })
    }

    pub fn zone(&self) -> Result<Zone, Unanswered> {
        let table = self.directory.table();
        let domains = table.domains().cloned().collect::<Vec<_>>();
        zone(self.settings, domains, &self.own, self.now).ok_or_else(|| {
            let why = "onboarding.mx_target is not set: there is no zone of targets";
            Unanswered::NoTarget(why.to_owned())
        })
    }

    async fn find(&self, name: &str) -> Result<Arc<AcceptedDomain>, Unanswered> {
        let domain = Domain::parse(name).map_err(|error| Unanswered::Mistake(format!("{name}: {error}")))?;
        match self.directory.domain(&domain).await {
            Lookup::Found(found) => Ok(found),
            Lookup::Absent => Err(Unanswered::Absent(domain)),
            Lookup::Failed => Err(Unanswered::Directory),
        }
    }
}
