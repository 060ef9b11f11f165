//! The Envoy API messages, generated from `proto/envoy-v3.binpb` by the build script.
//!
//! Modules follow the protobuf packages: [`envoy::config::core::v3::Address`]. `T::full_name()` of [`prost::Name`]
//! gives a message's protobuf name.

#![allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code; Envoy's own documentation describes the fields"
)]

include!(concat!(env!("OUT_DIR"), "/api.rs"));
