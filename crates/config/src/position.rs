//! The positions of values in the files that they come from.

use std::fmt;
use std::sync::Arc;

use crate::ConfigErrors;
use crate::Diagnostic;
use crate::Diagnostics;
use crate::FieldPath;
use crate::path::Step;
use crate::value::Message;
use crate::value::Payload;
use crate::value::Value;

/// A position in one of the sources. Lines and columns count from 1; 0 means unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourcePosition {
    pub(crate) source: u8,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A position in a file; prints as `envoy.yaml:14:21`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file, or the name of the option that contained the text.
    pub source: Arc<str>,
    /// Counted from 1; 0 if only the file is known.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.source)
        } else {
            write!(f, "{}:{}:{}", self.source, self.line, self.column)
        }
    }
}

/// The positions of all fields of a loaded configuration.
///
/// Stores a hash of each path instead of its text: a thousand clusters take a few hundred kilobytes, and only until the
/// configuration is built.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    sources: Vec<Arc<str>>,
    /// Sorted by hash.
    marks: Vec<(u64, SourcePosition)>,
}

impl Positions {
    pub(crate) fn of(message: &Message, sources: Vec<Arc<str>>) -> Self {
        let mut marks = Vec::new();
        add_message(message, ROOT_HASH, &mut marks);
        marks.sort_by_key(|&(hash, _)| hash);
        marks.shrink_to_fit();
        Self { sources, marks }
    }

    /// Positions that know only the names of the sources.
    pub(crate) fn unplaced(sources: Vec<Arc<str>>) -> Self {
        Self {
            sources,
            marks: Vec::new(),
        }
    }

    /// The position of the value at `path`, or of the nearest enclosing message that is in the file.
    pub fn resolve(&self, path: &FieldPath) -> Option<Position> {
        let mut path = Some(path);
        while let Some(at) = path {
            let hash = hash_path(at);
            if let Ok(index) = self.marks.binary_search_by_key(&hash, |&(hash, _)| hash) {
                return self.position(self.marks[index].1);
            }
            path = at.parent();
        }
        None
    }

    /// The errors of a `build` function, with their positions.
    pub fn diagnose(&self, errors: ConfigErrors) -> Diagnostics {
        let diagnostics = errors.0.into_iter().map(|error| Diagnostic {
            position: self.resolve(&error.path),
            path: error.path,
            message: error.message,
        });
        Diagnostics(diagnostics.collect())
    }

    pub(crate) fn position(&self, mark: SourcePosition) -> Option<Position> {
        let source = self.sources.get(usize::from(mark.source))?;
        Some(Position {
            source: Arc::clone(source),
            line: mark.line,
            column: mark.column,
        })
    }
}

fn add_message(message: &Message, hash: u64, marks: &mut Vec<(u64, SourcePosition)>) {
    marks.push((hash, message.mark));
    for field in &message.fields {
        let hash = hash_field(hash, field.field.name());
        marks.push((hash, field.mark));
        add_value(&field.value, hash, marks);
    }
}

fn add_value(value: &Value, hash: u64, marks: &mut Vec<(u64, SourcePosition)>) {
    match value {
        Value::Message(message) => {
            for field in &message.fields {
                let hash = hash_field(hash, field.field.name());
                marks.push((hash, field.mark));
                add_value(&field.value, hash, marks);
            }
        }
        Value::Any(any) => {
            if let Payload::Message(message) = &any.payload {
                add_message(message, hash, marks);
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let hash = hash_index(hash, index);
                marks.push((hash, item.mark));
                add_value(&item.value, hash, marks);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                if let Value::String(key) = &entry.key {
                    let hash = hash_key(hash, key);
                    marks.push((hash, entry.mark));
                    add_value(&entry.value, hash, marks);
                }
            }
        }
        _ => {}
    }
}

// FNV-1a over the steps; each step is preceded by a byte for its kind.
const ROOT_HASH: u64 = 0xcbf2_9ce4_8422_2325;

fn hash_path(path: &FieldPath) -> u64 {
    match path.last() {
        None => ROOT_HASH,
        Some((parent, step)) => {
            let hash = hash_path(parent);
            match step {
                Step::Field(name) => hash_field(hash, name),
                Step::Index(index) => hash_index(hash, *index),
                Step::Key(key) => hash_key(hash, key),
            }
        }
    }
}

fn hash_field(hash: u64, name: &str) -> u64 {
    mix(mix(hash, b"."), name.as_bytes())
}

fn hash_index(hash: u64, index: usize) -> u64 {
    mix(mix(hash, b"["), &index.to_le_bytes())
}

fn hash_key(hash: u64, key: &str) -> u64 {
    mix(mix(hash, b"k"), key.as_bytes())
}

fn mix(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
