//! The directory at size: a file of ten million users, PostgreSQL with as many, and a small OpenLDAP.
//!
//! `cargo bench --bench directory` does all of it and needs 8 GiB of disk and PostgreSQL; `--users`, `--domains`
//! and `--only file|postgres|ldap` make it smaller. Prints the rows of docs/PERFORMANCE.md.
#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

#[path = "../../tests/world/mod.rs"]
mod world;

mod cold;
mod database;
mod file;
mod ldap;

use std::time::{Duration, Instant};

/// The daemon's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // As the daemon.
    let _ = nix::sys::prctl::set_thp_disable(true);
    world::wait_longer(Duration::from_secs(300));
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let number = |name: &str, default: usize| {
        value(name).map_or(default, |text| text.replace('_', "").parse().expect("a number"))
    };
    let size = Size { users: number("--users", 10_000_000), domains: number("--domains", 100_000) };
    println!("{} users in {} domains", size.users, size.domains);
    let only = value("--only");
    if only.is_none_or(|only| only == "file") {
        file::run(&size);
    }
    if only.is_none_or(|only| only == "postgres") {
        database::run(&size);
    }
    if only.is_none_or(|only| only == "ldap") {
        ldap::run();
    }
}

#[derive(Clone)]
struct Size {
    users: usize,
    domains: usize,
}

impl Size {
    fn domain(&self, number: usize) -> String {
        format!("tenant{}.example", number % self.domains)
    }

    fn address(&self, number: usize) -> String {
        format!("firstname.lastname{number}@{}", self.domain(number))
    }
}

/// Numbers that follow each other without an order.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64*: the benchmark needs no better.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

fn row(what: &str, figure: impl std::fmt::Display) {
    println!("| {what} | {figure} |");
}

/// Of a process, as /proc/PID/status has it, in MiB.
fn memory(process: &str, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    let kib = line.split_whitespace().nth(1).or(line.split_whitespace().next());
    kib.and_then(|kib| kib.trim_matches(':').parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed())
}

/// What this thread has had of a processor so far: says something on a machine that others use too.
fn processor() -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = spent.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// The value that so many of a hundred do not exceed.
fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    values
        .get((values.len() * percent / 100).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}
