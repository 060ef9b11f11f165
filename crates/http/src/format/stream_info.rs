//! The addresses and times of a stream that operators print.

use std::time::Duration;

use outrider_net::Address;
use tokio::time::Instant;

use crate::Stream;
use crate::Traffic;
use crate::format::Context;

/// Gets one of a stream's addresses.
pub(crate) type AddressOf = fn(&Stream) -> Option<&Address>;
/// Gets one of a stream's points in time.
pub(crate) type Point = fn(&Stream) -> Option<Instant>;

#[expect(clippy::unnecessary_wraps, reason = "the signature of `AddressOf`")]
pub(crate) fn local(stream: &Stream) -> Option<&Address> {
    Some(&stream.connection.local)
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of `AddressOf`")]
pub(crate) fn remote(stream: &Stream) -> Option<&Address> {
    Some(&stream.remote_address)
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of `AddressOf`")]
pub(crate) fn direct_remote(stream: &Stream) -> Option<&Address> {
    Some(stream.connection.direct_remote())
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of `AddressOf`")]
pub(crate) fn direct_local(stream: &Stream) -> Option<&Address> {
    Some(stream.connection.direct_local())
}

pub(crate) fn upstream_host(stream: &Stream) -> Option<&Address> {
    stream.upstream.as_ref()?.host.as_ref()
}

pub(crate) fn upstream_local(stream: &Stream) -> Option<&Address> {
    stream.upstream.as_ref()?.local_address.as_ref()
}

/// The host's address, once there is a connection to it. As in Envoy, it is absent after a refused connection.
pub(crate) fn upstream_remote(stream: &Stream) -> Option<&Address> {
    connection_of(stream).and_then(|_| upstream_host(stream))
}

fn connection_of(stream: &Stream) -> Option<u64> {
    stream.upstream.as_ref()?.connection_id
}

pub(crate) fn connection_id(context: &Context<'_>) -> Option<u64> {
    connection_of(context.stream)
}

pub(crate) fn upstream_bytes(context: &Context<'_>, bytes: impl Fn(&Traffic) -> u64) -> u64 {
    context
        .stream
        .upstream
        .as_ref()
        .map_or(0, |up| bytes(&up.traffic))
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of `Point`")]
pub(crate) fn started(stream: &Stream) -> Option<Instant> {
    Some(stream.started)
}

pub(crate) fn received_end(stream: &Stream) -> Option<Instant> {
    stream.traffic.last_received
}

pub(crate) fn sent_end(stream: &Stream) -> Option<Instant> {
    stream.traffic.last_sent
}

pub(crate) fn upstream_sent_end(stream: &Stream) -> Option<Instant> {
    stream.upstream.as_ref()?.traffic.last_sent
}

pub(crate) fn upstream_received(stream: &Stream) -> Option<Instant> {
    stream.upstream.as_ref()?.traffic.first_received
}

pub(crate) fn between(stream: &Stream, from: Point, to: Point) -> Option<Duration> {
    Some(to(stream)?.saturating_duration_since(from(stream)?))
}
