//! The body of a request.

use std::cell::Cell;
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use hyper::body::Body as _;
use hyper::body::Bytes;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::socket::STALL_TIMEOUT;

/// A request's body, read as it arrives.
pub(crate) struct RequestBody {
    incoming: Incoming,
    received: Rc<Cell<u64>>,
}

/// Why a body cannot be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is longer than the limit.
    TooLarge,
    /// Its chunks are malformed.
    Malformed,
    /// The client sent nothing for too long.
    TimedOut,
    /// The client has left.
    Disconnected,
}

impl RequestBody {
    /// The body `incoming`; its bytes are added to `received`.
    pub(crate) fn new(incoming: Incoming, received: Rc<Cell<u64>>) -> Self {
        Self { incoming, received }
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let frame = poll_fn(|cx| Pin::new(&mut self.incoming).poll_frame(cx));
            let frame = timeout(STALL_TIMEOUT, frame).await;
            let Some(frame) = frame.map_err(|_elapsed| BodyError::TimedOut)? else {
                return Ok(None);
            };
            // A frame that is not data has trailers, which are ignored.
            if let Ok(data) = frame.map_err(|error| reason(&error))?.into_data() {
                let received = self.received.get() + data.len() as u64;
                self.received.set(received);
                return Ok(Some(data));
            }
        }
    }

    /// Reads to the end and discards the data.
    pub(crate) async fn discard(&mut self) -> Result<(), BodyError> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// Reads to the end. Fails if the body is longer than `limit` bytes.
    pub(crate) async fn collect(&mut self, limit: usize) -> Result<Vec<u8>, BodyError> {
        let mut bytes = Vec::new();
        while let Some(more) = self.next().await? {
            if bytes.len() + more.len() > limit {
                return Err(BodyError::TooLarge);
            }
            bytes.extend_from_slice(&more);
        }
        Ok(bytes)
    }
}

fn reason(error: &hyper::Error) -> BodyError {
    let io = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    match io.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => BodyError::Malformed,
        _ => BodyError::Disconnected,
    }
}
