//! Outline: tenants, domains and connectors out of the tables, written as the directory file would be.
//!
//! One reader then understands both, and the snapshot on disk is a file that people can read.

use std::collections::HashMap;

use tokio_postgres::{Client, IsolationLevel, Row};
use toml::{Table, Value};

use super::link::trouble;
use crate::clock::Timestamp;
use crate::directory::source::{Outline, Trouble};
use crate::mail::Region;

/// All of it as of one moment.
pub(super) async fn read(client: &mut Client) -> Result<Outline, Trouble> {
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .map_err(trouble)?;
    let query = async |sql: &str| transaction.query(sql, &[]).await.map_err(trouble);
    let regions = query("SELECT code FROM landfall.region ORDER BY code").await?;
    let regions = regions.iter().filter_map(|row| Region::parse(row.get(0))).collect();
    let mut tenants = Tenants::default();
    for row in query("SELECT * FROM landfall.tenant ORDER BY place, id").await? {
        tenants.add(&row);
    }
    for row in query("SELECT * FROM landfall.tenant_region ORDER BY tenant, place").await? {
        tenants.of(&row).push("allowed_regions", text(&row, "region"));
    }
    for row in query(
        "SELECT *, (extract(epoch FROM mail_flow_region_changed_at) * 1000)::bigint AS changed_at
         FROM landfall.domain ORDER BY tenant, name",
    )
    .await?
    {
        tenants.of(&row).push("domain", Value::Table(domain(&row)));
    }
    let mut networks: HashMap<(String, String), Vec<Value>> = HashMap::new();
    for row in query(
        "SELECT tenant, connector, network::text FROM landfall.inbound_network ORDER BY tenant, connector, place",
    )
    .await?
    {
        networks.entry((row.get(0), row.get(1))).or_default().push(Value::String(row.get(2)));
    }
    for row in query("SELECT * FROM landfall.inbound_connector ORDER BY tenant, place, name").await? {
        let networks = networks.remove(&(row.get("tenant"), row.get("name")));
        tenants.of(&row).push("inbound_connector", Value::Table(inbound_connector(&row, networks)));
    }
    for row in query("SELECT * FROM landfall.outbound_connector ORDER BY tenant, place, name").await? {
        tenants.of(&row).push("outbound_connector", Value::Table(outbound_connector(&row)));
    }
    transaction.commit().await.map_err(trouble)?;
    Ok(Outline { text: tenants.write()?, regions })
}

#[derive(Default)]
struct Tenants {
    tables: Vec<Tree>,
    places: HashMap<String, usize>,
}

/// One tenant's part of the file.
#[derive(Default)]
struct Tree(Table);

impl Tree {
    fn push(&mut self, key: &str, value: Value) {
        match self.0.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(items) => items.push(value),
            // A key of `more` that a column has too.
            other => *other = Value::Array(vec![value]),
        }
    }
}

impl Tenants {
    fn add(&mut self, row: &Row) {
        let mut table = more(row);
        table.insert("id".to_owned(), text(row, "id"));
        table.insert("default_region".to_owned(), text(row, "default_region"));
        table.insert("residency".to_owned(), text(row, "residency"));
        for key in [
            "multi_geo",
            "in_region_routing",
            "subscription",
            "accept_ipv6",
            "reject_direct_send",
            "route_all_via_on_premises",
        ] {
            table.insert(key.to_owned(), Value::Boolean(row.get(key)));
        }
        self.places.insert(row.get("id"), self.tables.len());
        self.tables.push(Tree(table));
    }

    /// The tenant that this row belongs to: a foreign key says that there is one.
    fn of(&mut self, row: &Row) -> &mut Tree {
        let id: &str = row.get("tenant");
        &mut self.tables[self.places[id]]
    }

    fn write(self) -> Result<String, Trouble> {
        let tenants = self.tables.into_iter().map(|tree| Value::Table(tree.0)).collect();
        let file = Table::from_iter([("tenant".to_owned(), Value::Array(tenants))]);
        toml::to_string(&file).map_err(|error| Trouble::Refused(error.to_string()))
    }
}

fn domain(row: &Row) -> Table {
    let mut table = more(row);
    table.insert("name".to_owned(), text(row, "name"));
    table.insert("type".to_owned(), text(row, "type"));
    for key in ["match_subdomains", "sending_to_disabled", "accept_ipv6"] {
        if let Some(flag) = row.get(key) {
            table.insert(key.to_owned(), Value::Boolean(flag));
        }
    }
    for key in ["mail_flow_region", "previous_mail_flow_region"] {
        if let Some(code) = row.get(key) {
            table.insert(key.to_owned(), Value::String(code));
        }
    }
    if let Some(millis) = row.get("changed_at") {
        let moment = Timestamp::from_millis(millis).to_string();
        table.insert("mail_flow_region_changed_at".to_owned(), Value::String(moment));
    }
    table
}

fn inbound_connector(row: &Row, networks: Option<Vec<Value>>) -> Table {
    let mut table = more(row);
    table.insert("name".to_owned(), text(row, "name"));
    table.insert("type".to_owned(), text(row, "type"));
    for key in ["require_tls", "restrict_to_ip", "restrict_to_certificate"] {
        table.insert(key.to_owned(), Value::Boolean(row.get(key)));
    }
    texts(row, "certificate_names", &mut table);
    texts(row, "sender_domains", &mut table);
    if let Some(networks) = networks {
        table.insert("source_ips".to_owned(), Value::Array(networks));
    }
    table
}

fn outbound_connector(row: &Row) -> Table {
    let mut table = more(row);
    table.insert("name".to_owned(), text(row, "name"));
    table.insert("tls".to_owned(), text(row, "tls"));
    texts(row, "recipient_domains", &mut table);
    texts(row, "smart_hosts", &mut table);
    table
}

fn text(row: &Row, column: &str) -> Value {
    Value::String(row.get(column))
}

fn texts(row: &Row, column: &str, table: &mut Table) {
    if let Some(list) = row.get::<_, Option<Vec<String>>>(column)
        && !list.is_empty()
    {
        table.insert(column.to_owned(), Value::Array(list.into_iter().map(Value::String).collect()));
    }
}

/// The keys that have no column.
fn more(row: &Row) -> Table {
    match from_json(row.get("more")) {
        Some(Value::Table(table)) => table,
        Some(_) | None => Table::new(),
    }
}

/// TOML has no null: such a key is left out.
fn from_json(value: serde_json::Value) -> Option<Value> {
    Some(match value {
        serde_json::Value::Null => return None,
        serde_json::Value::Bool(flag) => Value::Boolean(flag),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => Value::Integer(whole),
            None => Value::Float(number.as_f64()?),
        },
        serde_json::Value::String(text) => Value::String(text),
        serde_json::Value::Array(items) => Value::Array(items.into_iter().filter_map(from_json).collect()),
        serde_json::Value::Object(fields) => Value::Table(
            fields.into_iter().filter_map(|(key, value)| Some((key, from_json(value)?))).collect(),
        ),
    })
}
