//! Directory: domains, users and connectors as the API and the command line show them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};

use super::api::Door;
use crate::decision::{home_region, in_region_routing};
use crate::mail::{
    AcceptedDomain, Address, ConnectorKind, Domain, DomainKind, Lookup, Residency, Tenant, User,
};

pub(super) fn reading() -> Router<Arc<Door>> {
    Router::new()
        .route("/v1/domains", get(domains))
        .route("/v1/domains/{name}", get(domain))
        .route("/v1/users/{address}", get(user))
        .route("/v1/connectors", get(connectors))
        .route("/v1/directory/check", get(check))
        .route("/v1/directory/stats", get(stats))
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
pub fn user_row(domain: Option<&AcceptedDomain>, user: &User) -> Value {
    let licenses = [("multi-geo", user.licenses.multi_geo), ("mail", user.licenses.mail)];
    let held: Vec<_> = licenses.iter().filter(|(_, held)| *held).map(|(name, _)| *name).collect();
    json!({
        "address": user.primary,
        "tenant": domain.map(|domain| domain.tenant.id.to_string()),
        "preferred_data_location": user.preferred_data_location,
        "licenses": held,
        "home": domain.map(|domain| home_region(&domain.tenant, user)),
        "ingress": domain.map(AcceptedDomain::ingress_region),
        "in_region_routing": domain.map(|domain| routing(domain, user)),
    })
}

/// Whether in-region routing applies to the user, or why it does not (spec, section 0).
pub fn routing(domain: &AcceptedDomain, user: &User) -> &'static str {
    let home = home_region(&domain.tenant, user);
    in_region_routing(domain, domain.ingress_region(), user, home).word()
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
