//! Examination: the checks of one message, beside its way in.
//!
//! What concerns the client begins with the first recipient; the message is seen as it comes in, before
//! anything is taken out of it, and none of its body is kept.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::dns::Resolver;
use crate::mail::{self, Address, SpfResult};

use super::body::BodyHash;
use super::findings::{Dmarc, Finding, Findings, Mark, Policy, Unread};
use super::head::{Head, Lack, Pushed, Room};
use super::message::{Judge, Judged, Message, Sender, Unreadable, Wanted};
use super::{Settings, iprev, spf};

/// The checks, as the configuration wants them. Built anew when it changes.
#[derive(Clone)]
pub struct Auth {
    settings: Arc<Settings>,
    authserv_id: Arc<str>,
    hostname: Arc<str>,
    resolver: Arc<Resolver>,
    judge: Arc<Judge>,
    room: Arc<Room>,
    clock: Clock,
}

/// Whom a message is from: the address need not be the peer's (rule 40).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub ip: IpAddr,
    pub helo: String,
    pub sender: mail::Sender,
}

impl Auth {
    /// `authserv_id` signs the results; `hostname` is what SPF macros call this host.
    pub fn new(
        settings: Settings,
        authserv_id: &str,
        hostname: &str,
        resolver: Arc<Resolver>,
        clock: Clock,
    ) -> Self {
        let room = usize::try_from(settings.header_memory).unwrap_or(usize::MAX);
        Self {
            settings: Arc::new(settings),
            authserv_id: authserv_id.into(),
            hostname: hostname.into(),
            resolver,
            judge: Arc::new(Judge::new()),
            room: Arc::new(Room::new(room)),
            clock,
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn authserv_id(&self) -> &str {
        &self.authserv_id
    }

    /// What mail of this client is checked for, if it is at all. Rule 52 holds for who is exempt, too.
    pub fn extent(&self, ip: IpAddr, rule_52: Rule52) -> Option<Extent> {
        if self.settings.applies_to(ip) {
            return Some(Extent::Whole(rule_52));
        }
        (rule_52 == Rule52::Applies).then_some(Extent::Rule52)
    }

    /// Begins with what can be asked before the message has come.
    pub fn begin(&self, client: Client, extent: Extent) -> Examination {
        let until = Instant::now() + self.settings.deadline;
        let checks = Checks::of(&self.settings, extent);
        let (auth, of) = (self.clone(), client.clone());
        let asking = Asking(tokio::spawn(async move { auth.origin(&of, checks, until).await }));
        let limit = usize::try_from(self.settings.header_size).unwrap_or(usize::MAX);
        let needs_message = checks.dkim || checks.arc || checks.dmarc;
        Examination {
            checks,
            extent,
            head: Head::new(self.room.clone(), limit),
            reading: if needs_message { Reading::Head } else { Reading::Nothing },
            auth: self.clone(),
            origin: Answer::Asking(asking),
            client,
        }
    }

    async fn origin(&self, client: &Client, checks: Checks, until: Instant) -> Origin {
        let (spf, iprev) = tokio::join!(
            Box::pin(self.spf(client, checks, until)),
            Box::pin(self.iprev(client, checks, until))
        );
        Origin { spf, iprev }
    }

    async fn spf(&self, client: &Client, checks: Checks, until: Instant) -> Option<SpfFinding> {
        if !checks.spf {
            return None;
        }
        let identity = Identity::of(client);
        let claim = spf::Claim {
            ip: client.ip,
            local_part: identity.local_part,
            domain: identity.domain,
            helo: &client.helo,
            receiver: &self.hostname,
        };
        let check = Box::pin(spf::check(&self.resolver, &claim, self.clock.now()));
        let verdict = timeout_at(until, check).await.unwrap_or(spf::Verdict {
            result: SpfResult::TempError,
            problem: Some("not finished in time"),
            explanation: None,
        });
        let mut finding = Finding::new("spf", verdict.result.into());
        finding.reason = verdict.problem.map(Into::into);
        let finding = match &client.sender {
            Some(sender) => finding.about("smtp.mailfrom", sender.to_string()),
            None => finding.about("smtp.helo", &*client.helo),
        };
        Some(SpfFinding { finding, result: verdict.result, explanation: verdict.explanation })
    }

    async fn iprev(&self, client: &Client, checks: Checks, until: Instant) -> Option<Finding> {
        if !checks.iprev {
            return None;
        }
        let check = Box::pin(iprev::check(&self.resolver, client.ip));
        Some(timeout_at(until, check).await.unwrap_or_else(|_| {
            Finding::new("iprev", Mark::TempError)
                .because("not finished in time")
                .about("policy.iprev", client.ip.to_string())
        }))
    }
}

/// Whether a message has to pass SPF or DKIM to come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule52 {
    Applies,
    /// IPv4, or a client that is known otherwise.
    Spared,
}

/// What a message is examined for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All that the settings want, and what rule 52 needs where it applies.
    Whole(Rule52),
    /// Nothing but that: the client is exempt from the rest.
    Rule52,
}

impl Extent {
    pub fn rule_52(self) -> Rule52 {
        match self {
            Self::Whole(rule_52) => rule_52,
            Self::Rule52 => Rule52::Applies,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Checks {
    spf: bool,
    dkim: bool,
    dmarc: bool,
    arc: bool,
    iprev: bool,
}

impl Checks {
    fn of(settings: &Settings, extent: Extent) -> Self {
        let needed = extent.rule_52() == Rule52::Applies;
        match extent {
            Extent::Whole(_) => Self {
                spf: settings.spf || needed,
                dkim: settings.dkim || needed,
                dmarc: settings.dmarc,
                arc: settings.arc,
                iprev: settings.iprev,
            },
            Extent::Rule52 => Self { spf: true, dkim: true, dmarc: false, arc: false, iprev: false },
        }
    }
}

/// What is known of the client alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    spf: Option<SpfFinding>,
    iprev: Option<Finding>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SpfFinding {
    finding: Finding,
    result: SpfResult,
    explanation: Option<String>,
}

impl Origin {
    /// As far as it goes before the message has come: what can be told ahead of it.
    pub fn findings(self) -> Findings {
        let (spf, iprev) = (self.spf, self.iprev);
        let result = spf.as_ref().map(|spf| spf.result);
        let (spf, spf_explanation) = spf.map(|spf| (spf.finding, spf.explanation)).unzip();
        let all = spf.into_iter().chain(iprev).collect();
        Findings { all, spf: result, spf_explanation: spf_explanation.flatten(), dmarc: None, unread: None }
    }
}

/// What SPF is asked about (RFC 7208 §2.4).
struct Identity<'c> {
    local_part: &'c str,
    domain: &'c str,
}

impl<'c> Identity<'c> {
    fn of(client: &'c Client) -> Self {
        match &client.sender {
            Some(sender) => Self { local_part: local_part(sender), domain: sender.domain().as_str() },
            None => Self { local_part: "postmaster", domain: &client.helo },
        }
    }
}

fn local_part(address: &Address) -> &str {
    match address.local() {
        "" => "postmaster",
        local_part => local_part,
    }
}

/// Lookups under way; they end with who asked for them.
struct Asking(JoinHandle<Origin>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Answer {
    Asking(Asking),
    There(Origin),
}

/// What is done with the message's bytes.
enum Reading {
    Head,
    Body(Vec<BodyHash>),
    Nothing,
}

/// The checks of one message under way.
pub struct Examination {
    auth: Auth,
    extent: Extent,
    checks: Checks,
    client: Client,
    origin: Answer,
    head: Head,
    reading: Reading,
}

impl Examination {
    /// The next piece of the message, as the client sent it.
    pub fn push(&mut self, piece: &[u8]) {
        match &mut self.reading {
            Reading::Nothing => {}
            Reading::Body(hashes) => hashes.iter_mut().for_each(|hash| hash.push(piece)),
            Reading::Head => match self.head.push(piece) {
                Pushed::Head => {}
                Pushed::Lacking => self.reading = Reading::Nothing,
                Pushed::Ended(rest) => {
                    let mut hashes = self.hashes();
                    hashes.iter_mut().for_each(|hash| hash.push(rest));
                    self.reading = if hashes.is_empty() { Reading::Nothing } else { Reading::Body(hashes) };
                }
            },
        }
    }

    /// One hash for each canonical form that a signature is about: none for a message without signatures.
    fn hashes(&self) -> Vec<BodyHash> {
        let Ok(head) = self.head.bytes() else { return Vec::new() };
        match Message::read(head, &self.wanted()) {
            Ok(message) => message.body_forms().into_iter().map(BodyHash::new).collect(),
            Err(_) => Vec::new(),
        }
    }

    fn wanted(&self) -> Wanted {
        let Checks { dkim, arc, dmarc, .. } = self.checks;
        Wanted { dkim, arc, dmarc, signatures: self.auth.settings.signatures }
    }

    pub fn extent(&self) -> Extent {
        self.extent
    }

    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// From now on the client is this one: the address that mail really came from (rule 40).
    pub fn ask_about(&mut self, ip: IpAddr, helo: &str) {
        self.client.ip = ip;
        helo.clone_into(&mut self.client.helo);
        let until = Instant::now() + self.auth.settings.deadline;
        let (auth, of, checks) = (self.auth.clone(), self.client.clone(), self.checks);
        self.origin =
            Answer::Asking(Asking(tokio::spawn(async move { auth.origin(&of, checks, until).await })));
    }

    /// What is known of the client; waits for it.
    pub async fn origin(&mut self) -> Origin {
        match &mut self.origin {
            Answer::There(origin) => origin.clone(),
            Answer::Asking(asking) => {
                // It ends by itself, at the deadline.
                let origin = (&mut asking.0).await.unwrap_or_default();
                self.origin = Answer::There(origin.clone());
                origin
            }
        }
    }

    /// The message is whole: everything that can be found out about it, within the deadline.
    pub async fn conclude(mut self) -> Findings {
        let until = Instant::now() + self.auth.settings.deadline;
        let mut findings = self.origin().await.findings();
        let sender = findings
            .spf
            .map(|result| Sender { domain: Identity::of(&self.client).domain.to_ascii_lowercase(), result });
        let judged = self.judge(sender, until).await;
        // In the order of RFC 8601's examples: what the message was sent by, what it is signed by, policy.
        let iprev =
            (findings.all.last().is_some_and(|last| last.method == "iprev")).then(|| findings.all.pop());
        findings.unread = judged.unread;
        findings.all.extend(judged.dkim);
        if let Some((finding, dmarc)) = judged.dmarc {
            findings.all.push(finding);
            findings.dmarc = Some(dmarc);
        }
        findings.all.extend(judged.arc);
        findings.all.extend(iprev.flatten());
        findings
    }

    async fn judge(&mut self, sender: Option<Sender>, until: Instant) -> Judged {
        let wanted = self.wanted();
        if !(wanted.dkim || wanted.arc || wanted.dmarc) {
            return Judged::default();
        }
        let hashes = match std::mem::replace(&mut self.reading, Reading::Nothing) {
            Reading::Body(hashes) => hashes,
            Reading::Head => self.hashes(),
            Reading::Nothing => Vec::new(),
        };
        let head = match self.head.bytes() {
            Ok(head) => head,
            Err(Lack::TooLong) => return unreadable(&wanted, "header section is too long"),
            Err(Lack::NoRoom) => {
                let judged = unread(&wanted, Mark::TempError, "too much is under way");
                return Judged { unread: Some(Unread::NoRoom), ..judged };
            }
        };
        let mut message = match Message::read(head, &wanted) {
            Ok(message) => message,
            Err(Unreadable::Empty) => return unread(&wanted, Mark::None, "no header section"),
            Err(Unreadable::Malformed) => return unreadable(&wanted, "header section is malformed"),
            Err(Unreadable::TooManyFields) => return unreadable(&wanted, "too many header fields"),
        };
        message.put_hashes(hashes);
        let auth = &self.auth;
        Box::pin(auth.judge.judge(&auth.resolver, message, &wanted, sender, until)).await
    }
}

/// Of a message that cannot be read, every method says the same.
fn unreadable(wanted: &Wanted, why: &str) -> Judged {
    Judged { unread: Some(Unread::Header), ..unread(wanted, Mark::PermError, why) }
}

fn unread(wanted: &Wanted, mark: Mark, why: &str) -> Judged {
    let finding = |method| Finding::new(method, mark).because(why);
    let dmarc = Dmarc { mark, domain: None, policy: Policy::None };
    Judged {
        dkim: wanted.dkim.then(|| finding("dkim")).into_iter().collect(),
        arc: None,
        dmarc: wanted.dmarc.then(|| (finding("dmarc"), dmarc)),
        unread: None,
    }
}
