//! The ClientHello as the client wrote it: when it is complete, and the fingerprints JA3 and JA4.
//!
//! `rustls` decides whether a ClientHello is valid. The fingerprints need what it does not tell: the order of the
//! extensions, and those that it does not know.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use md5::Digest as _;

use crate::peer::hex;

/// The content type of a record with a part of the handshake.
const HANDSHAKE: u8 = 22;
/// The type of the handshake message.
const CLIENT_HELLO: u8 = 1;
/// A record's header: type, version, length.
const RECORD_HEADER: usize = 5;
/// A handshake message's header: type, length.
const MESSAGE_HEADER: usize = 4;
/// The longest record that a peer may send, bytes.
const MAX_RECORD: usize = (1 << 14) + 2048;

const SERVER_NAME: u16 = 0;
const STATUS_REQUEST: u16 = 5;
const SUPPORTED_GROUPS: u16 = 10;
const EC_POINT_FORMATS: u16 = 11;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// How much of a ClientHello the first bytes of a connection hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloProgress {
    /// The bytes begin nothing that could be a ClientHello.
    NotTls,
    /// More bytes are needed.
    Partial,
    /// The whole ClientHello.
    Complete,
}

/// Looks at the headers of the records in `bytes`. The cost is that of the records, not of the bytes, so it may be asked
/// again with each byte that comes.
#[must_use]
pub fn progress(bytes: &[u8]) -> HelloProgress {
    let mut rest = bytes;
    let mut message = HandshakeMessage::default();
    loop {
        match rest {
            [] | [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, _] | [HANDSHAKE, 3, _, _] => {
                return HelloProgress::Partial;
            }
            [HANDSHAKE, 3, _, high, low, after @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if length == 0 || length > MAX_RECORD {
                    return HelloProgress::NotTls;
                }
                let (payload, more) = after.split_at(length.min(after.len()));
                match message.add(payload) {
                    HelloProgress::Partial if more.is_empty() => return HelloProgress::Partial,
                    HelloProgress::Partial => rest = more,
                    settled => return settled,
                }
            }
            _ => return HelloProgress::NotTls,
        }
    }
}

/// The handshake message in a row of records, as far as its length goes.
#[derive(Default)]
struct HandshakeMessage {
    header: [u8; MESSAGE_HEADER],
    seen: usize,
}

impl HandshakeMessage {
    fn add(&mut self, payload: &[u8]) -> HelloProgress {
        let missing = self.header.iter_mut().skip(self.seen);
        for (place, byte) in missing.zip(payload) {
            *place = *byte;
        }
        self.seen += payload.len();
        let [kind, a, b, c] = self.header;
        if self.seen > 0 && kind != CLIENT_HELLO {
            return HelloProgress::NotTls;
        }
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        match self.seen >= MESSAGE_HEADER && self.seen >= MESSAGE_HEADER + length {
            true => HelloProgress::Complete,
            false => HelloProgress::Partial,
        }
    }
}

/// The parts of a ClientHello that fingerprints are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloFacts {
    /// `legacy_version`
    version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    groups: Vec<u16>,
    point_formats: Vec<u8>,
    signature_algorithms: Vec<u16>,
    supported_versions: Option<Vec<u16>>,
    /// The first protocol.
    alpn: Vec<u8>,
    /// Whether the client asks for an OCSP response.
    pub asks_for_staple: bool,
}

impl HelloFacts {
    /// Reads the ClientHello in the records `bytes`; `None` if it is not complete or not well-formed.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<HelloFacts> {
        let message = message(bytes)?;
        let mut body = ByteReader(message.get(MESSAGE_HEADER..)?);
        let mut facts = HelloFacts {
            version: body.u16()?,
            ..HelloFacts::default()
        };
        body.take(32)?;
        body.short_list()?;
        facts.ciphers = body.long_list()?.all_u16();
        body.short_list()?;
        let Some(mut extensions) = body.long_list() else {
            return Some(facts);
        };
        while !extensions.0.is_empty() {
            let kind = extensions.u16()?;
            let content = extensions.long_list()?;
            facts.extensions.push(kind);
            facts.read_extension(kind, content);
        }
        Some(facts)
    }

    fn read_extension(&mut self, kind: u16, mut content: ByteReader<'_>) {
        match kind {
            STATUS_REQUEST => self.asks_for_staple = true,
            SUPPORTED_GROUPS => self.groups = content.skip(2).all_u16(),
            EC_POINT_FORMATS => self.point_formats = content.skip(1).0.to_vec(),
            SIGNATURE_ALGORITHMS => self.signature_algorithms = content.skip(2).all_u16(),
            SUPPORTED_VERSIONS => {
                let versions = content.short_list();
                self.supported_versions = Some(versions.map_or(Vec::new(), |list| list.all_u16()));
            }
            ALPN => {
                let first = content.skip(2).short_list();
                self.alpn = first.map_or(Vec::new(), |name| name.0.to_vec());
            }
            _ => {}
        }
    }

    /// JA3: a digest of version, cipher suites, extensions, groups and point formats, in the client's order.
    #[must_use]
    pub fn ja3(&self) -> String {
        let text = format!(
            "{},{},{},{},{}",
            self.version,
            decimals(without_grease(&self.ciphers)),
            decimals(without_grease(&self.extensions)),
            decimals(self.groups.iter().copied()),
            decimals(self.point_formats.iter().map(|format| u16::from(*format))),
        );
        hex(&md5::Md5::digest(text.as_bytes()))
    }

    /// JA4: the same facts, and signature algorithms, sorted and readable in part.
    #[must_use]
    pub fn ja4(&self) -> String {
        let ciphers: Vec<u16> = without_grease(&self.ciphers).collect();
        let extensions: Vec<u16> = without_grease(&self.extensions).collect();
        let named = self.extensions.contains(&SERVER_NAME);
        format!(
            "t{}{}{:02}{:02}{}_{}_{}",
            self.ja4_version(),
            if named { 'd' } else { 'i' },
            ciphers.len().min(99),
            extensions.len().min(99),
            ja4_alpn(&self.alpn),
            ja4_hash(ciphers, &[]),
            ja4_hash(
                extensions
                    .into_iter()
                    .filter(|kind| *kind != SERVER_NAME && *kind != ALPN)
                    .collect(),
                &self.signature_algorithms,
            ),
        )
    }

    fn ja4_version(&self) -> &'static str {
        let offered = self.supported_versions.as_deref().unwrap_or_default();
        let highest = without_grease(offered).max();
        match highest.unwrap_or(self.version) {
            0x0304 => "13",
            0x0303 => "12",
            0x0302 => "11",
            0x0301 => "10",
            _ => "00",
        }
    }
}

/// The first and the last character of the protocol.
fn ja4_alpn(name: &[u8]) -> String {
    let (Some(first), Some(last)) = (name.first(), name.last()) else {
        return "00".to_owned();
    };
    match first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        true => [char::from(*first), char::from(*last)].iter().collect(),
        false => format!("{:x}{:x}", first >> 4, last & 15),
    }
}

/// The first twelve digits of a digest of `numbers`, sorted, and of `ordered`.
fn ja4_hash(mut numbers: Vec<u16>, ordered: &[u16]) -> String {
    if numbers.is_empty() {
        return "0".repeat(12);
    }
    numbers.sort_unstable();
    let mut text = hexadecimals(&numbers);
    if !ordered.is_empty() {
        text.push('_');
        text.push_str(&hexadecimals(ordered));
    }
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    hex(digest.as_ref().get(..6).unwrap_or_default())
}

/// Values that clients send at random so that servers stay tolerant (RFC 8701) are left out.
fn without_grease(numbers: &[u16]) -> impl Iterator<Item = u16> + '_ {
    let is_grease = |number: &u16| number & 0x0f0f == 0x0a0a && number >> 8 == number & 0xff;
    numbers
        .iter()
        .copied()
        .filter(move |number| !is_grease(number))
}

fn decimals(numbers: impl Iterator<Item = u16>) -> String {
    let mut text = String::new();
    for number in numbers {
        let dash = if text.is_empty() { "" } else { "-" };
        // A String takes everything.
        write!(text, "{dash}{number}").unwrap_or_default();
    }
    text
}

fn hexadecimals(numbers: &[u16]) -> String {
    let texts: Vec<String> = numbers.iter().map(|n| format!("{n:04x}")).collect();
    texts.join(",")
}

/// The first handshake message in the records `bytes`, with its header.
fn message(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut records = ByteReader(bytes);
    let mut message = Vec::new();
    loop {
        if let [_, a, b, c, ..] = message.as_slice() {
            let end = MESSAGE_HEADER + u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if message.len() >= end {
                message.truncate(end);
                return Some(message);
            }
        }
        records.take(RECORD_HEADER - 2)?;
        message.extend_from_slice(records.long_list()?.0);
    }
}

/// The rest of some bytes.
struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn skip(&mut self, count: usize) -> ByteReader<'a> {
        ByteReader(self.0.get(count..).unwrap_or_default())
    }

    fn u16(&mut self) -> Option<u16> {
        let [high, low] = self.take(2)? else {
            return None;
        };
        Some(u16::from_be_bytes([*high, *low]))
    }

    /// A list with one byte of length.
    fn short_list(&mut self) -> Option<ByteReader<'a>> {
        let [length] = self.take(1)? else {
            return None;
        };
        self.take(usize::from(*length)).map(ByteReader)
    }

    /// A list with two bytes of length.
    fn long_list(&mut self) -> Option<ByteReader<'a>> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(ByteReader)
    }

    fn all_u16(&self) -> Vec<u16> {
        let pairs = self.0.chunks_exact(2);
        let numbers = pairs.map(|pair| match pair {
            [high, low] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        });
        numbers.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello in records of at most `size` bytes.
    fn hello(extensions: &[u8], size: usize) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([1, 9, 0, 6, 0x13, 1, 0x1a, 0x1a, 0xc0, 0x2b, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let mut message = vec![1, 0];
        message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        message.extend(body);
        let mut records = Vec::new();
        for part in message.chunks(size) {
            records.extend([22, 3, 1]);
            records.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            records.extend(part);
        }
        records
    }

    const EXTENSIONS: &[u8] = &[
        0x2a, 0x2a, 0, 0, 0, 10, 0, 4, 0, 2, 0, 29, 0, 11, 0, 2, 1, 0, 0, 16, 0, 5, 0, 3, 2, b'h',
        b'2', 0, 13, 0, 4, 0, 2, 4, 3, 0, 43, 0, 5, 4, 3, 4, 3, 3,
    ];

    #[test]
    fn a_hello_is_complete_with_its_last_byte_in_any_records() {
        for size in [1, 2, 3, 5, 50, 1000] {
            let hello = hello(EXTENSIONS, size);
            for end in 0..hello.len() {
                let seen = hello.get(..end).unwrap();
                assert_eq!(progress(seen), HelloProgress::Partial, "{size} {end}");
                assert_eq!(HelloFacts::parse(seen), None);
            }
            assert_eq!(progress(&hello), HelloProgress::Complete);
            let facts = HelloFacts::parse(&hello).unwrap();
            assert_eq!(facts.ciphers, [0x1301, 0x1a1a, 0xc02b]);
            assert!(facts.ja4().starts_with("t13i0205h2_"), "{}", facts.ja4());
        }
    }

    #[test]
    fn bytes_that_are_no_hello_are_recognised_early() {
        for bytes in [
            &b"GET "[..],
            &[22, 2],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 0xff, 0xff],
            &[22, 3, 1, 0, 4, 2],
            &[22, 3, 1, 0, 1, 1, 23],
        ] {
            assert_eq!(progress(bytes), HelloProgress::NotTls, "{bytes:?}");
        }
    }

    #[test]
    fn any_bytes_are_read() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let length = random.usize(..300);
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            assert_ne!(progress(&bytes), HelloProgress::Complete);
            drop(HelloFacts::parse(&bytes));
            let hello = hello(&bytes, random.usize(1..400));
            assert_eq!(progress(&hello), HelloProgress::Complete);
            if let Some(facts) = HelloFacts::parse(&hello) {
                assert_eq!(facts.ja3().len(), 32);
                assert_eq!(facts.ja4().split('_').count(), 3);
            }
        }
    }

    #[test]
    fn a_changed_byte_does_no_harm() {
        let mut random = fastrand::Rng::with_seed(6);
        for _ in 0..20_000 {
            let mut hello = hello(EXTENSIONS, random.usize(1..200));
            let at = random.usize(..hello.len());
            *hello.get_mut(at).unwrap() = random.u8(..);
            let _ = progress(&hello);
            if let Some(facts) = HelloFacts::parse(&hello) {
                assert_eq!(facts.ja4().split('_').count(), 3);
            }
        }
    }
}
