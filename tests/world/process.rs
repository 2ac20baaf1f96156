//! Process: a child that does not outlive its test.

use std::fs::File;
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

/// Peers give up root when they have it, and want to be told to whom.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
