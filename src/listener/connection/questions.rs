//! Questions: may this sender, may this recipient; asked of `inquiry` and `limits`, and a refusal is noted.
//!
//! The first half of a transaction. What is asked about the message as a whole is in `checks`.

use std::time::Duration;

use tokio::time::timeout;

use crate::decision::{Admitted, Attributed, Attribution, Reason, Trail, peer_edge};
use crate::inquiry::{Asked, Circumstances, Names, Refused};
use crate::limits::{self, Addressed, Candour, Due, Limit, Owner};
use crate::mail::{Address, Mailboxes, Region, Sender};
use crate::report::{Event, Placed, Privacy};
use crate::session::{Question, RecipientPath, Ruling};
use crate::spool::Pressure;

use super::super::handover::Hops;
use super::Connection;

impl Connection {
    pub(super) async fn judge(&mut self, question: Question) -> Ruling {
        match question {
            Question::Sender { sender, .. } => Ruling::Sender(self.judge_sender(&sender).await),
            Question::Recipient { path, region_so_far } => {
                let asked = match path {
                    RecipientPath::Address(address) => Asked::Mailbox(address),
                    RecipientPath::Postmaster => Asked::Postmaster,
                };
                Ruling::Recipient(self.judge_recipient(asked, region_so_far).await)
            }
            Question::Message { summary } => {
                self.has_8bit = summary.has_8bit;
                Ruling::Message(self.judge_message().await)
            }
        }
    }

    async fn judge_sender(&mut self, sender: &Sender) -> Result<(), Reason> {
        // A new transaction: the rules and words of now.
        self.rules = self.shared.inquiry.rules();
        self.texts = self.shared.texts.load_full();
        self.hops = Hops::None;
        self.mailboxes = Mailboxes::default();
        self.examination = None;
        self.findings = None;
        self.placed.clear();
        self.limits = self.shared.limits.terms();
        self.dues.clear();
        let pressure = *self.shared.pressure.borrow();
        let mut trail = Trail::off();
        let within = match pressure {
            Pressure::Free => self.within_rates(),
            Pressure::Full | Pressure::Failed => Err(Reason::InsufficientResources),
        };
        // Who comes too often is told so before anything is looked up.
        if let Err(reason) = within {
            self.note_sender_refused(sender, &reason, "", Privacy::Unsure);
            return Err(reason);
        }
        let attributed = match self.attribute(sender, &mut trail).await {
            // Attribution is a recipient's matter (section 2), and so is the answer: whoever could not be asked
            // for at MAIL stays unknown until the next one.
            Err(Reason::DomainLookupFailed) => {
                self.unattributable = true;
                Ok(Attributed::default())
            }
            attributed => {
                self.unattributable = false;
                attributed
            }
        };
        match attributed {
            Ok(attributed) => {
                Attributed { attribution: self.attribution, via: self.via } = attributed;
                self.partner = None;
                if self.attribution == Attribution::Incoming && !self.unattributable {
                    self.ask_block_lists().await;
                }
                Ok(())
            }
            Err(reason) => {
                self.note_sender_refused(sender, &reason, trail.last_rule(), Privacy::Open);
                Err(reason)
            }
        }
    }

    async fn attribute(&self, sender: &Sender, trail: &mut Trail) -> Result<Attributed, Reason> {
        let (peer, door) = (self.session.peer(), self.entrance.door);
        let sender = sender.as_ref().map(Address::domain);
        if let Some(domain) = sender {
            // Whether its address may be written down here is known before anything is.
            self.shared.inquiry.learn_privacy(&self.rules, domain).await;
        }
        self.shared.inquiry.attribute(&self.rules, peer, sender, door, trail).await
    }

    /// Rule 59, which does not hold for edges of ours: their mail has entered already (section 6).
    fn within_rates(&mut self) -> Result<(), Reason> {
        let peer = self.session.peer();
        // A trusted peer may have said since for whom it speaks.
        let client = self.client.at(peer.ip, &self.limits);
        if client != self.client {
            self.listed = None;
        }
        self.client = client;
        if !client.is_spared() && peer_edge(&self.rules, peer, &mut Trail::off()).is_some() {
            self.shared.limits.forgive_connection(client, self.now());
            self.client = client.spared();
        }
        self.shared.limits.begin_message(&self.limits, self.client, self.now()).map_err(Reason::Limited)
    }

    /// Once a session. What they say is told at RCPT: mail to postmaster passes all the same (RFC 5321 §4.5.1).
    async fn ask_block_lists(&mut self) {
        let lists = &self.limits.blocklists;
        if self.listed.is_some() || lists.is_empty() || !self.client.may_be_listed() {
            return;
        }
        let peer = self.session.peer();
        // Rare, and not small: sessions at rest need no room for it.
        let findings = Box::pin(limits::look_up(lists, &self.shared.resolver, peer.ip)).await;
        for finding in &findings {
            self.shared.reporter.note(&match finding {
                limits::Finding::Listed { zone, action } => {
                    Event::BlockListed { session: self.id, peer, zone, action: action.word() }
                }
                limits::Finding::Failed { zone, why } => {
                    Event::BlocklistFailed { session: self.id, zone, why }
                }
            });
        }
        self.listed = Some(limits::verdict(&findings).and_then(|(zone, action)| match action {
            limits::Action::Reject => Some(Reason::BlockListed { zone }),
            limits::Action::Defer => Some(Reason::BlockListedForNow { zone }),
            limits::Action::Record => None,
        }));
    }

    /// Why this recipient's mail is not taken from a client on a block list.
    fn block_listed(&self, asked: &Asked) -> Option<Reason> {
        let to_postmaster = match asked {
            Asked::Mailbox(address) => address.is_postmaster(),
            Asked::Postmaster => true,
        };
        let applies = self.attribution == Attribution::Incoming && !to_postmaster;
        self.listed.as_ref().filter(|_| applies)?.clone()
    }

    async fn judge_recipient(
        &mut self,
        asked: Asked,
        region_so_far: Option<Region>,
    ) -> Result<Admitted, Reason> {
        let overloaded = *self.shared.draining.borrow() || *self.shared.pressure.borrow() != Pressure::Free;
        let candour = self.shared.limits.candour(&self.limits, self.client, self.now());
        let mut trail = Trail::off();
        let admitted = if overloaded {
            Err(unasked(Reason::Overloaded))
        } else if candour == Candour::NotNow {
            Err(unasked(Reason::Limited(Limit::UnknownRecipientsPerIpPerMinute)))
        } else if self.unattributable && !matches!(asked, Asked::Postmaster) {
            trail.step("17", || "the lookup of the sender's domain failed".to_owned());
            Err(unasked(Reason::DomainLookupFailed))
        } else if let Some(listed) = self.block_listed(&asked) {
            Err(unasked(listed))
        } else {
            let door = self.entrance.door;
            let sender = self.session.envelope().and_then(|open| open.sender.as_ref());
            let circumstances = Circumstances {
                attribution: &self.attribution,
                via: self.via.as_ref(),
                peer: self.session.peer(),
                sender: sender.map(Address::domain),
                door,
                region_so_far,
            };
            self.shared.inquiry.admit(&self.rules, &asked, &circumstances, &mut trail).await
        };
        let joined = admitted.and_then(|(admitted, place)| {
            let due = self.may_receive(&admitted)?;
            self.hops.join(&place.next_hop, &self.rules, &self.shared.inline)?;
            if !self.rules.inline.is_empty() || Self::looks_at_users(&admitted) {
                let mailbox = place.mailbox.as_ref().or(admitted.mailbox.as_ref());
                self.mailboxes.note(&admitted.address, mailbox.cloned());
            }
            Ok((admitted, place, due))
        });
        if let Candour::After(tarpit) = candour {
            self.make_wait(tarpit).await;
        }
        match joined {
            Ok((admitted, place, due)) => {
                self.join_partner(&admitted);
                if let Some(reason) = &admitted.recorded {
                    self.note_recorded(reason);
                }
                self.begin_examination();
                self.dues.extend(Some(due).filter(Due::is_owed));
                self.shared.reporter.note(&Event::RecipientAccepted { irr: place.irr, home: place.home });
                self.placed.push(Placed {
                    address: admitted.address.clone(),
                    home: place.home,
                    ingress: admitted.ingress,
                    irr: place.irr,
                    rule: trail.last_rule(),
                });
                Ok(admitted)
            }
            Err(refused) => {
                self.note_refused(&asked, &refused.reason, refused.names, trail.last_rule());
                Err(refused.reason)
            }
        }
    }

    /// Rule 40: whether it matters who the users behind the recipients are.
    fn looks_at_users(admitted: &Admitted) -> bool {
        admitted.via.as_ref().is_some_and(|via| !via.connector.skipping.users.is_empty())
    }

    /// Rule 58 and the tenant's rate; known last, so that only who exists has one.
    fn may_receive(&self, admitted: &Admitted) -> Result<Due, Reason> {
        let nobody = None;
        let addressed = Addressed {
            mailbox: admitted.mailbox.as_ref().unwrap_or(&admitted.address),
            sender: self.session.envelope().map_or(&nobody, |open| &open.sender),
            tenant: admitted
                .tenant
                .as_ref()
                .map(|tenant| Owner { id: &tenant.id, messages_per_minute: tenant.messages_per_minute }),
        };
        let due = self.shared.limits.may_receive(&self.limits, self.client, addressed, self.now());
        due.map_err(Reason::Limited)
    }

    /// Holds up this one client, and not the end of the daemon.
    async fn make_wait(&self, tarpit: Duration) {
        let mut draining = self.shared.draining.clone();
        let _ = timeout(tarpit, draining.wait_for(|draining| *draining)).await;
    }

    /// A message comes by the connector that all its recipients say.
    fn join_partner(&mut self, admitted: &Admitted) {
        let is_first = self.session.envelope().is_none_or(|open| open.recipients.is_empty());
        if is_first {
            self.partner.clone_from(&admitted.via);
        } else if self.partner != admitted.via {
            self.partner = None;
        }
    }

    /// Of a sender that nobody was asked about its domain is named.
    fn note_sender_refused(&self, sender: &Sender, reason: &Reason, rule: &'static str, privacy: Privacy) {
        self.shared.reporter.note(&Event::SenderRefused {
            session: self.id,
            peer: self.session.peer(),
            listener: &self.entrance.name,
            sender,
            privacy,
            reason,
            rule,
            reply: &self.words_for(reason),
        });
    }

    fn note_refused(&self, asked: &Asked, reason: &Reason, names: Names, rule: &'static str) {
        let recipient = match (asked, names) {
            (Asked::Mailbox(address), Names::Address) => address.to_string(),
            (Asked::Mailbox(address), Names::DomainOnly) => format!("@{}", address.domain()),
            (Asked::Postmaster, Names::Address | Names::DomainOnly) => "postmaster".to_owned(),
        };
        if matches!(reason, Reason::UnknownRecipient | Reason::SendingDisabled) {
            self.shared.limits.guessed_wrong(&self.limits, self.client, self.now());
        }
        let nobody = None;
        let sender = self.session.envelope().map_or(&nobody, |open| &open.sender);
        self.shared.reporter.note(&Event::RecipientRefused {
            session: self.id,
            peer: self.session.peer(),
            listener: &self.entrance.name,
            sender,
            recipient: &recipient,
            reason,
            rule,
            reply: &self.words_for(reason),
        });
    }
}

/// Refused before anybody was asked whose recipient it is: then nobody knows whether it may be named.
fn unasked(reason: Reason) -> Refused {
    Refused { reason, names: Names::DomainOnly }
}
