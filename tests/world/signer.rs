//! Signer: messages signed by another hand: dkimpy's command line, with a key of its own.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use super::place::Folder;

pub struct Signer {
    folder: Folder,
    algorithm: &'static str,
}

impl Signer {
    pub fn rsa() -> Self {
        Self::new("rsa", "rsa-sha256")
    }

    pub fn ed25519() -> Self {
        Self::new("ed25519", "ed25519-sha256")
    }

    fn new(kind: &str, algorithm: &'static str) -> Self {
        let folder = Folder::new();
        let made = Command::new("dknewkey")
            .args(["--ktype", kind, "key"])
            .current_dir(&*folder)
            .output()
            .expect("tests/run installs python3-dkim");
        assert!(made.status.success(), "{made:?}");
        Self { folder, algorithm }
    }

    /// The key's record, as a zone file has it: strings of up to 255 octets.
    pub fn record(&self) -> String {
        let text = fs::read_to_string(self.folder.join("key.dns")).expect("dknewkey has written it");
        let strings =
            text.trim().as_bytes().chunks(255).map(|part| String::from_utf8_lossy(part).into_owned());
        let quoted: Vec<String> = strings.map(|part| format!("\"{part}\"")).collect();
        format!("TXT {}", quoted.join(" "))
    }

    /// The message with a signature in front, of `header` and `body` canonicalisation.
    pub fn sign(&self, (header, body): (&str, &str), selector: &str, domain: &str, message: &str) -> String {
        let canon = [format!("--hcanon={header}"), format!("--bcanon={body}")];
        let algorithm = format!("--signalg={}", self.algorithm);
        let mut command = Command::new("dkimsign");
        command.args(canon).arg(algorithm).args([selector, domain]).arg(self.folder.join("key.key"));
        run(&mut command, message)
    }

    /// The message with one more set of an ARC chain in front, in the name of `service`.
    pub fn seal(&self, selector: &str, domain: &str, service: &str, message: &str) -> String {
        let mut command = Command::new("arcsign");
        command.args([selector, domain]).arg(self.folder.join("key.key")).arg(service);
        run(&mut command, message)
    }
}

fn run(command: &mut Command, message: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("tests/run installs python3-dkim");
    child.stdin.take().expect("its input").write_all(message.as_bytes()).expect("it reads the message");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("a message of ours is text")
}
