//! Response: what another server answered us.
//!
//! Owns the grammar of replies (RFC 5321 §4.2) and of what EHLO offers. Reads line by line, under bounds;
//! nonsense is an error value. `delivery` asks, `reply` is the other direction.

use memchr::memchr;

use crate::mail::Status;

/// Longest line that is read: eight times what RFC 5321 §4.5.3.1.5 allows.
pub const LINE_LIMIT: usize = 4096;
/// Most lines in one response.
const LINES_LIMIT: usize = 100;

/// One whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub code: u16,
    /// The enhanced status code, when the server gave one of the right class (RFC 2034).
    pub status: Option<Status>,
    /// Lines without code and status, a `\n` between them. Printable: everything else became `?`.
    text: String,
}

impl Response {
    pub fn new(code: u16, status: Option<Status>, text: impl Into<String>) -> Self {
        Self { code, status, text: text.into() }
    }

    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// All lines in one, with a space between them.
    pub fn text(&self) -> String {
        self.text.replace('\n', " ")
    }

    /// 2 for success, 3 for "go on", 4 for not now, 5 for never.
    pub fn class(&self) -> u16 {
        self.code / 100
    }

    /// The server's status, or the plainest one of its class.
    pub fn status_or_plain(&self) -> Status {
        let class = match self.class() {
            4 => 4,
            5 => 5,
            _ => 2,
        };
        self.status.unwrap_or(Status::new(class, 0, 0))
    }
}

/// Why what came is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a line of the reply is too long")]
    LineTooLong,
    #[error("the reply has too many lines")]
    TooManyLines,
    #[error("a line of the reply does not begin with a code")]
    NoCode,
    #[error("the lines of the reply differ in their code")]
    MixedCodes,
}

/// What reading made of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many bytes are done with.
    pub consumed: usize,
    /// Present when a response is complete; what follows belongs to the next.
    pub response: Option<Response>,
}

/// Reads responses piece by piece. After an error the connection is of no use.
#[derive(Debug, Default)]
pub struct ResponseReader {
    code: Option<u16>,
    status: Option<Status>,
    text: String,
    lines: usize,
}

impl ResponseReader {
    /// Takes whole lines off the front of `input`, until a response is complete or more is needed.
    pub fn read(&mut self, input: &[u8]) -> Result<Progress, Malformed> {
        let mut consumed = 0;
        while let Some(end) = memchr(b'\n', &input[consumed..]) {
            let line = &input[consumed..consumed + end];
            consumed += end + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if self.take_line(line)? {
                let done = std::mem::take(self);
                let code = done.code.expect("a line was taken");
                let response = Response { code, status: done.status, text: done.text };
                return Ok(Progress { consumed, response: Some(response) });
            }
        }
        if input.len() - consumed > LINE_LIMIT {
            return Err(Malformed::LineTooLong);
        }
        Ok(Progress { consumed, response: None })
    }

    /// Returns whether it was the last line.
    fn take_line(&mut self, line: &[u8]) -> Result<bool, Malformed> {
        if line.len() > LINE_LIMIT {
            return Err(Malformed::LineTooLong);
        }
        self.lines += 1;
        if self.lines > LINES_LIMIT {
            return Err(Malformed::TooManyLines);
        }
        let [hundreds @ b'2'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9', rest @ ..] = line else {
            return Err(Malformed::NoCode);
        };
        let digit = |byte: &u8| u16::from(byte - b'0');
        let code = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
        if self.code.is_some_and(|first| first != code) {
            return Err(Malformed::MixedCodes);
        }
        let (last, rest) = match rest {
            [] => (true, rest),
            [b' ', rest @ ..] => (true, rest),
            [b'-', rest @ ..] => (false, rest),
            _ => return Err(Malformed::NoCode),
        };
        let text = String::from_utf8_lossy(rest);
        let mut text = text.as_ref();
        let (word, after) = text.split_once(' ').unwrap_or((text, ""));
        // Only a status of the code's own class means anything. RFC 2034 §4
        if let Some(status) = Status::parse(word).filter(|status| u16::from(status.class) == code / 100)
            && (self.code.is_none() || self.status == Some(status))
        {
            self.status = Some(status);
            text = after;
        }
        if self.code.is_some() {
            self.text.push('\n');
        }
        self.text.extend(text.chars().map(|c| if c.is_control() { '?' } else { c }));
        self.code = Some(code);
        Ok(last)
    }
}

/// What a server offers in its answer to EHLO or LHLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offers {
    pub pipelining: bool,
    pub chunking: bool,
    pub binary_mime: bool,
    pub eight_bit_mime: bool,
    pub smtp_utf8: bool,
    pub dsn: bool,
    pub starttls: bool,
    pub require_tls: bool,
    /// SIZE was offered, so MAIL may carry it.
    pub size: bool,
    /// The largest message it takes; absent when there is no fixed limit (RFC 1870 §3).
    pub size_limit: Option<u64>,
}

impl Offers {
    /// Reads the lines below the greeting; keywords in any case, unknown ones passed over.
    pub fn read(response: &Response) -> Self {
        let mut offers = Self::default();
        for line in response.lines().skip(1) {
            // Some old servers write SIZE=1000.
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            match words.next().unwrap_or("").to_ascii_uppercase().as_str() {
                "PIPELINING" => offers.pipelining = true,
                "CHUNKING" => offers.chunking = true,
                "BINARYMIME" => offers.binary_mime = true,
                "8BITMIME" => offers.eight_bit_mime = true,
                "SMTPUTF8" => offers.smtp_utf8 = true,
                "DSN" => offers.dsn = true,
                "STARTTLS" => offers.starttls = true,
                "REQUIRETLS" => offers.require_tls = true,
                "SIZE" => {
                    offers.size = true;
                    offers.size_limit =
                        words.next().and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
                }
                _ => {}
            }
        }
        offers
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(input: &[u8]) -> Result<Response, Malformed> {
        let progress = ResponseReader::default().read(input)?;
        assert_eq!(progress.consumed, input.len());
        Ok(progress.response.expect("a whole response"))
    }

    #[test]
    fn responses_are_read_as_servers_write_them() {
        for (input, code, status, text) in [
            ("250 2.1.5 Ok\r\n", 250, Some("2.1.5"), "Ok"),
            ("250 Ok\r\n", 250, None, "Ok"),
            ("354\r\n", 354, None, ""),
            ("250-\r\n250 \r\n", 250, None, " "),
            ("220-mx.example\r\n220 ESMTP\r\n", 220, None, "mx.example ESMTP"),
            ("550-5.1.1 no such\r\n550 5.1.1 user\r\n", 550, Some("5.1.1"), "no such user"),
            // A status of another class is only words.
            ("450 5.1.1 what\r\n", 450, None, "5.1.1 what"),
            ("452 4.5.3 Recipients ATTR38\n", 452, Some("4.5.3"), "Recipients ATTR38"),
            ("250 a\x1bb\r\n", 250, None, "a?b"),
        ] {
            let response = read_all(input.as_bytes()).expect(input);
            let status = status.map(|text| Status::parse(text).expect("a status"));
            assert_eq!((response.code, response.status, response.text().as_str()), (code, status, text));
        }
    }

    #[test]
    fn nonsense_is_an_error_value() {
        let long = format!("250 {}\r\n", "x".repeat(LINE_LIMIT));
        let endless = "x".repeat(LINE_LIMIT + 1);
        let many = "250-x\r\n".repeat(LINES_LIMIT + 1);
        for (input, error) in [
            ("hello\r\n", Malformed::NoCode),
            ("\r\n", Malformed::NoCode),
            ("25\r\n", Malformed::NoCode),
            ("150 x\r\n", Malformed::NoCode),
            ("650 x\r\n", Malformed::NoCode),
            ("2500 x\r\n", Malformed::NoCode),
            ("250-x\r\n251 x\r\n", Malformed::MixedCodes),
            (&long, Malformed::LineTooLong),
            (&endless, Malformed::LineTooLong),
            (&many, Malformed::TooManyLines),
        ] {
            assert_eq!(ResponseReader::default().read(input.as_bytes()), Err(error), "{input:.20}");
        }
    }

    #[test]
    fn responses_in_one_read_are_taken_one_by_one() {
        let input = b"250 one\r\n250-two\r\n250 three\r\n35";
        let mut reader = ResponseReader::default();
        let first = reader.read(input).expect("well-formed");
        assert_eq!(first.response.expect("whole").text(), "one");
        let second = reader.read(&input[first.consumed..]).expect("well-formed");
        assert_eq!(second.response.expect("whole").text(), "two three");
        let rest = reader.read(&input[first.consumed + second.consumed..]).expect("nothing wrong yet");
        assert_eq!(rest, Progress { consumed: 0, response: None });
    }

    #[test]
    fn offers_are_read_in_any_case() {
        let response = read_all(
            b"250-mx.example hello\r\n250-size 1000\r\n250-PipeLining\r\n250-X-OTHER\r\n250 CHUNKING\r\n",
        )
        .expect("well-formed");
        let expected = Offers {
            pipelining: true,
            chunking: true,
            size: true,
            size_limit: Some(1000),
            ..Offers::default()
        };
        assert_eq!(Offers::read(&response), expected);
        let greeting_only = read_all(b"250 PIPELINING\r\n").expect("well-formed");
        assert_eq!(Offers::read(&greeting_only), Offers::default());
        let unlimited = read_all(b"250-mx\r\n250 SIZE 0\r\n").expect("well-formed");
        assert_eq!(Offers::read(&unlimited), Offers { size: true, ..Offers::default() });
    }

    proptest! {
        #[test]
        fn chunking_does_not_matter_and_nothing_panics(
            input in proptest::collection::vec(
                prop_oneof![Just(b'2'), Just(b'5'), Just(b'0'), Just(b'-'), Just(b' '), Just(b'\r'),
                    Just(b'\n'), any::<u8>()], 0..60),
            cut in 0usize..60,
        ) {
            let whole = ResponseReader::default().read(&input);
            let cut = cut.min(input.len());
            let mut reader = ResponseReader::default();
            let pieces = reader.read(&input[..cut]).and_then(|first| match first.response {
                Some(_) => Ok(first),
                None => reader.read(&input[first.consumed..]).map(|second| Progress {
                    consumed: first.consumed + second.consumed,
                    response: second.response,
                }),
            });
            prop_assert_eq!(whole, pieces);
        }
    }
}
