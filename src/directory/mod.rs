//! Directory: whose domain is this, and where does this user live.
//!
//! Owns the answers, not what follows from them: that is `decision`'s. Tenants, domains and connectors are in
//! memory whatever the source, as a table that is replaced whole. Users are in it too when they come from a
//! file; a directory service is asked for each, through `front`.

mod table;
mod connectors;
mod names;
mod users;
mod file;
mod user_file;
mod check;
mod rewrite;
mod held;
mod source;
mod front;
mod lines;
mod follow;
mod snapshot;
mod postgres;
mod ldap;
mod remote;
mod register;
mod file_edit;

use std::net::IpAddr;
use std::sync::Arc;

use crate::mail::{
    AcceptedDomain, Address, Domain, DomainPattern, Lookup, OwnedConnector, Regions, Residency, Tenant, User,
};

pub use check::{Finding, Problem, Subject};
pub use file::read;
pub use front::Terms;
pub use ldap::{
    Attributes as LdapAttributes, Schema as LdapSchema, Settings as LdapSettings, Tracking,
    check_filter as check_ldap_filter, check_urls as check_ldap_urls,
};
pub use postgres::{
    Counts, Imported, LOOK_UP as POSTGRES_LOOK_UP, Migration, Settings as PostgresSettings,
    check_url as check_postgres_url, without_secret,
};
pub use register::{Holds, Homes, Move, Register};
pub use remote::{News, Service, Settings, migrate, open};
pub use source::Trouble;
pub use table::Table;
pub use users::Taken;

use held::Held;
use remote::Remote;

/// The directory as of now. Clones share one table, and one cache.
#[derive(Clone)]
pub struct Directory {
    held: Arc<Held>,
    /// `None` when the table has the users.
    remote: Option<Arc<Remote>>,
}

impl Directory {
    pub fn new(table: Table) -> Self {
        Self { held: Arc::new(Held::new(table, Regions::default(), None)), remote: None }
    }

    /// Whose domain it is: exact, else the nearest parent with `match_subdomains` (rules 2 and 3).
    #[expect(clippy::unused_async, reason = "a directory that is too large for a table will wait")]
    pub async fn domain(&self, domain: &Domain) -> Lookup<Arc<AcceptedDomain>> {
        if !self.is_usable() {
            return Lookup::Failed;
        }
        match self.held.table.load().domain(domain) {
            Some(found) => Lookup::Found(Arc::clone(found)),
            None => Lookup::Absent,
        }
    }

    /// The mailbox behind a primary address or an alias, in a domain that `Directory::domain` gave.
    pub async fn user(&self, domain: &AcceptedDomain, address: &Address) -> Lookup<User> {
        match &self.remote {
            None => match self.held.table.load().user(domain, address) {
                Some(user) => Lookup::Found(user),
                None => Lookup::Absent,
            },
            Some(remote) => {
                // At a matched subdomain only the address as given, as in a table.
                let tagged = *address.domain() == domain.name;
                // Each session would hold what only this needs.
                Box::pin(remote.front.user(address, self.held.subaddress.filter(|_| tagged))).await
            }
        }
    }

    /// Whether a domain that is not here may be called absent: not while the source has fallen silent, for
    /// it may have been added since (rule 20).
    pub fn is_current(&self) -> bool {
        self.remote.as_ref().is_none_or(|remote| !remote.has_outline || remote.front.is_current())
    }

    /// Whether the service, whatever it holds, is heard; a file always is.
    pub fn is_heard(&self) -> bool {
        self.remote.as_ref().is_none_or(|remote| remote.front.is_current())
    }

    /// Whether users can be answered for: a service has been heard, and not for longer than
    /// `directory.stale_for` ago.
    pub fn knows_users(&self) -> bool {
        self.remote.as_ref().is_none_or(|remote| remote.front.is_usable())
    }

    /// Whether what is held may be answered from: it is not older than `directory.stale_for`.
    pub fn is_usable(&self) -> bool {
        self.remote.as_ref().is_none_or(|remote| !remote.has_outline || remote.front.is_usable())
    }

    /// The certificate names of on-premises connectors that a verified name matches, the most exact first.
    /// Held in memory whatever the source: every MAIL asks.
    pub fn certificate_patterns(&self, name: &str) -> Vec<DomainPattern> {
        if !self.is_usable() {
            return Vec::new();
        }
        self.held.table.load().certificate_patterns(name)
    }

    /// The on-premises connector that sends for this sender from this address: the most exact network's.
    pub fn connector_at(&self, ip: IpAddr, sender: Option<&Domain>) -> Option<OwnedConnector> {
        if !self.is_usable() {
            return None;
        }
        self.held.table.load().connector_at(ip, sender).cloned()
    }

    pub fn tenant(&self, id: &str) -> Option<Arc<Tenant>> {
        self.held.table.load().tenant(id).cloned()
    }

    /// All that is in memory, as of now: users too when they come from a file.
    pub fn table(&self) -> Arc<Table> {
        self.held.table.load_full()
    }

    /// Whether the table has the users too, and not a service behind it.
    pub fn has_all_users(&self) -> bool {
        self.remote.is_none()
    }

    /// How long ago the service confirmed what is held; `None` for a file, and before its first word.
    pub fn age(&self) -> Option<std::time::Duration> {
        self.remote.as_ref().and_then(|remote| remote.front.silence())
    }

    /// What in it contradicts itself.
    pub fn check(&self, regions: &Regions) -> Vec<Finding> {
        self.held.table.load().check(regions).collect()
    }

    /// Puts another table in place; questions under way keep the old one.
    pub fn replace(&self, table: Table) {
        let is_strict = |tenant: &Arc<Tenant>| tenant.residency == Residency::Strict;
        let strict = table.tenants().any(is_strict);
        self.held.replace(table);
        if let Some(remote) = &self.remote {
            remote.front.outline_changed();
            // Whoever was fetched before may be one who may not be held now.
            if strict {
                remote.front.forget_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::document::Notes;
    use crate::mail::{DomainKind, Licenses, Region, Residency};

    const CONTOSO: &str = r#"
        [[tenant]]
        id = "contoso"
        default_region = "nam"
        allowed_regions = ["NAM", "EUR", "GBR"]
        multi_geo = true
        in_region_routing = true

        [[tenant.domain]]
        name = "Contoso.com"
        mail_flow_region = "EUR"
        previous_mail_flow_region = "NAM"
        mail_flow_region_changed_at = 2026-01-01T00:00:00Z

        [[tenant.domain]]
        name = "hq.contoso.com"
        type = "internal-relay"
        match_subdomains = true

        [[tenant.domain]]
        name = "deep.er.hq.contoso.com"

        [[tenant.outbound_connector]]
        name = "to-hq"
        recipient_domains = ["hq.contoso.com"]
        smart_hosts = ["smtp://mail.hq.contoso.com"]

        [[tenant.user]]
        address = "Anna@contoso.com"
        aliases = ["anna.k@contoso.com", "anna@lab.hq.contoso.com"]
        preferred_data_location = "EUR"

        [[tenant.user]]
        address = "bob@hq.contoso.com"
        licenses = []
    "#;

    /// The directory that `text` describes, and the warnings it gives.
    fn table(text: &str, folder: &Path) -> (Table, Vec<String>) {
        let notes = Notes::default();
        let table = read("directory.toml", text, folder, &Regions::default(), Some('+'), &notes);
        let warnings = notes.verdict().unwrap_or_else(|mistakes| panic!("{mistakes}"));
        (table, warnings.iter().map(ToString::to_string).collect())
    }

    fn directory(text: &str) -> Directory {
        let (table, warnings) = table(text, Path::new("."));
        assert_eq!(warnings, Vec::<String>::new());
        Directory::new(table)
    }

    fn region(code: &str) -> Region {
        Region::parse(code).expect("a code")
    }

    fn domain(name: &str) -> Domain {
        Domain::parse(name).expect("a domain")
    }

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
    }

    #[tokio::test]
    async fn a_domain_is_found_exactly_or_by_its_nearest_parent_that_matches_subdomains() {
        let directory = directory(CONTOSO);
        for (asked, found) in [
            ("contoso.com", Some("contoso.com")),
            ("CONTOSO.com", Some("contoso.com")),
            // Rule 2.
            ("www.contoso.com", None),
            // Rule 3.
            ("hq.contoso.com", Some("hq.contoso.com")),
            ("lab.hq.contoso.com", Some("hq.contoso.com")),
            ("a.b.lab.hq.contoso.com", Some("hq.contoso.com")),
            ("deep.er.hq.contoso.com", Some("deep.er.hq.contoso.com")),
            // The nearest parent does not match subdomains; the next one does.
            ("x.deep.er.hq.contoso.com", Some("hq.contoso.com")),
            ("xhq.contoso.com", None),
            ("com", None),
            ("fabrikam.com", None),
            ("[192.0.2.1]", None),
        ] {
            let answer = directory.domain(&domain(asked)).await;
            let name = answer.as_ref().found().map(|accepted| accepted.name.to_string());
            assert_eq!(name.as_deref(), found, "{asked}");
            assert_eq!(answer == Lookup::Absent, found.is_none(), "{asked}: absent, not failed");
        }
    }

    #[tokio::test]
    async fn a_user_is_found_by_any_address_and_by_tag_in_its_own_domain() {
        let directory = directory(CONTOSO);
        for (asked, found) in [
            ("anna@contoso.com", Some("Anna@contoso.com")),
            ("ANNA.K@contoso.com", Some("Anna@contoso.com")),
            ("anna+lists@contoso.com", Some("Anna@contoso.com")),
            ("anna.k+lists@contoso.com", Some("Anna@contoso.com")),
            ("anna-lists@contoso.com", None),
            ("bob@hq.contoso.com", Some("bob@hq.contoso.com")),
            // At a matched subdomain the address as given, then nothing else.
            ("anna@lab.hq.contoso.com", Some("Anna@contoso.com")),
            ("anna+lists@lab.hq.contoso.com", None),
            ("bob@lab.hq.contoso.com", None),
        ] {
            let address = address(asked);
            let accepted = directory.domain(address.domain()).await.found().expect("an accepted domain");
            let answer = directory.user(&accepted, &address).await;
            let primary = answer.as_ref().found().map(|user| user.primary.to_string());
            assert_eq!(primary.as_deref(), found, "{asked}");
            assert_eq!(answer == Lookup::Absent, found.is_none(), "{asked}: absent, not failed");
        }
    }

    #[tokio::test]
    async fn every_key_arrives() {
        let text = r#"
            [[tenant]]
            id = "fabrikam"
            default_region = "EUR"
            subscription = false
            residency = "strict"
            accept_ipv6 = true
            reject_direct_send = true
            route_all_via_on_premises = true
            [[tenant.domain]]
            name = "fabrikam.example"
            type = "internal-relay"
            mail_flow_region = "EUR"
            mail_flow_region_changed_at = "2026-01-01T01:00:00+01:00"
            sending_to_disabled = true
            accept_ipv6 = false
            [[tenant.inbound_connector]]
            name = "from-hq"
            type = "on-premises"
            certificate_names = ["*.fabrikam.example"]
            source_ips = ["131.107.21.231/32", "192.0.2.0/24", "198.51.100.7"]
            require_tls = true
            [[tenant.inbound_connector]]
            name = "partner"
            type = "partner"
            sender_domains = ["contoso.com", "*.contoso.com"]
            source_ips = ["203.0.113.0/25"]
            restrict_to_ip = true
            [[tenant.outbound_connector]]
            name = "all"
            recipient_domains = ["*"]
            smart_hosts = ["smtp://a.example", "smtps://b.example"]
            tls = "encrypt"
        "#;
        let directory = directory(text);
        let accepted = directory.domain(&domain("fabrikam.example")).await.found().expect("accepted");
        assert_eq!(accepted.kind, DomainKind::InternalRelay);
        assert_eq!(
            (accepted.mail_flow_region, accepted.previous_mail_flow_region),
            (Some(region("EUR")), None)
        );
        assert_eq!(
            accepted.mail_flow_region_changed_at,
            crate::clock::Timestamp::parse("2026-01-01T00:00:00Z")
        );
        assert!(accepted.sending_to_disabled && accepted.accept_ipv6 == Some(false));
        let tenant = &accepted.tenant;
        assert!(!tenant.subscription && tenant.accept_ipv6 && tenant.reject_direct_send);
        assert!(tenant.route_all_via_on_premises && !tenant.multi_geo && !tenant.in_region_routing);
        assert_eq!(tenant.residency, Residency::Strict);
        assert_eq!(tenant.allowed_regions, [region("EUR")]);
        let [hq, partner] = tenant.inbound_connectors.as_slice() else { panic!("two connectors") };
        assert!(hq.require_tls && hq.covers_ip("198.51.100.7".parse().expect("an address")));
        assert!(!hq.covers_ip("198.51.100.8".parse().expect("an address")));
        assert_eq!(hq.sender_domains.len(), 1);
        assert!(hq.sender_domains[0].matches(&domain("anything.example")));
        assert!(partner.restrict_to_ip && !partner.restrict_to_certificate);
        let connector = tenant.outbound_connector(&domain("x.example"), |_| false).expect("the one for all");
        assert_eq!(connector.smart_hosts.len(), 2);
        assert_eq!(connector.tls, crate::mail::TlsLevel::Encrypt);
    }

    /// What is read from a file of this text, in words, or nothing when it has mistakes; and the keys asked for.
    fn told(text: &str, folder: &Path) -> (Option<String>, std::collections::BTreeSet<String>) {
        let notes = Notes::default();
        let table = read("directory.toml", text, folder, &Regions::default(), None, &notes);
        let asked = notes.asked.take();
        let mut domains: Vec<_> = table.domains().collect();
        domains.sort_by(|one, two| one.name.cmp(&two.name));
        let tenants: Vec<_> = table.tenants().collect();
        let users: Vec<_> = table.users().collect();
        (notes.verdict().is_ok().then(|| format!("{tenants:#?} {domains:#?} {users:#?}")), asked)
    }

    /// `value` without what stands at `path`, however many have it.
    fn cut(value: &mut toml::Value, path: &[&str]) -> bool {
        match value {
            toml::Value::Array(items) => items.iter_mut().fold(false, |any, item| cut(item, path) | any),
            toml::Value::Table(table) => match path {
                [key] => table.remove(*key).is_some(),
                [key, rest @ ..] => table.get_mut(*key).is_some_and(|value| cut(value, rest)),
                [] => false,
            },
            _ => false,
        }
    }

    /// A new key has to be there with a value that shows, and what moves a directory is tested with that file.
    #[test]
    fn the_file_with_every_key_has_every_key() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let own = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).expect("a certificate");
        fs::write(folder.path().join("ca.pem"), own.cert.pem()).expect("written");
        fs::write(folder.path().join("users.csv"), "address\nbob@contoso.com\n").expect("written");
        let text = include_str!("../../tests/directory/every-key.toml");
        let (whole, asked) = told(text, folder.path());
        let whole = whole.expect("no mistakes");
        assert!(asked.len() > 45, "only {} keys were asked for", asked.len());
        for key in asked {
            let mut file = toml::Value::Table(text.parse().expect("TOML"));
            let path: Vec<&str> = key.split('.').collect();
            assert!(cut(&mut file, &path), "{key} is not in tests/directory/every-key.toml");
            let (without, _) = told(&file.to_string(), folder.path());
            assert_ne!(without, Some(whole.clone()), "{key}: nothing shows that it is there");
        }
    }

    #[tokio::test]
    async fn a_user_file_holds_users_of_all_tenants() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let csv = "\u{feff}licenses, address,aliases,preferred_data_location\r\n\
                   # a comment\n\
                   ,carl@contoso.com,c@contoso.com;carlo@contoso.com,GBR\n\
                   mail,\"Dora@hq.contoso.com\",,\n\
                   none,emil@contoso.com,\"em@contoso.com, e@contoso.com\" ,Atlantis\n\
                   multi-geo;mail,fay@sub.hq.contoso.com,,eur\n";
        fs::write(folder.path().join("users.csv"), csv).expect("written");
        let text = format!("{CONTOSO}\n[[user_file]]\npath = \"users.csv\"");
        let (table, warnings) = table(&text, folder.path());
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        assert!(
            warning.contains("users.csv:5: user[emil@contoso.com].preferred_data_location: \"Atlantis\""),
            "{warning}"
        );
        let directory = Directory::new(table);
        let both = Licenses::default();
        let none = Licenses { multi_geo: false, mail: false };
        for (asked, primary, location, licenses) in [
            ("CARLO@contoso.com", "carl@contoso.com", Some("GBR"), both),
            ("dora@hq.contoso.com", "Dora@hq.contoso.com", None, Licenses { multi_geo: false, mail: true }),
            ("e@contoso.com", "emil@contoso.com", Some("Atlantis"), none),
            ("fay@sub.hq.contoso.com", "fay@sub.hq.contoso.com", Some("EUR"), both),
            ("anna@contoso.com", "Anna@contoso.com", Some("EUR"), both),
        ] {
            let address = address(asked);
            let accepted = directory.domain(address.domain()).await.found().expect("accepted");
            let user = directory.user(&accepted, &address).await.found().expect(asked);
            assert_eq!(user.primary.to_string(), primary);
            assert_eq!(user.preferred_data_location.as_deref(), location, "{asked}");
            assert_eq!(user.licenses, licenses, "{asked}");
        }
        assert_eq!(directory.table().user_count(), 6);
    }

    #[tokio::test]
    async fn a_replaced_table_answers_at_once_in_every_clone() {
        let directory = directory(CONTOSO);
        let clone = directory.clone();
        clone.replace(table("[[tenant]]\nid = \"a\"\ndefault_region = \"EUR\"", Path::new(".")).0);
        assert_eq!(directory.domain(&domain("contoso.com")).await, Lookup::Absent);
    }

    #[test]
    fn check_finds_what_contradicts_itself() {
        let tenant = |id: &str, extra: &str, domain: &str, users: &[&str]| {
            let mut text = format!(
                "[[tenant]]\nid = \"{id}\"\ndefault_region = \"NAM\"\nallowed_regions = [\"NAM\", \"EUR\"]\n{extra}\n\
                 [[tenant.domain]]\nname = \"{id}.example\"\n{domain}\n"
            );
            for user in users {
                let (name, rest) = user.split_once(' ').unwrap_or((user, ""));
                text.push_str(&format!("[[tenant.user]]\naddress = \"{name}@{id}.example\"\n{rest}\n"));
            }
            text
        };
        let geo = "multi_geo = true\nin_region_routing = true";
        let text = [
            tenant("plain", "", "", &["a", "b preferred_data_location = \"EUR\"\nlicenses = []"]),
            tenant(
                "geo",
                geo,
                "mail_flow_region = \"EUR\"",
                &[
                    "fine preferred_data_location = \"eur\"",
                    "default",
                    "unknown preferred_data_location = \"Mars\"",
                    "foreign preferred_data_location = \"GBR\"",
                    "bare preferred_data_location = \"EUR\"\nlicenses = [\"mail\"]",
                ],
            ),
            tenant("stray", geo, "mail_flow_region = \"GBR\"", &[]),
            tenant("strict", "residency = \"strict\"", "", &["a", "b preferred_data_location = \"EUR\""]),
        ]
        .join("\n");
        let (table, warnings) = table(&text, Path::new("."));
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        let mut found: Vec<String> = Directory::new(table)
            .check(&Regions::default())
            .iter()
            .map(|finding| format!("{} {}", finding.subject, finding.problem.word()))
            .collect();
        found.sort();
        assert_eq!(
            found,
            [
                "b@strict.example strict-elsewhere",
                "bare@geo.example missing-licenses",
                "default@geo.example primary-domain-disagrees",
                "foreign@geo.example data-location-not-allowed",
                "foreign@geo.example primary-domain-disagrees",
                "stray.example mail-flow-region-not-allowed",
                "unknown@geo.example primary-domain-disagrees",
                "unknown@geo.example unknown-data-location",
            ]
        );
    }
}
