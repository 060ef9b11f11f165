//! Formats numbers like the C++ code of Envoy.

/// Appends `value` in decimal digits. A scrape has a hundred thousand of them, so this does not use `std::fmt`.
pub(super) fn push_integer(mut value: u64, to: &mut String) {
    let mut digits = [0; 20]; // as many as `u64::MAX` has
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    to.extend(digits[at..].iter().map(|digit| char::from(*digit)));
}

/// Formats like fmt's `{}`: the shortest digits that parse to `value`, or `nan`.
pub(super) fn shortest(value: f64) -> String {
    if value.is_nan() {
        "nan".to_owned()
    } else {
        value.to_string()
    }
}

/// Formats like `std::to_chars`: with an exponent where that is shorter. For JSON, so NaN becomes `null`.
pub(super) fn json(value: f64) -> String {
    if value.is_nan() {
        return "null".to_owned();
    }
    let fixed = value.to_string();
    let exponent = with_two_digits(&format!("{value:e}"));
    if exponent.len() < fixed.len() {
        exponent
    } else {
        fixed
    }
}

/// Formats like C's `%.<digits>g`.
pub(super) fn general(value: f64, digits: usize) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.fract() == 0.0 && value.abs() < 100_000.0 {
        return value.to_string(); // the common case for bucket bounds, and much cheaper
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default(); // always a number
    if (-4..digits as i32).contains(&exponent) {
        let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
        without_zeros(&format!("{value:.decimals$}")).to_owned()
    } else {
        with_two_digits(&format!("{}e{exponent}", without_zeros(mantissa)))
    }
}

fn without_zeros(number: &str) -> &str {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    }
}

/// Converts Rust's `1e5` to C's `1e+05`.
fn with_two_digits(scientific: &str) -> String {
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific.to_owned();
    };
    match exponent.strip_prefix('-') {
        Some(digits) => format!("{mantissa}e-{digits:0>2}"),
        None => format!("{mantissa}e+{exponent:0>2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_all_their_digits() {
        for value in [0, 7, 10, 19, 12_345, u64::MAX] {
            let mut text = "x".to_owned();
            push_integer(value, &mut text);
            assert_eq!(text, format!("x{value}"));
        }
    }

    #[test]
    fn prints_as_envoy() {
        assert_eq!(shortest(1.0666666666666667), "1.0666666666666667");
        assert_eq!(shortest(125_000.0), "125000");
        assert_eq!(shortest(f64::NAN), "nan");

        for (value, want) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (60_000.0, "60000"),
            (300_000.0, "3e+05"),
            (1_800_000.0, "1800000"),
            (3.033333333333333, "3.033333333333333"),
            (f64::NAN, "null"),
        ] {
            assert_eq!(json(value), want);
        }
        for (value, digits, want) in [
            (300_000.0, 6, "300000"),
            (1_800_000.0, 6, "1.8e+06"),
            (3.05, 6, "3.05"),
            (0.00001, 6, "1e-05"),
            (0.0, 6, "0"),
            (8.380952380952381, 32, "8.3809523809523813753230570000596"),
            (142_331.07072041233, 32, "142331.07072041233186610043048859"),
            (3.05, 32, "3.049999999999999822364316059975"),
        ] {
            assert_eq!(general(value, digits), want);
        }
    }
}
