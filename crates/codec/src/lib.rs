//! HTTP/1.1 and HTTP/2, client and server: turns connections into streams of messages.
//!
//! Both codecs use the same message types, so that the crates above do not depend on the protocol version.
//! [`RequestHead`] has header names in lower case, and holds method, target and authority (`:authority` or `host`)
//! separately from the headers. Bodies are [`Body`]. Back-pressure bounds what is buffered.

// Indexing that a peer could make fail would end the process.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod body;
#[cfg(test)]
#[path = "../../../budgets.rs"]
mod budgets;
mod byte_scan;
mod byte_set;
mod client;
mod config;
mod deadlines;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod h1;
mod h2;
pub mod header;
mod hpack;
mod meter;
mod options;
mod reason;
mod request;
mod response;
mod server;
pub mod stats;

pub use body::Body;
pub use body::BodyStream;
pub use body::Frame;
pub use client::Client;
pub use client::UpstreamExchange;
pub use client::connect_http1;
pub use client::connect_http2;
pub use error::ConnectionEnd;
pub use error::EndCause;
pub use error::StreamError;
pub use h1::TcpConnectionOwner;
pub use header::HeaderMap;
pub use header::HeaderName;
pub use header::HeaderValue;
pub use meter::Meter;
pub use options::ClientOptions;
pub use options::CodecType;
pub use options::HeaderCase;
pub use options::Http1Options;
pub use options::Http2Options;
pub use options::Huffman;
pub use options::Keepalive;
pub use options::ServerOptions;
pub use options::ServerOverload;
pub use options::UnderscoresAction;
pub use reason::Reason;
pub use request::InvalidTarget;
pub use request::RequestHead;
pub use request::Target;
pub use response::ResponseHead;
pub use server::AbortConnection;
pub use server::ConnectionCounter;
pub use server::Handler;
pub use server::MalformedRequest;
pub use server::RequestHeadError;
pub use server::Responder;
pub use server::serve;
pub use server::serve_counted;
