//! The constraint rules of the API, with the messages of protoc-gen-validate.

use std::collections::HashSet;
use std::fmt::Display;

use regex::Regex;

use crate::schema::Cardinality;
use crate::schema::EnumRow;
use crate::schema::FieldKind;
use crate::schema::FieldRow;
use crate::schema::Limit;
use crate::schema::Rule;
use crate::schema::WellKnown;
use crate::schema::rules;
use crate::value::Item;
use crate::value::Message;
use crate::value::Value;
use crate::wire;

/// A rule that a value breaks.
pub(super) struct Broken {
    /// Which element of a list or map.
    pub(super) at: At,
    pub(super) text: String,
}

/// The value itself, or one inside it.
pub(super) enum At {
    Whole,
    Index(usize),
    Key(String),
}

impl crate::FieldPath {
    /// The path of the value that breaks the rule.
    pub(super) fn at(&self, broken: &Broken) -> Self {
        match &broken.at {
            At::Whole => self.clone(),
            At::Index(index) => self.index(*index),
            At::Key(key) => self.key(key),
        }
    }
}

/// The rules of `field` that `value` breaks.
pub(super) fn broken(field: &FieldRow, value: &Value) -> Vec<Broken> {
    let mut found = Vec::new();
    each(field.rules(), field.kind, value, &mut |text| {
        found.push(Broken {
            at: At::Whole,
            text,
        })
    });
    for rule in field.rules() {
        match (rule, value) {
            (Rule::Items(span), Value::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    each(rules(*span), field.kind, &item.value, &mut |text| {
                        found.push(Broken {
                            at: At::Index(index),
                            text,
                        });
                    });
                }
            }
            (Rule::Keys(span) | Rule::Values(span), Value::Map(entries)) => {
                let is_key = matches!(rule, Rule::Keys(_));
                for entry in entries {
                    let value = if is_key { &entry.key } else { &entry.value };
                    let Value::String(key) = &entry.key else {
                        continue;
                    };
                    each(rules(*span), field.kind, value, &mut |text| {
                        found.push(Broken {
                            at: At::Key(key.clone()),
                            text,
                        });
                    });
                }
            }
            _ => {}
        }
    }
    found
}

/// The rules of `field` that its absence breaks. For a field without presence, its default is checked.
pub(super) fn broken_by_absence(field: &FieldRow) -> Vec<String> {
    let mut found = Vec::new();
    match field.cardinality {
        Cardinality::Explicit => {
            let is_member = field.oneof.is_some();
            if !is_member
                && field
                    .rules()
                    .iter()
                    .any(|rule| matches!(rule, Rule::Required))
            {
                found.push("value is required".to_owned());
            }
        }
        Cardinality::Repeated => each(
            field.rules(),
            field.kind,
            &Value::List(Vec::new()),
            &mut |text| found.push(text),
        ),
        Cardinality::Map => each(
            field.rules(),
            field.kind,
            &Value::Map(Vec::new()),
            &mut |text| found.push(text),
        ),
        Cardinality::Implicit => {
            let value = match field.kind {
                FieldKind::Bool => Value::Bool(false),
                FieldKind::Int32 | FieldKind::Int64 => Value::Int(0),
                FieldKind::Uint32 | FieldKind::Uint64 => Value::Uint(0),
                FieldKind::Float => Value::Float(0.0),
                FieldKind::Double => Value::Double(0.0),
                FieldKind::Bytes => Value::Bytes(Vec::new()),
                FieldKind::Enum(_) => Value::Enum(0),
                FieldKind::String | FieldKind::Message(_) => Value::String(String::new()),
            };
            each(field.rules(), field.kind, &value, &mut |text| {
                found.push(text)
            });
        }
    }
    found
}

/// Calls `report` with the text of every rule that `value` itself breaks.
fn each(rules: &'static [Rule], kind: FieldKind, value: &Value, report: &mut dyn FnMut(String)) {
    // Rules on a wrapper apply to the wrapped value.
    let value = match value {
        Value::Message(message) if message.message_type.well_known() == WellKnown::Wrapper => {
            match message.fields.first() {
                Some(inner) => &inner.value,
                None => return,
            }
        }
        value => value,
    };
    let ignores_empty = rules.iter().any(|rule| matches!(rule, Rule::IgnoreEmpty));
    if ignores_empty && value.is_default() {
        return;
    }
    let choices: Vec<&str> = rules
        .iter()
        .filter_map(|rule| {
            if let Rule::In(text) = rule {
                Some(text.as_str())
            } else {
                None
            }
        })
        .collect();
    if let Value::String(text) = value
        && !choices.is_empty()
        && !choices.contains(&text.as_str())
    {
        report(format!("value must be in list [{}]", choices.join(", ")));
    }
    for rule in rules {
        let text = match value {
            Value::String(text) => string(rule, text),
            Value::Bytes(bytes) => length(rule, bytes.len()),
            Value::Bool(flag) => match rule {
                Rule::Bool(wanted) if wanted != flag => Some(format!("value must equal {wanted}")),
                _ => None,
            },
            Value::Int(value) => integer(rule, i128::from(*value)),
            Value::Uint(value) => integer(rule, i128::from(*value)),
            Value::Float(value) => number(rule, f64::from(*value)),
            Value::Double(value) => number(rule, *value),
            Value::Enum(value) => enumeration(rule, kind, *value),
            Value::Message(message) => duration(rule, message),
            Value::List(items) => list(rule, items),
            Value::Map(entries) => match *rule {
                Rule::MinPairs(least) if entries.len() < least as usize => {
                    Some(format!("value must contain at least {least} pair(s)"))
                }
                Rule::MaxPairs(most) if entries.len() > most as usize => {
                    Some(format!("value must contain no more than {most} pair(s)"))
                }
                _ => None,
            },
            Value::Any(any) => match rule {
                Rule::Required if any.type_url.is_empty() => Some("value is required".to_owned()),
                _ => None,
            },
        };
        if let Some(text) = text {
            report(text);
        }
    }
}

fn string(rule: &Rule, text: &str) -> Option<String> {
    let characters = text.chars().count();
    match *rule {
        Rule::MinLength(least) if characters < least as usize => {
            Some(format!("value length must be at least {least} characters"))
        }
        Rule::MaxLength(most) if characters > most as usize => {
            Some(format!("value length must be at most {most} characters"))
        }
        Rule::Pattern(pattern) => {
            let pattern = pattern.as_str();
            // The patterns are those of the API; its tests compile them all.
            let matches = Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
            (!matches).then(|| format!("value does not match regex pattern {pattern:?}"))
        }
        Rule::Prefix(prefix) if !text.starts_with(prefix.as_str()) => {
            Some(format!("value does not have prefix {:?}", prefix.as_str()))
        }
        Rule::Suffix(suffix) if !text.ends_with(suffix.as_str()) => {
            Some(format!("value does not have suffix {:?}", suffix.as_str()))
        }
        Rule::NotContains(part) if text.contains(part.as_str()) => {
            Some(format!("value contains substring {:?}", part.as_str()))
        }
        Rule::HeaderName { strict } if !is_header_name(text, strict) => {
            Some("value does not match regex pattern for header names".to_owned())
        }
        Rule::HeaderValue { strict } if !is_header_value(text, strict) => {
            Some("value does not match regex pattern for header values".to_owned())
        }
        Rule::Uri if !text.contains("://") => Some("value must be a valid URI".to_owned()),
        _ => length(rule, text.len()),
    }
}

fn length(rule: &Rule, bytes: usize) -> Option<String> {
    match *rule {
        Rule::MinBytes(least) if bytes < least as usize => {
            Some(format!("value length must be at least {least} bytes"))
        }
        Rule::MaxBytes(most) if bytes > most as usize => {
            Some(format!("value length must be at most {most} bytes"))
        }
        _ => None,
    }
}

/// An optional colon, then the token characters of RFC 9110; or anything without line ends and nulls.
fn is_header_name(text: &str, strict: bool) -> bool {
    if !strict {
        return !text.contains(['\0', '\n', '\r']);
    }
    let name = text.strip_prefix(':').unwrap_or(text);
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&byte))
}

/// No control characters; or no line ends and nulls.
fn is_header_value(text: &str, strict: bool) -> bool {
    let forbidden = |letter: char| match strict {
        true => matches!(letter, '\0'..='\u{8}' | '\u{a}'..='\u{1f}' | '\u{7f}'),
        false => matches!(letter, '\0' | '\n' | '\r'),
    };
    !text.contains(forbidden)
}

fn integer(rule: &Rule, value: i128) -> Option<String> {
    match rule {
        Rule::Integer { above, below } => outside(value, widen(*above), widen(*below)),
        Rule::IntegerNotIn(excluded) if value == i128::from(*excluded) => {
            Some(format!("value must not be in list [{excluded}]"))
        }
        _ => None,
    }
}

fn number(rule: &Rule, value: f64) -> Option<String> {
    match rule {
        Rule::Number { above, below } => outside(value, *above, *below),
        _ => None,
    }
}

fn duration(rule: &Rule, message: &Message) -> Option<String> {
    let Rule::Duration { above, below } = rule else {
        return None;
    };
    let part = |name: &str| match message.get(name).map(|value| &value.value) {
        Some(Value::Int(value)) => i128::from(*value),
        _ => 0,
    };
    let nanos = part("seconds") * 1_000_000_000 + part("nanos");
    // In the largest unit that keeps the numbers whole.
    let units = [
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];
    let is_whole = |unit: i128| {
        [widen(*above), widen(*below)]
            .into_iter()
            .all(|limit| match limit {
                Limit::None => true,
                Limit::Open(value) | Limit::Closed(value) => value % unit == 0,
            })
    };
    let (unit, name) = units
        .into_iter()
        .find(|&(unit, _)| is_whole(unit))
        .unwrap_or((1, "ns"));
    let scale = |limit| match limit {
        Limit::None => Limit::None,
        Limit::Open(value) => Limit::Open(value / unit),
        Limit::Closed(value) => Limit::Closed(value / unit),
    };
    let (above, below) = (widen(*above), widen(*below));
    is_outside(nanos, above, below).then(|| range_text(scale(above), scale(below), name))
}

fn widen(limit: Limit<i64>) -> Limit<i128> {
    match limit {
        Limit::None => Limit::None,
        Limit::Open(value) => Limit::Open(value.into()),
        Limit::Closed(value) => Limit::Closed(value.into()),
    }
}

fn outside<T: PartialOrd + Display + Copy>(
    value: T,
    above: Limit<T>,
    below: Limit<T>,
) -> Option<String> {
    is_outside(value, above, below).then(|| range_text(above, below, ""))
}

fn is_outside<T: PartialOrd + Copy>(value: T, above: Limit<T>, below: Limit<T>) -> bool {
    let is_above = match above {
        Limit::None => true,
        Limit::Open(limit) => value > limit,
        Limit::Closed(limit) => value >= limit,
    };
    let is_below = match below {
        Limit::None => true,
        Limit::Open(limit) => value < limit,
        Limit::Closed(limit) => value <= limit,
    };
    !is_above || !is_below
}

fn range_text<T: Display>(above: Limit<T>, below: Limit<T>, unit: &str) -> String {
    match (above, below) {
        (Limit::Open(limit), Limit::None) => format!("value must be greater than {limit}{unit}"),
        (Limit::Closed(limit), Limit::None) => {
            format!("value must be greater than or equal to {limit}{unit}")
        }
        (Limit::None, Limit::Open(limit)) => format!("value must be less than {limit}{unit}"),
        (Limit::None, Limit::Closed(limit)) => {
            format!("value must be less than or equal to {limit}{unit}")
        }
        (above, below) => {
            let left = match above {
                Limit::Open(limit) => format!("({limit}{unit}"),
                Limit::Closed(limit) => format!("[{limit}{unit}"),
                Limit::None => "(".to_owned(),
            };
            let right = match below {
                Limit::Open(limit) => format!("{limit}{unit})"),
                Limit::Closed(limit) => format!("{limit}{unit}]"),
                Limit::None => ")".to_owned(),
            };
            format!("value must be inside range {left}, {right}")
        }
    }
}

fn enumeration(rule: &Rule, kind: FieldKind, value: i32) -> Option<String> {
    match (rule, kind) {
        (Rule::EnumDefined, FieldKind::Enum(row)) if EnumRow::at(row).value(value).is_none() => {
            Some("value must be one of the defined enum values".to_owned())
        }
        (Rule::EnumNotIn(excluded), _) if *excluded == value => {
            Some(format!("value must not be in list [{excluded}]"))
        }
        _ => None,
    }
}

fn list(rule: &Rule, items: &[Item]) -> Option<String> {
    match *rule {
        Rule::MinItems(least) if items.len() < least as usize => {
            Some(format!("value must contain at least {least} item(s)"))
        }
        Rule::MaxItems(most) if items.len() > most as usize => {
            Some(format!("value must contain no more than {most} item(s)"))
        }
        Rule::Unique => {
            let mut seen = HashSet::new();
            let is_new = |item: &Item| match &item.value {
                Value::Message(message) => seen.insert(wire::encode(message)),
                Value::String(text) => seen.insert(text.clone().into_bytes()),
                Value::Double(number) => seen.insert(number.to_le_bytes().to_vec()),
                Value::Enum(number) => seen.insert(number.to_le_bytes().to_vec()),
                Value::Uint(number) => seen.insert(number.to_le_bytes().to_vec()),
                _ => true,
            };
            (!items.iter().all(is_new))
                .then(|| "repeated value must contain unique items".to_owned())
        }
        _ => None,
    }
}
