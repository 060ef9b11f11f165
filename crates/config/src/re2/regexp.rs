//! The tree of a regular expression, and the sets of bytes in it.

/// A regular expression. Its operators are RE2's, so that the size of RE2's program can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Regexp {
    /// Matches nothing, not even an empty text.
    NoMatch,
    /// Matches the empty text.
    Empty,
    /// One byte or more.
    Literal(Literal),
    /// One byte of a set.
    Class(ByteSet),
    /// `.` with the flag `s`.
    AnyChar,
    /// `\C`.
    AnyByte,
    /// A condition on the position.
    Look(Look),
    /// A group in parentheses.
    Capture(Box<Regexp>),
    /// A repeated part.
    Repeat(Box<Repeat>),
    /// Parts one after another.
    Concat(Vec<Regexp>),
    /// Parts of which one matches, the first if possible.
    Alternate(Vec<Regexp>),
}

/// Bytes to find as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) bytes: Vec<u8>,
    /// Whether ASCII letters match in both cases.
    pub(super) fold_case: bool,
}

/// A part and how often it may occur.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repeat {
    pub(super) node: Regexp,
    pub(super) count: Count,
    /// The flags at the operator.
    pub(super) flags: Flags,
}

/// How often a part may occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// `*`
    Star,
    /// `+`
    Plus,
    /// `?`
    Quest,
    /// `{min}`, `{min,}` or `{min,max}`
    Range(u32, Option<u32>),
}

/// A condition on the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// `^` with the flag `m`.
    LineStart,
    /// `$` with the flag `m`.
    LineEnd,
    /// `^` or `\A`
    TextStart,
    /// `\z`
    TextEnd,
    /// `$`, which RE2 does not take for equal to `\z` when it looks for common parts.
    Dollar,
    /// `\b`
    WordBoundary,
    /// `\B`
    NoWordBoundary,
}

/// What `(?flags)` sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// `i`
    pub(super) fold_case: bool,
    /// `m`
    pub(super) multi_line: bool,
    /// `s`
    pub(super) dot_newline: bool,
    /// `U`, and each lazy operator.
    pub(super) lazy: bool,
}

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByteSet([u128; 2]);

impl Regexp {
    /// One byte, a set of them, or any byte: what RE2 merges and factors out freely.
    pub(super) fn is_one_byte(&self) -> bool {
        match self {
            Regexp::Literal(literal) => literal.bytes.len() == 1,
            Regexp::Class(_) | Regexp::AnyChar | Regexp::AnyByte => true,
            _ => false,
        }
    }

    /// Equal but for the flags that do not matter.
    pub(super) fn is_same(&self, other: &Regexp) -> bool {
        match (self, other) {
            (Regexp::Repeat(a), Regexp::Repeat(b)) => {
                a.count == b.count && a.flags.lazy == b.flags.lazy && a.node.is_same(&b.node)
            }
            _ => self == other,
        }
    }

    /// `nodes` one after another.
    pub(super) fn concat(mut nodes: Vec<Regexp>) -> Regexp {
        match nodes.len() {
            0 => Regexp::Empty,
            1 => nodes.remove(0),
            _ => Regexp::Concat(nodes),
        }
    }

    /// One of `nodes`.
    pub(super) fn alternate(mut nodes: Vec<Regexp>) -> Regexp {
        match nodes.len() {
            0 => Regexp::NoMatch,
            1 => nodes.remove(0),
            _ => Regexp::Alternate(nodes),
        }
    }

    /// `node` repeated; `**`, `+*` and the like become one operator.
    pub(super) fn repeat(node: Regexp, count: Count, flags: Flags) -> Regexp {
        match node {
            Regexp::Repeat(mut inner)
                if inner.flags == flags
                    && !matches!(count, Count::Range(..))
                    && !matches!(inner.count, Count::Range(..)) =>
            {
                if inner.count != count {
                    inner.count = Count::Star;
                }
                Regexp::Repeat(inner)
            }
            node => Regexp::Repeat(Box::new(Repeat { node, count, flags })),
        }
    }
}

impl Count {
    /// The least and the largest number of times.
    pub(super) fn bounds(self) -> (u32, Option<u32>) {
        match self {
            Count::Star => (0, None),
            Count::Plus => (1, None),
            Count::Quest => (0, Some(1)),
            Count::Range(least, most) => (least, most),
        }
    }
}

impl ByteSet {
    /// The bytes from `first` to `last`.
    pub(super) fn range(first: u8, last: u8) -> ByteSet {
        let mut set = ByteSet::default();
        for byte in first..=last {
            set.0[usize::from(byte >> 7)] |= 1 << (byte & 127);
        }
        set
    }

    pub(super) fn contains(self, byte: u8) -> bool {
        self.0[usize::from(byte >> 7)] >> (byte & 127) & 1 == 1
    }

    pub(super) fn and(self, other: ByteSet) -> ByteSet {
        ByteSet([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    pub(super) fn negated(self) -> ByteSet {
        ByteSet([!self.0[0], !self.0[1]])
    }

    /// With the ASCII letters of the other case.
    pub(super) fn in_both_cases(self) -> ByteSet {
        let other = |byte: u8| match byte.is_ascii_lowercase() {
            true => byte.to_ascii_uppercase(),
            false => byte.to_ascii_lowercase(),
        };
        self.bytes().fold(self, |set, byte| {
            set.and(ByteSet::range(other(byte), other(byte)))
        })
    }

    pub(super) fn bytes(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |byte| self.contains(*byte))
    }

    /// The longest ranges, in order.
    pub(super) fn ranges(self) -> Vec<(u8, u8)> {
        let mut ranges: Vec<(u8, u8)> = Vec::new();
        for byte in self.bytes() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == byte => *last = byte,
                _ => ranges.push((byte, byte)),
            }
        }
        ranges
    }
}
