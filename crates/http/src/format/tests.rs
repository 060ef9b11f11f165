//! Formats, with the output and the errors of Envoy 1.40.0.

use std::time::Duration;
use std::time::UNIX_EPOCH;

use prost_types::ListValue;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind as ValueKind;

use super::*;
use crate::ResponseFlag;
use crate::UpstreamInfo;
use crate::route::tests::head;
use crate::route::tests::respond;
use crate::route::tests::stream;

/// A request with a local reply.
fn direct() -> Stream {
    let headers = [
        ("x-a", "abcdef"),
        ("x-b", "1"),
        ("x-b", "2"),
        ("x-empty", ""),
        ("x-q", "a\"b\\c"),
    ];
    let path = "/p/x?q=1%20b&z=&y&d=1&d=2&pl=a+b%zz";
    let mut stream = stream(head("GET", "h.test", path, &headers));
    stream.start_time = UNIX_EPOCH + Duration::new(1_795_373_598, 17_503_000);
    stream.details = Some("direct response".into());
    stream.traffic.body_sent = 2;
    stream.traffic.last_received = Some(stream.started);
    stream.ended = Some(stream.started + Duration::from_micros(1500));
    stream.traffic.last_sent = stream.ended;
    respond(&mut stream, 200, &[("x-multi", "a"), ("x-multi", "b")]);
    stream
}

/// A request that was forwarded, and failed.
fn forwarded() -> Stream {
    let mut stream = direct();
    let mut upstream = UpstreamInfo {
        host: Some(outrider_net::Address::from(
            "127.0.0.1:44293".parse::<std::net::SocketAddr>().unwrap(),
        )),
        host_name: Some("backend.test:80".into()),
        attempts: 1,
        protocol: Some(http::Version::HTTP_2),
        connection_id: Some(3),
        ..UpstreamInfo::new("alt".into(), "c".into())
    };
    upstream.local_address.clone_from(&upstream.host);
    upstream.traffic.first_sent = Some(stream.started + Duration::from_micros(100));
    upstream.traffic.first_received = Some(stream.started + Duration::from_micros(1200));
    stream.upstream = Some(Box::new(upstream));
    stream.flags.set(ResponseFlag::UpstreamConnectionFailure);
    stream.flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
    stream
}

fn print(format: &str, stream: &Stream) -> String {
    let formatter = Formatter::compile(format, &FieldPath::root()).unwrap();
    let mut out = Vec::new();
    formatter.write(stream, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn headers_paths_and_queries() {
    let stream = direct();
    for (format, expected) in [
        (
            "%REQ(:METHOD)% %REQ(:path)%",
            "GET /p/x?q=1%20b&z=&y&d=1&d=2&pl=a+b%zz",
        ),
        (
            "%REQ(X-A):2%|%REQ(x-a):0%|%REQUEST_HEADER(x-a):99%",
            "ab||abcdef",
        ),
        (
            "%REQ(no)%|%REQ(no):3%|%REQ(no?x-a)%|%REQ(x-a?)%|%REQ(?x-a)%",
            "-|-|abcdef|abcdef|abcdef",
        ),
        ("%REQ(x-empty)%|%REQ(x-empty?x-a)%|%REQ(x-b)%", "||1"),
        (
            "%REQ(host)% %REQ(:AUTHORITY)% %REQ(:SCHEME)% %REQ(:x)%",
            "h.test h.test http -",
        ),
        (
            "%RESP(x-multi)% %RESPONSE_HEADER(:status)% %TRAILER(x)%",
            "a 200 -",
        ),
        (
            "%PATH():3%|%PATH(NQ)%|%PATH(:ORIG)%|%PATH(NQ:PATH):2%",
            "/p/|/p/x|-|/p",
        ),
        (
            "%QUERY_PARAM(q)%|%QUERY_PARAM(q):1%|%QUERY_PARAM(y)%|%QUERY_PARAM(d)%",
            "1 b|1||1",
        ),
        (
            "%QUERY_PARAM(pl)%|%QUERY_PARAM(no)%|%QUERY_PARAMS():3%",
            "a+b%zz|-|q=1",
        ),
        (
            "%REQUESTED_SERVER_NAME%|%REQUESTED_SERVER_NAME(HOST_FIRST)%",
            "-|h.test",
        ),
        ("%REQUESTED_SERVER_NAME(SNI_FIRST:ORIG)%|%STREAM_ID%", "-|-"),
        (
            "%PROTOCOL%%PROTOCOL%|%%%PROTOCOL%%%",
            "HTTP/1.1HTTP/1.1|%HTTP/1.1%",
        ),
        (
            "%COALESCE({\"operators\":[{\"command\":\"REQ\",\"param\":\"x-empty\"},{\"command\":\"REQ\",\"param\":\"x-a\",\"max_length\":3}]}):2%",
            "ab",
        ),
    ] {
        assert_eq!(print(format, &stream), expected, "{format}");
    }
}

#[test]
fn a_decoded_query_keeps_escapes_that_urls_require() {
    for (query, expected) in [
        ("a=%41%20%2B%26%3D%25", "a=A%20+&=%"),
        ("a+b=%e2%82%ac", "a+b=%e2%82%ac"),
        ("x=%zz&y=%4", "x=zz&y=%4"),
        ("a=%7e%00x", "a=~%00x"),
        ("a=%5B%22%3C%2f%3a%3F%40", "a=[%22%3C/:?@"),
    ] {
        let stream = stream(head("GET", "h", &format!("/?{query}"), &[]));
        assert_eq!(print("%QUERY_PARAMS(DECODED)%", &stream), expected);
    }
}

#[test]
fn values_of_a_local_reply() {
    let stream = direct();
    for (format, expected) in [
        (
            "%START_TIME% %START_TIME(%s.%3f)%",
            "2026-11-22T18:53:18.017Z 1795373598.017",
        ),
        (
            "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %BYTES_SENT%",
            "200 - - 2",
        ),
        ("%RESPONSE_CODE_DETAILS%", "direct_response"),
        (
            "%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%",
            "direct response",
        ),
        ("%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION%", "1 0 -"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%", "1500"),
        (
            "%COMMON_DURATION(DS_RX_BEG:DS_RX_END)%|%COMMON_DURATION(a:b:ms)%",
            "0|-",
        ),
        (
            "%COMMON_DURATION(DS_TX_END:DS_RX_BEG:us)%|%COMMON_DURATION(US_TX_BEG:US_RX_END)%",
            "-|-",
        ),
        (
            "%UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_CONNECTION_ID%",
            "- - 0",
        ),
        (
            "%UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_WIRE_BYTES_SENT%",
            "0 0",
        ),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_PORT%",
            "10.0.0.9:40000 40000",
        ),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.9"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(8)%", "10.0.0.0/8"),
        (
            "%DOWNSTREAM_LOCAL_ADDRESS% %CONNECTION_ID%",
            "127.0.0.1:8080 1",
        ),
        (
            "%GRPC_STATUS%|%ROUTE_NAME%|%FILTER_CHAIN_NAME%|%CUSTOM_FLAGS%",
            "-|-|-|",
        ),
        (
            "%DOWNSTREAM_TLS_VERSION%|%DYNAMIC_METADATA(a:b)%|%FILTER_STATE(x:PLAIN)%",
            "-|-|-",
        ),
        (
            "%ENVIRONMENT(OUTRIDER_NO_SUCH_VARIABLE)%|%ACCESS_LOG_TYPE%",
            "-|DownstreamEnd",
        ),
    ] {
        assert_eq!(print(format, &stream), expected, "{format}");
    }
}

#[test]
fn values_of_the_upstream() {
    let stream = forwarded();
    for (format, expected) in [
        ("%RESPONSE_FLAGS%", "UF,URX"),
        (
            "%RESPONSE_FLAGS_LONG%",
            "UpstreamConnectionFailure,UpstreamRetryLimitExceeded",
        ),
        (
            "%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW% %UPSTREAM_PROTOCOL%",
            "alt c HTTP/2",
        ),
        (
            "%UPSTREAM_HOST% %UPSTREAM_REMOTE_PORT%",
            "127.0.0.1:44293 44293",
        ),
        (
            "%UPSTREAM_HOST_NAME% %UPSTREAM_HOST_NAME_WITHOUT_PORT%",
            "backend.test:80 backend.test",
        ),
        (
            "%UPSTREAM_CONNECTION_ID% %UPSTREAM_CONNECTION_IDS_ATTEMPTED%",
            "3 3",
        ),
        ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "1 0"),
        ("%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%", "1100"),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", "-"),
    ] {
        assert_eq!(print(format, &stream), expected, "{format}");
    }
}

#[test]
fn the_status_of_a_grpc_call() {
    const FORMAT: &str = "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%";
    let status = |status: u16, headers: &[(&str, &str)]| {
        let grpc = [("content-type", "application/grpc")];
        let mut stream = stream(head("POST", "h", "/", &grpc));
        respond(&mut stream, status, headers);
        print(FORMAT, &stream)
    };
    for (told, expected) in [
        ("0", "OK OK 0"),
        ("1", "Canceled CANCELLED 1"),
        ("16", "Unauthenticated UNAUTHENTICATED 16"),
        ("17", "17 17 17"),
        ("abc", "-1 -1 -1"),
    ] {
        assert_eq!(status(200, &[("grpc-status", told)]), expected);
    }
    assert_eq!(status(404, &[]), "Unimplemented UNIMPLEMENTED 12");
}

#[test]
fn a_local_reply_has_a_body_and_no_status_yet() {
    let stream = direct();
    let format = "%LOCAL_REPLY_BODY% %RESPONSE_CODE%";
    let formatter = Formatter::compile(format, &FieldPath::root()).unwrap();
    let mut out = Vec::new();
    formatter.write(Context::local_reply(&stream, b"BB"), &mut out);
    assert_eq!(out, b"BB 0");
}

#[test]
fn malformed_commands_are_refused_with_envoys_messages() {
    for (format, message) in [
        (
            "100%",
            "Incorrect configuration: 100%. Couldn't find valid command at position 3",
        ),
        ("%FOO%", "Not supported field in StreamInfo: FOO"),
        ("%REQ%", "REQ requires parameters"),
        (
            "%REQ(a?b?c)%",
            "More than 1 alternative header specified in token: a?b?c",
        ),
        (
            "%REQ(a b)%",
            "Invalid header configuration. Format string contains invalid characters.",
        ),
        (
            "%PROTOCOL(x)%",
            "PROTOCOL does not take any parameters or length",
        ),
        (
            "%PROTOCOL():2%",
            "PROTOCOL does not take any parameters or length",
        ),
        (
            "%START_TIME():3%",
            "START_TIME does not allow length to be specified.",
        ),
        (
            "%START_TIME(%n)%",
            "Invalid header configuration. Format string contains newline.",
        ),
        (
            "%GRPC_STATUS(x)%",
            "GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER. Got: x",
        ),
        (
            "%COMMON_DURATION(a:b:c)%",
            "Invalid common duration precision: c.",
        ),
        (
            "%PATH(x)%",
            "Invalid PATH option: 'x', only 'WQ'/'NQ' are allowed",
        ),
        (
            "%PATH(WQ:x)%",
            "Invalid PATH option: 'x', only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed",
        ),
        (
            "%QUERY_PARAMS(x)%",
            "Invalid QUERY_PARAMS option: 'x', only 'ORIG'/'DECODED' are allowed",
        ),
        (
            "%FILTER_STATE%",
            "Invalid filter state configuration, key cannot be empty.",
        ),
        (
            "%FILTER_STATE(x:y)%",
            "Invalid filter state serialize type, only support PLAIN/TYPED/FIELD.",
        ),
        ("%METADATA(FOO:a)%", "FOO is not supported type of metadata"),
        (
            "%COALESCE({})%",
            "COALESCE: JSON configuration must contain 'operators' array",
        ),
        (
            "%COALESCE({\"operators\":[\"FOO\"]})%",
            "COALESCE: failed to parse operator at index 0: unknown command: 'FOO'",
        ),
        ("%CEL(1)%", "the operator CEL is not supported"),
    ] {
        let error = Formatter::compile(format, &FieldPath::root()).unwrap_err();
        assert_eq!(error.message, message, "{format}");
    }
}

fn value(kind: ValueKind) -> Value {
    Value { kind: Some(kind) }
}

fn text(text: &str) -> Value {
    value(ValueKind::StringValue(text.to_owned()))
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Struct {
    let members = members
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value));
    Struct {
        fields: members.collect(),
    }
}

fn json_format() -> Struct {
    let inner = object([("c", text("%REQ(no)%"))]);
    let list = ListValue {
        values: vec![
            text("%BYTES_SENT%"),
            text("x"),
            value(ValueKind::StructValue(inner.clone())),
            value(ValueKind::ListValue(ListValue {
                values: vec![text("%REQ(no)%")],
            })),
        ],
    };
    object([
        ("z", text("%REQ(no)%")),
        ("A", text("upper")),
        ("mix", text("a%REQ(no)%b")),
        ("empty", text("")),
        ("n", text("%RESPONSE_CODE%")),
        ("n2", text("%RESPONSE_CODE% ")),
        ("list", value(ValueKind::ListValue(list))),
        ("gone", value(ValueKind::StructValue(inner))),
        ("num", value(ValueKind::NumberValue(5.0))),
        ("bo", value(ValueKind::BoolValue(true))),
        ("nul", value(ValueKind::NullValue(0))),
        ("q\"k", text("%REQ(x-q)%")),
        ("esc", text("\t\"é\u{1}</")),
        ("pct", text("100%%")),
    ])
}

#[test]
fn json_keeps_types_and_sorts_keys() {
    for (omit_empty, expected) in [
        (
            false,
            r#"{"A":"upper","bo":true,"empty":"","esc":"\t\"é\u0001</","gone":{"c":null},"list":[2,"x",{"c":null},[null]],"mix":"a-b","n":200,"n2":"200 ","nul":null,"num":5,"pct":"100%","q\"k":"a\"b\\c","z":null}"#,
        ),
        (
            true,
            r#"{"A":"upper","bo":true,"empty":"","esc":"\t\"é\u0001</","list":[2,"x",[]],"mix":"ab","n":200,"n2":"200 ","num":5,"pct":"100%","q\"k":"a\"b\\c"}"#,
        ),
    ] {
        let formatter = JsonFormatter::build(&json_format(), omit_empty, &FieldPath::root());
        let mut out = Vec::new();
        formatter.unwrap().write(&Context::new(&direct()), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\n"));
    }
}

#[test]
fn json_escapes_what_is_not_utf8_byte_by_byte() {
    for (value, expected) in [
        (&b"\xc3\xa9\xff"[..], r#""\u00c3\u00a9\u00ff""#),
        ("€😀".as_bytes(), "\"€😀\""),
        (
            b"\xed\xa0\x80 \xc0\x80",
            r#""\u00ed\u00a0\u0080 \u00c0\u0080""#,
        ),
    ] {
        let mut out = Vec::new();
        json::write_string(value, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn every_name_is_in_one_table_and_compiles_or_is_refused() {
    let mut names: Vec<_> = operators::names().collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn formats_capture_the_headers_they_read() {
    let format = "%REQ(x-a?X-B)% %RESP(x-c)% %TRAILER(x-d)% %REQ(:path)% %STREAM_ID%";
    let mut captures = Captures::default();
    Formatter::compile(format, &FieldPath::root())
        .unwrap()
        .capture(&mut captures);
    let all = head(
        "GET",
        "h",
        "/",
        &[
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-c", "3"),
            ("x-d", "4"),
            ("x-request-id", "5"),
        ],
    );
    let kept = |capture: &crate::Capture| {
        let mut kept: Vec<_> = capture
            .from(&all.headers)
            .keys()
            .map(ToString::to_string)
            .collect();
        kept.sort();
        kept.join(" ")
    };
    assert_eq!(kept(&captures.response), "x-c");
    assert_eq!(kept(&captures.trailers), "x-d");
}
