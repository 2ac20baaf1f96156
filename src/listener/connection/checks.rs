//! Checks: what is looked at in the message itself while it comes in, and what is put in front of it.
//!
//! Who sent it (`auth`), what it may not bring (rule 42), whom it truly came from (rule 40).

use crate::auth::{self, Auth, Extent, Findings, Ipv6, Rule52, Unread};
use crate::decision::{Attribution, Proof, Reason, Via};
use crate::mail::chain::Chain;
use crate::mail::firewall::Trust;
use crate::mail::{Address, Envelope, Skipping, header};
use crate::report::Event;

use super::Connection;

impl Connection {
    /// With the first recipient: what is asked of the DNS comes beside the message.
    pub(super) fn begin_examination(&mut self) {
        let looks_past = self.skipping().is_some();
        let examined = self.attribution == Attribution::Incoming || looks_past;
        if self.examination.is_some() || !examined {
            return;
        }
        let peer = self.session.peer();
        let rule_52 = if peer.ip.is_ipv6() { Rule52::Applies } else { Rule52::Spared };
        let auth = self.shared.auth.load();
        // Whom it came from is told by the message itself, and then whether that one is exempt.
        let whole = (looks_past && auth.settings().enabled).then_some(Extent::Whole(rule_52));
        let Some(extent) = whole.or_else(|| auth.extent(peer.ip, rule_52)) else { return };
        let sender = self.session.envelope().and_then(|open| open.sender.clone());
        let client = auth::Client { ip: peer.ip, helo: peer.helo.clone(), sender };
        self.examination = Some(Box::new(auth.begin(client, extent)));
    }

    /// Rule 40. It counts for mail to its own tenant alone: what one says of its servers is nothing to others.
    fn skipping(&self) -> Option<&Skipping> {
        self.partner.as_ref().map(|via| &via.connector.skipping).filter(|skipping| skipping.is_on())
    }

    /// Whether a message is examined, now that its sender is known.
    fn is_examined(&self, auth: &Auth) -> bool {
        match &self.origin {
            Some(origin) => auth.settings().applies_to(origin.ip),
            None => {
                let ip = self.session.peer().ip;
                self.attribution == Attribution::Incoming && auth.settings().applies_to(ip)
            }
        }
    }

    pub(super) async fn examine_origin(&mut self) {
        // Whom it came from the message itself will tell, after what is put in front of it.
        if self.chain.is_some() {
            return;
        }
        let Some(examination) = &mut self.examination else { return };
        let findings = examination.origin().await.findings();
        let (extent, authserv_id) = (examination.extent(), examination.auth().authserv_id().into());
        self.findings = Some(Box::new(Examined { findings, extent, authserv_id }));
    }

    /// Rule 52, and what the author's domain asks for: said before any next hop hears the end of the message.
    pub(super) async fn judge_message(&mut self) -> Result<(), Reason> {
        let Some(examination) = self.examination.take() else { return Ok(()) };
        let (extent, auth) = (examination.extent(), examination.auth().clone());
        if matches!(extent, Extent::Whole(_)) && !self.is_examined(&auth) {
            return Ok(());
        }
        // Rule 53
        let rule_52 = extent.rule_52() == Rule52::Applies && self.connector().is_none();
        let findings = Box::pin(examination.conclude()).await;
        let rejects = auth.settings().dmarc_reject;
        let reason = match (findings.rejected_by(), findings.unread) {
            (Some(domain), _) if rejects => Some(Reason::DmarcRejected(domain.clone())),
            // What hides its author is not let in for that.
            (_, Some(Unread::Header)) if rejects => Some(Reason::HeaderUnreadable),
            (_, Some(Unread::NoRoom)) if rejects => Some(Reason::Overloaded),
            _ if rule_52 && !findings.passes_spf_or_dkim() => match auth.settings().ipv6 {
                Ipv6::Enforce => Some(Reason::Ipv6Unauthenticated),
                Ipv6::Record => {
                    self.note_recorded(&Reason::Ipv6Unauthenticated);
                    None
                }
            },
            _ => None,
        };
        self.shared.reporter.note(&Event::Examined {
            session: self.id,
            id: self.message_id(),
            findings: &findings,
        });
        let authserv_id = auth.authserv_id().into();
        self.findings = Some(Box::new(Examined { findings, extent, authserv_id }));
        reason.map_or(Ok(()), Err)
    }

    pub(super) fn begin_screen(&mut self) {
        let firewall = self.shared.firewall.load();
        self.origin = None;
        self.foreword = matches!(self.attribution, Attribution::PeerEdge(_)).then(Box::default);
        let (screen, chain) = match self.skipping() {
            Some(skipping) => {
                (firewall.screen_to_record(self.trust()), Chain::behind(skipping, self.session.peer().ip))
            }
            None => (firewall.screen(self.trust()), None),
        };
        (self.screen, self.chain) = (Some(Box::new(screen)), chain.map(Box::new));
    }

    pub(super) fn see_chain(&mut self, chain: Box<Chain>) {
        if chain.is_over() {
            self.end_chain(&chain);
        } else {
            self.chain = Some(chain);
        }
    }

    /// The chain has been seen to its end: what it told is recorded, and counts where all recipients want it.
    fn end_chain(&mut self, chain: &Chain) {
        let Some(origin) = chain.origin() else { return };
        let recipients = self.session.envelope().map_or(&[][..], |open| &open.recipients);
        let users = self.skipping().map_or(&[][..], |skipping| &skipping.users);
        let is_listed =
            |address: &Address| users.contains(address) || users.contains(self.mailboxes.of(address));
        let counts = users.is_empty() || recipients.iter().all(|recipient| is_listed(&recipient.address));
        let firewall = self.shared.firewall.load();
        let (names, recorded) = (firewall.origin_fields(), origin.recorded());
        let mut fields = String::new();
        if counts {
            fields.push_str(&format!("{}: {recorded}\r\n", names.original));
            self.origin = Some(Box::new(origin.clone()));
            if let Some(examination) = &mut self.examination {
                examination.ask_about(origin.ip, &origin.helo);
            }
        }
        fields.push_str(&format!("{}: {recorded}\r\n", names.skip_listed));
        if let Some(screen) = &mut self.screen {
            screen.add(&fields);
        }
        self.shared.reporter.note(&Event::OriginFound {
            session: self.id,
            peer: self.session.peer(),
            ip: origin.ip,
            helo: &origin.helo,
            counts,
        });
    }

    /// Whose word on a message's header fields counts.
    fn trust(&self) -> Trust {
        match &self.attribution {
            Attribution::PeerEdge(_) => Trust::Edge,
            Attribution::Originating { .. } if self.via.as_ref().is_some_and(speaks_for_its_tenant) => {
                Trust::Connector
            }
            Attribution::Incoming | Attribution::Originating { .. } => Trust::Outside,
        }
    }

    /// The fields that we put in front of a message.
    pub(super) fn head(&self, envelope: &Envelope) -> Vec<u8> {
        let mut head = self.findings.as_ref().map(|examined| examined.header()).unwrap_or_default();
        head.push_str(&header::received(&self.rules.hostname, envelope));
        head.into_bytes()
    }
}

/// Rule 42: trusted, and proven by certificate.
fn speaks_for_its_tenant(via: &Via) -> bool {
    via.connector.trusted_headers && via.proof == Proof::Certificate
}

/// What a message's checks came to, and who says so.
pub(super) struct Examined {
    pub(super) findings: Findings,
    extent: Extent,
    authserv_id: Box<str>,
}

impl Examined {
    /// Nothing for who is exempt: only rule 52 was looked at.
    fn header(&self) -> String {
        match self.extent {
            Extent::Whole(_) => self.findings.header(&self.authserv_id),
            Extent::Rule52 => String::new(),
        }
    }
}
