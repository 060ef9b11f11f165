//! The grammar of one command: `%NAME%`, `%NAME(PARAM)%`, `%NAME(PARAM):LENGTH%`.

/// A parsed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FormatCommand<'f> {
    pub(crate) name: &'f str,
    /// The text between the parentheses; empty without parentheses.
    pub(crate) param: &'f str,
    /// How many bytes of the value are printed at most.
    pub(crate) max_length: Option<usize>,
}

impl<'f> FormatCommand<'f> {
    /// Parses the command at the start of `text`. Also returns its length, including both `%`.
    pub(crate) fn parse(text: &'f str) -> Option<(FormatCommand<'f>, usize)> {
        let body = text.strip_prefix('%')?;
        let name_end = body
            .find(|c: char| !matches!(c, 'A'..='Z' | '0'..='9' | '_'))
            .filter(|end| *end > 0)?;
        let (name, rest) = body.split_at(name_end);
        let Some(inside) = rest.strip_prefix('(') else {
            let (max_length, end) = length_and_end(rest)?;
            let command = FormatCommand {
                name,
                param: "",
                max_length,
            };
            return Some((command, 1 + name_end + end));
        };
        // The parameter ends at the first `)` after which the command can end.
        for (at, _) in inside.match_indices(')') {
            if inside[..at].contains('\n') {
                return None;
            }
            if let Some((max_length, end)) = length_and_end(&inside[at + 1..]) {
                let command = FormatCommand {
                    name,
                    param: &inside[..at],
                    max_length,
                };
                return Some((command, 1 + name_end + 1 + at + 1 + end));
            }
        }
        None
    }

    /// Refuses a parameter and a length.
    pub(crate) fn takes_nothing(&self) -> Result<(), String> {
        if self.param.is_empty() && self.max_length.is_none() {
            Ok(())
        } else {
            Err(format!(
                "{} does not take any parameters or length",
                self.name
            ))
        }
    }

    /// Refuses a length.
    pub(crate) fn takes_no_length(&self) -> Result<(), String> {
        match self.max_length {
            None => Ok(()),
            Some(_) => Err(format!(
                "{} does not allow length to be specified.",
                self.name
            )),
        }
    }

    /// The parameter, or an error if it is missing.
    pub(crate) fn required_param(&self) -> Result<&'f str, String> {
        if self.param.is_empty() {
            Err(format!("{} requires parameters", self.name))
        } else {
            Ok(self.param)
        }
    }
}

/// Parses `%` or `:LENGTH%`. Also returns how long that text is.
fn length_and_end(text: &str) -> Option<(Option<usize>, usize)> {
    if text.starts_with('%') {
        return Some((None, 1));
    }
    let number = text.strip_prefix(':')?;
    let digits = number.find('%')?;
    let all_digits = number[..digits].bytes().all(|b| b.is_ascii_digit());
    let length = number[..digits].parse().ok().filter(|_| all_digits)?;
    Some((Some(length), 1 + digits + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_commands_as_envoy_does() {
        for (text, expected) in [
            ("%A%b", Some(("A", "", None, 3))),
            ("%A_1():20%", Some(("A_1", "", Some(20), 10))),
            ("%A(x)%", Some(("A", "x", None, 6))),
            ("%A(x)y)%", Some(("A", "x)y", None, 8))),
            ("%A(%%)%", Some(("A", "%%", None, 7))),
            ("%A:3%", Some(("A", "", Some(3), 5))),
            ("%A(x):%", None),
            ("%A(x):y%", None),
            ("%A(x):-1%", None),
            ("%A(x", None),
            ("%A(x)", None),
            ("%A(a\n)%", None),
            ("%a%", None),
            ("%A %", None),
            ("% A%", None),
            ("%", None),
            ("%A", None),
            ("%A(x):99999999999999999999%", None),
        ] {
            let parsed = FormatCommand::parse(text)
                .map(|(c, length)| (c.name, c.param, c.max_length, length));
            assert_eq!(parsed, expected, "{text}");
        }
    }
}
