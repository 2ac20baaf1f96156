//! Leftovers: files in the `tmp` folders of Maildirs that a delivery of this node never finished.
//!
//! A process that was killed leaves them; maildir(5) has them removed after 36 hours. Others' files stay.

use std::fs;
use std::path::{Path, PathBuf};

use super::maildir::host_part;
use crate::clock::Timestamp;

const OLD_AFTER_S: i64 = 36 * 3600;

/// Blocking: looks into every mailbox below `root`. Returns how many files are gone.
pub fn remove_leftovers(root: &Path, hostname: &str, now: Timestamp) -> usize {
    let host = host_part(hostname);
    let now_s = now.millis().div_euclid(1000);
    let folders = |path: &Path| -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
        entries.flatten().map(|entry| entry.path()).collect()
    };
    let mut removed = 0;
    for mailbox in folders(root).iter().flat_map(|domain| folders(domain)) {
        for file in folders(&mailbox.join("tmp")) {
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if begun_at(name, &host).is_some_and(|at| now_s - at > OLD_AFTER_S) {
                removed += usize::from(fs::remove_file(&file).is_ok());
            }
        }
    }
    removed
}

/// The seconds in a name that this host gave: `<seconds>.M<millis>P<process>Q<count>.<host>`.
fn begun_at(name: &str, host: &str) -> Option<i64> {
    let (seconds, rest) = name.split_once('.')?;
    let (ours, of) = rest.split_once('.')?;
    (ours.starts_with('M') && ours.contains('P') && ours.contains('Q') && of == host).then_some(())?;
    seconds.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_files_of_this_node_go_and_only_from_tmp() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let mailbox = root.path().join("contoso.com/anna");
        let now = Timestamp::from_millis(1_800_000_000_000);
        let (old, young) = (1_800_000_000 - 36 * 3600 - 1, 1_800_000_000 - 36 * 3600 + 1);
        let stays = [
            format!("tmp/{young}.M1P2Q3.edge.example"),
            format!("tmp/{old}.M1P2Q3.other.example"),
            format!("tmp/{old}.somebody.edge.example"),
            "tmp/unread".to_owned(),
            format!("new/{old}.M1P2Q3.edge.example"),
            format!("cur/{old}.M1P2Q3.edge.example:2,S"),
        ];
        let goes = format!("tmp/{old}.M1P2Q3.edge.example");
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(mailbox.join(part)).expect("our own folder");
        }
        for file in stays.iter().chain([&goes]) {
            fs::write(mailbox.join(file), "half").expect("our own folder");
        }
        assert_eq!(remove_leftovers(root.path(), "edge.example", now), 1);
        assert!(!mailbox.join(&goes).exists());
        assert!(stays.iter().all(|file| mailbox.join(file).exists()));
        assert_eq!(remove_leftovers(&root.path().join("nowhere"), "edge.example", now), 0);
    }
}
