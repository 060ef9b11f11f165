//! Suggests the name that the user probably meant.

use crate::schema::MessageType;

/// The message for a field that does not exist.
pub(super) fn no_such_field(message_type: MessageType, name: &str) -> String {
    let mut text = format!("no such field in {}", message_type.name());
    if name == "<<" {
        return text + "; merge keys are not expanded, as in Envoy";
    }
    if let Some(note) = message_type.gone(name) {
        return format!("{text}; {note}");
    }
    let names: Vec<&str> = message_type
        .fields()
        .iter()
        .map(|field| field.name())
        .collect();
    if let Some(near) = nearest(name, names.iter().copied()) {
        text.push_str("; did you mean ");
        text.push_str(near);
        text.push('?');
    } else if names.len() <= 12 {
        text.push_str("; it has ");
        text.push_str(&join(names.into_iter()));
    }
    text
}

/// The message for a value that is not in a list.
pub(super) fn expected_one_of<'a>(
    names: impl Iterator<Item = &'a str> + Clone,
    got: &str,
) -> String {
    match nearest(got, names.clone()) {
        Some(near) => format!(
            "expected one of {}, got {got:?}; did you mean {near}?",
            join(names)
        ),
        None => format!("expected one of {}, got {got:?}", join(names)),
    }
}

/// The names, separated by commas. A long list is shortened.
pub(super) fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 24;
    let names: Vec<&str> = names.collect();
    match names.get(..SHOWN) {
        Some(shown) if names.len() > SHOWN => {
            format!("{} and {} more", shown.join(", "), names.len() - SHOWN)
        }
        _ => names.join(", "),
    }
}

/// The name that `typed` is probably a misspelling of: up to a third of its letters may differ, or letter case and
/// underscores.
#[must_use]
pub fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 100;
    let typed = fold(typed);
    if typed.len() > LONGEST {
        return None;
    }
    let distances = names.map(|name| (strsim::levenshtein(&typed, &fold(name)), name));
    let (distance, name) = distances.min_by_key(|&(distance, _)| distance)?;
    (distance <= typed.len() / 3).then_some(name)
}

fn fold(name: &str) -> String {
    name.chars()
        .filter(|letter| letter.is_alphanumeric())
        .map(|letter| letter.to_ascii_lowercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_nearest_name() {
        let names = ["port_value", "protocol", "address", "named_port"];
        let nearest = |typed| nearest(typed, names.into_iter());
        assert_eq!(nearest("port_vale"), Some("port_value"));
        assert_eq!(nearest("PortValue"), Some("port_value"));
        assert_eq!(nearest("adress"), Some("address"));
        assert_eq!(nearest("hosts"), None);
        assert_eq!(nearest(""), None);
    }
}
