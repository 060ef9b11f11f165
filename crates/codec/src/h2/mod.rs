//! HTTP/2 (RFC 9113), both roles.
//!
//! A codec of our own, because this is what the proxy spends its time with: one thread, no locks, header blocks decoded
//! straight into the map that travels on, and frames written straight into the buffer that goes out. What is an error, and
//! what becomes of it, is as in Envoy, down to who is told what.
//!
//! ```text
//! socket → input → session::receive → StreamState → StreamRef → RecvBody, Exchange → stream's task
//! socket ← output ← session::send ← StreamRef ← Pump ← Respond, Exchange ← stream's task
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

pub(crate) use exchange::Exchange;
pub(crate) use recv::RecvBody;
