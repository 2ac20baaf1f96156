//! Trace: `landfall trace`: asks the daemon, or the files when it does not run.

use std::path::Path;

use clap::Args;
use serde_json::Value;

use super::{Cli, MISTAKE, NO, YES, block_on, plain, print_json, print_table, socket, state_dir};
use crate::admin::client;
use crate::clock::Clock;
use crate::trace::{self, Question};

#[derive(Debug, Args)]
pub(super) struct Trace {
    /// One message with its history; before acceptance, the session's id.
    id: Option<String>,
    /// The envelope sender: an address, @domain, or <> for notices.
    #[arg(long)]
    from: Option<String>,
    /// A recipient: an address or @domain.
    #[arg(long)]
    to: Option<String>,
    /// Received since then: 2h (ago), 2026-11-20 or RFC 3339.
    #[arg(long)]
    since: Option<String>,
    /// Received until then; a day is meant to its end.
    #[arg(long)]
    until: Option<String>,
    /// delivered, pending, deferred, failed, rejected, held, deleted or unknown.
    #[arg(long)]
    status: Option<String>,
    /// The Message-ID header field.
    #[arg(long)]
    message_id: Option<String>,
    /// Of our reply or the next hop's: 550, 5.7.64 or ATTR35.
    #[arg(long)]
    code: Option<String>,
    /// At most so many rows, the newest first.
    #[arg(long, default_value_t = trace::LIMIT_DEFAULT)]
    limit: usize,
}

impl Trace {
    pub(super) fn run(&self, cli: &Cli) -> u8 {
        let rows = match self.ask(cli) {
            Ok(rows) => rows,
            Err(code) => return code,
        };
        if cli.json {
            print_json(&rows);
        } else if self.id.is_some() {
            print_story(&rows);
        } else {
            print_table(
                &rows,
                &["received", "sender", "recipient", "status", "region", "id"],
                "nothing is found",
            );
        }
        let nobody = rows.as_array().is_none_or(Vec::is_empty);
        if nobody && self.id.is_some() {
            eprintln!("the trace knows no such id");
            return NO;
        }
        YES
    }

    fn ask(&self, cli: &Cli) -> Result<Value, u8> {
        let socket = socket(cli)?;
        match block_on(client::get(&socket, &self.path())) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                eprintln!("the daemon's answer cannot be read: {error}");
                NO
            }),
            Err(client::Error::NotRunning(..)) => self.ask_files(&state_dir(cli)?),
            Err(client::Error::Refused { status, text }) => {
                eprintln!("{text}");
                Err(if status == hyper::StatusCode::UNPROCESSABLE_ENTITY { MISTAKE } else { NO })
            }
            Err(error) => {
                eprintln!("{error}");
                Err(NO)
            }
        }
    }

    /// The daemon does not run: the files say what they say. What it had not yet put into them when it was
    /// killed is there after its next start.
    fn ask_files(&self, state_dir: &Path) -> Result<Value, u8> {
        let dir = state_dir.join("trace");
        let asked = match &self.id {
            Some(id) => trace::story(&dir, id),
            None => trace::search(&dir, &self.question(), Clock::System.now()),
        };
        match asked {
            Ok(rows) => Ok(serde_json::to_value(rows).expect("plain values")),
            Err(error) => {
                eprintln!("{error}");
                Err(if matches!(error, trace::Error::Question(_)) { MISTAKE } else { NO })
            }
        }
    }

    fn question(&self) -> Question {
        Question {
            from: self.from.clone(),
            to: self.to.clone(),
            since: self.since.clone(),
            until: self.until.clone(),
            status: self.status.clone(),
            message_id: self.message_id.clone(),
            code: self.code.clone(),
            limit: Some(self.limit),
        }
    }

    fn path(&self) -> String {
        if let Some(id) = &self.id {
            return format!("/v1/trace/{}", encoded(id));
        }
        let question = serde_json::to_value(self.question()).expect("plain values");
        let fields = question.as_object().into_iter().flatten();
        let terms: Vec<String> =
            fields.map(|(key, value)| format!("{key}={}", encoded(&plain(value)))).collect();
        format!("/v1/trace?{}", terms.join("&"))
    }
}

/// RFC 3986 §2.1: everything but letters, digits and `-._~`.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn print_story(rows: &Value) {
    for (index, row) in rows.as_array().into_iter().flatten().enumerate() {
        if index > 0 {
            println!();
        }
        for (key, value) in row.as_object().into_iter().flatten() {
            if key != "history" {
                println!("{:<16}{}", key.replace('_', " "), plain(value));
            }
        }
        for step in row["history"].as_array().into_iter().flatten() {
            let says = step["says"].as_str().unwrap_or_default();
            println!("  {}  {:<12}  {says}", plain(&step["at"]), plain(&step["what"]));
        }
    }
}
