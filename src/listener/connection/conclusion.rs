//! Conclusion: the body is whole and wanted: the next hop has it already, or the disk gets it.
//!
//! What was promised on the way in is kept here, before the client hears 250; what became of it is noted.

use crate::decision::Otherwise;
use crate::delivery::{Taken, Verdict};
use crate::mail::{Envelope, MessageId, NextHopName, RemoteReply, Status};
use crate::report::notice::{self, Fate, Reporting};
use crate::report::{Event, Relay};
use crate::session::{Input, NotStored, NotTaken, OpenEnvelope};
use crate::smtp::reply::Reply;
use crate::spool::Draft;

use super::super::handover::{Handover, Left};
use super::{Connection, not_stored_word};

impl Connection {
    /// The body is whole and wanted: the next hop has it already, or the disk gets it.
    pub(super) async fn conclude(&mut self, mut open: OpenEnvelope) -> Input<'static> {
        self.chunks = None;
        let mut left = None;
        if let Some(handover) = self.handover.take() {
            // Apart, or every session at rest would keep room for it.
            match Box::pin(self.hand_over(handover, &mut open)).await {
                Ok(handed_over) => {
                    self.draft = None;
                    return Input::HandedOver(handed_over);
                }
                Err(rest) => left = Some(rest),
            }
        }
        let sender = open.sender.clone();
        let stored = self.store(open, left.as_ref()).await;
        if let Err(not_stored) = &stored {
            if let Some(left) = &left {
                self.note_taken_alone(left);
            }
            let (reason, reply) = match not_stored {
                NotStored::Full => ("insufficient-room", Reply::InsufficientRoom),
                NotStored::Failed => ("not-stored", Reply::NotStored),
            };
            self.note_message_refused_as(&sender, reason, &self.words_of(&reply.into()));
        }
        Input::Stored(stored)
    }

    /// Ends the passage. `Err` when what is left in `open` is for the spool.
    async fn hand_over(
        &mut self,
        handover: Handover,
        open: &mut OpenEnvelope,
    ) -> Result<Result<MessageId, NotTaken>, Left> {
        let Handover { passage, envelope, next_hop, otherwise, bytes, original } = handover;
        if otherwise == Otherwise::Refuse && passage.is_divided() {
            // The client will have to come again, and then nobody should get it twice.
            passage.forgo();
            let reply =
                RemoteReply::ours("", Status::new(4, 5, 3), "The next hop takes some of the recipients");
            self.note_no_verdict(open, &reply);
            return Ok(Err(NotTaken::NoVerdict));
        }
        let wanted = self.draft.as_ref().filter(|_| passage.wants_copy());
        let verdict = passage.finish(wanted.and_then(Draft::copy)).await;
        let (taken, reply) = match verdict {
            Verdict::Taken(taken) => {
                self.messages += 1;
                self.note_received();
                self.note_accepted(&envelope, bytes, self.streamed());
                self.rested = None;
                self.note_delivered(&envelope, &next_hop, &taken);
                self.tell_of_success(&envelope, &taken, original).await;
                return Ok(Ok(envelope.id));
            }
            Verdict::Refused(reply) => {
                self.note_message_refused(open, &reply);
                return Ok(Err(NotTaken::Refused(reply)));
            }
            Verdict::Mixed { taken, left, reply } => {
                self.tell_of_success(&envelope, &taken, original).await;
                let mut index = 0..;
                open.recipients.retain(|_| index.next().is_some_and(|index| left.contains(&index)));
                (taken, reply)
            }
            Verdict::Silent(reply) => (Vec::new(), reply),
        };
        let left = Left { envelope, next_hop, taken, reply, bytes };
        match otherwise {
            Otherwise::Refuse => {
                self.note_taken_alone(&left);
                self.note_no_verdict(open, &left.reply);
                Ok(Err(NotTaken::NoVerdict))
            }
            Otherwise::Spool => Err(left),
        }
    }

    /// Sends the notices of success that are ours to send (RFC 3461 §5.2.2 and §5.3). They are on disk before
    /// our client hears that its message has arrived.
    async fn tell_of_success(&self, envelope: &Envelope, taken: &[Taken], original: Option<Vec<u8>>) {
        let now = self.now();
        let fates: Vec<Fate<'_>> = taken
            .iter()
            .filter_map(|(index, reply, handed)| {
                Fate::of_success(&envelope.recipients[*index as usize], *handed, reply, now)
            })
            .collect();
        if fates.is_empty() {
            return;
        }
        let id = envelope.id;
        let to = match notice::addressee(envelope) {
            Ok(to) => to,
            Err(why) => return self.shared.reporter.note(&Event::NotNotified { id, why }),
        };
        let spool = &self.shared.spool;
        let reporting = Reporting { hostname: &self.rules.hostname, id: spool.mint(), now };
        let notice = notice::write(reporting, to, envelope, &fates, original.as_deref());
        let notice_id = notice.envelope.id;
        match spool.store_notice(notice).await {
            Ok(accepted) => {
                self.shared.reporter.note(&Event::Notified { id, notice: notice_id, to });
                let _ = self.shared.arrivals.send(accepted).await;
            }
            // The message is where it belongs: to refuse it now would only have it sent twice.
            Err(_) => {
                let why = "the notice could not be stored";
                self.shared.reporter.note(&Event::NotNotified { id, why });
            }
        }
    }

    fn note_delivered(&self, envelope: &Envelope, next_hop: &NextHopName, taken: &[Taken]) {
        let delay = self.now().since(envelope.received_at);
        for (index, reply, _) in taken {
            let recipient = &envelope.recipients[*index as usize].address;
            let id = envelope.id;
            self.shared.reporter.note(&Event::Delivered {
                id,
                recipient,
                next_hop,
                reply,
                attempts: 1,
                delay,
            });
        }
    }

    fn streamed(&self) -> Relay {
        if self.rested.is_some() { Relay::InlineRested } else { Relay::Inline }
    }

    fn note_accepted(&self, envelope: &Envelope, bytes: u64, by: Relay) {
        self.shared.reporter.note(&Event::Accepted {
            session: self.id,
            listener: &self.entrance.name,
            placed: &self.placed,
            header: &self.peek,
            findings: self.findings.as_ref().map(|examined| &examined.findings),
            envelope,
            attribution: &self.attribution,
            bytes,
            tls: self.session.peer().tls.is_some(),
            by,
        });
    }

    /// The next hop has the message for some recipients, and our client is told that it was not taken: what
    /// did happen is recorded all the same.
    fn note_taken_alone(&self, left: &Left) {
        if left.taken.is_empty() {
            return;
        }
        let mut envelope = Envelope::clone(&left.envelope);
        let mut index = 0..;
        let taken = |index: u32| left.taken.iter().any(|(taken, ..)| *taken == index);
        envelope.recipients.retain(|_| index.next().is_some_and(taken));
        self.note_accepted(&envelope, left.bytes, self.streamed());
        self.note_delivered(&left.envelope, &left.next_hop, &left.taken);
    }

    fn note_message_refused(&self, open: &OpenEnvelope, reply: &RemoteReply) {
        self.note_message_refused_as(&open.sender, "next-hop", &reply.line());
    }

    /// Recorded as our client hears it, with what the next hop had to say.
    fn note_no_verdict(&self, open: &OpenEnvelope, said: &RemoteReply) {
        let words = self.words_of(&Reply::NoRoute.into());
        self.note_message_refused_as(&open.sender, "next-hop", &format!("{words} ({})", said.line()));
    }

    /// `left`: what became of it at an inline next hop before.
    async fn store(&mut self, open: OpenEnvelope, left: Option<&Left>) -> Result<MessageId, NotStored> {
        let Some(draft) = self.draft.take() else {
            return Err(self.not_kept.take().unwrap_or(NotStored::Failed));
        };
        let bytes = draft.len();
        let envelope = self.envelope(draft.id(), open);
        let head = self.head(&envelope);
        // 250 is a promise: nothing before this line may be lost. RFC 5321 §4.2.5, rule 66
        let accepted = draft.commit(envelope, head).await.map_err(|error| not_stored_word(&error))?;
        self.messages += 1;
        self.note_received();
        self.rested = None;
        // With all its recipients, and before what became of any: so the trace and the audit read it.
        let envelope = left.map_or(&accepted.envelope, |left| &left.envelope);
        self.note_accepted(envelope, bytes, Relay::Spool);
        if let Some(Left { envelope, next_hop, taken, reply, .. }) = left {
            self.shared.reporter.note(&Event::FellBack { id: envelope.id, next_hop, reply });
            self.note_delivered(envelope, next_hop, taken);
        }
        let id = accepted.envelope.id;
        // The receiver lives as long as the daemon; at its end the spool hands the message out again.
        let _ = self.shared.arrivals.send(accepted).await;
        Ok(id)
    }

    /// Rule 58: only what was accepted counts.
    fn note_received(&mut self) {
        self.shared.limits.received(&self.dues, self.now());
        self.dues.clear();
    }
}
