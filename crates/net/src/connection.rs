//! An accepted connection, and who serves it.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::Address;
use crate::Stream;

/// What is known of an accepted connection, for logs, matching and headers.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The process-wide number of the connection (`%CONNECTION_ID%`).
    pub id: u64,
    /// The address the client connected to.
    pub local: Address,
    /// The client's address.
    pub remote: Address,
    /// When it was accepted.
    pub started: Instant,
    /// The listener's name, empty when the config gives none.
    pub listener: Arc<str>,
    /// The filter chain's name, empty when the config gives none.
    pub filter_chain: Arc<str>,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    /// Its bytes.
    pub stream: Stream,
    /// Its facts.
    pub info: Rc<ConnectionInfo>,
}

/// What serves the connections of a filter chain: the last network filter.
pub trait ConnectionHandler {
    /// Serves one connection to its end. Dropping the future closes the connection.
    fn serve(self: Rc<Self>, connection: Connection) -> Pin<Box<dyn Future<Output = ()>>>;
}
