//! Ledger: how TLS went with each domain, for the reports that domains ask for (RFC 8460).
//!
//! Owns the counts of one period, under bounds; `daemon` writes them down, and sends them when a period ends.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;

use mail_auth::report::tlsrpt::{
    FailureDetails, Policy as Counted, PolicyDetails, PolicyType, ResultType, Summary,
};

use super::proof::Proof;
use super::sts::{Mode, Policy};
use crate::mail::Domain;
use crate::net::Fault;

/// Domains counted in one period; later ones go uncounted.
const DOMAINS_LIMIT: usize = 10_000;
/// Different failures kept of one policy; further ones count in its sum.
const FAILURES_LIMIT: usize = 50;

/// What one period has come to, by domain.
pub type Counts = BTreeMap<String, Vec<Counted>>;

#[derive(Debug, Default)]
pub struct Ledger(Mutex<Counts>);

/// How one session went.
pub(super) enum Session {
    Secured,
    Failed { result: ResultType, host: String, address: Option<IpAddr> },
}

impl Ledger {
    /// Takes up what an earlier run of the daemon counted.
    pub fn restore(&self, counts: Counts) {
        *self.0.lock().expect("nobody panics while counting") = counts;
    }

    pub fn counts(&self) -> Counts {
        self.0.lock().expect("nobody panics while counting").clone()
    }

    /// The period is over.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut self.0.lock().expect("nobody panics while counting"))
    }

    pub(super) fn note(&self, domain: &Domain, policy: PolicyDetails, session: Session) {
        let mut counts = self.0.lock().expect("nobody panics while counting");
        if counts.len() >= DOMAINS_LIMIT && !counts.contains_key(domain.as_str()) {
            return;
        }
        let policies = counts.entry(domain.as_str().to_owned()).or_default();
        let known = policies.iter().position(|counted| counted.policy.policy_type == policy.policy_type);
        let at = known.unwrap_or_else(|| {
            let summary = Summary { total_success: 0, total_failure: 0 };
            policies.push(Counted { policy: policy.clone(), summary, failure_details: Vec::new() });
            policies.len() - 1
        });
        let counted = &mut policies[at];
        counted.policy = policy;
        match session {
            Session::Secured => {
                counted.summary.total_success = counted.summary.total_success.saturating_add(1)
            }
            Session::Failed { result, host, address } => {
                counted.summary.total_failure = counted.summary.total_failure.saturating_add(1);
                let same = |failure: &&mut FailureDetails| {
                    failure.result_type == result
                        && failure.receiving_ip == address
                        && failure.receiving_mx_hostname.as_deref() == Some(&host)
                };
                let room = counted.failure_details.len() < FAILURES_LIMIT;
                match counted.failure_details.iter_mut().find(same) {
                    Some(failure) => {
                        failure.failed_session_count = failure.failed_session_count.saturating_add(1);
                    }
                    None if room => {
                        counted.failure_details.push(FailureDetails {
                            result_type: result,
                            receiving_mx_hostname: Some(host),
                            receiving_ip: address,
                            failed_session_count: 1,
                            ..FailureDetails::default()
                        });
                    }
                    None => {}
                }
            }
        }
    }
}

/// What a report says of the policy that a host was held to.
pub(super) fn details(proof: &Proof, domain: &Domain, host: &str, policy: Option<&Policy>) -> PolicyDetails {
    let policy_domain = domain.as_str().to_owned();
    match proof {
        Proof::Dane { records, .. } => PolicyDetails {
            policy_type: PolicyType::Tlsa,
            policy_string: records.clone(),
            policy_domain,
            mx_host: vec![host.to_owned()],
        },
        Proof::Encryption => PolicyDetails {
            policy_type: PolicyType::Tlsa,
            policy_domain,
            mx_host: vec![host.to_owned()],
            ..PolicyDetails::default()
        },
        Proof::Sts | Proof::StsTesting | Proof::Named => of_sts(domain, policy),
        Proof::Nothing => PolicyDetails {
            policy_type: PolicyType::NoPolicyFound,
            policy_domain,
            ..PolicyDetails::default()
        },
    }
}

pub(super) fn of_sts(domain: &Domain, policy: Option<&Policy>) -> PolicyDetails {
    let mode = |mode| match mode {
        Mode::Enforce => "enforce",
        Mode::Testing => "testing",
        Mode::None => "none",
    };
    let lines = policy.map(|policy| {
        let mut lines = vec!["version: STSv1".to_owned(), format!("mode: {}", mode(policy.mode))];
        lines.extend(policy.mx.iter().map(|mx| format!("mx: {mx}")));
        lines.push(format!("max_age: {}", policy.max_age.as_secs()));
        lines
    });
    PolicyDetails {
        policy_type: PolicyType::Sts,
        policy_string: lines.unwrap_or_default(),
        policy_domain: domain.as_str().to_owned(),
        mx_host: policy.map(|policy| policy.mx.clone()).unwrap_or_default(),
    }
}

/// RFC 8460 §4.3
pub(super) fn result_of(proof: &Proof, fault: Fault) -> ResultType {
    match (fault, proof) {
        (Fault::NotOffered, _) => ResultType::StartTlsNotSupported,
        (Fault::Expired, _) => ResultType::CertificateExpired,
        (Fault::WrongName, _) => ResultType::CertificateHostMismatch,
        (Fault::Untrusted | Fault::Other, Proof::Dane { .. }) => ResultType::TlsaInvalid,
        (Fault::Untrusted, _) => ResultType::CertificateNotTrusted,
        (Fault::Other, _) => ResultType::ValidationFailure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_under_bounds() {
        let ledger = Ledger::default();
        let domain = Domain::parse("contoso.com").expect("a domain");
        let policy = || details(&Proof::Nothing, &domain, "mx", None);
        ledger.note(&domain, policy(), Session::Secured);
        for number in 0..200_u32 {
            let host = format!("mx{}", number % 100);
            let session = Session::Failed { result: ResultType::CertificateExpired, host, address: None };
            ledger.note(&domain, policy(), session);
        }
        let counts = ledger.take();
        let counted = &counts["contoso.com"][0];
        assert_eq!((counted.summary.total_success, counted.summary.total_failure), (1, 200));
        assert_eq!(counted.failure_details.len(), FAILURES_LIMIT);
        assert!(counted.failure_details.iter().all(|failure| failure.failed_session_count == 2));
        assert!(ledger.counts().is_empty());
    }
}
