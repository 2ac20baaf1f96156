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
        other => panic!("unknown scenario '{other}': relay, outage, idle, refusals or restart"),
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
