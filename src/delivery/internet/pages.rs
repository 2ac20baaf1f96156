//! Pages: https with servers that strangers name: their policies, and where they want their reports.
//!
//! Owns what such a client may do: no redirects, no proxy, public addresses only, all within a patience.

use std::net::SocketAddr;
use std::time::Duration;

use super::Internet;
use super::exchange::Host;
use crate::dns::Resolver;
use crate::net::ClientTls;

/// RFC 8461 §3.3 would wait a minute; mail waits meanwhile, so this is less.
const PATIENCE: Duration = Duration::from_secs(20);

impl Internet {
    /// A client for one host, whose addresses are looked up here and judged first.
    pub(super) async fn client_for(
        &self,
        host: &str,
        port: u16,
        tls: &ClientTls,
        resolver: &Resolver,
    ) -> Result<reqwest::Client, String> {
        let Host::Known { addresses, .. } = Host::of(host, self, resolver).await else {
            return Err(format!("{host} has no address that may be called"));
        };
        let addresses: Vec<SocketAddr> =
            addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls.for_pages())
            .redirect(reqwest::redirect::Policy::none())
            .resolve_to_addrs(host, &addresses)
            .no_proxy()
            .https_only(true)
            .timeout(PATIENCE)
            .build()
            .map_err(|error| error.to_string())
    }

    /// Hands a report to where a domain wants it. RFC 8460 §5.4
    pub async fn post(
        &self,
        url: &str,
        kind: &'static str,
        body: Vec<u8>,
        resolver: &Resolver,
    ) -> Result<(), String> {
        let url: reqwest::Url = url.parse().map_err(|_| "it is no URL".to_owned())?;
        let (Some(host), Some(port)) = (url.host_str().map(str::to_owned), url.port_or_known_default())
        else {
            return Err("it names no host".to_owned());
        };
        let client = self.client_for(&host, port, &self.tls, resolver).await?;
        let sent = client.post(url).header("Content-Type", kind).body(body).send().await;
        let status = sent.map_err(|error| error.to_string())?.status();
        if status.is_success() { Ok(()) } else { Err(format!("the server said {status}")) }
    }
}
