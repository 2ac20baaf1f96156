//! Inline: a message goes on while it comes in, and the verdict of the next hop becomes ours (rule 66).
//!
//! Owns the couriers that sessions share, some for each next hop, and one message's passage through one of
//! them. Knows neither the spool nor what is answered: `listener` decides what a verdict means.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::courier::{Begun, Courier};
use super::verdict::Breakage;
use super::{Delivery, Parcel, Services};
use crate::mail::{Envelope, Handed, Mailboxes, NextHop, NextHopName, Outcome, RemoteReply, Status};
use crate::spool::{Body, Content};

/// How long connecting and the whole envelope may take: somebody's body waits meanwhile.
const ENVELOPE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a message waits for one of the connections to its next hop, all of which are with others.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);
/// A next hop that made somebody wait in vain is not asked again for so long: waiting costs each client
/// its time. One that refuses connections costs nothing and is asked each time.
const SHUT_FOR: Duration = Duration::from_secs(30);
/// After a verdict that differed between recipients, for so long each comes alone where nothing may rest on
/// our disk: so that each hears its own, and nobody gets a message twice for another's sake.
const ALONE_FOR: Duration = Duration::from_secs(60 * 60);
/// RFC 5321 §4.2.3: what has failed for good and named no code.
const FAILED: u16 = 554;

/// The couriers of inline relay.
pub struct Pool {
    terms: ArcSwap<Terms>,
    roads: Mutex<HashMap<NextHopName, Arc<Road>>>,
}

/// What a pool works with; replaced on reload.
pub struct Terms {
    pub services: Arc<Services>,
    pub connections_per_next_hop: usize,
    pub messages_per_connection: usize,
}

/// One next hop as all sessions see it.
struct Road {
    room: Arc<Semaphore>,
    state: Mutex<RoadState>,
}

#[derive(Default)]
struct RoadState {
    resting: Vec<Employed>,
    shut_since: Option<Instant>,
    mixed_since: Option<Instant>,
}

struct Employed {
    courier: Courier,
    messages: usize,
}

/// A message whose body is not here yet.
pub struct Opening {
    pub envelope: Arc<Envelope>,
    pub mailboxes: Mailboxes,
    /// The header lines that go in front.
    pub head: Bytes,
    /// What its sender said of its size.
    pub declared_size: Option<u64>,
}

/// One message on its way through. Dropped half-way, it drops its connection too, and the next hop forgets
/// what it has heard of it.
pub struct Passage {
    terms: Arc<Terms>,
    road: Arc<Road>,
    employed: Option<Employed>,
    /// Held until the passage is over.
    room: Option<OwnedSemaphorePermit>,
    envelope: Arc<Envelope>,
    recipients: Vec<u32>,
    mailboxes: Mailboxes,
    head: Bytes,
    state: State,
}

enum State {
    Streaming(Result<(), Breakage>),
    /// The next hop has to see it as a whole: a Maildir, or content whose form it may not take.
    WaitingForAll,
    /// Before the body was here.
    Ended(Verdict),
}

/// One recipient, by its index, whose mail the next hop has.
pub type Taken = (u32, RemoteReply, Handed);

/// What a delivery says about the whole transaction of our client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everybody has it.
    Taken(Vec<Taken>),
    /// Nobody has it, and all for now or all for good: 4xx or 5xx by `code`.
    Refused(RemoteReply),
    /// The recipients fared differently; `left` do not have it.
    Mixed { taken: Vec<Taken>, left: Vec<u32>, reply: RemoteReply },
    /// No verdict: the next hop is down, leaves, or is too slow.
    Silent(RemoteReply),
}

impl Pool {
    pub fn new(terms: Terms) -> Self {
        Self { terms: ArcSwap::from_pointee(terms), roads: Mutex::default() }
    }

    /// New terms for messages from now on. Connections that rest are dropped.
    pub fn replace(&self, terms: Terms) {
        self.terms.store(Arc::new(terms));
        self.roads().clear();
    }

    /// Offers the envelope to the next hop. However that ends, a passage comes of it.
    pub async fn begin(&self, hop: &NextHop, opening: Opening) -> Passage {
        let terms = self.terms.load_full();
        let road = self.road(&hop.name, &terms);
        let Opening { envelope, mailboxes, head, declared_size } = opening;
        let recipients = (0..).take(envelope.recipients.len()).collect();
        let state = State::Ended(Verdict::Silent(too_slow(hop)));
        let (employed, room) = (None, None);
        let mut passage =
            Passage { terms, road, employed, room, envelope, recipients, mailboxes, head, state };
        if passage.road.is_shut() {
            return passage;
        }
        let room = timeout(ROOM_PATIENCE, passage.road.room.clone().acquire_owned()).await;
        let Ok(room) = room else {
            // Slow clients may hold them all: that says nothing about the next hop.
            passage.state = State::Ended(Verdict::Silent(no_room(hop)));
            return passage;
        };
        passage.room = Some(room.expect("the semaphore is never closed"));
        if timeout(ENVELOPE_PATIENCE, passage.open(hop, declared_size)).await.is_err() {
            // With the courier, whatever it had begun is gone.
            passage.employed = None;
            passage.road.shut();
        }
        passage
    }

    /// Whether recipients of this next hop come one to a transaction for now.
    pub fn takes_one(&self, hop: &NextHopName) -> bool {
        let road = self.roads().get(hop).cloned();
        road.is_some_and(|road| road.state().mixed_since.is_some_and(|since| since.elapsed() < ALONE_FOR))
    }

    /// Closes connections that nobody has used for a while. Runs for as long as the daemon.
    pub async fn tend(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.terms.load().services.patience.idle).await;
            let roads: Vec<_> = self.roads().values().cloned().collect();
            for road in roads {
                let rested: Vec<_> =
                    road.state().resting.extract_if(.., |employed| employed.courier.has_rested()).collect();
                for employed in rested {
                    employed.courier.quit().await;
                }
            }
        }
    }

    fn road(&self, name: &NextHopName, terms: &Terms) -> Arc<Road> {
        let mut roads = self.roads();
        let road = roads.entry(name.clone()).or_insert_with(|| {
            let room = Arc::new(Semaphore::new(terms.connections_per_next_hop));
            Arc::new(Road { room, state: Mutex::default() })
        });
        road.clone()
    }

    fn roads(&self) -> std::sync::MutexGuard<'_, HashMap<NextHopName, Arc<Road>>> {
        self.roads.lock().expect("nobody panics while holding a map of names")
    }
}

impl Road {
    fn state(&self) -> std::sync::MutexGuard<'_, RoadState> {
        self.state.lock().expect("nobody panics while holding a list of couriers")
    }

    fn is_shut(&self) -> bool {
        self.state().shut_since.is_some_and(|since| since.elapsed() < SHUT_FOR)
    }

    fn shut(&self) {
        self.state().shut_since = Some(Instant::now());
    }

    /// A courier that has been there lately, or a new one.
    fn employ(&self, hop: &NextHop, terms: &Terms) -> Employed {
        while let Some(employed) = self.state().resting.pop() {
            if employed.courier.serves(hop, &terms.services) {
                return employed;
            }
            dismiss(employed);
        }
        Employed { courier: Courier::new(terms.services.clone(), hop.clone()), messages: 0 }
    }
}

/// Takes leave behind the client's back: it need not wait for our farewells.
fn dismiss(employed: Employed) {
    tokio::spawn(employed.courier.quit());
}

impl Passage {
    async fn open(&mut self, hop: &NextHop, declared_size: Option<u64>) {
        let content = Content { head: self.head.clone(), body: Body::Memory(Bytes::new()) };
        let employed = self.employed.insert(self.road.employ(hop, &self.terms));
        employed.messages += 1;
        let parcel = Parcel {
            envelope: &self.envelope,
            recipients: &self.recipients,
            content: &content,
            mailboxes: &self.mailboxes,
        };
        self.state = match employed.courier.begin(parcel, declared_size).await {
            Begun::Open => State::Streaming(Ok(())),
            Begun::NotStreamable => State::WaitingForAll,
            Begun::Ended(delivery) => State::Ended(Verdict::of(delivery)),
        };
    }

    /// Takes more of the body. Call `flush` after each read, so that it does not heap up here.
    pub fn push(&mut self, content: &[u8]) {
        if let (State::Streaming(pushed @ Ok(())), Some(employed)) = (&mut self.state, &mut self.employed) {
            *pushed = employed.courier.push(&Bytes::copy_from_slice(content));
        }
    }

    /// Sends what was pushed; waits for as long as the next hop takes to take it.
    pub async fn flush(&mut self) {
        if let (State::Streaming(pushed @ Ok(())), Some(employed)) = (&mut self.state, &mut self.employed) {
            *pushed = employed.courier.flush().await;
        }
    }

    /// Whether chances are good that no other copy will be wanted: the next hop has taken all recipients and
    /// everything so far, or has refused them all already.
    pub fn is_promising(&self) -> bool {
        match &self.state {
            State::Streaming(Ok(())) => !self.is_divided(),
            State::Ended(Verdict::Refused(_)) => true,
            State::Streaming(Err(_)) | State::WaitingForAll | State::Ended(_) => false,
        }
    }

    /// Whether the next hop has taken some of the recipients and refused the others.
    pub fn is_divided(&self) -> bool {
        let open = self.employed.as_ref().filter(|_| matches!(self.state, State::Streaming(_)));
        open.is_some_and(|employed| !employed.courier.has_accepted_all())
    }

    /// Gives up before the end: nobody gets it, and from now on recipients of this next hop come alone.
    pub fn forgo(self) {
        self.road.state().mixed_since = Some(Instant::now());
    }

    /// Whether `finish` will need the whole body.
    pub fn wants_copy(&self) -> bool {
        matches!(self.state, State::WaitingForAll)
    }

    /// Ends the body and hears the verdict. `copy` is the whole body where it is still in memory, for a
    /// next hop that could not be given it bit by bit.
    pub async fn finish(mut self, copy: Option<Bytes>) -> Verdict {
        let state = std::mem::replace(&mut self.state, State::WaitingForAll);
        let asked = Instant::now();
        let verdict = match (state, copy, &mut self.employed) {
            (State::Ended(verdict), _, _) => verdict,
            (State::Streaming(pushed), _, Some(employed)) => Verdict::of(employed.courier.end(pushed).await),
            (State::WaitingForAll, Some(body), Some(employed)) => {
                let content = Content { head: self.head.clone(), body: Body::Memory(body) };
                let parcel = Parcel {
                    envelope: &self.envelope,
                    recipients: &self.recipients,
                    content: &content,
                    mailboxes: &self.mailboxes,
                };
                Verdict::of(employed.courier.deliver(parcel).await)
            }
            (State::WaitingForAll, None, _) | (State::Streaming(_) | State::WaitingForAll, _, None) => {
                let text = "The message is too large to be handed over as a whole";
                Verdict::Silent(RemoteReply::ours("", Status::new(4, 3, 0), text))
            }
        };
        self.remember(&verdict, asked.elapsed());
        if let Some(employed) = self.employed.take() {
            if employed.messages < self.terms.messages_per_connection && employed.courier.is_connected() {
                self.road.state().resting.push(employed);
            } else {
                dismiss(employed);
            }
        }
        drop(self.room.take());
        verdict
    }

    fn remember(&self, verdict: &Verdict, waited: Duration) {
        match verdict {
            Verdict::Silent(_) if waited >= self.terms.services.patience.data_end => self.road.shut(),
            Verdict::Mixed { .. } => self.road.state().mixed_since = Some(Instant::now()),
            Verdict::Taken(_) | Verdict::Refused(_) | Verdict::Silent(_) => {}
        }
    }
}

fn too_slow(hop: &NextHop) -> RemoteReply {
    RemoteReply::ours("", Status::new(4, 4, 2), format!("{} was too slow for inline relay", hop.name))
}

fn no_room(hop: &NextHop) -> RemoteReply {
    let text = format!("All connections to {} are in use", hop.name);
    RemoteReply::ours("", Status::new(4, 3, 2), text)
}

impl Verdict {
    fn of(delivery: Delivery) -> Self {
        let outcomes = match delivery {
            Delivery::Reached(outcomes) => outcomes,
            Delivery::Unreached(reply) => return Self::Silent(reply),
        };
        let (mut taken, mut deferred, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (index, outcome) in (0..).zip(outcomes) {
            match outcome {
                Outcome::Delivered(reply, handed) => taken.push((index, reply, handed)),
                Outcome::Deferred(reply) | Outcome::Postponed(reply) => deferred.push((index, reply)),
                Outcome::Failed(reply) => failed.push((index, reply)),
            }
        }
        let first = |list: &[(u32, RemoteReply)]| list.first().map(|(_, reply)| reply.clone());
        match (taken.is_empty(), first(&deferred), first(&failed)) {
            (_, None, None) => Self::Taken(taken),
            // Its own words decide, not silence: 421 and lost connections are no verdict.
            (true, Some(reply), None) if deferred.iter().all(|(_, reply)| is_deferral(reply.code)) => {
                Self::Refused(reply)
            }
            (true, Some(reply), None) => Self::Silent(reply),
            (true, None, Some(reply)) => {
                let code = if (500..600).contains(&reply.code) { reply.code } else { FAILED };
                Self::Refused(RemoteReply { code, ..reply })
            }
            (_, Some(reply), _) | (false, None, Some(reply)) => {
                let mut left: Vec<u32> = deferred.into_iter().chain(failed).map(|(index, _)| index).collect();
                left.sort_unstable();
                Self::Mixed { taken, left, reply }
            }
        }
    }
}

fn is_deferral(code: u16) -> bool {
    (400..500).contains(&code) && code != 421
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16) -> RemoteReply {
        let class = u8::try_from(code / 100).expect("a digit").max(4);
        RemoteReply {
            host: "mx".to_owned(),
            code,
            status: Status::new(class, 0, 0),
            text: "words".to_owned(),
        }
    }

    fn outcome(word: &str) -> Outcome {
        let (kind, code) = word.split_once(' ').expect("a kind and a code");
        let reply = reply(code.parse().expect("a code"));
        match kind {
            "taken" => Outcome::Delivered(reply, Handed::WithWishes),
            "later" => Outcome::Deferred(reply),
            "now" => Outcome::Postponed(reply),
            _ => Outcome::Failed(reply),
        }
    }

    #[test]
    fn a_verdict_is_what_all_recipients_have_in_common() {
        for (outcomes, expected) in [
            (&["taken 250"][..], "taken"),
            (&["taken 250", "taken 250"], "taken"),
            (&["later 450"], "refused 450"),
            (&["later 450", "later 452"], "refused 450"),
            (&["never 550", "never 552"], "refused 550"),
            (&["never 0"], "refused 554"),
            (&["later 421"], "silent"),
            (&["later 0"], "silent"),
            (&["later 354"], "silent"),
            (&["later 450", "later 0"], "silent"),
            (&["taken 250", "later 450"], "left [1]"),
            (&["never 550", "taken 250", "now 452"], "left [0, 2]"),
            (&["taken 250", "later 0"], "left [1]"),
            (&["later 450", "never 550"], "left [0, 1]"),
        ] {
            let verdict = Verdict::of(Delivery::Reached(outcomes.iter().map(|word| outcome(word)).collect()));
            let told = match verdict {
                Verdict::Taken(taken) => {
                    assert_eq!(taken.len(), outcomes.len());
                    "taken".to_owned()
                }
                Verdict::Refused(reply) => format!("refused {}", reply.code),
                Verdict::Mixed { taken, left, .. } => {
                    assert_eq!(taken.len() + left.len(), outcomes.len());
                    format!("left {left:?}")
                }
                Verdict::Silent(_) => "silent".to_owned(),
            };
            assert_eq!(told, expected, "{outcomes:?}");
        }
        assert_eq!(Verdict::of(Delivery::Unreached(reply(0))), Verdict::Silent(reply(0)));
    }
}
