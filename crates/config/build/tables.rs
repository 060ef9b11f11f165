//! Writes the static tables that the reader works from: messages, fields, enums, rules and their support.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::error::Error;
use std::fmt::Write;

use prost::Message;

use crate::descriptor::EnumType;
use crate::descriptor::EnumValue;
use crate::descriptor::FieldDescriptor;
use crate::descriptor::File;
use crate::descriptor::FileSet;
use crate::descriptor::MessageDescriptor;
use crate::limits::Rules;
use crate::rules::EnumValueOptions;
use crate::rules::FieldOptions;
use crate::rules::MessageOptions;
use crate::rules::OneofOptions;
use crate::support::ExtensionLine;
use crate::support::Section;
use crate::support::SupportLine;
use crate::support::SupportStatus;
use crate::support::SupportTable;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The Rust source of all tables.
pub(crate) fn generate(
    set: &FileSet,
    support: &SupportTable,
    extensions: &[ExtensionLine],
) -> Result<String> {
    let mut messages = Vec::new();
    let mut enums = Vec::new();
    for file in &set.file {
        for message in &file.message_type {
            flatten(&file.package, file, message, &mut messages, &mut enums);
        }
        for item in &file.enum_type {
            enums.push((format!("{}.{}", file.package, item.name), file, item));
        }
    }
    messages.sort_by(|a, b| a.0.cmp(&b.0));
    enums.sort_by(|a, b| a.0.cmp(&b.0));
    for name in support.keys() {
        let known =
            messages.iter().any(|row| row.0 == *name) || enums.iter().any(|row| row.0 == *name);
        if !known {
            return Err(format!(
                "the support table has a section for {name}, which is no message or enum"
            )
            .into());
        }
    }
    let mut tables = Tables {
        support,
        message_index: messages
            .iter()
            .enumerate()
            .map(|(index, row)| (row.0.clone(), index))
            .collect(),
        enum_index: enums
            .iter()
            .enumerate()
            .map(|(index, row)| (row.0.clone(), index))
            .collect(),
        ..Tables::new(support)
    };
    for (name, file, message) in &messages {
        tables
            .message(name, file, message)
            .map_err(|error| format!("{name}: {error}"))?;
    }
    for (name, file, item) in &enums {
        tables.enumeration(name, file, item)?;
    }
    for extension in extensions {
        tables.extension(extension);
    }
    Ok(tables.render())
}

fn flatten<'a>(
    scope: &str,
    file: &'a File,
    message: &'a MessageDescriptor,
    messages: &mut Vec<(String, &'a File, &'a MessageDescriptor)>,
    enums: &mut Vec<(String, &'a File, &'a EnumType)>,
) {
    let name = format!("{scope}.{}", message.name);
    for nested in &message.nested_type {
        flatten(&name, file, nested, messages, enums);
    }
    for item in &message.enum_type {
        enums.push((format!("{name}.{}", item.name), file, item));
    }
    messages.push((name, file, message));
}

struct Tables<'a> {
    support: &'a SupportTable,
    message_index: BTreeMap<String, usize>,
    enum_index: BTreeMap<String, usize>,
    text: TextTable,
    messages: Vec<String>,
    fields: Vec<String>,
    oneofs: Vec<String>,
    enums: Vec<String>,
    enum_values: Vec<String>,
    rules: Rules,
    gone: Vec<String>,
    extensions: Vec<String>,
}

impl<'a> Tables<'a> {
    fn new(support: &'a SupportTable) -> Self {
        Self {
            support,
            message_index: BTreeMap::new(),
            enum_index: BTreeMap::new(),
            text: TextTable::default(),
            messages: Vec::new(),
            fields: Vec::new(),
            oneofs: Vec::new(),
            enums: Vec::new(),
            enum_values: Vec::new(),
            rules: Rules::default(),
            gone: Vec::new(),
            extensions: Vec::new(),
        }
    }

    fn message(&mut self, name: &str, file: &File, message: &MessageDescriptor) -> Result<()> {
        let empty = Section::new();
        let section = self.support.get(name).unwrap_or(&empty);
        self.check_names(name, section, message)?;
        let first_field = self.fields.len();
        let first_oneof = self.oneofs.len();
        let is_entry = decode::<MessageOptions>(message.options.as_deref())?.map_entry;
        let mut fields: Vec<&FieldDescriptor> = message.field.iter().collect();
        fields.sort_by_key(|field| field.number());
        // The oneofs that the compiler creates for `optional` fields come last. The reader ignores them.
        let real_oneofs = message.oneof_decl.iter().enumerate().filter(|(index, _)| {
            let mut members = message
                .field
                .iter()
                .filter(|field| field.oneof_index == Some(*index as i32));
            members.any(|field| !field.proto3_optional())
        });
        for (_, oneof) in real_oneofs {
            let required = decode::<OneofOptions>(oneof.options.as_deref())?.required;
            let name = self.text.add(&oneof.name);
            self.oneofs
                .push(format!("OneofRow {{ name: {name}, required: {required} }}"));
        }
        for field in fields {
            let line = section.get(&field.name).or_else(|| section.get("*"));
            // The well-known messages are read as a whole.
            let whole = is_entry || name.starts_with("google.protobuf.");
            self.field(field, line, whole)
                .map_err(|error| format!("{}: {error}", field.name))?;
        }
        let row = format!(
            "MessageRow {{ name: {}, file: {}, fields: {}, oneofs: {}, well_known: WellKnown::{} }}",
            self.text.add(name),
            self.text.add(file_name(file)),
            span(first_field, self.fields.len()),
            span(first_oneof, self.oneofs.len()),
            well_known(name)?,
        );
        self.messages.push(row);
        Ok(())
    }

    /// Finds lines for fields that do not exist, and collects the names of removed fields.
    fn check_names(
        &mut self,
        name: &str,
        section: &Section,
        message: &MessageDescriptor,
    ) -> Result<()> {
        for (field, line) in section {
            let exists = field == "*" || message.field.iter().any(|known| known.name == *field);
            match (line.status, exists) {
                (SupportStatus::Gone, true) => return Err(format!("{field} is not gone").into()),
                (SupportStatus::Gone, false) => self.gone.push(format!(
                    "RenamedFieldRow {{ message: {}, name: {}, note: {} }}",
                    self.text.add(name),
                    self.text.add(field),
                    self.text.add(&line.note)
                )),
                (_, true) => {}
                (_, false) => {
                    return Err(
                        format!("the support table names {field}, which is no field").into(),
                    );
                }
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &FieldDescriptor,
        line: Option<&SupportLine>,
        whole: bool,
    ) -> Result<()> {
        let options = decode::<FieldOptions>(field.options.as_deref())?;
        let oneof = field.oneof_index.filter(|_| !field.proto3_optional());
        let kind = self.kind(field)?;
        let status = if whole {
            SupportStatus::Yes
        } else {
            line.map_or(SupportStatus::No, |line| line.status)
        };
        let (support, category) = match status {
            SupportStatus::Yes => ("Implemented", ""),
            SupportStatus::Extension => ("Implemented", line.map_or("", |line| line.category())),
            SupportStatus::Inert => ("NoEffect", ""),
            SupportStatus::Only => ("Only", ""),
            SupportStatus::No | SupportStatus::Gone => ("Refused", ""),
        };
        let note = match status {
            SupportStatus::Extension => line.map_or("", |line| line.after_category()),
            _ => line.map_or("", |line| &line.note),
        };
        if support == "Implemented" && !whole {
            self.check_section(field)?;
        }
        // A refused field is not looked into, so that its rules need not be known.
        let rules = options.rules.as_ref();
        let rules = rules.filter(|rules| support != "Refused" || !rules.skips_message());
        let rules = self.rules.add(rules, &mut self.text)?;
        let row = format!(
            "FieldRow {{ name: {}, json_name: {}, number: {}, kind: FieldKind::{kind}, cardinality: Cardinality::{}, \
             oneof: {oneof:?}, deprecated: Deprecated::{}, rules: {rules}, support: Support::{support}, note: {}, \
             category: {} }}",
            self.text.add(&field.name),
            self.text.add(field.json_name()),
            field.number(),
            self.cardinality(field),
            deprecated(options.deprecated, options.disallowed_by_default),
            self.text.add(note),
            self.text.add(category),
        );
        self.fields.push(row);
        Ok(())
    }

    /// A field that is implemented needs a section for its message; otherwise everything in the message would be
    /// refused.
    fn check_section(&self, field: &FieldDescriptor) -> Result<()> {
        const TYPE_MESSAGE: i32 = 11;
        let name = field.type_name().trim_start_matches('.');
        let has_section = self.support.contains_key(name) || name.starts_with("google.protobuf.");
        if field.r#type() == TYPE_MESSAGE && !has_section && self.cardinality(field) != "Map" {
            return Err(format!(
                "it is implemented, but {name} has no section in the support table"
            )
            .into());
        }
        Ok(())
    }

    fn kind(&self, field: &FieldDescriptor) -> Result<String> {
        let type_name = field.type_name().trim_start_matches('.');
        let index = |index: &BTreeMap<String, usize>| {
            index
                .get(type_name)
                .copied()
                .ok_or_else(|| format!("no type {type_name}"))
        };
        Ok(match field.r#type() {
            1 => "Double".to_owned(),
            2 => "Float".to_owned(),
            3 => "Int64".to_owned(),
            4 => "Uint64".to_owned(),
            5 => "Int32".to_owned(),
            8 => "Bool".to_owned(),
            9 => "String".to_owned(),
            11 => format!("Message({})", index(&self.message_index)?),
            12 => "Bytes".to_owned(),
            13 => "Uint32".to_owned(),
            14 => format!("Enum({})", index(&self.enum_index)?),
            other => return Err(format!("fields of type {other} are not read").into()),
        })
    }

    fn cardinality(&self, field: &FieldDescriptor) -> &'static str {
        const LABEL_REPEATED: i32 = 3;
        const TYPE_MESSAGE: i32 = 11;
        let is_message = field.r#type() == TYPE_MESSAGE;
        if field.label() == LABEL_REPEATED {
            let type_name = field.type_name();
            let is_map =
                is_message && type_name.ends_with("Entry") && is_entry_of(type_name, &field.name);
            return if is_map { "Map" } else { "Repeated" };
        }
        if is_message || field.oneof_index.is_some() {
            "Explicit"
        } else {
            "Implicit"
        }
    }

    fn enumeration(&mut self, name: &str, file: &File, item: &EnumType) -> Result<()> {
        let section = self.support.get(name);
        let first = self.enum_values.len();
        for value in &item.value {
            let line =
                section.and_then(|section| section.get(&value.name).or_else(|| section.get("*")));
            let row = self.enum_value(value, section.is_none(), line)?;
            self.enum_values.push(row);
        }
        if let Some(section) = section {
            let unknown = section
                .keys()
                .find(|key| *key != "*" && !item.value.iter().any(|value| value.name == **key));
            if let Some(unknown) = unknown {
                return Err(format!(
                    "{name}: the support table names {unknown}, which is no value"
                )
                .into());
            }
        }
        let row = format!(
            "EnumRow {{ name: {}, file: {}, values: {} }}",
            self.text.add(name),
            self.text.add(file_name(file)),
            span(first, self.enum_values.len())
        );
        self.enums.push(row);
        Ok(())
    }

    fn enum_value(
        &mut self,
        value: &EnumValue,
        whole: bool,
        line: Option<&SupportLine>,
    ) -> Result<String> {
        let options = decode::<EnumValueOptions>(value.options.as_deref())?;
        let support = match line.map(|line| line.status) {
            None if whole => "Implemented",
            Some(SupportStatus::Yes) => "Implemented",
            Some(SupportStatus::Inert) => "NoEffect",
            _ => "Refused",
        };
        Ok(format!(
            "EnumValueRow {{ name: {}, number: {}, deprecated: Deprecated::{}, support: Support::{support}, note: {} }}",
            self.text.add(&value.name),
            value.number(),
            deprecated(options.deprecated, options.disallowed_by_default),
            self.text.add(line.map_or("", |line| &line.note)),
        ))
    }

    fn extension(&mut self, extension: &ExtensionLine) {
        let category = self.text.add(&extension.category);
        let name = self.text.add(&extension.name);
        let types = if extension.types.is_empty() {
            vec![String::new()]
        } else {
            extension.types.clone()
        };
        for type_name in types {
            let implemented = self.support.contains_key(&type_name);
            let message = self.message_index.get(&type_name).filter(|_| implemented);
            let row = format!(
                "ExtensionRow {{ category: {category}, name: {name}, type_name: {}, message: {message:?} }}",
                self.text.add(&type_name)
            );
            self.extensions.push(row);
        }
    }

    fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "pub(crate) static TEXT: &str = {:?};", self.text.all);
        for (name, row, rows) in [
            ("MESSAGES", "MessageRow", &self.messages),
            ("FIELDS", "FieldRow", &self.fields),
            ("ONEOFS", "OneofRow", &self.oneofs),
            ("ENUMS", "EnumRow", &self.enums),
            ("ENUM_VALUES", "EnumValueRow", &self.enum_values),
            ("RULES", "Rule", &self.rules.rows),
            ("GONE", "RenamedFieldRow", &self.gone),
            ("EXTENSIONS", "ExtensionRow", &self.extensions),
        ] {
            let _ = writeln!(out, "pub(crate) static {name}: [{row}; {}] = [", rows.len());
            for row in rows {
                let _ = writeln!(out, "    {row},");
            }
            let _ = writeln!(out, "];");
        }
        out
    }
}

/// All texts in one string, each once.
#[derive(Default)]
pub(crate) struct TextTable {
    all: String,
    known: HashMap<String, String>,
}

impl TextTable {
    pub(crate) fn add(&mut self, text: &str) -> String {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let row = format!("Text {{ start: {}, len: {} }}", self.all.len(), text.len());
        self.all.push_str(text);
        self.known.insert(text.to_owned(), row.clone());
        row
    }
}

/// A `Span` from `start` to before `end`.
pub(crate) fn span(start: usize, end: usize) -> String {
    format!("Span {{ start: {start}, len: {} }}", end - start)
}

fn decode<T: Message + Default>(options: Option<&[u8]>) -> Result<T> {
    Ok(T::decode(options.unwrap_or_default())?)
}

fn file_name(file: &File) -> &str {
    file.name.rsplit('/').next().unwrap_or_default()
}

fn deprecated(deprecated: bool, disallowed: bool) -> &'static str {
    match (deprecated, disallowed) {
        (_, true) => "Disallowed",
        (true, false) => "Warn",
        (false, false) => "No",
    }
}

/// Whether `type_name` is the entry message that the compiler made for the map `field`: `FooBarEntry` for `foo_bar`.
fn is_entry_of(type_name: &str, field: &str) -> bool {
    let entry = type_name.rsplit('.').next().unwrap_or_default();
    let words = field.split('_').map(|word| {
        let mut letters = word.chars();
        letters
            .next()
            .map(|first| first.to_ascii_uppercase())
            .into_iter()
            .chain(letters)
            .collect::<String>()
    });
    entry == words.collect::<String>() + "Entry"
}

fn well_known(name: &str) -> Result<&'static str> {
    Ok(match name {
        // Only constants of CEL expressions have times, and CEL is refused: the text form is not read.
        "google.protobuf.Timestamp" => "No",
        "google.protobuf.FieldMask" => {
            return Err("the reader does not know this message's JSON yet".into());
        }
        "google.protobuf.Any" => "Any",
        "google.protobuf.Duration" => "Duration",
        "google.protobuf.Struct" => "Struct",
        "google.protobuf.Value" => "Value",
        "google.protobuf.ListValue" => "ListValue",
        _ if name.starts_with("google.protobuf.") && name.ends_with("Value") => "Wrapper",
        _ => "No",
    })
}
