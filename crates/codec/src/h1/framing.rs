//! Body framing (RFC 9112 sections 6 and 7): a body ends by length, by its last chunk, when the connection closes, or
//! never.

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;
use memchr::memchr;

use crate::Meter;
use crate::header::HeaderMap;
use crate::meter::HeadSize;

use super::fields;
use super::head;
use super::head::HeadError;
use super::head::HeadLimits;
use crate::stats::Http1Stats;

/// The maximum length in bytes of a chunk size line, including extensions.
const MAX_CHUNK_LINE: usize = 16 * 1024;

/// Pieces shorter than this, in bytes, may keep the buffer that they were read into.
const SMALL_PIECE: usize = 4 * 1024;

/// How a body is framed, and how much of it has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body, or all of it was read.
    None,
    /// The number of remaining bytes.
    Length(u64),
    /// Chunked, with the reader's position.
    Chunked(ChunkPosition),
    /// Everything until the peer closes the connection (responses only).
    UntilClose,
    /// The connection is a tunnel: an upgrade or CONNECT.
    Raw,
}

/// The reader's position in a chunked body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChunkPosition {
    /// Before a chunk size line.
    Size,
    /// In a chunk's data, with the number of remaining bytes.
    Data(u64),
    /// Before the line end after a chunk's data.
    DataEnd,
    /// In the trailer section.
    Trailers,
}

/// A part of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Some bytes.
    Data(Bytes),
    /// Trailer fields; the body has ended.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
}

/// The framing is invalid, so that everything after it on the connection is unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenFraming(pub(crate) HeadError);

impl BrokenFraming {
    const CODEC: BrokenFraming = BrokenFraming(HeadError::CODEC);
}

impl Framing {
    /// The state at the beginning of a chunked body.
    pub(crate) fn chunked() -> Framing {
        Framing::Chunked(ChunkPosition::Size)
    }

    /// Whether the whole body was read.
    pub(crate) fn is_done(&self) -> bool {
        *self == Framing::None
    }

    /// Whether closing the connection now completes the body. Closing a tunnel never does: like Envoy, it counts as an
    /// abort.
    pub(crate) fn may_close(&self) -> bool {
        matches!(self, Framing::None | Framing::UntilClose)
    }

    /// Removes the next piece from the front of `buffer`; `None` when more bytes are needed. For a client's trailers,
    /// `requests` counts dropped and refused fields.
    pub(crate) fn take(
        &mut self,
        buffer: &mut BytesMut,
        limits: HeadLimits,
        requests: Option<&Http1Stats>,
    ) -> Result<Option<Piece>, BrokenFraming> {
        match self {
            Framing::None => Ok(Some(Piece::End)),
            Framing::UntilClose | Framing::Raw => Ok(take_all(buffer)),
            Framing::Length(left) => {
                let piece = take_some(buffer, left);
                if *left == 0 {
                    *self = Framing::None;
                }
                Ok(piece)
            }
            Framing::Chunked(chunk) => {
                let piece = chunk.take(buffer, limits, requests)?;
                if matches!(piece, Some(Piece::Trailers(_) | Piece::End)) {
                    *self = Framing::None;
                }
                Ok(piece)
            }
        }
    }
}

impl ChunkPosition {
    fn take(
        &mut self,
        buffer: &mut BytesMut,
        limits: HeadLimits,
        requests: Option<&Http1Stats>,
    ) -> Result<Option<Piece>, BrokenFraming> {
        loop {
            match self {
                ChunkPosition::Size => {
                    let Some(end) = line_end(buffer)? else {
                        return Ok(None);
                    };
                    *self = match chunk_size(buffer.get(..end).unwrap_or_default())? {
                        0 => ChunkPosition::Trailers,
                        size => ChunkPosition::Data(size),
                    };
                    buffer.advance(end + 2);
                }
                ChunkPosition::Data(left) => {
                    let piece = take_some(buffer, left);
                    if *left == 0 {
                        *self = ChunkPosition::DataEnd;
                    }
                    return Ok(piece);
                }
                ChunkPosition::DataEnd => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        *self = ChunkPosition::Size;
                    }
                    None if matches!(buffer.first(), None | Some(b'\r')) => return Ok(None),
                    _ => return Err(BrokenFraming::CODEC),
                },
                ChunkPosition::Trailers => return take_trailers(buffer, limits, requests),
            }
        }
    }
}

fn take_all(buffer: &mut BytesMut) -> Option<Piece> {
    (!buffer.is_empty()).then(|| Piece::Data(buffer.split().freeze()))
}

fn take_some(buffer: &mut BytesMut, left: &mut u64) -> Option<Piece> {
    if buffer.is_empty() {
        return None;
    }
    let count = usize::try_from(*left)
        .unwrap_or(usize::MAX)
        .min(buffer.len());
    *left -= count as u64;
    // A small message usually is the whole buffer: taking it avoids making the buffer a shared one. A large buffer is
    // kept to read what follows.
    let piece = if count == buffer.len() && count < SMALL_PIECE {
        std::mem::take(buffer)
    } else {
        buffer.split_to(count)
    };
    Some(Piece::Data(piece.freeze()))
}

/// Counts the framing bytes that were removed from the input along with a piece of the body.
pub(super) fn count_framing(
    meter: &Meter,
    taken: usize,
    piece: &Result<Option<Piece>, BrokenFraming>,
) {
    let body = match piece {
        Ok(Some(Piece::Data(bytes))) => bytes.len(),
        _ => 0,
    };
    if taken > body {
        meter.add_framing_received(taken - body);
    }
}

/// Counts trailers that are passed on as fields. Their bytes on the wire were counted as framing.
pub(super) fn count_trailers(meter: &Meter, trailers: &HeaderMap) {
    let fields = trailers.iter();
    let bytes = fields.map(|(name, value)| fields::line_size(name.as_str().len(), value.len()));
    meter.add_headers_received(HeadSize::http1_trailers(bytes.sum()));
}

/// The position of the first line's CRLF. A bare LF or an overlong line is an error.
fn line_end(buffer: &[u8]) -> Result<Option<usize>, BrokenFraming> {
    match memchr(b'\n', buffer) {
        Some(at) if at <= MAX_CHUNK_LINE => match at.checked_sub(1) {
            Some(end) if buffer.get(end) == Some(&b'\r') => Ok(Some(end)),
            _ => Err(BrokenFraming::CODEC),
        },
        None if buffer.len() <= MAX_CHUNK_LINE => Ok(None),
        _ => Err(BrokenFraming::CODEC),
    }
}

/// Parses a chunk size line: hexadecimal digits, then the end of the line, white space, or an extension.
fn chunk_size(line: &[u8]) -> Result<u64, BrokenFraming> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let rest = line.get(digits..).unwrap_or_default();
    let extension = rest.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    if !(1..=16).contains(&digits) || !matches!(extension, None | Some(b';')) {
        return Err(BrokenFraming::CODEC);
    }
    // Another parser could take a bare CR for the end of the line.
    if memchr(b'\r', rest).is_some() {
        return Err(BrokenFraming::CODEC);
    }
    let text = std::str::from_utf8(line.get(..digits).unwrap_or_default())
        .map_err(|_| BrokenFraming::CODEC)?;
    u64::from_str_radix(text, 16).map_err(|_| BrokenFraming::CODEC)
}

fn take_trailers(
    buffer: &mut BytesMut,
    limits: HeadLimits,
    requests: Option<&Http1Stats>,
) -> Result<Option<Piece>, BrokenFraming> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Some(Piece::End));
    }
    // A bare LF in place of the empty line. What follows would be read as trailers.
    if buffer.starts_with(b"\n") {
        return Err(BrokenFraming::CODEC);
    }
    match fields::block_end(buffer, 0) {
        Some(end) if end <= limits.bytes => {
            let trailers = head::trailers(buffer.get(..end).unwrap_or_default(), limits, requests)
                .map_err(BrokenFraming)?;
            buffer.advance(end);
            Ok(Some(Piece::Trailers(trailers)))
        }
        None if buffer.len() <= limits.bytes => Ok(None),
        _ => Err(BrokenFraming::CODEC),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UnderscoresAction;

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 1024,
        fields: 10,
        underscores: UnderscoresAction::Allow,
    };

    /// Feeds `text` in two parts, split at `at`. Returns the data, the number of trailers, and whether the body ended.
    fn read(
        mut framing: Framing,
        text: &[u8],
        at: usize,
    ) -> Result<(Vec<u8>, usize, bool), BrokenFraming> {
        let (mut data, mut trailers, mut ended) = (Vec::new(), 0, false);
        let mut buffer = BytesMut::new();
        for part in [&text[..at], &text[at..]] {
            buffer.extend_from_slice(part);
            while !ended && let Some(piece) = framing.take(&mut buffer, LIMITS, None)? {
                match piece {
                    Piece::Data(bytes) => data.extend_from_slice(&bytes),
                    Piece::Trailers(map) => (trailers, ended) = (map.len(), true),
                    Piece::End => ended = true,
                }
            }
        }
        Ok((data, trailers, ended))
    }

    #[test]
    fn bodies_are_read_the_same_wherever_the_bytes_are_split() {
        for (text, data, trailers) in [
            ("0\r\n\r\n", "", 0),
            ("3;ext=1\r\nabc\r\n0\r\n\r\n", "abc", 0),
            (
                "3 \r\nabc\r\nA\r\n0123456789\r\n0\r\nx-t: 1\r\nx-u: 2\r\n\r\n",
                "abc0123456789",
                2,
            ),
        ] {
            for at in 0..=text.len() {
                let seen = read(Framing::chunked(), text.as_bytes(), at);
                assert_eq!(
                    seen,
                    Ok((data.into(), trailers, true)),
                    "{text:?} split at {at}"
                );
            }
        }
        for at in 0..=5 {
            assert_eq!(
                read(Framing::Length(5), b"hello", at),
                Ok((b"hello".into(), 0, true))
            );
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for text in [
            "zz\r\nabc\r\n",
            "\r\n",
            "3\nabc\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "+3\r\nabc\r\n",
            "0x3\r\nabc\r\n",
            "11111111111111111\r\n",
            "3 4\r\nabc\r\n",
            "3;a\rb\r\nabc\r\n",
            "3\r\r\nabc\r\n",
            "0\r\n\nGET / HTTP/1.1\r\n\r\n",
        ] {
            for at in 0..=text.len() {
                assert!(
                    read(Framing::chunked(), text.as_bytes(), at).is_err(),
                    "{text:?} split at {at}"
                );
            }
        }
    }

    #[test]
    fn an_endless_chunk_line_is_refused() {
        let text = format!("3;{}", "x".repeat(MAX_CHUNK_LINE));
        assert!(read(Framing::chunked(), text.as_bytes(), 0).is_err());
    }
}
