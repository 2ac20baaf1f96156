//! Status: one screen of health of the running daemon. Exits 1 when something keeps it from its work.

use serde_json::Value;

use super::{Cli, MISTAKE, NO, YES, block_on, complain, plain, print_json, socket};
use crate::admin::client;

pub(super) fn run(cli: &Cli) -> u8 {
    let socket = match socket(cli) {
        Ok(socket) => socket,
        Err(code) => return code,
    };
    let text = match block_on(client::get(&socket, "/v1/status")) {
        Ok(text) => text,
        Err(error) => {
            complain(&error);
            return NO;
        }
    };
    let Ok(status) = serde_json::from_str::<Value>(&text) else {
        complain(format_args!("the daemon answers in words of another version"));
        return MISTAKE;
    };
    if cli.json {
        print_json(&status);
    } else {
        for (name, value) in lines(&status) {
            println!("{name:<14}{value}");
        }
    }
    let healthy = status["problems"].as_array().is_none_or(Vec::is_empty);
    if healthy { YES } else { NO }
}

/// The screen, line by line.
fn lines(status: &Value) -> Vec<(&'static str, String)> {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let (queue, spool, directory) = (&status["queue"], &status["spool"], &status["directory"]);
    let oldest = queue["oldest_s"].as_u64().map(|age| format!(", oldest {}", span(age))).unwrap_or_default();
    let age = directory["age_s"].as_u64().map(|age| format!(", confirmed {} ago", span(age)));
    let mut lines = vec![
        (
            "node",
            format!(
                "{} in {}, {}",
                plain(&status["hostname"]),
                plain(&status["region"]),
                plain(&status["state"])
            ),
        ),
        ("version", format!("{}, up {}", plain(&status["version"]), span(number(&status["uptime_s"])))),
        ("sessions", plain(&status["sessions"])),
        (
            "mail",
            format!(
                "{} messages accepted, {} refusals, {} recipients delivered",
                plain(&status["accepted"]),
                plain(&status["refused"]),
                plain(&status["delivered"])
            ),
        ),
        (
            "queue",
            format!(
                "{} waiting for {} destinations, {} down{oldest}",
                plain(&status["queued"]),
                plain(&queue["destinations"]),
                plain(&queue["down"])
            ),
        ),
        (
            "spool",
            format!(
                "{}, {} messages, {} on disk",
                plain(&spool["pressure"]),
                plain(&spool["messages"]),
                size(number(&spool["disk_bytes"]))
            ),
        ),
        (
            "directory",
            format!(
                "{}, {} domains{}",
                plain(&directory["source"]),
                plain(&directory["domains"]),
                age.unwrap_or_default()
            ),
        ),
    ];
    for certificate in status["certificates"].as_array().into_iter().flatten() {
        let says = format!("{} until {}", plain(&certificate["name"]), plain(&certificate["expires"]));
        lines.push(("certificate", says));
    }
    if let Some(trace) = status.get("trace") {
        let says = format!(
            "{} rows, {} behind, {} lost; audit {} records",
            plain(&trace["rows"]),
            size(number(&trace["lag_bytes"])),
            plain(&trace["lost"]),
            plain(&trace["audit_records"])
        );
        lines.push(("trace", says));
    }
    for (limit, count) in status["limited"].as_object().into_iter().flatten() {
        lines.push(("limit", format!("{limit} refused {count}")));
    }
    for (name, key) in [("warning", "warnings"), ("PROBLEM", "problems")] {
        let said = status[key].as_array().into_iter().flatten();
        lines.extend(said.map(|said| (name, plain(said))));
    }
    lines
}

/// `3d 4h`, `5m 2s`: two units are enough for a glance.
pub(super) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes / 1_048_576),
        _ => format!("{} GiB", bytes / 1_073_741_824),
    }
}
