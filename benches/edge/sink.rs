//! Sink: the next hop. Takes everything, and remembers each message's number and checksum.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

type Taken = Arc<Mutex<HashMap<usize, Vec<u32>>>>;

pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    taken: Taken,
    count: watch::Sender<usize>,
    accepting: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Sink {
    pub(crate) async fn start(chunking: bool) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), chunking).await
    }

    pub(crate) async fn start_at(address: SocketAddr, chunking: bool) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let taken = Taken::default();
        let count = watch::Sender::new(0);
        let (seen, counter) = (taken.clone(), count.clone());
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream, seen.clone(), counter.clone(), chunking));
            }
        });
        Self { address, taken, count, accepting }
    }

    pub(crate) async fn wait_for(&self, total: usize, patience: Duration) {
        let mut count = self.count.subscribe();
        let arrived = count.wait_for(|count| *count >= total);
        let in_time = tokio::time::timeout(patience, arrived).await.is_ok();
        assert!(in_time, "{} of {total} messages arrived within {patience:?}", *self.count.borrow());
    }

    /// Each message exactly once and unchanged.
    pub(crate) fn check(&self, sent: &[u32]) {
        let taken = self.taken.lock().expect("nobody panicked");
        let (mut lost, mut damaged, mut repeated) = (0, 0, 0);
        for (number, sum) in sent.iter().enumerate() {
            match taken.get(&number).map(Vec::as_slice) {
                None => lost += 1,
                Some([only]) if only == sum => {}
                Some([_]) => damaged += 1,
                Some(_) => repeated += 1,
            }
        }
        assert!(lost + damaged + repeated == 0, "lost {lost}, damaged {damaged}, repeated {repeated}");
    }
}

async fn serve(mut stream: TcpStream, taken: Taken, count: watch::Sender<usize>, chunking: bool) {
    let mut input = Vec::with_capacity(64 * 1024);
    let mut output = b"220 sink ESMTP\r\n".to_vec();
    let mut body = Vec::new();
    loop {
        if stream.write_all(&output).await.is_err() {
            return;
        }
        output.clear();
        match stream.read_buf(&mut input).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        loop {
            match step(&mut stream, &mut input, &mut output, &mut body, &taken, &count, chunking).await {
                Step::More => {}
                Step::Read => break,
                Step::Gone => return,
            }
        }
    }
}

enum Step {
    More,
    Read,
    Gone,
}

async fn step(
    stream: &mut TcpStream,
    input: &mut Vec<u8>,
    output: &mut Vec<u8>,
    body: &mut Vec<u8>,
    taken: &Taken,
    count: &watch::Sender<usize>,
    chunking: bool,
) -> Step {
    let Some(end) = memchr::memchr(b'\n', input) else { return Step::Read };
    let line: Vec<u8> = input.drain(..=end).collect();
    let verb = line.get(..4).unwrap_or(&line).to_ascii_uppercase();
    match &verb[..] {
        b"EHLO" | b"HELO" => {
            output.extend_from_slice(b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 0\r\n");
            output.extend_from_slice(if chunking { b"250-CHUNKING\r\n" } else { b"" });
            output.extend_from_slice(b"250 ENHANCEDSTATUSCODES\r\n");
        }
        b"DATA" => {
            output.extend_from_slice(b"354 go\r\n");
            if stream.write_all(output).await.is_err() {
                return Step::Gone;
            }
            output.clear();
            let end = loop {
                // Nothing else in the message looks like its end.
                if let Some(at) = memchr::memmem::find(input, b"\r\n.\r\n") {
                    break at;
                }
                match stream.read_buf(input).await {
                    Ok(read) if read > 0 => {}
                    _ => return Step::Gone,
                }
            };
            remember(&input[..end + 2], taken, count);
            input.drain(..end + 5);
            output.extend_from_slice(b"250 2.0.0 ok\r\n");
        }
        b"BDAT" => {
            let text = String::from_utf8_lossy(&line).to_uppercase();
            let size: usize = text.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a size");
            while input.len() < size {
                match stream.read_buf(input).await {
                    Ok(read) if read > 0 => {}
                    _ => return Step::Gone,
                }
            }
            body.extend(input.drain(..size));
            if text.contains("LAST") {
                remember(body, taken, count);
                body.clear();
            }
            output.extend_from_slice(b"250 2.0.0 ok\r\n");
        }
        b"QUIT" => {
            output.extend_from_slice(b"221 2.0.0 bye\r\n");
            let _ = stream.write_all(output).await;
            return Step::Gone;
        }
        _ => output.extend_from_slice(b"250 2.0.0 ok\r\n"),
    }
    Step::More
}

fn remember(message: &[u8], taken: &Taken, count: &watch::Sender<usize>) {
    let body_start = memchr::memmem::find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 4);
    let header = String::from_utf8_lossy(&message[..body_start]);
    let number = header
        .lines()
        .find_map(|line| line.strip_prefix("X-Load: "))
        .and_then(|text| text.trim().parse().ok());
    let number: usize = number.expect("every message carries its number");
    let sum = crc32fast::hash(&message[body_start..]);
    taken.lock().expect("nobody panicked").entry(number).or_default().push(sum);
    count.send_modify(|count| *count += 1);
}
