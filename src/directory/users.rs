//! Users: millions of mailboxes in little memory.
//!
//! Owns the layout: one arena of short records, and a table of offsets into it by hash. A user costs
//! about 18 bytes besides its local part; a `User` is made only for the one that was asked for. Domains are
//! numbers here, so that an answer touches two places of the large memory and no more.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::names::Names;
use crate::mail::{Address, Licenses, User};

/// An address that is somebody's already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken;

/// Every user and alias by address. Grows only; a changed directory is built anew.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// Records one after the other; an alias's record comes after its user's.
    records: Vec<u8>,
    /// Where the last user's record begins.
    last: usize,
    slots: Slots,
    addresses: usize,
    users: usize,
    hasher: RandomState,
    /// Preferred data locations as written.
    locations: Locations,
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
    pub(super) fn contains(&self, names: &Names, address: &Address) -> bool {
        let Some(domain) = names.number(address.domain().as_str()) else { return false };
        with_key(address, |key| self.find(key, domain).is_some())
    }

    pub(super) fn by_address(
        &self,
        names: &Names,
        address: &Address,
        subaddress: Option<char>,
    ) -> Option<User> {
        let domain = names.number(address.domain().as_str())?;
        let offset = with_key(address, |key| {
            self.find(key, domain).or_else(|| {
                // `user+tag` is `user` when the exact address is unknown (spec, section 6; RFC 5233).
                let (user, _) = key.split_once(subaddress?)?;
                if user.is_empty() { None } else { self.find(user, domain) }
            })
        })?;
        let record = self.record(offset);
        let owner = if record.is_alias() { self.record(offset - record.distance_to_owner()) } else { record };
        Some(self.user(names, owner))
    }

    /// Adds a user and its aliases; the first address that is taken refuses them all.
    pub(super) fn add(&mut self, names: &mut Names, user: &User, aliases: &[Address]) -> Result<(), Taken> {
        let domain = names.enter(user.primary.domain());
        let refused = with_key(&user.primary, |key| {
            let hash = self.hash(key, domain);
            if self.find_hashed(hash, key, domain).is_some()
                || aliases.iter().any(|alias| self.contains(names, alias))
            {
                return true;
            }
            self.add_primary(user, key, domain, hash);
            false
        });
        if refused {
            return Err(Taken);
        }
        let owner = self.last;
        for alias in aliases {
            let domain = names.enter(alias.domain());
            with_key(alias, |key| self.add_alias(key, domain, owner));
        }
        Ok(())
    }

    fn add_primary(&mut self, user: &User, key: &str, domain: u32, hash: u64) {
        let written = user.primary.local();
        let mut flags = 0;
        for (set, bit) in [
            (user.licenses.multi_geo, flag::MULTI_GEO),
            (user.licenses.mail, flag::MAIL),
            (key != written, flag::WRITTEN_OTHERWISE),
        ] {
            flags |= if set { bit } else { 0 };
        }
        let location =
            user.preferred_data_location.as_ref().map_or(NOWHERE, |code| self.locations.number(code));
        self.last = self.records.len();
        self.head(flags, domain, key);
        self.records.extend(location.to_le_bytes());
        if key != written {
            self.records.push(short_length(written));
            self.records.extend(written.as_bytes());
        }
        self.enter(self.last, hash);
        self.users += 1;
    }

    fn add_alias(&mut self, key: &str, domain: u32, owner: usize) {
        let hash = self.hash(key, domain);
        if self.find_hashed(hash, key, domain).is_some() {
            // Twice among these aliases, or the primary address itself: said once is enough.
            return;
        }
        let offset = self.records.len();
        self.head(flag::ALIAS, domain, key);
        let back = u32::try_from(offset - owner).expect("aliases of one user stay below 4 GiB");
        self.records.extend(back.to_le_bytes());
        self.enter(offset, hash);
    }

    /// Makes room for so many addresses more, of so many bytes; it grows beyond them as well, only slower.
    pub(super) fn expect(&mut self, addresses: usize, bytes: usize) {
        self.records.reserve(bytes);
        let addresses = self.addresses + addresses;
        if self.slots.is_full(addresses) {
            self.rehash(Slots::for_entries(addresses));
        }
    }

    /// Gives back what growing has reserved.
    pub(super) fn shrink(&mut self) {
        self.records.shrink_to_fit();
        // An estimate that was nearly right is not worth touching all of it once more.
        if !self.slots.fits(self.addresses) {
            self.rehash(Slots::for_entries(self.addresses));
        }
    }

    /// Every user with its aliases, in the order they were added.
    pub(super) fn iter<'u>(&'u self, names: &'u Names) -> impl Iterator<Item = (User, Vec<Address>)> + 'u {
        let mut offset = 0;
        std::iter::from_fn(move || {
            let owner = self.following(offset)?;
            offset += owner.length();
            let mut aliases = Vec::new();
            while let Some(record) = self.following(offset).filter(Record::is_alias) {
                aliases.push(address(names, record.key(), record));
                offset += record.length();
            }
            Some((self.user(names, owner), aliases))
        })
    }

    fn head(&mut self, flags: u8, domain: u32, key: &str) {
        self.records.extend([flags, short_length(key)]);
        self.records.extend(domain.to_le_bytes());
        self.records.extend(key.as_bytes());
    }

    fn enter(&mut self, offset: usize, hash: u64) {
        // The record is there already, so that a new table has it.
        self.addresses += 1;
        if self.slots.is_full(self.addresses) {
            self.rehash(Slots::for_entries(self.addresses.max(64) * 2));
        } else {
            self.slots.put(hash, offset);
        }
    }

    fn rehash(&mut self, mut slots: Slots) {
        let mut offset = 0;
        while let Some(record) = self.following(offset) {
            slots.put(self.hash(record.key(), record.domain()), offset);
            offset += record.length();
        }
        self.slots = slots;
    }

    fn find(&self, key: &str, domain: u32) -> Option<usize> {
        self.find_hashed(self.hash(key, domain), key, domain)
    }

    fn find_hashed(&self, hash: u64, key: &str, domain: u32) -> Option<usize> {
        self.slots.find(hash, |offset| {
            let record = self.record(offset);
            record.domain() == domain && record.key() == key
        })
    }

    fn hash(&self, key: &str, domain: u32) -> u64 {
        self.hasher.hash_one((key, domain))
    }

    fn record(&self, offset: usize) -> Record<'_> {
        Record(&self.records[offset..])
    }

    fn following(&self, offset: usize) -> Option<Record<'_>> {
        (offset < self.records.len()).then(|| self.record(offset))
    }

    fn user(&self, names: &Names, record: Record<'_>) -> User {
        User {
            primary: address(names, record.written(), record),
            preferred_data_location: match record.location() {
                NOWHERE => None,
                number => Some(self.locations.codes.get(usize::from(number)).cloned().unwrap_or_default()),
            },
            licenses: Licenses { multi_geo: record.has(flag::MULTI_GEO), mail: record.has(flag::MAIL) },
        }
    }
}

fn address(names: &Names, local: &str, record: Record<'_>) -> Address {
    let domain = names.domain(record.domain());
    // An alias is kept as it compares, which is without its quotes.
    Address::from_parts(local, domain.clone())
        .or_else(|_| {
            let quoted = format!("\"{}\"", local.replace('\\', "\\\\").replace('"', "\\\""));
            Address::from_parts(&quoted, domain.clone())
        })
        .expect("a local part that was an Address before is one again")
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

    fn domain(&self) -> u32 {
        self.number(2)
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

    /// Whether it is hardly larger than a new one would be.
    fn fits(&self, entries: usize) -> bool {
        self.0.len() <= entries + entries / 4 + entries / 8 + 1
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

/// The few codes that millions of users share, by number.
#[derive(Debug, Default)]
struct Locations {
    codes: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u16>,
}

impl Locations {
    fn number(&mut self, code: &str) -> u16 {
        if let Some(number) = self.numbers.get(code) {
            return *number;
        }
        // 65,534 different codes are no directory; the rest count as unknown, as any nonsense does.
        let number = u16::try_from(self.codes.len()).unwrap_or(NOWHERE).min(NOWHERE - 1);
        if number < NOWHERE - 1 {
            self.codes.push(code.into());
            self.numbers.insert(code.into(), number);
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Users with the names of their domains.
    #[derive(Default)]
    struct People {
        users: Users,
        names: Names,
    }

    impl People {
        fn add(&mut self, user: &User, aliases: &[Address]) -> Result<(), Taken> {
            self.users.add(&mut self.names, user, aliases)
        }

        fn by_address(&self, address: &Address, subaddress: Option<char>) -> Option<User> {
            self.users.by_address(&self.names, address, subaddress)
        }

        fn contains(&self, address: &Address) -> bool {
            self.users.contains(&self.names, address)
        }

        fn iter(&self) -> impl Iterator<Item = (User, Vec<Address>)> + '_ {
            self.users.iter(&self.names)
        }
    }

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
        let mut users = People::default();
        let anna = user("Anna.Karenina@contoso.com", Some("EUR"));
        let bob =
            User { licenses: Licenses { multi_geo: false, mail: true }, ..user("bob@contoso.com", None) };
        let quoted = user("\"a b\"@fabrikam.example", Some("nowhere"));
        users.add(&anna, &[address("anna@contoso.com"), address("\"the anna\"@contoso.com")]).expect("free");
        users.add(&bob, &[]).expect("free");
        users.add(&quoted, &[address("ab@contoso.com")]).expect("free");
        users.users.shrink();
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
        let mut users = People::default();
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
        let mut users = People::default();
        users.add(&user("anna@contoso.com", None), &[address("a@contoso.com")]).expect("free");
        assert_eq!(users.add(&user("A@contoso.com", None), &[]), Err(Taken));
        assert_eq!(users.add(&user("bob@contoso.com", None), &[address("\"anna\"@contoso.com")]), Err(Taken));
        assert_eq!(users.users.len(), 1);
        assert!(!users.contains(&address("bob@contoso.com")), "a refused user leaves nothing behind");
    }

    #[test]
    fn ten_million_users_would_fit_in_a_gibibyte() {
        let mut users = People::default();
        const COUNT: usize = 20_000;
        for number in 0..COUNT {
            let primary = format!("firstname.lastname{number}@tenant{}.example.com", number / 100);
            let alias = address(&format!("f.lastname{number}@tenant{}.example.com", number / 100));
            users.add(&user(&primary, Some("EUR")), &[alias]).expect("free");
        }
        users.users.shrink();
        let bytes = users.users.records.capacity() + users.users.slots.0.capacity() * size_of::<u64>();
        assert!(bytes / COUNT < 100, "{} bytes a user with an alias", bytes / COUNT);
    }

    proptest! {
        #[test]
        fn it_answers_as_a_plain_map_would(
            locals in proptest::collection::vec("[a-cA-C]{1,3}(\\+[a-c])?", 1..300),
            asked in proptest::collection::vec("[a-dA-D]{1,3}", 1..100),
        ) {
            let mut users = People::default();
            let mut plain: HashMap<String, User> = HashMap::new();
            for local in locals {
                let user = user(&format!("{local}@contoso.com"), Some(&local));
                let expected = if plain.contains_key(&user.primary.key()) { Err(Taken) } else { Ok(()) };
                prop_assert_eq!(users.add(&user, &[]), expected);
                plain.entry(user.primary.key()).or_insert(user);
            }
            let check = |users: &People| {
                for local in &asked {
                    let address = address(&format!("{local}@contoso.com"));
                    assert_eq!(users.by_address(&address, None), plain.get(&address.key()).cloned());
                }
                assert_eq!(users.iter().count(), plain.len());
            };
            check(&users);
            users.users.expect(1_000, 1_000);
            check(&users);
            users.users.shrink();
            check(&users);
        }
    }
}
