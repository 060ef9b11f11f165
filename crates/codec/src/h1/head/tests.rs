use super::*;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 1024,
    fields: 10,
    underscores: UnderscoresAction::Allow,
};

/// Parses `text`, received in two parts that are split at `at`.
fn request_in_parts(
    text: &[u8],
    at: usize,
    options: &Http1Options,
) -> Result<Option<ReceivedRequest>, HeadError> {
    let (mut buffer, mut searched) = (BytesMut::from(&text[..at]), 0);
    let stats = Http1Stats::default();
    if let Some(head) = take_request(&mut buffer, &mut searched, LIMITS, options, &stats)? {
        return Ok(Some(head));
    }
    buffer.extend_from_slice(&text[at..]);
    take_request(&mut buffer, &mut searched, LIMITS, options, &stats)
}

fn request_of(text: &str) -> Result<ReceivedRequest, HeadError> {
    request_in_parts(text.as_bytes(), text.len(), &Http1Options::default())
        .map(|head| head.expect("complete"))
}

fn headers_of(head: &ReceivedRequest) -> String {
    let fields = head.head.headers.iter();
    fields
        .map(|(name, value)| format!("{name}={} ", String::from_utf8_lossy(value.as_bytes())))
        .collect()
}

#[test]
fn heads_are_parsed_the_same_wherever_the_bytes_are_split() {
    let text = b"\r\nPOST /p?q HTTP/1.1\r\nHost: h\r\nX-A:  1 \r\nContent-Length: 3\r\n\r\n";
    for at in 0..=text.len() {
        let head = request_in_parts(text, at, &Http1Options::default())
            .unwrap()
            .unwrap();
        assert_eq!(head.head.path(), "/p?q");
        assert_eq!(head.head.host(), "h");
        assert_eq!(headers_of(&head), "x-a=1 content-length=3 ");
        assert_eq!(head.framing, Framing::Length(3));
        assert!(head.keep_alive);
    }
}

#[test]
fn accepts_what_envoy_accepts() {
    for (text, headers) in [
        ("GET / HTTP/1.1\nHost: h\nA: 1\n\n", "a=1 "),
        (
            "GET / HTTP/1.1\r\nX: a\r\n b\r\n\tc\r\nY: d\r\n\r\n",
            "x=a b c y=d ",
        ),
        (
            "GET / HTTP/1.1\r\nA:   1 \t \r\nEmpty:\r\n\r\n",
            "a=1 empty= ",
        ),
        ("GET / HTTP/1.1\r\nX-A: b\u{e9}c\r\n\r\n", "x-a=b\u{e9}c "),
    ] {
        assert_eq!(headers_of(&request_of(text).unwrap()), headers, "{text:?}");
    }
}

#[test]
fn refuses_with_envoys_status_and_details() {
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: 1\r\n".repeat(11));
    let large = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1024));
    for (text, status, details) in [
        ("garbage\r\n\r\n", 400, "http1.codec_error"),
        ("get / HTTP/1.1\r\n\r\n", 400, "http1.codec_error"),
        ("GET /a b HTTP/1.1\r\n\r\n", 400, "http1.codec_error"),
        ("GET /\u{e9} HTTP/1.1\r\n\r\n", 400, "http1.codec_error"),
        ("GET foo HTTP/1.1\r\n\r\n", 400, "http1.codec_error"),
        ("GET / HTTP/1.0\r\n\r\n", 426, "low_version"),
        ("GET /\r\n\r\n", 426, "low_version"),
        ("GET / HTTP/2.0\r\n\r\n", 426, "low_version"),
        (
            "GET / HTTP/1.1\r\nX-A : b\r\n\r\n",
            400,
            "http1.codec_error",
        ),
        ("GET / HTTP/1.1\r\nX(A: b\r\n\r\n", 400, "http1.codec_error"),
        ("GET / HTTP/1.1\r\n: b\r\n\r\n", 400, "http1.codec_error"),
        (
            "GET / HTTP/1.1\r\nX-A: b\0c\r\n\r\n",
            400,
            "http1.invalid_characters",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            400,
            "http.invalid_authority",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            400,
            "http1.codec_error",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            400,
            "http1.codec_error",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            400,
            "http1.codec_error",
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
            "http1.invalid_transfer_encoding",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "http1.content_length_and_chunked_not_allowed",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: identity\r\n\r\n",
            400,
            "http1.content_length_and_chunked_not_allowed",
        ),
        (&many, 431, "http1.too_many_headers"),
        (&large, 431, "http1.headers_too_large"),
    ] {
        let error = request_of(text).unwrap_err();
        assert_eq!(
            (error.status.as_u16(), error.details),
            (status, details),
            "{text:?}"
        );
    }
}

#[test]
fn an_endless_head_is_refused_when_it_is_too_long() {
    let text = vec![b'a'; 1025];
    let error = request_in_parts(&text, 1025, &Http1Options::default()).unwrap_err();
    assert_eq!(error, HeadError::TOO_LARGE);
}

#[test]
fn hop_by_hop_fields_are_removed() {
    let head = request_of(
        "GET / HTTP/1.1\r\nConnection: x-a, te\r\nX-A: 1\r\nTE: trailers\r\nX-B: 1\r\nKeep-Alive: 1\r\nProxy-Connection: k\r\n\r\n",
    )
    .unwrap();
    assert_eq!(headers_of(&head), "te=trailers x-b=1 ");
    let upgrade =
        request_of("GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert_eq!(
        (headers_of(&upgrade).as_str(), upgrade.framing),
        ("connection=Upgrade upgrade=websocket ", Framing::Raw)
    );
    let ignored = request_of(
        "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n",
    )
    .unwrap();
    assert_eq!(
        (headers_of(&ignored).as_str(), ignored.framing),
        ("", Framing::None)
    );
    for closing in ["Connection: x, Close", "Proxy-Connection: close"] {
        let head = request_of(&format!("GET / HTTP/1.1\r\n{closing}\r\n\r\n")).unwrap();
        assert!(!head.keep_alive, "{closing}");
    }
}

#[test]
fn a_request_line_may_have_several_spaces_between_words() {
    let head = request_of("GET  /a   HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(head.head.path(), "/a");
    for refused in [
        "GET /a HTTP/1.1 \r\n\r\n",
        "GET /a  \r\n\r\n",
        " GET /a HTTP/1.1\r\n\r\n",
    ] {
        assert!(request_of(refused).is_err(), "{refused:?}");
    }
}

#[test]
fn repeated_hosts_are_joined_and_fragments_kept() {
    let head = request_of("GET /a#b HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap();
    assert_eq!(head.head.host(), "a,b");
    assert_eq!(head.head.path(), "/a#b");
}

#[test]
fn underscores_are_dropped_or_refused_if_configured() {
    let text = b"GET / HTTP/1.1\r\nx_y: 1\r\nz: 2\r\n\r\n";
    for (underscores, expected) in [
        (UnderscoresAction::Allow, Ok(2)),
        (UnderscoresAction::Drop, Ok(1)),
        (
            UnderscoresAction::Reject,
            Err("http1.unexpected_underscore"),
        ),
    ] {
        let stats = Http1Stats::default();
        let limits = HeadLimits {
            underscores,
            ..LIMITS
        };
        let taken = take_request(
            &mut BytesMut::from(&text[..]),
            &mut 0,
            limits,
            &Http1Options::default(),
            &stats,
        );
        let seen = taken
            .map(|head| head.map_or(0, |head| head.head.headers.len()))
            .map_err(|error| error.details);
        assert_eq!(seen, expected);
    }
}

#[test]
fn response_framing_is_determined() {
    for (text, method, framing, keep_alive) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            Method::GET,
            Framing::Length(3),
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            Method::HEAD,
            Framing::None,
            true,
        ),
        (
            "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
            Method::GET,
            Framing::chunked(),
            true,
        ),
        (
            "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
            Method::GET,
            Framing::None,
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\n\r\n",
            Method::GET,
            Framing::UntilClose,
            false,
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            Method::GET,
            Framing::Raw,
            true,
        ),
    ] {
        let mut buffer = BytesMut::from(text.as_bytes());
        let head = take_response(
            &mut buffer,
            &mut 0,
            LIMITS,
            &Http1Options::default(),
            asked(&method),
        )
        .unwrap()
        .unwrap();
        assert_eq!(
            (head.framing, head.keep_alive),
            (framing, keep_alive),
            "{text:?}"
        );
    }
    for text in [
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "\r\n\r\n",
    ] {
        let mut buffer = BytesMut::from(text.as_bytes());
        assert!(
            take_response(
                &mut buffer,
                &mut 0,
                LIMITS,
                &Http1Options::default(),
                asked(&Method::GET)
            )
            .is_err(),
            "{text:?}"
        );
    }
}

#[test]
fn a_server_of_another_protocol_is_detected_at_once() {
    let http2_settings = &b"\0\0\x06\x04\0\0\0\0\0"[..];
    for (bytes, fails) in [
        (http2_settings, true),
        (b"HTTP/2 200", true),
        (b"HTT", false),
        (b"HTTP/1.1 200 O", false),
    ] {
        let mut buffer = BytesMut::from(bytes);
        let head = take_response(
            &mut buffer,
            &mut 0,
            LIMITS,
            &Http1Options::default(),
            asked(&Method::GET),
        );
        assert_eq!(head.is_err(), fails, "{bytes:?}");
    }
}

fn asked(method: &Method) -> SentRequest<'_> {
    SentRequest {
        method,
        upgrade: true,
    }
}
