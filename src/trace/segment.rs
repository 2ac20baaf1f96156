//! Segment: one SQLite file of rows, and the statements that fill it.
//!
//! Rows come in the order of their ids, without any index but the primary keys. When a segment is full it is
//! sealed: all indexes are made at once, which costs a fraction of keeping them row by row. What is not
//! sealed is small enough to be read through.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::journal::Position;
use super::record::{Arrived, By, Client, Fate, Happening, Heading, Outcome, Refused, Turn};

pub(super) type Result<T> = std::result::Result<T, rusqlite::Error>;

/// What a row's `status` stands for; the numbers are in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Delivered = 0,
    Pending = 1,
    Deferred = 2,
    Failed = 3,
    Rejected = 4,
    Held = 5,
    Deleted = 6,
    /// It has ended, and a crash came before its end was written down here.
    Unknown = 7,
    /// Recipients were accepted, and the client went before there was a message.
    Abandoned = 8,
}

const STATUSES: [(Status, &str); 9] = [
    (Status::Delivered, "delivered"),
    (Status::Pending, "pending"),
    (Status::Deferred, "deferred"),
    (Status::Failed, "failed"),
    (Status::Rejected, "rejected"),
    (Status::Held, "held"),
    (Status::Deleted, "deleted"),
    (Status::Unknown, "unknown"),
    (Status::Abandoned, "abandoned"),
];

impl Status {
    pub fn word(self) -> &'static str {
        STATUSES[self as usize].1
    }

    pub fn parse(word: &str) -> Option<Self> {
        STATUSES.iter().find(|(_, name)| *name == word).map(|(status, _)| *status)
    }

    pub(super) fn of(number: i64) -> Self {
        let found = STATUSES.iter().find(|(status, _)| *status as i64 == number);
        found.map_or(Self::Unknown, |(status, _)| *status)
    }
}

/// The reason of those that nobody refused: the transaction never came to its end.
pub const BROKEN_OFF: &str = "broken-off";

/// The confined daemon may write below its state alone; SQLite's statement journals and sorters would be in a
/// temporary folder.
const NO_FILES_ELSEWHERE: &str = "PRAGMA temp_store = MEMORY";

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS message (
  id INTEGER PRIMARY KEY, session INTEGER, received INTEGER NOT NULL, ip TEXT, helo TEXT, tls TEXT, listener TEXT,
  attribution TEXT, sender TEXT COLLATE NOCASE, mid INTEGER, message_id TEXT, subject TEXT, authentication TEXT,
  size INTEGER, relay TEXT, cause INTEGER, stage TEXT);
CREATE TABLE IF NOT EXISTS recipient (
  id INTEGER NOT NULL, n INTEGER NOT NULL, address TEXT COLLATE NOCASE, status INTEGER NOT NULL, region TEXT,
  ingress TEXT, irr TEXT, rule TEXT, reason TEXT, code INTEGER, enhanced TEXT, reply TEXT, host TEXT, next_hop TEXT,
  attempts INTEGER, updated INTEGER, next_attempt INTEGER, PRIMARY KEY (id, n)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
  id INTEGER NOT NULL, at INTEGER NOT NULL, what TEXT NOT NULL, recipient TEXT NOT NULL, says TEXT,
  PRIMARY KEY (id, at, what, recipient)) WITHOUT ROWID;
";

/// `ATTR35` of a reply: its first word that begins so, without a full stop behind it.
pub(super) const TOKEN: &str = "rtrim(substr(substr(reply, instr(reply, ' ATTR') + 1), 1, \
     instr(substr(reply, instr(reply, ' ATTR') + 1) || ' ', ' ') - 1), '.')";

/// What a sealed segment is searched by. Each ends in the row's id, so that the newest come first by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Index {
    Sender,
    MessageId,
    Session,
    Address,
    Status,
    Code,
    Enhanced,
    Token,
}

impl Index {
    const ALL: [Self; 8] = [
        Self::Sender,
        Self::MessageId,
        Self::Session,
        Self::Address,
        Self::Status,
        Self::Code,
        Self::Enhanced,
        Self::Token,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sender => "message_by_sender",
            Self::MessageId => "message_by_mid",
            Self::Session => "message_by_session",
            Self::Address => "recipient_by_address",
            Self::Status => "recipient_by_status",
            Self::Code => "recipient_by_code",
            Self::Enhanced => "recipient_by_enhanced",
            Self::Token => "recipient_by_token",
        }
    }

    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Sender | Self::MessageId | Self::Session => "message",
            Self::Address | Self::Status | Self::Code | Self::Enhanced | Self::Token => "recipient",
        }
    }

    /// The name of that table in a question.
    pub(super) fn leads(self) -> &'static str {
        if self.table() == "message" { "m" } else { "c" }
    }

    /// Both tables, led by this index. Of recipients it stands apart from their rows, so that what the index
    /// alone can tell is asked before any row is read.
    pub(super) fn tables(self) -> String {
        let name = self.name();
        if self.table() == "message" {
            format!("message m INDEXED BY {name} CROSS JOIN recipient r ON r.id = m.id")
        } else {
            format!(
                "recipient c INDEXED BY {name} CROSS JOIN recipient r ON r.id = c.id AND r.n = c.n \
                 CROSS JOIN message m ON m.id = r.id"
            )
        }
    }

    /// Whether the status stands in it.
    pub(super) fn has_status(self) -> bool {
        matches!(self, Self::Address | Self::Code | Self::Enhanced | Self::Token)
    }

    fn sql(self) -> String {
        let (name, table) = (self.name(), self.table());
        let on = match self {
            Self::Sender => "(sender)",
            Self::MessageId => "(mid) WHERE mid IS NOT NULL",
            Self::Session => "(session) WHERE session IS NOT NULL",
            // The status goes along, so that asking for both reads no row.
            Self::Address => "(address, id, n, status)",
            // Most are delivered, and are found without.
            Self::Status => "(status) WHERE status <> 0",
            Self::Code => "(code, id, n, status)",
            Self::Enhanced => "(enhanced, id, n, status)",
            Self::Token => {
                return format!(
                    "CREATE INDEX IF NOT EXISTS {name} ON {table} ({TOKEN}, id, n, status) WHERE instr(reply, ' ATTR') > 0"
                );
            }
        };
        format!("CREATE INDEX IF NOT EXISTS {name} ON {table} {on}")
    }
}

/// Messages and refusals live apart, so that a flood of the one cannot push out the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
    Messages,
    Refusals,
}

impl Family {
    fn prefix(self) -> &'static str {
        match self {
            Self::Messages => "messages-",
            Self::Refusals => "refusals-",
        }
    }

    /// The segments that are there, oldest first, by their first id.
    pub(super) fn list(self, dir: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let digits = name.strip_prefix(self.prefix()).and_then(|rest| rest.strip_suffix(".db"));
            if let Some(first) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
                found.push((first, path));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    pub(super) fn path(self, dir: &Path, first: u64) -> PathBuf {
        dir.join(format!("{}{first:016x}.db", self.prefix()))
    }
}

/// As SQLite keeps it.
#[expect(clippy::cast_possible_wrap, reason = "the same 64 bits; ids stay below the sign bit until 2039")]
pub(super) fn integer(id: u64) -> i64 {
    id as i64
}

#[expect(clippy::cast_sign_loss, reason = "the same 64 bits")]
pub(super) fn unsigned(id: i64) -> u64 {
    id as u64
}

/// Domain first, so that one index serves an address and a whole domain: `contoso.com@anna`.
pub(super) fn turned(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((local, domain)) => format!("{domain}@{local}"),
        None => address.to_owned(),
    }
}

/// And back.
pub(super) fn unturned(column: &str) -> String {
    match column.split_once('@') {
        Some((domain, local)) => format!("{local}@{domain}"),
        None => column.to_owned(),
    }
}

/// What a Message-ID is found by: FNV-1a, short and good enough to look a text up.
pub(super) fn hashed(text: &str) -> Option<i64> {
    let bare = text.trim().trim_start_matches('<').trim_end_matches('>');
    if bare.is_empty() {
        return None;
    }
    let hash = bare
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    Some(integer(hash))
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// How one recipient stands, as far as this batch knows.
pub(super) struct Standing<'a> {
    pub(super) heading: Heading<'a>,
    pub(super) status: Status,
    pub(super) outcome: Option<Outcome<'a>>,
    pub(super) updated: i64,
}

/// A message that arrived in this batch, with what already became of it.
pub(super) struct Fresh<'a> {
    pub(super) arrived: Arrived<'a>,
    pub(super) standings: Vec<Standing<'a>>,
}

impl<'a> Fresh<'a> {
    pub(super) fn new(arrived: Arrived<'a>) -> Self {
        let standings = arrived
            .recipients
            .iter()
            .map(|heading| Standing {
                heading: *heading,
                status: Status::Pending,
                outcome: None,
                updated: arrived.at,
            })
            .collect();
        Self { arrived, standings }
    }
}

pub(super) fn status_after(fate: Fate) -> Status {
    match fate {
        Fate::Delivered => Status::Delivered,
        Fate::Deferred => Status::Deferred,
        Fate::Failed | Fate::Expired => Status::Failed,
    }
}

/// The first answer that delivers needs no line of history: the row says it all.
pub(super) fn is_plain(outcome: &Outcome<'_>) -> bool {
    outcome.fate == Fate::Delivered && outcome.attempts <= 1
}

/// One file open for writing.
pub(super) struct Segment {
    connection: Connection,
    /// Not counted in a sealed one.
    pub(super) rows: u64,
    pub(super) max_id: u64,
    pub(super) sealed: bool,
}

impl Segment {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.set_prepared_statement_cache_capacity(32);
        connection.execute_batch(NO_FILES_ELSEWHERE)?;
        connection.execute_batch(
            "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; \
             PRAGMA wal_autocheckpoint = 4096; PRAGMA cache_size = -2048; PRAGMA journal_size_limit = 1048576;",
        )?;
        connection.execute_batch(SCHEMA)?;
        let sealed = meta(&connection, "sealed")?.is_some();
        let count = if sealed { "SELECT 0" } else { "SELECT count(*) FROM recipient" };
        let rows: i64 = connection.query_row(count, [], |row| row.get(0))?;
        let max: i64 =
            connection.query_row("SELECT coalesce(max(id), 0) FROM message", [], |row| row.get(0))?;
        Ok(Self { connection, rows: unsigned(rows), max_id: unsigned(max), sealed })
    }

    pub(super) fn begin(&self) -> Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    pub(super) fn commit(&self) -> Result<()> {
        self.connection.execute_batch("COMMIT")
    }

    pub(super) fn release_memory(&self) {
        let _ = self.connection.release_memory();
    }

    pub(super) fn bytes(&self) -> Result<u64> {
        let size = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        Ok(unsigned(self.connection.query_row(size, [], |row| row.get(0))?))
    }

    pub(super) fn seal(&mut self) -> Result<()> {
        self.connection.execute_batch("PRAGMA synchronous = OFF")?;
        for index in Index::ALL {
            self.connection.execute_batch(&index.sql())?;
        }
        self.connection.execute_batch("PRAGMA synchronous = NORMAL;")?;
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES ('sealed', '1')", [])?;
        self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
        self.sealed = true;
        Ok(())
    }

    pub(super) fn position(&self) -> Result<Option<Position>> {
        Ok(meta(&self.connection, "position")?.and_then(|text| serde_json::from_str(&text).ok()))
    }

    pub(super) fn set_position(&self, position: Position) -> Result<()> {
        let text = serde_json::to_string(&position).expect("two numbers");
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO meta VALUES ('position', ?1)")?
            .execute([text])
            .map(drop)
    }

    pub(super) fn insert(&mut self, fresh: &Fresh<'_>) -> Result<()> {
        let Fresh { arrived, standings } = fresh;
        let verb = if arrived.by == By::Recovery { "IGNORE" } else { "REPLACE" };
        let inserted = self.put_message(
            verb,
            arrived.id,
            arrived.at,
            arrived.client.as_ref(),
            &MessageFields {
                attribution: arrived.attribution,
                sender: Some(arrived.sender),
                message_id: arrived.message_id,
                subject: arrived.subject,
                authentication: arrived.authentication,
                size: Some(arrived.size),
                relay: arrived.by.word(),
                cause: arrived.cause,
                stage: "",
            },
        )?;
        if !inserted {
            return Ok(());
        }
        for (n, standing) in standings.iter().enumerate() {
            let Standing { heading, status, outcome, updated } = standing;
            let outcome = outcome.as_ref();
            self.put_recipient(
                arrived.id,
                n,
                &RecipientFields {
                    address: heading.address,
                    status: *status,
                    region: home_by(heading.region, outcome),
                    ingress: heading.ingress,
                    irr: heading.irr,
                    rule: heading.rule,
                    reason: "",
                    code: outcome.map(|outcome| outcome.code),
                    enhanced: outcome.map_or("", |outcome| outcome.enhanced),
                    reply: outcome.map_or("", |outcome| outcome.reply),
                    host: outcome.map_or("", |outcome| outcome.host),
                    next_hop: outcome.map_or("", |outcome| outcome.next_hop),
                    attempts: outcome.map_or(0, |outcome| outcome.attempts),
                    updated: *updated,
                    next_attempt: outcome
                        .filter(|outcome| outcome.fate == Fate::Deferred)
                        .map(|it| it.next_attempt),
                },
            )?;
        }
        Ok(())
    }

    pub(super) fn insert_refused(&mut self, refused: &Refused<'_>) -> Result<()> {
        let relay = "";
        let inserted = self.put_message(
            "IGNORE",
            refused.key,
            refused.at,
            refused.client.as_ref(),
            &MessageFields {
                attribution: "",
                sender: refused.sender,
                message_id: refused.message_id,
                subject: "",
                authentication: "",
                size: None,
                relay,
                cause: None,
                stage: refused.stage,
            },
        )?;
        if !inserted {
            return Ok(());
        }
        let enhanced = refused.reply.split(' ').nth(1).filter(|word| is_enhanced(word)).unwrap_or_default();
        let nobody = [""];
        let recipients = if refused.recipients.is_empty() { &nobody[..] } else { &refused.recipients };
        for (n, address) in recipients.iter().enumerate() {
            self.put_recipient(
                refused.key,
                n,
                &RecipientFields {
                    address,
                    status: if refused.reason == BROKEN_OFF { Status::Abandoned } else { Status::Rejected },
                    region: "",
                    ingress: "",
                    irr: "",
                    rule: refused.rule,
                    reason: refused.reason,
                    code: Some(refused.code),
                    enhanced,
                    reply: refused.reply,
                    host: "",
                    next_hop: "",
                    attempts: 0,
                    updated: refused.at,
                    next_attempt: None,
                },
            )?;
        }
        Ok(())
    }

    fn put_message(
        &mut self,
        verb: &str,
        id: u64,
        received: i64,
        client: Option<&Client<'_>>,
        fields: &MessageFields<'_>,
    ) -> Result<bool> {
        let sql = match verb {
            "IGNORE" => {
                "INSERT OR IGNORE INTO message VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)"
            }
            _ => {
                "INSERT OR REPLACE INTO message VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)"
            }
        };
        let ip = client.map(|client| client.ip.to_string());
        let changed = self.connection.prepare_cached(sql)?.execute(params![
            integer(id),
            client.map(|client| integer(client.session)).filter(|session| *session != 0),
            received,
            ip,
            client.and_then(|client| some(client.helo)),
            client.and_then(|client| some(client.tls)),
            client.and_then(|client| some(client.listener)),
            some(fields.attribution),
            fields.sender.map(turned),
            hashed(fields.message_id),
            some(fields.message_id),
            some(fields.subject),
            some(fields.authentication),
            fields.size.map(integer),
            some(fields.relay),
            fields.cause.map(integer),
            some(fields.stage),
        ])?;
        self.max_id = self.max_id.max(id);
        Ok(changed > 0)
    }

    fn put_recipient(&mut self, id: u64, n: usize, fields: &RecipientFields<'_>) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO recipient VALUES \
                   (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)";
        self.connection.prepare_cached(sql)?.execute(params![
            integer(id),
            i64::try_from(n).unwrap_or(i64::MAX),
            some(&turned(fields.address)),
            fields.status as i64,
            some(fields.region),
            some(fields.ingress),
            some(fields.irr),
            some(fields.rule),
            some(fields.reason),
            fields.code,
            some(fields.enhanced),
            some(fields.reply),
            some(fields.host),
            some(fields.next_hop),
            fields.attempts,
            fields.updated,
            fields.next_attempt,
        ])?;
        self.rows += 1;
        Ok(())
    }

    /// Of a message from an earlier batch; its home as `home_by` has it. What is not known here is put in as far
    /// as the outcome tells.
    pub(super) fn update(&mut self, outcome: &Outcome<'_>) -> Result<()> {
        let sql = "UPDATE recipient SET status=?3, code=?4, enhanced=?5, reply=?6, host=?7, next_hop=?8, attempts=?9, \
                   updated=?10, next_attempt=?11, reason=NULL, \
                   region=CASE WHEN ?12='' OR (region IS NULL AND ?8 NOT LIKE 'store:%') THEN region ELSE ?12 END \
                   WHERE id=?1 AND address=?2";
        let status = status_after(outcome.fate);
        let next_attempt = (outcome.fate == Fate::Deferred).then_some(outcome.next_attempt);
        let changed = self.connection.prepare_cached(sql)?.execute(params![
            integer(outcome.id),
            turned(outcome.recipient),
            status as i64,
            outcome.code,
            some(outcome.enhanced),
            some(outcome.reply),
            some(outcome.host),
            some(outcome.next_hop),
            outcome.attempts,
            outcome.at,
            next_attempt,
            outcome.region,
        ])?;
        if changed == 0 {
            self.insert_unknown(outcome, status, next_attempt)?;
        }
        Ok(())
    }

    /// Whether the end of this recipient is still to be told.
    pub(super) fn is_open(&self, outcome: &Outcome<'_>) -> Result<bool> {
        let sql = "SELECT 1 FROM recipient WHERE id=?1 AND address=?2 AND status NOT IN (1,2,5,7)";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.exists(params![integer(outcome.id), turned(outcome.recipient)]).map(|has_ended| !has_ended)
    }

    /// Its arrival was lost: what is left of it is told all the same.
    fn insert_unknown(
        &mut self,
        outcome: &Outcome<'_>,
        status: Status,
        next_attempt: Option<i64>,
    ) -> Result<()> {
        let received = i64::try_from(outcome.id >> 22).unwrap_or(0);
        let fields = MessageFields { relay: "lost", ..MessageFields::default() };
        self.put_message("IGNORE", outcome.id, received, None, &fields)?;
        let next: i64 = self.connection.query_row(
            "SELECT coalesce(max(n) + 1, 0) FROM recipient WHERE id = ?1",
            [integer(outcome.id)],
            |row| row.get(0),
        )?;
        self.put_recipient(
            outcome.id,
            usize::try_from(next).unwrap_or(0),
            &RecipientFields {
                address: outcome.recipient,
                status,
                region: outcome.region,
                code: Some(outcome.code),
                enhanced: outcome.enhanced,
                reply: outcome.reply,
                host: outcome.host,
                next_hop: outcome.next_hop,
                attempts: outcome.attempts,
                updated: outcome.at,
                next_attempt,
                ..RecipientFields::default()
            },
        )
    }

    pub(super) fn add_history(
        &self,
        id: u64,
        at: i64,
        what: &str,
        recipient: &str,
        says: &str,
    ) -> Result<()> {
        self.connection
            .prepare_cached("INSERT OR IGNORE INTO history VALUES (?1,?2,?3,?4,?5)")?
            .execute(params![integer(id), at, what, recipient, some(says)])
            .map(drop)
    }

    /// An operator's word, or the node's: for those recipients that have not ended.
    pub(super) fn turn(&self, happening: &Happening<'_>) -> Result<()> {
        let status = match happening.turn {
            Turn::None => return Ok(()),
            // What was done to it is over, and stays in its history.
            Turn::Pending => Status::Pending,
            Turn::Held => Status::Held,
            Turn::Deleted => Status::Deleted,
            Turn::Failed => Status::Failed,
        };
        // When it would have been tried next is no longer so: it is kept back, or over, or tried now.
        let sql = "UPDATE recipient SET status=?2, reason=?3, updated=?4, next_attempt=NULL \
                   WHERE id=?1 AND status IN (1,2,5,7) AND (?5 = '' OR address=?5)";
        self.connection
            .prepare_cached(sql)?
            .execute(params![
                integer(happening.id),
                status as i64,
                some(happening.says).filter(|_| status != Status::Pending),
                happening.at,
                turned(happening.recipient)
            ])
            .map(drop)
    }

    /// What counts as open here, below `before`.
    pub(super) fn open_ids(&self, before: u64) -> Result<Vec<u64>> {
        let sql = "SELECT DISTINCT id FROM recipient WHERE status <> 0 AND status IN (1,2,5) AND id < ?1";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([integer(before)], |row| row.get::<_, i64>(0))?;
        rows.map(|id| id.map(unsigned)).collect()
    }

    /// The spool has it no longer, and its end was lost with the process.
    pub(super) fn mark_unknown(&self, id: u64, at: i64) -> Result<()> {
        let sql = "UPDATE recipient SET status=7, reason=?2, updated=?3 WHERE id=?1 AND status IN (1,2,5)";
        let why = "ended just before the node stopped hard; the log has its end";
        self.connection.prepare_cached(sql)?.execute(params![integer(id), why, at]).map(drop)
    }
}

/// The home region: as it was at the acceptance, or where the way on, decided again, has led since (rule 89).
/// A relay without a home at the acceptance leads to where the mail enters, a store to where it lives.
fn home_by<'a>(at_acceptance: &'a str, outcome: Option<&'a Outcome<'a>>) -> &'a str {
    let Some(outcome) = outcome.filter(|outcome| !outcome.region.is_empty()) else { return at_acceptance };
    let is_home = !at_acceptance.is_empty() || outcome.next_hop.starts_with("store:");
    if is_home { outcome.region } else { at_acceptance }
}

#[derive(Default)]
struct MessageFields<'a> {
    attribution: &'a str,
    sender: Option<&'a str>,
    message_id: &'a str,
    subject: &'a str,
    authentication: &'a str,
    size: Option<u64>,
    relay: &'a str,
    cause: Option<u64>,
    stage: &'a str,
}

struct RecipientFields<'a> {
    address: &'a str,
    status: Status,
    region: &'a str,
    ingress: &'a str,
    irr: &'a str,
    rule: &'a str,
    reason: &'a str,
    code: Option<u16>,
    enhanced: &'a str,
    reply: &'a str,
    host: &'a str,
    next_hop: &'a str,
    attempts: u32,
    updated: i64,
    next_attempt: Option<i64>,
}

impl Default for RecipientFields<'_> {
    fn default() -> Self {
        Self {
            address: "",
            status: Status::Unknown,
            region: "",
            ingress: "",
            irr: "",
            rule: "",
            reason: "",
            code: None,
            enhanced: "",
            reply: "",
            host: "",
            next_hop: "",
            attempts: 0,
            updated: 0,
            next_attempt: None,
        }
    }
}

/// `5.7.64`
fn is_enhanced(word: &str) -> bool {
    word.split('.').count() == 3
        && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

fn meta(connection: &Connection, key: &str) -> Result<Option<String>> {
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

/// For looking only. A segment that is being deleted, or is no database, reads as none.
pub(super) fn open_to_read(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(2))?;
    connection.execute_batch(NO_FILES_ELSEWHERE)?;
    Ok(connection)
}
