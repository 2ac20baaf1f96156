//! Admission: who gets a slot, overall and per network (rule 59).
//!
//! A slot is given back when it is dropped. IPv6 clients count by their /64: an address there is cheap.

use std::net::IpAddr;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::network_of;

pub struct Admission {
    overall: Arc<Semaphore>,
    per_network: Arc<DashMap<IpAddr, usize>>,
}

/// Room for one connection.
pub struct Slot {
    _overall: OwnedSemaphorePermit,
    network: IpAddr,
    per_network: Arc<DashMap<IpAddr, usize>>,
}

impl Admission {
    pub fn new(limit_overall: usize) -> Self {
        Self { overall: Arc::new(Semaphore::new(limit_overall)), per_network: Arc::default() }
    }

    /// Waits for room, so that a full house leaves callers in the kernel's backlog.
    pub async fn room(&self) -> OwnedSemaphorePermit {
        self.overall.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Gives `room` back when this network already has as many connections as one may have.
    pub fn admit(
        &self,
        ip: IpAddr,
        limit: usize,
        room: OwnedSemaphorePermit,
    ) -> Result<Slot, OwnedSemaphorePermit> {
        let network = network_of(ip);
        let mut count = self.per_network.entry(network).or_insert(0);
        if *count >= limit {
            return Err(room);
        }
        *count += 1;
        drop(count);
        Ok(Slot { _overall: room, network, per_network: self.per_network.clone() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_network_has_its_limit_and_gets_its_slots_back() {
        let admission = Admission::new(10);
        let ip: IpAddr = "192.0.2.1".parse().expect("an address");
        let first = admission.admit(ip, 2, admission.room().await);
        let second = admission.admit(ip, 2, admission.room().await);
        assert!(first.is_ok() && second.is_ok());
        assert!(admission.admit(ip, 2, admission.room().await).is_err());
        assert!(admission.admit("192.0.2.2".parse().expect("an address"), 2, admission.room().await).is_ok());
        drop(first);
        assert!(admission.admit(ip, 2, admission.room().await).is_ok());
        drop(second);
        assert!(admission.per_network.is_empty());
    }
}
