//! Trace: what noting a message costs, and how long a question takes over many rows.
//!
//! `cargo bench --bench trace -- ROWS [FOLDER]`: fills a trace through the tracer itself, then asks it. Every
//! question opens the files anew, as the command line does. One row in ten is a refusal, one message in ten is
//! from one sender or to one recipient, one in fifty fails, and one in fifty is deferred first. With root's
//! rights, `first` is from the disk: the system's cache is emptied before each question.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall::clock::{Clock, Timestamp};
use landfall::trace::record::{Arrived, By, Client, Fate, Heading, Outcome, Record, Refused};
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
            max_bytes: 256 << 20,
        }),
    };
    let tracer = Tracer::start(settings, Clock::System).expect("an empty folder");
    let mut noting = Duration::ZERO;
    for number in 0..rows {
        noting += message(&tracer, start, number);
        // The generator is faster than any mail: it waits for the index outside the clock.
        while number % 1_000 == 0 && tracer.report().lag_bytes > 4 << 20 {
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
    println!("{} rows, {} lost, {} suppressed", report.rows, report.lost, report.suppressed);
    println!(
        "filled in {took:?}; {} MiB in {} files; audit {} MiB",
        report.bytes >> 20,
        report.segments,
        report.audit_bytes >> 20
    );
    println!("noting: {} ns a row, waiting for room left out", noting.as_nanos() / u128::from(rows.max(1)));
    for (thread, seconds) in thread_times() {
        println!("thread {thread}: {:.2} us CPU a row", seconds * 1e6 / rows as f64);
    }
    tracer.close();
    ask(&folder, start, rows);
}

/// The hot path's part of one message's life, or of a refusal's, and how long it took.
fn message(tracer: &Tracer, start: Timestamp, number: u64) -> Duration {
    let at = start.millis() + i64::try_from(number / 10).expect("a count");
    let id = landfall::mail::MessageId::at(Timestamp::from_millis(at)).raw() + number % 10;
    let sender = match number % 20 {
        3 | 13 => "news@bulk.example".to_owned(),
        _ => format!("sender{}@company{}.example", number % 500_000, number % 20_000),
    };
    let recipient = match number % 10 {
        5 => "orders@contoso0.com".to_owned(),
        _ => format!("user{}@contoso{}.com", number.wrapping_mul(7919) % 200_000, number % 100),
    };
    let message_id = format!("<{number:x}.{at:x}@mail.company{}.example>", number % 20_000);
    let client = Client {
        session: number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        ip: std::net::IpAddr::from([192, 0, 2, (number % 250) as u8]),
        helo: "mail.company.example",
        tls: "TLSv1.3 TLS_AES_256_GCM_SHA384",
        listener: "mx",
    };
    let began = Instant::now();
    if number % 10 == 9 {
        refuse(tracer, number, at, client, (&sender, &recipient));
        return began.elapsed();
    }
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
    let outcome = |at: i64, fate: Fate, [code, enhanced, reply]: [&'static str; 3], attempts: u32| {
        tracer.note(&Record::Outcome(Outcome {
            id,
            at,
            recipient: &recipient,
            fate,
            next_hop: "store:EUR",
            region: "EUR",
            host: "store1.eur.example.net [192.0.2.7]:24",
            code: code.parse().expect("a code"),
            enhanced,
            reply,
            attempts,
            next_attempt: 0,
        }));
    };
    if number % 50 == 21 {
        outcome(at + 30, Fate::Deferred, ["451", "4.3.2", "451 4.3.2 try again later"], 1);
    }
    let (fate, words) = match number {
        number if number % 1_000_000 == 500_001 => (Fate::Failed, ["552", "5.2.2", "552 5.2.2 mailbox full"]),
        number if number % 50 == 17 => (Fate::Failed, ["550", "5.1.1", "550 5.1.1 no such user here"]),
        _ => (Fate::Delivered, ["250", "2.0.0", "250 2.0.0 OK queued as 4F2A91B7C3"]),
    };
    outcome(at + 40, fate, words, if number % 50 == 21 { 2 } else { 1 });
    began.elapsed()
}

fn refuse(tracer: &Tracer, number: u64, at: i64, client: Client<'_>, (sender, recipient): (&str, &str)) {
    let (reason, rule, reply) = match number / 10 {
        number if number % 100_000 == 50_000 => ("no-subscription", "16", NO_SUBSCRIPTION),
        number if number % 2 == 0 => ("wrong-region", "7", WRONG_REGION),
        _ => ("unknown-recipient", "4", "550 5.4.1 Recipient address rejected: Access denied"),
    };
    let key = tracer.refusal_key(Timestamp::from_millis(at)).expect("the rate is high");
    tracer.note(&Record::Refused(Refused {
        key,
        at,
        client: Some(client),
        stage: "recipient",
        sender: Some(sender),
        recipients: vec![recipient],
        message_id: "",
        reason,
        rule,
        code: reply[..3].parse().expect("a code"),
        reply,
    }));
}

const WRONG_REGION: &str = "451 4.4.62 Mail sent to the wrong Office 365 region. ATTR35. For more information please \
                            go to https://go.microsoft.com/fwlink/?linkid=865268";
const NO_SUBSCRIPTION: &str = "451 4.4.4 Mail received as unauthenticated, incoming to a recipient domain configured \
                               in a hosted tenant which has no mail-enabled subscriptions. ATTR5";

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

/// Whether the system has forgotten what it had read.
fn empty_cache() -> bool {
    fs::write("/proc/sys/vm/drop_caches", "1").is_ok()
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
    let from = |text: &str| Question { from: some(text), ..default() };
    let to = |text: &str| Question { to: some(text), ..default() };
    let code = |text: &str| Question { code: some(text), ..default() };
    let status = |text: &str| Question { status: some(text), ..default() };
    let questions = [
        ("newest 100", default()),
        ("by sender", from("sender124@company124.example")),
        ("by sender of a tenth", from("news@bulk.example")),
        ("by sender, nobody", from("nobody@nowhere.example")),
        ("by sender's domain", from("@company124.example")),
        ("by sender's domain, a tenth", from("@bulk.example")),
        ("by recipient", to("user7919@contoso1.com")),
        ("by recipient of a tenth", to("orders@contoso0.com")),
        ("by recipient, nobody", to("nobody@contoso1.com")),
        ("by recipient's domain, 1 %", to("@contoso1.com")),
        ("by Message-ID", Question { message_id: Some(message_id), ..default() }),
        ("by Message-ID, none", Question { message_id: some("<none@nowhere.example>"), ..default() }),
        ("by code 250", code("250")),
        ("by code 252, none", code("252")),
        ("by code 550", code("550")),
        ("by code 550, 10000 rows", Question { limit: Some(10_000), ..code("550") }),
        ("by code 552, ten in all", code("552")),
        ("by code 421, none", code("421")),
        ("by code 5.1.1", code("5.1.1")),
        ("by code 5.2.2, ten in all", code("5.2.2")),
        ("by code 2.1.5, none", code("2.1.5")),
        ("by ATTR35, 5 %", code("ATTR35")),
        ("by ATTR5, ten in all", code("ATTR5")),
        ("by ATTR3.4, none", code("ATTR3.4")),
        ("by status delivered", status("delivered")),
        ("by status failed", status("failed")),
        ("by status pending, none", status("pending")),
        ("by status rejected", status("rejected")),
        ("by time, in the middle", Question { until: Some(time.clone()), ..default() }),
        ("code 550 before the middle", Question { until: Some(time.clone()), ..code("550") }),
        (
            "code 552 before the middle",
            Question { since: some("2020-01-01"), until: Some(time), ..code("552") },
        ),
        ("delivered, code 550: none", Question { status: some("delivered"), ..code("550") }),
        ("a tenth's sender and code 552", Question { from: some("news@bulk.example"), ..code("552") }),
        (
            "a tenth's sender to a tenth's recipient: none",
            Question { from: some("news@bulk.example"), ..to("orders@contoso0.com") },
        ),
        (
            "a tenth's sender's domain, failed: none",
            Question { from: some("@bulk.example"), ..status("failed") },
        ),
        ("nobody and delivered", Question { to: some("nobody@contoso1.com"), ..status("delivered") }),
        (
            "sender, recipient, status, code",
            Question {
                from: some("sender124@company124.example"),
                to: some("@contoso24.com"),
                code: some("250"),
                ..status("delivered")
            },
        ),
    ];
    let mut slowest = Duration::ZERO;
    for (what, question) in questions {
        let from_disk = empty_cache();
        let began = Instant::now();
        let found = search(folder, &question, now).expect("a question").len();
        let first = began.elapsed();
        let began = Instant::now();
        let again = search(folder, &question, now).expect("a question").len();
        assert_eq!(found, again);
        let disk = if from_disk { " (from the disk)" } else { "" };
        println!("{what:<46} {found:>5} rows  first{disk} {first:>10.1?}  again {:>10.1?}", began.elapsed());
        slowest = slowest.max(first);
    }
    println!("slowest: {slowest:.1?}");
    let began = Instant::now();
    let found = story(folder, &id.to_string()).expect("an id").len();
    println!("{:<46} {found:>5} rows  first {:>10.1?}", "by id", began.elapsed());
}
