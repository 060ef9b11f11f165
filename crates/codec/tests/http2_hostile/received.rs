//! Parses what the codec sends to a hostile peer, and checks that it obeys flow control.

use std::cell::Cell;
use std::collections::HashMap;

use tokio::net::UnixStream;

use crate::PREFACE;
use crate::frames::HostileFrames;

/// The flow control state of the frames that the codec sent.
#[derive(Default)]
pub(crate) struct ReceivedFrames {
    bytes: Vec<u8>,
    /// The credit that it granted for the connection, and the number of bytes that it sent in DATA.
    granted: u64,
    data: u64,
    by_stream: HashMap<u32, u64>,
}

impl ReceivedFrames {
    /// Reads and parses what has arrived. Returns false at the end.
    pub(crate) fn read(&mut self, socket: &UnixStream) -> bool {
        let mut read = [0; 4096];
        while let Ok(count) = socket.try_read(&mut read) {
            if count == 0 {
                return false;
            }
            self.bytes.extend_from_slice(&read[..count]);
        }
        self.parse();
        true
    }

    fn parse(&mut self) {
        let mut at = 0;
        if self.bytes.starts_with(&PREFACE[..3]) {
            at = PREFACE.len();
        }
        while let Some(head) = self.bytes.get(at..at + 9) {
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
            let Some(payload) = self.bytes.get(at + 9..at + 9 + length) else {
                break;
            };
            match (head[3], stream) {
                (0, stream) => {
                    self.data += length as u64;
                    *self.by_stream.entry(stream).or_default() += length as u64;
                }
                (8, 0) => {
                    self.granted += u64::from(u32::from_be_bytes(payload.try_into().unwrap()))
                }
                _ => {}
            }
            at += 9 + length;
        }
        self.bytes.drain(..at);
    }

    /// Reads until no stream is running any more. Returns false at the end.
    pub(crate) async fn read_all(&mut self, socket: &UnixStream, running: &Cell<usize>) -> bool {
        let mut quiet = 0;
        while quiet < 100 {
            if !self.read(socket) {
                return false;
            }
            quiet += usize::from(running.get() == 0);
            tokio::task::yield_now().await;
        }
        true
    }

    /// Asserts that the codec obeyed the peer's windows, and that it returned credit for received data. `window` is the
    /// codec's own window.
    pub(crate) fn check(&self, frames: &HostileFrames, window: u64) {
        assert!(
            self.data <= frames.granted,
            "more than the connection's window"
        );
        for (stream, data) in &self.by_stream {
            let updates = frames.updates.get(stream).copied().unwrap_or_default();
            assert!(
                *data <= frames.initial + updates,
                "more than the window of {stream}"
            );
        }
        let left = 65_535 + self.granted - frames.sent;
        assert!(
            left >= window / 2,
            "{left} bytes are left of a window of {window}"
        );
    }
}
