//! Writes the tree of an expression for the `regex` crate.

use std::fmt::Write;

use super::regexp::Count;
use super::regexp::Look;
use super::regexp::Regexp;

/// What a letter of the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Letters {
    /// A byte (Latin-1), for the `regex` crate with `unicode` off.
    Bytes,
    /// A code point, for the crate's default. A class that ends with the last letter of Latin-1 has all letters above
    /// too, as a negated one does.
    CodePoints,
}

/// The same expression in the `regex` crate's syntax.
pub(super) fn write(node: &Regexp, letters: Letters) -> String {
    let mut text = String::new();
    write_to(node, letters, &mut text).unwrap_or_default(); // writing to a String cannot fail
    text
}

fn write_to(node: &Regexp, letters: Letters, to: &mut String) -> std::fmt::Result {
    match node {
        Regexp::NoMatch => to.push_str(match letters {
            Letters::Bytes => r"[^\x00-\xff]",
            Letters::CodePoints => r"[^\x00-\x{10ffff}]",
        }),
        Regexp::Empty => to.push_str("(?:)"),
        Regexp::Literal(literal) => {
            for byte in &literal.bytes {
                if literal.fold_case && byte.is_ascii_alphabetic() {
                    let byte = char::from(*byte);
                    let (lower, upper) = (byte.to_ascii_lowercase(), byte.to_ascii_uppercase());
                    write!(to, "[{upper}{lower}]")?;
                } else {
                    write!(to, r"\x{byte:02x}")?;
                }
            }
        }
        Regexp::Class(set) => {
            let ranges = set.ranges();
            if ranges.is_empty() {
                return write_to(&Regexp::NoMatch, letters, to);
            }
            to.push('[');
            for (first, last) in ranges {
                match (letters, last) {
                    (Letters::CodePoints, u8::MAX) => write!(to, r"\x{first:02x}-\x{{10ffff}}")?,
                    _ => write!(to, r"\x{first:02x}-\x{last:02x}")?,
                }
            }
            to.push(']');
        }
        Regexp::AnyChar | Regexp::AnyByte => to.push_str("(?s:.)"),
        Regexp::Look(look) => to.push_str(match look {
            Look::LineStart => "(?m:^)",
            Look::LineEnd => "(?m:$)",
            Look::TextStart => r"\A",
            Look::TextEnd | Look::Dollar => r"\z",
            Look::WordBoundary => r"(?-u:\b)",
            Look::NoWordBoundary => r"(?-u:\B)",
        }),
        Regexp::Capture(node) => {
            to.push('(');
            write_to(node, letters, to)?;
            to.push(')');
        }
        Regexp::Repeat(repeat) => {
            to.push_str("(?:");
            write_to(&repeat.node, letters, to)?;
            to.push(')');
            match repeat.count {
                Count::Star => to.push('*'),
                Count::Plus => to.push('+'),
                Count::Quest => to.push('?'),
                Count::Range(least, None) => write!(to, "{{{least},}}")?,
                Count::Range(least, Some(most)) => write!(to, "{{{least},{most}}}")?,
            }
            if repeat.flags.lazy {
                to.push('?');
            }
        }
        Regexp::Concat(parts) => {
            for part in parts {
                write_to(part, letters, to)?;
            }
        }
        Regexp::Alternate(parts) => {
            to.push_str("(?:");
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    to.push('|');
                }
                write_to(part, letters, to)?;
            }
            to.push(')');
        }
    }
    Ok(())
}
