//! Reads YAML from the parser's events: the first document of the text.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::Event;
use saphyr_parser::Marker;
use saphyr_parser::Parser;
use saphyr_parser::ScalarStyle;
use saphyr_parser::ScanError;
use saphyr_parser::Span;
use saphyr_parser::Tag;

use super::Key;
use super::MAX_DEPTH;
use super::MAX_NODES;
use super::Node;
use super::NodeKind;
use super::SyntaxError;
use super::keep_last;
use super::plain;
use super::tabs::Lines;
use crate::position::SourcePosition;

/// Reads the first document of `text`; `None` when there is none.
pub(crate) fn parse(text: &str, source: u8) -> Result<Option<Node>, SyntaxError> {
    let stand_in = stand_in_for_nul(text);
    let mut text = match stand_in {
        Some(letter) => Cow::Owned(text.replace('\0', letter.encode_utf8(&mut [0; 4]))),
        None => Cow::Borrowed(text),
    };
    let mut budget = RETRY_BYTES;
    loop {
        match parse_strictly(&text, stand_in, source) {
            Err(Failure {
                error,
                after_tab: Some(index),
            }) => {
                budget = budget.checked_sub(text.len()).ok_or(error)?;
                text = Cow::Owned(without_tabs_before(&text, index));
            }
            Err(Failure {
                error,
                after_tab: None,
            }) => return Err(error),
            Ok(root) => return Ok(root),
        }
    }
}

/// The character that replaces each NUL, which our parser refuses and yaml-cpp accepts: a private-use character that is
/// not in the text. `None` for a text without NUL, as almost all are.
fn stand_in_for_nul(text: &str) -> Option<char> {
    if !text.contains('\0') {
        return None;
    }
    ('\u{e000}'..='\u{f8ff}').find(|letter| !text.contains(*letter))
}

/// yaml-cpp accepts `key:<tab>value`, but our parser does not. Such a tab is replaced by a space and the text is parsed
/// again, until this much has been parsed.
const RETRY_BYTES: usize = 64 << 20;

struct Failure {
    error: SyntaxError,
    /// The index of the character after a tab that should have been a space.
    after_tab: Option<usize>,
}

impl From<SyntaxError> for Failure {
    fn from(error: SyntaxError) -> Self {
        Self {
            error,
            after_tab: None,
        }
    }
}

fn parse_strictly(text: &str, stand_in: Option<char>, source: u8) -> Result<Option<Node>, Failure> {
    let mut builder = TreeBuilder {
        stand_in,
        source,
        ..TreeBuilder::default()
    };
    let lines = Lines::with_tabs(text);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Failure {
            after_tab: builder.tolerable_tab(&error, text),
            error: SyntaxError {
                mark: builder.mark(*error.marker()),
                message: format!("malformed YAML: {}", error.info()),
            },
        })?;
        let mark = builder.mark(span.start);
        if let Some(lines) = &lines {
            builder.look_for_tabs(&event, span, lines)?;
        }
        builder.event(event, mark)?;
        if builder.root.is_some() {
            break;
        }
    }
    Ok(builder.root)
}

/// The run of tabs and spaces before character `index`.
fn blanks_before(text: &str, index: usize) -> &str {
    let end = text
        .char_indices()
        .nth(index)
        .map_or(text.len(), |(offset, _)| offset);
    let before = &text[..end];
    &before[before.trim_end_matches(['\t', ' ']).len()..]
}

/// The text with spaces for that run.
fn without_tabs_before(text: &str, index: usize) -> String {
    let end = text
        .char_indices()
        .nth(index)
        .map_or(text.len(), |(offset, _)| offset);
    let blanks = blanks_before(text, index).len();
    [&text[..end - blanks], &" ".repeat(blanks), &text[end..]].concat()
}

#[derive(Default)]
struct TreeBuilder {
    source: u8,
    /// The character that replaces NUL.
    stand_in: Option<char>,
    root: Option<Node>,
    stack: Vec<OpenCollection>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    /// The required indentation of each open list or mapping; 0 inside brackets. Kept only for texts with tabs.
    indents: Vec<usize>,
}

/// A list or mapping that has not ended.
struct OpenCollection {
    anchor: usize,
    mark: SourcePosition,
    open: Open,
}

enum Open {
    List(Vec<Node>),
    Mapping {
        entries: Vec<(Key, Node)>,
        key: Option<PendingKey>,
    },
}

/// A key whose value comes next.
enum PendingKey {
    Keep(Key),
    /// Tagged `!ignore`: the entry is left out.
    Ignore,
}

impl TreeBuilder {
    fn mark(&self, at: Marker) -> SourcePosition {
        let clamp = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        SourcePosition {
            source: self.source,
            line: clamp(at.line()),
            column: clamp(at.col().saturating_add(1)),
        }
    }

    fn event(&mut self, event: Event<'_>, mark: SourcePosition) -> Result<(), SyntaxError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(Scalar { text, style, tag }, anchor, mark)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(error(mark, "an alias inside the value that it refers to"));
                };
                // Counted before the copy: nested aliases can expand to more than fits in memory.
                let size = node.size();
                self.count(size, mark)?;
                self.anchors
                    .get(&anchor)
                    .cloned()
                    .map_or(Ok(()), |node| self.add(node))
            }
            Event::SequenceStart(anchor, _) => self.open(anchor, mark, Open::List(Vec::new())),
            Event::MappingStart(anchor, _) => self.open(
                anchor,
                mark,
                Open::Mapping {
                    entries: Vec::new(),
                    key: None,
                },
            ),
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    /// The index of the character after a tab that our parser refuses and yaml-cpp accepts: after the colon of a key,
    /// and before the line that ends a plain text in brackets.
    fn tolerable_tab(&self, error: &ScanError, text: &str) -> Option<usize> {
        let index = error.marker().index();
        if error
            .info()
            .contains("must be followed by a valid YAML whitespace")
        {
            return Some(index).filter(|index| blanks_before(text, *index).contains('\t'));
        }
        let is_in_brackets = self.indents.last() == Some(&0);
        if !is_in_brackets || !error.info().contains("found a tab") {
            return None;
        }
        let rest = text.chars().enumerate().skip(index);
        let mut next_lines = rest.skip_while(|(_, letter)| *letter != '\n');
        let (end, _) = next_lines.find(|(_, letter)| !letter.is_whitespace())?;
        Some(end).filter(|end| blanks_before(text, *end).contains('\t'))
    }

    /// Tracks the columns of open lists and mappings, and refuses a tab where a plain text could continue.
    fn look_for_tabs(
        &mut self,
        event: &Event<'_>,
        span: Span,
        lines: &Lines<'_>,
    ) -> Result<(), SyntaxError> {
        match event {
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                // Inside brackets, indentation does not matter.
                let is_flow = lines.is_flow(span.start) || self.indents.last() == Some(&0);
                self.indents
                    .push(if is_flow { 0 } else { span.start.col() + 1 });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.indents.pop();
            }
            Event::Scalar(_, ScalarStyle::Plain, ..) => {
                let indent = self.indents.last().copied().unwrap_or_default();
                if let Some(line) = lines.tab_after(span.end, indent) {
                    let line = u32::try_from(line).unwrap_or(u32::MAX);
                    let mark = SourcePosition {
                        source: self.source,
                        line,
                        column: 1,
                    };
                    return Err(error(
                        mark,
                        "malformed YAML: a tab in the place of indentation",
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        mut scalar: Scalar<'_>,
        anchor: usize,
        mark: SourcePosition,
    ) -> Result<(), SyntaxError> {
        self.count(1, mark)?;
        if let Some(letter) = self.stand_in {
            scalar.restore_nul(letter, mark)?;
        }
        if let Some(OpenCollection {
            open: Open::Mapping {
                key: key @ None, ..
            },
            ..
        }) = self.stack.last_mut()
        {
            *key = Some(if scalar.has_tag("ignore") {
                PendingKey::Ignore
            } else {
                PendingKey::Keep(Key {
                    mark,
                    name: scalar.text.into_owned(),
                })
            });
            return Ok(());
        }
        let node = Node {
            mark,
            kind: scalar.resolve(),
        };
        self.complete(node, anchor)
    }

    fn open(&mut self, anchor: usize, mark: SourcePosition, open: Open) -> Result<(), SyntaxError> {
        self.count(1, mark)?;
        if self.stack.len() >= MAX_DEPTH {
            return Err(error(
                mark,
                format!("more than {MAX_DEPTH} lists and mappings inside one another"),
            ));
        }
        if let Some(OpenCollection {
            open: Open::Mapping { key: None, .. },
            ..
        }) = self.stack.last()
        {
            return Err(error(
                mark,
                "expected a plain text as key, got a list or a mapping",
            ));
        }
        self.stack.push(OpenCollection { anchor, mark, open });
        Ok(())
    }

    fn close(&mut self) -> Result<(), SyntaxError> {
        let Some(OpenCollection { anchor, mark, open }) = self.stack.pop() else {
            return Ok(());
        };
        let kind = match open {
            Open::List(items) => NodeKind::List(items),
            Open::Mapping { entries, .. } => NodeKind::Mapping(keep_last(entries)),
        };
        self.complete(Node { mark, kind }, anchor)
    }

    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        // The parser counts anchors from 1.
        if anchor > 0 {
            self.count(node.size(), node.mark)?;
            self.anchors.insert(anchor, node.clone());
        }
        self.add(node)
    }

    fn add(&mut self, node: Node) -> Result<(), SyntaxError> {
        match self.stack.last_mut().map(|frame| &mut frame.open) {
            None => self.root = Some(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Mapping { entries, key }) => match (key.take(), node.kind) {
                (Some(PendingKey::Keep(key)), kind) => entries.push((
                    key,
                    Node {
                        mark: node.mark,
                        kind,
                    },
                )),
                (Some(PendingKey::Ignore), _) => {}
                // An alias as a key.
                (None, NodeKind::String(name)) => {
                    *key = Some(PendingKey::Keep(Key {
                        mark: node.mark,
                        name,
                    }));
                }
                (None, _) => return Err(error(node.mark, "expected a plain text as key")),
            },
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, mark: SourcePosition) -> Result<(), SyntaxError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(error(
                mark,
                format!("more than {MAX_NODES} values, aliases expanded"),
            ));
        }
        Ok(())
    }
}

struct Scalar<'a> {
    text: Cow<'a, str>,
    style: ScalarStyle,
    tag: Option<Cow<'a, Tag>>,
}

impl Scalar<'_> {
    /// Restores NUL in place of `letter` inside quotes. Elsewhere, yaml-cpp treats NUL as the start of an escape.
    fn restore_nul(&mut self, letter: char, mark: SourcePosition) -> Result<(), SyntaxError> {
        if !self.text.contains(letter) {
            return Ok(());
        }
        match self.style {
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
                self.text = Cow::Owned(self.text.replace(letter, "\0"));
                Ok(())
            }
            ScalarStyle::Plain | ScalarStyle::Literal | ScalarStyle::Folded => Err(error(
                mark,
                "malformed YAML: a NUL character outside of quotes and comments",
            )),
        }
    }

    fn has_tag(&self, suffix: &str) -> bool {
        self.tag
            .as_ref()
            .is_some_and(|tag| tag.handle == "!" && tag.suffix == suffix)
    }

    fn resolve(self) -> NodeKind {
        let is_quoted = !matches!(self.style, ScalarStyle::Plain);
        match &self.tag {
            None if is_quoted => NodeKind::String(self.text.into_owned()),
            None => plain::resolve(self.text.into_owned()),
            // The tag `!` alone means "a string".
            Some(tag) if tag.suffix.is_empty() || tag.suffix == "!" => {
                NodeKind::String(self.text.into_owned())
            }
            Some(_) => plain::resolve_tagged(self.text.into_owned()),
        }
    }
}

impl Node {
    /// How many values it contains.
    fn size(&self) -> usize {
        1 + match &self.kind {
            NodeKind::List(items) => items.iter().map(Self::size).sum(),
            NodeKind::Mapping(entries) => entries.iter().map(|(_, value)| value.size() + 1).sum(),
            _ => 0,
        }
    }
}

fn error(mark: SourcePosition, message: impl Into<String>) -> SyntaxError {
    SyntaxError {
        mark,
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        fn write(node: &Node, out: &mut String) {
            match &node.kind {
                NodeKind::Null => out.push('~'),
                NodeKind::Bool(flag, _) => out.push_str(if *flag { "T" } else { "F" }),
                NodeKind::Number(number, _) => out.push_str(number),
                NodeKind::String(text) => out.push_str(&format!("{text:?}")),
                NodeKind::List(items) => {
                    out.push('[');
                    items.iter().for_each(|item| {
                        write(item, out);
                        out.push(' ');
                    });
                    out.push(']');
                }
                NodeKind::Mapping(entries) => {
                    out.push('{');
                    entries.iter().for_each(|(key, value)| {
                        out.push_str(&format!("{}:", key.name));
                        write(value, out);
                        out.push(' ');
                    });
                    out.push('}');
                }
            }
        }
        match parse(text, 0) {
            Ok(Some(node)) => {
                let mut out = String::new();
                write(&node, &mut out);
                out
            }
            Ok(None) => "nothing".to_owned(),
            Err(error) => format!(
                "{}:{}: {}",
                error.mark.line, error.mark.column, error.message
            ),
        }
    }

    #[test]
    fn reads_what_yaml_cpp_reads() {
        for (text, expected) in [
            ("", "nothing"),
            ("# only a comment\n", "nothing"),
            (
                "a: 1\nb: [x, 'y', \"n\", n]\n",
                r#"{a:1 b:["x" "y" "n" F ] }"#,
            ),
            ("a: 1\nb: 2\na: 3\n", "{b:2 a:3 }"),
            ("a: 1\n---\n: : garbage [", "{a:1 }"),
            ("--- \na: 1\n", "{a:1 }"),
            ("a: 1\r\nb: 2\r\n", "{a:1 b:2 }"),
            ("a:\t1\nb:\t\n  c: 2\n", "{a:1 b:{c:2 } }"),
            ("a: &x {b: 1}\nc: *x\n", "{a:{b:1 } c:{b:1 } }"),
            ("a: &x {b: 1}\nc: {<<: *x}\n", "{a:{b:1 } c:{<<:{b:1 } } }"),
            ("!ignore a: [1]\nb: 2\n", "{b:2 }"),
            ("a: !ignore 1\n", "{a:1 }"),
            (
                "a: !!str 12\nb: !!str \"on\"\nc: ! 12\n",
                "{a:12 b:T c:\"12\" }",
            ),
            (
                "a: |\n  x\n  y\nb: >-\n  x\n  y\n",
                r#"{a:"x\ny\n" b:"x y" }"#,
            ),
            ("{\"a\": [1, 2,], \"b\": ~,}", "{a:[1 2 ] b:~ }"),
        ] {
            assert_eq!(json(text), expected, "{text:?}");
        }
    }

    #[test]
    fn takes_nul_in_quotes_and_comments() {
        for (text, expected) in [
            ("# x\0y\na: 1 # \0\n", "{a:1 }"),
            ("a: \"x\0y\"\n", r#"{a:"x\0y" }"#),
            ("a: 'x\0\u{e000}'\n", "{a:\"x\\0\\u{e000}\" }"),
            ("a: {\"b\": \"\0\"}", r#"{a:{b:"\0" } }"#),
        ] {
            assert_eq!(json(text), expected, "{text:?}");
        }
        for text in ["a: x\0n\n", "a: |\n  x\0n\n", "a\0n: x\n", "a: 1\n\0"] {
            assert!(json(text).contains("malformed YAML"), "{}", json(text));
        }
    }

    #[test]
    fn refuses_tabs_where_yaml_cpp_looks_for_indentation() {
        for (text, line) in [
            ("a:\n  b: c\n\t\nd: e\n", Some(3)),
            ("a:\n  b: c\n\n \t# x\nd: e\n", Some(4)),
            ("a: b\n\t\n", Some(2)),
            ("a: 'b'\n\t\nc: d\n", None),
            ("a: b # x\n\t\nc: d\n", None),
            ("a:\n\t\n  b: c\n", None),
            ("a:\n  b: c\n    \t\nd: e\n", None),
            ("a: {b: c\n\t}\nd: e\n", None),
            ("a: [b\n\t\t, c\n\t]\n", None),
            ("a: b\t\nc: d\n", None),
        ] {
            let expected = line
                .map(|line| format!("{line}:1: malformed YAML: a tab in the place of indentation"));
            let read = json(text);
            assert_eq!(
                Some(read.as_str()).filter(|read| read.contains("tab")),
                expected.as_deref(),
                "{text:?}: {read}"
            );
        }
    }

    #[test]
    fn limits_depth_and_aliases() {
        assert!(json(&format!("{}1", "- ".repeat(120))).contains("more than 100 lists"));
        assert!(json(&"[".repeat(100_000)).contains("recursion limit"));
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let before = level - 1;
            bomb.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                vec![format!("*a{before}"); 10].join(",")
            ));
        }
        assert!(json(&bomb).contains("aliases expanded"), "{}", json(&bomb));
        assert!(
            json("a: &a [*a]").contains("an alias inside the value that it refers to"),
            "{}",
            json("a: &a [*a]")
        );
    }
}
