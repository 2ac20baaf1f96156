//! Cli: the commands of the operator. Parses, calls, prints; decides nothing itself.
//!
//! Exit codes: 0 success, 1 "the answer is no", 2 usage or configuration error.

mod connector;
mod directory;
mod dns;
mod domain;
mod explain;
mod probe;
mod queue;
mod user;
mod report;
mod status;
mod top;
mod trace;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::admin::client;
use crate::directory::Register;
use crate::document::parse_duration;
use crate::{config, daemon};

const YES: u8 = 0;
const NO: u8 = 1;
const MISTAKE: u8 = 2;

/// An inbound SMTP edge that lands every message in its recipient's region.
#[derive(Debug, Parser)]
#[command(name = "landfall", version, propagate_version = true)]
struct Cli {
    /// The configuration file.
    #[arg(long, global = true, env = "LANDFALL_CONFIG", default_value = "/etc/landfall/landfall.toml")]
    config: PathBuf,
    /// One stable JSON document instead of a table for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground.
    Serve,
    /// Check, show or print a configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The decision for one recipient, step by step, ending in the exact reply and the next hop.
    Explain(explain::Explain),
    /// The queue of the running daemon.
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// How much the directory holds, what in it does not fit together, and how it gets into a database.
    #[command(subcommand)]
    Directory(directory::Command),
    /// What connectors there are, and whether one works.
    #[command(subcommand)]
    Connector(connector::Connector),
    /// The accepted domains, and moving one's mail to another region.
    #[command(subcommand)]
    Domain(domain::Command),
    /// The users, and moving one to another region.
    #[command(subcommand)]
    User(user::Command),
    /// What the DNS should say of a domain, what it says, and the zone of all MX targets.
    #[command(subcommand)]
    Dns(dns::Dns),
    /// The inbound SMTP test: MX, address, TCP, banner, EHLO, TLS with its chain, MAIL, RCPT and perhaps a message.
    Probe(probe::Probe),
    /// What happened to a message, from connection to final fate: one row per recipient.
    Trace(trace::Trace),
    /// What the audit says of where messages were, and whether it can be believed.
    #[command(subcommand)]
    Report(report::Report),
    /// One screen of health of the running daemon.
    Status,
    /// The same live in the terminal: rates, sessions, spool and the queue; q quits, p pauses.
    Top,
    /// Apply configuration, directory and certificates without dropping a session.
    Reload,
    /// Stop accepting, finish what is under way, flush, and end.
    Drain(Drain),
    /// Let the program that was installed meanwhile take over; callers wait, nobody is refused.
    Upgrade,
    /// Print the completions for a shell.
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
    /// Write a manual page for every command into a folder.
    #[command(hide = true)]
    Man { folder: PathBuf },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Verify without starting: the file, the directory, certificates and routes.
    Check,
    /// The effective settings, defaults included.
    Show,
    /// A commented file with every key at its default.
    Example,
}

#[derive(Debug, Args)]
struct Drain {
    /// How long until what is still under way is cut off, such as `30s`; `deadlines.drain` when left out.
    #[arg(long, value_parser = patience)]
    timeout: Option<Duration>,
}

/// Runs one command line.
pub fn run() -> ExitCode {
    ExitCode::from(match Cli::try_parse() {
        Ok(cli) => dispatch(&cli),
        Err(usage) => cannot_be_read(&usage),
    })
}

/// What is no command line of ours, and what asks for help or the version.
fn cannot_be_read(usage: &clap::Error) -> u8 {
    if !usage.use_stderr() || !std::env::args_os().any(|argument| argument == "--json") {
        usage.exit();
    }
    AS_JSON.store(true, Ordering::Relaxed);
    let says = usage.to_string();
    complain(says.strip_prefix("error: ").unwrap_or(&says).trim_end());
    MISTAKE
}

/// Whether errors are documents too; set once, before anything can go wrong.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// Why there is no answer: in words on stderr, or with `--json` as the one document on stdout.
fn complain(why: impl std::fmt::Display) {
    if AS_JSON.load(Ordering::Relaxed) {
        print_json(&serde_json::json!({ "error": why.to_string() }));
    } else {
        eprintln!("{why}");
    }
}

fn dispatch(cli: &Cli) -> u8 {
    AS_JSON.store(cli.json, Ordering::Relaxed);
    if !matches!(cli.command, Command::Serve) {
        end_with_the_reader();
    }
    match &cli.command {
        Command::Serve => serve(&cli.config),
        Command::Config(ConfigCommand::Check) => config_check(cli),
        Command::Config(ConfigCommand::Show) => with_config(cli, |loaded| {
            if cli.json {
                print_json(&config::show_json(&loaded.settings));
            } else {
                print!("{}", config::show(&loaded.settings));
            }
            YES
        }),
        Command::Config(ConfigCommand::Example) => {
            if cli.json {
                print_json(&serde_json::json!({ "example": config::example() }));
            } else {
                print!("{}", config::example());
            }
            YES
        }
        Command::Connector(connector) => with_config(cli, |loaded| block_on(connector.run(loaded, cli.json))),
        Command::Explain(explain) => with_config(cli, |loaded| block_on(explain.run(loaded, cli.json))),
        Command::Queue(command) => match socket(cli) {
            Ok(socket) => queue::run(command, &socket, cli.json),
            Err(code) => code,
        },
        Command::Domain(command) => with_config(cli, |loaded| block_on(domain::run(cli, command, loaded))),
        Command::User(command) => with_config(cli, |loaded| block_on(user::run(cli, command, loaded))),
        Command::Directory(command) => {
            with_config(cli, |loaded| block_on(directory::run(cli, command, loaded)))
        }
        Command::Dns(command) => with_config(cli, |loaded| block_on(command.run(loaded, cli.json))),
        Command::Probe(probe) => block_on(probe.run(cli)),
        Command::Trace(trace) => trace.run(cli),
        Command::Report(report) => report.run(cli),
        Command::Status => status::run(cli),
        Command::Top => top::run(cli),
        Command::Reload => tell(cli, "/v1/reload", print_reloaded),
        Command::Upgrade => tell(cli, "/v1/upgrade", print_fields),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "landfall", &mut std::io::stdout());
            YES
        }
        Command::Man { folder } => write_manual(folder),
        Command::Drain(drain) => {
            let timeout = drain
                .timeout
                .map(|patience| format!("?timeout_s={}", patience.as_secs()))
                .unwrap_or_default();
            match tell(cli, &format!("/v1/drain{timeout}"), print_fields) {
                YES => wait_for_the_end(cli),
                other => other,
            }
        }
    }
}

/// `landfall trace | head`: a reader that has seen enough ends a command quietly, as SIGPIPE does elsewhere.
fn end_with_the_reader() {
    /// What a shell makes of SIGPIPE: no answer, and so none of the exit codes that are one.
    const BROKEN_PIPE: i32 = 128 + 13;
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload_as_str().unwrap_or_default();
        if !said.starts_with("failed printing to std") {
            return otherwise(panic);
        }
        if said.contains("Broken pipe") {
            std::process::exit(BROKEN_PIPE);
        }
        // A full disk, say. Standard error may lie there too.
        let _ = writeln!(std::io::stderr(), "landfall: {said}");
        std::process::exit(i32::from(NO));
    }));
}

fn serve(path: &Path) -> u8 {
    match daemon::run(path) {
        Ok(()) => YES,
        Err(daemon::Error::Config(mistakes)) => {
            eprintln!("{mistakes}");
            MISTAKE
        }
        Err(error) => {
            eprintln!("landfall: {error}");
            NO
        }
    }
}

fn write_manual(folder: &Path) -> u8 {
    let written =
        std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    match written {
        Ok(()) => YES,
        Err(error) => {
            eprintln!("{}: {error}", folder.display());
            NO
        }
    }
}

fn config_check(cli: &Cli) -> u8 {
    match config::load(&cli.config) {
        Ok(loaded) => {
            let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
            warnings.extend(block_on(directory::look_at_service(&cli.config, loaded)));
            if cli.json {
                print_json(&serde_json::json!({ "ok": true, "mistakes": [], "warnings": warnings }));
            } else {
                for warning in &warnings {
                    println!("warning: {warning}");
                }
                println!("{}: no mistakes", cli.config.display());
            }
            YES
        }
        Err(mistakes) => {
            if cli.json {
                let mistakes: Vec<String> = mistakes.0.iter().map(ToString::to_string).collect();
                print_json(&serde_json::json!({ "ok": false, "mistakes": mistakes, "warnings": [] }));
            } else {
                complain(mistakes);
            }
            MISTAKE
        }
    }
}

fn with_config(cli: &Cli, run: impl FnOnce(config::Loaded) -> u8) -> u8 {
    match config::load(&cli.config) {
        Ok(loaded) => run(loaded),
        Err(mistakes) => {
            complain(mistakes);
            MISTAKE
        }
    }
}

/// Where the daemon's socket is: found even when the file has mistakes, or an operator who made one could
/// no longer look at the queue.
fn socket(cli: &Cli) -> Result<PathBuf, u8> {
    let loaded = config::load(&cli.config).map(|loaded| loaded.settings.admin_socket());
    loaded.or_else(|mistakes| config::socket_of(&cli.config).ok_or(mistakes)).map_err(|mistakes| {
        complain(mistakes);
        MISTAKE
    })
}

/// Where the trace and the audit are, found as the socket is.
fn state_dir(cli: &Cli) -> Result<PathBuf, u8> {
    if let Ok(loaded) = config::load(&cli.config) {
        return Ok(loaded.settings.node.state_dir);
    }
    socket(cli).map(|socket| socket.parent().map(PathBuf::from).unwrap_or_default())
}

fn tell(cli: &Cli, path: &str, print: fn(&serde_json::Value)) -> u8 {
    let socket = match socket(cli) {
        Ok(socket) => socket,
        Err(code) => return code,
    };
    answer(cli, block_on(client::post(&socket, path)), print)
}

fn answer(cli: &Cli, answer: Result<String, client::Error>, print: fn(&serde_json::Value)) -> u8 {
    let text = match answer {
        Ok(text) => text,
        Err(error) => return unanswered(&error),
    };
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(value) if cli.json => print_json(&value),
        Ok(value) => print(&value),
        // An answer without words: done.
        Err(_) => {}
    }
    YES
}

/// What the daemon answers to a question, or why not.
fn parsed(answer: Result<String, client::Error>) -> Result<serde_json::Value, u8> {
    let text = answer.map_err(|error| unanswered(&error))?;
    serde_json::from_str(&text).map_err(|error| {
        complain(format_args!("the daemon's answer is no JSON: {error}"));
        NO
    })
}

fn unanswered(error: &client::Error) -> u8 {
    complain(error);
    if error.is_mistake() { MISTAKE } else { NO }
}

/// What is asked for, as the terms of a URL's query.
fn terms(asked: &impl serde::Serialize) -> Vec<String> {
    let asked = serde_json::to_value(asked).expect("plain values");
    let fields = asked.as_object().into_iter().flatten();
    fields.map(|(key, value)| format!("{key}={}", encoded(&plain(value)))).collect()
}

/// RFC 3986 §2.1: everything but letters, digits and `-._~`.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Until nobody answers on the socket any more: the daemon bounds its drain itself.
fn wait_for_the_end(cli: &Cli) -> u8 {
    const LOOK_EVERY: Duration = Duration::from_millis(100);
    let socket = match socket(cli) {
        Ok(socket) => socket,
        Err(code) => return code,
    };
    block_on(async {
        while client::get(&socket, "/v1/status").await.is_ok() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    if cli.json {
        print_json(&serde_json::json!({ "drained": true }));
    } else {
        println!("drained");
    }
    YES
}

/// A duration with its unit, as everywhere; a bare number is seconds.
fn patience(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    parse_duration(text).ok_or_else(|| "expected a duration such as 30s or 2m".to_owned())
}

/// After a change of the directory: from when on it counts, in words.
async fn tell_of_change(settings: &config::Settings, register: &Register) -> String {
    if !register.needs_reload() {
        return "within 2 s at every node".to_owned();
    }
    match client::post(&settings.admin_socket(), "/v1/reload").await {
        Ok(_) => "now: the running daemon has reloaded".to_owned(),
        Err(client::Error::NotRunning(..)) => {
            "from the next start or `landfall reload`: no daemon answers here".to_owned()
        }
        Err(error) => format!("not yet: the running daemon did not reload: {error}"),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only memory and a descriptor")
        .block_on(future)
}

fn print_json(value: &impl serde::Serialize) {
    println!("{}", serde_json::to_string_pretty(value).expect("plain values always serialise"));
}

fn print_fields(value: &serde_json::Value) {
    let fields = value.as_object().into_iter().flatten();
    let width = fields.clone().map(|(key, _)| key.len() + 2).fold(12, usize::max);
    for (key, value) in fields {
        println!("{key:<width$}{}", plain(value));
    }
}

fn print_reloaded(value: &serde_json::Value) {
    for warning in value["warned"].as_array().into_iter().flatten() {
        println!("warning: {}", plain(warning));
    }
    println!("reloaded, {} warnings", value["warnings"]);
}

fn print_table(value: &serde_json::Value, columns: &[&str], nothing: &str) {
    let rows = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        println!("{nothing}");
        return;
    }
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(columns.iter().map(|column| column.replace('_', " ")));
    for row in rows {
        table.add_row(columns.iter().map(|column| plain(&row[*column])));
    }
    println!("{table}");
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        serde_json::Value::Object(fields) => {
            let words = fields.iter().map(|(key, value)| format!("{key}: {}", plain(value)));
            words.collect::<Vec<_>>().join(", ")
        }
        other @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_)) => other.to_string(),
    }
}
