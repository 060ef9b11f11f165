//! Cuts a descriptor set down to what some root messages reach.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::descriptor::EnumType;
use crate::descriptor::File;
use crate::descriptor::FileSet;
use crate::descriptor::MessageDescriptor;

/// Keeps the messages named by `roots` and all that they refer to; files come out in order of their names.
pub(crate) fn prune(mut set: FileSet, roots: Vec<String>) -> FileSet {
    let mut references = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            collect_references(&file.package, message, &mut references);
        }
    }
    let mut keep = BTreeSet::new();
    let mut todo = roots;
    while let Some(name) = todo.pop() {
        if keep.insert(name.clone()) {
            todo.extend(references.get(&name).into_iter().flatten().cloned());
        }
    }
    for file in &mut set.file {
        file.dependency.clear();
        let package = file.package.clone();
        file.message_type
            .retain_mut(|message| prune_message(&package, message, &keep));
        retain_enums(&package, &mut file.enum_type, &keep);
    }
    set.file
        .retain(|file| !file.message_type.is_empty() || !file.enum_type.is_empty());
    set.file.sort_by(|a, b| a.name.cmp(&b.name));
    link(&mut set.file);
    set
}

fn collect_references(
    scope: &str,
    message: &MessageDescriptor,
    out: &mut BTreeMap<String, Vec<String>>,
) {
    let name = format!("{scope}.{}", message.name);
    for nested in &message.nested_type {
        collect_references(&name, nested, out);
    }
    let referred = message
        .field
        .iter()
        .filter_map(|field| field.type_name.as_deref());
    out.insert(
        name,
        referred
            .map(|name| name.trim_start_matches('.').to_owned())
            .collect(),
    );
}

/// Whether anything of `message` is kept. If only a nested message is kept, it loses its fields.
fn prune_message(scope: &str, message: &mut MessageDescriptor, keep: &BTreeSet<String>) -> bool {
    let name = format!("{scope}.{}", message.name);
    message
        .nested_type
        .retain_mut(|nested| prune_message(&name, nested, keep));
    retain_enums(&name, &mut message.enum_type, keep);
    let kept = keep.contains(&name);
    if !kept {
        message.field.clear();
        message.oneof_decl.clear();
    }
    kept || !message.nested_type.is_empty() || !message.enum_type.is_empty()
}

fn retain_enums(scope: &str, enums: &mut Vec<EnumType>, keep: &BTreeSet<String>) {
    enums.retain(|item| keep.contains(&format!("{scope}.{}", item.name)));
}

/// Removes the dependencies that a file no longer has.
fn link(files: &mut [File]) {
    let mut home = BTreeMap::new();
    let mut uses = Vec::new();
    for file in files.iter() {
        let mut references = BTreeMap::new();
        for message in &file.message_type {
            collect_references(&file.package, message, &mut references);
            collect_homes(&file.package, message, &file.name, &mut home);
        }
        for item in &file.enum_type {
            home.insert(format!("{}.{}", file.package, item.name), file.name.clone());
        }
        uses.push(
            references
                .into_values()
                .flatten()
                .collect::<BTreeSet<String>>(),
        );
    }
    for (file, uses) in files.iter_mut().zip(uses) {
        let homes: BTreeSet<&String> = uses.iter().filter_map(|name| home.get(name)).collect();
        file.dependency = homes
            .into_iter()
            .filter(|name| **name != file.name)
            .cloned()
            .collect();
    }
}

fn collect_homes(
    scope: &str,
    message: &MessageDescriptor,
    file: &str,
    out: &mut BTreeMap<String, String>,
) {
    let name = format!("{scope}.{}", message.name);
    for nested in &message.nested_type {
        collect_homes(&name, nested, file, out);
    }
    for item in &message.enum_type {
        out.insert(format!("{name}.{}", item.name), file.to_owned());
    }
    out.insert(name, file.to_owned());
}
