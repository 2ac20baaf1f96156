//! Hop: a next hop that answers each command as the test says, where smtp-sink treats all recipients alike.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::wait::until;

/// What is said to a command; the end of a message is asked about as `.` and its RCPT commands.
pub enum Says {
    /// What every server says.
    Usual,
    This(&'static str),
    /// No answer, ever.
    Nothing,
}

type Answer = dyn Fn(&str) -> Says + Send + Sync;

/// Takes connections until it is dropped.
pub struct Hop {
    pub address: SocketAddr,
    taken: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
}

impl Hop {
    pub fn start(answer: impl Fn(&str) -> Says + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (taken, over) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(AtomicBool::new(false)));
        let (list, ends, answer) =
            (taken.clone(), over.clone(), Arc::<Answer>::from(Box::new(answer) as Box<Answer>));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                let (list, answer) = (list.clone(), answer.clone());
                // Whoever hangs up in the middle has ended the conversation.
                thread::spawn(move || serve(client, &*answer, &list).ok());
            }
        });
        Self { address, taken, over }
    }

    /// The RCPT commands of each message that was taken, in the order of arrival.
    pub fn taken(&self) -> Vec<String> {
        self.taken.lock().expect("nobody panics with it").clone()
    }

    pub fn wait_for(&self, count: usize) -> Vec<String> {
        until(&format!("{count} messages at the next hop"), || {
            Some(self.taken()).filter(|taken| taken.len() >= count)
        })
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes it up.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(client: TcpStream, answer: &Answer, taken: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    let say = |asked: &str, usual: &str| -> std::io::Result<bool> {
        let words = match answer(asked) {
            Says::Usual => usual,
            Says::This(words) => words,
            Says::Nothing => return Ok(false),
        };
        (&client).write_all(format!("{words}\r\n").as_bytes())?;
        Ok(words.starts_with(['2', '3']))
    };
    say("", "220 hop ESMTP")?;
    let mut recipients: Vec<String> = Vec::new();
    while let Some(command) = lines.next().transpose()? {
        match command.get(..4).unwrap_or_default() {
            "RCPT" => {
                if say(&command, "250 2.1.5 Ok")? {
                    recipients.push(command);
                }
            }
            "DATA" => {
                if say(&command, "354 Go on")? {
                    while lines.next().transpose()?.is_some_and(|line| line != ".") {}
                    let all = std::mem::take(&mut recipients).join(" ");
                    if say(&format!(". {all}"), "250 2.0.0 Taken")? {
                        taken.lock().expect("nobody panics with it").push(all);
                    }
                }
            }
            "QUIT" => return say(&command, "221 2.0.0 Bye").map(drop),
            _ => {
                recipients.clear();
                say(&command, "250 2.0.0 Ok")?;
            }
        }
    }
    Ok(())
}
