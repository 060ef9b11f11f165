//! One value: its text, and its meaning as a number or as a fraction.
//!
//! A value has no declared type. As in Envoy, a value that cannot be read as the requested type counts as not set.

use std::collections::BTreeMap;

use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use crate::Fraction;

/// A value of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    text: Box<str>,
    number: Option<f64>,
    fraction: Option<Fraction>,
}

impl Entry {
    /// Parses a text as YAML: the text of a file in a disk layer, or of the admin layer.
    ///
    /// # Errors
    /// The text is not YAML.
    pub(crate) fn of_text(text: &str) -> Result<Entry, String> {
        let value = outrider_config::yaml_value(text)?;
        Ok(match &value.kind {
            Some(Kind::NumberValue(number)) => Entry {
                text: text.into(),
                number: Some(*number),
                fraction: None,
            },
            Some(Kind::StructValue(fields)) => Entry {
                text: text.into(),
                number: None,
                fraction: fraction(fields),
            },
            Some(Kind::StringValue(_)) => Entry::of_string(text),
            _ => Entry {
                text: text.into(),
                number: None,
                fraction: None,
            },
        })
    }

    /// A value of a `static_layer`.
    pub(crate) fn of_value(value: &Value) -> Entry {
        let (number, fraction) = match &value.kind {
            Some(Kind::StringValue(text)) => return Entry::of_string(text),
            Some(Kind::NumberValue(number)) => (Some(*number), None),
            Some(Kind::StructValue(fields)) => (None, fraction(fields)),
            _ => (None, None),
        };
        Entry {
            text: print(value).into(),
            number,
            fraction,
        }
    }

    fn of_string(text: &str) -> Entry {
        Entry {
            text: text.into(),
            number: decimal(text.trim_ascii()),
            fraction: None,
        }
    }

    /// The value as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value as a whole number that is not negative; decimals are cut off.
    pub(crate) fn number(&self) -> Option<u64> {
        self.number.and_then(whole)
    }

    /// The value as a number of any kind.
    pub(crate) fn double(&self) -> Option<f64> {
        self.number
    }

    /// The value as a share: a `FractionalPercent`, or a number of percent.
    pub(crate) fn fraction(&self) -> Option<Fraction> {
        let of_hundred = |percent: u64| match u32::try_from(percent) {
            Ok(percent) if percent <= 100 => Fraction::percent(percent),
            _ => Fraction::percent(100),
        };
        self.fraction.or(self.number().map(of_hundred))
    }
}

/// A number in a text: decimal with or without an exponent, or hexadecimal.
fn decimal(text: &str) -> Option<f64> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok().map(f64::from),
        None => text.parse().ok(),
    }
}

fn whole(number: f64) -> Option<u64> {
    // As in Envoy, 2^64 itself is accepted and means the largest number.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "what is out of range has been refused, and decimals are to be cut off"
    )]
    let whole = (number >= 0.0 && number <= u64::MAX as f64).then_some(number as u64);
    whole
}

/// A `FractionalPercent`; `None` if it has other fields.
fn fraction(fields: &Struct) -> Option<Fraction> {
    let mut numerator = 0;
    let mut denominator = 100;
    for (name, value) in &fields.fields {
        match (name.as_str(), &value.kind) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "values out of range are converted as in Envoy"
            )]
            ("numerator", Some(Kind::NumberValue(number))) => numerator = *number as i64 as u32,
            ("numerator", _) => {}
            ("denominator", Some(Kind::StringValue(name))) => denominator = denominator_of(name)?,
            _ => return None,
        }
    }
    Some(Fraction::new(numerator, denominator))
}

fn denominator_of(name: &str) -> Option<u32> {
    match name {
        "HUNDRED" => Some(100),
        "TEN_THOUSAND" => Some(10_000),
        "MILLION" => Some(1_000_000),
        _ => None,
    }
}

fn print(value: &Value) -> String {
    match &value.kind {
        None | Some(Kind::NullValue(_) | Kind::ListValue(_)) => String::new(),
        Some(Kind::BoolValue(on)) => on.to_string(),
        Some(Kind::NumberValue(number)) => six_digits(*number),
        Some(Kind::StringValue(text)) => text.clone(),
        Some(Kind::StructValue(inner)) => {
            let fields: BTreeMap<&String, String> = inner
                .fields
                .iter()
                .map(|(name, value)| (name, print(value)))
                .collect();
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}: {value}"))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

/// The number with six significant digits, as C's `%g` prints it.
fn six_digits(number: f64) -> String {
    let scientific = format!("{number:.5e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific; // not finite
    };
    let shorten = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match exponent.parse::<i32>() {
        Ok(power @ -4..6) => {
            let decimals = usize::try_from(5 - power).unwrap_or_default();
            shorten(&format!("{number:.decimals$}"))
        }
        Ok(power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{}e{sign}{:02}", shorten(digits), power.abs())
        }
        Err(_) => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results of `/runtime_modify` in Envoy 1.40.0.
    #[test]
    fn texts_are_read_as_in_envoy() {
        let percent = |percent| Some(Fraction::percent(percent));
        for (text, number, share) in [
            ("100", Some(100), percent(100)),
            ("101", Some(101), percent(100)),
            ("99.9", Some(99), percent(99)),
            ("1e3", Some(1000), percent(100)),
            ("-1", None, None),
            (" 50 ", Some(50), percent(50)),
            ("0x64", Some(100), percent(100)),
            ("0144", Some(100), percent(100)),
            ("0o144", None, None),
            ("+7", Some(7), percent(7)),
            ("7 # of them", Some(7), percent(7)),
            ("true", None, None),
            ("'7'", None, None),
            ("7%", None, None),
            ("[7]", None, None),
            ("~", None, None),
            ("nan", None, None),
            ("1e400", None, None),
            ("18446744073709551616", Some(u64::MAX), percent(100)),
            ("{numerator: 50}", None, percent(50)),
            ("numerator: 50", None, percent(50)),
            (
                "{denominator: TEN_THOUSAND, numerator: 5}",
                None,
                Some(Fraction::new(5, 10_000)),
            ),
            ("{numerator: 5, denominator: million}", None, None),
            ("{numerator: 5, denominator: 0}", None, None),
            ("{numerator: 5, x: 1}", None, None),
            ("{numerator: '5'}", None, percent(0)),
            ("", None, None),
        ] {
            let entry = Entry::of_text(text).unwrap();
            assert_eq!(
                (entry.number(), entry.fraction()),
                (number, share),
                "{text}"
            );
            assert_eq!(entry.text(), text);
        }
        assert!(Entry::of_text("{").is_err());
    }

    #[test]
    fn strings_of_a_static_layer_may_be_numbers() {
        let string = |text: &str| Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        for (text, number, share) in [
            ("7", Some(7), Some(Fraction::percent(7))),
            ("0x64", Some(100), Some(Fraction::percent(100))),
            ("1e1", Some(10), Some(Fraction::percent(10))),
            ("numerator: 4", None, None),
            ("{\"numerator\": 4}", None, None),
        ] {
            let entry = Entry::of_value(&string(text));
            assert_eq!(
                (entry.number(), entry.fraction()),
                (number, share),
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_are_printed_with_six_digits() {
        for (number, text) in [
            (5.0, "5"),
            (-1.0, "-1"),
            (0.0, "0"),
            (1.5, "1.5"),
            (123_456.0, "123456"),
            (1_000_000.0, "1e+06"),
            (1_234_567.0, "1.23457e+06"),
            (0.000_1, "0.0001"),
            (0.000_01, "1e-05"),
        ] {
            assert_eq!(six_digits(number), text);
        }
    }
}
