//! Troubled: endpoints that lately failed, so that a store which hangs costs one attempt its patience and
//! not each of them.
//!
//! They are tried after the others for a while, never left out: where all are troubled, all are tried.

use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use crate::mail::Endpoint;

/// How long an endpoint stands behind the others.
const MEMORY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Troubled(DashMap<Endpoint, Instant>);

impl Troubled {
    pub(super) fn remember(&self, endpoint: &Endpoint) {
        self.0.insert(endpoint.clone(), Instant::now());
    }

    pub(super) fn forget(&self, endpoint: &Endpoint) {
        // Hardly ever there: the common case takes no lock for writing.
        if self.0.contains_key(endpoint) {
            self.0.remove(endpoint);
        }
    }

    /// The endpoints in their order, those in trouble at the end.
    pub(super) fn last<'a>(&self, endpoints: &'a [Endpoint]) -> Vec<&'a Endpoint> {
        let mut ordered: Vec<&Endpoint> = endpoints.iter().collect();
        ordered.sort_by_key(|endpoint| self.is_troubled(endpoint));
        ordered
    }

    fn is_troubled(&self, endpoint: &Endpoint) -> bool {
        self.0.get(endpoint).is_some_and(|since| since.elapsed() < MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_troubled_stand_behind_the_others_for_a_while() {
        let endpoints = ["smtp://a", "smtp://b", "smtp://c"].map(|text| Endpoint::parse(text).expect(text));
        let [a, b, c] = &endpoints;
        let troubled = Troubled::default();
        assert_eq!(troubled.last(&endpoints), [a, b, c]);
        troubled.remember(a);
        assert_eq!(troubled.last(&endpoints), [b, c, a]);
        troubled.remember(b);
        troubled.remember(c);
        assert_eq!(troubled.last(&endpoints), [a, b, c], "all of them is none of them");
        troubled.forget(b);
        assert_eq!(troubled.last(&endpoints), [b, a, c]);
        tokio::time::advance(MEMORY).await;
        assert_eq!(troubled.last(&endpoints), [a, b, c]);
    }
}
