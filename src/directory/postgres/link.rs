//! Link: one connection to PostgreSQL, and the four questions that nodes ask over it.

use std::error::Error as _;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{AsyncMessage, Client, Connection, Row, Statement};

use super::outline;
use crate::directory::source::{Answer, ChangedUsers, Changes, Link, Mark, Outline, Trouble};
use crate::mail::{Address, Licenses, Region, User};

/// Of a strict tenant's user whose home is elsewhere only the region leaves the server (rule 22).
pub const LOOK_UP: &str = "
    SELECT a.address, h.elsewhere,
           CASE WHEN h.elsewhere IS NULL THEN coalesce(m.written, m.address) END,
           CASE WHEN h.elsewhere IS NULL THEN m.preferred_data_location END,
           h.elsewhere IS NULL AND m.licensed_multi_geo,
           h.elsewhere IS NULL AND m.licensed_mail
    FROM landfall.address a
    JOIN landfall.mailbox m ON m.id = a.mailbox AND m.tenant = a.tenant
    JOIN landfall.tenant t ON t.id = a.tenant
    CROSS JOIN LATERAL (
        SELECT CASE WHEN t.residency = 'strict' THEN nullif(
            coalesce((SELECT r.region FROM landfall.tenant_region r
                      WHERE r.tenant = t.id AND r.region = upper(m.preferred_data_location)),
                     t.default_region), $2) END AS elsewhere) h
    WHERE a.address = ANY ($1)";

const CHANGES: &str = "
    SELECT r.directory, r.number, (SELECT min(revision) FROM landfall.change), c.what, c.address
    FROM landfall.revision r LEFT JOIN landfall.change c ON c.revision > $1 AND c.revision <= r.number
    LIMIT 10001";
/// The last row of that many means that there are more.
const CHANGES_LIMIT: usize = 10_000;

pub(in crate::directory) struct PostgresLink {
    pub(super) client: Client,
    driver: JoinHandle<()>,
    look_up: Option<Statement>,
    changes: Option<Statement>,
    node_region: Region,
    /// The server called, or is gone.
    wake: Arc<Notify>,
}

impl Drop for PostgresLink {
    fn drop(&mut self) {
        // A server that does not answer would keep the connection for good.
        self.driver.abort();
    }
}

impl PostgresLink {
    pub(super) fn new<S, T>(client: Client, connection: Connection<S, T>, node_region: Region) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let wake = Arc::new(Notify::new());
        let driver = tokio::spawn(drive(connection, Arc::clone(&wake)));
        Self { client, driver, look_up: None, changes: None, node_region, wake }
    }

    /// Asks to be called when something changes. Replicas and some compatible servers cannot: then the poll
    /// of each second is all there is.
    async fn listen(&self) {
        let _ = self.client.batch_execute("LISTEN landfall_directory").await;
    }
}

async fn drive<S, T>(mut connection: Connection<S, T>, wake: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            wake.notify_one();
        }
    }
    wake.notify_one();
}

impl Link for PostgresLink {
    async fn look_up(&mut self, keys: &[&str]) -> Result<Vec<Option<Answer>>, Trouble> {
        let statement = match &self.look_up {
            Some(statement) => statement,
            None => self.look_up.insert(self.client.prepare(LOOK_UP).await.map_err(trouble)?),
        };
        let region = self.node_region.as_str();
        let rows = self.client.query(statement, &[&keys, &region]).await.map_err(trouble)?;
        let mut answers = vec![Some(Answer::Absent); keys.len()];
        // The server may give them in any order.
        let mut place: std::collections::HashMap<&str, Vec<usize>> = std::collections::HashMap::new();
        for (at, key) in keys.iter().enumerate() {
            place.entry(key).or_default().push(at);
        }
        for row in &rows {
            let key: &str = row.try_get(0).map_err(trouble)?;
            let answer = answer(row).ok();
            for at in place.get(key).into_iter().flatten() {
                answers[*at] = answer.clone();
            }
        }
        Ok(answers)
    }

    async fn outline(&mut self) -> Result<Outline, Trouble> {
        outline::read(&mut self.client).await
    }

    async fn changes(&mut self, since: Option<&Mark>) -> Result<Changes, Trouble> {
        let statement = match &self.changes {
            Some(statement) => statement,
            None => {
                self.listen().await;
                self.changes.insert(self.client.prepare(CHANGES).await.map_err(trouble)?)
            }
        };
        let known = since.and_then(|mark| {
            let (directory, number) = mark.0.split_once(' ')?;
            Some((directory, number.parse::<i64>().ok()?))
        });
        let from = known.map_or(i64::MAX, |(_, number)| number);
        let rows = self.client.query(statement, &[&from]).await.map_err(trouble)?;
        let first = rows.first().ok_or_else(|| {
            Trouble::Refused("landfall.revision has lost its row: the schema is damaged".to_owned())
        })?;
        let directory: &str = first.try_get(0).map_err(trouble)?;
        let number: i64 = first.try_get(1).map_err(trouble)?;
        let oldest: Option<i64> = first.try_get(2).map_err(trouble)?;
        let mark = Mark(format!("{directory} {number}"));
        let everything = || Changes { mark: mark.clone(), outline: true, users: ChangedUsers::All };
        let Some((of, seen)) = known else { return Ok(everything()) };
        // Another directory, an older state of this one, or changes that nobody remembers any more.
        let is_gap = number > seen && oldest.is_none_or(|oldest| oldest > seen + 1);
        if of != directory || number < seen || is_gap || rows.len() > CHANGES_LIMIT {
            return Ok(everything());
        }
        let (mut outline, mut keys) = (false, Vec::new());
        for row in &rows {
            match row.try_get::<_, Option<&str>>(3).map_err(trouble)? {
                Some("address") => keys.push(row.try_get(4).map_err(trouble)?),
                Some("outline") => outline = true,
                Some(_) => return Ok(everything()),
                None => {}
            }
        }
        Ok(Changes { mark, outline, users: ChangedUsers::These(keys) })
    }

    async fn wait(&mut self, at_most: Duration) {
        // Called, gone or none of both: the next question tells.
        let _ = tokio::time::timeout(at_most, self.wake.notified()).await;
    }
}

fn answer(row: &Row) -> Result<Answer, Trouble> {
    if let Some(code) = row.try_get::<_, Option<&str>>(1).map_err(trouble)? {
        let region = Region::parse(code);
        return region.map(Answer::Elsewhere).ok_or_else(|| nonsense("region code", code));
    }
    let primary: &str = row.try_get(2).map_err(trouble)?;
    let location: Option<&str> = row.try_get(3).map_err(trouble)?;
    Ok(Answer::User(User {
        primary: Address::parse(primary).map_err(|_| nonsense("address", primary))?,
        preferred_data_location: location.map(Into::into),
        licenses: Licenses {
            multi_geo: row.try_get(4).map_err(trouble)?,
            mail: row.try_get(5).map_err(trouble)?,
        },
    }))
}

fn nonsense(what: &str, text: &str) -> Trouble {
    Trouble::Refused(format!("{text:?} in the directory is no {what}"))
}

/// What the library says, with its reasons.
pub(super) fn trouble(error: tokio_postgres::Error) -> Trouble {
    if let Some(said) = error.as_db_error() {
        let mut text = said.message().to_owned();
        for more in [said.detail(), said.hint()].into_iter().flatten() {
            write!(text, "; {more}").expect("a String takes it");
        }
        let missing = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::UNDEFINED_COLUMN];
        if missing.contains(said.code()) {
            text.push_str("; `landfall directory migrate` puts the schema in place");
        }
        let ends = matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
        return if ends { Trouble::Broken(text) } else { Trouble::Refused(text) };
    }
    let mut text = error.to_string();
    let mut reason = error.source();
    while let Some(why) = reason {
        write!(text, ": {why}").expect("a String takes it");
        reason = why.source();
    }
    Trouble::Broken(text)
}
