//! Schema: the tables of a directory in PostgreSQL, in versions that are put in place one after the other.

use tokio_postgres::Client;

use super::link::trouble;
use crate::directory::source::Trouble;
use crate::mail::Region;

const VERSIONS: [&str; 3] =
    [include_str!("schema/1.sql"), include_str!("schema/2.sql"), include_str!("schema/3.sql")];
/// Whoever migrates holds this lock; the number is ours alone by its improbability.
const LOCK: i64 = 0x6c61_6e64_6661_6c6c;

/// What `migrate` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    pub from: usize,
    pub to: usize,
    /// Region codes of the configuration that the directory did not know.
    pub regions: Vec<Region>,
}

/// Puts every missing version in place, all or none.
pub(super) async fn migrate(client: &mut Client, region_codes: &[Region]) -> Result<Migration, Trouble> {
    let transaction = client.transaction().await.map_err(trouble)?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(trouble)?;
    transaction
        .batch_execute(
            "CREATE SCHEMA IF NOT EXISTS landfall;
             CREATE TABLE IF NOT EXISTS landfall.schema_version (
                 version integer PRIMARY KEY, put_in_place timestamptz NOT NULL DEFAULT now());",
        )
        .await
        .map_err(trouble)?;
    let row = transaction
        .query_one("SELECT coalesce(max(version), 0) FROM landfall.schema_version", &[])
        .await
        .map_err(trouble)?;
    let from = usize::try_from(row.get::<_, i32>(0)).unwrap_or(0);
    if from > VERSIONS.len() {
        return Err(Trouble::Refused(format!(
            "the schema is version {from}, and this program knows versions up to {}",
            VERSIONS.len()
        )));
    }
    for (index, sql) in VERSIONS.iter().enumerate().skip(from) {
        transaction.batch_execute(sql).await.map_err(trouble)?;
        let version = i32::try_from(index + 1).expect("there are few versions");
        transaction
            .execute("INSERT INTO landfall.schema_version (version) VALUES ($1)", &[&version])
            .await
            .map_err(trouble)?;
    }
    let mut regions = Vec::new();
    for region in region_codes {
        let sql = "INSERT INTO landfall.region (code)
                   SELECT $1 WHERE NOT EXISTS (SELECT FROM landfall.region WHERE code = $1)";
        if transaction.execute(sql, &[&region.as_str()]).await.map_err(trouble)? > 0 {
            regions.push(*region);
        }
    }
    transaction.commit().await.map_err(trouble)?;
    Ok(Migration { from, to: VERSIONS.len(), regions })
}
