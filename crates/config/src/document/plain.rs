//! The value of a plain (unquoted) YAML scalar, by the rules of `yaml-cpp` and Envoy.

use super::NodeKind;

/// The value of a plain scalar.
pub(super) fn resolve(text: String) -> NodeKind {
    if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
        return NodeKind::Null;
    }
    resolve_tagged(text)
}

/// The value of a scalar that has a tag, quoted or not. With any tag, a null is a string, and a quoted text may be a
/// number.
pub(super) fn resolve_tagged(text: String) -> NodeKind {
    if let Some(flag) = boolean(&text) {
        return NodeKind::Bool(flag, text);
    }
    match integer(&text) {
        // A larger number is kept as a string of its decimal digits.
        Some(value) if i32::try_from(value).is_ok() => NodeKind::Number(value.to_string(), text),
        Some(value) => NodeKind::String(value.to_string()),
        None => NodeKind::String(text),
    }
}

/// `y`, `yes`, `true`, `on` and their opposites in lower, upper or capitalised letters.
fn boolean(text: &str) -> Option<bool> {
    let lower = text.to_ascii_lowercase();
    let flag = match lower.as_str() {
        "y" | "yes" | "true" | "on" => true,
        "n" | "no" | "false" | "off" => false,
        _ => return None,
    };
    let rest = text.get(1..)?;
    let rest_is_lower = rest.chars().all(|letter| letter.is_ascii_lowercase());
    let all_upper = text.chars().all(|letter| letter.is_ascii_uppercase());
    (rest_is_lower || all_upper).then_some(flag)
}

/// A 64-bit integer as C++ reads one: a sign, then `0x` for hexadecimal, `0` for octal or decimal digits.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = if let Some(hex) = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        (16, hex)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = i128::from(u64::from_str_radix(digits, radix).ok()?);
    i64::try_from(if negative { -value } else { value }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(json: &str, text: &str) -> NodeKind {
        NodeKind::Number(json.to_owned(), text.to_owned())
    }

    #[test]
    fn reads_scalars_as_yaml_cpp_does() {
        let flag = |flag, text: &str| NodeKind::Bool(flag, text.to_owned());
        let string = |text: &str| NodeKind::String(text.to_owned());
        for (text, expected) in [
            ("", NodeKind::Null),
            ("~", NodeKind::Null),
            ("nULL", string("nULL")),
            ("y", flag(true, "y")),
            ("Off", flag(false, "Off")),
            ("YES", flag(true, "YES")),
            ("yEs", string("yEs")),
            ("8080", number("8080", "8080")),
            ("+8080", number("8080", "+8080")),
            ("0x1F90", number("8080", "0x1F90")),
            ("017620", number("8080", "017620")),
            ("-0x10", number("-16", "-0x10")),
            ("08", string("08")),
            ("0o17", string("0o17")),
            ("8_080", string("8_080")),
            ("1.5", string("1.5")),
            ("1e3", string("1e3")),
            ("+-1", string("+-1")),
            ("3000000000", string("3000000000")),
            ("0xFFFFFFFF", string("4294967295")),
            ("99999999999999999999", string("99999999999999999999")),
            ("é", string("é")),
        ] {
            assert_eq!(resolve(text.to_owned()), expected, "{text}");
        }
    }
}
