//! Import: a directory file into the tables, in one transaction.
//!
//! Of the tenants that the file names the tables then hold what the file does and nothing else; other tenants
//! stay. A user file alone adds and changes users and takes none away.

use serde_json::{Map, Value, json};
use tokio_postgres::Transaction;
use tokio_postgres::types::ToSql;

use super::desk::Desk;
use super::link::trouble;
use crate::directory::Table;
use crate::directory::source::Trouble;
use crate::document::parse_network;
use crate::mail::{Domain, Regions};

/// Rows of one statement.
const ROWS: usize = 20_000;

/// How much of a kind was added, changed and taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub added: u64,
    pub changed: u64,
    pub removed: u64,
}

/// What an import did, or would have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    pub tenants: Counts,
    pub domains: Counts,
    pub connectors: Counts,
    pub users: Counts,
    pub addresses: Counts,
}

impl Desk {
    /// `text` is the directory file, without its user files; `None` when users alone are imported.
    pub(in crate::directory) async fn import(
        &mut self,
        text: Option<&str>,
        table: &Table,
        regions: &Regions,
        dry_run: bool,
    ) -> Result<Imported, Trouble> {
        let transaction = self.link.client.transaction().await.map_err(trouble)?;
        let mut work = Work { transaction: &transaction, imported: Imported::default() };
        // One change for all: nodes forget what they know once, not a million times.
        work.run("SELECT set_config('landfall.quiet', 'on', true)", &[]).await?;
        work.take_turns().await?;
        work.regions(regions).await?;
        work.users_aside(table).await?;
        let tenants = match text {
            Some(text) => Some(tenants_of(text, table)?),
            None => None,
        };
        work.addresses_away(tenants.as_ref()).await?;
        if let Some(tenants) = &tenants {
            work.outline(tenants).await?;
        }
        work.users().await?;
        work.run("SET CONSTRAINTS ALL IMMEDIATE", &[]).await?;
        work.run(
            "INSERT INTO landfall.change (revision, what) VALUES (landfall.next_revision(), 'everything')",
            &[],
        )
        .await?;
        let imported = work.imported;
        if dry_run {
            transaction.rollback().await.map_err(trouble)?;
        } else {
            transaction.commit().await.map_err(trouble)?;
        }
        Ok(imported)
    }
}

struct Work<'t> {
    transaction: &'t Transaction<'t>,
    imported: Imported,
}

/// The file's tenants with all but their users.
struct Tenants {
    ids: Vec<String>,
    tenants: Value,
    allowed: Value,
    domains: Value,
    inbound: Value,
    networks: Value,
    outbound: Value,
}

impl Work<'_> {
    async fn run(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, Trouble> {
        self.transaction.execute(sql, parameters).await.map_err(trouble)
    }

    /// Two imports at once would each take away what the other adds.
    async fn take_turns(&self) -> Result<(), Trouble> {
        self.run("UPDATE landfall.revision SET number = number", &[]).await.map(drop)
    }

    async fn regions(&self, regions: &Regions) -> Result<(), Trouble> {
        let codes: Vec<String> = regions.iter().map(|region| region.as_str().to_owned()).collect();
        let sql = "INSERT INTO landfall.region (code) SELECT code FROM unnest($1::text[]) AS code
                   WHERE code NOT IN (SELECT code FROM landfall.region)";
        self.run(sql, &[&codes]).await.map(drop)
    }

    /// The file's users beside the tables, to be compared as a whole.
    async fn users_aside(&self, table: &Table) -> Result<(), Trouble> {
        self.transaction
            .batch_execute(
                "CREATE TEMPORARY TABLE incoming_user (
                     address text COLLATE \"C\" PRIMARY KEY, tenant text COLLATE \"C\", written text, location text,
                     multi_geo boolean, mail boolean) ON COMMIT DROP;
                 CREATE TEMPORARY TABLE incoming_address (
                     address text COLLATE \"C\" PRIMARY KEY, owner text COLLATE \"C\", tenant text COLLATE \"C\",
                     domain text COLLATE \"C\") ON COMMIT DROP;",
            )
            .await
            .map_err(trouble)?;
        let (mut users, mut addresses) = (Users::default(), Addresses::default());
        for (user, aliases) in table.users() {
            let Some(domain) = table.domain(user.primary.domain()) else { continue };
            let (key, written) = (user.primary.key(), user.primary.to_string());
            let tenant = domain.tenant.id.to_string();
            for address in std::iter::once(&user.primary).chain(&aliases) {
                let Some(domain) = table.domain(address.domain()) else { continue };
                addresses.address.push(address.key());
                addresses.owner.push(key.clone());
                addresses.tenant.push(tenant.clone());
                addresses.domain.push(domain.name.to_string());
            }
            users.written.push((written != key).then_some(written));
            users.address.push(key);
            users.tenant.push(tenant);
            users.location.push(user.preferred_data_location.map(String::from));
            users.multi_geo.push(user.licenses.multi_geo);
            users.mail.push(user.licenses.mail);
            if users.address.len() >= ROWS {
                self.put_aside(&mut users, &mut addresses).await?;
            }
        }
        self.put_aside(&mut users, &mut addresses).await?;
        self.transaction
            .batch_execute("ANALYZE incoming_user; ANALYZE incoming_address")
            .await
            .map_err(trouble)
    }

    async fn put_aside(&self, users: &mut Users, addresses: &mut Addresses) -> Result<(), Trouble> {
        let Users { address, tenant, written, location, multi_geo, mail } = std::mem::take(users);
        self.run(
            "INSERT INTO incoming_user SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[],
                                                            $5::boolean[], $6::boolean[])",
            &[&address, &tenant, &written, &location, &multi_geo, &mail],
        )
        .await?;
        let Addresses { address, owner, tenant, domain } = std::mem::take(addresses);
        self.run(
            "INSERT INTO incoming_address SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])",
            &[&address, &owner, &tenant, &domain],
        )
        .await
        .map(drop)
    }

    /// Addresses that nobody or another user has now go first, so that they are free.
    async fn addresses_away(&mut self, tenants: Option<&Tenants>) -> Result<(), Trouble> {
        let differs = "NOT EXISTS (SELECT FROM incoming_address i WHERE i.address = a.address
                           AND i.owner = m.address AND i.tenant = a.tenant AND i.domain = a.domain)";
        match tenants {
            Some(tenants) => {
                self.imported.addresses.removed = self
                    .run(
                        &format!(
                            "DELETE FROM landfall.address a USING landfall.mailbox m
                             WHERE m.id = a.mailbox AND a.tenant = ANY ($1) AND {differs}"
                        ),
                        &[&tenants.ids],
                    )
                    .await?;
                self.imported.users.removed = self
                    .run(
                        "DELETE FROM landfall.mailbox m WHERE m.tenant = ANY ($1) AND NOT EXISTS
                             (SELECT FROM incoming_user i WHERE i.address = m.address AND i.tenant = m.tenant)",
                        &[&tenants.ids],
                    )
                    .await?;
            }
            None => {
                self.imported.addresses.removed = self
                    .run(
                        &format!(
                            "DELETE FROM landfall.address a USING landfall.mailbox m, incoming_user u
                             WHERE m.id = a.mailbox AND u.address = m.address AND u.tenant = m.tenant AND {differs}"
                        ),
                        &[],
                    )
                    .await?;
            }
        }
        Ok(())
    }

    async fn users(&mut self) -> Result<(), Trouble> {
        self.imported.users.changed = self
            .run(
                "UPDATE landfall.mailbox m SET written = i.written, preferred_data_location = i.location,
                        licensed_multi_geo = i.multi_geo, licensed_mail = i.mail
                 FROM incoming_user i WHERE i.address = m.address AND i.tenant = m.tenant
                   AND (m.written, m.preferred_data_location, m.licensed_multi_geo, m.licensed_mail)
                       IS DISTINCT FROM (i.written, i.location, i.multi_geo, i.mail)",
                &[],
            )
            .await?;
        self.imported.users.added = self
            .run(
                "INSERT INTO landfall.mailbox
                     (tenant, address, written, preferred_data_location, licensed_multi_geo, licensed_mail)
                 SELECT i.tenant, i.address, i.written, i.location, i.multi_geo, i.mail FROM incoming_user i
                 WHERE NOT EXISTS
                     (SELECT FROM landfall.mailbox m WHERE m.address = i.address AND m.tenant = i.tenant)",
                &[],
            )
            .await?;
        self.imported.addresses.added = self
            .run(
                "INSERT INTO landfall.address (address, mailbox, tenant, domain)
                 SELECT i.address, m.id, i.tenant, i.domain
                 FROM incoming_address i JOIN landfall.mailbox m ON m.address = i.owner AND m.tenant = i.tenant
                 WHERE NOT EXISTS (SELECT FROM landfall.address a WHERE a.address = i.address AND a.mailbox = m.id)",
                &[],
            )
            .await?;
        Ok(())
    }

    async fn outline(&mut self, file: &Tenants) -> Result<(), Trouble> {
        let Tenants { ids, tenants, allowed, domains, inbound, networks, outbound } = file;
        let columns = "default_region, multi_geo, in_region_routing, subscription, residency, accept_ipv6,
                       reject_direct_send, route_all_via_on_premises, messages_per_minute, more";
        let rows = "jsonb_to_recordset($1) AS i (id text, default_region text, multi_geo boolean,
                    in_region_routing boolean, subscription boolean, residency text, accept_ipv6 boolean,
                    reject_direct_send boolean, route_all_via_on_premises boolean, messages_per_minute bigint,
                    more jsonb)";
        self.imported.tenants.changed = self.update("tenant", "i.id = t.id", columns, rows, tenants).await?;
        self.imported.tenants.added =
            self.insert("tenant", "i.id = t.id", &format!("id, {columns}"), rows, tenants).await?;
        // The order of a list says nothing here: the whole list is written anew where it differs.
        let rows = "jsonb_to_recordset($1) AS i (tenant text, region text)";
        self.remove("tenant_region", "i.tenant = t.tenant AND i.region = t.region", rows, allowed, ids)
            .await?;
        self.insert(
            "tenant_region",
            "i.tenant = t.tenant AND i.region = t.region",
            "tenant, region",
            rows,
            allowed,
        )
        .await?;

        let rows = "jsonb_to_recordset($1) AS i (name text, tenant text, type text, match_subdomains boolean,
                    mail_flow_region text, previous_mail_flow_region text, mail_flow_region_changed_at timestamptz,
                    sending_to_disabled boolean, accept_ipv6 boolean, more jsonb)";
        self.imported.domains.removed =
            self.remove("domain", "i.name = t.name AND i.tenant = t.tenant", rows, domains, ids).await?;
        // Rule 21: a region that changes here has changed now, unless the file knows better.
        self.imported.domains.changed = self
            .run(
                &format!(
                    "UPDATE landfall.domain t SET type = i.type, match_subdomains = i.match_subdomains,
                            mail_flow_region = i.mail_flow_region,
                            (previous_mail_flow_region, mail_flow_region_changed_at) = (
                                SELECT CASE WHEN moved THEN t.mail_flow_region ELSE i.previous_mail_flow_region END,
                                       CASE WHEN moved THEN now() ELSE i.mail_flow_region_changed_at END
                                FROM (SELECT i.mail_flow_region IS DISTINCT FROM t.mail_flow_region
                                             AND i.mail_flow_region_changed_at
                                                 IS NOT DISTINCT FROM t.mail_flow_region_changed_at AS moved) AS m),
                            sending_to_disabled = i.sending_to_disabled, accept_ipv6 = i.accept_ipv6, more = i.more
                     FROM {rows} WHERE i.name = t.name AND i.tenant = t.tenant
                       AND (t.type, t.match_subdomains, t.mail_flow_region, t.sending_to_disabled, t.accept_ipv6, t.more)
                           IS DISTINCT FROM
                           (i.type, i.match_subdomains, i.mail_flow_region, i.sending_to_disabled, i.accept_ipv6, i.more)"
                ),
                &[domains],
            )
            .await?;
        self.imported.domains.added = self
            .insert(
                "domain",
                "i.name = t.name AND i.tenant = t.tenant",
                "name, tenant, type, match_subdomains, mail_flow_region, previous_mail_flow_region,
                 mail_flow_region_changed_at, sending_to_disabled, accept_ipv6, more",
                rows,
                domains,
            )
            .await?;

        let same = "i.tenant = t.tenant AND i.name = t.name";
        let columns = "type, certificate_names, sender_domains, require_tls, restrict_to_ip,
                       restrict_to_certificate, trusted_headers, associated_domains, skip_last_ip, skip_ips,
                       users, more";
        let rows = "jsonb_to_recordset($1) AS i (tenant text, name text, type text, certificate_names text[],
                    sender_domains text[], require_tls boolean, restrict_to_ip boolean,
                    restrict_to_certificate boolean, trusted_headers boolean, associated_domains text[],
                    skip_last_ip boolean, skip_ips text[], users text[], more jsonb)";
        let counts = &mut Counts::default();
        counts.removed += self.remove("inbound_connector", same, rows, inbound, ids).await?;
        counts.changed += self.update("inbound_connector", same, columns, rows, inbound).await?;
        counts.added += self
            .insert("inbound_connector", same, &format!("tenant, name, {columns}"), rows, inbound)
            .await?;
        let network = "i.tenant = t.tenant AND i.connector = t.connector AND i.network = t.network";
        let rows = "jsonb_to_recordset($1) AS i (tenant text, connector text, network cidr)";
        self.remove("inbound_network", network, rows, networks, ids).await?;
        self.insert("inbound_network", network, "tenant, connector, network", rows, networks).await?;
        let columns =
            "type, recipient_domains, all_accepted_domains, route_all_via_on_premises, smart_hosts, tls,
                       ca, returns_by, more";
        let rows = "jsonb_to_recordset($1) AS i (tenant text, name text, type text, recipient_domains text[],
                    all_accepted_domains boolean, route_all_via_on_premises boolean, smart_hosts text[], tls text,
                    ca text, returns_by text, more jsonb)";
        counts.removed += self.remove("outbound_connector", same, rows, outbound, ids).await?;
        counts.changed += self.update("outbound_connector", same, columns, rows, outbound).await?;
        counts.added += self
            .insert("outbound_connector", same, &format!("tenant, name, {columns}"), rows, outbound)
            .await?;
        self.imported.connectors = *counts;
        Ok(())
    }

    /// Takes away what these tenants have and the file has not.
    async fn remove(
        &self,
        table: &str,
        same: &str,
        rows: &str,
        given: &Value,
        ids: &[String],
    ) -> Result<u64, Trouble> {
        let sql = format!(
            "DELETE FROM landfall.{table} t WHERE t.tenant = ANY ($2) AND NOT EXISTS (SELECT FROM {rows} WHERE {same})"
        );
        self.run(&sql, &[given, &ids]).await
    }

    async fn update(
        &self,
        table: &str,
        same: &str,
        columns: &str,
        rows: &str,
        given: &Value,
    ) -> Result<u64, Trouble> {
        let of = |row: &str| -> String {
            let columns: Vec<String> =
                columns.split(',').map(|column| format!("{row}.{}", column.trim())).collect();
            columns.join(", ")
        };
        let sql = format!(
            "UPDATE landfall.{table} t SET ({columns}) = ROW ({new}) FROM {rows}
             WHERE {same} AND ({old}) IS DISTINCT FROM ({new})",
            old = of("t"),
            new = of("i"),
        );
        self.run(&sql, &[given]).await
    }

    /// In the order of the file.
    async fn insert(
        &self,
        table: &str,
        same: &str,
        columns: &str,
        rows: &str,
        given: &Value,
    ) -> Result<u64, Trouble> {
        let sql = format!(
            "INSERT INTO landfall.{table} ({columns}) SELECT {columns} FROM {rows}
             WHERE NOT EXISTS (SELECT FROM landfall.{table} t WHERE {same})"
        );
        self.run(&sql, &[given]).await
    }
}

#[derive(Default)]
struct Users {
    address: Vec<String>,
    tenant: Vec<String>,
    written: Vec<Option<String>>,
    location: Vec<Option<String>>,
    multi_geo: Vec<bool>,
    mail: Vec<bool>,
}

#[derive(Default)]
struct Addresses {
    address: Vec<String>,
    owner: Vec<String>,
    tenant: Vec<String>,
    domain: Vec<String>,
}

/// The rows that a directory file stands for. It has been read without a mistake before.
fn tenants_of(text: &str, read: &Table) -> Result<Tenants, Trouble> {
    let file: toml::Table =
        text.parse().map_err(|error: toml::de::Error| Trouble::Refused(error.to_string()))?;
    let (mut ids, mut rows, mut allowed, mut domains) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut inbound, mut networks, mut outbound) = (Vec::new(), Vec::new(), Vec::new());
    for tenant in tables(&file, "tenant") {
        let id = text_of(tenant, "id").unwrap_or_default().to_owned();
        for region in texts(tenant, "allowed_regions") {
            allowed.push(json!({ "tenant": id, "region": region.to_ascii_uppercase() }));
        }
        for domain in tables(tenant, "domain") {
            let mut row = row_of(domain, DOMAIN);
            row.insert("tenant".to_owned(), id.clone().into());
            let name = text_of(domain, "name").and_then(|name| Domain::parse(name).ok());
            row.insert("name".to_owned(), name.map(|name| name.to_string()).into());
            domains.push(Value::Object(row));
        }
        for connector in tables(tenant, "inbound_connector") {
            let mut row = row_of(connector, INBOUND);
            row.insert("tenant".to_owned(), id.clone().into());
            let on_premises = text_of(connector, "type") == Some("on-premises");
            if on_premises && texts(connector, "sender_domains").is_empty() {
                row.insert("sender_domains".to_owned(), Value::Null);
            }
            let mut seen = Vec::new();
            for network in texts(connector, "source_ips").iter().filter_map(|text| parse_network(text)) {
                // Said twice is said once.
                if !seen.contains(&network) {
                    seen.push(network);
                    networks.push(json!({
                        "tenant": id, "connector": row.get("name"), "network": network.to_string(),
                    }));
                }
            }
            inbound.push(Value::Object(row));
        }
        for connector in tables(tenant, "outbound_connector") {
            let mut row = row_of(connector, OUTBOUND);
            row.insert("tenant".to_owned(), id.clone().into());
            // As it was read: the text's is relative to a file that nodes do not have.
            let name = text_of(connector, "name");
            let connectors = read.tenant(&id).into_iter().flat_map(|tenant| &tenant.outbound_connectors);
            let ca = connectors.filter(|one| Some(&*one.name) == name).find_map(|one| one.ca.as_deref());
            row.insert("ca".to_owned(), ca.map(|path| path.display().to_string()).into());
            outbound.push(Value::Object(row));
        }
        rows.push(Value::Object(row_of(tenant, TENANT)));
        ids.push(id);
    }
    Ok(Tenants {
        ids,
        tenants: rows.into(),
        allowed: allowed.into(),
        domains: domains.into(),
        inbound: inbound.into(),
        networks: networks.into(),
        outbound: outbound.into(),
    })
}

/// The keys of a table that have columns, with what holds when they are left out, and keys that have places
/// of their own.
struct Columns {
    with: &'static [(&'static str, Default)],
    elsewhere: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Default {
    Null,
    No,
    Yes,
    Word(&'static str),
    NoTexts,
    /// A region's code, upper case; null when left out.
    Region,
}

const TENANT: &Columns = &Columns {
    with: &[
        ("id", Default::Null),
        ("default_region", Default::Region),
        ("multi_geo", Default::No),
        ("in_region_routing", Default::No),
        ("subscription", Default::Yes),
        ("residency", Default::Word("documented")),
        ("accept_ipv6", Default::No),
        ("reject_direct_send", Default::No),
        ("route_all_via_on_premises", Default::No),
        ("messages_per_minute", Default::Null),
    ],
    elsewhere: &["allowed_regions", "domain", "user", "inbound_connector", "outbound_connector"],
};
const DOMAIN: &Columns = &Columns {
    with: &[
        ("name", Default::Null),
        ("type", Default::Word("authoritative")),
        ("match_subdomains", Default::No),
        ("mail_flow_region", Default::Region),
        ("previous_mail_flow_region", Default::Region),
        ("mail_flow_region_changed_at", Default::Null),
        ("sending_to_disabled", Default::No),
        ("accept_ipv6", Default::Null),
    ],
    elsewhere: &[],
};
const INBOUND: &Columns = &Columns {
    with: &[
        ("name", Default::Null),
        ("type", Default::Null),
        ("certificate_names", Default::NoTexts),
        ("sender_domains", Default::Null),
        ("require_tls", Default::No),
        ("restrict_to_ip", Default::No),
        ("restrict_to_certificate", Default::No),
        ("trusted_headers", Default::No),
        ("associated_domains", Default::NoTexts),
        ("skip_last_ip", Default::No),
        ("skip_ips", Default::NoTexts),
        ("users", Default::NoTexts),
    ],
    elsewhere: &["source_ips"],
};
const OUTBOUND: &Columns = &Columns {
    with: &[
        ("name", Default::Null),
        ("type", Default::Word("on-premises")),
        ("recipient_domains", Default::NoTexts),
        ("all_accepted_domains", Default::No),
        ("route_all_via_on_premises", Default::No),
        ("smart_hosts", Default::NoTexts),
        ("tls", Default::Word("verify")),
        ("ca", Default::Null),
        ("returns_by", Default::Null),
    ],
    elsewhere: &[],
};

/// One row; keys without a column go into `more`.
fn row_of(table: &toml::Table, columns: &Columns) -> Map<String, Value> {
    let mut row = Map::new();
    for (key, default) in columns.with {
        let value = match (table.get(*key), default) {
            (Some(toml::Value::String(code)), Default::Region) => code.to_ascii_uppercase().into(),
            (Some(value), _) => to_json(value),
            (None, Default::Null | Default::Region) => Value::Null,
            (None, Default::No) => false.into(),
            (None, Default::Yes) => true.into(),
            (None, Default::Word(word)) => (*word).into(),
            (None, Default::NoTexts) => Value::Array(Vec::new()),
        };
        row.insert((*key).to_owned(), value);
    }
    let known =
        |key: &str| columns.with.iter().any(|(name, _)| *name == key) || columns.elsewhere.contains(&key);
    let more = table.iter().filter(|(key, _)| !known(key)).map(|(key, value)| (key.clone(), to_json(value)));
    row.insert("more".to_owned(), Value::Object(more.collect()));
    row
}

fn to_json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(moment) => moment.to_string().into(),
        toml::Value::Array(items) => Value::Array(items.iter().map(to_json).collect()),
        toml::Value::Table(table) => {
            Value::Object(table.iter().map(|(key, value)| (key.clone(), to_json(value))).collect())
        }
    }
}

fn tables<'t>(table: &'t toml::Table, key: &str) -> impl Iterator<Item = &'t toml::Table> {
    let items = table.get(key).and_then(toml::Value::as_array);
    items.into_iter().flatten().filter_map(toml::Value::as_table)
}

fn text_of<'t>(table: &'t toml::Table, key: &str) -> Option<&'t str> {
    table.get(key)?.as_str()
}

fn texts<'t>(table: &'t toml::Table, key: &str) -> Vec<&'t str> {
    let items = table.get(key).and_then(toml::Value::as_array);
    items.into_iter().flatten().filter_map(toml::Value::as_str).collect()
}
