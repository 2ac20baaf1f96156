//! Head: a message's header section while it comes in, and where its body begins.
//!
//! Kept whole, since signatures are over parts of it; so it is bounded, for each message and for all
//! messages under way together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all header sections under way may hold together.
#[derive(Debug)]
pub(super) struct Room {
    used: AtomicUsize,
    limit: usize,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|used| *used <= self.limit)
        });
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Why a header section was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// Longer than one message's may be.
    TooLong,
    /// Too much is under way at once.
    NoRoom,
}

#[derive(Debug)]
pub(super) struct Head {
    room: Arc<Room>,
    limit: usize,
    bytes: Vec<u8>,
    /// How much of `room` is ours.
    held: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The empty line has come.
    Complete,
    Lacking(Lack),
}

/// What a piece of a message was.
pub(super) enum Pushed<'b> {
    /// Still the header section.
    Head,
    /// The header section ended here; the rest is body.
    Ended(&'b [u8]),
    /// Nothing to be looked at any more.
    Lacking,
}

impl Head {
    pub(super) fn new(room: Arc<Room>, limit: usize) -> Self {
        Self { room, limit, bytes: Vec::new(), held: 0, state: State::Open }
    }

    /// Takes the next piece, as long as the head is open.
    pub(super) fn push<'b>(&mut self, piece: &'b [u8]) -> Pushed<'b> {
        // The end may lie across two pieces.
        let from = self.bytes.len().saturating_sub(3);
        let tail_length = self.bytes.len() - from;
        let end = {
            let mut seam = [0; 6];
            let reach = piece.len().min(3);
            seam[..tail_length].copy_from_slice(&self.bytes[from..]);
            seam[tail_length..tail_length + reach].copy_from_slice(&piece[..reach]);
            let seam = &seam[..tail_length + reach];
            match memchr::memmem::find(seam, b"\r\n\r\n") {
                Some(at) => Some(at + 4 - tail_length),
                // A message may begin with its body.
                None if self.bytes.is_empty() && piece.starts_with(b"\r\n") => Some(2),
                None if self.bytes == b"\r" && piece.starts_with(b"\n") => Some(1),
                None => memchr::memmem::find(piece, b"\r\n\r\n").map(|at| at + 4),
            }
        };
        let kept = end.unwrap_or(piece.len());
        if let Err(lack) = self.keep(&piece[..kept]) {
            self.let_go();
            self.state = State::Lacking(lack);
            return Pushed::Lacking;
        }
        if end.is_none() {
            return Pushed::Head;
        }
        self.state = State::Complete;
        Pushed::Ended(&piece[kept..])
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Lack> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(Lack::TooLong);
        }
        if !self.room.take(bytes.len()) {
            return Err(Lack::NoRoom);
        }
        self.held += bytes.len();
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The header section with its empty line, or why it is not there.
    pub(super) fn bytes(&self) -> Result<&[u8], Lack> {
        match self.state {
            State::Open | State::Complete => Ok(&self.bytes),
            State::Lacking(lack) => Err(lack),
        }
    }

    fn let_go(&mut self) {
        self.room.give_back(std::mem::take(&mut self.held));
        self.bytes = Vec::new();
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(message: &[u8], at: usize, limit: usize) -> (Result<Vec<u8>, Lack>, Vec<u8>) {
        let mut head = Head::new(Arc::new(Room::new(1024)), limit);
        let mut body = Vec::new();
        for piece in [&message[..at], &message[at..]] {
            if head.state != State::Open {
                body.extend_from_slice(piece);
            } else if let Pushed::Ended(rest) = head.push(piece) {
                body.extend_from_slice(rest);
            }
        }
        (head.bytes().map(<[u8]>::to_vec), body)
    }

    #[test]
    fn the_first_empty_line_ends_the_header_section_wherever_it_is_cut() {
        for (message, head) in [
            ("A: b\r\nC: d\r\n\r\nbody\r\n\r\nmore", "A: b\r\nC: d\r\n\r\n"),
            ("\r\nbody\r\n\r\nmore", "\r\n"),
            ("A: b\r\n", "A: b\r\n"),
            ("A: b\r\n\n\r\n\r\n", "A: b\r\n\n\r\n\r\n"),
            ("", ""),
        ] {
            for at in 0..=message.len() {
                let (kept, body) = split(message.as_bytes(), at, 100);
                assert_eq!(kept.as_deref(), Ok(head.as_bytes()), "{message:?} at {at}");
                assert_eq!(body, &message.as_bytes()[head.len()..], "{message:?} at {at}");
            }
        }
    }

    #[test]
    fn what_is_too_long_is_not_kept_and_its_room_comes_back() {
        assert_eq!(split(b"A: b\r\nC: d\r\n\r\n", 6, 10).0, Err(Lack::TooLong));
        let room = Arc::new(Room::new(10));
        let mut first = Head::new(room.clone(), 100);
        let mut second = Head::new(room.clone(), 100);
        assert!(matches!(first.push(b"A: b\r\n"), Pushed::Head));
        assert!(matches!(second.push(b"A: b\r\n"), Pushed::Lacking));
        assert_eq!(second.bytes(), Err(Lack::NoRoom));
        drop(first);
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
        assert!(matches!(Head::new(room, 100).push(b"A: b\r\n"), Pushed::Head));
    }
}
