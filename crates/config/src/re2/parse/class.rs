//! Bracket expressions and classes with names.

use super::RegexpParser;
use crate::re2::regexp::ByteSet;

/// `\n`.
pub(super) fn newline() -> ByteSet {
    ByteSet::range(b'\n', b'\n')
}

impl RegexpParser<'_> {
    /// `[…]`: single characters, ranges, escaped classes and `[:name:]`. All else is literal.
    pub(super) fn class(&mut self) -> Result<ByteSet, String> {
        let start = self.at;
        let missing = format!("missing ]: {}", &self.pattern[start..]);
        self.at += 1;
        let is_negated = self.bytes().starts_with(b"^");
        self.at += usize::from(is_negated);
        let first = self.at;
        let mut set = ByteSet::default();
        loop {
            match self.bytes() {
                [] => return Err(missing),
                [b']', ..] if self.at > first => break,
                [b'[', b':', ..] => {
                    if let Some(class) = self.posix_class()? {
                        set = set.and(class);
                        continue;
                    }
                }
                [b'\\', ..] => {
                    if let Some(class) = self.class_escape()? {
                        set = set.and(class);
                        continue;
                    }
                }
                _ => {}
            }
            let range = self.at;
            let low = self.class_character(&missing)?;
            let mut high = low;
            if matches!(self.bytes(), [b'-', next, ..] if *next != b']') {
                self.at += 1;
                high = self.class_character(&missing)?;
            }
            if high < low {
                return Err(self.invalid_range(range));
            }
            set = set.and(self.folded(ByteSet::range(low, high)));
        }
        self.at += 1;
        Ok(if is_negated { set.negated() } else { set })
    }

    fn class_character(&mut self, missing: &str) -> Result<u8, String> {
        match self.bytes() {
            [] => Err(missing.to_owned()),
            [b'\\', ..] => self.escaped_byte(),
            [byte, ..] => {
                self.at += 1;
                Ok(*byte)
            }
        }
    }

    fn folded(&self, set: ByteSet) -> ByteSet {
        match self.flags.fold_case {
            true => set.in_both_cases(),
            false => set,
        }
    }

    fn invalid_range(&self, start: usize) -> String {
        format!("invalid character class range: {}", self.since(start))
    }

    /// `[:name:]`; none if it does not end.
    fn posix_class(&mut self) -> Result<Option<ByteSet>, String> {
        let start = self.at;
        let Some(length) = self.pattern[start + 2..].find(":]") else {
            return Ok(None);
        };
        let name = &self.pattern[start + 2..start + 2 + length];
        self.at += length + 4;
        let (name, is_negated) = match name.strip_prefix('^') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let set = posix(name).ok_or_else(|| self.invalid_range(start))?;
        Ok(Some(self.signed(set, is_negated)))
    }

    fn signed(&self, set: ByteSet, is_negated: bool) -> ByteSet {
        match (self.folded(set), is_negated) {
            (set, true) => set.negated(),
            (set, false) => set,
        }
    }

    /// An escape that stands for a class: `\d`, `\pN`, `\p{Greek}` and the like; none if it is another.
    pub(super) fn class_escape(&mut self) -> Result<Option<ByteSet>, String> {
        let [b'\\', letter, ..] = self.bytes() else {
            return Ok(None);
        };
        let set = match letter.to_ascii_lowercase() {
            b'd' => ByteSet::range(b'0', b'9'),
            b's' => of(b"\t\n\x0c\r "),
            b'w' => word(),
            b'p' if self.bytes().len() > 2 => return self.unicode_class().map(Some),
            _ => return Ok(None),
        };
        self.at += 2;
        Ok(Some(self.signed(set, letter.is_ascii_uppercase())))
    }

    /// `\pN`, `\p{Greek}` or `\p{^Greek}`, as far as Latin-1 has them.
    fn unicode_class(&mut self) -> Result<ByteSet, String> {
        let start = self.at;
        let rest = &self.pattern[start..];
        let mut is_negated = rest.starts_with("\\P");
        let name = match rest[2..].strip_prefix('{') {
            Some(braced) => {
                let Some(end) = braced.find('}') else {
                    self.at = self.pattern.len();
                    return Err(self.invalid_range(start));
                };
                self.at += end + 4;
                &braced[..end]
            }
            None => {
                let length = rest[2..].chars().next().map_or(0, char::len_utf8);
                self.at += 2 + length;
                &rest[2..2 + length]
            }
        };
        let name = name.strip_prefix('^').map_or(name, |name| {
            is_negated = !is_negated;
            name
        });
        let set = unicode(name).ok_or_else(|| self.invalid_range(start))?;
        Ok(self.signed(set, is_negated))
    }
}

fn of(bytes: &[u8]) -> ByteSet {
    let sets = bytes.iter().map(|byte| ByteSet::range(*byte, *byte));
    sets.fold(ByteSet::default(), ByteSet::and)
}

fn matching(fits: fn(&u8) -> bool) -> ByteSet {
    of(&(0..=u8::MAX).filter(fits).collect::<Vec<u8>>())
}

fn word() -> ByteSet {
    matching(u8::is_ascii_alphanumeric).and(of(b"_"))
}

/// The class `[:name:]`, which is ASCII.
fn posix(name: &str) -> Option<ByteSet> {
    Some(match name {
        "alnum" => matching(u8::is_ascii_alphanumeric),
        "alpha" => matching(u8::is_ascii_alphabetic),
        "ascii" => matching(u8::is_ascii),
        "blank" => of(b"\t "),
        "cntrl" => matching(u8::is_ascii_control),
        "digit" => matching(u8::is_ascii_digit),
        "graph" => matching(u8::is_ascii_graphic),
        "lower" => matching(u8::is_ascii_lowercase),
        "print" => ByteSet::range(b' ', b'~'),
        "punct" => matching(u8::is_ascii_punctuation),
        "space" => of(b"\t\n\x0b\x0c\r "),
        "upper" => matching(u8::is_ascii_uppercase),
        "word" => word(),
        "xdigit" => matching(u8::is_ascii_hexdigit),
        _ => return None,
    })
}

/// The Latin-1 letters of a general category or script.
fn unicode(name: &str) -> Option<ByteSet> {
    if name == "Any" {
        return Some(ByteSet::default().negated());
    }
    if !name.starts_with(|c: char| c.is_ascii_uppercase()) || name.contains(['=', ':', '}']) {
        return None;
    }
    let parsed = regex_syntax::parse(&format!(r"\p{{{name}}}")).ok()?;
    let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = parsed.kind()
    else {
        return None;
    };
    let ranges = class.ranges().iter();
    let ranges = ranges.filter_map(|range| {
        let first = u8::try_from(range.start()).ok()?;
        Some(ByteSet::range(
            first,
            u8::try_from(range.end()).unwrap_or(u8::MAX),
        ))
    });
    Some(ranges.fold(ByteSet::default(), ByteSet::and))
}
