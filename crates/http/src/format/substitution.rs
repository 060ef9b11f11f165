//! `SubstitutionFormatString`: a text or JSON format as access logs and local replies configure it.

#![expect(deprecated, reason = "Envoy still obeys its deprecated fields")]

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3 as api;
use prost_types::Struct;

use crate::Captures;
use crate::format::Context;
use crate::format::Formatter;
use crate::format::JsonFormatter;
use outrider_config::data_source;

/// A compiled format, and the content type of its output.
#[derive(Clone, Debug)]
pub struct SubstitutionFormat {
    format: FormatKind,
    content_type: Option<Box<str>>,
}

#[derive(Clone, Debug)]
enum FormatKind {
    Text(Formatter),
    Json(JsonFormatter),
}

impl SubstitutionFormat {
    /// Compiles a `SubstitutionFormatString`.
    ///
    /// # Errors
    /// If a command is wrong, a file cannot be read, or `formatters` names an extension.
    pub fn build(
        config: &api::SubstitutionFormatString,
        path: &FieldPath,
    ) -> Result<SubstitutionFormat, ConfigErrors> {
        use api::substitution_format_string::Format as Specifier;
        if let Some(formatter) = config.formatters.first() {
            return Err(ConfigErrors::from(ConfigError::new(
                &path.field("formatters").index(0),
                format!("the formatter {:?} is not supported", formatter.name),
            )));
        }
        let text = |text: &str, path: &FieldPath| {
            if config.omit_empty_values {
                Formatter::compile_omitting(text, path)
            } else {
                Formatter::compile(text, path)
            }
        };
        let format = match &config.format {
            Some(Specifier::TextFormat(format)) => {
                FormatKind::Text(text(format, &path.field("text_format"))?)
            }
            Some(Specifier::TextFormatSource(source)) => {
                let path = path.field("text_format_source");
                let bytes = data_source::read(source, None, &path)?;
                let format = String::from_utf8(bytes)
                    .map_err(|_| ConfigError::new(&path, "expected text in UTF-8"))?;
                FormatKind::Text(text(&format, &path)?)
            }
            Some(Specifier::JsonFormat(format)) => {
                let path = path.field("json_format");
                FormatKind::Json(JsonFormatter::build(
                    format,
                    config.omit_empty_values,
                    &path,
                )?)
            }
            None => {
                return Err(ConfigErrors::from(ConfigError::new(
                    path,
                    "one of text_format, json_format or text_format_source is required",
                )));
            }
        };
        let content_type = Some(config.content_type.as_str()).filter(|text| !text.is_empty());
        Ok(SubstitutionFormat {
            format,
            content_type: content_type.map(Into::into),
        })
    }

    /// A text format without options, found at `path`.
    ///
    /// # Errors
    /// If a command is wrong.
    pub fn text(format: &str, path: &FieldPath) -> Result<SubstitutionFormat, ConfigErrors> {
        Ok(SubstitutionFormat {
            format: FormatKind::Text(Formatter::compile(format, path)?),
            content_type: None,
        })
    }

    /// A JSON format without options, found at `path`.
    ///
    /// # Errors
    /// If a command is wrong.
    pub fn json(format: &Struct, path: &FieldPath) -> Result<SubstitutionFormat, ConfigErrors> {
        Ok(SubstitutionFormat {
            format: FormatKind::Json(JsonFormatter::build(format, false, path)?),
            content_type: None,
        })
    }

    /// Appends the text, or the JSON object with a newline, to `out`.
    pub fn write<'a>(&self, context: impl Into<Context<'a>>, out: &mut Vec<u8>) {
        let context = context.into();
        match &self.format {
            FormatKind::Text(formatter) => formatter.write(context, out),
            FormatKind::Json(formatter) => formatter.write(&context, out),
        }
    }

    /// The content type of a body in this format: the configured one, else JSON's or plain text.
    #[must_use]
    pub fn content_type(&self) -> &str {
        match (&self.content_type, &self.format) {
            (Some(content_type), _) => content_type,
            (None, FormatKind::Json(_)) => "application/json",
            (None, FormatKind::Text(_)) => "text/plain",
        }
    }

    /// Adds the headers that this format reads.
    pub fn capture(&self, captures: &mut Captures) {
        match &self.format {
            FormatKind::Text(formatter) => formatter.capture(captures),
            FormatKind::Json(formatter) => formatter.capture(captures),
        }
    }
}
