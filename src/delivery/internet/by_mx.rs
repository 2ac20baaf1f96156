//! By_mx: one attempt to hand a message to a domain on the internet: host after host, address after address.
//!
//! Owns the order of the calls, their bounds, and what it means that none was of use. `exchange` says who
//! takes the mail, `proof` what a host must prove.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::join_all;
use mail_auth::report::tlsrpt::ResultType;

use super::Internet;
use super::exchange::{Exchangers, Host, NoWay};
use super::ledger::{Session, details, of_sts, result_of};
use super::proof::{Candidate, Proof};
use super::sts::Policy;
use crate::chance::Chance;
use crate::delivery::courier::{Courier, Road, Start, label};
use crate::delivery::dialogue::Protocol;
use crate::delivery::transfer::{Connection, NotReady, Transferred};
use crate::delivery::{Delivery, Parcel};
use crate::mail::{Domain, Endpoint, Outcome, RemoteReply, Status, TlsLevel};
use crate::net::{Fault, Target};
use crate::spool::Content;

/// Calls made for one attempt, over all hosts and addresses.
const CALLS_LIMIT: usize = 16;

/// What an attempt has come to so far.
#[derive(Default)]
struct Attempt {
    calls: usize,
    /// Something that may be different next time.
    not_now: Option<RemoteReply>,
    /// Something that this message will never pass.
    refused: Option<RemoteReply>,
    loops: bool,
    off_limits: bool,
}

/// What the domain asks for.
struct Wishes {
    policy: Option<Arc<Policy>>,
    /// `TLS-Required: No`: the sender would rather have it arrive than be safe (RFC 8689 §5).
    waived: bool,
}

/// How one call ended.
enum Call {
    Over(Delivery),
    Useless(RemoteReply),
    /// What had to be proven was not.
    Unproven(RemoteReply, Fault),
    /// This host does not promise what the message requires.
    Unfit(RemoteReply),
}

impl Courier {
    /// One attempt on a new connection.
    pub(in crate::delivery) async fn deliver_by_mx(
        &mut self,
        internet: &Arc<Internet>,
        domain: &Domain,
        parcel: &Parcel<'_>,
    ) -> Delivery {
        if self.permit.is_none() {
            let patience = self.services.patience.connect;
            match tokio::time::timeout(patience, internet.permits.clone().acquire_owned()).await {
                Ok(permit) => self.permit = permit.ok(),
                Err(_) => {
                    let text = "All connections to the internet are in use";
                    let reply = RemoteReply::ours("", Status::new(4, 3, 2), text);
                    return Delivery::Reached(vec![Outcome::Deferred(reply); parcel.recipients.len()]);
                }
            }
        }
        let delivery = self.go_from_host_to_host(internet, domain, parcel).await;
        if !self.is_connected() {
            self.permit = None;
        }
        delivery
    }

    async fn go_from_host_to_host(
        &mut self,
        internet: &Arc<Internet>,
        domain: &Domain,
        parcel: &Parcel<'_>,
    ) -> Delivery {
        let resolver = self.services.resolver.clone();
        let never =
            |reply: RemoteReply| Delivery::Reached(vec![Outcome::Failed(reply); parcel.recipients.len()]);
        let exchangers = match Exchangers::of(domain, &resolver, &mut Chance::from_os()).await {
            Ok(exchangers) => exchangers,
            Err(NoWay::Never(reply)) => return never(reply),
            Err(NoWay::NotNow(reply)) => return Delivery::Unreached(reply),
        };
        let waived = !parcel.envelope.require_tls && waives_tls(parcel.content).await;
        let wishes = Wishes { policy: internet.policy_of(domain, &resolver).await, waived };
        let mut attempt = Attempt::default();
        for group in &exchangers.groups {
            let hosts =
                join_all(group.iter().map(|name| Box::pin(Host::of(name, internet, &resolver)))).await;
            // What is not nearer to the destination than we are would only bring it back. RFC 5321 §5.1
            if hosts.contains(&Host::Ourselves) {
                attempt.loops = true;
                break;
            }
            for (name, host) in group.iter().zip(hosts) {
                let called = self.call_host(
                    internet,
                    domain,
                    &exchangers,
                    &wishes,
                    (name, host),
                    parcel,
                    &mut attempt,
                );
                if let Some(delivery) = Box::pin(called).await {
                    return delivery;
                }
            }
        }
        attempt.verdict(domain, &exchangers, parcel.recipients.len())
    }

    #[expect(clippy::too_many_arguments, reason = "all that one attempt knows")]
    async fn call_host(
        &mut self,
        internet: &Arc<Internet>,
        domain: &Domain,
        exchangers: &Exchangers,
        wishes: &Wishes,
        (name, host): (&str, Host),
        parcel: &Parcel<'_>,
        attempt: &mut Attempt,
    ) -> Option<Delivery> {
        let (addresses, authentic, expanded) = match host {
            Host::Known { addresses, authentic, name } => (addresses, authentic, name),
            Host::Ourselves | Host::Nowhere => return None,
            Host::OffLimits => {
                attempt.off_limits = true;
                return None;
            }
            Host::Unknown(why) => {
                let text = format!("DNS query failed: the addresses of {name}: {why}");
                attempt.not_now = Some(RemoteReply::ours(name, Status::new(4, 4, 312), text));
                return None;
            }
        };
        let candidate = Candidate { domain, exchangers, name, expanded: &expanded, authentic };
        let resolver = self.services.resolver.clone();
        let policy = wishes.policy.as_deref();
        let mut proof = match Proof::of(&candidate, internet.settings(), &resolver, policy).await {
            Ok(proof) => proof,
            Err(_) if wishes.waived => Proof::Nothing,
            Err(reply) => {
                internet.note_unproven(&candidate, policy, &reply);
                attempt.not_now = Some(reply);
                return None;
            }
        };
        if wishes.waived {
            proof = Proof::Nothing;
        }
        if parcel.envelope.require_tls {
            match proof.for_required_tls(&candidate, policy) {
                Some(enough) => proof = enough,
                None => {
                    let text = "Encryption needed: no proven way to this host (REQUIRETLS)";
                    attempt.refused = Some(RemoteReply::ours(name, Status::new(5, 7, 10), text));
                    return None;
                }
            }
        }
        for address in addresses {
            if attempt.calls >= CALLS_LIMIT {
                break;
            }
            attempt.calls += 1;
            match self.call(internet, &candidate, (&proof, policy), address, parcel).await {
                Call::Over(delivery) => return Some(delivery),
                Call::Useless(reply) => attempt.not_now = Some(reply),
                Call::Unfit(reply) => {
                    attempt.refused = Some(reply);
                    break;
                }
                Call::Unproven(reply, fault) => {
                    let reply = proof.failure(fault, &reply);
                    if parcel.envelope.require_tls {
                        // RFC 8689 §4.2.1: not to this host, and if to no other, never.
                        let status = Status::new(5, 7, 10);
                        attempt.refused = Some(RemoteReply { status, ..reply });
                    } else {
                        attempt.not_now = Some(reply);
                    }
                }
            }
        }
        None
    }

    async fn call(
        &mut self,
        internet: &Arc<Internet>,
        host: &Candidate<'_>,
        (proof, policy): (&Proof, Option<&Policy>),
        address: IpAddr,
        parcel: &Parcel<'_>,
    ) -> Call {
        let road = |proof| road(internet, host, proof, address);
        let services = self.services.clone();
        let troubled = Endpoint::Smtp { host: address.to_string(), port: internet.settings.port };
        let proven = road(proof);
        let mut opened = self.open(&services, &proven, proven.tls).await;
        internet.note_session(host, proof, policy, address, &opened);
        if *proof == Proof::StsTesting && matches!(opened, Err(NotReady::Insecure(..))) {
            let plain = road(&Proof::Nothing);
            opened = self.open(&services, &plain, plain.tls).await;
        }
        if let Err(NotReady::NoHandshake(_)) = opened {
            let plain = road(&Proof::Nothing);
            opened = self.open(&services, &plain, TlsLevel::Off).await;
        }
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(NotReady::Unusable(reply) | NotReady::NoHandshake(reply)) => {
                services.troubled.remember(&troubled);
                return Call::Useless(reply);
            }
            Err(NotReady::Insecure(reply, fault)) => return Call::Unproven(reply, fault),
        };
        if parcel.envelope.require_tls && !connection.keeps_tls_required() {
            let text = "REQUIRETLS support required";
            let reply = RemoteReply::ours(&proven.label, Status::new(5, 7, 30), text);
            connection.quit(services.patience.courtesy).await;
            return Call::Unfit(reply);
        }
        match connection.transfer(parcel, &services.patience).await {
            Transferred::Finished(outcomes) => {
                self.keep(connection);
                Call::Over(Delivery::Reached(outcomes))
            }
            Transferred::Interrupted(outcomes) => Call::Over(Delivery::Reached(outcomes)),
            Transferred::Unusable(reply) => Call::Useless(reply),
            Transferred::Open | Transferred::NotStreamable => unreachable!("it is there as a whole"),
        }
    }
}

impl Internet {
    fn note_session(
        &self,
        host: &Candidate<'_>,
        proof: &Proof,
        policy: Option<&Policy>,
        address: IpAddr,
        opened: &Result<Connection, NotReady>,
    ) {
        let Some(ledger) = &self.ledger else { return };
        let failed = |result| Session::Failed { result, host: host.name.to_owned(), address: Some(address) };
        let session = match opened {
            Ok(connection) if connection.is_encrypted() => Session::Secured,
            Ok(_) => failed(ResultType::StartTlsNotSupported),
            Err(NotReady::NoHandshake(_)) => failed(ResultType::ValidationFailure),
            Err(NotReady::Insecure(_, fault)) => failed(result_of(proof, *fault)),
            // There was no session.
            Err(NotReady::Unusable(_)) => return,
        };
        ledger.note(host.domain, details(proof, host.domain, host.name, policy), session);
    }

    fn note_unproven(&self, host: &Candidate<'_>, policy: Option<&Policy>, reply: &RemoteReply) {
        let Some(ledger) = &self.ledger else { return };
        let (policy, result) = if reply.status == Status::new(4, 4, 8) {
            (of_sts(host.domain, policy), ResultType::ValidationFailure)
        } else {
            (details(&Proof::Encryption, host.domain, host.name, None), ResultType::DnssecInvalid)
        };
        ledger.note(
            host.domain,
            policy,
            Session::Failed { result, host: host.name.to_owned(), address: None },
        );
    }
}

/// So much of a header is looked through.
const HEADER_LIMIT: usize = 64 * 1024;

/// Whether the header says `TLS-Required: No`. RFC 8689 §5
async fn waives_tls(content: &Content) -> bool {
    let mut header = content.head.to_vec();
    let mut body = content.body.reader();
    while header.len() < HEADER_LIMIT && memchr::memmem::find(&header, b"\r\n\r\n").is_none() {
        match body.next().await {
            Ok(Some(part)) => header.extend_from_slice(&part[..part.len().min(HEADER_LIMIT)]),
            Ok(None) | Err(_) => break,
        }
    }
    let end = memchr::memmem::find(&header, b"\r\n\r\n").unwrap_or(header.len());
    header[..end].split(|byte| *byte == b'\n').any(|line| {
        let Ok(line) = std::str::from_utf8(line) else { return false };
        line.split_once(':').is_some_and(|(name, value)| {
            name.trim_end().eq_ignore_ascii_case("TLS-Required") && value.trim().eq_ignore_ascii_case("No")
        })
    })
}

fn road<'a>(internet: &'a Internet, host: &Candidate<'a>, proof: &'a Proof, address: IpAddr) -> Road<'a> {
    let port = internet.settings.port;
    Road {
        target: Target::Tcp(SocketAddr::new(address, port)),
        label: label(host.name, address, port),
        // A server of many names chooses its certificate by it. RFC 7672 §8.1
        server_name: match proof {
            Proof::Dane { base, .. } => base,
            Proof::Nothing | Proof::Encryption | Proof::Sts | Proof::StsTesting | Proof::Named => host.name,
        },
        protocol: Protocol::Smtp,
        tls: proof.level(),
        trust: proof.trust(),
        client: &internet.tls,
        start: Start::Plain,
    }
}

impl Attempt {
    /// Nobody took part: what that means.
    fn verdict(self, domain: &Domain, exchangers: &Exchangers, recipients: usize) -> Delivery {
        let never = |status: Status, text: String| {
            Delivery::Reached(vec![Outcome::Failed(RemoteReply::ours("", status, text)); recipients])
        };
        if let Some(reply) = self.not_now {
            return Delivery::Unreached(reply);
        }
        if let Some(reply) = self.refused {
            return Delivery::Reached(vec![Outcome::Failed(reply); recipients]);
        }
        if self.loops {
            return never(Status::new(5, 4, 6), format!("Mail for {domain} loops back to this server"));
        }
        if self.off_limits {
            let text = format!("The mail servers of {domain} have addresses that are not on the internet");
            return never(Status::new(5, 4, 4), text);
        }
        if exchangers.implicit {
            return never(Status::new(5, 1, 2), format!("The domain {domain} has no mail server"));
        }
        never(Status::new(5, 4, 4), format!("The mail servers of {domain} have no address"))
    }
}
