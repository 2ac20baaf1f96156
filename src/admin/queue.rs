//! Queue: the operator's verbs over HTTP: what waits, one message in full, and what changes it.
//!
//! Every change is a POST with one form of filter, may be tried dry, and is in the audit before it happens.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::api::Door;
use super::audit::{Entry, Met};
use super::caller::{SeesPeople, Who};
use crate::mail::{AddressPattern, Filter, MessageId, Priority};
use crate::queue::{Changed, Header, Hold, LaneView, Matched, MessageView, Mode, Verb};
use crate::report::Event;

/// Rows of `queue list` unless told, and at most.
const ROWS: usize = 1_000;
const ROWS_LIMIT: usize = 100_000;
/// Why mail was returned is for people to read, and not a letter of its own.
const REASON_LIMIT: usize = 500;

/// `GET /v1/queue`: the lanes, and what is held when it comes.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) lanes: Vec<LaneView>,
    /// They name senders and recipients: not for everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) holds: Option<Vec<Hold>>,
}

/// `GET /v1/queue/messages`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    id: Option<MessageId>,
    destination: Option<String>,
    recipient: Option<AddressPattern>,
    sender: Option<AddressPattern>,
    older_than_s: Option<u64>,
    limit: Option<usize>,
}

/// `GET /v1/queue/messages/{id}`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Showing {
    #[serde(default)]
    headers: bool,
}

/// The body of every `POST /v1/queue/{verb}`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    #[serde(default)]
    pub(super) filter: Filter,
    #[serde(default)]
    pub(super) dry_run: bool,
    /// `hold`: also what comes later, until it is released by the same filter.
    #[serde(default)]
    pub(super) new: bool,
    /// `bounce`: what the senders are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// `prioritize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) priority: Option<Priority>,
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) verb: String,
    pub(super) dry_run: bool,
    /// How many it met; with `under_way` those of them that a worker has just now.
    pub(super) messages: usize,
    pub(super) recipients: usize,
    pub(super) under_way: usize,
    /// Holds of what comes later that were begun or ended.
    pub(super) holds: usize,
    /// The first thousand of them.
    pub(super) matched: Vec<Matched>,
}

pub(super) fn reading() -> Router<Arc<Door>> {
    Router::new()
        .route("/v1/queue", get(summary))
        .route("/v1/queue/messages", get(list))
        .route("/v1/queue/messages/{id}", get(show))
}

pub(super) fn changing() -> Router<Arc<Door>> {
    Router::new().route("/v1/queue/{verb}", post(change))
}

async fn summary(State(door): State<Arc<Door>>, SeesPeople(sees): SeesPeople) -> Json<Summary> {
    let holds = if sees { Some(door.queue.holds().list().await) } else { None };
    Json(Summary { lanes: door.queue.lanes(), holds })
}

async fn list(State(door): State<Arc<Door>>, Query(listing): Query<Listing>) -> Json<Vec<MessageView>> {
    let Listing { id, destination, recipient, sender, older_than_s, limit } = listing;
    let filter = Filter { id, destination, recipient, sender, older_than_s };
    Json(door.queue.messages(&filter, limit.unwrap_or(ROWS).min(ROWS_LIMIT)))
}

async fn show(
    State(door): State<Arc<Door>>,
    Path(id): Path<MessageId>,
    Query(showing): Query<Showing>,
) -> Response {
    let header = if showing.headers { Header::Wanted } else { Header::Unwanted };
    match door.queue.message(id, header).await {
        Some(detail) => Json(detail).into_response(),
        None => (StatusCode::NOT_FOUND, format!("message {id} is not in the queue\n")).into_response(),
    }
}

/// What is wrong with a request, in words.
type Refusal = (StatusCode, String);

fn refuse(why: impl Into<String>) -> Refusal {
    (StatusCode::UNPROCESSABLE_ENTITY, format!("{}\n", why.into()))
}

fn verb_of(word: &str, request: &Request) -> Result<Verb, Refusal> {
    let verb = match word {
        "retry" => Verb::Retry,
        "hold" => Verb::Hold,
        "release" => Verb::Release,
        "delete" => Verb::Delete,
        "bounce" => {
            let reason = request.reason.as_deref().unwrap_or("The operator of the mail system returned it.");
            if reason.trim().is_empty() || reason.chars().count() > REASON_LIMIT {
                return Err(refuse(format!("expected a reason of 1 to {REASON_LIMIT} characters")));
            }
            Verb::Bounce { reason: reason.to_owned() }
        }
        "prioritize" => match request.priority {
            Some(priority) => Verb::Prioritize(priority),
            None => return Err(refuse("expected a priority: high, normal or low")),
        },
        _ => return Err((StatusCode::NOT_FOUND, format!("there is no verb '{word}'\n"))),
    };
    // What takes mail out of its way names what it means.
    if request.filter.is_empty() && verb != Verb::Retry {
        return Err(refuse("expected an id or a filter: destination, recipient, sender, older than"));
    }
    if request.new && verb != Verb::Hold {
        return Err(refuse("only hold can be for what comes later"));
    }
    if request.new && !request.filter.can_wait() {
        let expected = "what comes later is known by its destination, recipient or sender only";
        return Err(refuse(expected));
    }
    Ok(verb)
}

async fn change(
    State(door): State<Arc<Door>>,
    Path(word): Path<String>,
    Who(by): Who,
    Json(request): Json<Request>,
) -> Response {
    let verb = match verb_of(&word, &request) {
        Ok(verb) => verb,
        Err(refusal) => return refusal.into_response(),
    };
    let filter = &request.filter;
    let preview = door.queue.change(&verb, filter, Mode::DryRun).await;
    let known = door.queue.holds().list().await.iter().any(|hold| hold.filter == *filter);
    let holds = match verb {
        Verb::Hold => usize::from(request.new && !known),
        Verb::Release => usize::from(known),
        Verb::Retry | Verb::Bounce { .. } | Verb::Delete | Verb::Prioritize(_) => 0,
    };
    if request.dry_run {
        return answer(&verb, Mode::DryRun, preview, holds);
    }
    if let Err(error) = note_down(&door, &by, &verb, &request, &preview).await {
        let why = format!("nothing was changed: the audit could not be written: {error}\n");
        return (StatusCode::INTERNAL_SERVER_ERROR, why).into_response();
    }
    // The hold comes before what is held, and goes before it is released: nothing slips through between.
    let kept = match verb {
        Verb::Hold if request.new => door.queue.holds().add(filter, &by, door.clock.now()).await,
        Verb::Release => door.queue.holds().remove(filter).await.map(|_| ()),
        Verb::Hold | Verb::Retry | Verb::Bounce { .. } | Verb::Delete | Verb::Prioritize(_) => Ok(()),
    };
    if let Err(error) = kept {
        let why = format!("nothing was changed: {error}\n");
        return (StatusCode::INTERNAL_SERVER_ERROR, why).into_response();
    }
    // Carried out to its end, even if whoever asked does not wait for it.
    let queue = door.queue.clone();
    let (work, wanted) = (verb.clone(), filter.clone());
    let acting = tokio::spawn(async move { queue.change(&work, &wanted, Mode::Act).await });
    match acting.await {
        Ok(changed) => {
            let (messages, recipients) = (changed.messages, changed.recipients);
            let filter = filter.to_string();
            let event = Event::Ordered { by: &by, verb: verb.word(), filter: &filter, messages, recipients };
            door.reporter.note(&event);
            answer(&verb, Mode::Act, changed, holds)
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn note_down(
    door: &Door,
    by: &str,
    verb: &Verb,
    request: &Request,
    met: &Changed,
) -> std::io::Result<()> {
    let detail = match verb {
        Verb::Bounce { reason } => Some(reason.as_str()),
        Verb::Prioritize(priority) => Some(priority.word()),
        Verb::Hold if request.new => Some("and what comes later"),
        Verb::Hold | Verb::Release | Verb::Retry | Verb::Delete => None,
    };
    door.audit
        .write(&Entry {
            at: door.clock.now().to_string(),
            by,
            verb: verb.word(),
            detail,
            met: Some(Met {
                filter: &request.filter,
                messages: met.messages,
                recipients: met.recipients,
                ids: met.matched.iter().map(|row| row.id).collect(),
            }),
        })
        .await
}

fn answer(verb: &Verb, mode: Mode, changed: Changed, holds: usize) -> Response {
    let Changed { messages, recipients, under_way, matched } = changed;
    let verb = verb.word().to_owned();
    let dry_run = mode == Mode::DryRun;
    Json(Answer { verb, dry_run, messages, recipients, under_way, holds, matched }).into_response()
}
