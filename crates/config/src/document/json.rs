//! JSON with the extensions that protobuf's reader accepts: single quotes, bare keys, and a comma before a closing
//! bracket.

use super::Key;
use super::MAX_DEPTH;
use super::MAX_NODES;
use super::Node;
use super::NodeKind;
use super::SyntaxError;
use super::keep_last;
use crate::position::SourcePosition;

/// Reads the one value of `text`.
pub(crate) fn parse(text: &str, source: u8) -> Result<Node, SyntaxError> {
    let mut parser = JsonParser {
        rest: text,
        mark: SourcePosition {
            source,
            line: 1,
            column: 1,
        },
        depth: 0,
        nodes: 0,
    };
    parser.skip_space();
    let node = parser.value()?;
    parser.skip_space();
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(parser.error("malformed JSON: more text after the end of the object")),
    }
}

struct JsonParser<'a> {
    rest: &'a str,
    mark: SourcePosition,
    depth: usize,
    nodes: usize,
}

impl JsonParser<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        if next == '\n' {
            self.mark.line = self.mark.line.saturating_add(1);
            self.mark.column = 1;
        } else {
            self.mark.column = self.mark.column.saturating_add(1);
        }
        Some(next)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.next();
        }
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError {
            mark: self.mark,
            message: message.into(),
        }
    }

    fn expected(&self, expected: &str) -> SyntaxError {
        match self.peek() {
            Some(got) => self.error(format!("malformed JSON: expected {expected}, got {got:?}")),
            None => self.error(format!(
                "malformed JSON: expected {expected}, got the end of the text"
            )),
        }
    }

    fn value(&mut self) -> Result<Node, SyntaxError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.error(format!("more than {MAX_NODES} values")));
        }
        let mark = self.mark;
        let kind = match self.peek() {
            Some('{') => self.nested(Self::mapping)?,
            Some('[') => self.nested(Self::list)?,
            Some('"' | '\'') => NodeKind::String(self.string()?),
            Some('-' | '0'..='9') => self.number()?,
            _ => self.word()?,
        };
        Ok(Node { mark, kind })
    }

    fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<NodeKind, SyntaxError>,
    ) -> Result<NodeKind, SyntaxError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(format!(
                "more than {MAX_DEPTH} lists and mappings inside one another"
            )));
        }
        self.depth += 1;
        self.next();
        let kind = read(self);
        self.depth -= 1;
        kind
    }

    fn mapping(&mut self) -> Result<NodeKind, SyntaxError> {
        let mut entries = Vec::new();
        loop {
            self.skip_space();
            if self.peek() == Some('}') {
                break;
            }
            let key = self.key()?;
            self.skip_space();
            if self.peek() != Some(':') {
                return Err(self.expected("':'"));
            }
            self.next();
            self.skip_space();
            entries.push((key, self.value()?));
            if !self.comma('}')? {
                break;
            }
        }
        self.next();
        Ok(NodeKind::Mapping(keep_last(entries)))
    }

    fn list(&mut self) -> Result<NodeKind, SyntaxError> {
        let mut items = Vec::new();
        loop {
            self.skip_space();
            if self.peek() == Some(']') {
                break;
            }
            items.push(self.value()?);
            if !self.comma(']')? {
                break;
            }
        }
        self.next();
        Ok(NodeKind::List(items))
    }

    /// Skips a comma; false at the closing bracket.
    fn comma(&mut self, close: char) -> Result<bool, SyntaxError> {
        self.skip_space();
        match self.peek() {
            Some(',') => {
                self.next();
                Ok(true)
            }
            Some(got) if got == close => Ok(false),
            _ => Err(self.expected(&format!("',' or {close:?}"))),
        }
    }

    fn key(&mut self) -> Result<Key, SyntaxError> {
        let mark = self.mark;
        let name = match self.peek() {
            Some('"' | '\'') => self.string()?,
            Some('a'..='z' | 'A'..='Z' | '_' | '$') => self.letters(),
            _ => return Err(self.expected("a key")),
        };
        Ok(Key { mark, name })
    }

    fn letters(&mut self) -> String {
        let mut letters = String::new();
        while let Some(letter @ ('a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '$')) = self.peek() {
            letters.push(letter);
            self.next();
        }
        letters
    }

    fn word(&mut self) -> Result<NodeKind, SyntaxError> {
        let before = self.expected("a value");
        match self.letters().as_str() {
            "null" => Ok(NodeKind::Null),
            "true" => Ok(NodeKind::Bool(true, "true".to_owned())),
            "false" => Ok(NodeKind::Bool(false, "false".to_owned())),
            _ => Err(before),
        }
    }

    fn number(&mut self) -> Result<NodeKind, SyntaxError> {
        let mut number = String::new();
        while let Some(letter @ ('0'..='9' | '+' | '-' | '.' | 'e' | 'E')) = self.peek() {
            number.push(letter);
            self.next();
        }
        if number.parse::<f64>().is_err() {
            return Err(self.error(format!("malformed JSON: {number:?} is no number")));
        }
        Ok(NodeKind::Number(number.clone(), number))
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let quote = self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => return Err(self.error("malformed JSON: a string without end")),
                next if next == quote => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(letter) => text.push(letter),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let mark = self.mark;
        let malformed = || SyntaxError {
            mark,
            message: "malformed JSON: not an escape sequence".to_owned(),
        };
        Ok(match self.next().ok_or_else(malformed)? {
            letter @ ('"' | '\'' | '\\' | '/') => letter,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.code_unit().ok_or_else(malformed)?;
                let second = match first {
                    0xd800..0xdc00 => {
                        let marker = (self.next(), self.next()) == (Some('\\'), Some('u'));
                        Some(self.code_unit().filter(|_| marker).ok_or_else(malformed)?)
                    }
                    _ => None,
                };
                char::decode_utf16([first].into_iter().chain(second))
                    .next()
                    .and_then(Result::ok)
                    .ok_or_else(malformed)?
            }
            _ => return Err(malformed()),
        })
    }

    fn code_unit(&mut self) -> Option<u16> {
        let digits = self.rest.get(..4)?;
        let unit = u16::from_str_radix(digits, 16)
            .ok()
            .filter(|_| !digits.starts_with('+'))?;
        for _ in 0..4 {
            self.next();
        }
        Some(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_protobuf_reads() {
        let string = |text: &str| NodeKind::String(text.to_owned());
        for (text, expected) in [
            (r#""a\u00e9\ud83d\ude00\/\n""#, string("aé😀/\n")),
            (r"'it\'s'", string("it's")),
            ("\"raw\ttab\"", string("raw\ttab")),
            (
                "1.50",
                NodeKind::Number("1.50".to_owned(), "1.50".to_owned()),
            ),
            ("null", NodeKind::Null),
        ] {
            assert_eq!(parse(text, 0).unwrap().kind, expected, "{text}");
        }
        let node = parse("{a: [1, {},],\n \"b\": 'c', 'a': true,} ", 0).unwrap();
        let NodeKind::Mapping(entries) = node.kind else {
            unreachable!("a mapping")
        };
        let names: Vec<&str> = entries.iter().map(|(key, _)| key.name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!((entries[0].1.mark.line, entries[0].1.mark.column), (2, 7));
    }

    #[test]
    fn refuses_what_protobuf_refuses() {
        for text in [
            "",
            "  ",
            "{",
            "{\"a\":1} x",
            "// c\n{}",
            "True",
            "yes",
            "[1 2]",
            "{1:2}",
            "\"\\x41\"",
            "\"\\ud83d\"",
            "1.2.3",
            "\"open",
        ] {
            assert!(parse(text, 0).is_err(), "{text}");
        }
        assert!(parse(&"[".repeat(100_000), 0).is_err());
    }
}
