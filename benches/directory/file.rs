//! The file source: loading, memory, lookups, and what a reload costs those who are served meanwhile.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landfall::directory;
use landfall::document::Notes;
use landfall::mail::{Address, Regions};

use super::world::{Client, Edge};
use super::{Numbers, Size, memory, percentile, processor, row, timed};

const LOOKUPS: usize = 1_000_000;

pub(crate) fn run(size: &Size) {
    let builder = Edge::builder("EUR").with("[limits]\nmemory = \"8GiB\"");
    write(size, builder.folder());
    let text = std::fs::read_to_string(builder.folder().join("bench.toml")).expect("just written");
    println!("| file source | |\n|---|---|");
    alone(size, builder.folder(), &text);
    served(size, builder.directory(&text).start());
}

fn write(size: &Size, folder: &Path) {
    let mut outline = BufWriter::new(File::create(folder.join("bench.toml")).expect("our own folder"));
    for number in 0..size.domains {
        writeln!(
            outline,
            "[[tenant]]\nid = \"t{number}\"\ndefault_region = \"EUR\"\nallowed_regions = [\"EUR\", \"NAM\"]\n\
             domain = [{{ name = \"{}\" }}]",
            size.domain(number)
        )
        .expect("there is room");
    }
    writeln!(outline, "[[user_file]]\npath = \"users.csv\"").expect("there is room");
    let mut users = BufWriter::new(File::create(folder.join("users.csv")).expect("our own folder"));
    writeln!(users, "address,preferred_data_location").expect("there is room");
    for number in 0..size.users {
        writeln!(users, "{},EUR", size.address(number)).expect("there is room");
    }
}

fn alone(size: &Size, folder: &Path, text: &str) {
    let before = memory("self", "VmRSS");
    let spent = processor();
    let (table, took) = timed(|| {
        let notes = Notes::default();
        let table = directory::read("bench", text, folder, &Regions::default(), Some('+'), &notes);
        notes.verdict().unwrap_or_else(|mistakes| panic!("{mistakes}"));
        table
    });
    assert_eq!(table.user_count(), size.users);
    let spent = processor() - spent;
    row("loading", format!("{:.1} s, of a processor {:.1} s", took.as_secs_f64(), spent.as_secs_f64()));
    row("resident memory afterwards", format!("{} MiB", memory("self", "VmRSS") - before));
    row("resident memory at its most", format!("{} MiB", memory("self", "VmHWM") - before));
    let mut numbers = Numbers(7);
    for (what, limit) in [("known", size.users), ("unknown", usize::MAX >> 1)] {
        let asked: Vec<Address> = (0..LOOKUPS)
            .map(|_| {
                Address::parse(&size.address(numbers.below(limit) + limit / size.users.max(1) / 2))
                    .expect("an address")
            })
            .collect();
        let spent = processor();
        let ((), took) = timed(|| {
            for address in &asked {
                let domain = table.domain(address.domain()).expect("all domains are there");
                black_box(table.user(domain, address));
            }
        });
        let spent = processor() - spent;
        let each = |span: Duration| span.as_nanos() / LOOKUPS as u128;
        row(
            &format!("domain and user, {what}, at random"),
            format!("{} ns, of a processor {} ns", each(took), each(spent)),
        );
    }
    let ((), took) = timed(|| drop(table));
    row("taking a table apart", format!("{} ms", took.as_millis()));
}

/// The daemon, with four clients that ask for a recipient every millisecond.
fn served(size: &Size, mut edge: Edge) {
    row("daemon: resident memory", format!("{} MiB", memory(&edge.id().to_string(), "VmRSS")));
    let over = AtomicBool::new(false);
    let reloading = AtomicBool::new(false);
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    let mut took = Duration::ZERO;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|seed| {
                let (edge, over, reloading) = (edge.address, &over, &reloading);
                scope.spawn(move || ask(size, edge, seed, over, reloading))
            })
            .collect();
        std::thread::sleep(Duration::from_secs(10));
        reloading.store(true, Ordering::Relaxed);
        took = timed(|| edge.reload()).1;
        // The old table is taken apart meanwhile.
        std::thread::sleep(Duration::from_secs(1));
        over.store(true, Ordering::Relaxed);
        for client in clients {
            let (calm, reload) = client.join().expect("a client ends in order");
            quiet.extend(calm);
            busy.extend(reload);
        }
    });
    row("reload, RCPTs going on", format!("{:.1} s", took.as_secs_f64()));
    for (what, values) in [("before", &mut quiet), ("during the reload", &mut busy)] {
        let count = values.len();
        let (p50, p99) = (percentile(values, 50), percentile(values, 99));
        let most = values.last().copied().unwrap_or_default();
        row(
            &format!("RCPT {what}, {count} of them: p50, p99, most"),
            format!("{} us, {} us, {} us", p50.as_micros(), p99.as_micros(), most.as_micros()),
        );
    }
    row("daemon: resident memory at its most", format!("{} MiB", memory(&edge.id().to_string(), "VmHWM")));
}

fn ask(
    size: &Size,
    edge: std::net::SocketAddr,
    seed: u64,
    over: &AtomicBool,
    reloading: &AtomicBool,
) -> (Vec<Duration>, Vec<Duration>) {
    let mut client = Client::greeted(edge);
    let mut numbers = Numbers(seed + 1);
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    while !over.load(Ordering::Relaxed) {
        client.say("MAIL FROM:<load@sender.example>");
        let command = format!("RCPT TO:<{}>", size.address(numbers.below(size.users)));
        let began = Instant::now();
        let reply = client.say(&command);
        let took = began.elapsed();
        assert!(reply.starts_with("250 "), "{reply}");
        if reloading.load(Ordering::Relaxed) {
            busy.push(took)
        } else {
            quiet.push(took)
        }
        client.say("RSET");
        std::thread::sleep(Duration::from_millis(1));
    }
    (quiet, busy)
}
