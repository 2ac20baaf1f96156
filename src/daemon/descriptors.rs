//! Descriptors: how many files this process may open, and how many connections fit in.
//!
//! A daemon that runs out of them cannot even be asked what is the matter: some are kept back.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// For the spool, the trace, the directory, deliveries and the operator.
const KEPT_BACK: u64 = 512;

/// Each connection takes a descriptor: as many as the system lets us have.
pub(super) fn raise_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // What is refused here is told with the limit that stays.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// How many connections are taken at once, and what to say if those are fewer than were asked for.
pub(super) fn connections(wanted: usize) -> (usize, Option<String>) {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let fitting = fitting(descriptors);
    if wanted as u64 <= fitting {
        return (wanted, None);
    }
    let why = format!(
        "limits.connections is {wanted}, but this process may open {descriptors} files only (RLIMIT_NOFILE; \
         LimitNOFILE= in a unit): {fitting} connections are taken at once"
    );
    (usize::try_from(fitting).expect("less than what was wanted"), Some(why))
}

fn fitting(descriptors: u64) -> u64 {
    (descriptors - KEPT_BACK.min(descriptors / 2)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_back_whatever_there_is() {
        assert_eq!(fitting(64), 32);
        assert_eq!(fitting(1024), 512);
        assert_eq!(fitting(20_000), 19_488);
        assert_eq!(fitting(1), 1);
    }
}
