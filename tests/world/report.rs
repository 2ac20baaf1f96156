//! Report: a delivery status notification as somebody else's parser reads it: Python's `email`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::letter::Letter;

/// Reads a message, names every defect it finds, and takes the parts of a report apart.
const PARSER: &str = r#"
import email, email.policy, json, re, sys
raw = sys.stdin.buffer.read()
message = email.message_from_bytes(raw, policy=email.policy.SMTPUTF8)
defects = [str(d) for p in message.walk() for d in p.defects]
fields = lambda part: [[name, str(value)] for name, value in part.items()]
parts = []
for part in message.iter_parts():
    kind = part.get_content_type()
    found = {"kind": kind, "charset": part.get_content_charset(), "encoding": part.get("Content-Transfer-Encoding")}
    if kind == "message/delivery-status":
        found["groups"] = [fields(group) for group in part.get_payload()]
    elif kind == "message/global-delivery-status":
        text = part.get_payload(0).as_bytes(policy=email.policy.SMTPUTF8).decode()
        blocks = [block for block in re.split("(?:\r?\n){2,}", text.strip()) if block]
        found["groups"] = [fields(email.message_from_string(block, policy=email.policy.SMTPUTF8)) for block in blocks]
    elif kind.startswith("message/") and part.is_multipart():
        found["text"] = part.get_payload(0).as_bytes(policy=email.policy.SMTPUTF8).decode("utf-8", "replace")
    else:
        found["text"] = part.get_payload(decode=True).decode("utf-8", "replace")
    parts.append(found)
json.dump({
    "kind": message.get_content_type(),
    "report_type": message.get_param("report-type"),
    "fields": fields(message),
    "defects": defects,
    "parts": parts,
    "long": max(len(line) for line in raw.replace(b"\r\n", b"\n").split(b"\n")),
}, sys.stdout)
"#;

#[derive(Debug)]
pub struct Report {
    document: Value,
}

impl Report {
    /// Whatever is wrong with the letter as a report fails the test.
    pub fn of(letter: &Letter) -> Self {
        let mut parser = Command::new("python3")
            .args(["-c", PARSER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/run installs python3");
        parser.stdin.take().expect("piped").write_all(&letter.0).expect("it reads all of it");
        let output = parser.wait_with_output().expect("it ends by itself");
        let document =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no mail: {letter:?}"));
        let report = Self { document };
        assert_eq!(report.document["kind"], "multipart/report", "{letter:?}");
        assert_eq!(report.document["report_type"], "delivery-status", "{letter:?}");
        assert_eq!(report.document["defects"], Value::Array(Vec::new()), "{letter:?}");
        assert!(report.document["long"].as_u64().is_some_and(|long| long <= 998), "{letter:?}");
        report
    }

    /// A field of the notice's own header.
    pub fn header(&self, name: &str) -> Option<String> {
        value(&self.document["fields"], name)
    }

    fn part(&self, index: usize) -> &Value {
        &self.document["parts"][index]
    }

    /// The content types of all parts.
    pub fn kinds(&self) -> Vec<String> {
        let parts = self.document["parts"].as_array().expect("a list");
        parts.iter().map(|part| part["kind"].as_str().expect("a type").to_owned()).collect()
    }

    /// The words for people.
    pub fn words(&self) -> String {
        let words = self.part(0)["text"].as_str().expect("text");
        words.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What came back of the message.
    pub fn returned(&self) -> String {
        self.part(2)["text"].as_str().unwrap_or_default().to_owned()
    }

    fn groups(&self) -> &[Value] {
        self.part(1)["groups"].as_array().expect("groups of fields")
    }

    /// A field about the message.
    pub fn about_message(&self, name: &str) -> Option<String> {
        value(&self.groups()[0], name)
    }

    /// How many recipients it tells of.
    pub fn recipients(&self) -> usize {
        self.groups().len() - 1
    }

    /// A field about the recipient whose final address this is.
    pub fn about(&self, recipient: &str, name: &str) -> Option<String> {
        let group = self.groups()[1..].iter().find(|group| {
            value(group, "Final-Recipient").is_some_and(|found| found.ends_with(&format!(";{recipient}")))
        });
        value(group.unwrap_or_else(|| panic!("nothing about {recipient}: {self:#?}")), name)
    }

    pub fn action(&self, recipient: &str) -> String {
        self.about(recipient, "Action").expect("every recipient has an action")
    }
}

fn value(fields: &Value, name: &str) -> Option<String> {
    let fields = fields.as_array()?;
    let found =
        fields.iter().find(|field| field[0].as_str().is_some_and(|is| is.eq_ignore_ascii_case(name)))?;
    found[1].as_str().map(str::to_owned)
}
