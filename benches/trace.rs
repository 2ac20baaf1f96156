//! Trace: what noting a message costs, and how long a question takes over many rows.
//!
//! `cargo bench --bench trace -- ROWS [FOLDER]`: fills a trace through the tracer itself, then asks it. Every
//! question opens the files anew, as the command line does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall::clock::{Clock, Timestamp};
use landfall::trace::record::{Arrived, By, Client, Fate, Heading, Outcome, Record};
use landfall::trace::{Question, Settings, TraceSettings, Tracer, search, story};
use tokio::time::Instant;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let rows: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let folder =
        arguments.next().map_or_else(|| std::env::temp_dir().join("landfall-bench-trace"), PathBuf::from);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    let began = Instant::now();
    let start =
        Timestamp::from_millis(Clock::System.now().millis() - i64::try_from(rows / 10).expect("a count"));
    let settings = Settings {
        trace: Some(TraceSettings {
            dir: folder.clone(),
            keep: Duration::from_secs(30 * 24 * 3600),
            max_bytes: 64 << 30,
            subjects: false,
            refusals_per_second: 1_000_000,
        }),
        audit: Some(landfall::audit::Settings {
            dir: folder.join("audit"),
            node: "edge1.eur.example.net".to_owned(),
            region: "EUR".to_owned(),
            file_bytes: 64 << 20,
            keep: Duration::from_secs(365 * 24 * 3600),
            max_bytes: 64 << 30,
        }),
    };
    let tracer = Tracer::start(settings, Clock::System).expect("an empty folder");
    let mut noting = Duration::ZERO;
    for number in 0..rows {
        noting += message(&tracer, start, number);
        // The generator is faster than any mail: it waits for the index outside the clock.
        while number % 1_000 == 0 && tracer.report().lag_bytes > 8 << 20 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let report = loop {
        tracer.catch_up(Duration::from_secs(5));
        let report = tracer.report();
        if report.lag_bytes == 0 {
            break report;
        }
    };
    let took = began.elapsed();
    println!("{rows} messages, each accepted and delivered once; {} rows, {} lost", report.rows, report.lost);
    println!(
        "filled in {took:?}; {} MiB in {} files; audit {} MiB",
        report.bytes >> 20,
        report.segments,
        report.audit_bytes >> 20
    );
    println!(
        "noting: {} ns a message, waiting for room left out",
        noting.as_nanos() / u128::from(rows.max(1))
    );
    for (thread, seconds) in thread_times() {
        println!("thread {thread}: {:.2} us CPU a message", seconds * 1e6 / rows as f64);
    }
    tracer.close();
    ask(&folder, start, rows);
}

/// The hot path's part of one message's life, and how long it took.
fn message(tracer: &Tracer, start: Timestamp, number: u64) -> Duration {
    let at = start.millis() + i64::try_from(number / 10).expect("a count");
    let id = landfall::mail::MessageId::at(Timestamp::from_millis(at)).raw() + number % 10;
    let sender = format!("sender{}@company{}.example", number % 500_000, number % 20_000);
    let recipient = format!("user{}@contoso{}.com", number.wrapping_mul(7919) % 200_000, number % 100);
    let message_id = format!("<{number:x}.{at:x}@mail.company{}.example>", number % 20_000);
    let client = Client {
        session: number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        ip: std::net::IpAddr::from([192, 0, 2, (number % 250) as u8]),
        helo: "mail.company.example",
        tls: "TLSv1.3 TLS_AES_256_GCM_SHA384",
        listener: "mx",
    };
    let began = Instant::now();
    let heading = Heading { address: &recipient, region: "EUR", ingress: "EUR", irr: "applied", rule: "6" };
    tracer.note(&Record::Arrived(Arrived {
        id,
        at,
        client: Some(client),
        attribution: "incoming",
        sender: &sender,
        message_id: &message_id,
        subject: "",
        authentication: "spf=pass; dkim=pass; dmarc=pass",
        size: 4096,
        by: By::Spool,
        cause: None,
        recipients: vec![heading],
    }));
    let failed = number % 1000 == 17;
    tracer.note(&Record::Outcome(Outcome {
        id,
        at: at + 40,
        recipient: &recipient,
        fate: if failed { Fate::Failed } else { Fate::Delivered },
        next_hop: "store:EUR",
        region: "EUR",
        host: "store1.eur.example.net [192.0.2.7]:24",
        code: if failed { 550 } else { 250 },
        enhanced: if failed { "5.1.1" } else { "2.0.0" },
        reply: if failed { "550 5.1.1 no such user here" } else { "250 2.0.0 OK queued as 4F2A91B7C3" },
        attempts: 1,
        next_attempt: 0,
    }));
    began.elapsed()
}

/// CPU seconds of this process's threads of the trace.
fn thread_times() -> Vec<(String, f64)> {
    let mut times = Vec::new();
    for task in fs::read_dir("/proc/self/task").expect("Linux").filter_map(Result::ok) {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((head, rest)) = stat.rsplit_once(')') else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
        let fields: Vec<f64> = rest.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // After the state: user and system time are the 11th and 12th, in hundredths of a second.
        if name.starts_with("trace") && fields.len() > 11 {
            times.push((name, (fields[10] + fields[11]) / 100.0));
        }
    }
    times
}

fn ask(folder: &Path, start: Timestamp, rows: u64) {
    let now = Clock::System.now();
    let some = |text: &str| Some(text.to_owned());
    let middle = rows / 2;
    let at = start.millis() + i64::try_from(middle / 10).expect("a count");
    let id = landfall::mail::MessageId::from_raw(
        landfall::mail::MessageId::at(Timestamp::from_millis(at)).raw() + middle % 10,
    );
    let message_id = format!("<{middle:x}.{at:x}@mail.company{}.example>", middle % 20_000);
    let time = Timestamp::from_millis(at).to_string();
    let default = Question::default;
    let questions = [
        ("newest 100", default()),
        ("by sender", Question { from: some("sender123@company123.example"), ..default() }),
        ("by sender, nobody", Question { from: some("nobody@nowhere.example"), ..default() }),
        ("by sender's domain", Question { from: some("@company123.example"), ..default() }),
        ("by recipient", Question { to: some("user7919@contoso1.com"), ..default() }),
        ("by recipient, nobody", Question { to: some("nobody@contoso1.com"), ..default() }),
        ("by Message-ID", Question { message_id: Some(message_id), ..default() }),
        ("by code 550", Question { code: some("550"), ..default() }),
        ("by code 5.1.1", Question { code: some("5.1.1"), ..default() }),
        ("by code 421, none", Question { code: some("421"), ..default() }),
        ("by status failed", Question { status: some("failed"), ..default() }),
        ("by time, in the middle", Question { until: Some(time), ..default() }),
    ];
    for (what, question) in questions {
        let began = Instant::now();
        let found = search(folder, &question, now).expect("a question").len();
        let first = began.elapsed();
        let began = Instant::now();
        let again = search(folder, &question, now).expect("a question").len();
        assert_eq!(found, again);
        println!("{what:<24} {found:>4} rows  first {first:>10.1?}  again {:>10.1?}", began.elapsed());
    }
    let began = Instant::now();
    let found = story(folder, &id.to_string()).expect("an id").len();
    println!("{:<24} {found:>4} rows  first {:>10.1?}", "by id", began.elapsed());
}
