//! Letter: a message as text, and what it looks like after delivery.

use std::sync::atomic::{AtomicU32, Ordering};

/// A short message with a Message-ID of its own, CRLF line ends, no final dot.
pub fn letter(subject: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        "From: Sender <sender@example.org>\r\nTo: undisclosed-recipients:;\r\nSubject: {subject}\r\n\
         Message-ID: <{}.{number}@test.example.org>\r\n\r\nHello.\r\n",
        std::process::id()
    )
}

/// A delivered message, byte for byte.
#[derive(Clone, PartialEq, Eq)]
pub struct Letter(pub Vec<u8>);

impl Letter {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// The first field of that name, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers(name).into_iter().next()
    }

    pub fn headers(&self, name: &str) -> Vec<String> {
        let text = self.text().replace("\r\n", "\n");
        let head = text.split("\n\n").next().unwrap_or_default();
        let unfolded = head.replace("\n\t", " ").replace("\n ", " ");
        let fields = unfolded.lines().filter_map(|line| line.split_once(':'));
        fields
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    }

    /// What was put in front of `original`, which must follow byte for byte and end the message.
    pub fn added_before(&self, original: &[u8]) -> String {
        let at = self.0.len().checked_sub(original.len());
        let Some(at) = at.filter(|at| &self.0[*at..] == original) else {
            panic!("not byte for byte:\n{}\n-- sent:\n{}", self.text(), String::from_utf8_lossy(original));
        };
        String::from_utf8_lossy(&self.0[..at]).into_owned()
    }
}

impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

pub fn subject_of(letter: &Letter) -> String {
    letter.header("Subject").unwrap_or_default()
}
