//! Outside: what the world says of us and of others, asked from here at an operator's wish.
//!
//! The commands `landfall dns` ask the same of the rooms below. Whoever asks waits; how many may at once is
//! bounded, and so is how long they may.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::api::Door;
use crate::decision::Rules;
use crate::dns::{self, Resolver, Tlsa};
use crate::onboarding::{self, Desk, OwnCertificates, Unanswered};

/// Questions to the outside under way at once.
pub(super) const LOOKS_LIMIT: usize = 4;
/// What one may take; the client waits a little longer.
const LOOK_PATIENCE: Duration = Duration::from_secs(100);

/// What of the configuration these questions need, as it is in force.
pub struct InForce {
    pub onboarding: onboarding::Settings,
    /// Of the certificates that are shown now.
    pub certificates: Vec<Tlsa>,
    pub dns: dns::Settings,
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

    fn place(&self) -> Result<SemaphorePermit<'_>, Response> {
        self.places.try_acquire().map_err(|_| {
            let why = format!("{LOOKS_LIMIT} questions to the outside are under way: ask again later\n");
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        })
    }
}

pub(super) fn reading() -> Router<Arc<Door>> {
    Router::new()
        .route("/v1/dns/plan/{domain}", get(plan))
        .route("/v1/dns/check/{domain}", get(check))
        .route("/v1/dns/zone", get(zone))
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
    let _place = match door.outside.place() {
        Ok(place) => place,
        Err(full) => return full,
    };
    let (in_force, rules) = (door.outside.in_force.load_full(), door.inquiry.rules());
    let (desk, resolver) = (desk(&door, &in_force, &rules), fresh(&door, &in_force));
    match tokio::time::timeout(LOOK_PATIENCE, desk.plan(&domain, &resolver)).await {
        Ok(Ok(plan)) => Json(plan).into_response(),
        Ok(Err(why)) => unanswered(&why),
        Err(_) => too_slow(),
    }
}

async fn check(State(door): State<Arc<Door>>, Path(domain): Path<String>) -> Response {
    let _place = match door.outside.place() {
        Ok(place) => place,
        Err(full) => return full,
    };
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

fn unanswered(why: &Unanswered) -> Response {
    let status = match why {
        Unanswered::Mistake(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Unanswered::Absent(_) => StatusCode::NOT_FOUND,
        Unanswered::NoTarget(_) => StatusCode::CONFLICT,
        Unanswered::Directory => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{why}\n")).into_response()
}

fn too_slow() -> Response {
    let why = format!("no answer within {} s\n", LOOK_PATIENCE.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}
