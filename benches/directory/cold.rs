//! Cold lookups through the front, as sessions make them, with a cache that keeps nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use landfall::clock::Clock;
use landfall::directory::{Service, Settings, Table, Terms, open};
use landfall::mail::{Address, Lookup, Region, Regions};

use super::{Numbers, Size};

pub(crate) const SPAN: Duration = Duration::from_secs(10);
/// Recipients that are asked for at once, as of so many sessions.
const AT_ONCE: usize = 1_000;

/// Each second.
pub(crate) fn lookups(service: Service, table: Table, pool: usize, size: &Size) -> usize {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let settings = Settings {
            service,
            terms: Terms {
                cache: 0,
                cache_for: Duration::from_secs(1),
                cache_absent_for: Duration::ZERO,
                stale_for: Duration::from_secs(60),
                deadline: Duration::from_secs(5),
            },
            pool,
            node_region: Region::parse("EUR").expect("a code"),
            regions: Regions::default(),
            subaddress: None,
            snapshot: None,
            clock: Clock::System,
        };
        let (directory, _news) = open(settings, table).expect("the settings are good");
        directory.ready(Duration::from_secs(120)).await.expect("the server is there");
        let answered = Arc::new(AtomicUsize::new(0));
        let over = tokio::time::Instant::now() + SPAN;
        let askers: Vec<_> = (0..AT_ONCE)
            .map(|seed| {
                let (directory, answered, size) = (directory.clone(), Arc::clone(&answered), size.clone());
                tokio::spawn(async move {
                    let mut numbers = Numbers(seed as u64 + 1);
                    while tokio::time::Instant::now() < over {
                        let address = size.address(numbers.below(size.users));
                        let address = Address::parse(&address).expect("an address");
                        let domain = directory.domain(address.domain()).await.found().expect("all are there");
                        let found = directory.user(&domain, &address).await;
                        assert!(matches!(found, Lookup::Found(_)), "{address}: {found:?}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for asker in askers {
            asker.await.expect("no panic");
        }
        answered.load(Ordering::Relaxed) / SPAN.as_secs() as usize
    })
}
