//! Query: the rows of the trace, newest first, from the files alone; the daemon need not run.
//!
//! The newest segment is asked first, then several abreast, each by its own indexes, until there are enough
//! rows.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, Row as SqlRow, params_from_iter};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::document::parse_duration;
use crate::mail::{AddressPattern, MessageId, SessionId};

use super::record::{first_id, split_attribution};
use super::segment::{
    Family, Index, Status, TOKEN, hashed, integer, open_to_read, turned, unsigned, unturned,
};

pub const LIMIT_DEFAULT: usize = 100;
const LIMIT_MOST: usize = 10_000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the trace cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("the trace cannot be read: {0}")]
    Sql(#[from] rusqlite::Error),
    /// The question is not one.
    #[error("{0}")]
    Question(String),
}

/// What is asked, as the command line and the API write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// An address, or `@domain`; `<>` for the null sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `2h`, `2026-11-20` or RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The header field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// `550`, `5.7.64` or `ATTR35`: of our reply, or the remote one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// One recipient of one message, or one refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub received: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    pub status: String,
    /// The recipient's home region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The message's id; the session's for what was refused.
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helo: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribution: Option<String>,
    /// The inbound connector that it came by, with its tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// `spool`, `inline`, `notice`, `recovery`; `lost` when its arrival was not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The message that this notice is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice_of: Option<String>,
    /// Where it was refused: `connection`, `sender`, `recipient` or `message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<String>,
    /// `applied`, or why in-region routing did not apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub irr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enhanced: Option<String>,
    /// Ours when it was refused, the next hop's otherwise; in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
    pub attempts: u32,
    pub updated: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
    /// Only when one message is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Step>,
    #[serde(skip)]
    key: u64,
    #[serde(skip)]
    n: i64,
}

/// One step of a message's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub at: String,
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
}

/// Reads `2h` (so long ago), `2026-11-20` or RFC 3339; `key` is whose value it is.
pub fn moment(key: &str, text: &str, now: Timestamp) -> Result<Timestamp, String> {
    read_moment(text, now)
        .ok_or_else(|| format!("{key}: '{text}' is no time; expected 2h, 2026-11-20 or RFC 3339"))
}

fn read_moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(span) = parse_duration(text) {
        return Some(Timestamp::from_millis(
            now.millis().saturating_sub(i64::try_from(span.as_millis()).ok()?),
        ));
    }
    Timestamp::parse(text).or_else(|| Timestamp::parse(&format!("{text}T00:00:00Z")))
}

/// One condition, its value, and the index that finds its rows.
struct Term {
    sql: String,
    values: Vec<Value>,
    index: Option<Index>,
}

impl Term {
    fn new(sql: impl Into<String>, index: Option<Index>) -> Self {
        Self { sql: sql.into(), values: Vec::new(), index }
    }

    fn with(sql: impl Into<String>, value: Value, index: Index) -> Self {
        Self { sql: sql.into(), values: vec![value], index: Some(index) }
    }

    /// The same of the table under this name.
    fn at(&self, alias: &str) -> String {
        if alias == "c" { self.sql.replace("r.", "c.") } else { self.sql.clone() }
    }
}

/// What every segment is asked.
struct Plan {
    terms: Vec<Term>,
    /// As an index of recipients tells it.
    status: Option<String>,
    least: u64,
    most: u64,
    families: Vec<Family>,
    limit: usize,
}

/// Beyond this many rows of one segment, one condition is as frequent as another.
const COUNT_LIMIT: usize = 100_000;
/// So many names in an index are read for what one row would cost.
const NAMES_PER_ROW: usize = 50;

impl Plan {
    fn new(question: &Question, now: Timestamp) -> Result<Self, Error> {
        if question.limit == Some(0) {
            return Err(Error::Question("limit: is 0; expected at least 1".to_owned()));
        }
        let mut plan = Self {
            terms: Vec::new(),
            status: None,
            least: 0,
            most: integer_max(),
            families: vec![Family::Messages, Family::Refusals],
            limit: question.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MOST),
        };
        let time = |text: &Option<String>, key: &str| -> Result<Option<Timestamp>, Error> {
            let read = text.as_deref().map(|text| moment(key, text, now));
            read.transpose().map_err(Error::Question)
        };
        if let Some(since) = time(&question.since, "since")? {
            plan.least = first_id(since.millis()).min(integer_max());
        }
        if let Some(until) = time(&question.until, "until")? {
            // A day is meant to its end.
            let end = if question.until.as_ref().is_some_and(|text| text.len() == 10 && text.contains('-')) {
                until.millis() + 86_400_000
            } else {
                until.millis() + 1
            };
            plan.most = first_id(end).saturating_sub(1).min(integer_max());
        }
        if let Some(word) = &question.status {
            let status = Status::parse(word).ok_or_else(|| {
                Error::Question(format!(
                    "status: '{word}' is none; expected delivered, pending, deferred, failed, rejected, abandoned, held, deleted or unknown"
                ))
            })?;
            let refused = matches!(status, Status::Rejected | Status::Abandoned);
            plan.families = vec![if refused { Family::Refusals } else { Family::Messages }];
            let number = status as i64;
            plan.status = Some(format!("c.status = {number}"));
            // The words match the partial index only as they stand. What is delivered is most of what there is.
            plan.terms.push(match status {
                Status::Delivered => Term::new("r.status = 0", None),
                _ => Term::new(format!("r.status <> 0 AND r.status = {number}"), Some(Index::Status)),
            });
        }
        if let Some(address) = &question.to {
            plan.address("to", "r.address", address, Index::Address)?;
        }
        if let Some(address) = &question.from {
            plan.address("from", "m.sender", address, Index::Sender)?;
        }
        if let Some(message_id) = &question.message_id {
            let hash =
                hashed(message_id).ok_or_else(|| Error::Question("message_id: is empty".to_owned()))?;
            let sql = "m.mid IS NOT NULL AND m.mid = ?";
            plan.terms.push(Term::with(sql, Value::Integer(hash), Index::MessageId));
        }
        if let Some(code) = &question.code {
            plan.code(code)?;
        }
        Ok(plan)
    }

    /// Domains are A-labels in the trace; a path may be asked for as it stands in a log, in its brackets.
    fn address(&mut self, key: &str, column: &str, asked: &str, index: Index) -> Result<(), Error> {
        let asked = asked.trim();
        let exactly = |text: &str| Term::with(format!("{column} = ?"), Value::Text(turned(text)), index);
        let term = match AddressPattern::parse(asked) {
            Some(AddressPattern::Null) => Term::new(format!("{column} = ''"), Some(index)),
            // '[' is the first character after '@' where case does not count.
            Some(AddressPattern::At(domain)) => Term {
                sql: format!("{column} >= ? AND {column} < ?"),
                values: vec![Value::Text(format!("{domain}@")), Value::Text(format!("{domain}["))],
                index: Some(index),
            },
            Some(AddressPattern::One(address)) => exactly(&address.to_string()),
            None if asked.trim_matches(['<', '>']).eq_ignore_ascii_case("postmaster") => {
                exactly("postmaster")
            }
            None => {
                let why = format!("{key}: '{asked}' is none; expected an address, @domain or <>");
                return Err(Error::Question(why));
            }
        };
        self.terms.push(term);
        Ok(())
    }

    fn code(&mut self, asked: &str) -> Result<(), Error> {
        let asked = asked.trim();
        if let Ok(code) = asked.parse::<u16>() {
            self.terms.push(Term::new(format!("r.code = {code}"), Some(Index::Code)));
        } else if asked.split('.').count() == 3 && asked.starts_with(|c: char| c.is_ascii_digit()) {
            self.terms.push(Term::with("r.enhanced = ?", Value::Text(asked.to_owned()), Index::Enhanced));
        } else if asked.to_ascii_uppercase().starts_with("ATTR") {
            let token = asked.to_ascii_uppercase();
            let known = token[4..].bytes().all(|b| b.is_ascii_digit() || b == b'.');
            if !known {
                return Err(Error::Question(format!("code: '{asked}' is no token such as ATTR35")));
            }
            let sql = format!("instr(r.reply, ' ATTR') > 0 AND {} = ?", TOKEN.replace("reply", "r.reply"));
            let value = Value::Text(token.trim_end_matches('.').to_owned());
            self.terms.push(Term::with(sql, value, Index::Token));
        } else {
            return Err(Error::Question(format!("code: '{asked}' is none; expected 550, 5.7.64 or ATTR35")));
        }
        Ok(())
    }

    /// The rows of one segment. Which condition is the rarest there is counted, not guessed: a sender may have
    /// written half of all mail, or a code have been answered once.
    fn ask(&self, connection: &Connection) -> rusqlite::Result<Vec<Row>> {
        let indexes = indexes(connection)?;
        let mut counted: Vec<(usize, &Term, Index)> = Vec::new();
        for term in &self.terms {
            if let Some(index) = term.index.filter(|index| indexes.iter().any(|name| name == index.name())) {
                let count = self.count(connection, term, index)?;
                if count == 0 {
                    return Ok(Vec::new());
                }
                counted.push((count, term, index));
            }
        }
        counted.sort_by_key(|(count, ..)| *count);
        let lead = counted.first().filter(|(count, ..)| *count < COUNT_LIMIT);
        let (tables, leading) = match lead {
            Some((.., index)) => (index.tables(), index.leads()),
            None => ("recipient r CROSS JOIN message m ON m.id = r.id".to_owned(), "r"),
        };
        let (mut conditions, mut values) = (Vec::new(), Vec::new());
        for term in &self.terms {
            let leads = lead.is_some_and(|(_, leading, _)| std::ptr::eq(*leading, term));
            conditions.push(if leads { term.at(leading) } else { term.sql.clone() });
            values.extend(&term.values);
        }
        if lead.is_some_and(|(.., index)| index.has_status())
            && let Some(status) = &self.status
        {
            conditions.push(status.clone());
        }
        // Where one index leaves many, another one says which of them to look at: a row costs far more to read
        // than its name in an index.
        if let Some((least, ..)) = lead.filter(|(count, ..)| *count > self.limit) {
            for (_, term, index) in counted[1..].iter().filter(|(count, ..)| count / least <= NAMES_PER_ROW) {
                let (table, alias) = (index.table(), index.leads());
                conditions.push(format!(
                    "{leading}.id IN (SELECT {alias}.id FROM {table} {alias} INDEXED BY {} WHERE {} AND {})",
                    index.name(),
                    term.at(alias),
                    self.within(alias)
                ));
                values.extend(&term.values);
            }
        }
        conditions.push(self.within(leading));
        let sql = format!(
            "SELECT {COLUMNS} FROM {tables} WHERE {} ORDER BY {leading}.id DESC LIMIT {}",
            conditions.join(" AND "),
            self.limit
        );
        select(connection, &sql, &values)
    }

    fn within(&self, table: &str) -> String {
        format!("{table}.id >= {} AND {table}.id <= {}", integer(self.least), integer(self.most))
    }

    fn count(&self, connection: &Connection, term: &Term, index: Index) -> rusqlite::Result<usize> {
        let (table, alias) = (index.table(), index.leads());
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 FROM {table} {alias} INDEXED BY {} WHERE {} AND {} LIMIT {COUNT_LIMIT})",
            index.name(),
            term.at(alias),
            self.within(alias)
        );
        let count: i64 = connection.query_row(&sql, params_from_iter(&term.values), |row| row.get(0))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }
}

/// Of a sealed segment; none where it is small enough to be read through.
fn indexes(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement =
        connection.prepare("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")?;
    let names = statement.query_map([], |row| row.get(0))?;
    names.collect()
}

fn integer_max() -> u64 {
    unsigned(i64::MAX)
}

const COLUMNS: &str = "m.id, r.n, m.received, m.sender, r.address, r.status, r.region, m.session, m.ip, m.helo, m.tls, \
                       m.listener, m.attribution, m.message_id, m.subject, m.authentication, m.size, m.relay, m.cause, \
                       m.stage, r.ingress, r.irr, r.rule, r.reason, r.code, r.enhanced, r.reply, r.host, r.next_hop, \
                       r.attempts, r.updated, r.next_attempt";

fn read(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let time = |millis: i64| Timestamp::from_millis(millis).to_string();
    let address = |column: Option<String>| column.map(|text| unturned(&text));
    let key = unsigned(row.get(0)?);
    let session: Option<i64> = row.get(7)?;
    let session = session.map(|session| SessionId(unsigned(session)).to_string());
    let stage: Option<String> = row.get(19)?;
    let id = match (&stage, &session) {
        (Some(_), Some(session)) => session.clone(),
        (Some(_), None) | (None, _) => MessageId::from_raw(key).to_string(),
    };
    let sender: Option<String> = address(row.get(3)?);
    let attribution: Option<String> = row.get(12)?;
    let came = attribution.as_deref().map(split_attribution);
    Ok(Row {
        received: time(row.get(2)?),
        sender: sender.map(|sender| if sender.is_empty() { "<>".to_owned() } else { sender }),
        recipient: address(row.get(4)?),
        status: Status::of(row.get(5)?).word().to_owned(),
        region: row.get(6)?,
        id,
        session,
        client_ip: row.get(8)?,
        helo: row.get(9)?,
        tls: row.get(10)?,
        listener: row.get(11)?,
        attribution: came.map(|(attribution, _)| attribution.to_owned()),
        connector: came.and_then(|(_, connector)| connector).map(str::to_owned),
        message_id: row.get(13)?,
        subject: row.get(14)?,
        authentication: row.get(15)?,
        size: row.get::<_, Option<i64>>(16)?.map(unsigned),
        relay: row.get(17)?,
        notice_of: row.get::<_, Option<i64>>(18)?.map(|id| MessageId::from_raw(unsigned(id)).to_string()),
        stage,
        ingress: row.get(20)?,
        irr: row.get(21)?,
        rule: row.get(22)?,
        reason: row.get(23)?,
        code: row.get::<_, Option<u16>>(24)?.filter(|code| *code > 0),
        enhanced: row.get(25)?,
        reply: row.get(26)?,
        host: row.get(27)?,
        next_hop: row.get(28)?,
        attempts: row.get(29)?,
        updated: time(row.get(30)?),
        next_attempt: row.get::<_, Option<i64>>(31)?.map(time),
        history: Vec::new(),
        key,
        n: row.get(1)?,
    })
}

/// Newest first; the recipients of one message in their order.
pub fn search(dir: &Path, question: &Question, now: Timestamp) -> Result<Vec<Row>, Error> {
    let plan = Plan::new(question, now)?;
    let mut rows = Vec::new();
    for family in &plan.families {
        let mut found = 0;
        let ask = |connection: &Connection| plan.ask(connection);
        each_segment(dir, *family, (plan.least, plan.most), ask, |here| {
            found += here.len();
            rows.extend(here);
            found < plan.limit
        })?;
    }
    rows.sort_by_key(|row| (std::cmp::Reverse(row.key), row.n));
    rows.truncate(plan.limit);
    Ok(rows)
}

fn select<V: rusqlite::ToSql>(
    connection: &Connection,
    sql: &str,
    values: &[V],
) -> rusqlite::Result<Vec<Row>> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map(params_from_iter(values), read)?;
    rows.collect()
}

/// Segments that are asked at the same time.
const ABREAST: usize = 4;

/// Newest first, some at a time, until `take` has enough.
fn each_segment(
    dir: &Path,
    family: Family,
    (least, most): (u64, u64),
    ask: impl Fn(&Connection) -> rusqlite::Result<Vec<Row>> + Sync,
    mut take: impl FnMut(Vec<Row>) -> bool,
) -> Result<(), Error> {
    let segments = match family.list(dir) {
        Ok(segments) => segments,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut end = u64::MAX;
    let mut wanted = Vec::new();
    for (index, (first, path)) in segments.iter().enumerate().rev() {
        // The oldest one also holds what is older than its name says.
        if (*first <= most || index == 0) && end > least {
            wanted.push(path.as_path());
        }
        end = *first;
    }
    // The newest often has enough: it is asked alone.
    let (first, rest) = wanted.split_at(wanted.len().min(1));
    let abreast = std::thread::available_parallelism().map_or(1, usize::from).min(ABREAST);
    for some in std::iter::once(first).chain(rest.chunks(abreast)) {
        let answers: Vec<_> = std::thread::scope(|scope| {
            let asking: Vec<_> =
                some.iter().skip(1).map(|path| scope.spawn(|| rows_of(path, &ask))).collect();
            let first = some.first().map(|path| rows_of(path, &ask));
            let others = asking.into_iter().map(|one| one.join().expect("reading does not panic"));
            first.into_iter().chain(others).collect()
        });
        for answer in answers {
            if !take(answer?) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn rows_of(
    path: &Path,
    ask: &impl Fn(&Connection) -> rusqlite::Result<Vec<Row>>,
) -> Result<Vec<Row>, rusqlite::Error> {
    match open_to_read(path).and_then(|connection| ask(&connection)) {
        // Deleted by age or size while we looked, or not filled yet.
        Err(_) if !path.exists() => Ok(Vec::new()),
        Err(error) if error.to_string().contains("no such table") => Ok(Vec::new()),
        answer => answer,
    }
}

/// All of one message, or of one session, with its history. Empty when nobody knows that id.
pub fn story(dir: &Path, id: &str) -> Result<Vec<Row>, Error> {
    let raw = u64::from_str_radix(id.trim(), 16).ok().filter(|_| id.trim().len() == 16);
    let Some(raw) = raw else {
        return Err(Error::Question(format!("'{id}' is no id: 16 hexadecimal digits")));
    };
    let by_id =
        format!("SELECT {COLUMNS} FROM recipient r CROSS JOIN message m ON m.id = r.id WHERE r.id = ?");
    let mut rows = with_history(dir, Family::Messages, &by_id, raw, raw, raw)?;
    if rows.is_empty() {
        let by_session = format!(
            "SELECT {COLUMNS} FROM message m CROSS JOIN recipient r ON r.id = m.id \
             WHERE m.session IS NOT NULL AND m.session = ?"
        );
        for family in [Family::Messages, Family::Refusals] {
            rows.extend(with_history(dir, family, &by_session, raw, 0, u64::MAX)?);
        }
    }
    rows.sort_by_key(|row| (row.key, row.n));
    Ok(rows)
}

fn with_history(
    dir: &Path,
    family: Family,
    sql: &str,
    value: u64,
    least: u64,
    most: u64,
) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    let ask = |connection: &Connection| {
        let mut here = select(connection, sql, &[Value::Integer(integer(value))])?;
        for row in &mut here {
            tell(connection, row)?;
        }
        Ok(here)
    };
    each_segment(dir, family, (least, most), ask, |here| {
        rows.extend(here);
        // One message is in one place; a session may have several.
        least != most || rows.is_empty()
    })?;
    Ok(rows)
}

/// The steps of one row, the plain ones from its own columns.
fn tell(connection: &Connection, row: &mut Row) -> rusqlite::Result<()> {
    let step =
        |at: &str, what: &str, says: Option<String>| Step { at: at.to_owned(), what: what.to_owned(), says };
    if row.stage.is_some() {
        row.history.push(step(&row.received, &row.status, row.reply.clone()));
        return Ok(());
    }
    let arrival = match row.relay.as_deref() {
        Some("notice") => "composed",
        Some("lost") => "arrival-not-kept",
        Some("inline") => "streamed",
        _ => "accepted",
    };
    let came = match (&row.attribution, &row.connector) {
        (Some(attribution), Some(connector)) if attribution != connector => {
            Some(format!("{attribution} by {connector}"))
        }
        (attribution, _) => attribution.clone(),
    };
    row.history.push(step(&row.received, arrival, came));
    let sql = "SELECT at, what, says FROM history WHERE id = ?1 AND (recipient = '' OR recipient = ?2 COLLATE NOCASE) \
               ORDER BY at";
    let mut statement = connection.prepare_cached(sql)?;
    let recipient = row.recipient.clone().unwrap_or_default();
    let steps = statement.query_map(rusqlite::params![integer(row.key), recipient], |found| {
        let at: i64 = found.get(0)?;
        Ok(Step { at: Timestamp::from_millis(at).to_string(), what: found.get(1)?, says: found.get(2)? })
    })?;
    for found in steps {
        row.history.push(found?);
    }
    let is_told = row.history.iter().any(|step| step.what == "delivered");
    if row.status == "delivered" && !is_told {
        let host = row.host.as_deref().or(row.next_hop.as_deref()).unwrap_or_default();
        let says =
            format!("attempt {} at {host}: {}", row.attempts, row.reply.as_deref().unwrap_or_default());
        row.history.push(step(&row.updated, "delivered", Some(says)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::journal::Position;
    use super::super::record::{Arrived, By, Fate, Heading, Outcome, Record, Refused};
    use super::super::store::{Limits, Store};
    use super::*;

    const DAY: i64 = 86_400_000;
    const START: i64 = 1_790_000_000_000;
    const REPLIES: [(u16, &str, &str); 4] = [
        (250, "2.0.0", "250 2.0.0 OK"),
        (250, "2.6.0", "250 2.6.0 OK"),
        (550, "5.1.1", "550 5.1.1 no such user"),
        (451, "4.4.62", "451 4.4.62 wrong region. ATTR35. For more"),
    ];
    const REFUSALS: [&str; 3] = [
        "451 4.4.62 Mail sent to the wrong Office 365 region. ATTR35. For more information",
        "451 4.4.4 Mail received as unauthenticated. ATTR5",
        "550 5.7.64 TenantAttribution; Relay Access Denied",
    ];

    /// Three sealed segments a day apart and an open one, of messages and of refusals.
    fn filled(dir: &Path) {
        let limits = Limits { keep: Duration::from_secs(30 * 86_400), max_bytes: 1 << 30 };
        let mut store = Store::open(dir, limits, START).expect("an empty folder");
        for part in 0..4 {
            let first = part * 60;
            let texts: Vec<_> = (first..first + 60).map(texts).collect();
            let records = (first..).zip(&texts).flat_map(|(number, texts)| records(part, number, texts));
            store.apply(records, Position::default()).expect("room");
            if part < 3 {
                store.tend(START + (part + 2) * DAY - DAY / 2, Position::default()).expect("room");
            }
        }
    }

    fn texts(number: i64) -> [String; 3] {
        let sender = if number % 3 == 0 {
            "news@Bulk.example".to_owned()
        } else {
            format!("s{}@b{}.example", number % 7, number % 5)
        };
        let recipient = if number % 4 == 0 {
            "orders@contoso.com".to_owned()
        } else {
            format!("u{}@contoso.com", number % 11)
        };
        [sender, recipient, format!("<{}@b.example>", number % 50)]
    }

    fn records(part: i64, number: i64, [sender, recipient, message_id]: &[String; 3]) -> Vec<Record<'_>> {
        let at = START + part * DAY + number;
        let pick = usize::try_from(number).expect("small");
        if number % 5 == 4 {
            let reply = REFUSALS[pick % 3];
            return vec![Record::Refused(Refused {
                key: first_id(at) | 1 << 21,
                at,
                client: None,
                stage: "recipient",
                sender: Some(sender),
                recipients: vec![recipient],
                message_id: "",
                reason: "test",
                rule: "",
                code: reply[..3].parse().expect("a code"),
                reply,
            })];
        }
        let (code, enhanced, reply) = REPLIES[pick % 4];
        let heading = Heading { address: recipient, region: "EUR", ingress: "EUR", irr: "", rule: "" };
        let arrived = Record::Arrived(Arrived {
            id: first_id(at),
            at,
            client: None,
            attribution: "incoming",
            sender,
            message_id,
            subject: "",
            authentication: "",
            size: 1,
            by: By::Spool,
            cause: None,
            recipients: vec![heading],
        });
        let fate = [Fate::Delivered, Fate::Delivered, Fate::Failed, Fate::Deferred][pick % 4];
        let outcome = Record::Outcome(Outcome {
            id: first_id(at),
            at,
            recipient,
            fate,
            next_hop: "store:EUR",
            region: "EUR",
            host: "",
            code,
            enhanced,
            reply,
            attempts: 1,
            next_attempt: at,
        });
        vec![arrived, outcome]
    }

    /// The same answer, by reading everything.
    fn fits(row: &Row, question: &Question) -> bool {
        let lower = |text: &Option<String>| text.as_deref().unwrap_or_default().to_ascii_lowercase();
        let address = |have: &Option<String>, asked: &Option<String>| {
            asked.as_ref().is_none_or(|asked| {
                let (have, asked) = (lower(have), asked.to_ascii_lowercase());
                if asked.starts_with('@') { have.ends_with(&asked) } else { have == asked }
            })
        };
        let reply = row.reply.as_deref().unwrap_or_default();
        address(&row.sender, &question.from)
            && address(&row.recipient, &question.to)
            && question.status.as_ref().is_none_or(|status| row.status == *status)
            && question.message_id.as_ref().is_none_or(|id| row.message_id.as_ref() == Some(id))
            && question.code.as_ref().is_none_or(|code| {
                row.code.is_some_and(|have| have.to_string() == *code)
                    || row.enhanced.as_ref() == Some(code)
                    || reply.split(' ').any(|word| word.trim_end_matches('.') == *code)
            })
    }

    #[test]
    fn every_combination_finds_what_reading_everything_finds() {
        let dir = tempfile::tempdir().expect("a folder");
        filled(dir.path());
        let sealed = Family::Messages.list(dir.path()).expect("a folder").len();
        assert_eq!(sealed, 4, "three sealed and an open one");
        let now = Timestamp::from_millis(START + 10 * DAY);
        let ask = |question: &Question| {
            search(dir.path(), question, now).unwrap_or_else(|error| panic!("{error}: {question:?}"))
        };
        let all = ask(&Question { limit: Some(10_000), ..Question::default() });
        assert_eq!(all.len(), 240);
        let some = |texts: &[&str]| -> Vec<Option<String>> {
            std::iter::once(None).chain(texts.iter().map(|text| Some((*text).to_owned()))).collect()
        };
        let hold = |question: &Question| {
            let limit = question.limit.unwrap_or(LIMIT_DEFAULT);
            let expected: Vec<&Row> = all.iter().filter(|row| fits(row, question)).take(limit).collect();
            assert_eq!(ask(question).iter().collect::<Vec<_>>(), expected, "{question:?}");
            expected.len()
        };
        let (mut found, mut questions) = (0, 0);
        for from in some(&["NEWS@bulk.example", "@bulk.example", "@b3.example", "nobody@x.example"]) {
            for to in some(&["orders@contoso.com", "@Contoso.com", "u3@contoso.com"]) {
                for code in some(&["250", "550", "451", "2.6.0", "5.7.64", "ATTR35", "ATTR5", "ATTR3", "421"])
                {
                    for status in some(&["delivered", "failed", "deferred", "rejected", "held"]) {
                        // Every other one ends early.
                        questions += 1;
                        let question = Question {
                            from: from.clone(),
                            to: to.clone(),
                            code: code.clone(),
                            status: status.clone(),
                            limit: Some(if questions % 2 == 0 { 3 } else { 1_000 }),
                            ..Question::default()
                        };
                        found += hold(&question);
                    }
                }
            }
        }
        let by_id = Question { message_id: Some("<7@b.example>".to_owned()), ..Question::default() };
        assert!(hold(&by_id) > 1);
        assert!(found > 1_000, "only {found} rows were found at all");
        let since = Timestamp::from_millis(START + DAY).to_string();
        let until = Timestamp::from_millis(START + 2 * DAY).to_string();
        let within = ask(&Question {
            since: Some(since),
            until: Some(until),
            code: Some("550".to_owned()),
            limit: Some(1_000),
            ..Question::default()
        });
        let expected = all.iter().filter(|row| {
            row.code == Some(550)
                && row.key >= first_id(START + DAY)
                && row.key < first_id(START + 2 * DAY + 1)
        });
        assert_eq!(within.iter().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}
