//! Names: every domain once, by number, so that millions of addresses need not repeat them.
//!
//! Accepted domains and the subdomains that addresses are in; small enough to stay in a processor's caches.

use std::collections::HashMap;

use crate::mail::Domain;

#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<Domain, u32>,
    domains: Vec<Domain>,
}

impl Names {
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The number that it has or gets.
    pub(super) fn enter(&mut self, domain: &Domain) -> u32 {
        if let Some(number) = self.number(domain.as_str()) {
            return number;
        }
        let number = u32::try_from(self.domains.len()).expect("fewer than 4 billion domains");
        self.numbers.insert(domain.clone(), number);
        self.domains.push(domain.clone());
        number
    }

    pub(super) fn domain(&self, number: u32) -> &Domain {
        &self.domains[number as usize]
    }

    /// Gives back what growing has reserved.
    pub(super) fn shrink(&mut self) {
        self.numbers.shrink_to_fit();
        self.domains.shrink_to_fit();
    }
}
