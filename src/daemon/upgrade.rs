//! Upgrade: this process becomes the program that lies in its place now, and keeps its sockets.
//!
//! The new program is asked first whether it can read the configuration; only then are sessions ended as
//! for a drain. Callers that come meanwhile wait in the backlog: nobody is refused.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::sockets::Sockets;
use super::{Error, io_error};

/// How long the new program may take to look at the configuration.
const CHECK_PATIENCE: Duration = Duration::from_secs(60);

/// The program and its arguments as this process was started; the file may be another one by now.
#[derive(Debug, Clone)]
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Taken at the start: later the name may stand for a deleted file.
    pub(super) fn of_this_process() -> Result<Self, Error> {
        let path = std::env::current_exe().map_err(io_error("the program's own path"))?;
        Ok(Self { path, arguments: std::env::args_os().skip(1).collect() })
    }

    /// Whether what lies there now could serve with this configuration; the reason when not.
    pub(super) async fn check(&self, config: &Path) -> Result<(), String> {
        let path = self.path.display();
        let mut check = tokio::process::Command::new(&self.path);
        check.args(["config", "check", "--config"]).arg(config).stdin(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(CHECK_PATIENCE, check.output()).await {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(format!("{path} config check: {}: {}", output.status, said.trim()))
            }
            Ok(Err(error)) => Err(format!("{path}: {error}")),
            Err(_) => Err(format!("{path} config check gave no answer in {} s", CHECK_PATIENCE.as_secs())),
        }
    }

    /// Returns only when it failed.
    pub(super) fn take_over(&self, sockets: &Sockets) -> Error {
        let environment = match sockets.hand_on() {
            Ok(environment) => environment,
            Err(error) => return error,
        };
        let error = Command::new(&self.path).args(&self.arguments).envs(environment).exec();
        io_error(format!("becoming {}", self.path.display()))(error)
    }
}
