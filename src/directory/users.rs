//! Users: millions of mailboxes in little memory.
//!
//! Owns the layout: one arena of short records, and a table of offsets into it by hash. A user costs
//! about 18 bytes besides its local part; a `User` is made only for the one that was asked for.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::mail::{Address, Domain, Licenses, User};

/// An address that is somebody's already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken;

/// Every user and alias by address. Grows only; a changed directory is built anew.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// Records one after the other; an alias's record comes after its user's.
    records: Vec<u8>,
    slots: Slots,
    addresses: usize,
    users: usize,
    hasher: RandomState,
    domains: Interned<Domain>,
    /// Preferred data locations as written.
    locations: Interned<Box<str>>,
}

/// Record: flags, key length, domain (4 bytes), key; then for an alias the distance back to its
/// user's record (4 bytes), for a user the location (2 bytes) and, when the local part is not
/// written as it compares, its length and the local part as written.
mod flag {
    pub(super) const ALIAS: u8 = 1;
    pub(super) const MULTI_GEO: u8 = 2;
    pub(super) const MAIL: u8 = 4;
    pub(super) const WRITTEN_OTHERWISE: u8 = 8;
}

const HEAD: usize = 6;
/// Location number of a user without one.
const NOWHERE: u16 = u16::MAX;

impl Users {
    pub(super) fn len(&self) -> usize {
        self.users
    }

    /// Whether this is anybody's address.
    pub(super) fn contains(&self, address: &Address) -> bool {
        with_key(address, |key| self.find(key, address.domain()).is_some())
    }

    pub(super) fn by_address(&self, address: &Address, subaddress: Option<char>) -> Option<User> {
        let offset = with_key(address, |key| {
            self.find(key, address.domain()).or_else(|| {
                // `user+tag` is `user` when the exact address is unknown (spec, section 6; RFC 5233).
                let (user, _) = key.split_once(subaddress?)?;
                if user.is_empty() { None } else { self.find(user, address.domain()) }
            })
        })?;
        let record = self.record(offset);
        let owner = if record.is_alias() { self.record(offset - record.distance_to_owner()) } else { record };
        Some(self.user(owner))
    }

    /// Adds a user and its aliases; the first address that is taken refuses them all.
    pub(super) fn add(&mut self, user: &User, aliases: &[Address]) -> Result<(), Taken> {
        let mut all = std::iter::once(&user.primary).chain(aliases);
        if all.any(|address| self.contains(address)) {
            return Err(Taken);
        }
        let owner = self.records.len();
        let key = user.primary.local_key();
        let written = user.primary.local();
        let mut flags = 0;
        for (set, bit) in [
            (user.licenses.multi_geo, flag::MULTI_GEO),
            (user.licenses.mail, flag::MAIL),
            (key != written, flag::WRITTEN_OTHERWISE),
        ] {
            flags |= if set { bit } else { 0 };
        }
        let location = match &user.preferred_data_location {
            None => NOWHERE,
            // 65,535 different codes are no directory; the rest count as unknown, as any nonsense does.
            Some(code) => u16::try_from(self.locations.number(code)).unwrap_or(NOWHERE - 1),
        };
        self.head(flags, user.primary.domain(), &key);
        self.records.extend(location.to_le_bytes());
        if key != written {
            self.records.push(short_length(written));
            self.records.extend(written.as_bytes());
        }
        self.enter(owner, &key, user.primary.domain());
        self.users += 1;
        for alias in aliases {
            let (offset, key) = (self.records.len(), alias.local_key());
            if self.find(&key, alias.domain()).is_some() {
                // Twice among these aliases, or the primary address itself: said once is enough.
                continue;
            }
            self.head(flag::ALIAS, alias.domain(), &key);
            let back = u32::try_from(offset - owner).expect("aliases of one user stay below 4 GiB");
            self.records.extend(back.to_le_bytes());
            self.enter(offset, &key, alias.domain());
        }
        Ok(())
    }

    /// Gives back what growing has reserved.
    pub(super) fn shrink(&mut self) {
        self.records.shrink_to_fit();
        self.rehash(Slots::for_entries(self.addresses));
    }

    /// Every user with its aliases, in the order they were added.
    pub(super) fn iter(&self) -> impl Iterator<Item = (User, Vec<Address>)> + '_ {
        let mut offset = 0;
        std::iter::from_fn(move || {
            let owner = self.following(offset)?;
            offset += owner.length();
            let mut aliases = Vec::new();
            while let Some(record) = self.following(offset).filter(Record::is_alias) {
                aliases.push(self.address(record.key(), record));
                offset += record.length();
            }
            Some((self.user(owner), aliases))
        })
    }

    fn head(&mut self, flags: u8, domain: &Domain, key: &str) {
        let domain = u32::try_from(self.domains.number(domain)).expect("fewer than 4 billion domains");
        self.records.extend([flags, short_length(key)]);
        self.records.extend(domain.to_le_bytes());
        self.records.extend(key.as_bytes());
    }

    fn enter(&mut self, offset: usize, key: &str, domain: &Domain) {
        if self.slots.is_full(self.addresses) {
            self.rehash(Slots::for_entries(self.addresses.max(64) * 2));
        }
        self.slots.put(self.hash(key, domain), offset);
        self.addresses += 1;
    }

    fn rehash(&mut self, mut slots: Slots) {
        let mut offset = 0;
        while let Some(record) = self.following(offset) {
            slots.put(self.hash(record.key(), self.domain(record)), offset);
            offset += record.length();
        }
        self.slots = slots;
    }

    fn find(&self, key: &str, domain: &Domain) -> Option<usize> {
        self.slots.find(self.hash(key, domain), |offset| {
            let record = self.record(offset);
            record.key() == key && self.domain(record) == domain
        })
    }

    fn hash(&self, key: &str, domain: &Domain) -> u64 {
        self.hasher.hash_one((key, domain.as_str()))
    }

    fn record(&self, offset: usize) -> Record<'_> {
        Record(&self.records[offset..])
    }

    fn following(&self, offset: usize) -> Option<Record<'_>> {
        (offset < self.records.len()).then(|| self.record(offset))
    }

    fn domain(&self, record: Record<'_>) -> &Domain {
        &self.domains.values[record.domain()]
    }

    fn user(&self, record: Record<'_>) -> User {
        User {
            primary: self.address(record.written(), record),
            preferred_data_location: match record.location() {
                NOWHERE => None,
                number => Some(self.locations.values.get(usize::from(number)).cloned().unwrap_or_default()),
            },
            licenses: Licenses { multi_geo: record.has(flag::MULTI_GEO), mail: record.has(flag::MAIL) },
        }
    }

    fn address(&self, local: &str, record: Record<'_>) -> Address {
        // An alias is kept as it compares, which is without its quotes.
        Address::from_parts(local, self.domain(record).clone())
            .or_else(|_| {
                let quoted = format!("\"{}\"", local.replace('\\', "\\\\").replace('"', "\\\""));
                Address::from_parts(&quoted, self.domain(record).clone())
            })
            .expect("a local part that was an Address before is one again")
    }
}

/// At most 64 octets as written; lower case may make some letters longer, never four times.
fn short_length(text: &str) -> u8 {
    u8::try_from(text.len()).expect("a local part is short")
}

/// Calls `ask` with the local part as it compares; without allocating in the usual case.
fn with_key<T>(address: &Address, ask: impl FnOnce(&str) -> T) -> T {
    let local = address.local().as_bytes();
    let mut lower = [0_u8; 64];
    if local.len() > lower.len() || local[0] == b'"' || !local.is_ascii() {
        return ask(&address.local_key());
    }
    let lower = &mut lower[..local.len()];
    lower.copy_from_slice(local);
    lower.make_ascii_lowercase();
    ask(std::str::from_utf8(lower).expect("ASCII is UTF-8"))
}

/// The bytes from a record's start on.
#[derive(Clone, Copy)]
struct Record<'a>(&'a [u8]);

impl<'a> Record<'a> {
    fn has(&self, flag: u8) -> bool {
        self.0[0] & flag != 0
    }

    fn is_alias(&self) -> bool {
        self.has(flag::ALIAS)
    }

    fn domain(&self) -> usize {
        self.number(2) as usize
    }

    fn key(&self) -> &'a str {
        self.text(HEAD, self.0[1])
    }

    fn after_key(&self) -> usize {
        HEAD + usize::from(self.0[1])
    }

    fn distance_to_owner(&self) -> usize {
        self.number(self.after_key()) as usize
    }

    fn location(&self) -> u16 {
        let at = self.after_key();
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn written(&self) -> &'a str {
        if !self.has(flag::WRITTEN_OTHERWISE) {
            return self.key();
        }
        let at = self.after_key() + 2;
        self.text(at + 1, self.0[at])
    }

    fn length(&self) -> usize {
        let after_key = self.after_key();
        if self.is_alias() {
            after_key + 4
        } else if self.has(flag::WRITTEN_OTHERWISE) {
            after_key + 3 + usize::from(self.0[after_key + 2])
        } else {
            after_key + 2
        }
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn text(&self, at: usize, length: u8) -> &'a str {
        std::str::from_utf8(&self.0[at..at + usize::from(length)]).expect("only text was written")
    }
}

/// Offsets by hash: open addressing, one word a slot. The upper 16 bits repeat a part of the hash,
/// so that a slot of another address is passed over without reading its record.
#[derive(Debug, Default)]
struct Slots(Vec<u64>);

const TAG_SHIFT: u32 = 48;

impl Slots {
    /// A quarter more slots than entries keeps probes short.
    fn for_entries(entries: usize) -> Self {
        Self(vec![0; entries + entries / 4 + 1])
    }

    fn is_full(&self, entries: usize) -> bool {
        entries + entries / 4 + 1 >= self.0.len()
    }

    fn put(&mut self, hash: u64, offset: usize) {
        let mut at = self.start(hash);
        while self.0[at] != 0 {
            at = self.next(at);
        }
        // One more than the offset, so that zero means empty.
        self.0[at] = tag(hash) | (offset as u64 + 1);
    }

    fn find(&self, hash: u64, mut is_it: impl FnMut(usize) -> bool) -> Option<usize> {
        if self.0.is_empty() {
            return None;
        }
        let mut at = self.start(hash);
        loop {
            let slot = self.0[at];
            if slot == 0 {
                return None;
            }
            let offset = (slot & ((1 << TAG_SHIFT) - 1)) as usize - 1;
            if slot >> TAG_SHIFT == tag(hash) >> TAG_SHIFT && is_it(offset) {
                return Some(offset);
            }
            at = self.next(at);
        }
    }

    /// Spreads a hash over any number of slots, by its upper bits.
    fn start(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.0.len() as u128) >> 64) as usize
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.0.len() { 0 } else { at + 1 }
    }
}

/// The lower bits: the upper ones already choose the slot.
fn tag(hash: u64) -> u64 {
    hash << TAG_SHIFT
}

/// Values that many records share, by number.
#[derive(Debug)]
struct Interned<T> {
    values: Vec<T>,
    numbers: HashMap<T, usize>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { values: Vec::new(), numbers: HashMap::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Interned<T> {
    fn number(&mut self, value: &T) -> usize {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        self.values.push(value.clone());
        self.numbers.insert(value.clone(), self.values.len() - 1);
        self.values.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn user(primary: &str, location: Option<&str>) -> User {
        User {
            primary: address(primary),
            preferred_data_location: location.map(Into::into),
            licenses: Licenses::default(),
        }
    }

    #[test]
    fn users_are_found_by_any_of_their_addresses_and_come_out_as_they_went_in() {
        let mut users = Users::default();
        let anna = user("Anna.Karenina@contoso.com", Some("EUR"));
        let bob =
            User { licenses: Licenses { multi_geo: false, mail: true }, ..user("bob@contoso.com", None) };
        let quoted = user("\"a b\"@fabrikam.example", Some("nowhere"));
        users.add(&anna, &[address("anna@contoso.com"), address("\"the anna\"@contoso.com")]).expect("free");
        users.add(&bob, &[]).expect("free");
        users.add(&quoted, &[address("ab@contoso.com")]).expect("free");
        users.shrink();
        for (asked, owner) in [
            ("anna.karenina@contoso.com", &anna),
            ("ANNA@Contoso.com", &anna),
            ("\"the anna\"@contoso.com", &anna),
            ("bob@contoso.com", &bob),
            ("\"A B\"@fabrikam.example", &quoted),
            ("ab@contoso.com", &quoted),
        ] {
            let found = users.by_address(&address(asked), None).unwrap_or_else(|| panic!("{asked}"));
            assert_eq!(&found, owner, "{asked}");
            assert_eq!(found.primary.local(), owner.primary.local(), "written as it was given");
        }
        for asked in ["anna@fabrikam.example", "bob+tag@contoso.com", "carol@contoso.com"] {
            assert_eq!(users.by_address(&address(asked), None), None, "{asked}");
        }
        let all: Vec<_> = users.iter().collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], (anna, vec![address("anna@contoso.com"), address("\"the anna\"@contoso.com")]));
        assert_eq!(all[2].1, [address("ab@contoso.com")]);
    }

    #[test]
    fn a_subaddress_is_its_user_only_when_the_exact_address_is_nobodys() {
        let mut users = Users::default();
        users.add(&user("anna@contoso.com", None), &[]).expect("free");
        users.add(&user("anna+list@contoso.com", None), &[]).expect("free");
        let primary = |asked: &str, separator| {
            users.by_address(&address(asked), separator).map(|user| user.primary.to_string())
        };
        assert_eq!(primary("Anna+x+y@contoso.com", Some('+')).as_deref(), Some("anna@contoso.com"));
        assert_eq!(primary("anna+list@contoso.com", Some('+')).as_deref(), Some("anna+list@contoso.com"));
        assert_eq!(primary("anna+x@contoso.com", None), None);
        assert_eq!(primary("anna+x@contoso.com", Some('-')), None);
        assert_eq!(primary("+x@contoso.com", Some('+')), None);
    }

    #[test]
    fn an_address_belongs_to_one_user_only() {
        let mut users = Users::default();
        users.add(&user("anna@contoso.com", None), &[address("a@contoso.com")]).expect("free");
        assert_eq!(users.add(&user("A@contoso.com", None), &[]), Err(Taken));
        assert_eq!(users.add(&user("bob@contoso.com", None), &[address("\"anna\"@contoso.com")]), Err(Taken));
        assert_eq!(users.len(), 1);
        assert!(!users.contains(&address("bob@contoso.com")), "a refused user leaves nothing behind");
    }

    #[test]
    fn ten_million_users_would_fit_in_a_gibibyte() {
        let mut users = Users::default();
        const COUNT: usize = 20_000;
        for number in 0..COUNT {
            let primary = format!("firstname.lastname{number}@tenant{}.example.com", number / 100);
            let alias = address(&format!("f.lastname{number}@tenant{}.example.com", number / 100));
            users.add(&user(&primary, Some("EUR")), &[alias]).expect("free");
        }
        users.shrink();
        let bytes = users.records.capacity() + users.slots.0.capacity() * size_of::<u64>();
        assert!(bytes / COUNT < 100, "{} bytes a user with an alias", bytes / COUNT);
    }

    proptest! {
        #[test]
        fn it_answers_as_a_plain_map_would(
            locals in proptest::collection::vec("[a-cA-C]{1,3}(\\+[a-c])?", 1..300),
            asked in proptest::collection::vec("[a-dA-D]{1,3}", 1..100),
        ) {
            let mut users = Users::default();
            let mut plain: HashMap<String, User> = HashMap::new();
            for local in locals {
                let user = user(&format!("{local}@contoso.com"), Some(&local));
                let expected = if plain.contains_key(&user.primary.key()) { Err(Taken) } else { Ok(()) };
                prop_assert_eq!(users.add(&user, &[]), expected);
                plain.entry(user.primary.key()).or_insert(user);
            }
            let check = |users: &Users| {
                for local in &asked {
                    let address = address(&format!("{local}@contoso.com"));
                    assert_eq!(users.by_address(&address, None), plain.get(&address.key()).cloned());
                }
                assert_eq!(users.iter().count(), plain.len());
            };
            check(&users);
            users.shrink();
            check(&users);
        }
    }
}
