//! The parts of gRPC that a proxy handles: recognising its requests, mapping statuses from and to HTTP, and its timeout
//! header.

use std::time::Duration;

use http::StatusCode;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_codec::header::CONTENT_TYPE;

/// Whether a request with these headers is gRPC: its content type is `application/grpc`, with or without a `+` suffix.
/// gRPC-Web does not count.
pub fn is_request(headers: &HeaderMap) -> bool {
    let content_type = headers.get(&CONTENT_TYPE);
    content_type.is_some_and(|value| is_content_type(value.as_bytes()))
}

/// Whether a content type is gRPC's.
pub fn is_content_type(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// The gRPC status that stands for an HTTP status.
pub fn status_of(http: StatusCode) -> u8 {
    match http.as_u16() {
        400 => 13,                   // INTERNAL
        401 => 16,                   // UNAUTHENTICATED
        403 => 7,                    // PERMISSION_DENIED
        404 => 12,                   // UNIMPLEMENTED
        429 | 502 | 503 | 504 => 14, // UNAVAILABLE
        _ => 2,                      // UNKNOWN
    }
}

/// The HTTP status that stands for a `grpc-status`; 500 for values that are no status.
#[must_use]
pub fn http_status_of(grpc: &HeaderValue) -> u16 {
    match grpc.as_bytes() {
        b"0" => 200,                // OK
        b"1" => 499,                // CANCELLED
        b"3" | b"9" | b"11" => 400, // INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE
        b"4" => 504,                // DEADLINE_EXCEEDED
        b"5" => 404,                // NOT_FOUND
        b"6" | b"10" => 409,        // ALREADY_EXISTS, ABORTED
        b"7" => 403,                // PERMISSION_DENIED
        b"8" => 429,                // RESOURCE_EXHAUSTED
        b"12" => 501,               // UNIMPLEMENTED
        b"14" => 503,               // UNAVAILABLE
        b"16" => 401,               // UNAUTHENTICATED
        _ => 500,                   // UNKNOWN, INTERNAL, DATA_LOSS
    }
}

/// Whether a call that ended with this `grpc-status` counts as a failure of the host, as a 5xx response does.
pub fn is_server_error(status: &HeaderValue) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS; and values that are not a status.
    !matches!(
        status.as_bytes(),
        b"0" | b"1" | b"3" | b"5" | b"6" | b"7" | b"8" | b"9" | b"10" | b"11" | b"16"
    )
}

/// `text` as `grpc-message` carries it: percent-encoded where it is not printable ASCII.
pub fn encode_message(text: &[u8]) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::try_from(encoded).unwrap_or_else(|_| HeaderValue::from_static("")) // every byte is printable
}

/// The text of a `grpc-message`: percent-decoded, with U+FFFD for invalid UTF-8.
pub(super) fn decode_message(value: &[u8]) -> String {
    let hex = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let decoded = match (byte, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match decoded.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            None => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The `grpc-timeout` header: at most eight digits and a unit. Less than a millisecond counts as one.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&header::GRPC_TIMEOUT)?.as_str()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let millis = match unit {
        "H" => number * 3_600_000,
        "M" => number * 60_000,
        "S" => number * 1000,
        "m" => number,
        "u" => number.div_ceil(1000),
        "n" => number.div_ceil(1_000_000),
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

/// `timeout` as a `grpc-timeout` header, in the finest unit that eight digits can hold.
pub fn timeout_value(timeout: Duration) -> HeaderValue {
    const LIMIT: u128 = 99_999_999;
    let millis = timeout.as_millis();
    let text = match millis {
        0..=LIMIT => format!("{millis}m"),
        _ if millis / 1000 <= LIMIT => format!("{}S", millis / 1000),
        _ if millis / 60_000 <= LIMIT => format!("{}M", millis / 60_000),
        _ => format!("{}H", (millis / 3_600_000).min(LIMIT)),
    };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("")) // digits and a letter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            outrider_codec::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )])
    }

    #[test]
    fn recognises_grpc_by_its_content_type() {
        for (content_type, want) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/grpc;x", false),
            ("Application/grpc", false),
            ("text/plain", false),
        ] {
            assert_eq!(
                is_request(&headers("content-type", content_type)),
                want,
                "{content_type}"
            );
        }
        assert!(!is_request(&HeaderMap::new()));
    }

    #[test]
    fn reads_timeouts() {
        for (text, millis) in [
            ("5S", Some(5000)),
            ("2H", Some(7_200_000)),
            ("3M", Some(180_000)),
            ("100m", Some(100)),
            ("0m", Some(0)),
            ("1500u", Some(2)),
            ("1n", Some(1)),
            ("99999999H", Some(99_999_999 * 3_600_000)),
            ("999999999S", None),
            ("5", None),
            ("S", None),
            ("-5S", None),
            ("5x", None),
            ("", None),
        ] {
            let want = millis.map(Duration::from_millis);
            assert_eq!(timeout(&headers("grpc-timeout", text)), want, "{text}");
        }
    }

    #[test]
    fn writes_timeouts_in_eight_digits() {
        for (millis, want) in [
            (0, "0m"),
            (99_999_999, "99999999m"),
            (100_000_000, "100000S"),
            (100_000_000_000, "1666666M"),
        ] {
            assert_eq!(timeout_value(Duration::from_millis(millis)), want);
        }
    }

    #[test]
    fn encodes_messages() {
        assert_eq!(
            encode_message("a b\nc%é\"".as_bytes()),
            "a b%0Ac%25%C3%A9\""
        );
        assert_eq!(decode_message(b"a b%0Ac%25%C3%a9\""), "a b\nc%é\"");
        assert_eq!(decode_message(b"%zz %4%41%"), "%zz %4A%");
    }
}
