//! HTTP/2 (RFC 9113), client and server.
//!
//! The proxy spends most of its time in this codec, so it is written for it: one thread, no locks, header blocks
//! decoded directly into the map that the request keeps, and frames encoded directly into the output buffer. Errors and
//! their consequences match Envoy, including who is notified of them.
//!
//! ```text
//! socket → input → session::receive → StreamState → StreamRef → RecvBody, Exchange → stream's task
//! socket ← output ← session::send ← StreamRef ← Pump ← Responder, Exchange ← stream's task
//! ```

pub(crate) mod client;
mod exchange;
mod frame;
mod headers;
mod input;
mod keepalive;
mod limits;
mod message;
mod output;
mod pump;
mod recv;
pub(crate) mod respond;
pub(crate) mod server;
mod session;
mod stream;
mod window;

pub(crate) use exchange::H2Exchange;
pub(crate) use recv::H2RecvBody;
