//! Outside: what the world says of us and of others, asked from here at an operator's wish.
//!
//! The commands `landfall dns`, `probe` and `connector validate` ask the same of the same rooms. Whoever asks
//! waits; how many may at once is bounded, and so is how long they may.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::api::{Door, note_down};
use super::caller::Who;
use crate::decision::Rules;
use crate::delivery::{Line, Means, Question, Services, Trial, Troubled, Validation};
use crate::dns::{self, Resolver, Tlsa};
use crate::mail::Region;
use crate::net::{ClientTls, Roots};
use crate::onboarding::{self, Desk, OwnCertificates, Unanswered};

/// Questions to the outside under way at once.
pub(super) const LOOKS_LIMIT: usize = 4;
/// What one may take; the client waits a little longer.
const LOOK_PATIENCE: Duration = Duration::from_secs(100);

/// The configuration as it is in force, and what of it these questions need.
pub struct InForce {
    pub onboarding: onboarding::Settings,
    /// Of the certificates that are shown now.
    pub certificates: Vec<Tlsa>,
    pub dns: dns::Settings,
    /// The whole of it without its secrets, as `landfall config show --json` shows a file.
    pub shown: serde_json::Value,
    /// What mail to next hops goes by.
    pub services: Arc<Services>,
    /// The rules that a node of another region would go by.
    pub seen_from: Box<dyn Fn(Region) -> Rules + Send + Sync>,
}

/// In force now, and the places of those who ask.
pub struct Outside {
    pub in_force: Arc<ArcSwap<InForce>>,
    places: Semaphore,
}

impl Outside {
    pub fn new(in_force: Arc<ArcSwap<InForce>>) -> Self {
        Self { in_force, places: Semaphore::new(LOOKS_LIMIT) }
    }

    pub(super) fn under_way(&self) -> usize {
        LOOKS_LIMIT - self.places.available_permits()
    }

    fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }
}

pub(super) fn reading() -> Router<Arc<Door>> {
    Router::new()
        .route("/v1/dns/plan/{domain}", get(plan))
        .route("/v1/dns/check/{domain}", get(check))
        .route("/v1/dns/zone", get(zone))
        .route("/v1/config", get(config))
}

/// They dial out and may send a message: with the token, and written down, as what changes something.
pub(super) fn changing() -> Router<Arc<Door>> {
    Router::new().route("/v1/probe", post(probe)).route("/v1/connectors/validate", post(validate))
}

/// With nothing remembered: what is asked is what the world says now.
fn fresh(door: &Door, in_force: &InForce) -> Resolver {
    Resolver::new(in_force.dns.clone(), door.reporter.metrics().dns())
}

fn desk<'d>(door: &'d Door, in_force: &'d InForce, rules: &'d Rules) -> Desk<'d> {
    Desk {
        settings: &in_force.onboarding,
        directory: &door.directory,
        rules,
        own: OwnCertificates { region: rules.node_region, records: &in_force.certificates },
        now: door.clock.now(),
    }
}

async fn plan(State(door): State<Arc<Door>>, Path(domain): Path<String>) -> Response {
    let Some(_place) = door.outside.place() else { return full() };
    let (in_force, rules) = (door.outside.in_force.load_full(), door.inquiry.rules());
    let (desk, resolver) = (desk(&door, &in_force, &rules), fresh(&door, &in_force));
    match tokio::time::timeout(LOOK_PATIENCE, desk.plan(&domain, &resolver)).await {
        Ok(Ok(plan)) => Json(plan).into_response(),
        Ok(Err(why)) => unanswered(&why),
        Err(_) => too_slow(),
    }
}

async fn check(State(door): State<Arc<Door>>, Path(domain): Path<String>) -> Response {
    let Some(_place) = door.outside.place() else { return full() };
    let (in_force, rules) = (door.outside.in_force.load_full(), door.inquiry.rules());
    let (desk, resolver) = (desk(&door, &in_force, &rules), fresh(&door, &in_force));
    match tokio::time::timeout(LOOK_PATIENCE, desk.check(&domain, &resolver)).await {
        Ok(Ok(checked)) => Json(checked).into_response(),
        Ok(Err(why)) => unanswered(&why),
        Err(_) => too_slow(),
    }
}

/// As JSON, or as the zone file itself for whoever asks for `text/plain`.
async fn zone(State(door): State<Arc<Door>>, headers: HeaderMap) -> Response {
    let working = tokio::task::spawn_blocking(move || {
        let (in_force, rules) = (door.outside.in_force.load_full(), door.inquiry.rules());
        desk(&door, &in_force, &rules).zone()
    });
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    match working.await.expect("writing a zone does not panic") {
        Ok(zone) if accepted.starts_with("text/plain") => zone.text.into_response(),
        Ok(zone) => Json(zone).into_response(),
        Err(why) => unanswered(&why),
    }
}

async fn config(State(door): State<Arc<Door>>) -> Json<serde_json::Value> {
    Json(door.outside.in_force.load().shown.clone())
}

fn unanswered(why: &Unanswered) -> Response {
    let status = match why {
        Unanswered::Mistake(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Unanswered::Absent(_) => StatusCode::NOT_FOUND,
        Unanswered::NoTarget(_) => StatusCode::CONFLICT,
        Unanswered::Directory => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{why}\n")).into_response()
}

fn full() -> Response {
    let why = format!("{LOOKS_LIMIT} questions to the outside are under way: ask again later\n");
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

fn too_slow() -> Response {
    let why = format!("no answer within {} s\n", LOOK_PATIENCE.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// Of one step of a probe, unless told and at most.
const STEP_PATIENCE: u64 = 30;
const STEP_PATIENCE_LIMIT: u64 = 60;

async fn probe(State(door): State<Arc<Door>>, Who(by): Who, Json(question): Json<Question>) -> Response {
    let patience = question.timeout_s.unwrap_or(STEP_PATIENCE);
    if !(1..=STEP_PATIENCE_LIMIT).contains(&patience) {
        return mistake(&format!("timeout_s: expected 1 to {STEP_PATIENCE_LIMIT}"));
    }
    let trial = match Trial::new(&question, Duration::from_secs(patience)) {
        Ok(trial) => trial,
        Err(why) => return mistake(&why),
    };
    let Some(_place) = door.outside.place() else { return full() };
    let in_force = door.outside.in_force.load_full();
    // As anybody calls, without our certificate.
    let tls = match ClientTls::new(Roots::system(), None) {
        Ok(tls) => tls,
        Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, format!("TLS: {error}\n")).into_response(),
    };
    let what = if question.send { "a message" } else { "no message" };
    let detail = format!("{} for {}, {what}", question.target, question.to);
    if let Err(refusal) = note_down(&door, &by, "probe", Some(&detail)).await {
        return refusal;
    }
    let (services, resolver) = (&in_force.services, fresh(&door, &in_force));
    let means =
        Means { hostname: &services.hostname, dialer: &*services.dialer, resolver: &resolver, tls: &tls };
    let mut steps = Vec::new();
    let running = async { Box::pin(trial.run(means, &mut |line| steps.push(line))).await };
    let ok = tokio::time::timeout(LOOK_PATIENCE, running).await;
    let (ok, steps) = ended(ok.ok(), &question.target, steps);
    Json(json!({ "target": question.target, "ok": ok, "steps": steps })).into_response()
}

/// `POST /v1/connectors/validate`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToValidate {
    /// Its name, or the tenant's id, a slash and its name.
    name: String,
    #[serde(default)]
    to: Vec<String>,
}

async fn validate(State(door): State<Arc<Door>>, Who(by): Who, Json(asked): Json<ToValidate>) -> Response {
    let validation = match Validation::new(door.directory.table(), &asked.name, &asked.to) {
        Ok(validation) => validation,
        Err(why) => return mistake(&why),
    };
    let Some(_place) = door.outside.place() else { return full() };
    let name = validation.name();
    let detail = format!("{name}, messages: {}", asked.to.len());
    if let Err(refusal) = note_down(&door, &by, "connector-validate", Some(&detail)).await {
        return refusal;
    }
    let (in_force, rules) = (door.outside.in_force.load_full(), door.inquiry.rules());
    let own = &in_force.services;
    // Of its own, so that no courier takes what goes wrong here for trouble of mail's.
    let services = Arc::new(Services {
        hostname: own.hostname.clone(),
        dialer: own.dialer.clone(),
        resolver: Arc::new(fresh(&door, &in_force)),
        tls: own.tls.clone(),
        patience: own.patience,
        troubled: Troubled::default(),
        internet: None,
        clock: own.clock,
    });
    let mut steps = Vec::new();
    let mut show = |line| steps.push(line);
    let running = Box::pin(validation.run(&services, &rules.hostname, &mut show));
    let ok = tokio::time::timeout(LOOK_PATIENCE, running).await;
    let (ok, steps) = ended(ok.ok(), &name, steps);
    Json(json!({ "connector": name, "ok": ok, "steps": steps })).into_response()
}

/// What was seen before it took too long is told all the same.
fn ended(ok: Option<bool>, of: &str, mut steps: Vec<Line>) -> (bool, Vec<Line>) {
    if ok.is_none() {
        let says = format!("broken off: {} s are over", LOOK_PATIENCE.as_secs());
        let took_ms = u64::try_from(LOOK_PATIENCE.as_millis()).unwrap_or(u64::MAX);
        steps.push(Line { step: "deadline".to_owned(), host: of.to_owned(), ok: false, says, took_ms });
    }
    (ok.unwrap_or(false), steps)
}

fn mistake(why: &str) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response()
}
