//! Reads RE2's syntax, with its error messages.
//!
//! Envoy reads expressions as Latin-1: each byte of a letter outside ASCII is a letter of its own, and so `é?` makes only
//! its second byte optional.

mod class;
mod escape;

use super::factor::factor;
use super::regexp::Count;
use super::regexp::Flags;
use super::regexp::Literal;
use super::regexp::Look;
use super::regexp::Regexp;

/// RE2's limit on a counted repetition, and on the product of nested ones.
const MAX_REPEAT: u32 = 1000;

/// The limit on nested groups, so that no expression exhausts the stack. RE2 has none.
const MAX_DEPTH: usize = 250;

/// The tree of `pattern`.
pub(super) fn parse(pattern: &str) -> Result<Regexp, String> {
    let mut parser = RegexpParser {
        pattern,
        at: 0,
        flags: Flags::default(),
        stack: Vec::new(),
        depth: 0,
        last_repeat: None,
    };
    while parser.at < pattern.len() {
        parser.token()?;
    }
    parser.alternate();
    match (parser.stack.pop(), parser.stack.is_empty()) {
        (Some(StackItem::Regexp(node)), true) => Ok(node),
        _ => Err(format!("missing ): {pattern}")),
    }
}

/// A parser with a stack, as RE2's, because what becomes one literal or one class depends on it.
struct RegexpParser<'a> {
    pattern: &'a str,
    at: usize,
    flags: Flags,
    stack: Vec<StackItem>,
    depth: usize,
    /// Where the operator before this token starts, if that was a repetition.
    last_repeat: Option<usize>,
}

enum StackItem {
    Regexp(Regexp),
    /// `(`, with the flags before it.
    Open {
        flags: Flags,
        captures: bool,
    },
    /// `|`. The alternatives before it are below.
    Bar,
}

impl<'a> RegexpParser<'a> {
    fn bytes(&self) -> &'a [u8] {
        &self.pattern.as_bytes()[self.at..]
    }

    /// The text from `start` up to here. Errors quote whole characters.
    fn since(&self, start: usize) -> &'a str {
        &self.pattern[start..self.pattern.ceil_char_boundary(self.at)]
    }

    fn token(&mut self) -> Result<(), String> {
        let last_repeat = self.last_repeat.take();
        let bytes = self.bytes();
        match bytes[0] {
            b'(' if bytes.starts_with(b"(?") => return self.flags_or_group(),
            b'(' => {
                self.open(true)?;
                self.at += 1;
            }
            b'|' => {
                self.bar();
                self.at += 1;
            }
            b')' => {
                self.close()?;
                self.at += 1;
            }
            b'^' => self.look(if self.flags.multi_line {
                Look::LineStart
            } else {
                Look::TextStart
            }),
            b'$' => self.look(if self.flags.multi_line {
                Look::LineEnd
            } else {
                Look::Dollar
            }),
            b'.' => {
                self.at += 1;
                match self.flags.dot_newline {
                    true => self.push(Regexp::AnyChar),
                    false => self.push_class(class::newline().negated()),
                }
            }
            b'[' => {
                let set = self.class()?;
                self.push_class(set);
            }
            b'*' => return self.repeat(Count::Star, 1, last_repeat),
            b'+' => return self.repeat(Count::Plus, 1, last_repeat),
            b'?' => return self.repeat(Count::Quest, 1, last_repeat),
            b'{' => {
                if let Some((count, length)) = counted(bytes) {
                    return self.repeat(count, length, last_repeat);
                }
                self.literal(b'{');
                self.at += 1;
            }
            b'\\' => return self.escaped(),
            byte => {
                self.literal(byte);
                self.at += 1;
            }
        }
        Ok(())
    }

    fn look(&mut self, look: Look) {
        self.at += 1;
        self.push(Regexp::Look(look));
    }

    fn push(&mut self, node: Regexp) {
        self.join_literals();
        self.stack.push(StackItem::Regexp(node));
    }

    /// A class of one byte is a literal, and so is one of a letter in both cases.
    fn push_class(&mut self, set: super::regexp::ByteSet) {
        let mut bytes = set.bytes();
        let node = match (bytes.next(), bytes.next(), bytes.next()) {
            (Some(byte), None, _) => self.literal_node(byte),
            (Some(upper), Some(lower), None)
                if upper.is_ascii_uppercase() && lower == upper.to_ascii_lowercase() =>
            {
                Regexp::Literal(Literal {
                    bytes: vec![lower],
                    fold_case: true,
                })
            }
            _ => Regexp::Class(set),
        };
        self.push(node);
    }

    fn literal_node(&self, byte: u8) -> Regexp {
        Regexp::Literal(Literal {
            bytes: vec![byte],
            fold_case: self.flags.fold_case,
        })
    }

    fn literal(&mut self, byte: u8) {
        let node = self.literal_node(match self.flags.fold_case {
            true => byte.to_ascii_lowercase(),
            false => byte,
        });
        self.push(node);
    }

    /// Makes one literal of the two on top of the stack. Called when something is pushed, because a repetition operator
    /// applies only to the last byte.
    fn join_literals(&mut self) {
        let [
            ..,
            StackItem::Regexp(Regexp::Literal(first)),
            StackItem::Regexp(Regexp::Literal(second)),
        ] = &mut self.stack[..]
        else {
            return;
        };
        if first.fold_case == second.fold_case {
            first.bytes.append(&mut second.bytes);
            self.stack.pop();
        }
    }

    fn open(&mut self, captures: bool) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!(
                "groups are nested more than {MAX_DEPTH} deep: {}",
                self.pattern
            ));
        }
        self.join_literals();
        let flags = self.flags;
        self.stack.push(StackItem::Open { flags, captures });
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        self.alternate();
        let top = (self.stack.pop(), self.stack.pop());
        let (Some(StackItem::Regexp(node)), Some(StackItem::Open { flags, captures })) = top else {
            return Err(format!("unexpected ): {}", self.pattern));
        };
        self.depth -= 1;
        self.flags = flags;
        self.push(match captures {
            true => Regexp::Capture(Box::new(node)),
            false => node,
        });
        Ok(())
    }

    /// Ends an alternative: puts it below the bar, after those before it.
    fn bar(&mut self) {
        self.concatenate();
        let [.., StackItem::Bar, StackItem::Regexp(_)] = &self.stack[..] else {
            self.stack.push(StackItem::Bar);
            return;
        };
        let last = self.stack.pop();
        self.stack.pop();
        let Some(StackItem::Regexp(last)) = last else {
            return; // was looked at above
        };
        let is_any = |node: &Regexp| *node == Regexp::AnyChar;
        let is_byte =
            |node: &Regexp| is_any(node) || node.is_one_byte() && *node != Regexp::AnyByte;
        match self.stack.last_mut() {
            // Any character stands for the single character before or after it.
            Some(StackItem::Regexp(before)) if is_any(before) && is_byte(&last) => {}
            Some(StackItem::Regexp(before)) if is_any(&last) && is_byte(before) => *before = last,
            _ => self.stack.push(StackItem::Regexp(last)),
        }
        self.stack.push(StackItem::Bar);
    }

    fn concatenate(&mut self) {
        self.join_literals();
        let nodes = self.nodes_on_top();
        let mut parts = Vec::with_capacity(nodes.len());
        for node in nodes {
            match node {
                Regexp::Concat(inner) => parts.extend(inner),
                node => parts.push(node),
            }
        }
        self.stack.push(StackItem::Regexp(Regexp::concat(parts)));
    }

    fn alternate(&mut self) {
        self.bar();
        self.stack.pop();
        let mut nodes = self.nodes_on_top();
        let node = match nodes.len() {
            1 => nodes.remove(0),
            _ => {
                let mut parts = Vec::with_capacity(nodes.len());
                for node in nodes {
                    match node {
                        Regexp::Alternate(inner) => parts.extend(inner),
                        node => parts.push(node),
                    }
                }
                Regexp::alternate(factor(parts))
            }
        };
        self.stack.push(StackItem::Regexp(node));
    }

    /// Takes the nodes above the last bar or parenthesis.
    fn nodes_on_top(&mut self) -> Vec<Regexp> {
        let marker = self
            .stack
            .iter()
            .rposition(|i| !matches!(i, StackItem::Regexp(_)));
        let nodes = self.stack.drain(marker.map_or(0, |at| at + 1)..);
        let nodes = nodes.filter_map(|item| match item {
            StackItem::Regexp(node) => Some(node),
            _ => None,
        });
        nodes.collect()
    }

    /// A repetition operator of `length` bytes, and the `?` that makes it lazy.
    fn repeat(
        &mut self,
        count: Count,
        length: usize,
        last_repeat: Option<usize>,
    ) -> Result<(), String> {
        let start = self.at;
        self.at += length;
        let mut flags = self.flags;
        if self.bytes().starts_with(b"?") {
            self.at += 1;
            flags.lazy = !flags.lazy;
        }
        let operator = self.since(start);
        if let Some(last) = last_repeat {
            let both = self.since(last);
            return Err(format!("bad repetition operator: {both}"));
        }
        let too_large = || format!("invalid repetition size: {operator}");
        let (least, most) = count.bounds();
        if most.is_some_and(|most| most < least || most > MAX_REPEAT) || least > MAX_REPEAT {
            return Err(too_large());
        }
        let Some(StackItem::Regexp(node)) = self
            .stack
            .pop_if(|item| matches!(item, StackItem::Regexp(_)))
        else {
            return Err(format!("no argument for repetition operator: {operator}"));
        };
        let node = Regexp::repeat(node, count, flags);
        if least.max(most.unwrap_or(0)) >= 2 && repetitions(&node) > MAX_REPEAT {
            return Err(too_large());
        }
        self.stack.push(StackItem::Regexp(node));
        self.last_repeat = Some(start);
        Ok(())
    }

    /// `(?flags)`, `(?flags:` or a named group.
    fn flags_or_group(&mut self) -> Result<(), String> {
        let start = self.at;
        let bytes = self.bytes();
        let is_look_behind = bytes.starts_with(b"(?<=") || bytes.starts_with(b"(?<!");
        if is_look_behind || bytes.starts_with(b"(?=") || bytes.starts_with(b"(?!") {
            self.at += if is_look_behind { 4 } else { 3 };
            return Err(self.bad_operator(start));
        }
        if bytes.starts_with(b"(?P<") || bytes.starts_with(b"(?<") {
            return self.named_group();
        }
        self.at += 2;
        let mut flags = self.flags;
        let mut value = true;
        let mut saw_flag = false;
        loop {
            let Some(letter) = self.bytes().first() else {
                return Err(format!("missing ): {}", self.pattern));
            };
            self.at += 1;
            match letter {
                b'i' => flags.fold_case = value,
                b'm' => flags.multi_line = value,
                b's' => flags.dot_newline = value,
                b'U' => flags.lazy = value,
                b'-' if value => {
                    value = false;
                    saw_flag = false;
                    continue;
                }
                b':' | b')' if value || saw_flag => {
                    if *letter == b':' {
                        self.open(false)?;
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => return Err(self.bad_operator(start)),
            }
            saw_flag = true;
        }
    }

    fn bad_operator(&self, start: usize) -> String {
        format!("invalid perl operator: {}", self.since(start))
    }

    /// `(?P<name>` or `(?<name>`. Nothing refers to groups by name.
    fn named_group(&mut self) -> Result<(), String> {
        let rest = &self.pattern[self.at..];
        let name_on = rest.trim_start_matches("(?").trim_start_matches('P');
        let start = rest.len() - name_on.len() + 1;
        let end = rest
            .find('>')
            .ok_or_else(|| format!("invalid named capture group: {rest}"))?;
        let fits = |b: u8| b == b'_' || b.is_ascii_digit() || char::from(b).is_alphabetic();
        let name = rest.get(start..end).unwrap_or_default();
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(format!("invalid named capture group: {}", &rest[..=end]));
        }
        self.open(true)?;
        self.at += end + 1;
        Ok(())
    }
}

/// How often `node` repeats its innermost part by counted repetitions.
fn repetitions(node: &Regexp) -> u32 {
    let most = |nodes: &[Regexp]| nodes.iter().map(repetitions).max().unwrap_or(1);
    match node {
        Regexp::Capture(node) => repetitions(node),
        Regexp::Concat(parts) | Regexp::Alternate(parts) => most(parts),
        Regexp::Repeat(repeat) => {
            let times = match repeat.count {
                Count::Range(least, most) => most.unwrap_or(least).max(1),
                _ => 1,
            };
            repetitions(&repeat.node).saturating_mul(times)
        }
        _ => 1,
    }
}

/// `{n}`, `{n,}` or `{n,m}` at the start of `text`, and its length; anything else is a literal brace in RE2.
fn counted(text: &[u8]) -> Option<(Count, usize)> {
    let number = |at: &mut usize| -> Option<u32> {
        let start = *at;
        while text.get(*at).is_some_and(u8::is_ascii_digit) {
            *at += 1;
        }
        let digits = std::str::from_utf8(&text[start..*at]).ok()?;
        let fits = digits == "0" || !digits.starts_with('0') && digits.len() <= 9;
        fits.then(|| digits.parse().ok())?
    };
    let mut at = 1;
    let least = number(&mut at)?;
    let mut most = Some(least);
    if text.get(at) == Some(&b',') {
        at += 1;
        most = match text.get(at) {
            Some(b'}') => None,
            _ => Some(number(&mut at)?),
        };
    }
    (text.get(at) == Some(&b'}')).then_some((Count::Range(least, most), at + 1))
}
