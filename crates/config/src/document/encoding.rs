//! Decodes the characters of a file: YAML may be UTF-8, UTF-16 or UTF-32, and its comments may contain invalid bytes.

use std::borrow::Cow;

use super::Node;
use super::NodeKind;
use crate::position::SourcePosition;

/// A decoded text, and the positions of bytes that could not be decoded.
pub(crate) struct Decoded<'a> {
    pub(crate) text: Cow<'a, str>,
    /// The lines and columns of bytes that could not be decoded, in order.
    broken: Vec<(u32, u32)>,
    /// The character that replaces each of them. It occurs nowhere else in the text.
    stand_in: char,
}

impl Decoded<'_> {
    /// The first position that could not be decoded.
    pub(crate) fn first_broken(&self) -> Option<(u32, u32)> {
        self.broken.first().copied()
    }

    /// The first position outside of comments that could not be decoded.
    pub(crate) fn broken_in(&self, root: &Node) -> Option<(u32, u32)> {
        if self.broken.is_empty() {
            return None;
        }
        let begin = self.begin_of_broken(root)?;
        let place = self.broken.iter().find(|place| **place >= begin);
        Some(place.copied().unwrap_or(begin))
    }

    /// The start of the first value or key that contains an undecodable position.
    fn begin_of_broken(&self, node: &Node) -> Option<(u32, u32)> {
        let holds = |text: &str, mark: &SourcePosition| {
            text.contains(self.stand_in)
                .then_some((mark.line, mark.column))
        };
        match &node.kind {
            NodeKind::String(text) => holds(text, &node.mark),
            NodeKind::List(items) => items.iter().find_map(|item| self.begin_of_broken(item)),
            NodeKind::Mapping(entries) => entries.iter().find_map(|(key, value)| {
                holds(&key.name, &key.mark).or_else(|| self.begin_of_broken(value))
            }),
            NodeKind::Null | NodeKind::Bool(..) | NodeKind::Number(..) => None,
        }
    }
}

/// Decodes UTF-8.
pub(crate) fn decode_utf8(bytes: &[u8]) -> Decoded<'_> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Decoded {
            text: text.into(),
            broken: Vec::new(),
            stand_in: char::REPLACEMENT_CHARACTER,
        },
        Err(_) => decode(bytes.utf8_chunks().flat_map(|chunk| {
            let broken = (!chunk.invalid().is_empty()).then_some(None);
            chunk.valid().chars().map(Some).chain(broken)
        })),
    }
}

/// Decodes YAML. Its first bytes indicate the encoding (YAML 1.2 section 5.2).
pub(crate) fn decode_yaml(bytes: &[u8]) -> Decoded<'_> {
    let decoded = match *bytes {
        [0, 0, 0xfe, 0xff, ..] | [0, 0, 0, _, ..] => decode_utf32(bytes, u32::from_be_bytes),
        [0xff, 0xfe, 0, 0, ..] | [_, 0, 0, 0, ..] => decode_utf32(bytes, u32::from_le_bytes),
        [0xfe, 0xff, ..] | [0, _, ..] => decode_utf16(bytes, u16::from_be_bytes),
        [0xff, 0xfe, ..] | [_, 0, ..] => decode_utf16(bytes, u16::from_le_bytes),
        _ => decode_utf8(bytes),
    };
    Decoded {
        text: match decoded.text {
            Cow::Borrowed(text) => text.strip_prefix('\u{feff}').unwrap_or(text).into(),
            Cow::Owned(text) => match text.strip_prefix('\u{feff}') {
                Some(rest) => rest.to_owned().into(),
                None => text.into(),
            },
        },
        ..decoded
    }
}

fn decode_utf16<'a>(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Decoded<'a> {
    let (units, rest) = bytes.as_chunks::<2>();
    let characters = char::decode_utf16(units.iter().map(|bytes| unit(*bytes)));
    let cut_off = (!rest.is_empty()).then_some(None);
    decode(characters.map(Result::ok).chain(cut_off))
}

fn decode_utf32<'a>(bytes: &[u8], unit: fn([u8; 4]) -> u32) -> Decoded<'a> {
    let (units, rest) = bytes.as_chunks::<4>();
    let characters = units.iter().map(|bytes| char::from_u32(unit(*bytes)));
    let cut_off = (!rest.is_empty()).then_some(None);
    decode(characters.chain(cut_off))
}

/// The text of `characters`. `None` is a position that could not be decoded.
fn decode<'a>(characters: impl Iterator<Item = Option<char>>) -> Decoded<'a> {
    let characters: Vec<Option<char>> = characters.collect();
    // A private-use character that the text does not contain.
    let mut stand_ins = ('\u{e000}'..='\u{f8ff}').filter(|c| !characters.contains(&Some(*c)));
    let stand_in = stand_ins.next().unwrap_or(char::REPLACEMENT_CHARACTER);
    let (mut line, mut column) = (1, 1);
    let mut broken = Vec::new();
    let mut text = String::with_capacity(characters.len());
    for character in characters {
        text.push(character.unwrap_or(stand_in));
        match character {
            Some('\n') => (line, column) = (line + 1, 1),
            Some('\u{feff}') => {}
            Some(_) => column += 1,
            None => {
                broken.push((line, column));
                column += 1;
            }
        }
    }
    Decoded {
        text: text.into(),
        broken,
        stand_in,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str, big: bool, width: usize) -> Vec<u8> {
        let bytes = |unit: u32| {
            let bytes = unit.to_be_bytes()[4 - width..].to_vec();
            if big {
                bytes
            } else {
                bytes.into_iter().rev().collect()
            }
        };
        match width {
            2 => text.encode_utf16().flat_map(|u| bytes(u.into())).collect(),
            _ => text.chars().flat_map(|c| bytes(c.into())).collect(),
        }
    }

    #[test]
    fn the_first_bytes_tell_the_encoding() {
        let text = "a: \u{e9}\u{1f600}\n";
        for (big, width) in [(true, 2), (false, 2), (true, 4), (false, 4)] {
            for mark in ["", "\u{feff}"] {
                let bytes = encoded(&format!("{mark}{text}"), big, width);
                let decoded = decode_yaml(&bytes);
                assert_eq!(decoded.text, text, "{big} {width} {mark:?}");
                assert_eq!(decoded.first_broken(), None);
            }
        }
        assert_eq!(decode_yaml(b"\xef\xbb\xbfa: b").text, "a: b");
        assert_eq!(decode_yaml(b"a").text, "a");
        assert_eq!(decode_yaml(b"").text, "");
    }

    #[test]
    fn what_is_broken_has_a_place() {
        for (bytes, place) in [
            (&b"a: 1\n# \xe9t\xe9\n"[..], (2, 3)),
            (b"\xc3\xa9: \xff", (1, 4)),
            (b"a\x00\x00\xd8b\x00", (1, 2)),
            (b"a\x00\n\x00b\x00c", (2, 2)),
        ] {
            assert_eq!(decode_yaml(bytes).first_broken(), Some(place), "{bytes:?}");
        }
    }
}
