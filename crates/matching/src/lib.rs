//! Conditions on requests and connections, made of Envoy's matcher messages.
//!
//! They need no connection manager: HTTP and network filters share them.

mod filter_state;
mod metadata;
pub mod rbac;
mod request;
mod value;

pub use filter_state::FilterStateMatcher;
pub use filter_state::FilterStateView;
pub use metadata::MetadataMatcher;
pub use request::CookieMatcher;
pub use request::HeaderMatcher;
pub use request::MatchedHeader;
pub use request::QueryMatcher;
pub use request::cookie_value;
pub use request::query_value;
pub use value::ValueMatcher;
