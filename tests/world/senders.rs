//! Senders: mail that keeps coming while an edge is killed and started, and what of it was acknowledged.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::client::Client;
use super::letter::letter;

const SENDERS: usize = 4;

pub struct Senders {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Message-IDs that were answered with 250.
    acknowledged: Mutex<BTreeSet<String>>,
    over: AtomicBool,
}

impl Senders {
    pub fn start(address: SocketAddr, recipients: &'static [&'static str]) -> Self {
        let shared = Arc::<Shared>::default();
        let threads = (0..SENDERS).map(|_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.send(address, recipients))
        });
        Self { threads: threads.collect(), shared }
    }

    /// How many messages have been acknowledged so far.
    pub fn count(&self) -> usize {
        self.shared.acknowledged.lock().expect("no sender panics").len()
    }

    /// Ends them; the Message-IDs of all that was acknowledged.
    pub fn stop(self) -> BTreeSet<String> {
        self.shared.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a sender that ends by itself");
        }
        self.shared.acknowledged.lock().expect("no sender panics").clone()
    }
}

impl Shared {
    /// Each time that the edge is gone, from the beginning.
    fn send(&self, address: SocketAddr, recipients: &[&str]) {
        while !self.over.load(Ordering::Relaxed) {
            let Ok(mut client) = Client::try_greeted(address) else { continue };
            while !self.over.load(Ordering::Relaxed) {
                let message = letter("under load");
                let id = message.split("Message-ID: ").nth(1).and_then(|rest| rest.lines().next());
                let id = id.expect("its own").to_owned();
                match client.try_deliver("ann@sender.example", recipients, &message) {
                    Some(true) => self.acknowledged.lock().expect("no sender panics").insert(id),
                    Some(false) => continue,
                    None => break,
                };
            }
        }
    }
}
