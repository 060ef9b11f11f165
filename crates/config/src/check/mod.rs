//! Checks messages whose fields are all well-formed: the API's constraint rules, deprecated fields, and fields that are
//! not supported.
//!
//! One walk over the merged configuration checks everything, so that no field can be forgotten. It includes the payload
//! of every supported `Any`. The contents of refused fields are not checked.

use crate::DisabledExtensions;
use crate::FieldPath;
use crate::position::SourcePosition;
use crate::reader::Problem;
use crate::schema::Cardinality;
use crate::schema::Deprecated;
use crate::schema::EnumRow;
use crate::schema::FieldKind;
use crate::schema::FieldRow;
use crate::schema::Support;
use crate::schema::WellKnown;
use crate::value::Any;
use crate::value::FieldValue;
use crate::value::Item;
use crate::value::Message;
use crate::value::Payload;
use crate::value::Value;

mod disabled;
mod extension;
mod filter_config;
mod policies;
mod rules;
mod runtime;

/// The one field of this name in the API.
const STATIC_LAYER: &str = "static_layer";

/// Messages whose rules, and those of the messages in them, Envoy does not check.
const UNCHECKED: [&str; 1] =
    ["envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"];

/// The errors and warnings that the walk found.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

/// Checks `message`, the root of a configuration.
pub(crate) fn check(message: &Message, disabled: &DisabledExtensions) -> Findings {
    let mut checker = Checker {
        findings: Findings::default(),
        disabled,
    };
    let root = FieldPath::root();
    if let (Some(_), Some(both)) = (message.get("watchdog"), message.get("watchdogs")) {
        let text = "only one of watchdog and watchdogs may be set";
        checker.problem(both.mark, &root.field("watchdogs"), text);
    }
    checker.message(
        message,
        Place {
            mark: message.mark,
            path: &root,
            inert: false,
            category: "",
            has_rules: true,
        },
    );
    checker.findings
}

struct Checker<'a> {
    findings: Findings,
    disabled: &'a DisabledExtensions,
}

/// The path of a value, and the facts about it that follow from the fields around it.
#[derive(Clone, Copy)]
struct Place<'a> {
    mark: SourcePosition,
    path: &'a FieldPath,
    /// Whether the value is inside a field without effect here: constraint rules apply, but support is not checked.
    inert: bool,
    /// The category of the extension that an `Any`, or the `TypedExtensionConfig` around it, selects.
    category: &'static str,
    /// Whether constraint rules apply: not inside [`UNCHECKED`] messages.
    has_rules: bool,
}

impl Checker<'_> {
    fn problem(&mut self, mark: SourcePosition, path: &FieldPath, message: impl Into<String>) {
        self.findings.problems.push(Problem {
            mark,
            path: path.clone(),
            message: message.into(),
        });
    }

    fn message(&mut self, message: &Message, place: Place<'_>) {
        if message.message_type.well_known() == WellKnown::Duration {
            self.duration(message, place.path);
        }
        let has_rules = place.has_rules && !UNCHECKED.contains(&message.message_type.name());
        for value in &message.fields {
            let field = value.field;
            let path = place.path.field(field.name());
            let inert = place.inert
                || field.support == Support::NoEffect
                || policies::is_overridden(message, field)
                || filter_config::is_ignored(message, field);
            let category = match field.category() {
                _ if filter_config::only_enables(message, value) => "",
                "" => place.category,
                category => category,
            };
            let place = Place {
                mark: value.mark,
                path: &path,
                inert,
                category,
                has_rules,
            };
            if field.deprecated != Deprecated::No && !is_unset(field, &value.value) {
                let name = format!("{}.{}", message.message_type.name(), field.name());
                self.deprecation(field.deprecated, &name, message.message_type.file(), place);
            }
            if inert || self.is_supported(value, &path) {
                if has_rules {
                    for broken in rules::broken(field, &value.value) {
                        self.problem(value.mark, &path.at(&broken), broken.text);
                    }
                }
                match &value.value {
                    Value::List(items) if policies::is_policy_list(message.message_type, field) => {
                        self.policies(items, place);
                    }
                    _ => self.value(field, &value.value, place),
                }
            }
            if let (STATIC_LAYER, Value::Message(layer)) = (field.name(), &value.value) {
                runtime::refuse_values(layer, &path, &mut self.findings.problems);
            }
        }
        if has_rules {
            self.absent(message, place);
        }
        if let Some(text) = disabled::by_default(self.disabled, message).filter(|_| !place.inert) {
            self.problem(place.mark, place.path, text);
        }
    }

    /// Checks a list of load balancing policies, of which one has an effect.
    fn policies(&mut self, policies: &[Item], place: Place<'_>) {
        let chosen = policies::find_selected(policies);
        for (index, item) in policies.iter().enumerate() {
            let path = place.path.index(index);
            if let Value::Message(policy) = &item.value {
                self.message(
                    policy,
                    Place {
                        mark: item.mark,
                        path: &path,
                        inert: place.inert || chosen != Some(index),
                        ..place
                    },
                );
            }
        }
    }

    /// Reports required fields that are missing.
    fn absent(&mut self, message: &Message, place: Place<'_>) {
        for field in message.message_type.fields() {
            if message
                .fields
                .iter()
                .any(|value| value.field.number == field.number)
            {
                continue;
            }
            for broken in rules::broken_by_absence(field) {
                self.problem(message.mark, &place.path.field(field.name()), broken);
            }
            if !place.inert && extension::is_needed(message, field, place.category) {
                let text = extension::missing(message, field, place.category);
                self.problem(message.mark, &place.path.field(field.name()), text);
            }
        }
        for (index, oneof) in message.message_type.oneofs().iter().enumerate() {
            let is_member = |field: &FieldRow| field.oneof.map(usize::from) == Some(index);
            if oneof.is_required() && !message.fields.iter().any(|value| is_member(value.field)) {
                let members = message
                    .message_type
                    .fields()
                    .iter()
                    .filter(|field| is_member(field) && field.support != Support::Refused);
                let names: Vec<&str> = members.map(|field| field.name()).collect();
                let text = format!(
                    "{} is required: set one of {}",
                    oneof.name(),
                    names.join(", ")
                );
                self.problem(message.mark, place.path, text);
            }
        }
    }

    /// The elements of a list or map, or the value itself.
    fn value(&mut self, field: &'static FieldRow, value: &Value, place: Place<'_>) {
        match value {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = place.path.index(index);
                    self.single(
                        field.kind,
                        &item.value,
                        Place {
                            mark: item.mark,
                            path: &path,
                            ..place
                        },
                    );
                }
            }
            Value::Map(entries) => {
                let kind = field
                    .message()
                    .and_then(|entry| entry.field("value"))
                    .map(|field| field.kind);
                for entry in entries {
                    if let (Value::String(key), Some(kind)) = (&entry.key, kind) {
                        let path = place.path.key(key);
                        self.single(
                            kind,
                            &entry.value,
                            Place {
                                mark: entry.mark,
                                path: &path,
                                ..place
                            },
                        );
                    }
                }
            }
            single => self.single(field.kind, single, place),
        }
    }

    fn single(&mut self, kind: FieldKind, value: &Value, place: Place<'_>) {
        match (value, kind) {
            (Value::Message(message), _) => self.message(message, place),
            (Value::Any(any), _) => self.any(any, place),
            (Value::Enum(number), FieldKind::Enum(row)) => {
                self.enumeration(EnumRow::at(row), *number, place)
            }
            _ => {}
        }
    }

    fn any(&mut self, any: &Any, place: Place<'_>) {
        let is_wrapper = filter_config::is_wrapper(any, place.category);
        if !place.inert && !place.category.is_empty() && !is_wrapper {
            let refusal = match extension::find(any, place.category) {
                None => Some(extension::refusal(any, place.category)),
                Some(row) => disabled::named(self.disabled, row, any),
            };
            if let Some(text) = refusal {
                return self.problem(place.mark, place.path, text);
            }
        }
        match &any.payload {
            Payload::Message(message) => self.message(
                message,
                Place {
                    category: "",
                    ..place
                },
            ),
            Payload::Opaque(_) if any.type_url.is_empty() || extension::is_known(any) => {}
            // Envoy looks the type up only where the message is used.
            Payload::Opaque(_) if any.is_typed_struct && place.inert => {}
            Payload::Opaque(_) => {
                self.problem(
                    place.mark,
                    place.path,
                    format!("unknown type {}", any.type_name()),
                );
            }
        }
    }

    fn enumeration(&mut self, row: &EnumRow, number: i32, place: Place<'_>) {
        // The rules decide whether an enum value without a name is allowed.
        let Some(value) = row.value(number) else {
            return;
        };
        if value.deprecated != Deprecated::No {
            let name = format!("{}.{}", row.name(), value.name());
            self.deprecation(value.deprecated, &name, row.file(), place);
        }
        if !place.inert && value.support == Support::Refused {
            let supported = row
                .values()
                .iter()
                .filter(|value| value.support != Support::Refused);
            let supported: Vec<&str> = supported.map(|value| value.name()).collect();
            let mut text = format!(
                "{} is not supported here; supported: {}",
                value.name(),
                supported.join(", ")
            );
            add_note(&mut text, value.note());
            self.problem(place.mark, place.path, text);
        }
    }

    fn is_supported(&mut self, value: &FieldValue, path: &FieldPath) -> bool {
        let field = value.field;
        let is_unset = is_unset(field, &value.value);
        let mut text = match field.support {
            Support::Implemented | Support::NoEffect => return true,
            _ if is_unset => return true,
            Support::Refused => "not supported here".to_owned(),
            Support::Only => {
                let (values, _) = split_only(field.note());
                let given = spell(field, &value.value);
                if given
                    .as_deref()
                    .is_some_and(|given| values.split('|').any(|value| value.trim() == given))
                {
                    return true;
                }
                let given = given.unwrap_or_else(|| "this value".to_owned());
                format!(
                    "{given} is not supported here; supported: {}",
                    values.replace('|', ", ")
                )
            }
        };
        let note = if field.support == Support::Only {
            split_only(field.note()).1
        } else {
            field.note()
        };
        add_note(&mut text, note);
        self.problem(value.mark, path, text);
        false
    }

    fn deprecation(&mut self, deprecated: Deprecated, name: &str, file: &str, place: Place<'_>) {
        let (list, text) = match deprecated {
            Deprecated::No => return,
            Deprecated::Warn => (
                &mut self.findings.warnings,
                format!(
                    "Deprecated field: using deprecated option '{name}' from file {file}. This configuration will be \
                     removed from Envoy soon."
                ),
            ),
            Deprecated::Disallowed => (
                &mut self.findings.problems,
                format!("the deprecated option '{name}' is no longer allowed, as in Envoy"),
            ),
        };
        list.push(Problem {
            mark: place.mark,
            path: place.path.clone(),
            message: text,
        });
    }

    fn duration(&mut self, message: &Message, path: &FieldPath) {
        // The range that Envoy can represent in nanoseconds.
        const MAX_SECONDS: i64 = i64::MAX / 1_000_000_000;
        let part = |name: &str| match message.get(name).map(|value| &value.value) {
            Some(Value::Int(value)) => *value,
            _ => 0,
        };
        let (seconds, nanos) = (part("seconds"), part("nanos"));
        let in_range = (0..=MAX_SECONDS).contains(&seconds) && (0..=999_999_999).contains(&nanos);
        if seconds < 0 || nanos < 0 {
            self.problem(message.mark, path, "expected a positive duration");
        } else if !in_range {
            self.problem(message.mark, path, "duration out of range");
        }
    }
}

/// Whether the value is the default of a field without presence, which is the same as an unset field.
fn is_unset(field: &FieldRow, value: &Value) -> bool {
    field.cardinality != Cardinality::Explicit && value.is_default()
}

fn add_note(text: &mut String, note: &str) {
    if !note.is_empty() {
        text.push_str(": ");
        text.push_str(note);
    }
}

/// The values that an `only` line allows, and the reason after the colon.
fn split_only(note: &str) -> (&str, &str) {
    let (values, reason) = note.split_once(':').unwrap_or((note, ""));
    (values.trim(), reason.trim())
}

/// A scalar, or one in a wrapper, as the support table spells it.
fn spell(field: &FieldRow, value: &Value) -> Option<String> {
    Some(match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Enum(number) => match field.kind {
            FieldKind::Enum(row) => EnumRow::at(row).value(*number)?.name().to_owned(),
            _ => return None,
        },
        Value::Message(message) if message.message_type.well_known() == WellKnown::Wrapper => {
            let value = message.fields.first()?;
            spell(value.field, &value.value)?
        }
        _ => return None,
    })
}
