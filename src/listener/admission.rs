//! Admission: who gets a slot, overall and per network (rule 59).
//!
//! A slot is given back when it is dropped. IPv6 clients count by their /64: an address there is cheap.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub struct Admission {
    overall: Arc<Semaphore>,
    per_network: Arc<DashMap<IpAddr, usize>>,
    limit_per_network: AtomicUsize,
}

/// Room for one connection.
pub struct Slot {
    _overall: OwnedSemaphorePermit,
    network: IpAddr,
    per_network: Arc<DashMap<IpAddr, usize>>,
}

impl Admission {
    pub fn new(limit_overall: usize, limit_per_network: usize) -> Self {
        Self {
            overall: Arc::new(Semaphore::new(limit_overall)),
            per_network: Arc::default(),
            limit_per_network: AtomicUsize::new(limit_per_network),
        }
    }

    pub fn set_limit_per_network(&self, limit: usize) {
        self.limit_per_network.store(limit, Ordering::Relaxed);
    }

    /// Waits for room, so that a full house leaves callers in the kernel's backlog.
    pub async fn room(&self) -> OwnedSemaphorePermit {
        self.overall.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// `None` when this network already has as many connections as one may have.
    pub fn admit(&self, ip: IpAddr, room: OwnedSemaphorePermit) -> Option<Slot> {
        let network = network_of(ip);
        let mut count = self.per_network.entry(network).or_insert(0);
        if *count >= self.limit_per_network.load(Ordering::Relaxed) {
            return None;
        }
        *count += 1;
        drop(count);
        Some(Slot { _overall: room, network, per_network: self.per_network.clone() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let dashmap::Entry::Occupied(mut entry) = self.per_network.entry(self.network) {
            *entry.get_mut() -= 1;
            // Networks that have gone leave nothing behind: the map is as large as the connections are many.
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_network_has_its_limit_and_gets_its_slots_back() {
        let admission = Admission::new(10, 2);
        let ip: IpAddr = "192.0.2.1".parse().expect("an address");
        let first = admission.admit(ip, admission.room().await);
        let second = admission.admit(ip, admission.room().await);
        assert!(first.is_some() && second.is_some());
        assert!(admission.admit(ip, admission.room().await).is_none());
        assert!(admission.admit("192.0.2.2".parse().expect("an address"), admission.room().await).is_some());
        drop(first);
        assert!(admission.admit(ip, admission.room().await).is_some());
        drop(second);
        assert!(admission.per_network.is_empty());
    }

    #[test]
    fn ipv6_counts_by_64_bits_and_mapped_addresses_are_ipv4() {
        let network = |text: &str| network_of(text.parse().expect("an address"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::2"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }
}
