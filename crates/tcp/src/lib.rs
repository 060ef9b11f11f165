//! Network filters: what happens on a connection between the transport socket and its end.
//!
//! A chain of network filters ends with one that serves the connection, such as the HTTP connection manager of
//! `outrider-http` or the TCP proxy (`tcp_proxy`). The filters before it look at the connection first.

pub mod filters;
mod tcp_proxy;

pub use filters::NetworkFilterChain;
