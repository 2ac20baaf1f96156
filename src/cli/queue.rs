//! Queue: the verbs of `landfall queue`, put to the running daemon.

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{NO, YES, block_on, parsed, patience, plain, print_fields, print_json, print_table, terms};
use crate::admin::client;
use crate::mail::{AddressPattern, Filter, MessageId, Priority};

#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// One row per next hop, and what is held when it comes.
    Summary,
    /// One row per waiting message and next hop.
    List(List),
    /// One message in full: envelope, each recipient's progress, the last reply.
    Show(Show),
    /// Try now, whatever was scheduled; everything when nothing is named.
    Retry(Change),
    /// Keep, and do not try, until it is released. What is held does not grow old.
    Hold(Hold),
    /// Go on with what was held, and end the hold of this filter.
    Release(Change),
    /// Tell the senders at once that it will not be delivered.
    Bounce(Bounce),
    /// Remove, and tell nobody.
    Delete(Change),
    /// Let it go before or after the others, and be tried more or less often.
    Prioritize(Prioritize),
}

/// What is meant: everything that is named has to match.
#[derive(Debug, Args)]
struct Which {
    /// One message.
    #[arg(value_parser = id)]
    id: Option<MessageId>,
    /// What waits for this next hop, as `queue summary` names it.
    #[arg(long)]
    destination: Option<String>,
    /// An address, or `@domain`. Only these recipients of a message are meant.
    #[arg(long, value_parser = pattern)]
    recipient: Option<AddressPattern>,
    /// An address, `@domain`, or `<>`.
    #[arg(long, value_parser = pattern)]
    sender: Option<AddressPattern>,
    /// What was received longer ago than this, such as `2h`.
    #[arg(long, value_parser = patience)]
    older_than: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    which: Which,
    /// At most so many rows; 0 is all.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[arg(value_parser = id)]
    id: MessageId,
    /// The message's header too; never its body.
    #[arg(long)]
    headers: bool,
}

#[derive(Debug, Args)]
pub(super) struct Change {
    #[command(flatten)]
    which: Which,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Hold {
    #[command(flatten)]
    change: Change,
    /// Also what comes later, until `release` with the same options.
    #[arg(long)]
    new: bool,
}

#[derive(Debug, Args)]
pub(super) struct Bounce {
    #[command(flatten)]
    change: Change,
    /// What the senders are told.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Prioritize {
    #[command(flatten)]
    change: Change,
    #[arg(long, value_enum)]
    priority: Level,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    High,
    Normal,
    Low,
}

impl From<Level> for Priority {
    fn from(level: Level) -> Self {
        match level {
            Level::High => Self::High,
            Level::Normal => Self::Normal,
            Level::Low => Self::Low,
        }
    }
}

fn id(text: &str) -> Result<MessageId, String> {
    MessageId::try_from(text.to_owned())
}

fn pattern(text: &str) -> Result<AddressPattern, String> {
    AddressPattern::try_from(text.to_owned())
}

impl Which {
    fn filter(&self) -> Filter {
        Filter {
            id: self.id,
            destination: self.destination.clone(),
            recipient: self.recipient.clone(),
            sender: self.sender.clone(),
            older_than_s: self.older_than.map(|age| age.as_secs()),
        }
    }
}

/// Puts one command to the daemon behind this socket.
pub(super) fn run(command: &QueueCommand, socket: &Path, json: bool) -> u8 {
    match command {
        QueueCommand::Summary => read(socket, "/v1/queue", json, print_summary),
        QueueCommand::List(list) => list_messages(socket, list, json),
        QueueCommand::Show(show) => {
            let path = format!("/v1/queue/messages/{}?headers={}", show.id, show.headers);
            read(socket, &path, json, print_message)
        }
        QueueCommand::Retry(change) => act(socket, "retry", change, json!({}), json),
        QueueCommand::Hold(hold) => act(socket, "hold", &hold.change, json!({ "new": hold.new }), json),
        QueueCommand::Release(change) => act(socket, "release", change, json!({}), json),
        QueueCommand::Bounce(bounce) => {
            act(socket, "bounce", &bounce.change, json!({ "reason": bounce.reason }), json)
        }
        QueueCommand::Delete(change) => act(socket, "delete", change, json!({}), json),
        QueueCommand::Prioritize(prioritize) => {
            let priority = Priority::from(prioritize.priority);
            act(socket, "prioritize", &prioritize.change, json!({ "priority": priority }), json)
        }
    }
}

fn list_messages(socket: &Path, list: &List, json: bool) -> u8 {
    let limit = if list.limit == 0 { usize::MAX } else { list.limit };
    // One more than is shown tells whether there is more.
    let asked = query(&list.which.filter(), limit.saturating_add(usize::from(!json)));
    let mut rows = match parsed(block_on(client::get(socket, &format!("/v1/queue/messages?{asked}")))) {
        Ok(rows) => rows,
        Err(code) => return code,
    };
    if json {
        print_json(&rows);
        return YES;
    }
    let has_more = rows.as_array().is_some_and(|rows| rows.len() > limit);
    if let Some(rows) = rows.as_array_mut() {
        rows.truncate(limit);
    }
    print_messages(&rows);
    if has_more {
        println!("and more: --limit {}", limit.saturating_mul(10));
    }
    YES
}

fn read(socket: &Path, path: &str, json: bool, print: fn(&Value)) -> u8 {
    match parsed(block_on(client::get(socket, path))) {
        Ok(value) if json => print_json(&value),
        Ok(value) => print(&value),
        Err(code) => return code,
    }
    YES
}

/// The answer is no when there was nothing to do it to.
fn act(socket: &Path, verb: &str, change: &Change, mut request: Value, json: bool) -> u8 {
    request["filter"] = json!(change.which.filter());
    request["dry_run"] = json!(change.dry_run);
    let asked = block_on(client::post_json(socket, &format!("/v1/queue/{verb}"), &request));
    let value = match parsed(asked) {
        Ok(value) => value,
        Err(code) => return code,
    };
    if json {
        print_json(&value);
    } else {
        print_change(&value);
    }
    if value["messages"] == 0 && value["holds"] == 0 { NO } else { YES }
}

fn query(filter: &Filter, limit: usize) -> String {
    let mut asked = vec![format!("limit={limit}")];
    asked.extend(terms(filter));
    asked.join("&")
}

fn print_summary(value: &Value) {
    let columns =
        ["destination", "state", "messages", "in_flight", "held", "oldest", "next_probe", "last_reply"];
    print_table(&value["lanes"], &columns, "nothing waits");
    let holds = value["holds"].as_array().map(Vec::as_slice).unwrap_or_default();
    for hold in holds {
        let filter = serde_json::from_value::<Filter>(hold["filter"].clone()).unwrap_or_default();
        println!("held when it comes: {filter} (by {}, since {})", plain(&hold["by"]), plain(&hold["since"]));
    }
}

fn print_messages(value: &Value) {
    let columns = [
        "id",
        "received",
        "sender",
        "recipients",
        "destination",
        "state",
        "attempts",
        "next_attempt",
        "last_reply",
    ];
    print_table(value, &columns, "nothing waits");
}

fn print_message(value: &Value) {
    let mut fields = value.clone();
    let taken = fields.as_object_mut().map(|fields| (fields.remove("recipients"), fields.remove("header")));
    let (recipients, header) = taken.unwrap_or_default();
    print_fields(&fields);
    for recipient in recipients.as_ref().and_then(Value::as_array).into_iter().flatten() {
        println!();
        let mut recipient = recipient.clone();
        let reply = recipient.as_object_mut().and_then(|fields| fields.remove("last_reply"));
        if let Some(reply) = reply {
            let (status, text) = (plain(&reply["status"]), plain(&reply["text"]));
            // Words of our own, about a server that said nothing, have no code.
            let said = match reply["code"].as_u64() {
                Some(code) if code > 0 => format!("{code} {status} {text}"),
                _ => format!("{status} {text}"),
            };
            recipient["last_reply"] = said.into();
            recipient["last_reply_from"] = reply["host"].clone();
        }
        print_fields(&recipient);
    }
    if let Some(header) = header {
        println!("\n{}", plain(&header).replace("\r\n", "\n").trim_end());
    }
}

fn print_change(value: &Value) {
    let rows = value["matched"].as_array().map_or(0, Vec::len);
    if rows > 0 {
        let columns = ["id", "sender", "recipients", "destination", "state"];
        print_table(&value["matched"], &columns, "nothing matches");
    }
    let would = if value["dry_run"] == true { "would " } else { "" };
    let (messages, recipients) = (&value["messages"], &value["recipients"]);
    println!("{would}{}: {messages} messages, {recipients} recipients", plain(&value["verb"]));
    if value["under_way"] != 0 {
        println!("{} under way: it follows when the attempt is over", value["under_way"]);
    }
    if value["holds"] != 0 {
        println!("holds of what comes later {would}begun or ended: {}", value["holds"]);
    }
}
