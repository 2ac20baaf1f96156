//! Trace: `landfall trace`: asks the daemon, or the files when it does not run.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::{
    Cli, MISTAKE, NO, YES, block_on, complain, encoded, parsed, plain, print_json, socket, state_dir, terms,
};
use crate::admin::client;
use crate::clock::Clock;
use crate::trace::{self, Question};

#[derive(Debug, Args)]
pub(super) struct Trace {
    /// One message, to all of its recipients, with its history; before acceptance, the session's id.
    #[arg(conflicts_with_all = ["from", "to", "since", "until", "status", "message_id", "code"])]
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
    /// delivered, pending, deferred, failed, rejected, abandoned, held, deleted or unknown.
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

/// Where the trace would be, when nobody ever wrote one: to find nothing in it is no answer.
fn missing_trace(cli: &Cli) -> Option<PathBuf> {
    state_dir(cli).ok().map(|dir| dir.join("trace")).filter(|dir| !dir.exists())
}

impl Trace {
    pub(super) fn run(&self, cli: &Cli) -> u8 {
        let rows = match self.ask(cli) {
            Ok(rows) => rows,
            Err(code) => return code,
        };
        let nobody = rows.as_array().is_none_or(Vec::is_empty);
        if nobody && let Some(dir) = missing_trace(cli) {
            complain(format_args!("there is no trace in {}", dir.display()));
            return NO;
        }
        if cli.json {
            print_json(&rows);
        } else if self.id.is_some() {
            print_story(&rows);
        } else {
            print_rows(&rows);
        }
        if nobody && self.id.is_some() {
            eprintln!("the trace knows no such id");
            return NO;
        }
        YES
    }

    fn ask(&self, cli: &Cli) -> Result<Value, u8> {
        let socket = socket(cli)?;
        match block_on(client::get(&socket, &self.path())) {
            Err(client::Error::NotRunning(..)) => self.ask_files(&state_dir(cli)?),
            answer => parsed(answer),
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
                complain(&error);
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
        format!("/v1/trace?{}", terms(&self.question()).join("&"))
    }
}

/// A terminal's line, unless `COLUMNS` says otherwise.
const WIDTH: usize = 100;
const WIDTH_LEAST: usize = 80;
/// `2026-11-21 10:40:19`, and the widest status.
const TIME_WIDTH: usize = 19;
const STATUS_WIDTH: usize = 9;
const ID_WIDTH: usize = 16;

/// Two lines a row: who to whom with what fate, and below it with which code and why.
fn print_rows(rows: &Value) {
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        println!("nothing is found");
        return;
    }
    let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let width = asked.unwrap_or(WIDTH).max(WIDTH_LEAST);
    for line in lines(rows, width) {
        println!("{}", line.trim_end());
    }
}

fn lines(rows: &[Value], width: usize) -> Vec<String> {
    let widest = |key: &str, heading: &str| {
        let all = rows.iter().map(|row| plain(&row[key]).chars().count());
        all.max().unwrap_or(0).max(heading.len())
    };
    let region = widest("region", "region");
    let (sender, recipient) = (widest("sender", "sender"), widest("recipient", "recipient"));
    let room = width - TIME_WIDTH - STATUS_WIDTH - ID_WIDTH - region - 10;
    // What one of them does not need, the other may have.
    let sender = sender.min((room / 2).max(room.saturating_sub(recipient)));
    let recipient = recipient.min(room - sender);
    let first = |cells: [&str; 6]| {
        let [received, status, from, to, at, id] = cells;
        let (from, to) = (cut(from, sender), cut(to, recipient));
        format!(
            "{received:<TIME_WIDTH$}  {status:<STATUS_WIDTH$}  {from:<sender$}  {to:<recipient$}  {at:<region$}  {id}"
        )
    };
    let mut lines = vec![first(["received", "status", "sender", "recipient", "region", "id"])];
    for row in rows {
        let received = plain(&row["received"]).replacen('T', " ", 1);
        let received: String = received.chars().take(TIME_WIDTH).collect();
        lines.push(first([
            &received,
            &plain(&row["status"]),
            &plain(&row["sender"]),
            &plain(&row["recipient"]),
            &plain(&row["region"]),
            &plain(&row["id"]),
        ]));
        let why = why(row);
        if !why.is_empty() {
            let indent = TIME_WIDTH + 2;
            lines.push(format!("{:indent$}{}", "", cut(&why, width - indent)));
        }
    }
    lines
}

/// Code, reason and rule, then who said what.
fn why(row: &Value) -> String {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let code = row["code"].as_u64().map(|code| code.to_string()).unwrap_or_default();
    // The token stands behind many words, and is what is asked for.
    let token = text("reply").split(' ').find(|word| word.starts_with("ATTR")).unwrap_or_default();
    let token = token.trim_end_matches('.').to_owned();
    let mut words: Vec<String> = vec![code.clone(), text("enhanced").to_owned(), token];
    let rule = text("rule");
    // The rule that let somebody in is no reason.
    let rule = if rule.is_empty() || row["status"] != "rejected" { "" } else { rule };
    words.push(match (text("reason"), rule) {
        ("", "") => String::new(),
        ("", rule) => format!("(rule {rule})"),
        (reason, "") => reason.to_owned(),
        (reason, rule) => format!("{reason} (rule {rule})"),
    });
    let host = if text("host").is_empty() { text("next_hop") } else { text("host") };
    if !host.is_empty() {
        words.push(host.to_owned());
    }
    if let Some(next) = row["next_attempt"].as_str() {
        let next: String = next.replacen('T', " ", 1).chars().take(TIME_WIDTH).collect();
        words.push(format!("attempt {}, next {next}", row["attempts"]));
    }
    words.retain(|word| !word.is_empty());
    // The reply begins with the codes that stand in front already.
    let said = text("reply");
    let said = said.strip_prefix(&code).unwrap_or(said).trim_start();
    let said = said.strip_prefix(text("enhanced")).unwrap_or(said).trim_start();
    let mut why = words.join(" ");
    if !said.is_empty() {
        why.push_str(": ");
        why.push_str(said);
    }
    why.trim_start_matches(": ").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An address keeps its end, which says whose it is, and anything else its beginning.
fn cut(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    let at = text.chars().position(|c| c == '@').filter(|_| !text.contains(' '));
    match at {
        // `anna-mari…@contoso.com`, as long as some of the name is left.
        Some(at) if count - at + 4 < width => {
            let keep = width - (count - at) - 1;
            let tail: String = text.chars().skip(at).collect();
            text.chars().take(keep).chain(['\u{2026}']).chain(tail.chars()).collect()
        }
        Some(_) | None => text.chars().take(width.saturating_sub(1)).chain(['\u{2026}']).collect(),
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_says_what_happened_within_the_width() {
        let rejected = json!({
            "received": "2026-11-21T10:40:19.123Z", "status": "rejected", "sender": "ann@sender.example",
            "recipient": "anna@contoso.com", "id": "687f4c3fb0400000", "code": 451, "enhanced": "4.4.62",
            "reason": "wrong-region", "rule": "7",
            "reply": "451 4.4.62 Mail sent to the wrong Office 365 region. ATTR35. For more information please go to \
                      https://go.microsoft.com/fwlink/?linkid=865268",
        });
        let long = "a-very-long-name-of-somebody-who-writes-a-lot@newsletters.company.example";
        let deferred = json!({
            "received": "2026-11-21T10:40:19.123Z", "status": "deferred", "sender": long, "recipient": long,
            "region": "NAM", "id": "687f4c3fb0400001", "reply": "4.4.1 connection refused", "enhanced": "4.4.1",
            "host": "edge.nam.example.net [192.0.2.1]:25", "attempts": 3,
            "next_attempt": "2026-11-21T10:55:19.123Z", "rule": "9",
        });
        for width in [80, 100, 200] {
            let lines = lines(&[rejected.clone(), deferred.clone()], width);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:#?}");
            for (line, parts) in [
                (1, &["2026-11-21 10:40:19  rejected", "anna@", " 687f4c3fb0400000"][..]),
                (2, &["451 4.4.62 ATTR35 wrong-region (rule 7): Mail sent to"]),
                (3, &["deferred", "NAM"]),
                (4, &["4.4.1 edge.nam.example.net [192.0.2.1]:25"]),
            ] {
                for part in parts {
                    assert!(lines[line].contains(part), "no {part} in {lines:#?}");
                }
            }
        }
        let wide = lines(&[deferred], 200).join("\n");
        assert!(wide.contains("attempt 3, next 2026-11-21 10:55:19: connection refused"), "{wide}");
        assert_eq!(cut("anna-maria@contoso.com", 19), "anna-m\u{2026}@contoso.com");
        assert_eq!(cut("a@a-domain-that-is-longer-than-it-all.example", 12), "a@a-domain-\u{2026}");
    }
}
