//! The whole program under load: a real daemon between a generator and a sink, over loopback.
//!
//! `cargo bench --bench edge -- --help` lists the parameters. Every message carries an id and a checksum;
//! the sink counts each exactly once and unchanged, or the run fails. With `--peer postfix` the same work
//! goes through an installed Postfix, so that the ratio is of one machine and one evening.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time over real sockets")]

mod generator;
mod hardship;
mod machine;
mod peer;
mod sink;

use std::time::{Duration, Instant};

use clap::Parser;

#[derive(Debug, Clone, Parser)]
#[command(name = "edge")]
struct Options {
    /// Sessions at a time.
    #[arg(long, default_value_t = 50)]
    sessions: usize,
    /// Messages per session.
    #[arg(long, default_value_t = 100)]
    messages: usize,
    /// Messages on one connection before a session opens another.
    #[arg(long, default_value_t = 100)]
    per_connection: usize,
    /// Octets of a message.
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Wait for each reply instead of sending MAIL, RCPT and DATA in one flight.
    #[arg(long)]
    no_pipelining: bool,
    /// STARTTLS on each connection.
    #[arg(long)]
    tls: bool,
    /// The sink offers CHUNKING.
    #[arg(long)]
    chunking: bool,
    /// How often the work is repeated; the median is told.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// What is measured, in turn within each round: `landfall`, `inline` (the same daemon with `mode =
    /// "inline"`), `postfix`, `sink` (the generator straight to the sink).
    #[arg(long, value_delimiter = ',', default_value = "landfall")]
    peer: Vec<String>,
    /// `relay`: through to the sink. `outage`: the sink is down while the load comes, then returns.
    /// `idle`: connections that say nothing. `refusals`: unknown recipients. `restart`: with a full queue.
    /// `depth`: the cost of a message while ever more of them wait.
    #[arg(long, default_value = "relay")]
    scenario: String,
    /// How many wait, in the scenario `depth`.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000,1000000")]
    depth: Vec<usize>,
    /// The number of the first message.
    #[arg(skip)]
    first: usize,
    /// The daemon to measure; the release build when left out.
    #[arg(long)]
    binary: Option<std::path::PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one run of one peer showed.
struct Figures {
    accepted_per_second: f64,
    relayed_per_second: f64,
    p50: Duration,
    p99: Duration,
    cpu_seconds_per_1000: f64,
    written_per_message: f64,
    syncs_per_message: Option<f64>,
    resident_mib: f64,
}

fn main() {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if options.scenario != "relay" {
        return runtime.block_on(hardship::run(&options));
    }
    println!(
        "{} sessions x {} messages of {} octets, {} per connection{}{}{}; {} rounds",
        options.sessions,
        options.messages,
        options.size,
        options.per_connection,
        if options.tls { ", STARTTLS" } else { "" },
        if options.no_pipelining { ", not pipelined" } else { "" },
        if options.chunking { ", sink with CHUNKING" } else { "" },
        options.rounds,
    );
    println!(
        "| peer | accept/s | relay/s | p50 ms | p99 ms | CPU s/1000 | KiB written/msg | syncs/msg | RSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut runs: Vec<Vec<Figures>> = options.peer.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for (peer, figures) in options.peer.iter().zip(&mut runs) {
            figures.push(runtime.block_on(run(&options, peer)));
        }
    }
    for (peer, figures) in options.peer.iter().zip(&runs) {
        report(peer, figures);
    }
}

async fn run(options: &Options, peer: &str) -> Figures {
    let sink = sink::Sink::start(options.chunking).await;
    let mut peer = peer::Peer::start(peer, options, sink.address).await;
    let before = peer.usage();
    let started = Instant::now();
    let load = generator::run(options, peer.address).await;
    let accepted_in = started.elapsed();
    let total = options.sessions * options.messages;
    sink.wait_for(total, Duration::from_secs(120)).await;
    let relayed_in = started.elapsed();
    let after = peer.usage();
    let syncs = peer.syncs().await;
    peer.stop();
    sink.check(&load.sent);
    let count = total as f64;
    Figures {
        accepted_per_second: count / accepted_in.as_secs_f64(),
        relayed_per_second: count / relayed_in.as_secs_f64(),
        p50: load.latency(50.0),
        p99: load.latency(99.0),
        cpu_seconds_per_1000: (after.cpu_seconds - before.cpu_seconds) / count * 1000.0,
        written_per_message: (after.written_bytes.saturating_sub(before.written_bytes)) as f64 / count,
        syncs_per_message: syncs.map(|syncs| syncs as f64 / count),
        resident_mib: after.resident_bytes as f64 / 1_048_576.0,
    }
}

fn median(figures: &[Figures], of: impl Fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(peer: &str, figures: &[Figures]) {
    let syncs = if figures.iter().all(|f| f.syncs_per_message.is_some()) {
        format!("{:.3}", median(figures, |f| f.syncs_per_message.unwrap_or_default()))
    } else {
        "-".to_owned()
    };
    println!(
        "| {peer} | {:.0} | {:.0} | {:.2} | {:.2} | {:.3} | {:.1} | {syncs} | {:.0} |",
        median(figures, |f| f.accepted_per_second),
        median(figures, |f| f.relayed_per_second),
        median(figures, |f| f.p50.as_secs_f64() * 1000.0),
        median(figures, |f| f.p99.as_secs_f64() * 1000.0),
        median(figures, |f| f.cpu_seconds_per_1000),
        median(figures, |f| f.written_per_message) / 1024.0,
        median(figures, |f| f.resident_mib),
    );
}
