//! Desk: the questions and changes of operators, over one connection.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::pin::pin;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::link::{PostgresLink, trouble};
use crate::directory::register::{Holds, Homes, Move};
use crate::directory::source::Trouble;
use crate::mail::{Address, Domain, Licenses, Region, User};

/// A user and its other addresses, with what is asked of it in `$1`.
const USERS: &str = "
    SELECT coalesce(m.written, m.address), m.preferred_data_location, m.licensed_multi_geo, m.licensed_mail,
           ARRAY(SELECT x.address FROM landfall.address x
                 WHERE x.mailbox = m.id AND x.address <> m.address ORDER BY x.address)
    FROM landfall.mailbox m JOIN landfall.address a ON a.address = m.address";

pub(in crate::directory) struct Desk {
    pub(super) link: PostgresLink,
}

impl Desk {
    pub(in crate::directory) fn new(link: PostgresLink) -> Self {
        Self { link }
    }

    pub(in crate::directory) async fn each_user(
        &mut self,
        of: Option<&Domain>,
        mut see: impl FnMut(User, Vec<Address>) -> ControlFlow<()>,
    ) -> Result<(), Trouble> {
        let sql = format!("{USERS} WHERE $1::text IS NULL OR a.domain = $1 ORDER BY m.address");
        let name = of.map(Domain::as_str);
        let asked: [&(dyn ToSql + Sync); 1] = [&name];
        let rows = self.link.client.query_raw(&sql, asked).await.map_err(trouble)?;
        let mut rows = pin!(rows);
        // A row at a time: there may be millions.
        while let Some(row) = next(&mut rows).await {
            let (user, aliases) = read(&row.map_err(trouble)?)?;
            if see(user, aliases).is_break() {
                break;
            }
        }
        Ok(())
    }

    pub(in crate::directory) async fn user(
        &mut self,
        address: &Address,
    ) -> Result<Option<(User, Vec<Address>)>, Trouble> {
        let sql = format!("{USERS} WHERE m.id = (SELECT mailbox FROM landfall.address WHERE address = $1)");
        let row = self.link.client.query_opt(&sql, &[&address.key()]).await.map_err(trouble)?;
        row.map(|row| read(&row)).transpose()
    }

    pub(in crate::directory) async fn homes(&mut self, of: &Domain) -> Result<Homes, Trouble> {
        let sql = "
            SELECT m.preferred_data_location, m.licensed_multi_geo, m.licensed_mail, count(*)
            FROM landfall.address a JOIN landfall.mailbox m ON m.id = a.mailbox AND m.address = a.address
            WHERE a.domain = $1 GROUP BY 1, 2, 3";
        let rows = self.link.client.query(sql, &[&of.as_str()]).await.map_err(trouble)?;
        let mut homes = BTreeMap::new();
        for row in rows {
            let location: Option<String> = row.get(0);
            let holds = Holds { multi_geo: row.get(1), mail: row.get(2) };
            homes.insert((location.map(Into::into), holds), u64::try_from(row.get::<_, i64>(3)).unwrap_or(0));
        }
        Ok(homes)
    }

    pub(in crate::directory) async fn user_count(&mut self) -> Result<u64, Trouble> {
        let sql = "SELECT count(*) FROM landfall.mailbox";
        let row = self.link.client.query_one(sql, &[]).await.map_err(trouble)?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    pub(in crate::directory) async fn set_mail_flow_region(&mut self, change: &Move) -> Result<(), Trouble> {
        let sql = "
            UPDATE landfall.domain SET mail_flow_region = $2, previous_mail_flow_region = $3,
                   mail_flow_region_changed_at = to_timestamp($4::bigint / 1000.0)
            WHERE name = $1 AND mail_flow_region IS NOT DISTINCT FROM $3";
        let (to, from) = (code(change.to), code(change.from));
        let name = change.domain.as_str();
        let changed = self
            .link
            .client
            .execute(sql, &[&name, &to, &from, &change.at.millis()])
            .await
            .map_err(trouble)?;
        was_there(changed, name)
    }

    pub(in crate::directory) async fn set_preferred_data_location(
        &mut self,
        primary: &Address,
        location: Option<Region>,
    ) -> Result<(), Trouble> {
        let sql = "
            UPDATE landfall.mailbox m SET preferred_data_location = $2 FROM landfall.address a
            WHERE a.address = $1 AND m.id = a.mailbox AND m.address = a.address";
        let location = code(location);
        let changed = self.link.client.execute(sql, &[&primary.key(), &location]).await.map_err(trouble)?;
        was_there(changed, &primary.to_string())
    }
}

fn code(region: Option<Region>) -> Option<String> {
    region.map(|region| region.as_str().to_owned())
}

fn was_there(changed: u64, what: &str) -> Result<(), Trouble> {
    match changed {
        0 => Err(Trouble::Refused(format!("{what} has just been changed or taken away: look again"))),
        _ => Ok(()),
    }
}

fn read(row: &Row) -> Result<(User, Vec<Address>), Trouble> {
    let text: &str = row.try_get(0).map_err(trouble)?;
    let location: Option<&str> = row.try_get(1).map_err(trouble)?;
    let user = User {
        primary: Address::parse(text)
            .map_err(|_| Trouble::Refused(format!("{text:?} in the directory is no address")))?,
        preferred_data_location: location.map(Into::into),
        licenses: Licenses { multi_geo: row.get(2), mail: row.get(3) },
    };
    let aliases: Vec<String> = row.try_get(4).map_err(trouble)?;
    Ok((user, aliases.iter().filter_map(|alias| Address::parse(alias).ok()).collect()))
}

/// The next row of a stream.
async fn next(
    rows: &mut std::pin::Pin<&mut tokio_postgres::RowStream>,
) -> Option<Result<Row, tokio_postgres::Error>> {
    std::future::poll_fn(|cx| futures_util::Stream::poll_next(rows.as_mut(), cx)).await
}
