//! Traced: one Record per Event that is a step of a message's way.
//!
//! Formats, copies and goes: on the hot path. What is withheld here is withheld from the audit as well.

use super::{Event, Parting, Placed, Relay, Withheld};
use crate::clock::Timestamp;
use crate::decision::Reason;
use crate::mail::{
    Address, Envelope, MessageId, NextHopName, Peer, RemoteReply, SessionId, Status, TlsFacts, Transport,
};
use crate::spool::{End, RecipientProgress, RecoveredMessage};
use crate::trace::record::{
    Arrived, By, Client, Fate, Happening, Heading, Outcome, Record, Refused, Rested, Turn,
};
use crate::trace::{BROKEN_OFF, Peek, Tracer};

pub(super) fn write(tracer: &Tracer, event: &Event<'_>, withheld: &Withheld) {
    match event {
        Event::Accepted {
            session,
            listener,
            placed,
            header,
            findings,
            envelope,
            attribution,
            bytes,
            by,
            ..
        } => {
            let client = envelope.peer.as_ref().map(|peer| Caller { session: *session, peer, listener });
            let attribution = came_by(&attribution.to_string(), envelope);
            let by = match by {
                Relay::Spool => By::Spool,
                Relay::Inline => By::Inline,
                Relay::InlineRested => By::InlineRested,
            };
            let authentication =
                findings.map(|findings| withheld.scrubbed(&findings.to_string()).into_owned());
            let authentication = authentication.unwrap_or_default();
            let arrival = Arrival {
                client,
                attribution: &attribution,
                authentication: &authentication,
                header,
                bytes: *bytes,
                by,
            };
            arrive(tracer, envelope, placed, &arrival, withheld);
        }
        Event::SenderRefused { session, peer, listener, sender, privacy, reason, rule, reply } => {
            let caller = Caller { session: *session, peer, listener };
            let sender = withheld.shown_as(sender, *privacy);
            refuse(
                tracer,
                Some(caller),
                &Refusal {
                    stage: "sender",
                    sender: Some(&sender),
                    rule,
                    ..Refusal::new(reason.word(), reply)
                },
            );
        }
        Event::RecipientRefused { session, peer, listener, sender, recipient, reason, rule, reply } => {
            let caller = Caller { session: *session, peer, listener };
            let sender = withheld.shown_sender(sender);
            refuse(
                tracer,
                Some(caller),
                &Refusal {
                    stage: "recipient",
                    sender: Some(&sender),
                    recipients: vec![recipient],
                    rule: rule_of(reason, rule),
                    ..Refusal::new(reason.word(), reply)
                },
            );
        }
        Event::CommandRefused { session, peer, listener, sender, recipient, reason, reply } => {
            let caller = Caller { session: *session, peer, listener };
            let sender = sender.map(|sender| withheld.shown_sender(sender));
            refuse(
                tracer,
                Some(caller),
                &Refusal {
                    stage: if recipient.is_empty() { "sender" } else { "recipient" },
                    sender: sender.as_deref(),
                    recipients: if recipient.is_empty() { Vec::new() } else { vec![recipient] },
                    ..Refusal::new(reason, reply)
                },
            );
        }
        Event::MessageRefused { session, peer, listener, sender, recipients, header, reason, reply } => {
            let caller = Caller { session: *session, peer, listener };
            let sender = withheld.shown_sender(sender);
            let recipients = shown(recipients, withheld);
            let message_id = header.message_id();
            refuse(
                tracer,
                Some(caller),
                &Refusal {
                    stage: "message",
                    sender: Some(&sender),
                    recipients: recipients.iter().map(String::as_str).collect(),
                    message_id: &message_id,
                    ..Refusal::new(reason, reply)
                },
            );
        }
        Event::Disconnected {
            session,
            peer,
            listener,
            sender: Some(sender),
            recipients,
            why,
            parting: Parting::Notable,
            ..
        } if !recipients.is_empty() => {
            let caller = Caller { session: *session, peer, listener };
            let sender = withheld.shown_sender(sender);
            let recipients = shown(recipients, withheld);
            refuse(
                tracer,
                Some(caller),
                &Refusal {
                    stage: "connection",
                    sender: Some(&sender),
                    recipients: recipients.iter().map(String::as_str).collect(),
                    ..Refusal::new(BROKEN_OFF, why)
                },
            );
        }
        Event::HandshakeFailed { session, peer, listener, why } => {
            let caller = Caller { session: *session, peer, listener };
            refuse(tracer, Some(caller), &Refusal::new("tls-handshake-failed", why));
        }
        Event::InjectionDropped { session, peer, listener, .. } => {
            let caller = Caller { session: *session, peer, listener };
            let refusal = Refusal { rule: "63", ..Refusal::new("injection-dropped", "closed") };
            refuse(tracer, Some(caller), &refusal);
        }
        Event::TurnedAway { peer, limit, reply } => {
            let peer = Peer::new(peer.ip());
            let caller = Caller { session: SessionId(0), peer: &peer, listener: "" };
            let refusal = Refusal { rule: "59", ..Refusal::new(limit.word(), reply) };
            refuse(tracer, Some(caller), &refusal);
        }
        Event::Delivered { id, recipient, next_hop, reply, attempts, .. } => {
            let ended = Ended { id: *id, recipient, next_hop, reply, attempts: *attempts };
            end(tracer, Fate::Delivered, &ended, None, withheld);
        }
        Event::Deferred { id, recipient, next_hop, reply, attempts, next_attempt } => {
            let ended = Ended { id: *id, recipient, next_hop, reply, attempts: *attempts };
            end(tracer, Fate::Deferred, &ended, Some(*next_attempt), withheld);
        }
        Event::Failed { id, recipient, next_hop, reply, attempts } => {
            let ended = Ended { id: *id, recipient, next_hop, reply, attempts: *attempts };
            end(tracer, Fate::Failed, &ended, None, withheld);
        }
        Event::Expired { id, recipient, next_hop, reply, attempts } => {
            let expired = RemoteReply {
                host: reply.host.clone(),
                code: 550,
                status: Status::EXPIRED,
                text: format!("Message expired; the last word was: {}", reply.line()),
            };
            let ended = Ended { id: *id, recipient, next_hop, reply: &expired, attempts: *attempts };
            end(tracer, Fate::Expired, &ended, None, withheld);
        }
        Event::Rerouted { id, recipient, from, to } => {
            let says = format!("from {from} to {to}");
            happen(tracer, *id, &withheld.shown(recipient), "rerouted", &says, Turn::None);
        }
        Event::FellBack { id, next_hop, reply } => {
            let says = format!("{next_hop}: {}", reply.line());
            happen(tracer, *id, "", "inline-fell-back", &says, Turn::None);
        }
        Event::Notified { id, notice, to } => {
            let to = withheld.shown(to);
            happen(tracer, *id, "", "notified", &format!("notice {notice} to {to}"), Turn::None);
            let heading = Heading { address: &to, region: "", ingress: "", irr: "", rule: "" };
            tracer.note(&Record::Arrived(Arrived {
                id: notice.raw(),
                at: tracer.now().millis(),
                client: None,
                attribution: "notice",
                sender: "",
                message_id: "",
                subject: "",
                authentication: "",
                size: 0,
                by: By::Notice,
                cause: Some(id.raw()),
                recipients: vec![heading],
            }));
        }
        Event::Rested { id, recipients } => {
            let addresses = shown(recipients, withheld);
            let headings = recipients.iter().zip(&addresses).map(|(placed, to)| heading(to, Some(placed)));
            tracer.note(&Record::Rested(Rested {
                id: id.raw(),
                at: tracer.now().millis(),
                recipients: headings.collect(),
            }));
        }
        Event::NotNotified { id, why } => happen(tracer, *id, "", "not-notified", why, Turn::None),
        Event::Quarantined { id, why } => happen(tracer, *id, "", "quarantined", why, Turn::Held),
        Event::Held { id, recipient } => {
            happen(tracer, *id, &withheld.shown(recipient), "held", "by the operator", Turn::Held);
        }
        Event::Released { id, recipient } => {
            happen(tracer, *id, &withheld.shown(recipient), "released", "by the operator", Turn::Pending);
        }
        Event::Removed { id, recipient, by } => {
            happen(tracer, *id, &withheld.shown(recipient), "deleted", by, Turn::Deleted);
        }
        _ => {}
    }
}

/// Who is, or was, connected.
#[derive(Clone, Copy)]
struct Caller<'a> {
    session: SessionId,
    peer: &'a Peer,
    listener: &'a str,
}

impl<'a> Caller<'a> {
    fn with<T>(caller: Option<Self>, then: impl FnOnce(Option<Client<'_>>) -> T) -> T {
        let Some(Self { session, peer, listener }) = caller else { return then(None) };
        let tls = peer.tls.as_ref().map(words_of).unwrap_or_default();
        then(Some(Client { session: session.0, ip: peer.ip, helo: &peer.helo, tls: &tls, listener }))
    }
}

fn words_of(tls: &TlsFacts) -> String {
    let mut words = format!("{} {}", tls.version, tls.cipher);
    if let Some(name) = tls.verified_names.first() {
        words.push_str(" verified ");
        words.push_str(name);
    }
    words
}

fn shown(recipients: &[Placed], withheld: &Withheld) -> Vec<String> {
    recipients.iter().map(|placed| withheld.shown(&placed.address)).collect()
}

/// The refusals that are said before any decision is made.
fn rule_of(reason: &Reason, rule: &'static str) -> &'static str {
    match (rule, reason) {
        ("", Reason::Overloaded) => "18",
        (rule, _) => rule,
    }
}

struct Arrival<'a> {
    client: Option<Caller<'a>>,
    attribution: &'a str,
    authentication: &'a str,
    header: &'a Peek,
    bytes: u64,
    by: By,
}

fn arrive(
    tracer: &Tracer,
    envelope: &Envelope,
    placed: &[Placed],
    arrival: &Arrival<'_>,
    withheld: &Withheld,
) {
    let sender = envelope.sender.as_ref().map(|address| withheld.shown(address)).unwrap_or_default();
    let addresses: Vec<String> =
        envelope.recipients.iter().map(|recipient| withheld.shown(&recipient.address)).collect();
    let headings = envelope.recipients.iter().zip(&addresses).map(|(recipient, address)| {
        heading(address, placed.iter().find(|placed| placed.address == recipient.address))
    });
    let (message_id, subject) = (arrival.header.message_id(), arrival.header.subject());
    Caller::with(arrival.client, |client| {
        tracer.note(&Record::Arrived(Arrived {
            id: envelope.id.raw(),
            at: envelope.received_at.millis(),
            client,
            attribution: arrival.attribution,
            sender: &sender,
            message_id: &message_id,
            subject: &subject,
            authentication: arrival.authentication,
            size: arrival.bytes,
            by: arrival.by,
            cause: None,
            recipients: headings.collect(),
        }));
    });
}

fn heading<'a>(address: &'a str, placed: Option<&'a Placed>) -> Heading<'a> {
    Heading {
        address,
        region: placed.and_then(|placed| placed.home.as_ref()).map_or("", |region| region.as_str()),
        ingress: placed.and_then(|placed| placed.ingress.as_ref()).map_or("", |region| region.as_str()),
        irr: placed.map_or("", |placed| placed.irr.word()),
        rule: placed.map_or("", |placed| placed.rule),
    }
}

struct Refusal<'a> {
    stage: &'a str,
    sender: Option<&'a str>,
    recipients: Vec<&'a str>,
    message_id: &'a str,
    reason: &'a str,
    rule: &'a str,
    reply: &'a str,
}

impl<'a> Refusal<'a> {
    fn new(reason: &'a str, reply: &'a str) -> Self {
        Self {
            stage: "connection",
            sender: None,
            recipients: Vec::new(),
            message_id: "",
            reason,
            rule: "",
            reply,
        }
    }
}

fn refuse(tracer: &Tracer, caller: Option<Caller<'_>>, refusal: &Refusal<'_>) {
    let now = tracer.now();
    let Some(key) = tracer.refusal_key(now) else { return };
    let code = refusal.reply.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    Caller::with(caller, |client| {
        tracer.note(&Record::Refused(Refused {
            key,
            at: now.millis(),
            client: client.filter(|client| client.session != 0 || !client.ip.is_unspecified()),
            stage: refusal.stage,
            sender: refusal.sender.map(|sender| if sender == "<>" { "" } else { sender }),
            recipients: refusal.recipients.clone(),
            message_id: refusal.message_id,
            reason: refusal.reason,
            rule: refusal.rule,
            code,
            reply: refusal.reply,
        }));
    });
}

struct Ended<'a> {
    id: MessageId,
    recipient: &'a Address,
    next_hop: &'a NextHopName,
    reply: &'a RemoteReply,
    attempts: u32,
}

fn end(tracer: &Tracer, fate: Fate, ended: &Ended<'_>, next_attempt: Option<Timestamp>, withheld: &Withheld) {
    let Ended { id, recipient, next_hop, reply, attempts } = ended;
    let region = match next_hop {
        NextHopName::Store(region) | NextHopName::Relay(region) => region.as_str(),
        NextHopName::SmartHost { .. } | NextHopName::Internet(_) | NextHopName::Undecided => "",
    };
    tracer.note(&Record::Outcome(Outcome {
        id: id.raw(),
        at: tracer.now().millis(),
        recipient: &withheld.shown(recipient),
        fate,
        next_hop: &next_hop.to_string(),
        region,
        host: &reply.host,
        code: reply.code,
        enhanced: &reply.status.to_string(),
        reply: &withheld.shown_reply(reply, recipient),
        attempts: *attempts,
        next_attempt: next_attempt.map_or(0, Timestamp::millis),
    }));
}

fn happen(tracer: &Tracer, id: MessageId, recipient: &str, what: &str, says: &str, turn: Turn) {
    let at = tracer.now().millis();
    tracer.note(&Record::Happening(Happening { id: id.raw(), at, recipient, what, says, turn }));
}

/// Once at a start, before anything new comes in.
pub(super) fn recovered<'a>(
    tracer: &Tracer,
    messages: impl Iterator<Item = &'a RecoveredMessage>,
    withheld: &Withheld,
) {
    let before = MessageId::at(tracer.now()).raw();
    for message in messages {
        let envelope = &message.envelope;
        let sender = envelope.sender.as_ref().map(|address| withheld.shown(address)).unwrap_or_default();
        let each = || envelope.recipients.iter().zip(&message.progress);
        let waiting = each().filter(|(_, progress)| progress.end.is_none());
        let addresses: Vec<String> =
            waiting.map(|(recipient, _)| withheld.shown(&recipient.address)).collect();
        let headings = addresses
            .iter()
            .map(|address| Heading { address, region: "", ingress: "", irr: "", rule: "" })
            .collect();
        let caller = envelope.peer.as_ref().map(|peer| Caller { session: SessionId(0), peer, listener: "" });
        let attribution = came_by(word_of(envelope.transport), envelope);
        Caller::with(caller, |client| {
            tracer.note_patiently(&Record::Arrived(Arrived {
                id: envelope.id.raw(),
                at: envelope.received_at.millis(),
                client,
                attribution: &attribution,
                sender: &sender,
                message_id: "",
                subject: "",
                authentication: "",
                size: message.bytes,
                by: By::Recovery,
                cause: None,
                recipients: headings,
            }));
        });
        for (recipient, progress) in each() {
            found(tracer, envelope, &recipient.address, progress, withheld);
        }
    }
    tracer.note_patiently(&Record::RecoveryEnd { at: tracer.now().millis(), before });
}

/// The process before may have stopped hard between an end and its telling.
fn found(
    tracer: &Tracer,
    envelope: &Envelope,
    recipient: &Address,
    progress: &RecipientProgress,
    withheld: &Withheld,
) {
    let fate = match progress.end {
        Some(End::Delivered) => Fate::Delivered,
        Some(End::Failed) => Fate::Failed,
        Some(End::Expired) => Fate::Expired,
        Some(End::Dropped) | None => return,
    };
    let reply = progress.last.as_ref();
    tracer.note_patiently(&Record::Found(Outcome {
        id: envelope.id.raw(),
        // Of an end it is when that was.
        at: progress.next_attempt.max(envelope.received_at).millis(),
        recipient: &withheld.shown(recipient),
        fate,
        next_hop: "",
        region: "",
        host: reply.map_or("", |reply| &reply.host),
        code: reply.map_or(0, |reply| reply.code),
        enhanced: &reply.map(|reply| reply.status.to_string()).unwrap_or_default(),
        reply: &reply.map(|reply| withheld.shown_reply(reply, recipient)).unwrap_or_default(),
        attempts: progress.attempts,
        next_attempt: 0,
    }));
}

/// `incoming by contoso/filter` where the attribution does not name the connector itself.
fn came_by(attribution: &str, envelope: &Envelope) -> String {
    match (&envelope.tenant, &envelope.connector) {
        (Some(tenant), Some(connector)) if !attribution.contains('/') => {
            format!("{attribution} by {tenant}/{connector}")
        }
        _ => attribution.to_owned(),
    }
}

fn word_of(transport: Transport) -> &'static str {
    match transport {
        Transport::Incoming => "incoming",
        Transport::Originating => "originating",
        Transport::PeerEdge => "peer edge",
        Transport::Notice => "notice",
    }
}
