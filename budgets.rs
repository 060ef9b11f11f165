//! What tests hold in check: allocations and sizes that a change must not raise unnoticed, each with its reason.
//!
//! A budget is lowered with each thing that is saved. Raise one only for something that is worth it, and say in the
//! commit what that is and what it costs by `just bench`.

#![allow(
    dead_code,
    reason = "each crate that includes this file uses some of the budgets"
)]

/// Allocations of one gRPC request and its answer on the proxy's thread, by `crates/http/tests/proxy/allocations.rs`.
///
/// The request is proxied from HTTP/2 to HTTP/2 with all that a plain configuration has on: the headers that are
/// added, stats, timers, and a share of what each wake-up of a connection allocates. An allocation and its release take
/// about 100 instructions of 22,000, and spread a request over more cache lines.
pub(crate) const ALLOCATIONS_PER_REQUEST: f64 = 19.1;

/// Bytes of the future that handles one request, by `crates/http/src/manager/mod.rs`.
///
/// Every open stream holds one for as long as it lives, so 10,000 idle streams hold 40 MB. Rare branches are boxed.
pub(crate) const REQUEST_FUTURE: usize = 4096;

/// Bytes of the future that answers a malformed request. It takes the place of the one above.
pub(crate) const REFUSED_REQUEST_FUTURE: usize = 4096;

/// Bytes of a header's value, by `crates/codec/src/header/value.rs`.
///
/// A message has about ten headers. Values of up to 37 bytes are kept in place, without an allocation; a larger value
/// type would make each header list span more cache lines.
pub(crate) const HEADER_VALUE: usize = 40;
