//! A YAML or JSON file as a tree of values with positions. Types are not known yet.
//!
//! Scalars are read as Envoy reads them: YAML by the rules of `yaml-cpp`. A YAML scalar that is not null, a boolean or
//! an integer is a string, even if it is a floating-point number.

use std::collections::HashMap;

use crate::position::SourcePosition;

pub use value::yaml_value;

pub(crate) mod encoding;
pub(crate) mod json;
mod plain;
mod tabs;
mod value;
pub(crate) mod yaml;

/// The maximum nesting of lists and mappings. Protobuf's own JSON reader stops at 100.
const MAX_DEPTH: usize = 100;

/// The maximum number of values in a file, with aliases expanded. A bootstrap of ten thousand clusters has less than a
/// million.
const MAX_NODES: usize = 4_000_000;

/// A value and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) mark: SourcePosition,
    pub(crate) kind: NodeKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NodeKind {
    Null,
    /// The boolean, and its spelling in the file.
    Bool(bool, String),
    /// The number, and its spelling in the file.
    Number(String, String),
    String(String),
    List(Vec<Node>),
    /// Later keys replace earlier ones of the same name.
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) mark: SourcePosition,
    pub(crate) name: String,
}

/// Why a text cannot be parsed.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) mark: SourcePosition,
    pub(crate) message: String,
}

impl Node {
    /// The kind of value, for "expected …, got …".
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            NodeKind::Null => "nothing".to_owned(),
            NodeKind::Bool(_, spelling) => format!("the boolean {spelling}"),
            NodeKind::Number(_, spelling) => format!("the number {spelling}"),
            NodeKind::String(text) if text.chars().count() > 60 => "a long string".to_owned(),
            NodeKind::String(text) => format!("the string {text:?}"),
            NodeKind::List(_) => "a list".to_owned(),
            NodeKind::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// Drops every entry that a later one of the same name replaces.
fn keep_last(entries: Vec<(Key, Node)>) -> Vec<(Key, Node)> {
    let mut last = HashMap::with_capacity(entries.len());
    for (index, (key, _)) in entries.iter().enumerate() {
        last.insert(key.name.as_str(), index);
    }
    if last.len() == entries.len() {
        return entries;
    }
    let kept: Vec<bool> = entries
        .iter()
        .enumerate()
        .map(|(index, (key, _))| last.get(key.name.as_str()) == Some(&index))
        .collect();
    entries
        .into_iter()
        .zip(kept)
        .filter(|(_, keep)| *keep)
        .map(|(entry, _)| entry)
        .collect()
}
