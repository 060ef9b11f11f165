//! Turns the constraint options of fields into rows of the table of rules.

use std::fmt::Debug;

use crate::rules::DoubleRules;
use crate::rules::DurationRules;
use crate::rules::EnumRules;
use crate::rules::FieldRules;
use crate::rules::IntegerRules;
use crate::rules::StringRules;
use crate::tables::Result;
use crate::tables::TextTable;
use crate::tables::span;

/// The table of rules, as Rust source.
#[derive(Default)]
pub(crate) struct Rules {
    pub(crate) rows: Vec<String>,
}

impl Rules {
    /// Adds the rules of one field and returns their span.
    pub(crate) fn add(
        &mut self,
        rules: Option<&FieldRules>,
        text: &mut TextTable,
    ) -> Result<String> {
        let Some(rules) = rules else {
            return Ok(span(0, 0));
        };
        let mut rows = Vec::new();
        let message = rules.message.iter().any(|rules| rules.required);
        let any = rules.any.iter().any(|rules| rules.required);
        let duration = rules.duration.iter().any(|rules| rules.required);
        let timestamp = rules.timestamp.iter().any(|rules| rules.required);
        if message || any || duration || timestamp {
            rows.push("Rule::Required".to_owned());
        }
        if rules.message.iter().any(|rules| rules.skip)
            || rules.any.iter().any(|rules| !rules.r#in.is_empty())
        {
            return Err("a rule for messages that is not read".into());
        }
        for integer in [&rules.int32, &rules.int64, &rules.uint32, &rules.uint64]
            .into_iter()
            .flatten()
        {
            integers(integer, &mut rows)?;
        }
        if let Some(float) = &rules.float {
            let widen = |limit: Option<f32>| limit.map(f64::from);
            let (lt, lte, gt, gte) = (
                widen(float.lt),
                widen(float.lte),
                widen(float.gt),
                widen(float.gte),
            );
            doubles(&DoubleRules { lt, lte, gt, gte }, &mut rows);
        }
        if let Some(double) = &rules.double {
            doubles(double, &mut rows);
        }
        if let Some(value) = rules.bool.as_ref().and_then(|rules| rules.r#const) {
            rows.push(format!("Rule::Bool({value})"));
        }
        if let Some(string) = &rules.string {
            strings(string, text, &mut rows)?;
        }
        if let Some(bytes) = &rules.bytes {
            let exact = bytes.len;
            number("MinBytes", exact.or(bytes.min_len), &mut rows);
            number("MaxBytes", exact.or(bytes.max_len), &mut rows);
        }
        if let Some(rules) = &rules.r#enum {
            enums(rules, &mut rows)?;
        }
        if let Some(rules) = &rules.duration {
            durations(rules, &mut rows);
        }
        self.containers(rules, text, &mut rows)?;
        let start = self.rows.len();
        self.rows.extend(rows);
        Ok(span(start, self.rows.len()))
    }

    fn containers(
        &mut self,
        rules: &FieldRules,
        text: &mut TextTable,
        rows: &mut Vec<String>,
    ) -> Result<()> {
        if let Some(repeated) = &rules.repeated {
            if repeated.ignore_empty {
                rows.push("Rule::IgnoreEmpty".to_owned());
            }
            number("MinItems", repeated.min_items, rows);
            number("MaxItems", repeated.max_items, rows);
            if repeated.unique {
                rows.push("Rule::Unique".to_owned());
            }
            if repeated.items.is_some() {
                let items = self.add(repeated.items.as_ref(), text)?;
                rows.push(format!("Rule::Items({items})"));
            }
        }
        if let Some(map) = &rules.map {
            number("MinPairs", map.min_pairs, rows);
            number("MaxPairs", map.max_pairs, rows);
            for (rule, rules) in [("Keys", &map.keys), ("Values", &map.values)] {
                if rules.is_some() {
                    let span = self.add(rules.as_ref(), text)?;
                    rows.push(format!("Rule::{rule}({span})"));
                }
            }
        }
        Ok(())
    }
}

fn number(rule: &str, value: Option<u64>, rows: &mut Vec<String>) {
    rows.extend(value.map(|value| format!("Rule::{rule}({value})")));
}

fn integers(rules: &IntegerRules, rows: &mut Vec<String>) -> Result<()> {
    if rules.r#const.is_some() || !rules.r#in.is_empty() {
        return Err("a rule for integers that is not read".into());
    }
    if rules.ignore_empty {
        rows.push("Rule::IgnoreEmpty".to_owned());
    }
    rows.extend(
        rules
            .not_in
            .iter()
            .map(|value| format!("Rule::IntegerNotIn({value})")),
    );
    range("Integer", [rules.gt, rules.gte, rules.lt, rules.lte], rows);
    Ok(())
}

fn doubles(rules: &DoubleRules, rows: &mut Vec<String>) {
    range("Number", [rules.gt, rules.gte, rules.lt, rules.lte], rows);
}

fn durations(rules: &DurationRules, rows: &mut Vec<String>) {
    let nanos = |duration: &Option<prost_types::Duration>| {
        duration
            .as_ref()
            .map(|duration| duration.seconds * 1_000_000_000 + i64::from(duration.nanos))
    };
    range(
        "Duration",
        [
            nanos(&rules.gt),
            nanos(&rules.gte),
            nanos(&rules.lt),
            nanos(&rules.lte),
        ],
        rows,
    );
}

fn range<T: Debug + PartialOrd + Copy>(rule: &str, limits: [Option<T>; 4], rows: &mut Vec<String>) {
    let [gt, gte, lt, lte] = limits;
    let limit = |open: Option<T>, closed: Option<T>| match (open, closed) {
        (Some(value), _) => format!("Limit::Open({value:?})"),
        (None, Some(value)) => format!("Limit::Closed({value:?})"),
        (None, None) => "Limit::None".to_owned(),
    };
    if let (Some(above), Some(below)) = (gt.or(gte), lt.or(lte))
        && above > below
    {
        // Excludes a range instead: only a QUIC option does, and QUIC is refused.
        return;
    }
    if limits.iter().any(Option::is_some) {
        rows.push(format!(
            "Rule::{rule} {{ above: {}, below: {} }}",
            limit(gt, gte),
            limit(lt, lte)
        ));
    }
}

fn strings(rules: &StringRules, text: &mut TextTable, rows: &mut Vec<String>) -> Result<()> {
    let unread =
        rules.hostname || rules.ip || rules.uri_ref || rules.address || rules.len_bytes.is_some();
    if unread || rules.r#const.is_some() || rules.contains.is_some() || !rules.not_in.is_empty() {
        return Err("a rule for strings that is not read".into());
    }
    if rules.ignore_empty {
        rows.push("Rule::IgnoreEmpty".to_owned());
    }
    number("MinLength", rules.len.or(rules.min_len), rows);
    number("MaxLength", rules.len.or(rules.max_len), rows);
    number("MinBytes", rules.min_bytes, rows);
    number("MaxBytes", rules.max_bytes, rows);
    for (rule, value) in [
        ("Pattern", &rules.pattern),
        ("Prefix", &rules.prefix),
        ("Suffix", &rules.suffix),
        ("NotContains", &rules.not_contains),
    ] {
        rows.extend(
            value
                .iter()
                .map(|value| format!("Rule::{rule}({})", text.add(value))),
        );
    }
    rows.extend(
        rules
            .r#in
            .iter()
            .map(|value| format!("Rule::In({})", text.add(value))),
    );
    if rules.uri {
        rows.push("Rule::Uri".to_owned());
    }
    let strict = rules.strict.unwrap_or(true);
    match rules.well_known_regex {
        0 => {}
        1 => rows.push(format!("Rule::HeaderName {{ strict: {strict} }}")),
        2 => rows.push(format!("Rule::HeaderValue {{ strict: {strict} }}")),
        _ => return Err("a well-known regex that is not read".into()),
    }
    Ok(())
}

fn enums(rules: &EnumRules, rows: &mut Vec<String>) -> Result<()> {
    if rules.r#const.is_some() || !rules.r#in.is_empty() {
        return Err("a rule for enums that is not read".into());
    }
    if rules.defined_only {
        rows.push("Rule::EnumDefined".to_owned());
    }
    rows.extend(
        rules
            .not_in
            .iter()
            .map(|value| format!("Rule::EnumNotIn({value})")),
    );
    Ok(())
}
