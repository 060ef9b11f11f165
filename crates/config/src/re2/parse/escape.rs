//! What starts with a backslash.

use super::RegexpParser;
use crate::re2::regexp::Look;
use crate::re2::regexp::Regexp;

impl RegexpParser<'_> {
    /// An escape outside of brackets.
    pub(super) fn escaped(&mut self) -> Result<(), String> {
        let node = match self.bytes() {
            [_, b'b', ..] => Regexp::Look(Look::WordBoundary),
            [_, b'B', ..] => Regexp::Look(Look::NoWordBoundary),
            [_, b'A', ..] => Regexp::Look(Look::TextStart),
            [_, b'z', ..] => Regexp::Look(Look::TextEnd),
            [_, b'C', ..] => Regexp::AnyByte,
            [_, b'Q', ..] => {
                let quoted = &self.pattern[self.at + 2..];
                let (text, end) = match quoted.find("\\E") {
                    Some(end) => (&quoted[..end], end + 2),
                    None => (quoted, quoted.len()),
                };
                text.bytes().for_each(|byte| self.literal(byte));
                self.at += 2 + end;
                return Ok(());
            }
            _ => {
                match self.class_escape()? {
                    Some(set) => self.push_class(set),
                    None => {
                        let byte = self.escaped_byte()?;
                        self.literal(byte);
                    }
                }
                return Ok(());
            }
        };
        self.at += 2;
        self.push(node);
        Ok(())
    }

    /// An escape that stands for one byte.
    pub(super) fn escaped_byte(&mut self) -> Result<u8, String> {
        let start = self.at;
        let Some(letter) = self.bytes().get(1).copied() else {
            return Err("trailing \\".to_owned());
        };
        self.at += 2;
        let byte = match letter {
            b'a' => Some(0x07),
            b'f' => Some(0x0c),
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'v' => Some(0x0b),
            b'x' => self.hexadecimal(),
            // A single digit other than 0 would be a reference to a group.
            b'1'..=b'7' if !matches!(self.bytes(), [b'0'..=b'7', ..]) => None,
            b'0'..=b'7' => self.octal(letter - b'0'),
            // An escaped punctuation character is itself.
            other if other.is_ascii() && !other.is_ascii_alphanumeric() => Some(other),
            _ => None,
        };
        byte.ok_or_else(|| format!("invalid escape sequence: {}", self.since(start)))
    }

    /// At most two more digits.
    fn octal(&mut self, first: u8) -> Option<u8> {
        let mut code = u32::from(first);
        for _ in 0..2 {
            let [digit @ b'0'..=b'7', ..] = self.bytes() else {
                break;
            };
            code = code * 8 + u32::from(digit - b'0');
            self.at += 1;
        }
        u8::try_from(code).ok()
    }

    /// `7f` or `{7f}`. What was read is in the error.
    fn hexadecimal(&mut self) -> Option<u8> {
        let next = |parser: &mut Self| {
            let byte = parser.bytes().first().copied();
            parser.at += usize::from(byte.is_some());
            byte
        };
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let first = next(self);
        if first != Some(b'{') {
            let second = next(self);
            return u8::try_from(digit(first)? * 16 + digit(second)?).ok();
        }
        let mut code = None;
        loop {
            let byte = next(self);
            match digit(byte) {
                Some(digit) => {
                    let so_far = code.map_or(0, u32::from);
                    code = Some(u8::try_from(so_far * 16 + digit).ok()?);
                }
                None => return code.filter(|_| byte == Some(b'}')),
            }
        }
    }
}
