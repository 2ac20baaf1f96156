//! Body: the content from the wire through the decoder into the draft, the screen and an inline next hop.
//!
//! The session never sees these bytes; it hears what they came to.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use crate::decision::Otherwise;
use crate::delivery::Opening;
use crate::mail::{Envelope, MessageId, NextHopName, Recipient};
use crate::net::Wire;
use crate::report::notice::HEADER_LIMIT_BYTES;
use crate::session::{Action, Chunk, Input, ReadBody};
use crate::smtp::body::{BodySummary, ChunkDecoder, DataDecoder};
use crate::smtp::reply::Reply;
use crate::spool::Draft;

use super::super::handover::Handover;
use super::{Connection, End, not_stored_word};

impl Connection {
    pub(super) async fn read_body(&mut self, wire: &mut Wire, read: ReadBody) -> Result<Action, End> {
        if !matches!(read, ReadBody::Chunk { chunk: Chunk::Next { .. }, .. }) {
            self.body_until = None;
        }
        let deadline = *self.body_until.get_or_insert_with(|| Instant::now() + self.patience.body);
        if Instant::now() >= deadline {
            // RFC 5321 §4.5.3.2.5
            return Ok(self.session.on(Input::PatienceOver));
        }
        let summary = match read {
            ReadBody::Data { answer, rules } => {
                self.say(wire, &answer);
                self.flush(wire).await?;
                self.begin_body().await;
                self.read_data(wire, DataDecoder::new(rules), deadline).await?
            }
            ReadBody::Chunk { octets, chunk } => {
                if let Chunk::First { rules, .. } = chunk {
                    self.begin_body().await;
                    self.chunks = Some(ChunkDecoder::new(rules));
                }
                self.read_chunk(wire, octets, chunk, deadline).await?
            }
        };
        match summary {
            Some(summary) => Ok(self.body_ended(summary)),
            // RFC 5321 §3.8
            None if *self.shared.cutting.borrow() => Ok(Action::Close(Reply::Draining.into())),
            // RFC 5321 §4.5.3.2.5
            None => Ok(self.session.on(Input::PatienceOver)),
        }
    }

    fn body_ended(&mut self, summary: BodySummary) -> Action {
        let sender = self.session.envelope().map(|open| open.sender.clone());
        let action = self.session.on(Input::BodyEnded(summary));
        if let (Some(sender), Action::Say(answer)) = (sender, &action)
            && answer.reply.is_refusal()
        {
            self.note_message_refused_as(&sender, answer.reply.label(), &self.words_of(answer));
        }
        action
    }

    async fn begin_body(&mut self) {
        self.peek = self.shared.reporter.peek();
        self.begin_screen();
        let draft = self.shared.spool.draft();
        self.handover = self.begin_handover(draft.id()).await;
        self.draft = Some(draft);
        self.not_kept = None;
    }

    /// Offers the envelope to an inline next hop while the client begins to send.
    async fn begin_handover(&mut self, id: MessageId) -> Option<Handover> {
        self.hops.inline(&self.rules)?;
        // What leaves ahead of the message can tell only of the client.
        self.examine_origin().await;
        let (hop, otherwise) = self.hops.inline(&self.rules)?;
        let open = self.session.envelope().expect("a body belongs to an envelope").clone();
        let declared_size = open.declared_size;
        let envelope = Arc::new(self.envelope(id, open));
        // What the operator keeps back waits in the spool; what may not rest there goes on all the same.
        if otherwise == Otherwise::Spool && self.is_held(&envelope, &hop.name) {
            return None;
        }
        let head = self.head(&envelope).into();
        // A notice of success brings back the header, except where nothing of the message may rest here.
        let wanted = envelope.recipients.iter().any(Recipient::wants_success);
        let original = (wanted && otherwise == Otherwise::Spool).then(Vec::new);
        let mailboxes = self.mailboxes.clone();
        let opening = Opening { envelope: envelope.clone(), mailboxes, head, declared_size };
        let passage = self.shared.inline.begin(hop, opening).await;
        Some(Handover { passage, envelope, next_hop: hop.name.clone(), otherwise, bytes: 0, original })
    }

    fn is_held(&self, envelope: &Envelope, next_hop: &NextHopName) -> bool {
        let holds = self.shared.holds.borrow();
        let recipients = (0..).take(envelope.recipients.len());
        !holds.is_empty()
            && holds
                .iter()
                .filter(|hold| hold.concerns(&next_hop.to_string()))
                .any(|hold| recipients.clone().any(|index| hold.picks(envelope, index, envelope.received_at)))
    }

    /// `None` when the client took too long.
    async fn read_data(
        &mut self,
        wire: &mut Wire,
        mut decoder: DataDecoder,
        deadline: Instant,
    ) -> Result<Option<BodySummary>, End> {
        loop {
            while !wire.pending().is_empty() {
                let step = decoder.step(wire.pending());
                self.keep(step.content);
                let (consumed, ended) = (step.consumed, step.ended);
                wire.consume(consumed);
                if ended {
                    self.keep_rest();
                    let summary = decoder.summary();
                    self.let_go_if_faulty(&summary);
                    return Ok(Some(summary));
                }
            }
            self.let_go_if_faulty(&decoder.summary());
            self.settle_draft().await;
            if !self.more_body(wire, deadline).await? {
                return Ok(None);
            }
        }
    }

    async fn read_chunk(
        &mut self,
        wire: &mut Wire,
        octets: u64,
        chunk: Chunk,
        deadline: Instant,
    ) -> Result<Option<BodySummary>, End> {
        let last = match chunk {
            Chunk::First { last, .. } | Chunk::Next { last } => last,
            Chunk::Discard => return self.discard_chunk(wire, octets, deadline).await,
        };
        let mut decoder = self.chunks.take().expect("the session asks for a first chunk before the next");
        decoder.begin(octets);
        loop {
            // A chunk of no octets ends with a step on no input.
            let step = decoder.step(wire.pending());
            self.keep(step.content);
            let (consumed, ended) = (step.consumed, step.ended);
            wire.consume(consumed);
            if ended {
                break;
            }
            if wire.pending().is_empty() {
                self.let_go_if_faulty(&decoder.summary());
                self.settle_draft().await;
                if !self.more_body(wire, deadline).await? {
                    return Ok(None);
                }
            }
        }
        if last {
            self.keep_rest();
        }
        self.settle_draft().await;
        let summary = if last {
            decoder.finish()
        } else {
            let summary = decoder.summary();
            self.chunks = Some(decoder);
            summary
        };
        self.let_go_if_faulty(&summary);
        Ok(Some(summary))
    }

    /// The announced octets are read whatever becomes of them, or they would be taken for commands.
    async fn discard_chunk(
        &mut self,
        wire: &mut Wire,
        octets: u64,
        deadline: Instant,
    ) -> Result<Option<BodySummary>, End> {
        let mut left = octets;
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(wire.pending().len());
            wire.consume(here);
            left -= here as u64;
            if left == 0 {
                return Ok(Some(BodySummary::default()));
            }
            if !self.more_body(wire, deadline).await? {
                return Ok(None);
            }
        }
    }

    fn keep(&mut self, content: &[u8]) {
        if let Some(mut chain) = self.chain.take() {
            chain.push(content);
            self.see_chain(chain);
        }
        let Self { examination, screen, draft, handover, peek, foreword, .. } = self;
        // As it came: what is taken out of it may have been signed (section 6).
        if let Some(examination) = examination {
            examination.push(content);
        }
        peek.see(content);
        if let Some(foreword) = foreword {
            foreword.push(content);
        }
        match screen {
            Some(screen) => screen.push(content, |part| keep_part(draft, handover, part)),
            None => keep_part(draft, handover, content),
        }
    }

    /// The body is over: nothing more is held back.
    fn keep_rest(&mut self) {
        if let Some(mut chain) = self.chain.take() {
            chain.finish();
            self.see_chain(chain);
        }
        let Self { screen, draft, handover, .. } = self;
        if let Some(mut screen) = screen.take() {
            screen.finish(|part| keep_part(draft, handover, part));
        }
    }

    /// What will be refused need not be kept.
    fn let_go_if_faulty(&mut self, summary: &BodySummary) {
        if summary.fault.is_some() {
            self.draft = None;
            self.handover = None;
            self.examination = None;
        }
    }

    /// Lets the draft go to disk when it is large; a draft that cannot be kept is let go, and the client
    /// is told at the end of its data.
    async fn settle_draft(&mut self) {
        if let Some(handover) = &mut self.handover {
            handover.passage.flush().await;
        }
        // Asked once: others fill the memory too, and what was found to fit stays off the disk.
        if !self.draft.as_mut().is_some_and(Draft::overflows) {
            return;
        }
        if let Some(handover) = &self.handover {
            // What would have to go to disk is let go: where it may never rest there, always; else as long as
            // the next hop seems to take it all. If it does not, the client is told 451 and has it still.
            let let_go = match handover.otherwise {
                Otherwise::Refuse => true,
                Otherwise::Spool => handover.passage.is_promising(),
            };
            if let_go {
                self.draft = None;
            }
        }
        let Some(draft) = &mut self.draft else { return };
        let settled = draft.settle().await;
        // Whatever becomes of it: the audit says where every message was.
        self.rested = draft.is_on_disk().then(|| draft.id()).or(self.rested);
        if let Err(not_stored) = settled {
            self.draft = None;
            self.not_kept = Some(not_stored_word(&not_stored));
        }
    }

    /// Reads more of a body; `false` when the client took too long over a block or over the whole.
    async fn more_body(&self, wire: &mut Wire, deadline: Instant) -> Result<bool, End> {
        let until = deadline.min(Instant::now() + self.session.patience());
        let mut cutting = self.shared.cutting.clone();
        tokio::select! {
            filled = timeout_at(until, wire.fill()) => match filled {
                Ok(Ok(0)) => Err(End::HungUp),
                Ok(Ok(_)) => Ok(true),
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Ok(false),
            },
            _ = cutting.wait_for(|cut| *cut) => Ok(false),
        }
    }
}

fn keep_part(draft: &mut Option<Draft>, handover: &mut Option<Handover>, part: &[u8]) {
    if let Some(draft) = draft {
        draft.push(part);
    }
    if let Some(handover) = handover {
        handover.passage.push(part);
        handover.bytes += part.len() as u64;
        if let Some(original) = &mut handover.original {
            let room = HEADER_LIMIT_BYTES.saturating_sub(original.len()).min(part.len());
            original.extend_from_slice(&part[..room]);
        }
    }
}
