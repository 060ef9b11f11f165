//! gRPC: calls that the proxy makes, and the parts of it that a proxy handles in the calls of others.

mod call;
mod frames;
mod headers;
mod service;
mod status;
mod stream;

pub use headers::encode_message;
pub use headers::http_status_of;
pub use headers::is_content_type;
pub use headers::is_request;
pub use headers::is_server_error;
pub use headers::status_of;
pub use headers::timeout;
pub use headers::timeout_value;
pub use service::GrpcService;
pub use status::Code;
pub use status::Status;
pub use stream::GrpcRequests;
pub use stream::GrpcStream;
pub use stream::QueueFull;
