//! Mapping: which attribute of an entry is what, and the filters that ask for it.
//!
//! Pure. Owns the presets for Active Directory and for plain inetOrgPerson.

use ldap3::{SearchEntry, ldap_escape};

use super::Settings;
use crate::mail::{Address, Domain, Licenses, Region, Residency, Tenant, User};

/// What is set aside when a lookup filter is the operator's own.
const PLACE: &str = "{address}";
/// userAccountControl: ADS_UF_ACCOUNTDISABLE.
const DISABLED: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    ActiveDirectory,
    InetOrgPerson,
}

/// The names of attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Its first value is the primary address, unless `proxies` says otherwise; the others are aliases.
    pub primary: String,
    pub aliases: Vec<String>,
    /// Addresses behind `SMTP:` (the primary one) or `smtp:` (aliases).
    pub proxies: Option<String>,
    pub location: String,
    /// `multi-geo` and `mail`; without one everybody holds both.
    pub licenses: Option<String>,
    /// Stays the same for as long as the entry lives.
    pub id: String,
    /// Grows with each change.
    pub changed: String,
}

impl Attributes {
    pub fn of(schema: Schema) -> Self {
        match schema {
            Schema::ActiveDirectory => Self {
                primary: "mail".to_owned(),
                aliases: Vec::new(),
                proxies: Some("proxyAddresses".to_owned()),
                location: "preferredDataLocation".to_owned(),
                licenses: None,
                id: "objectGUID".to_owned(),
                changed: "uSNChanged".to_owned(),
            },
            Schema::InetOrgPerson => Self {
                primary: "mail".to_owned(),
                aliases: vec!["mailAlternateAddress".to_owned(), "mailLocalAddress".to_owned()],
                proxies: None,
                location: "preferredDataLocation".to_owned(),
                licenses: None,
                // RFC 4530, RFC 4512 §3.4.
                id: "entryUUID".to_owned(),
                changed: "modifyTimestamp".to_owned(),
            },
        }
    }
}

/// Whether it is a filter (RFC 4515).
pub fn check_filter(filter: &str) -> Result<(), String> {
    let filled = filter.replace(PLACE, "anna@example.net");
    ldap3::parse_filter(filled).map(drop).map_err(|()| "is no filter (RFC 4515)".to_owned())
}

pub(super) struct Mapping {
    pub(super) attributes: Attributes,
    filter: Option<String>,
    lookup_filter: Option<String>,
    /// Holds the flag of disabled accounts, which get no mail.
    account: Option<&'static str>,
}

/// Which of a tenant's users this node may fetch (rule 22).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    All,
    /// Only those who match.
    Here(String),
}

impl Mapping {
    pub(super) fn new(settings: &Settings) -> Self {
        let asks = settings.schema == Schema::ActiveDirectory && !settings.accept_disabled;
        Self {
            attributes: settings.attributes.clone(),
            filter: settings.filter.clone(),
            lookup_filter: settings.lookup_filter.clone(),
            account: asks.then_some("userAccountControl"),
        }
    }

    /// Who has this address, whatever is in it.
    pub(super) fn of_address(&self, key: &str) -> String {
        let value = ldap_escape(key);
        let who = match &self.lookup_filter {
            Some(filter) => filter.replace(PLACE, &value),
            None => self.any_of(&value),
        };
        all_of(&[Some(&who), self.filter.as_deref()])
    }

    /// Who has an address at all.
    pub(super) fn of_anybody(&self) -> String {
        let Attributes { primary, aliases, proxies, .. } = &self.attributes;
        let mut filter = format!("(|({primary}=*)");
        for attribute in aliases.iter().chain(proxies) {
            filter.push_str(&format!("({attribute}=*)"));
        }
        filter.push(')');
        all_of(&[Some(&filter), self.filter.as_deref()])
    }

    /// Who has an address in this domain.
    pub(super) fn of_domain(&self, domain: &Domain) -> String {
        let who = self.any_of(&format!("*@{}", ldap_escape(domain.as_str())));
        all_of(&[Some(&who), self.filter.as_deref()])
    }

    /// `value` is escaped.
    fn any_of(&self, value: &str) -> String {
        let Attributes { primary, aliases, proxies, .. } = &self.attributes;
        let mut filter = format!("(|({primary}={value})");
        for alias in aliases {
            filter.push_str(&format!("({alias}={value})"));
        }
        if let Some(proxies) = proxies {
            // Upper or lower case is for who reads it: it compares alike.
            filter.push_str(&format!("({proxies}=smtp:{value})"));
        }
        filter.push(')');
        filter
    }

    pub(super) fn reach(&self, tenant: &Tenant, here: Region) -> Reach {
        if tenant.residency != Residency::Strict {
            return Reach::All;
        }
        let location = &self.attributes.location;
        if tenant.default_region != here {
            return Reach::Here(format!("({location}={here})"));
        }
        let elsewhere: String = tenant
            .allowed_regions
            .iter()
            .filter(|region| **region != here)
            .map(|region| format!("({location}={region})"))
            .collect();
        if elsewhere.is_empty() { Reach::All } else { Reach::Here(format!("(!(|{elsewhere}))")) }
    }

    /// What is asked of a user.
    pub(super) fn of_user(&self) -> Vec<String> {
        let mut names = self.of_addresses();
        names.push(self.attributes.location.clone());
        names.extend(self.attributes.licenses.clone());
        names.extend(self.account.map(str::to_owned));
        names
    }

    pub(super) fn of_addresses(&self) -> Vec<String> {
        let Attributes { primary, aliases, proxies, id, .. } = &self.attributes;
        let mut names = vec![id.clone(), primary.clone()];
        names.extend(aliases.iter().chain(proxies).cloned());
        names
    }

    pub(super) fn location(&self, entry: &SearchEntry) -> Option<Box<str>> {
        values(entry, &self.attributes.location).map(str::trim).find(|text| !text.is_empty()).map(Into::into)
    }

    pub(super) fn id(&self, entry: &SearchEntry) -> Option<Box<[u8]>> {
        let name = &self.attributes.id;
        let binary = entry.bin_attrs.iter().find(|(key, _)| is_named(key, name));
        let binary = binary.and_then(|(_, values)| values.first()).map(|value| value.as_slice().into());
        binary.or_else(|| values(entry, name).next().map(|value| value.as_bytes().into()))
    }

    /// The entry's user and its other addresses; `None` for an account that gets no mail. What cannot be
    /// read of the primary address leaves the one that was asked for.
    pub(super) fn user(&self, entry: &SearchEntry, asked: &Address) -> Option<(User, Vec<Address>)> {
        let mut addresses = self.addresses(entry).into_iter();
        let primary = addresses.next().unwrap_or_else(|| asked.clone());
        let control = self.account.and_then(|name| values(entry, name).next()?.parse::<u64>().ok());
        if control.is_some_and(|control| control & DISABLED != 0) {
            return None;
        }
        let licenses = self.attributes.licenses.as_ref().map_or_else(Licenses::default, |name| {
            let holds = |word: &str| values(entry, name).any(|value| value.trim().eq_ignore_ascii_case(word));
            Licenses { multi_geo: holds("multi-geo"), mail: holds("mail") }
        });
        Some((User { primary, preferred_data_location: self.location(entry), licenses }, addresses.collect()))
    }

    /// The primary address first, each once.
    pub(super) fn addresses(&self, entry: &SearchEntry) -> Vec<Address> {
        let Attributes { primary, aliases, proxies, .. } = &self.attributes;
        let proxied = |prefix: &'static str| {
            let named = proxies.iter().flat_map(|name| values(entry, name));
            named.filter_map(move |value| value.strip_prefix(prefix))
        };
        let plain = std::iter::once(primary).chain(aliases).flat_map(|name| values(entry, name));
        let mut addresses = Vec::new();
        for text in proxied("SMTP:").chain(plain).chain(proxied("smtp:")) {
            if let Ok(address) = Address::parse(text.trim())
                && !addresses.contains(&address)
            {
                addresses.push(address);
            }
        }
        addresses
    }
}

/// Where a user of this tenant lives.
pub(super) fn home(tenant: &Tenant, location: Option<&str>) -> Region {
    let region = location.and_then(Region::parse).filter(|region| tenant.allows(*region));
    region.unwrap_or(tenant.default_region)
}

pub(super) fn all_of(parts: &[Option<&str>]) -> String {
    let parts: Vec<&str> = parts.iter().flatten().copied().collect();
    match parts.as_slice() {
        [only] => (*only).to_owned(),
        many => format!("(&{})", many.concat()),
    }
}

/// Names compare in any case, and may have options behind them (RFC 4512 §2.5).
fn is_named(key: &str, name: &str) -> bool {
    key.split(';').next().is_some_and(|key| key.eq_ignore_ascii_case(name))
}

pub(super) fn values<'e>(entry: &'e SearchEntry, name: &'e str) -> impl Iterator<Item = &'e str> {
    let named = entry.attrs.iter().filter(move |(key, _)| is_named(key, name));
    named.flat_map(|(_, values)| values.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn mapping(schema: Schema) -> Mapping {
        let account = (schema == Schema::ActiveDirectory).then_some("userAccountControl");
        Mapping { attributes: Attributes::of(schema), filter: None, lookup_filter: None, account }
    }

    fn entry(attributes: &[(&str, &[&str])]) -> SearchEntry {
        let attrs = attributes.iter().map(|(name, values)| {
            ((*name).to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
        });
        SearchEntry { dn: "cn=x".to_owned(), attrs: attrs.collect(), bin_attrs: HashMap::new() }
    }

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
    }

    #[test]
    fn upper_case_is_the_primary_address() {
        let entry = entry(&[
            ("MAIL", &["old@contoso.com"]),
            (
                "proxyAddresses",
                &["smtp:a@contoso.com", "SMTP:Anna@contoso.com", "sip:x@contoso.com", "X500:/o=x"],
            ),
            ("preferredDataLocation", &["eur"]),
            ("userAccountControl", &["512"]),
        ]);
        let (user, aliases) =
            mapping(Schema::ActiveDirectory).user(&entry, &address("a@contoso.com")).expect("enabled");
        assert_eq!(user.primary.to_string(), "Anna@contoso.com");
        assert_eq!(aliases, [address("old@contoso.com"), address("a@contoso.com")]);
        assert_eq!(user.preferred_data_location.as_deref(), Some("eur"));
        assert_eq!(user.licenses, Licenses::default());
    }

    #[test]
    fn a_disabled_account_is_nobody_where_that_is_asked() {
        let disabled = entry(&[("mail", &["room@contoso.com"]), ("userAccountControl", &["514"])]);
        let mut mapping = mapping(Schema::ActiveDirectory);
        assert!(mapping.user(&disabled, &address("room@contoso.com")).is_none());
        mapping.account = None;
        assert!(mapping.user(&disabled, &address("room@contoso.com")).is_some());
    }

    #[test]
    fn licences_are_words_of_an_attribute() {
        let mut mapping = mapping(Schema::InetOrgPerson);
        mapping.attributes.licenses = Some("employeeType".to_owned());
        for (words, multi_geo, mail) in [
            (["Mail", "other"].as_slice(), false, true),
            (&["multi-geo", "mail"], true, true),
            (&[], false, false),
        ] {
            let entry = entry(&[("mail", &["a@contoso.com"]), ("employeeType", words)]);
            let (user, _) = mapping.user(&entry, &address("a@contoso.com")).expect("a user");
            assert_eq!(user.licenses, Licenses { multi_geo, mail }, "{words:?}");
        }
    }

    #[test]
    fn an_address_cannot_change_the_question() {
        let mut mapping = mapping(Schema::ActiveDirectory);
        assert_eq!(
            mapping.of_address("*)(mail=*\\\0@contoso.com"),
            "(|(mail=\\2a\\29\\28mail=\\2a\\5c\\00@contoso.com)\
             (proxyAddresses=smtp:\\2a\\29\\28mail=\\2a\\5c\\00@contoso.com))"
        );
        mapping.lookup_filter = Some("(|(uid={address})(mail={address}))".to_owned());
        mapping.filter = Some("(objectClass=user)".to_owned());
        assert_eq!(
            mapping.of_address("a)b@contoso.com"),
            "(&(|(uid=a\\29b@contoso.com)(mail=a\\29b@contoso.com))(objectClass=user))"
        );
    }

    #[test]
    fn filters_are_judged() {
        for (filter, fine) in [
            ("(objectClass=user)", true),
            ("(&(uid={address})(!(x=1)))", true),
            ("(userAccountControl:1.2.840.113556.1.4.803:=2)", true),
            ("(objectClass=user", false),
            ("", false),
        ] {
            assert_eq!(check_filter(filter).is_ok(), fine, "{filter}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_address_makes_one_filter_with_as_many_parts(key in "\\PC{0,30}") {
            let mapping = mapping(Schema::InetOrgPerson);
            let filter = mapping.of_address(&key);
            proptest::prop_assert!(ldap3::parse_filter(&filter).is_ok(), "{filter}");
            proptest::prop_assert_eq!(filter.matches('(').count(), 4);
            proptest::prop_assert_eq!(filter.matches(')').count(), 4);
        }
    }
}
