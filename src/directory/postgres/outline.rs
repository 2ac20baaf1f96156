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
    // Rows as documents: a schema that `migrate` has not brought up to date yet is read as well.
    let rows = Rows {
        regions: query("SELECT code FROM landfall.region ORDER BY code").await?,
        tenants: query("SELECT id, to_jsonb(t) FROM landfall.tenant t ORDER BY place, id").await?,
        allowed: query("SELECT tenant, region FROM landfall.tenant_region ORDER BY tenant, place").await?,
        domains: query(
            "SELECT tenant, to_jsonb(d), (extract(epoch FROM mail_flow_region_changed_at) * 1000)::bigint AS changed_at
             FROM landfall.domain d ORDER BY tenant, name",
        )
        .await?,
        networks: query(
            "SELECT tenant, connector, network::text FROM landfall.inbound_network
             ORDER BY tenant, connector, place",
        )
        .await?,
        inbound: query(
            "SELECT tenant, to_jsonb(c), name FROM landfall.inbound_connector c ORDER BY tenant, place, name",
        )
        .await?,
        outbound: query(
            "SELECT tenant, to_jsonb(c) FROM landfall.outbound_connector c ORDER BY tenant, place, name",
        )
        .await?,
    };
    transaction.commit().await.map_err(trouble)?;
    // 100,000 tenants keep a thread busy for longer than a session may wait.
    let put_together = tokio::task::spawn_blocking(move || rows.outline());
    put_together.await.unwrap_or_else(|error| Err(Trouble::Refused(error.to_string())))
}

struct Rows {
    regions: Vec<Row>,
    tenants: Vec<Row>,
    allowed: Vec<Row>,
    domains: Vec<Row>,
    networks: Vec<Row>,
    inbound: Vec<Row>,
    outbound: Vec<Row>,
}

impl Rows {
    fn outline(&self) -> Result<Outline, Trouble> {
        let regions = self.regions.iter().filter_map(|row| Region::parse(row.get(0))).collect();
        let mut tenants = Tenants::default();
        for row in &self.tenants {
            tenants.add(row);
        }
        for row in &self.allowed {
            tenants.of(row).push("allowed_regions", Value::String(row.get("region")));
        }
        for row in &self.domains {
            let mut table = keys(row);
            if let Some(millis) = row.get("changed_at") {
                let moment = Timestamp::from_millis(millis).to_string();
                table.insert("mail_flow_region_changed_at".to_owned(), Value::String(moment));
            }
            tenants.of(row).push("domain", Value::Table(table));
        }
        let mut networks: HashMap<(String, String), Vec<Value>> = HashMap::new();
        for row in &self.networks {
            networks.entry((row.get(0), row.get(1))).or_default().push(Value::String(row.get(2)));
        }
        for row in &self.inbound {
            let mut table = keys(row);
            if let Some(networks) = networks.remove(&(row.get("tenant"), row.get("name"))) {
                table.insert("source_ips".to_owned(), Value::Array(networks));
            }
            tenants.of(row).push("inbound_connector", Value::Table(table));
        }
        for row in &self.outbound {
            tenants.of(row).push("outbound_connector", Value::Table(keys(row)));
        }
        Ok(Outline { text: tenants.write()?, regions })
    }
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
        self.places.insert(row.get("id"), self.tables.len());
        self.tables.push(Tree(keys(row)));
    }

    /// The tenant that this row belongs to: a foreign key says that there is one.
    fn of(&mut self, row: &Row) -> &mut Tree {
        let id: &str = row.get("tenant");
        &mut self.tables[self.places[id]]
    }

    /// One after the other: written as one document, 100,000 of them would take minutes.
    fn write(self) -> Result<String, Trouble> {
        let mut text = String::new();
        for Tree(tenant) in self.tables {
            let tenant = Value::Array(vec![Value::Table(tenant)]);
            let file = Table::from_iter([("tenant".to_owned(), tenant)]);
            text += &toml::to_string(&file).map_err(|error| Trouble::Refused(error.to_string()))?;
        }
        Ok(text)
    }
}

/// The columns that are keys of the file form, and those that have no column. What is null or an empty list is
/// left out, as in a file.
fn keys(row: &Row) -> Table {
    let Some(Value::Table(mut columns)) = from_json(row.get("to_jsonb")) else { return Table::new() };
    let mut table = match columns.remove("more") {
        Some(Value::Table(more)) => more,
        Some(_) | None => Table::new(),
    };
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let is_key = |key: &str, value: &Value| key != "place" && key != "tenant" && !is_empty(value);
    table.extend(columns.into_iter().filter(|(key, value)| is_key(key, value)));
    table
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
