//! Hardship: what the daemon does when it is not simply passing mail on.

use std::time::{Duration, Instant};

use crate::Options;
use crate::generator::{self, Wire};
use crate::peer::{Peer, free_address};
use crate::sink::Sink;

const MIB: f64 = 1_048_576.0;

pub(crate) async fn run(options: &Options) {
    match options.scenario.as_str() {
        "outage" => outage(options).await,
        "idle" => idle(options).await,
        "refusals" => refusals(options).await,
        "restart" => restart(options).await,
        "depth" => depth(options).await,
        other => panic!("unknown scenario '{other}': relay, outage, idle, refusals, restart or depth"),
    }
}

fn resident(peer: &Peer) -> f64 {
    peer.usage().resident_bytes as f64 / MIB
}

/// The next hop is down while all of the load comes in, and then returns.
async fn outage(options: &Options) {
    let total = options.sessions * options.messages;
    for name in &options.peer {
        let sink = free_address();
        let peer = Peer::start(name, options, sink).await;
        let before = resident(&peer);
        let started = Instant::now();
        let load = generator::run(options, peer.address).await;
        let accepted = started.elapsed();
        let queued = resident(&peer);
        let sink = Sink::start_at(sink, options.chunking).await;
        sink.wait_for(1, Duration::from_secs(120)).await;
        let back = Instant::now();
        sink.wait_for(total, Duration::from_secs(300)).await;
        let drained = back.elapsed();
        sink.check(&load.sent);
        println!(
            "{name}: {total} queued at {:.0}/s, p99 {:.1} ms; {before:.0} MiB, then {queued:.0} MiB; drained at {:.0}/s, {:.0} MiB",
            total as f64 / accepted.as_secs_f64(),
            load.latency(99.0).as_secs_f64() * 1000.0,
            total as f64 / drained.as_secs_f64(),
            resident(&peer),
        );
    }
}

/// Connections that have greeted and say nothing.
async fn idle(options: &Options) {
    for name in &options.peer {
        let peer = Peer::start(name, options, free_address()).await;
        let before = resident(&peer);
        let mut wires = Vec::new();
        for _ in 0..options.sessions {
            wires.push(Wire::open(peer.address, options.tls).await);
        }
        println!("{name}: {before:.1} MiB; with {} idle connections {:.1} MiB", wires.len(), resident(&peer));
    }
}

/// Unknown recipients, ten in a flight.
async fn refusals(options: &Options) {
    const FLIGHT: usize = 10;
    for name in &options.peer {
        let peer = Peer::start(name, options, free_address()).await;
        let before = peer.usage();
        let started = Instant::now();
        let sessions: Vec<_> = (0..options.sessions)
            .map(|session| {
                let (address, flights) = (peer.address, options.messages);
                tokio::spawn(async move {
                    let mut wire = Wire::open(address, false).await;
                    wire.command("MAIL FROM:<load@sender.example>\r\n", 250).await;
                    for flight in 0..flights {
                        let lines: String = (0..FLIGHT)
                            .map(|line| format!("RCPT TO:<nobody{session}.{flight}.{line}@example.test>\r\n"))
                            .collect();
                        wire.send(lines.as_bytes()).await;
                        for _ in 0..FLIGHT {
                            wire.expect(550).await;
                        }
                    }
                })
            })
            .collect();
        for session in sessions {
            session.await.expect("a session ends well");
        }
        let total = (options.sessions * options.messages * FLIGHT) as f64;
        let cpu = peer.usage().cpu_seconds - before.cpu_seconds;
        println!(
            "{name}: {:.0} refused/s, {:.3} CPU s per 1,000",
            total / started.elapsed().as_secs_f64(),
            cpu / total * 1000.0
        );
    }
}

/// kill -9 with everything queued; how long until it answers again, and is anything lost?
async fn restart(options: &Options) {
    let total = options.sessions * options.messages;
    let sink = free_address();
    let mut peer = Peer::start("landfall", options, sink).await;
    let load = generator::run(options, peer.address).await;
    let queued = resident(&peer);
    let back = peer.restart(options);
    println!(
        "landfall: {total} queued in {queued:.0} MiB; answering {:.0} ms after kill -9, in {:.0} MiB",
        back.as_secs_f64() * 1000.0,
        resident(&peer)
    );
    let sink = Sink::start_at(sink, options.chunking).await;
    sink.wait_for(total, Duration::from_secs(300)).await;
    sink.check(&load.sent);
    println!("landfall: all {total} delivered once and unchanged");
}

/// What a message costs while so many others wait: coming in, and going on once the next hop is back.
async fn depth(options: &Options) {
    let measured = options.sessions * options.messages;
    println!("{measured} messages of {} octets more, with so many waiting already", options.size);
    println!(
        "| waiting | accept/s | p99 ms | CPU s/1000 in | MiB | bytes per waiting | drain/s | CPU s/1000 out |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for waiting in &options.depth {
        let address = free_address();
        let peer = Peer::start("landfall", options, address).await;
        let empty = peer.usage().resident_bytes as f64;
        let before = Options { messages: waiting.div_ceil(options.sessions), ..options.clone() };
        let mut sent = generator::run(&before, peer.address).await.sent;
        let full = peer.usage();
        let more = Options { first: sent.len(), ..options.clone() };
        let started = Instant::now();
        let load = generator::run(&more, peer.address).await;
        let accepted = started.elapsed();
        let taken_in = peer.usage();
        let p99 = load.latency(99.0);
        sent.extend(load.sent);
        let sink = Sink::start_at(address, options.chunking).await;
        sink.wait_for(1, Duration::from_secs(300)).await;
        let (back, began) = (Instant::now(), peer.usage());
        sink.wait_for(sent.len(), Duration::from_secs(1_800)).await;
        let (drained, drained_usage) = (back.elapsed(), peer.usage());
        sink.check(&sent);
        println!(
            "| {waiting} | {:.0} | {:.2} | {:.4} | {:.0} | {:.0} | {:.0} | {:.4} |",
            measured as f64 / accepted.as_secs_f64(),
            p99.as_secs_f64() * 1000.0,
            (taken_in.cpu_seconds - full.cpu_seconds) / measured as f64 * 1000.0,
            taken_in.resident_bytes as f64 / MIB,
            (full.resident_bytes as f64 - empty) / *waiting as f64,
            sent.len() as f64 / drained.as_secs_f64(),
            (drained_usage.cpu_seconds - began.cpu_seconds) / sent.len() as f64 * 1000.0,
        );
    }
}
