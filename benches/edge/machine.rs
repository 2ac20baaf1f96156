//! Machine: what a process and its children have used, as the kernel counts it.

use std::fs;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) written_bytes: u64,
    pub(crate) resident_bytes: u64,
}

/// Of the process and everything below it; of ended children what their parents waited for.
pub(crate) fn usage(root: u32) -> Usage {
    let mut sum = Usage::default();
    for pid in family(root) {
        let one = of_process(pid);
        sum.cpu_seconds += one.cpu_seconds;
        sum.written_bytes += one.written_bytes;
        sum.resident_bytes += one.resident_bytes;
    }
    sum
}

fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut members = vec![root];
    let mut at = 0;
    while at < members.len() {
        let parent = members[at];
        members.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    members
}

/// The fields of `/proc/PID/stat` after the name: state, ppid, ...
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

fn of_process(pid: u32) -> Usage {
    /// `sysconf(_SC_CLK_TCK)` is 100 on every Linux that Rust runs on.
    const TICKS_PER_SECOND: f64 = 100.0;
    const PAGE: u64 = 4096;
    let Some(fields) = stat(pid) else { return Usage::default() };
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // utime, stime, cutime, cstime
    let ticks: u64 = (11..15).map(field).sum();
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
    Usage {
        cpu_seconds: ticks as f64 / TICKS_PER_SECOND,
        written_bytes: written.unwrap_or(0),
        resident_bytes: field(21) * PAGE,
    }
}
