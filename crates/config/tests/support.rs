//! `docs/SUPPORT.md` says what the support table says. `just support` rewrites it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test, with the modules of the build script"
)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use prost::Message;

use descriptor::FileSet;
use descriptor::MessageDescriptor;
use support::Section;
use support::SupportStatus;
use support::SupportTable;

#[path = "../build/descriptor.rs"]
mod descriptor;
#[path = "../build/prune.rs"]
mod prune;
#[path = "../build/support.rs"]
mod support;

const INTRODUCTION: &str = "\
# What of Envoy's configuration is supported

Generated from `proto/support/` and the API's descriptors; do not edit.

Every field of the configuration is one of these:

- **implemented**: it does what Envoy 1.40 does,
- **no effect**: accepted, because it makes no difference here, for the reason given,
- **refused**: setting it stops the start with a message that names the file, the line and the field. A field without
  presence may have its default; a field that may have some values only lists them.

A message that is not listed is reached through refused fields only. Unknown fields, wrong values and broken constraint
rules are refused as Envoy refuses them.
";

#[test]
fn support_md_is_up_to_date() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("docs/SUPPORT.md");
    let document = document(&root.join("proto"));
    if std::env::var_os("OUTRIDER_WRITE_SUPPORT").is_some() {
        std::fs::write(&path, &document).unwrap();
    }
    let current = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        current == document,
        "docs/SUPPORT.md is not current: run `just support`"
    );
}

fn document(proto: &std::path::Path) -> String {
    let support = support::read(&proto.join("support")).unwrap();
    let extensions = support::read_extensions(&proto.join("support/extensions.txt")).unwrap();
    let set = FileSet::decode(
        std::fs::read(proto.join("envoy-v3.binpb"))
            .unwrap()
            .as_slice(),
    )
    .unwrap();
    let set = prune::prune(set, support.keys().cloned().collect());
    let mut out = INTRODUCTION.to_owned();
    write_extensions(&extensions, &support, &mut out);
    let keys = std::fs::read_to_string(proto.join("runtime_keys.txt")).unwrap();
    write_runtime_keys(&keys, &mut out);
    out.push_str("\n## Messages\n");
    let mut messages = BTreeMap::new();
    let mut values = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            collect(&file.package, message, &mut messages, &mut values);
        }
        for item in &file.enum_type {
            let names = item.value.iter().map(|value| value.name.clone()).collect();
            values.insert(format!("{}.{}", file.package, item.name), names);
        }
    }
    for (name, section) in &support {
        let members: &Vec<String> = messages.get(name).or_else(|| values.get(name)).unwrap();
        write_section(name, section, members, &mut out);
    }
    out
}

type Members = BTreeMap<String, Vec<String>>;

/// The fields of every message and the values of every enum.
fn collect(scope: &str, message: &MessageDescriptor, messages: &mut Members, values: &mut Members) {
    let name = format!("{scope}.{}", message.name);
    for nested in &message.nested_type {
        collect(&name, nested, messages, values);
    }
    for item in &message.enum_type {
        let names = item.value.iter().map(|value| value.name.clone()).collect();
        values.insert(format!("{name}.{}", item.name), names);
    }
    messages.insert(
        name,
        message
            .field
            .iter()
            .map(|field| field.name.clone())
            .collect(),
    );
}

fn write_extensions(
    extensions: &[support::ExtensionLine],
    support: &SupportTable,
    out: &mut String,
) {
    out.push_str("\n## Extensions\n\nOf the extensions in Envoy's release binary, by category. The message behind `@type` chooses one.\n\n");
    out.push_str("| category | supported | not supported |\n|---|---|---|\n");
    let mut categories: BTreeMap<&str, (Vec<&str>, usize)> = BTreeMap::new();
    for extension in extensions {
        let row = categories.entry(&extension.category).or_default();
        for name in &extension.types {
            if support.contains_key(name) {
                row.0.push(name)
            } else {
                row.1 += 1
            }
        }
    }
    for (category, (supported, refused)) in categories {
        if !supported.is_empty() || refused > 0 {
            let names: Vec<String> = supported.iter().map(|name| format!("`{name}`")).collect();
            writeln!(out, "| {category} | {} | {refused} |", names.join("<br>")).unwrap();
        }
    }
}

const RUNTIME_KEYS: &str = "
## Runtime keys

A layer of `layered_runtime` may set any key, as in Envoy. Those that a field of the configuration names are obeyed, and so
are these; others, such as the guards of Envoy's own code paths, are shown by `/runtime` and change nothing.

| key | what it sets |
|---|---|
";

fn write_runtime_keys(keys: &str, out: &mut String) {
    out.push_str(RUNTIME_KEYS);
    for line in keys.lines().filter(|line| !line.starts_with('#')) {
        let (key, about) = line.split_once(' ').unwrap();
        writeln!(out, "| `{key}` | {} |", about.trim()).unwrap();
    }
}

fn write_section(name: &str, section: &Section, members: &[String], out: &mut String) {
    write!(out, "\n### `{name}`\n\n").unwrap();
    if members.is_empty() {
        out.push_str("No fields.\n");
    }
    let mut implemented = Vec::new();
    let mut refused = Vec::new();
    let mut others = Vec::new();
    for member in members {
        let line = section.get(member).or_else(|| section.get("*"));
        match line.map(|line| (line.status, line.note.as_str())) {
            Some((SupportStatus::Yes | SupportStatus::Extension, _)) => {
                implemented.push(format!("`{member}`"))
            }
            Some((SupportStatus::Inert, note)) => {
                others.push(format!("- no effect: `{member}`: {note}"))
            }
            Some((SupportStatus::Only, note)) => {
                others.push(format!("- in part: `{member}`, only {note}"))
            }
            Some((_, note)) if !note.is_empty() => {
                others.push(format!("- refused: `{member}`: {note}"))
            }
            _ => refused.push(format!("`{member}`")),
        }
    }
    if !implemented.is_empty() {
        writeln!(out, "- implemented: {}", implemented.join(", ")).unwrap();
    }
    if !refused.is_empty() {
        writeln!(out, "- refused: {}", refused.join(", ")).unwrap();
    }
    others.sort();
    for line in others {
        writeln!(out, "{line}").unwrap();
    }
}
