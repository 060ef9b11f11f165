//! The operators without parameters, each a function.
//!
//! Those about TLS are in `tls.rs`, those about the hosts that were tried in `attempted.rs`.

use crate::format::Context;
use crate::format::OutputKind;
use crate::format::attempted;
use crate::format::stream_info;
use crate::format::tls;
use crate::format::values;

/// Appends a value.
pub(crate) type SimpleOperator = fn(&Context<'_>, &mut Vec<u8>) -> OutputKind;

/// The functions by the names of their operators.
pub(crate) const SIMPLE: &[(&str, SimpleOperator)] = &[
    ("BYTES_RECEIVED", |cx, out| {
        values::number(cx.stream.traffic.body_received, out)
    }),
    ("BYTES_RETRANSMITTED", |_, out| values::number(0, out)),
    ("BYTES_SENT", |cx, out| {
        values::number(cx.stream.traffic.body_sent, out)
    }),
    ("CONNECTION_ID", |cx, out| {
        values::number(cx.stream.connection.id, out)
    }),
    ("CONNECTION_TERMINATION_DETAILS", |cx, out| {
        values::text(cx.stream.connection_termination_details.as_deref(), out)
    }),
    ("CUSTOM_FLAGS", |_, _| OutputKind::Text),
    (
        "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
        |cx, out| values::number(cx.stream.traffic.decompressed_received, out),
    ),
    ("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", |cx, out| {
        values::number(cx.stream.traffic.decompressed_sent, out)
    }),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", |cx, out| {
        values::address(stream_info::direct_local(cx.stream), out)
    }),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID", |cx, out| {
        values::endpoint_id(stream_info::direct_local(cx.stream), out)
    }),
    ("DOWNSTREAM_DIRECT_LOCAL_PORT", |cx, out| {
        values::port(stream_info::direct_local(cx.stream), out)
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", |cx, out| {
        values::address(stream_info::direct_remote(cx.stream), out)
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", |cx, out| {
        values::port(stream_info::direct_remote(cx.stream), out)
    }),
    ("DOWNSTREAM_HANDSHAKE_DURATION", tls::handshake_duration),
    ("DOWNSTREAM_HEADER_BYTES_RECEIVED", |cx, out| {
        values::number(cx.stream.traffic.header_received, out)
    }),
    ("DOWNSTREAM_HEADER_BYTES_SENT", |cx, out| {
        values::number(cx.stream.traffic.header_sent, out)
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS", |cx, out| {
        values::address(stream_info::local(cx.stream), out)
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID", |cx, out| {
        values::endpoint_id(stream_info::local(cx.stream), out)
    }),
    ("DOWNSTREAM_LOCAL_PORT", |cx, out| {
        values::port(stream_info::local(cx.stream), out)
    }),
    ("DOWNSTREAM_REMOTE_ADDRESS", |cx, out| {
        values::address(stream_info::remote(cx.stream), out)
    }),
    ("DOWNSTREAM_REMOTE_PORT", |cx, out| {
        values::port(stream_info::remote(cx.stream), out)
    }),
    ("DOWNSTREAM_TRANSPORT_FAILURE_REASON", values::absent),
    ("DOWNSTREAM_WIRE_BYTES_RECEIVED", |cx, out| {
        values::number(cx.stream.traffic.wire_received, out)
    }),
    ("DOWNSTREAM_WIRE_BYTES_SENT", |cx, out| {
        values::number(cx.stream.traffic.wire_sent, out)
    }),
    ("DURATION", |cx, out| {
        values::milliseconds(Some(cx.stream.duration()), out)
    }),
    ("FILTER_CHAIN_NAME", |cx, out| {
        values::name(&cx.stream.connection.filter_chain, out)
    }),
    ("LOCAL_REPLY_BODY", |cx, out| {
        out.extend_from_slice(cx.local_reply_body);
        OutputKind::Text
    }),
    ("PACKETS_RETRANSMITTED", |_, out| values::number(0, out)),
    ("PROTOCOL", |cx, out| {
        values::protocol(Some(cx.stream.protocol), out)
    }),
    ("REQUEST_DURATION", |cx, out| {
        values::milliseconds(
            stream_info::between(cx.stream, stream_info::started, stream_info::received_end),
            out,
        )
    }),
    ("REQUEST_TX_DURATION", |cx, out| {
        values::milliseconds(
            stream_info::between(
                cx.stream,
                stream_info::started,
                stream_info::upstream_sent_end,
            ),
            out,
        )
    }),
    ("RESPONSE_CODE", |cx, out| {
        let code = cx
            .response_code
            .unwrap_or_else(|| cx.stream.response_code());
        values::number(code.into(), out)
    }),
    ("RESPONSE_DURATION", |cx, out| {
        values::milliseconds(
            stream_info::between(
                cx.stream,
                stream_info::started,
                stream_info::upstream_received,
            ),
            out,
        )
    }),
    ("RESPONSE_FLAGS", |cx, out| {
        values::display(&cx.stream.flags, out)
    }),
    ("RESPONSE_FLAGS_LONG", values::long_flags),
    ("RESPONSE_TX_DURATION", |cx, out| {
        values::milliseconds(
            stream_info::between(
                cx.stream,
                stream_info::upstream_received,
                stream_info::sent_end,
            ),
            out,
        )
    }),
    ("ROUNDTRIP_DURATION", values::absent),
    ("ROUTE_NAME", |cx, out| {
        values::name(
            cx.stream.route.as_ref().map_or("", |route| &route.name),
            out,
        )
    }),
    ("SPAN_ID", values::absent),
    ("TLS_JA3_FINGERPRINT", |cx, out| {
        tls::owned_or_absent(&cx.stream.connection.ja3, out)
    }),
    ("TLS_JA4_FINGERPRINT", |cx, out| {
        tls::owned_or_absent(&cx.stream.connection.ja4, out)
    }),
    ("TRACE_ID", |cx, out| {
        let trace = cx.stream.trace.as_ref();
        let id = trace.and_then(|trace| trace.trace_id());
        values::text(id.as_deref(), out)
    }),
    ("UNIQUE_ID", values::unique_id),
    ("UPSTREAM_CLUSTER", |cx, out| {
        let name = cx.stream.upstream.as_ref().map(|up| &*up.cluster);
        values::text(name.filter(|name| !name.is_empty()), out)
    }),
    ("UPSTREAM_CLUSTER_RAW", |cx, out| {
        let name = cx.stream.upstream.as_ref().map(|up| &*up.cluster_raw);
        values::text(name.filter(|name| !name.is_empty()), out)
    }),
    ("UPSTREAM_CONNECTION_ID", |cx, out| {
        values::number(stream_info::connection_id(cx).unwrap_or(0), out)
    }),
    (
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
        |cx, out| match stream_info::connection_id(cx) {
            Some(id) => {
                values::number(id, out);
                OutputKind::Text
            }
            None => OutputKind::Absent,
        },
    ),
    ("UPSTREAM_CONNECTION_POOL_READY_DURATION", |cx, out| {
        values::milliseconds(
            cx.stream.upstream.as_ref().and_then(|up| up.pool_ready),
            out,
        )
    }),
    ("UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", |cx, out| {
        let bytes = stream_info::upstream_bytes(cx, |up| up.decompressed_received);
        values::number(bytes, out)
    }),
    ("UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", |cx, out| {
        values::number(
            stream_info::upstream_bytes(cx, |up| up.decompressed_sent),
            out,
        )
    }),
    ("UPSTREAM_HEADER_BYTES_RECEIVED", |cx, out| {
        values::number(
            stream_info::upstream_bytes(cx, |up| up.header_received),
            out,
        )
    }),
    ("UPSTREAM_HEADER_BYTES_SENT", |cx, out| {
        values::number(stream_info::upstream_bytes(cx, |up| up.header_sent), out)
    }),
    ("UPSTREAM_HOST", |cx, out| {
        values::address(stream_info::upstream_host(cx.stream), out)
    }),
    ("UPSTREAM_HOSTS_ATTEMPTED", attempted::addresses),
    (
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
        attempted::addresses_without_port,
    ),
    ("UPSTREAM_HOST_NAME", values::upstream_host_name),
    ("UPSTREAM_HOST_NAMES_ATTEMPTED", attempted::names),
    (
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
        attempted::names_without_port,
    ),
    (
        "UPSTREAM_HOST_NAME_WITHOUT_PORT",
        values::upstream_host_name_without_port,
    ),
    ("UPSTREAM_LOCAL_ADDRESS", |cx, out| {
        values::address(stream_info::upstream_local(cx.stream), out)
    }),
    ("UPSTREAM_LOCAL_PORT", |cx, out| {
        values::port(stream_info::upstream_local(cx.stream), out)
    }),
    ("UPSTREAM_PROTOCOL", |cx, out| {
        values::protocol(cx.stream.upstream.as_ref().and_then(|up| up.protocol), out)
    }),
    ("UPSTREAM_REMOTE_ADDRESS", |cx, out| {
        values::address(stream_info::upstream_remote(cx.stream), out)
    }),
    ("UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID", |cx, out| {
        values::endpoint_id(stream_info::upstream_remote(cx.stream), out)
    }),
    ("UPSTREAM_REMOTE_PORT", |cx, out| {
        values::port(stream_info::upstream_remote(cx.stream), out)
    }),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", |cx, out| {
        values::number(
            cx.stream
                .upstream
                .as_ref()
                .map_or(0, |up| up.attempts.into()),
            out,
        )
    }),
    ("UPSTREAM_SERVER_NAME", tls::upstream_server_name),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", |cx, out| {
        let upstream = cx.stream.upstream.as_ref();
        values::text(upstream.and_then(|up| up.transport_failure.as_deref()), out)
    }),
    ("UPSTREAM_WIRE_BYTES_RECEIVED", |cx, out| {
        values::number(stream_info::upstream_bytes(cx, |up| up.wire_received), out)
    }),
    ("UPSTREAM_WIRE_BYTES_SENT", |cx, out| {
        values::number(stream_info::upstream_bytes(cx, |up| up.wire_sent), out)
    }),
    ("VIRTUAL_CLUSTER_NAME", |cx, out| {
        values::text(cx.stream.virtual_cluster.as_deref(), out)
    }),
    ("ACCESS_LOG_TYPE", |cx, out| {
        values::text(Some(cx.stream.log_type.as_str_name()), out)
    }),
];
