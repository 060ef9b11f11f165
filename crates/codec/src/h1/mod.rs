//! HTTP/1.1 (RFC 9112), client and server. It has a parser of its own because users rely on exactly what Envoy accepts,
//! refuses and responds. Only one message is in flight at a time, so a request is served inside its connection's task.

pub(crate) mod client;
mod deferred_writes;
pub(crate) mod encode;
mod exchange;
mod fields;
pub(crate) mod framing;
pub(crate) mod head;
mod recv;
mod respond;
pub(crate) mod server;
mod sink;
mod target;
mod tcp_exchange;
mod transport;

pub(crate) use exchange::H1Exchange;
pub(crate) use recv::H1RecvBody;
pub(crate) use respond::H1Responder;
pub use tcp_exchange::TcpConnectionOwner;
pub(crate) use tcp_exchange::TcpExchange;

#[cfg(test)]
mod tests;
