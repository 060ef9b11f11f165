//! HTTP/1 heads and chunks, against `httparse`, and a request as it is sent on.

use bytes::BytesMut;
use http::Method;

use crate::Http1Options;
use crate::UnderscoresAction;
use crate::h1::encode;
use crate::h1::framing::Framing;
use crate::h1::framing::Piece;
use crate::h1::head;
use crate::h1::head::HeadLimits;
use crate::h1::head::ReceivedRequest;
use crate::h1::head::SentRequest;
use crate::stats::Http1Stats;

use super::split_position;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 60 * 1024,
    fields: 100,
    underscores: UnderscoresAction::Allow,
};

/// Runs `take` on `text` that arrives in two parts. Returns the result, and the bytes that are left.
fn in_parts<T, E>(
    text: &[u8],
    at: usize,
    mut take: impl FnMut(&mut BytesMut) -> Result<Option<T>, E>,
) -> Result<Option<(T, usize)>, E> {
    let mut buffer = BytesMut::new();
    let (first, second) = text.split_at(at);
    buffer.extend_from_slice(first);
    if let Some(taken) = take(&mut buffer)? {
        return Ok(Some((taken, buffer.len() + second.len())));
    }
    buffer.extend_from_slice(second);
    Ok(take(&mut buffer)?.map(|taken| (taken, buffer.len())))
}

/// A request's head: the same wherever it is split, and for two parsers. What is sent on is one request.
pub(super) fn request(data: &[u8]) {
    let Some((at, text)) = split_position(data) else {
        return;
    };
    let (options, stats) = (Http1Options::default(), Http1Stats::default());
    let parse = |at| {
        let mut searched = 0;
        in_parts(text, at, |buffer| {
            head::take_request(buffer, &mut searched, LIMITS, &options, &stats)
        })
    };
    let (whole, split) = (parse(text.len()), parse(at));
    assert_eq!(format!("{whole:?}"), format!("{split:?}"));
    let Ok(Some((received, left))) = whole else {
        return;
    };
    let start = text.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    let head = &text[start.unwrap_or_default()..text.len() - left];
    compare(head, &received);
    if received.framing != Framing::Raw {
        send_on(received, &options, &stats);
    }
}

/// Compares what decides about the request and the length of its body, if `httparse` accepts the head.
fn compare(head: &[u8], received: &ReceivedRequest) {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(length)) = parsed.parse(head) else {
        return;
    };
    assert_eq!(length, head.len(), "the end of the head");
    assert_eq!(parsed.method, Some(received.head.method.as_str()));
    if received.framing == Framing::Raw {
        return;
    }
    let values = |name: &str| {
        let fields = parsed.headers.iter();
        let found = fields.filter(|field| field.name.eq_ignore_ascii_case(name));
        found.map(|field| field.value).collect::<Vec<_>>()
    };
    let lengths = values("content-length");
    let framing = match (&values("transfer-encoding")[..], &lengths[..]) {
        ([], []) => Framing::None,
        ([], [length]) => {
            let text = std::str::from_utf8(length).expect("digits, since it was accepted");
            match text
                .trim()
                .parse()
                .expect("a length, since it was accepted")
            {
                0 => Framing::None,
                length => Framing::Length(length),
            }
        }
        ([_], []) => Framing::chunked(),
        other => panic!("ambiguous, but accepted: {other:?}"),
    };
    assert_eq!(framing, received.framing);
}

/// Encodes a received request and parses it again: it must be one request with the same body.
fn send_on(received: ReceivedRequest, options: &Http1Options, stats: &Http1Stats) {
    if received.head.authority.is_none() {
        return;
    }
    let mut out = Vec::new();
    let ends = received.framing == Framing::None;
    encode::request(&received.head, options, ends, &mut out);
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut fields);
    let length = parsed.parse(&out).expect("what is sent is well-formed");
    assert_eq!(
        length,
        httparse::Status::Complete(out.len()),
        "one head is sent"
    );
    let mut buffer = BytesMut::from(&out[..]);
    let limits = HeadLimits {
        bytes: usize::MAX,
        fields: usize::MAX,
        ..LIMITS
    };
    let again = head::take_request(&mut buffer, &mut 0, limits, options, stats);
    let again = again.expect("accepted").expect("complete");
    assert!(buffer.is_empty());
    assert_eq!(again.head.method, received.head.method);
    assert_eq!(again.framing, received.framing);
}

/// A response's head: the same wherever it is split.
pub(super) fn response(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else {
        return;
    };
    let Some((at, text)) = split_position(data) else {
        return;
    };
    let method = [Method::GET, Method::HEAD, Method::CONNECT][usize::from(kind % 3)].clone();
    let options = Http1Options::default();
    let asked = SentRequest {
        method: &method,
        upgrade: kind >= 128,
    };
    let parse = |at| {
        let mut searched = 0;
        in_parts(text, at, |buffer| {
            head::take_response(buffer, &mut searched, LIMITS, &options, asked)
        })
    };
    let (whole, split) = (parse(text.len()), parse(at));
    assert_eq!(format!("{whole:?}"), format!("{split:?}"));
    let Ok(Some((received, left))) = whole else {
        return;
    };
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Response::new(&mut fields);
    if let Ok(httparse::Status::Complete(length)) = parsed.parse(text) {
        assert_eq!(length, text.len() - left, "the end of the head");
        assert_eq!(parsed.code, Some(received.head.status.as_u16()));
    }
}

/// What was read of a chunked body: its bytes, whether it ended, and what is left.
type ReadChunks = (Vec<u8>, bool, usize);

/// A chunked body: the same wherever it is split, with the sizes that `httparse` sees.
pub(super) fn chunks(data: &[u8]) {
    let Some((at, text)) = split_position(data) else {
        return;
    };
    let read = |at: usize| -> Result<ReadChunks, ()> {
        let mut framing = Framing::chunked();
        let (mut body, mut ended) = (Vec::new(), false);
        let mut buffer = BytesMut::new();
        for part in [&text[..at], &text[at..]] {
            buffer.extend_from_slice(part);
            while !ended {
                match framing.take(&mut buffer, LIMITS, None).map_err(drop)? {
                    None => break,
                    Some(Piece::Data(bytes)) => body.extend_from_slice(&bytes),
                    Some(Piece::Trailers(_) | Piece::End) => ended = true,
                }
            }
        }
        Ok((body, ended, buffer.len()))
    };
    let (whole, split) = (read(text.len()), read(at));
    assert_eq!(whole, split);
    let Ok((body, true, _)) = whole else {
        return;
    };
    let mut rest = text;
    let mut expected = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(rest) else {
            return;
        };
        if size == 0 {
            break;
        }
        let end = start + usize::try_from(size).expect("the body is complete");
        expected.extend_from_slice(&rest[start..end]);
        rest = &rest[end + 2..];
    }
    assert_eq!(body, expected);
}
