//! A YAML or JSON file as a tree of values with positions, before anything is known of their types.
//!
//! Scalars are what Envoy's reader makes of them: YAML goes through the rules of `yaml-cpp`, and whatever is neither
//! null, boolean nor integer there is a string, floating-point numbers included.

use std::collections::HashMap;

use crate::position::SourcePosition;

pub use value::yaml_value;

pub(crate) mod encoding;
pub(crate) mod json;
mod plain;
mod tabs;
mod value;
pub(crate) mod yaml;

/// Lists and mappings inside one another; protobuf's own JSON reader stops at 100.
const MAX_DEPTH: usize = 100;

/// Values in a file, aliases expanded. A bootstrap of ten thousand clusters has less than a million.
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
    /// The flag, and how the file spells it.
    Bool(bool, String),
    /// The number as JSON has it, and how the file spells it.
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
