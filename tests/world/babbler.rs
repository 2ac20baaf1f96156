//! Babbler: something else where a server should be: takes every connection and says the same words.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::wait::until;

/// Talks until it is dropped.
pub struct Babbler {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    talking: Option<JoinHandle<()>>,
}

impl Babbler {
    pub fn start(address: SocketAddr, words: &'static [u8]) -> Self {
        let listener = until("the server's address to be free", || TcpListener::bind(address).ok());
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let talking = thread::spawn(move || {
            for client in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                // Whoever hangs up has heard enough.
                let Ok(mut client) = client else { continue };
                let _ = client.read(&mut [0; 64]);
                let _ = client.write_all(words);
            }
        });
        Self { address, over, talking: Some(talking) }
    }
}

impl Drop for Babbler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes it up.
        let _ = TcpStream::connect(self.address);
        self.talking.take().expect("it talks").join().expect("it does not panic");
    }
}
