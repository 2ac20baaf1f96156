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
    // Rows as documents: a schema that `migrate` has not brought up to date yet is read as well.
    let mut tenants = Tenants::default();
    for row in query("SELECT id, to_jsonb(t) FROM landfall.tenant t ORDER BY place, id").await? {
        tenants.add(&row);
    }
    for row in query("SELECT tenant, region FROM landfall.tenant_region ORDER BY tenant, place").await? {
        tenants.of(&row).push("allowed_regions", Value::String(row.get("region")));
    }
    for row in query(
        "SELECT tenant, to_jsonb(d), (extract(epoch FROM mail_flow_region_changed_at) * 1000)::bigint AS changed_at
         FROM landfall.domain d ORDER BY tenant, name",
    )
    .await?
    {
        let mut table = keys(&row);
        if let Some(millis) = row.get("changed_at") {
            let moment = Timestamp::from_millis(millis).to_string();
            table.insert("mail_flow_region_changed_at".to_owned(), Value::String(moment));
        }
        tenants.of(&row).push("domain", Value::Table(table));
    }
    let mut networks: HashMap<(String, String), Vec<Value>> = HashMap::new();
    for row in query(
        "SELECT tenant, connector, network::text FROM landfall.inbound_network ORDER BY tenant, connector, place",
    )
    .await?
    {
        networks.entry((row.get(0), row.get(1))).or_default().push(Value::String(row.get(2)));
    }
    for row in query(
        "SELECT tenant, to_jsonb(c), name FROM landfall.inbound_connector c ORDER BY tenant, place, name",
    )
    .await?
    {
        let mut table = keys(&row);
        if let Some(networks) = networks.remove(&(row.get("tenant"), row.get("name"))) {
            table.insert("source_ips".to_owned(), Value::Array(networks));
        }
        tenants.of(&row).push("inbound_connector", Value::Table(table));
    }
    for row in
        query("SELECT tenant, to_jsonb(c) FROM landfall.outbound_connector c ORDER BY tenant, place, name")
            .await?
    {
        tenants.of(&row).push("outbound_connector", Value::Table(keys(&row)));
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
        self.places.insert(row.get("id"), self.tables.len());
        self.tables.push(Tree(keys(row)));
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
