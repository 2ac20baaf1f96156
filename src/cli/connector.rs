//! Connector: what connectors there are, and whether one works (rule 41).
//!
//! Validation has two parts: a look at every smart host, and a real message to each test recipient. It changes
//! nothing: what its outcome means is for the operator to say.

use std::sync::Arc;

use clap::Subcommand;

use crate::admin::connector_rows;
use crate::config::{self, Settings};
use crate::daemon;
use crate::delivery::{Line, Validation};
use crate::dns::{Meter, Resolver};
use crate::mail::Tenant;

use super::{MISTAKE, NO, YES, complain, print_json};

#[derive(Debug, Subcommand)]
pub(super) enum Connector {
    /// Every connector, inbound and outbound.
    List,
    /// Look at each smart host of an outbound connector, and send a test message to each recipient given.
    Validate {
        /// Its name, or the tenant's id, a slash and its name.
        name: String,
        /// A test recipient in one of its domains; may be given several times.
        #[arg(long)]
        to: Vec<String>,
    },
}

impl Connector {
    pub(super) async fn run(&self, loaded: config::Loaded, json: bool) -> u8 {
        let settings = loaded.settings;
        let directory = match super::directory::open(&settings, loaded.table).await {
            Ok(directory) => directory,
            Err(code) => return code,
        };
        let table = directory.table();
        let tenants: Vec<Arc<Tenant>> = table.tenants().cloned().collect();
        match self {
            Self::List => list(&tenants, json),
            Self::Validate { name, to } => match Validation::new(table, name, to) {
                Ok(validation) => Box::pin(validate(&settings, &validation, json)).await,
                Err(why) => {
                    complain(format_args!("landfall connector: {why}"));
                    MISTAKE
                }
            },
        }
    }
}

fn list(tenants: &[Arc<Tenant>], json: bool) -> u8 {
    let rows = connector_rows(tenants.iter());
    if json {
        print_json(&rows);
        return YES;
    }
    let mut page = comfy_table::Table::new();
    page.load_style(comfy_table::presets::NOTHING);
    page.set_header(["tenant", "connector", "direction", "type", "matches", "smart hosts"]);
    for row in rows {
        let (matches, hosts) = (row.matches.join(" "), row.smart_hosts.join(" "));
        page.add_row([&row.tenant, &row.name, row.direction, row.kind, &matches, &hosts]);
    }
    println!("{page}");
    YES
}

async fn validate(settings: &Settings, validation: &Validation, json: bool) -> u8 {
    let resolver = Arc::new(Resolver::new(daemon::dns(settings), Meter::default()));
    let services = daemon::identities(settings)
        .and_then(|identities| daemon::services(settings, identities.first(), &resolver, None));
    let services = match services {
        Ok(services) => Arc::new(services),
        Err(error) => {
            complain(format_args!("landfall connector: {error}"));
            return MISTAKE;
        }
    };
    let mut steps = Vec::new();
    let mut show = |line: Line| {
        super::probe::print_line(&line, json);
        steps.push(line);
    };
    let ok = validation.run(&services, &settings.node.hostname, &mut show).await;
    let name = validation.name();
    if json {
        print_json(&serde_json::json!({ "connector": name, "ok": ok, "steps": steps }));
    } else {
        let verdict = if ok { "every step holds" } else { "not every step holds" };
        println!("{name}: {verdict}; nothing was changed or marked");
    }
    if ok { YES } else { NO }
}
