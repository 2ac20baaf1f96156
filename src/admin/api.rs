//! Api: all routes, on the socket and behind the `guard` on the address, and the answers that are no other
//! file's: metrics, trace, audit, explain, and what is asked of the daemon as a whole.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot, watch};

use super::audit::{Audit, Entry};
use super::caller::{Caller, Who};
use super::directory;
use super::guard::{self, Guard, Token};
use super::history::{Course, History};
use super::https::Https;
use super::outside::{self, Outside};
use super::page;
use super::queue;
use super::status;
use crate::clock::{Clock, Timestamp};
use crate::directory::{Directory, Register};
use crate::explain;
use crate::inquiry::Inquiry;
use crate::limits::Limits;
use crate::mail::{Domain, Regions};
use crate::net::ServerTls;
use crate::queue::Queue;
use crate::report::{self, Gauges, Reporter};
use crate::smtp::reply::Texts;
use crate::spool::{Pressure, Spool};
use crate::{audit, trace};

/// What the operator asks of the daemon as a whole.
#[derive(Debug)]
pub enum Command {
    /// Answered with the warnings, or with every mistake.
    Reload(oneshot::Sender<Result<Vec<String>, String>>),
    Drain {
        within: Option<Duration>,
    },
    /// Become the program that lies in this one's place now; answered before the sessions are ended.
    Upgrade(oneshot::Sender<Result<(), String>>),
}

/// Opens the directory for a change, as it is now, with the propagation window in force.
pub type OpenRegister =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(Register, Duration), String>> + Send>> + Send + Sync>;

/// What the API looks at.
pub struct Door {
    pub queue: Queue,
    pub spool: Spool,
    pub directory: Directory,
    pub register: OpenRegister,
    /// One change of the directory after the other.
    pub moving: tokio::sync::Mutex<()>,
    pub limits: Arc<Limits>,
    pub reporter: Reporter,
    pub commands: mpsc::Sender<Command>,
    pub draining: watch::Receiver<bool>,
    /// Why no mail is taken, while the disk, the memory or the queue has no room for it.
    pub shortage: watch::Receiver<Option<String>>,
    pub region: String,
    pub hostname: String,
    pub history: Arc<History>,
    pub audit: Audit,
    pub clock: Clock,
    /// The trace and the audit are below it.
    pub state_dir: PathBuf,
    pub inquiry: Arc<Inquiry>,
    pub texts: Arc<ArcSwap<Texts>>,
    pub outside: Outside,
    /// Of the configuration at the start.
    pub regions: Regions,
    pub started_at: Timestamp,
}

impl Door {
    /// What would become of mail now, when that is not its acceptance.
    pub(super) fn why_not_ready(&self) -> Option<String> {
        if *self.draining.borrow() {
            return Some("draining: no new sessions are taken".to_owned());
        }
        if let Some(why) = &*self.shortage.borrow() {
            return Some(format!("no mail is taken: {why}"));
        }
        (!self.directory.knows_users()).then(|| TOO_OLD.to_owned())
    }
}

/// What the directory is when it knows too little to answer from.
const TOO_OLD: &str = "no mail is taken: the directory service has not answered, or not for too long";

/// Where the API is to be had beside the socket.
pub struct Address {
    pub address: SocketAddr,
    /// Without one nothing can be changed there.
    pub token: Option<Token>,
    pub tls: Option<Arc<ServerTls>>,
}

/// Opens the doors and serves in the background, until the daemon ends.
pub async fn serve(door: Arc<Door>, socket: &Path, address: Option<Address>) -> std::io::Result<()> {
    // A socket left by a daemon that died is in the way of nobody: the spool's lock proves we are alone.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let everything = reading()
        .merge(directory::reading())
        .merge(outside::reading())
        .merge(changing())
        .merge(directory::changing())
        .merge(outside::changing())
        .merge(queue::reading())
        .merge(queue::changing())
        .with_state(door.clone());
    if let Some(Address { address, token, tls }) = address {
        let listener = TcpListener::bind(address).await?;
        let guard = Arc::new(Guard::new(token, address, &door.hostname));
        let guarded = everything.clone().layer(from_fn_with_state(guard, guard::check));
        let known = guarded.into_make_service_with_connect_info::<Caller>();
        match tls {
            Some(tls) => {
                let https = Https::new(listener, tls)?;
                tokio::spawn(async move { axum::serve(https, known).await });
            }
            None => {
                tokio::spawn(async move { axum::serve(listener, known).await });
            }
        }
    }
    // Who asks over the socket is known by its user, for the audit.
    let known = everything.into_make_service_with_connect_info::<Caller>();
    tokio::spawn(async move { axum::serve(listener, known).await });
    Ok(())
}

fn reading() -> Router<Arc<Door>> {
    Router::new()
        .route("/", get(page::show))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/openapi.json", get(openapi))
        .route("/v1/status", get(status::status))
        .route("/v1/history", get(history))
        .route("/v1/explain", get(explain_recipient))
        .route("/v1/trace", get(search_trace))
        .route("/v1/trace/{id}", get(trace_story))
        .route("/v1/report/residency", get(residency))
        .route("/v1/report/verify", get(verify))
}

fn changing() -> Router<Arc<Door>> {
    Router::new()
        .route("/v1/reload", post(reload))
        .route("/v1/drain", post(drain))
        .route("/v1/upgrade", post(upgrade))
}

/// What this API is, for whoever makes a client of it; a test holds it to the routes.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checked {
    head: Option<String>,
}

async fn verify(State(door): State<Arc<Door>>, Query(checked): Query<Checked>) -> Response {
    if let Some(head) = checked.head.as_deref().filter(|head| !audit::is_head(head)) {
        let why = format!("head: '{head}' is none; expected 8 to 64 hexadecimal digits");
        return (StatusCode::UNPROCESSABLE_ENTITY, why).into_response();
    }
    let verifying = tokio::task::spawn_blocking(move || {
        let head = checked.head.map(|head| head.to_ascii_lowercase());
        audit::verify(&door.state_dir.join("audit"), head.as_deref())
    });
    match verifying.await.expect("verifying does not panic") {
        Ok(verdict) => Json(verdict).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(door): State<Arc<Door>>) -> Response {
    match door.why_not_ready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// In the form that is asked for: OpenMetrics, or the older text form.
async fn metrics(State(door): State<Arc<Door>>, headers: HeaderMap) -> Response {
    let spool = door.spool.state();
    let lanes = door.queue.lanes();
    let down = lanes.iter().filter(|lane| lane.state == "down").count();
    let received = lanes.iter().filter_map(|lane| Timestamp::parse(lane.oldest.as_deref()?));
    let oldest = received.min().map_or(0, |received| door.clock.now().since(received).as_secs());
    let pressure = match spool.pressure {
        Pressure::Free => 0,
        Pressure::Full => 1,
        Pressure::Failed => 2,
    };
    let mut gauges = Gauges(vec![
        ("queue_oldest_seconds", "Since the oldest message that waits was received", oldest),
        ("spool_pressure", "Whether the spool takes mail: 0 yes, 1 it is full, 2 it has failed", pressure),
        (
            "queue_messages",
            "Messages waiting or under way, counted once per next hop",
            door.queue.len() as u64,
        ),
        ("destinations_down", "Next hops that are down now", down as u64),
        ("spool_messages", "Messages in the spool", spool.live_messages),
        ("spool_live_bytes", "Octets of the messages in the spool", spool.live_bytes),
        ("spool_disk_bytes", "Octets that the spool takes on the disk", spool.bytes_on_disk),
        ("spool_segments", "Segments of the spool", spool.segments),
        ("spool_syncs", "Times that the spool was synced since the start", spool.syncs),
        ("spool_commits", "Group commits since the start", spool.commits),
        ("spool_written_bytes", "Octets written to the spool since the start", spool.bytes_written),
        ("spool_memory_bytes", "Octets of bodies in memory", spool.memory_bytes),
        ("spool_refused_drafts", "Messages that could not be stored", spool.refused_drafts),
        ("spool_quarantined", "Messages set aside", spool.quarantined),
        ("outside_looks", "Questions to the outside under way for the API", door.outside.under_way() as u64),
        (
            "limit_evictions",
            "Addresses, recipients and tenants that were forgotten although they counted (limits.counters)",
            door.limits.evictions(),
        ),
    ]);
    gauges.0.extend(door.directory.figures());
    if let Some(tracer) = door.reporter.tracer() {
        let trace = tracer.report();
        gauges.0.extend([
            ("trace_records", "Events noted for the trace since the start", trace.noted),
            ("trace_rows", "Rows that the trace has taken in since the start", trace.rows),
            ("trace_lost", "Events that found no room in the trace", trace.lost),
            ("trace_suppressed", "Refusals above trace.refusals_per_second", trace.suppressed),
            ("trace_lag_bytes", "Octets that are noted and not yet found by queries", trace.lag_bytes),
            ("trace_bytes", "Octets that the trace takes on the disk", trace.bytes),
            ("trace_segments", "Files of the trace", trace.segments),
            ("trace_errors", "Times that the trace or the audit could not be written", trace.errors),
            ("audit_records", "Records in the audit's chain", trace.audit_records),
            ("audit_bytes", "Octets that the audit takes on the disk", trace.audit_bytes),
            ("audit_head", "The first 48 bits of the hash of the audit's last record", trace.head),
        ]);
    }
    let page = door.reporter.metrics().render(&gauges);
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accepted.contains("application/openmetrics-text") {
        return ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], page)
            .into_response();
    }
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], report::classic(&page)).into_response()
}

/// What was noted before the question was asked is waited for so long.
const TRACE_PATIENCE: Duration = Duration::from_millis(500);

async fn search_trace(State(door): State<Arc<Door>>, Query(question): Query<trace::Question>) -> Response {
    look_up(door, move |dir, now| trace::search(dir, &question, now)).await
}

async fn trace_story(State(door): State<Arc<Door>>, UrlPath(id): UrlPath<String>) -> Response {
    look_up(door, move |dir, _| trace::story(dir, &id)).await
}

async fn look_up(
    door: Arc<Door>,
    ask: impl FnOnce(&Path, Timestamp) -> Result<Vec<trace::Row>, trace::Error> + Send + 'static,
) -> Response {
    let asked = tokio::task::spawn_blocking(move || {
        if let Some(tracer) = door.reporter.tracer() {
            tracer.catch_up(TRACE_PATIENCE);
        }
        ask(&door.state_dir.join("trace"), door.clock.now())
    });
    match asked.await.expect("a question to the trace does not panic") {
        Ok(rows) => Json(rows).into_response(),
        Err(error @ trace::Error::Question(_)) => {
            (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response()
        }
        Err(error @ (trace::Error::Io(_) | trace::Error::Sql(_))) => {
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResidencyAsked {
    domain: Option<Domain>,
    since: Option<String>,
}

async fn residency(State(door): State<Arc<Door>>, Query(asked): Query<ResidencyAsked>) -> Response {
    let since = asked.since.as_deref().map(|text| trace::moment("since", text, door.clock.now()));
    let since = match since.transpose() {
        Ok(since) => since.map(Timestamp::millis),
        Err(why) => return (StatusCode::UNPROCESSABLE_ENTITY, why).into_response(),
    };
    let asked = audit::Asked { domain: asked.domain, since };
    let counted = tokio::task::spawn_blocking(move || audit::report(&door.state_dir.join("audit"), &asked));
    match counted.await.expect("counting does not panic") {
        Ok(report) => Json(report).into_response(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            (StatusCode::NOT_FOUND, error.to_string()).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn explain_recipient(
    State(door): State<Arc<Door>>,
    Query(question): Query<explain::Question>,
) -> Response {
    let texts = door.texts.load_full();
    let mut rules = door.inquiry.rules();
    if let Some(code) = question.region.as_deref().filter(|code| !code.is_empty()) {
        let Some(region) = door.regions.find(code) else {
            let why = format!("region: '{code}' is not a region code");
            return (StatusCode::UNPROCESSABLE_ENTITY, why).into_response();
        };
        rules = Arc::new((door.outside.in_force.load().seen_from)(region));
    }
    match explain::explain(&door.inquiry, &rules, &texts, &question).await {
        Ok(explanation) => Json(explanation).into_response(),
        Err(problems) => (StatusCode::UNPROCESSABLE_ENTITY, problems.join("\n")).into_response(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Span {
    minutes: Option<usize>,
}

/// An hour unless asked for more.
async fn history(State(door): State<Arc<Door>>, Query(span): Query<Span>) -> Json<Course> {
    Json(door.history.course(span.minutes.unwrap_or(60)))
}

/// What cannot be written down is not done.
pub(super) async fn note_down(
    door: &Door,
    by: &str,
    verb: &str,
    detail: Option<&str>,
) -> Result<(), Response> {
    let entry = Entry { at: door.clock.now().to_string(), by, verb, detail, met: None };
    door.audit.write(&entry).await.map_err(|error| {
        let why = format!("nothing was changed: the audit could not be written: {error}\n");
        (StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
    })
}

fn stopping() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping\n").into_response()
}

/// The number of warnings, or every mistake; `None` when the daemon is stopping.
pub(super) async fn reload_now(door: &Door) -> Option<Result<Vec<String>, String>> {
    let (answer, reloaded) = oneshot::channel();
    door.commands.send(Command::Reload(answer)).await.ok()?;
    reloaded.await.ok()
}

async fn reload(State(door): State<Arc<Door>>, Who(by): Who) -> Response {
    if let Err(refusal) = note_down(&door, &by, "reload", None).await {
        return refusal;
    }
    match reload_now(&door).await {
        Some(Ok(warned)) => {
            Json(serde_json::json!({ "reloaded": true, "warnings": warned.len(), "warned": warned }))
                .into_response()
        }
        Some(Err(mistakes)) => (StatusCode::UNPROCESSABLE_ENTITY, mistakes).into_response(),
        None => stopping(),
    }
}

async fn upgrade(State(door): State<Arc<Door>>, Who(by): Who) -> Response {
    if let Err(refusal) = note_down(&door, &by, "upgrade", None).await {
        return refusal;
    }
    let (answer, checked) = oneshot::channel();
    if door.commands.send(Command::Upgrade(answer)).await.is_err() {
        return stopping();
    }
    match checked.await {
        Ok(Ok(())) => (StatusCode::ACCEPTED, Json(serde_json::json!({ "upgrading": true }))).into_response(),
        Ok(Err(why)) => (StatusCode::UNPROCESSABLE_ENTITY, why).into_response(),
        Err(_) => stopping(),
    }
}

#[derive(Debug, Default, Deserialize)]
struct Within {
    timeout_s: Option<u64>,
}

async fn drain(State(door): State<Arc<Door>>, Who(by): Who, Query(within): Query<Within>) -> Response {
    let within = within.timeout_s.map(Duration::from_secs);
    let detail = within.map(|within| format!("within {} s", within.as_secs()));
    // Whoever stops a node whose disk is full must be able to.
    let _ = note_down(&door, &by, "drain", detail.as_deref()).await;
    match door.commands.send(Command::Drain { within }).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(_) => stopping(),
    }
}
