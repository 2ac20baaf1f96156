//! Client: says exactly these bytes and reads exactly one reply; and `swaks`, the client of the README.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;

use super::edge::Edge;
use super::wait::{PATIENCE, until};

pub struct Client {
    stream: TcpStream,
    /// Read and not yet part of a reply.
    unread: Vec<u8>,
}

impl Client {
    /// Connects, and says and reads nothing.
    pub fn silent(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE).expect("the edge accepts connections"))
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline above zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("a deadline above zero");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, unread: Vec::new() }
    }

    /// Connects, reads the banner and greets.
    pub fn greeted(address: SocketAddr) -> Self {
        let mut client = Self::silent(address);
        let banner = client.reply();
        assert!(banner.starts_with("220 "), "{banner}");
        let hello = client.say("EHLO client.example.org");
        assert!(hello.starts_with("250-"), "{hello}");
        client
    }

    /// As `greeted`, calling from a loopback address of its own.
    pub fn greeted_from(source: std::net::IpAddr, address: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(source, 0).into()).expect("all of 127/8 is loopback on Linux");
        socket.connect_timeout(&address.into(), PATIENCE).expect("the edge accepts connections");
        let mut client = Self::over(socket.into());
        client.reply();
        client.say("EHLO client.example.org");
        client
    }

    /// As `greeted`, for an edge that may be gone.
    pub fn try_greeted(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, unread: Vec::new() };
        client.try_reply()?;
        client.try_send("EHLO client.example.org\r\n")?;
        client.try_reply()?;
        Ok(client)
    }

    /// A whole transaction with an edge that may be killed meanwhile: whether it was acknowledged, or
    /// nothing when the connection is gone.
    pub fn try_deliver(&mut self, from: &str, to: &[&str], message: &str) -> Option<bool> {
        let mut commands = format!("MAIL FROM:<{from}>\r\n");
        for recipient in to {
            commands.push_str(&format!("RCPT TO:<{recipient}>\r\n"));
        }
        self.try_send(commands + "DATA\r\n").ok()?;
        for _ in 0..to.len() + 2 {
            self.try_reply().ok()?;
        }
        self.try_send(stuffed(message.as_bytes())).ok()?;
        self.try_send(".\r\n").ok()?;
        Some(self.try_reply().ok()?.starts_with("250 "))
    }

    fn try_reply(&mut self) -> std::io::Result<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.try_line()?.ok_or(ErrorKind::UnexpectedEof)?;
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                return Ok(lines.join("\n"));
            }
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the edge takes our bytes");
    }

    /// Sends although the other side may already have gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// One reply, its lines joined by `\n`; empty when the connection is at its end.
    pub fn reply(&mut self) -> String {
        let mut lines = Vec::new();
        while let Some(line) = self.line() {
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                break;
            }
        }
        lines.join("\n")
    }

    /// One line of a reply; `None` when the connection is at its end.
    pub fn line(&mut self) -> Option<String> {
        match self.try_line() {
            Ok(line) => line,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no reply within {PATIENCE:?}: {error}"),
        }
    }

    /// A line without its end, or nothing at the end of the connection.
    fn try_line(&mut self) -> std::io::Result<Option<String>> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.unread.drain(..at + 2).collect::<Vec<_>>();
                return Ok(Some(String::from_utf8_lossy(&line[..at]).into_owned()));
            }
            let mut block = [0; 4096];
            match self.read(&mut block)? {
                0 if self.unread.is_empty() => return Ok(None),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.unread.extend_from_slice(&block[..count]),
            }
        }
    }

    /// A read with a time limit is never begun again by itself when the machine was paused (signal(7)).
    fn read(&mut self, block: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.stream.read(block) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// One command line and its reply.
    pub fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n"));
        self.reply()
    }

    pub fn expect(&mut self, line: &str, reply: &str) {
        assert_eq!(self.say(line), reply, "to {line}");
    }

    /// MAIL and RCPT, all of which must be taken.
    pub fn envelope(&mut self, from: &str, to: &[&str]) {
        self.expect(&format!("MAIL FROM:<{from}>"), "250 2.1.0 Sender OK");
        for recipient in to {
            self.expect(&format!("RCPT TO:<{recipient}>"), "250 2.1.5 Recipient OK");
        }
    }

    /// DATA, dot-stuffed, and the reply to its end.
    pub fn data(&mut self, message: impl AsRef<[u8]>) -> String {
        let go_ahead = self.say("DATA");
        assert!(go_ahead.starts_with("354 "), "{go_ahead}");
        self.send(stuffed(message.as_ref()));
        self.send(".\r\n");
        self.reply()
    }

    /// A whole transaction; the reply to its end must be 250.
    pub fn deliver(&mut self, from: &str, to: &[&str], message: impl AsRef<[u8]>) {
        self.envelope(from, to);
        let taken = self.data(message);
        assert!(taken.starts_with("250 2.6.0 "), "{taken}");
    }

    /// Whatever is said until the other side closes, which must happen within patience.
    pub fn rest(&mut self) -> Vec<String> {
        let mut replies = Vec::new();
        loop {
            let reply = self.reply();
            if reply.is_empty() {
                return replies;
            }
            replies.push(reply);
        }
    }

    /// Whether nothing has been said that was not read yet.
    pub fn hears_nothing(&self) -> bool {
        self.stream.set_nonblocking(true).expect("a TCP socket");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("a TCP socket");
        self.unread.is_empty() && peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Whether the other side closes within patience, whatever bytes it sends before.
    pub fn ends(&mut self) -> bool {
        let mut block = [0; 4096];
        loop {
            match self.read(&mut block) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// Ends our direction only.
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("an open connection");
    }
}

/// RFC 5321 §4.5.2.
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 16);
    let mut at_line_start = true;
    for byte in message {
        if at_line_start && *byte == b'.' {
            out.push(b'.');
        }
        out.push(*byte);
        at_line_start = *byte == b'\n';
    }
    out
}

/// What RCPT is told about this one, in a session of its own.
pub fn told(edge: &Edge, recipient: &str) -> String {
    let mut client = edge.client();
    client.expect("MAIL FROM:<sender@example.org>", "250 2.1.0 Sender OK");
    client.say(&format!("RCPT TO:<{recipient}>"))
}

pub fn until_told(edge: &Edge, recipient: &str, reply: &str) {
    until(&format!("{recipient} to be told {reply}"), || (told(edge, recipient) == reply).then_some(()));
}

/// Runs swaks against `server`; its exit code and the whole transcript.
pub fn swaks(server: SocketAddr, arguments: &[&str]) -> (i32, String) {
    let output = Command::new("swaks")
        .args(["--server", &server.to_string(), "--helo", "client.example.org", "--timeout", "30s"])
        .args(arguments)
        .output()
        .expect("tests/run installs swaks");
    let mut transcript = String::from_utf8_lossy(&output.stdout).into_owned();
    transcript.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.code().expect("swaks ends by itself"), transcript)
}
