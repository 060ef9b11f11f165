//! A connection that listener filters look at, and the bytes in it.

use std::future::poll_fn;
use std::io;

use crate::Address;
use crate::DynamicMetadata;
use crate::FilterState;
use crate::NetworkStream;
use crate::SocketAddresses;

/// The size of the first read, in bytes: most ClientHellos and heads of requests are shorter.
const FIRST_READ: usize = 2 * 1024;

/// What is known about a connection so far.
#[derive(Debug)]
pub(in crate::listener) struct InspectedConnection {
    /// The address the client connected to.
    pub(in crate::listener) local: Address,
    /// The client's address.
    pub(in crate::listener) remote: Address,
    /// The addresses of the socket itself, once they were replaced.
    pub(in crate::listener) socket_addresses: Option<Box<SocketAddresses>>,
    /// Whether the client sends a TLS ClientHello.
    pub(in crate::listener) is_tls: bool,
    /// Empty if the client sent no SNI.
    pub(in crate::listener) server_name: String,
    pub(in crate::listener) application_protocols: Vec<String>,
    /// Empty unless asked for.
    pub(in crate::listener) ja3: String,
    /// Empty unless asked for.
    pub(in crate::listener) ja4: String,
    pub(in crate::listener) metadata: DynamicMetadata,
    pub(in crate::listener) filter_state: FilterState,
}

impl InspectedConnection {
    /// A connection whose socket has these addresses.
    pub(in crate::listener) fn new(local: Address, remote: Address) -> InspectedConnection {
        InspectedConnection {
            local,
            remote,
            socket_addresses: None,
            is_tls: false,
            server_name: String::new(),
            application_protocols: Vec::new(),
            ja3: String::new(),
            ja4: String::new(),
            metadata: DynamicMetadata::default(),
            filter_state: FilterState::default(),
        }
    }

    /// The address of the socket's peer.
    pub(in crate::listener) fn direct_remote(&self) -> &Address {
        let replaced = self.socket_addresses.as_ref();
        replaced.map_or(&self.remote, |socket| &socket.remote)
    }

    /// Replaces the addresses of the connection. Those of the socket are kept beside them.
    pub(super) fn replace_addresses(&mut self, local: Address, remote: Address) {
        let before = SocketAddresses {
            local: std::mem::replace(&mut self.local, local),
            remote: std::mem::replace(&mut self.remote, remote),
        };
        self.socket_addresses.get_or_insert(Box::new(before));
    }
}

/// The bytes at the beginning of a connection, which are still in its socket.
#[derive(Debug, Default)]
pub(super) struct PeekedBytes {
    buffer: Vec<u8>,
    /// How many of the buffer's bytes have arrived.
    count: usize,
}

/// Why no more bytes can be read.
#[derive(Debug)]
pub(super) enum PeekError {
    /// The client has ended its side.
    Ended,
    /// The connection failed.
    Failed,
}

impl PeekedBytes {
    /// At most `max` bytes.
    pub(super) fn first(&self, max: usize) -> &[u8] {
        self.buffer.get(..self.count.min(max)).unwrap_or_default()
    }

    /// Waits until there are more than `seen` bytes. At most `max` are read.
    pub(super) async fn read_more(
        &mut self,
        stream: &NetworkStream,
        seen: usize,
        max: usize,
    ) -> Result<(), PeekError> {
        while self.count <= seen {
            if self.count == self.buffer.len() {
                let size = (self.count * 2).max(FIRST_READ.min(max)).min(max);
                self.buffer.resize(size, 0);
            }
            let peeked = poll_fn(|cx| stream.poll_peek(cx, &mut self.buffer, self.count)).await;
            self.count = match peeked {
                Ok(Some(count)) => count,
                Ok(None) => return Err(PeekError::Ended),
                Err(_) => return Err(PeekError::Failed),
            };
        }
        Ok(())
    }

    /// Removes the first bytes, from the socket too. They must have been read.
    pub(super) fn drain(&mut self, stream: &NetworkStream, count: usize) -> io::Result<()> {
        let count = count.min(self.count);
        stream.remove_bytes(self.buffer.get_mut(..count).unwrap_or_default())?;
        self.buffer.drain(..count);
        self.count -= count;
        Ok(())
    }
}
