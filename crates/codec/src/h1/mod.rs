//! HTTP/1.1 (RFC 9112), in both roles, on a parser of its own: what Envoy accepts, refuses and answers is part of what its
//! users rely on. One message flows at a time, so a request is served inside its connection's task.

pub(crate) mod client;
mod encode;
mod exchange;
mod fields;
mod framing;
mod head;
mod recv;
mod respond;
pub(crate) mod server;
mod sink;
mod target;
mod transport;
mod turn;

pub(crate) use exchange::Exchange;
pub(crate) use recv::RecvBody;
pub(crate) use respond::Respond;

#[cfg(test)]
mod tests;
