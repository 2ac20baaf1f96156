//! Postgres: a directory in PostgreSQL, or in a database that speaks its protocol.
//!
//! Owns connecting, and the tables' schema. What nodes ask is in `link`; `docs/DIRECTORY.md` says which
//! features of the database are used.

mod desk;
mod import;
mod link;
mod outline;
mod schema;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use import::{Counts, Imported};
pub use link::LOOK_UP;
pub use schema::Migration;

pub(super) use desk::Desk;
pub(super) use link::PostgresLink;

use super::source::{Source, Trouble};
use crate::mail::{Region, TlsLevel};
use crate::net::{self, Trust};

/// One round trip answers so many: more would make the first wait for the last.
const BATCH: usize = 256;

/// Where the database is, and how to get in.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `postgres://user@host:port/name`, as libpq takes it, but for `sslmode`, which is `tls`.
    pub url: String,
    /// Read at each connection, so that a password can be changed.
    pub password_file: Option<PathBuf>,
    pub tls: TlsLevel,
    /// Authorities besides the system's, in PEM.
    pub ca: Option<PathBuf>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("url", &without_secret(&self.url)).finish_non_exhaustive()
    }
}

/// The address without the password in it.
pub fn without_secret(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // The last '@' before the path ends who connects; the first one does where a password has a '/' or '?'.
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (who, place) = match rest[..end].rfind('@').or_else(|| rest.find('@')) {
        Some(at) => rest.split_at(at),
        None => ("", rest),
    };
    let who = match who.split_once(':') {
        Some((user, _)) => format!("{user}:********"),
        None => who.to_owned(),
    };
    let Some((place, parameters)) = place.split_once('?') else { return format!("{scheme}://{who}{place}") };
    // A key that is written in other octets may be the password's too.
    let shown = parameters.split('&').map(|one| match one.split_once('=') {
        Some((key, _)) if key.contains('%') || key.contains("pass") => format!("{key}=********"),
        _ => one.to_owned(),
    });
    format!("{scheme}://{who}{place}?{}", shown.collect::<Vec<_>>().join("&"))
}

/// What is wrong with a URL, if anything; for the configuration's check.
pub fn check_url(url: &str) -> Result<(), String> {
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err("does not begin with postgres://".to_owned());
    }
    if url.contains("sslmode=") {
        return Err("says sslmode, which is the key `tls` here".to_owned());
    }
    match url.parse::<Config>() {
        Ok(config) if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() => {
            Err("names no host".to_owned())
        }
        Ok(config) if config.get_user().is_none() => Err("names no user".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => {
            let reason = std::error::Error::source(&error).map(|why| format!(": {why}")).unwrap_or_default();
            Err(format!("cannot be read: {error}{reason}"))
        }
    }
}

pub(super) struct Postgres {
    config: Config,
    password_file: Option<PathBuf>,
    tls: Option<Arc<ClientConfig>>,
    node_region: Region,
    name: String,
}

impl Postgres {
    pub(super) fn new(settings: &Settings, patience: Duration, node_region: Region) -> Result<Self, Trouble> {
        let refused = |error: &dyn std::fmt::Display| Trouble::Refused(error.to_string());
        let mut config: Config = settings.url.parse().map_err(|error| refused(&error))?;
        let over_network = !config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)))
            || !config.get_hostaddrs().is_empty();
        let (mode, trust) = match settings.tls {
            _ if !over_network => (SslMode::Disable, None),
            TlsLevel::Off => (SslMode::Disable, None),
            TlsLevel::Opportunistic => (SslMode::Prefer, Some(Trust::Anyone)),
            TlsLevel::Encrypt => (SslMode::Require, Some(Trust::Anyone)),
            TlsLevel::Verify => {
                (SslMode::Require, Some(settings.ca.as_deref().map_or(Trust::Named, Trust::NamedBy)))
            }
        };
        let tls = trust.map(net::library_tls).transpose().map_err(|error| refused(&error))?;
        config.ssl_mode(mode).connect_timeout(patience).application_name("landfall");
        let name = without_secret(&settings.url);
        Ok(Self { config, password_file: settings.password_file.clone(), tls, node_region, name })
    }

    async fn dial(&self) -> Result<PostgresLink, Trouble> {
        let mut config = self.config.clone();
        if let Some(path) = &self.password_file {
            let password = tokio::fs::read_to_string(path)
                .await
                .map_err(|error| Trouble::Refused(format!("{}: {error}", path.display())))?;
            config.password(password.trim_end_matches(['\r', '\n']));
        }
        match &self.tls {
            None => {
                let (client, connection) = config.connect(NoTls).await.map_err(link::trouble)?;
                Ok(PostgresLink::new(client, connection, self.node_region))
            }
            Some(tls) => {
                let tls = MakeRustlsConnect::new(ClientConfig::clone(tls));
                let (client, connection) = config.connect(tls).await.map_err(link::trouble)?;
                Ok(PostgresLink::new(client, connection, self.node_region))
            }
        }
    }

    /// Puts the schema in place, or brings it up to date.
    pub(super) async fn migrate(&self, region_codes: &[Region]) -> Result<Migration, Trouble> {
        let mut link = self.dial().await?;
        schema::migrate(&mut link.client, region_codes).await
    }
}

impl Source for Postgres {
    type Link = PostgresLink;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn batch(&self) -> usize {
        BATCH
    }

    async fn connect(&self) -> Result<PostgresLink, Trouble> {
        self.dial().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        for (url, shown) in [
            ("postgres://l:se:cr@et@db.example/d?x=1", "postgres://l:********@db.example/d?x=1"),
            ("postgres://l:se/c?r@db.example/d", "postgres://l:********@db.example/d"),
            (
                "postgres://l@db.example/d?password=secret&x=1",
                "postgres://l@db.example/d?password=********&x=1",
            ),
            ("postgres://l@db.example/d", "postgres://l@db.example/d"),
            ("postgres://db.example/d@e", "postgres://db.example/d@e"),
        ] {
            assert_eq!(without_secret(url), shown);
        }
    }

    #[test]
    fn a_url_is_judged() {
        for (url, fine) in [
            ("postgres://l@db.example/d", true),
            ("postgresql://l@%2Frun%2Fpostgresql/d", true),
            ("postgres://l@a.example,b.example/d?target_session_attrs=any", true),
            ("postgres://db.example/d", false),
            ("postgres://l@db.example/d?sslmode=require", false),
            ("http://l@db.example", false),
            ("postgres://l@db.example:port/d", false),
        ] {
            assert_eq!(check_url(url).is_ok(), fine, "{url}: {:?}", check_url(url));
        }
    }
}
