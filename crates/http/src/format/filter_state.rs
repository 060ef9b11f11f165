//! `%FILTER_STATE(KEY:F:FIELD?):Z%`.

use crate::Stream;
use crate::format::OutputKind;
use crate::format::command::FormatCommand;
use crate::format::metadata::write_json;
use crate::format::operators::Operator;
use crate::format::values;

/// Prints an object of the filter state.
#[derive(Clone, Debug)]
pub(crate) struct FilterStateOperator {
    key: Box<str>,
    form: Form,
    max_length: Option<usize>,
}

#[derive(Clone, Debug)]
enum Form {
    Plain,
    Typed,
    Field(Box<str>),
}

impl FilterStateOperator {
    pub(crate) fn build(command: &FormatCommand<'_>) -> Result<Operator, String> {
        let mut parts = command.param.split(':');
        let key = parts.next().unwrap_or_default();
        if key.is_empty() {
            return Err("Invalid filter state configuration, key cannot be empty.".to_owned());
        }
        let form = match (parts.next(), parts.next()) {
            (Some("PLAIN"), None) => Form::Plain,
            (None | Some("TYPED"), None) => Form::Typed,
            (Some("FIELD"), Some(name)) => Form::Field(name.into()),
            (Some("PLAIN" | "TYPED" | "FIELD"), _) => {
                return Err(
                    "Invalid filter state serialize type, FIELD should be used with the field name."
                        .to_owned(),
                );
            }
            _ => {
                return Err(
                    "Invalid filter state serialize type, only support PLAIN/TYPED/FIELD."
                        .to_owned(),
                );
            }
        };
        Ok(Operator::FilterState(FilterStateOperator {
            key: key.into(),
            form,
            max_length: command.max_length,
        }))
    }

    /// `%UPSTREAM_FILTER_STATE(…)%`: absent, because nothing sets filter state on upstream connections.
    pub(crate) fn build_upstream(command: &FormatCommand<'_>) -> Result<Operator, String> {
        FilterStateOperator::build(command)?;
        Ok(Operator::Simple(values::absent))
    }

    pub(crate) fn write(&self, stream: &Stream, out: &mut Vec<u8>) -> OutputKind {
        let Some(object) = stream.filter_state.get(&self.key) else {
            return OutputKind::Absent;
        };
        let start = out.len();
        let text = match &self.form {
            Form::Plain => object.text(),
            Form::Field(name) => object.field(name),
            Form::Typed => {
                let Some(value) = object.json() else {
                    return OutputKind::Absent;
                };
                write_json(&value, out);
                values::truncate(out, start, self.max_length);
                return OutputKind::Json;
            }
        };
        let Some(text) = text else {
            return OutputKind::Absent;
        };
        out.extend_from_slice(text.as_bytes());
        values::truncate(out, start, self.max_length);
        OutputKind::Text
    }
}
