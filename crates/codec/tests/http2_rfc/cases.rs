//! The tables of cases.

use crate::support::raw::ACK;
use crate::support::raw::CONTINUATION;
use crate::support::raw::DATA;
use crate::support::raw::END_HEADERS;
use crate::support::raw::END_STREAM;
use crate::support::raw::GOAWAY;
use crate::support::raw::HEADERS;
use crate::support::raw::PADDED;
use crate::support::raw::PING;
use crate::support::raw::PRIORITY;
use crate::support::raw::RST_STREAM;
use crate::support::raw::SETTINGS;
use crate::support::raw::WINDOW_UPDATE;
use crate::support::raw::WITH_PRIORITY;
use crate::support::raw::frame;
use crate::support::raw::head;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const PUSH_PROMISE: u8 = 5;
const BOTH: u8 = END_HEADERS | END_STREAM;

/// What the server has to do.
pub(crate) enum Expected {
    /// To answer the request on this stream.
    Answer(u32),
    /// To go on as if nothing had happened.
    Ignored,
    /// To reset the stream with one of these codes.
    Stream(&'static [u32]),
    /// To end the connection with a GOAWAY of one of these codes.
    Connection(&'static [u32]),
    /// To close the connection, as Envoy does without a GOAWAY.
    Closed,
}

/// Frames that a client sends after its preface and SETTINGS.
pub(crate) struct Case {
    pub(crate) section: &'static str,
    pub(crate) what: &'static str,
    pub(crate) frames: Vec<u8>,
    pub(crate) expected: Expected,
}

fn case(section: &'static str, what: &'static str, frames: &[Vec<u8>], expected: Expected) -> Case {
    Case {
        section,
        what,
        frames: frames.concat(),
        expected,
    }
}

/// A complete request on this stream.
fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, BOTH, stream, &head("/", &[]))
}

/// A request that is never answered, and whose client may send more.
fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head("/hang", &[]))
}

/// A complete request that is never answered.
fn ended(stream: u32) -> Vec<u8> {
    frame(HEADERS, BOTH, stream, &head("/hang", &[]))
}

/// A request whose body has to come.
fn post(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = head("/", fields);
    block[0] = 0x83;
    frame(HEADERS, END_HEADERS, 1, &block)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

fn data(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, b"test")
}

fn continuation(stream: u32) -> Vec<u8> {
    frame(CONTINUATION, END_HEADERS, stream, &[])
}

fn priority(stream: u32, dependency: u32, weight: u8) -> Vec<u8> {
    let mut payload = dependency.to_be_bytes().to_vec();
    payload.push(weight);
    frame(PRIORITY, 0, stream, &payload)
}

fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn setting(id: u8, value: u32) -> Vec<u8> {
    let [a, b, c, d] = value.to_be_bytes();
    frame(SETTINGS, 0, 0, &[0, id, a, b, c, d])
}

/// A request with another block after the usual one.
fn with_block(more: &[u8]) -> Vec<u8> {
    frame(HEADERS, BOTH, 1, &[&head("/", &[])[..], more].concat())
}

#[rustfmt::skip] // a case has one line
pub(crate) fn good_messages() -> Vec<Case> {
    let block = head("/", &[]);
    let (first, rest) = block.split_at(3);
    let (second, third) = rest.split_at(2);
    let padded = [&[4][..], &block, &[0; 4]].concat();
    let with_priority = [&[0, 0, 0, 0, 255][..], &block].concat();
    let padded_with_priority = [&[4, 0x80, 0, 0, 0, 9][..], &block, &[0; 4]].concat();
    let answered =
        |section, what, frames: &[Vec<u8>]| case(section, what, frames, Expected::Answer(1));
    let ignored =
        |section, what, frames: &[Vec<u8>]| case(section, what, frames, Expected::Ignored);
    let mut reserved = get(1);
    reserved[5] |= 0x80;
    vec![
        answered("3.1", "DATA", &[post(&[]), data(1)]),
        answered("3.1", "several DATA", &[post(&[]), frame(DATA, 0, 1, b"a"), data(1)]),
        answered("3.1", "DATA with padding", &[post(&[]), frame(DATA, PADDED | END_STREAM, 1, &[3, b'a', 0, 0, 0])]),
        answered("3.2", "HEADERS", &[get(1)]),
        answered("3.2", "HEADERS with padding", &[frame(HEADERS, BOTH | PADDED, 1, &padded)]),
        answered("3.2", "HEADERS with a priority", &[frame(HEADERS, BOTH | WITH_PRIORITY, 1, &with_priority)]),
        answered("3.2", "HEADERS with both", &[frame(HEADERS, BOTH | WITH_PRIORITY | PADDED, 1, &padded_with_priority)]),
        answered("3.3", "PRIORITY with the lowest weight", &[priority(1, 0, 0), get(1)]),
        answered("3.3", "PRIORITY with the highest weight", &[priority(1, 0, 255), get(1)]),
        answered("3.3", "PRIORITY with a dependency", &[priority(1, 3, 1), get(1)]),
        answered("3.3", "PRIORITY with an exclusive one", &[priority(1, 0x8000_0003, 1), get(1)]),
        answered("3.3", "PRIORITY for a later stream", &[priority(3, 0, 9), get(1)]),
        answered("2", "PRIORITY on a half-closed stream", &[get(1), priority(1, 0, 9)]),
        answered("2", "WINDOW_UPDATE on a half-closed stream", &[get(1), update(1, 1)]),
        ignored("2", "RST_STREAM on a half-closed stream", &[ended(1), reset(1)]),
        ignored("2", "PRIORITY on a closed stream", &[ended(1), reset(1), priority(1, 0, 9)]),
        ignored("5.1", "WINDOW_UPDATE and RST_STREAM on a closed stream", &[ended(1), reset(1), update(1, 1), reset(1)]),
        ignored("3.4", "RST_STREAM", &[open(1), reset(1)]),
        ignored("3.5", "SETTINGS", &[frame(SETTINGS, 0, 0, &[])]),
        ignored("3.5", "an acknowledgement of SETTINGS", &[frame(SETTINGS, ACK, 0, &[])]),
        ignored("3.7", "a PING acknowledgement", &[frame(PING, ACK, 0, b"thelast!")]),
        ignored("3.8", "GOAWAY", &[frame(GOAWAY, 0, 0, &[0; 8])]),
        ignored("3.9", "WINDOW_UPDATE", &[update(0, 1), open(1), update(1, 1)]),
        answered("3.10", "CONTINUATION", &[frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 1, rest)]),
        answered("6.10", "several CONTINUATION", &[frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, 0, 1, second), frame(CONTINUATION, END_HEADERS, 1, third)]),
        answered("4", "trailers", &[post(&[]), frame(DATA, 0, 1, b"a"), frame(HEADERS, BOTH, 1, &[0, 1, b'a', 1, b'b'])]),
        ignored("4.1", "an unknown type", &[frame(22, 0xff, 0, b"x")]),
        answered("4.1", "undefined flags", &[frame(HEADERS, BOTH | 0xd2, 1, &block)]),
        answered("4.1", "the reserved bit", &[reserved]),
        answered("4.2", "DATA of the largest size", &[post(&[]), frame(DATA, END_STREAM, 1, &[0; 16_384])]),
        ignored("5.5", "an unknown setting", &[setting(99, 1)]),
        ignored("6.5.2", "ENABLE_PUSH", &[setting(2, 0)]),
        answered("6.5.3", "several values of one setting", &[frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 100, 0, 4, 0, 0, 0, 1]), get(1)]),
        answered("6.9.1", "a window of one byte", &[setting(4, 1), get(1)]),
        answered("6.9.2", "a window that becomes negative", &[setting(4, 3), get(1), setting(4, 2), update(1, 4)]),
        ignored("7", "GOAWAY with an unknown code", &[frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 255])]),
        ignored("7", "RST_STREAM with an unknown code", &[open(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 255])]),
        answered("7541 6.1", "an indexed field", &[with_block(&[0x90])]),
        answered("7541 6.2.1", "indexed literals", &[with_block(&[0x73, 1, b'x', 0x40, 1, b'y', 1, b'z', 0xbe, 0xbf])]),
        answered("7541 6.2.2", "literals that are not indexed", &[with_block(&[0x0f, 4, 1, b'x', 0, 1, b'y', 1, b'z'])]),
        answered("7541 6.2.3", "literals that are never indexed", &[with_block(&[0x1f, 4, 1, b'x', 0x10, 1, b'y', 1, b'z'])]),
        answered("7541 5.2", "a name and a value by Huffman", &[with_block(&[0x00, 0x81, 0x1f, 0x81, 0x1f])]),
        answered("7541 6.3", "updates of the table's size", &[frame(HEADERS, BOTH, 1, &[&[0x20, 0x3f, 0xe1, 0x1f][..], &block].concat())]),
    ]
}

#[rustfmt::skip] // a case has one line
pub(crate) fn stream_errors() -> Vec<Case> {
    let error = |section, what, frames: &[Vec<u8>], codes| {
        case(section, what, frames, Expected::Stream(codes))
    };
    vec![
        error("6.9", "WINDOW_UPDATE of zero on a stream", &[open(1), update(1, 0)], &[PROTOCOL_ERROR]),
        error("6.9.1", "a stream's window beyond 2^31-1", &[open(1), update(1, 0x7fff_ffff)], &[FLOW_CONTROL_ERROR]),
        error("6.9.2", "a stream's window beyond 2^31-1 by SETTINGS", &[open(1), update(1, 1), setting(4, 0x7fff_ffff)], &[FLOW_CONTROL_ERROR]),
        error("5.3.1", "PRIORITY with a dependency on itself", &[open(1), priority(1, 1, 9)], &[PROTOCOL_ERROR]),
        error("6.3", "PRIORITY of a wrong length", &[open(1), frame(PRIORITY, 0, 1, &[0; 4])], &[FRAME_SIZE_ERROR]),
        error("8.1", "trailers that do not end the stream", &[post(&[]), frame(HEADERS, END_HEADERS, 1, &[0, 1, b'a', 1, b'b'])], &[PROTOCOL_ERROR]),
        error("8.1.1", "a body beyond content-length", &[post(&[("content-length", "1")]), data(1)], &[PROTOCOL_ERROR]),
        error("8.1.1", "a body short of content-length", &[post(&[("content-length", "9")]), data(1)], &[PROTOCOL_ERROR]),
        error("8.1.1", "several DATA beyond content-length", &[post(&[("content-length", "5")]), frame(DATA, 0, 1, b"test"), data(1)], &[PROTOCOL_ERROR]),
    ]
}

#[rustfmt::skip] // a case has one line
pub(crate) fn connection_errors() -> Vec<Case> {
    let error = |section, what, frames: &[Vec<u8>], codes| {
        case(section, what, frames, Expected::Connection(codes))
    };
    let closed = |section, what, frames: &[Vec<u8>]| case(section, what, frames, Expected::Closed);
    let block = head("/", &[]);
    let part = frame(HEADERS, END_STREAM, 1, &block);
    let self_dependent = [&[0, 0, 0, 1, 9][..], &block].concat();
    let mut exhausted: Vec<Vec<u8>> = vec![frame(SETTINGS, ACK, 0, &[])];
    exhausted.extend((0..1025).map(|number| open(2 * number + 1)));
    vec![
        error("4.2", "DATA beyond the largest size", &[open(1), frame(DATA, 0, 1, &[0; 16_385])], &[FRAME_SIZE_ERROR]),
        error("4.2", "HEADERS beyond the largest size", &[frame(HEADERS, BOTH, 1, &[0; 16_385])], &[FRAME_SIZE_ERROR]),
        error("4.3", "PRIORITY in a header block", &[part.clone(), priority(1, 0, 9)], &[PROTOCOL_ERROR]),
        error("4.3", "HEADERS of another stream in a header block", &[part.clone(), get(3)], &[PROTOCOL_ERROR]),
        error("5.5", "an unknown type in a header block", &[part.clone(), frame(22, 0, 0, &[])], &[PROTOCOL_ERROR]),
        error("6.10", "CONTINUATION of another stream", &[part.clone(), continuation(3)], &[PROTOCOL_ERROR]),
        error("6.10", "HEADERS after CONTINUATION", &[part.clone(), frame(CONTINUATION, 0, 1, &[]), get(3)], &[PROTOCOL_ERROR]),
        error("6.10", "CONTINUATION on stream 0", &[part, continuation(0)], &[PROTOCOL_ERROR]),
        error("6.10", "CONTINUATION after the block", &[get(1), continuation(1)], &[PROTOCOL_ERROR]),
        error("6.10", "CONTINUATION after DATA", &[post(&[]), frame(DATA, 0, 1, b"a"), continuation(1)], &[PROTOCOL_ERROR]),
        closed("5.1.1", "an even stream number", &[get(2)]),
        error("5.1.1", "a lower stream number", &[get(5), get(3)], &[PROTOCOL_ERROR]),
        closed("5.1.2", "more streams than allowed", &exhausted),
        closed("5.3.1", "HEADERS with a dependency on itself", &[frame(HEADERS, BOTH | WITH_PRIORITY, 1, &self_dependent)]),
        error("6.1", "DATA on stream 0", &[data(0)], &[PROTOCOL_ERROR]),
        error("6.1", "padding beyond the frame", &[open(1), frame(DATA, PADDED, 1, &[6, b'a', 0, 0])], &[PROTOCOL_ERROR]),
        closed("6.2", "HEADERS on stream 0", &[get(0)]),
        error("6.2", "padding beyond the HEADERS frame", &[frame(HEADERS, BOTH | PADDED, 1, &[0xff, 0x82])], &[PROTOCOL_ERROR]),
        error("6.3", "PRIORITY on stream 0", &[priority(0, 1, 9)], &[PROTOCOL_ERROR]),
        closed("6.4", "RST_STREAM on stream 0", &[reset(0)]),
        error("6.4", "RST_STREAM of a wrong length", &[open(1), frame(RST_STREAM, 0, 1, &[0; 3])], &[FRAME_SIZE_ERROR]),
        error("6.5", "an acknowledgement of SETTINGS with a payload", &[frame(SETTINGS, ACK, 0, &[0])], &[FRAME_SIZE_ERROR]),
        closed("6.5", "SETTINGS on a stream", &[frame(SETTINGS, 0, 1, &[])]),
        error("6.5", "SETTINGS of a wrong length", &[frame(SETTINGS, 0, 0, &[0; 3])], &[FRAME_SIZE_ERROR]),
        closed("6.5.2", "ENABLE_PUSH of 2", &[setting(2, 2)]),
        closed("6.5.2", "INITIAL_WINDOW_SIZE above the maximum", &[setting(4, 0x8000_0000)]),
        closed("6.5.2", "MAX_FRAME_SIZE below the minimum", &[setting(5, 16_383)]),
        closed("6.5.2", "MAX_FRAME_SIZE above the maximum", &[setting(5, 0x0100_0000)]),
        closed("6.7", "PING on a stream", &[frame(PING, 0, 1, &[0; 8])]),
        error("6.7", "PING of a wrong length", &[frame(PING, 0, 0, &[0; 6])], &[FRAME_SIZE_ERROR]),
        closed("6.8", "GOAWAY on a stream", &[frame(GOAWAY, 0, 1, &[0; 8])]),
        error("6.9", "WINDOW_UPDATE of zero", &[update(0, 0)], &[PROTOCOL_ERROR]),
        error("6.9", "WINDOW_UPDATE of a wrong length", &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])], &[FRAME_SIZE_ERROR]),
        error("6.9.1", "the connection's window beyond 2^31-1", &[update(0, 0x7fff_ffff)], &[FLOW_CONTROL_ERROR]),
        closed("8.4", "PUSH_PROMISE", &[open(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])]),
    ]
}

#[rustfmt::skip] // a case has one line
pub(crate) fn stream_states() -> Vec<Case> {
    let stream = |section, what, frames: &[Vec<u8>]| {
        case(section, what, frames, Expected::Stream(&[STREAM_CLOSED]))
    };
    let connection = |section, what, frames: &[Vec<u8>], codes| {
        case(section, what, frames, Expected::Connection(codes))
    };
    let ignored =
        |section, what, frames: &[Vec<u8>]| case(section, what, frames, Expected::Ignored);
    // The server resets stream 1.
    let broken = post(&[("content-length", "1")]);
    let reset_by_server = [broken, data(1)].concat();
    let trailers = frame(HEADERS, BOTH, 1, &[0, 1, b'a', 1, b'b']);
    vec![
        connection("5.1", "idle: DATA", &[data(1)], &[PROTOCOL_ERROR]),
        case("5.1", "idle: RST_STREAM", &[reset(1)], Expected::Closed),
        case("5.1", "idle: WINDOW_UPDATE", &[update(1, 1)], Expected::Closed),
        connection("5.1", "idle: CONTINUATION", &[continuation(1)], &[PROTOCOL_ERROR]),
        stream("5.1", "half closed: DATA", &[ended(1), data(1)]),
        stream("5.1", "half closed: HEADERS", &[ended(1), ended(1)]),
        connection("5.1", "half closed: CONTINUATION", &[ended(1), continuation(1)], &[PROTOCOL_ERROR]),
        ignored("5.1", "reset by the client: DATA", &[open(1), reset(1), data(1)]),
        ignored("5.1", "reset by the client: HEADERS", &[open(1), reset(1), trailers.clone()]),
        connection("5.1", "reset by the client: CONTINUATION", &[open(1), reset(1), continuation(1)], &[PROTOCOL_ERROR]),
        ignored("5.1", "reset by the server: DATA", &[reset_by_server.clone(), data(1)]),
        ignored("5.1", "reset by the server: HEADERS", &[reset_by_server.clone(), trailers]),
        ignored("5.1", "reset by the server: WINDOW_UPDATE", &[reset_by_server, update(1, 1)]),
    ]
}

#[rustfmt::skip] // a case has one line
pub(crate) fn header_errors() -> Vec<Case> {
    let error = |section, what, block: &[u8]| {
        case(section, what, &[frame(HEADERS, BOTH, 1, block)], Expected::Stream(&[PROTOCOL_ERROR]))
    };
    let literal = |name: &str, value: &str| head("", &[(name, value)])[7..].to_vec();
    let with = |name: &str, value: &str| head("/", &[(name, value)]);
    let after = [head("/", &[("a", "b")]), literal(":authority", "b")].concat();
    vec![
        error("8.2.1", "an upper-case name", &with("X-Test", "a")),
        error("8.2.1", "a blank in a name", &with("a b", "a")),
        error("8.2.1", "a colon in a name", &with("a:b", "a")),
        error("8.2.1", "an empty name", &with("", "a")),
        error("8.2.1", "a line end in a value", &with("a", "b\r\nc: d")),
        error("8.2.1", "NUL in a value", &with("a", "b\0")),
        error("8.3", "an unknown pseudo-header", &with(":test", "a")),
        error("8.3.1", "a pseudo-header of responses", &with(":status", "200")),
        error("8.3", "a pseudo-header after a field", &after),
        case("8.1", "a pseudo-header as a trailer", &[post(&[]), frame(DATA, 0, 1, b"a"), frame(HEADERS, BOTH, 1, &[0x82])], Expected::Stream(&[PROTOCOL_ERROR])),
        error("8.2.2", "connection", &with("connection", "keep-alive")),
        error("8.2.2", "transfer-encoding", &with("transfer-encoding", "chunked")),
        error("8.2.2", "upgrade", &with("upgrade", "foo")),
        error("8.2.2", "keep-alive", &with("keep-alive", "1")),
        error("8.2.2", "proxy-connection", &with("proxy-connection", "close")),
        error("8.2.2", "te other than trailers", &with("te", "trailers, deflate")),
        error("8.3.1", "an empty path", &head("", &[])),
        error("8.3.1", "no method", &head("/", &[])[1..]),
        error("8.3.1", "no scheme", &[&[0x82][..], &head("/", &[])[2..]].concat()),
        error("8.3.1", "no path", &head("/", &[])[..5]),
        error("8.3.1", "two methods", &[&[0x82][..], &head("/", &[])].concat()),
        error("8.3.1", "two schemes", &[&[0x87][..], &head("/", &[])].concat()),
        error("8.3.1", "two paths", &[&[0x84][..], &head("/", &[])].concat()),
        error("8.1.1", "two lengths", &head("/", &[("content-length", "0"), ("content-length", "0")])),
        error("8.1.1", "a length without a body", &with("content-length", "1")),
    ]
}

#[rustfmt::skip] // a case has one line
pub(crate) fn hpack_errors() -> Vec<Case> {
    let error = |section, what, more: &[u8]| {
        case(section, what, &[with_block(more)], Expected::Connection(&[COMPRESSION_ERROR]))
    };
    vec![
        error("7541 2.3.3", "an index beyond the table", &[0xfe]),
        error("7541 2.3.3", "a name's index beyond the table", &[0x7f, 0x20, 1, b'a']),
        error("7541 4.2", "an update of the table's size at the end", &[0x3f, 0xe1, 0x1f]),
        error("7541 5.1", "an endless integer", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        error("7541 5.2", "padding of more than 7 bits", &[0, 1, b'a', 0x82, 0x1f, 0xff]),
        error("7541 5.2", "padding other than EOS", &[0, 1, b'a', 0x81, 0x18]),
        error("7541 5.2", "EOS in a text", &[0, 1, b'a', 0x84, 0xff, 0xff, 0xff, 0xff]),
        error("7541 5.2", "a text beyond the block", &[0, 1, b'a', 9, b'b']),
        error("7541 6.1", "index 0", &[0x80]),
        case("7541 6.3", "a table larger than allowed", &[frame(HEADERS, BOTH, 1, &[&[0x3f, 0xe2, 0x1f][..], &head("/", &[])].concat())], Expected::Connection(&[COMPRESSION_ERROR])),
    ]
}
