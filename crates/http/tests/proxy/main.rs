//! Requests through a connection manager, with real sockets on both sides.

mod answers;
mod support;
mod upstream;
