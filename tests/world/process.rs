//! Process: a child that does not outlive its test.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::wait::until;

pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts it with everything it says appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        Self::start_apart(command, log, log)
    }

    /// Starts it with what it says and what it complains about in two files.
    pub fn start_apart(command: &mut Command, stdout: &Path, stderr: &Path) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = |path: &Path| {
            File::options().create(true).append(true).open(path).expect("a log below our own folder")
        };
        let child =
            command.stdin(Stdio::null()).stdout(log(stdout)).stderr(log(stderr)).spawn().unwrap_or_else(
                |error| panic!("{name} does not start: {error}; tests/run installs what is missing"),
            );
        Self { child, name }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("{} to end", self.name);
        until(&what, || self.child.try_wait().expect("our own child can be waited for"))
    }

    /// `TERM`, `HUP`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        // The standard library sends SIGKILL only; the shell's kill is always there.
        let order = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &order]).status().expect("sh runs");
        assert!(sent.success(), "{} could not be sent {name}", self.name);
    }

    /// It and its children stand still from here on; what they hold open stays open.
    pub fn freeze(&self) {
        let id = self.id();
        // Itself first: then it starts no more children.
        stop(id);
        children(id).into_iter().for_each(stop);
    }

    pub fn thaw(&self) {
        let id = self.id();
        children(id).into_iter().for_each(|child| send(child, "CONT"));
        send(id, "CONT");
    }

    pub fn kill(&mut self) -> ExitStatus {
        // An error means that it is already gone.
        let _ = self.child.kill();
        self.child.wait().expect("our own child can be waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn children(id: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("Linux has it");
    children.split_whitespace().map(|child| child.parse().expect("a number")).collect()
}

/// Somebody else's child may be gone by now.
fn send(id: u32, signal: &str) {
    let _ = Command::new("sh").args(["-c", &format!("kill -{signal} {id} 2>/dev/null")]).status();
}

/// Its threads stop one after the other.
fn stop(id: u32) {
    send(id, "STOP");
    let stands_still = |status: String| status.contains("\nState:\tT") || status.contains("\nState:\tZ");
    until("a process to stand still", || {
        let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { return Some(()) };
        let mut threads = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("status")));
        threads.all(|status| status.map_or(true, stands_still)).then_some(())
    });
}

/// Peers give up root when they have it, and want to be told to whom.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
