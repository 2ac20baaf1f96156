//! Directory: domains, users and connectors as the API and the command line show them.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{Door, note_down, reload_now};
use super::caller::Who;
use super::moving::{Manner, Plan, Refusal, plan_domain, plan_user, whole_user_row};
use crate::decision::{Irr, home_region, in_region_routing};
use crate::directory::Register;
use crate::mail::{
    AcceptedDomain, Address, ConnectorKind, Domain, DomainKind, Lookup, Residency, Tenant, User,
};

pub(super) fn reading() -> Router<Arc<Door>> {
    Router::new()
        .route("/v1/domains", get(domains))
        .route("/v1/domains/{name}", get(domain))
        .route("/v1/users", get(users))
        .route("/v1/users/{address}", get(user))
        .route("/v1/connectors", get(connectors))
        .route("/v1/directory/check", get(check))
        .route("/v1/directory/stats", get(stats))
}

pub(super) fn changing() -> Router<Arc<Door>> {
    Router::new().route("/v1/domains/{name}", post(set_domain)).route("/v1/users/{address}", post(set_user))
}

/// `POST /v1/domains/{name}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainWish {
    /// A region's code, or `none`.
    mail_flow_region: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
}

/// `POST /v1/users/{address}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserWish {
    preferred_data_location: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
}

async fn set_domain(
    State(door): State<Arc<Door>>,
    Path(name): Path<String>,
    Who(by): Who,
    Json(wish): Json<DomainWish>,
) -> Response {
    let DomainWish { mail_flow_region: to, dry_run, force } = wish;
    let _one_at_a_time = door.moving.lock().await;
    let (mut register, window) = match (door.register)().await {
        Ok(opened) => opened,
        Err(why) => return refusal(&Refusal::Failed(why)),
    };
    let when = (door.clock.now(), window);
    match plan_domain(&mut register, &name, &to, Manner { dry_run, force }, when).await {
        Ok(plan) => carry_out(&door, &by, "domain-set", plan, register).await,
        Err(why) => refusal(&why),
    }
}

async fn set_user(
    State(door): State<Arc<Door>>,
    Path(address): Path<String>,
    Who(by): Who,
    Json(wish): Json<UserWish>,
) -> Response {
    let UserWish { preferred_data_location: to, dry_run, force } = wish;
    let _one_at_a_time = door.moving.lock().await;
    let (mut register, _) = match (door.register)().await {
        Ok(opened) => opened,
        Err(why) => return refusal(&Refusal::Failed(why)),
    };
    match plan_user(&mut register, &address, &to, Manner { dry_run, force }).await {
        Ok(plan) => carry_out(&door, &by, "user-set", plan, register).await,
        Err(why) => refusal(&why),
    }
}

/// Written down, done to its end even if whoever asked does not wait, and put in force.
async fn carry_out(
    door: &Arc<Door>,
    by: &str,
    verb: &'static str,
    mut plan: Plan,
    mut register: Register,
) -> Response {
    if !plan.changes() {
        return Json(plan.told).into_response();
    }
    if let Err(refusal) = note_down(door, by, verb, Some(&plan.summary)).await {
        return refusal;
    }
    let door = door.clone();
    let done = tokio::spawn(async move {
        plan.carry_out(&mut register).await?;
        let in_force = if register.needs_reload() {
            match reload_now(&door).await {
                Some(Ok(_)) => "now: the running daemon has reloaded".to_owned(),
                Some(Err(mistakes)) => format!("not yet: the running daemon did not reload: {mistakes}"),
                None => "from the next start: the daemon is stopping".to_owned(),
            }
        } else {
            "within 2 s at every node".to_owned()
        };
        plan.told["in_force"] = in_force.into();
        Ok(plan.told)
    });
    match done.await {
        Ok(Ok(told)) => Json(told).into_response(),
        Ok(Err(why)) => refusal(&why),
        Err(error) => refusal(&Refusal::Failed(error.to_string())),
    }
}

fn refusal(refusal: &Refusal) -> Response {
    let (status, why) = match refusal {
        Refusal::Mistake(why) => (StatusCode::UNPROCESSABLE_ENTITY, why.clone()),
        Refusal::Absent(why) => (StatusCode::NOT_FOUND, why.clone()),
        Refusal::Objection(why) => (StatusCode::CONFLICT, format!("{why}; \"force\": true insists")),
        Refusal::Failed(why) => (StatusCode::SERVICE_UNAVAILABLE, why.clone()),
    };
    (status, format!("{why}\n")).into_response()
}

/// `GET /v1/users`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersAsked {
    domain: Option<String>,
    limit: Option<usize>,
}

/// Rows unless told, and at most.
const USERS: usize = 1_000;
const USERS_LIMIT: usize = 100_000;

async fn users(State(door): State<Arc<Door>>, Query(asked): Query<UsersAsked>) -> Response {
    let (mut register, _) = match (door.register)().await {
        Ok(opened) => opened,
        Err(why) => return refusal(&Refusal::Failed(why)),
    };
    let of = match &asked.domain {
        None => None,
        Some(name) => match Domain::parse(name).ok().filter(|name| register.domain(name).is_some()) {
            Some(name) => Some(name),
            None => return absent(name),
        },
    };
    let limit = asked.limit.unwrap_or(USERS).min(USERS_LIMIT);
    let table = register.table().clone();
    let mut rows = Vec::new();
    let listed = register.each_user(of.as_ref(), |user, aliases| {
        if rows.len() >= limit {
            return ControlFlow::Break(());
        }
        let domain = table.domain(user.primary.domain());
        rows.push(whole_user_row(domain.map(|domain| &**domain), &user, &aliases));
        ControlFlow::Continue(())
    });
    match listed.await {
        Ok(()) => Json(rows).into_response(),
        Err(trouble) => refusal(&trouble.into()),
    }
}

async fn domains(State(door): State<Arc<Door>>) -> Json<Vec<Value>> {
    let table = door.directory.table();
    let mut domains: Vec<_> = table.domains().collect();
    domains.sort_by(|one, two| one.name.cmp(&two.name));
    Json(domains.into_iter().map(|domain| domain_row(domain)).collect())
}

fn absent(what: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("{what} is not in the directory\n")).into_response()
}

fn unknown() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the directory does not answer\n").into_response()
}

async fn domain(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Response {
    let Ok(domain) = Domain::parse(&name) else { return absent(&name) };
    match door.directory.domain(&domain).await {
        Lookup::Found(domain) => Json(domain_row(&domain)).into_response(),
        Lookup::Absent => absent(&name),
        Lookup::Failed => unknown(),
    }
}

async fn user(State(door): State<Arc<Door>>, Path(text): Path<String>) -> Response {
    let Ok(address) = Address::parse(&text) else { return absent(&text) };
    let domain = match door.directory.domain(address.domain()).await {
        Lookup::Found(domain) => domain,
        Lookup::Absent => return absent(&text),
        Lookup::Failed => return unknown(),
    };
    let user = match Box::pin(door.directory.user(&domain, &address)).await {
        Lookup::Found(user) => user,
        Lookup::Absent => return absent(&text),
        Lookup::Failed => return unknown(),
    };
    // Its primary address may be in another domain: that one's region counts (rule 13).
    let home = match door.directory.domain(user.primary.domain()).await {
        Lookup::Found(domain) => Some(domain),
        Lookup::Absent => None,
        Lookup::Failed => return unknown(),
    };
    Json(user_row(home.as_deref(), &user)).into_response()
}

async fn connectors(State(door): State<Arc<Door>>) -> Json<Vec<ConnectorRow>> {
    let table = door.directory.table();
    Json(connector_rows(table.tenants()))
}

/// What is in memory: users of a directory service are checked by the command line alone.
async fn check(State(door): State<Arc<Door>>) -> Json<Value> {
    let directory = door.directory.clone();
    let regions = door.regions.clone();
    let checking = tokio::task::spawn_blocking(move || directory.check(&regions));
    let findings = checking.await.expect("a check does not panic");
    let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
    Json(json!({ "findings": findings, "users_checked": door.directory.has_all_users() }))
}

async fn stats(State(door): State<Arc<Door>>) -> Json<Value> {
    let table = door.directory.table();
    let mut stats = json!({ "tenants": table.tenants().count(), "domains": table.domain_count() });
    for (name, _, count) in door.directory.figures() {
        if name == "directory_users" {
            stats["users"] = count.into();
        }
    }
    Json(stats)
}

/// One accepted domain.
pub fn domain_row(domain: &AcceptedDomain) -> Value {
    json!({
        "domain": domain.name,
        "tenant": &*domain.tenant.id,
        "type": match domain.kind {
            DomainKind::Authoritative => "authoritative",
            DomainKind::InternalRelay => "internal-relay",
        },
        "match_subdomains": domain.match_subdomains,
        "mail_flow_region": domain.mail_flow_region,
        "previous_mail_flow_region": domain.previous_mail_flow_region,
        "changed_at": domain.mail_flow_region_changed_at.map(|at| at.to_string()),
        "ingress": domain.ingress_region(),
        "in_region_routing": domain.tenant.routes_in_region(),
        "residency": if domain.tenant.residency == Residency::Strict { "strict" } else { "documented" },
        "sending_to_disabled": domain.sending_to_disabled,
    })
}

/// One user, in the domain of its primary address.
pub(super) fn user_row(domain: Option<&AcceptedDomain>, user: &User) -> Value {
    let licenses = [("multi-geo", user.licenses.multi_geo), ("mail", user.licenses.mail)];
    let held: Vec<_> = licenses.iter().filter(|(_, held)| *held).map(|(name, _)| *name).collect();
    json!({
        "address": user.primary,
        "tenant": domain.map(|domain| domain.tenant.id.to_string()),
        "preferred_data_location": user.preferred_data_location,
        "licenses": held,
        "home": domain.map(|domain| home_region(&domain.tenant, user)),
        "ingress": domain.map(AcceptedDomain::ingress_region),
        "in_region_routing": domain.map(|domain| irr(domain, user).word()),
    })
}

/// Whether in-region routing applies to the user, or why it does not (spec, section 0).
pub(super) fn irr(domain: &AcceptedDomain, user: &User) -> Irr {
    let home = home_region(&domain.tenant, user);
    in_region_routing(domain, domain.ingress_region(), user, home)
}

#[derive(Debug, Serialize)]
pub struct ConnectorRow {
    pub tenant: String,
    pub name: String,
    pub direction: &'static str,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// By what it matches.
    pub matches: Vec<String>,
    /// Where it leads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub smart_hosts: Vec<String>,
}

pub fn connector_rows<'t>(tenants: impl Iterator<Item = &'t Arc<Tenant>>) -> Vec<ConnectorRow> {
    let mut rows = Vec::new();
    for tenant in tenants {
        for connector in &tenant.inbound_connectors {
            let names = connector.certificate_names.iter().map(ToString::to_string);
            let networks = connector.source_ips.iter().map(ToString::to_string);
            rows.push(ConnectorRow {
                tenant: tenant.id.to_string(),
                name: connector.name.to_string(),
                direction: "inbound",
                kind: kind(connector.kind),
                matches: names.chain(networks).collect(),
                smart_hosts: Vec::new(),
            });
        }
        for connector in &tenant.outbound_connectors {
            let all = connector.all_accepted_domains.then(|| "all accepted domains".to_owned());
            let domains = connector.recipient_domains.iter().map(ToString::to_string);
            rows.push(ConnectorRow {
                tenant: tenant.id.to_string(),
                name: connector.name.to_string(),
                direction: "outbound",
                kind: kind(connector.kind),
                matches: domains.chain(all).collect(),
                smart_hosts: connector.smart_hosts.iter().map(ToString::to_string).collect(),
            });
        }
    }
    rows
}

fn kind(kind: ConnectorKind) -> &'static str {
    match kind {
        ConnectorKind::OnPremises => "on-premises",
        ConnectorKind::Partner => "partner",
    }
}
