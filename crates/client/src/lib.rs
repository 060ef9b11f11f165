//! The client inside: HTTP and gRPC calls that the proxy itself makes, to authorization services and the like.
//!
//! A call goes through a cluster as a proxied request does, so TLS, circuit breakers, load balancing and the stats
//! `cluster.<name>.*` apply to it. It is counted as Envoy counts its own calls: as an internal request, and in
//! `http.async-client.*`.
//!
//! Every call has a deadline, every message a limit, and dropping a call cancels it.

mod client;
mod control_plane;
mod counts;
mod failure;
pub mod grpc;
mod http_service;
pub mod otlp;
mod request_end;
mod service;

pub use client::CallOptions;
pub use client::InternalClient;
pub use client::PendingResponse;
pub use client::Response;
pub use client::ResponseBody;
pub use control_plane::check_control_plane;
pub use failure::CallFailure;
pub use http_service::HttpService;
pub use request_end::RequestEnd;
pub use service::ServiceCx;
