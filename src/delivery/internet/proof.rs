//! Proof: what a mail server of the internet must prove before it is given mail.
//!
//! Owns the order of the policies: DANE (RFC 7672) where the signed DNS has a word, else the domain's MTA-STS
//! policy (RFC 8461), else whatever is offered. `by_mx` asks for each host.

use super::exchange::Exchangers;
use super::sts::{Mode, Policy};
use super::{Internet, Settings};
use crate::dns::{Answer, Resolver};
use crate::mail::{Domain, RemoteReply, Status, TlsLevel};
use crate::net::{Association, Dane, Fault, Trust};

/// What one host must prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing: TLS when it is offered, plain text otherwise.
    Nothing,
    /// TLS, whatever the certificate: there are TLSA records, and none that mail can use. RFC 7672 §2.2
    Encryption,
    Dane {
        dane: Dane,
        base: String,
        /// As reports write them.
        records: Vec<String>,
    },
    /// MTA-STS in force.
    Sts,
    /// MTA-STS on trial: a failure is reported, and mail goes all the same.
    StsTesting,
    /// A REQUIRETLS message, to a host whose name is proven (RFC 8689 §4.2.1).
    Named,
}

impl Proof {
    /// Asks the DNS about this host. An error is a failure that only this host is passed over for.
    pub(super) async fn of(
        host: &Candidate<'_>,
        settings: &Settings,
        resolver: &Resolver,
        policy: Option<&Policy>,
    ) -> Result<Self, RemoteReply> {
        if settings.dane
            && host.exchangers.authentic
            && host.authentic
            && let Some(proof) = by_dane(host, settings.port, resolver).await?
        {
            return Ok(proof);
        }
        let Some(policy) = policy else { return Ok(Self::Nothing) };
        match (policy.mode, policy.covers(host.name)) {
            (Mode::None, _) => Ok(Self::Nothing),
            (Mode::Testing, _) => Ok(Self::StsTesting),
            (Mode::Enforce, true) => Ok(Self::Sts),
            (Mode::Enforce, false) => {
                let text =
                    format!("{} is not among the MX hosts of {}'s MTA-STS policy", host.name, host.domain);
                Err(RemoteReply::ours(host.name, Status::new(4, 4, 8), text))
            }
        }
    }

    /// As it is for a message that must not travel unprotected. `None`: this host cannot prove enough.
    pub(super) fn for_required_tls(self, host: &Candidate<'_>, policy: Option<&Policy>) -> Option<Self> {
        let covered = policy.is_some_and(|policy| policy.mode != Mode::None && policy.covers(host.name));
        match self {
            Self::Dane { .. } | Self::Sts => Some(self),
            Self::Nothing | Self::Encryption | Self::StsTesting | Self::Named => {
                (host.exchangers.authentic || covered).then_some(Self::Named)
            }
        }
    }

    pub(super) fn level(&self) -> TlsLevel {
        match self {
            Self::Nothing => TlsLevel::Opportunistic,
            Self::Encryption => TlsLevel::Encrypt,
            Self::Dane { .. } | Self::Sts | Self::StsTesting | Self::Named => TlsLevel::Verify,
        }
    }

    pub(super) fn trust(&self) -> Trust<'_> {
        match self {
            Self::Nothing | Self::Encryption => Trust::Anyone,
            Self::Dane { dane, .. } => Trust::Dane(dane),
            Self::Sts | Self::StsTesting | Self::Named => Trust::Named,
        }
    }

    /// What the sender of a message that waits is told.
    pub(super) fn failure(&self, fault: Fault, said: &RemoteReply) -> RemoteReply {
        let (status, text) = match (self, fault) {
            (Self::Nothing | Self::Encryption | Self::StsTesting, _) => return said.clone(),
            (_, Fault::NotOffered) => (
                Status::new(4, 7, 321),
                "starttls-not-supported: Destination mail server must support TLS to receive mail".to_owned(),
            ),
            (Self::Dane { .. }, Fault::Expired) => (
                Status::new(4, 7, 322),
                "certificate-expired: Destination mail server's certificate is expired".to_owned(),
            ),
            (Self::Dane { .. }, Fault::WrongName) => (
                Status::new(4, 7, 325),
                "certificate-host-mismatch: Remote certificate must name the host (DANE)".to_owned(),
            ),
            (Self::Dane { .. }, Fault::Untrusted | Fault::Other) => (
                Status::new(4, 7, 323),
                format!("tlsa-invalid: The domain failed DANE validation ({})", said.text),
            ),
            (Self::Sts, _) => (
                Status::new(4, 7, 5),
                format!("Remote certificate failed MTA-STS validation. Reason: {}", said.text),
            ),
            (Self::Named, _) => return said.clone(),
        };
        RemoteReply::ours(&said.host, status, text)
    }
}

/// A host that may be called.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) domain: &'a Domain,
    pub(super) exchangers: &'a Exchangers,
    pub(super) name: &'a str,
    /// After its aliases.
    pub(super) expanded: &'a str,
    /// Whether its addresses are proven.
    pub(super) authentic: bool,
}

async fn by_dane(host: &Candidate<'_>, port: u16, resolver: &Resolver) -> Result<Option<Proof>, RemoteReply> {
    // Where the name is an alias, what it stands for comes first. RFC 7672 §2.2.2
    let mut bases = vec![host.expanded];
    if host.expanded != host.name {
        bases.push(host.name);
    }
    for base in bases {
        let found = match resolver.tlsa(&format!("_{port}._tcp.{base}.")).await {
            Answer::Found(found) if found.authentic => found.records,
            Answer::Found(_) | Answer::NoData { .. } | Answer::NoName { .. } => continue,
            // Who can suppress this answer could be the one in the middle. RFC 7672 §2.1.2
            Answer::Failed(why) => {
                let text = format!("dnssec-invalid: no proven answer about the TLSA of {base}: {why}");
                return Err(RemoteReply::ours(host.name, Status::new(4, 7, 324), text));
            }
        };
        let usable = found.iter().filter_map(|record| {
            Association::usable(record.usage, record.selector, record.matching, &record.data)
        });
        let usable: Vec<Association> = usable.collect();
        if usable.is_empty() {
            return Ok(Some(Proof::Encryption));
        }
        let names = vec![base.to_owned(), host.name.to_owned(), host.domain.as_str().to_owned()];
        let records = found.iter().map(|record| {
            let hex: String = record.data.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{} {} {} {hex}", record.usage, record.selector, record.matching)
        });
        let records = records.collect();
        return Ok(Some(Proof::Dane { dane: Dane::new(usable, names), base: base.to_owned(), records }));
    }
    Ok(None)
}

impl Internet {
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }
}
