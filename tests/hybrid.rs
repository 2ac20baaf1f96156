//! Hybrid: an edge and a real Postfix on the organisation's premises, between the internet and the store.

mod world;

use std::time::Duration;

use world::{Edge, Postfix, holds_for, letter};

const ANNA: &str = "anna@contoso.com";
const FOREIGN: &str = "x@foreign.example";

/// Rule 39: internet → edge → on-premises → edge → store, and there it ends.
#[test]
fn all_mail_passes_the_organisations_own_server_once() {
    let builder = Edge::builder("EUR");
    let postfix = Postfix::setup().transport(&[("*", builder.address())]).start();
    let edge = builder
        .directory(&format!(
            r#"
[[tenant]]
id = "contoso"
default_region = "EUR"
route_all_via_on_premises = true
domain = [{{ name = "contoso.com" }}]
user = [{{ address = "anna@contoso.com" }}]
[[tenant.inbound_connector]]
name = "from-hq"
type = "on-premises"
source_ips = ["{}"]
[[tenant.outbound_connector]]
name = "to-hq"
recipient_domains = ["*"]
smart_hosts = ["smtp://{}"]
tls = "off"
"#,
            postfix.address.ip(),
            postfix.address
        ))
        .start();
    edge.client().deliver(FOREIGN, &[ANNA], letter("round"));
    let taken = edge.wait_for(ANNA, 1);
    // Twice through the edge, once through Postfix; the last one stands on top.
    let received = taken[0].headers("Received");
    let hosts: Vec<&str> =
        received.iter().map(|line| if line.contains("by edge1.eur") { "edge" } else { "postfix" }).collect();
    assert_eq!(hosts, ["edge", "postfix", "edge"], "{received:?}");
    holds_for("one message in the mailbox", Duration::from_millis(500), || edge.mailbox(ANNA).len() == 1);
    assert_eq!(postfix.log().matches("status=sent").count(), 1, "{}", postfix.log());
    edge.wait_for_empty_queue();
    let log = edge.log();
    assert!(log.contains(r#""connector":"contoso/from-hq""#), "{log}");
    assert_eq!(log.matches(r#""event":"accepted""#).count(), 2, "{log}");
}
