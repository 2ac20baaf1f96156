//! Script: SMTP conversations written down as text.
//!
//! `C:` is a line the client sends, CRLF added; `\r \n \t \0 \\ \xNN` are octets, `{x*3000}` is a repetition,
//! and a final `\c` leaves out the CRLF. `C:` lines in a row are sent at once. `S:` is a line the server must
//! send, where `*` stands for anything but nothing. `S-` means that it closes the connection.
//! In `judged/`, `J:` is what the next question is answered with, `N:` why the next message is not stored,
//! `E:` something that happens, and `T:` a term of the session. `#` begins a comment.

#[derive(Debug)]
pub(crate) struct Step {
    /// Where it stands in its file.
    pub(crate) number: usize,
    pub(crate) act: Act,
}

#[derive(Debug)]
pub(crate) enum Act {
    Client(Vec<u8>),
    Server(String),
    ServerCloses,
    Judge(String),
    NotStored(String),
    Event(String),
    Term(String),
}

pub(crate) fn parse(text: &str) -> Vec<Step> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(index, line)| {
            let number = index + 1;
            let (mark, rest) = line.split_at(2.min(line.len()));
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            let act = match mark {
                "C:" => Act::Client(octets(rest)),
                "S:" => Act::Server(rest.to_owned()),
                "S-" => Act::ServerCloses,
                "J:" => Act::Judge(rest.to_owned()),
                "N:" => Act::NotStored(rest.to_owned()),
                "E:" => Act::Event(rest.to_owned()),
                "T:" => Act::Term(rest.to_owned()),
                _ => panic!("line {number} has no mark: {line}"),
            };
            Step { number, act }
        })
        .collect()
}

fn octets(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'\\' => {
                let (&escape, tail) = rest.split_first().expect("something follows a backslash");
                rest = tail;
                match escape {
                    b'r' => octets.push(b'\r'),
                    b'n' => octets.push(b'\n'),
                    b't' => octets.push(b'\t'),
                    b'0' => octets.push(0),
                    b'\\' => octets.push(b'\\'),
                    b'x' => {
                        let digits = std::str::from_utf8(&rest[..2]).expect("two digits");
                        octets.push(u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
                        rest = &rest[2..];
                    }
                    b'c' if rest.is_empty() => return octets,
                    other => panic!("unknown escape {}", other as char),
                }
            }
            b'{' if let Some((repeated, tail)) = repetition(rest) => {
                octets.extend_from_slice(&repeated);
                rest = tail;
            }
            octet => octets.push(octet),
        }
    }
    octets.extend_from_slice(b"\r\n");
    octets
}

/// `x*3000}`: a text without `*`, repeated.
fn repetition(rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let end = rest.iter().position(|octet| *octet == b'}')?;
    let inner = std::str::from_utf8(&rest[..end]).ok()?;
    let (unit, times) = inner.split_once('*')?;
    Some((unit.repeat(times.parse().ok()?).into_bytes(), &rest[end + 1..]))
}

/// Whether a line is what the pattern says.
pub(crate) fn matches(pattern: &str, line: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == line,
        Some((head, tail)) => line.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices()
                .skip(1)
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| !rest.is_empty() && matches(tail, &rest[at..]))
        }),
    }
}
