//! Headers that the configuration adds, changes and removes.
//!
//! A level (route, virtual host, …) first removes headers, then evaluates all its values, then overwrites, then
//! appends. So, as in Envoy, no value depends on another value of the same level.

use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::HeaderValueOption;
use outrider_config::api::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use smallvec::SmallVec;

use crate::Captures;
use crate::Stream;
use crate::format::Context;
use crate::format::Formatter;

/// The mutations of one level, of the request or of the response.
#[derive(Clone, Debug, Default)]
pub struct HeaderMutations {
    remove: Box<[HeaderName]>,
    add: Box<[HeaderAddition]>,
}

#[derive(Clone, Debug)]
struct HeaderAddition {
    name: HeaderName,
    value: HeaderTemplate,
    action: HeaderAppendAction,
    keep_empty: bool,
}

#[derive(Clone, Debug)]
enum HeaderTemplate {
    Constant(HeaderValue),
    Format(Formatter),
}

/// A header with its evaluated value, to be written once all headers of the level are evaluated.
struct EvaluatedHeader<'m> {
    name: &'m HeaderName,
    value: HeaderValue,
    overwrite: bool,
}

impl HeaderMutations {
    /// Builds the fields `<prefix>_headers_to_add` and `<prefix>_headers_to_remove` of the message at `path`.
    pub(crate) fn build(
        prefix: &str,
        add: &[HeaderValueOption],
        remove: &[String],
        path: &FieldPath,
    ) -> Result<HeaderMutations, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let add_path = path.field(format!("{prefix}_headers_to_add"));
        let additions = errors.collect(HeaderMutations::additions(add, &add_path));
        let remove_path = path.field(format!("{prefix}_headers_to_remove"));
        let mut removals = Vec::with_capacity(remove.len());
        for (at, name) in remove.iter().enumerate() {
            removals.extend(errors.collect(removable(name, &remove_path.index(at))));
        }
        errors.finish(HeaderMutations {
            remove: removals.into(),
            add: additions.unwrap_or_default().add,
        })
    }

    /// Builds a list of headers to add, found at `path`.
    pub(crate) fn additions(
        add: &[HeaderValueOption],
        path: &FieldPath,
    ) -> Result<HeaderMutations, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut additions = Vec::with_capacity(add.len());
        for (at, option) in add.iter().enumerate() {
            additions.extend(errors.collect(HeaderAddition::build(option, &path.index(at))));
        }
        errors.finish(HeaderMutations {
            remove: Box::default(),
            add: additions.into(),
        })
    }

    /// Builds one header to add, found at `path`.
    ///
    /// # Errors
    /// Its name or its format is not valid.
    pub fn of(
        option: &HeaderValueOption,
        path: &FieldPath,
    ) -> Result<HeaderMutations, ConfigError> {
        Ok(HeaderMutations {
            remove: Box::default(),
            add: Box::new([HeaderAddition::build(option, path)?]),
        })
    }

    /// Whether no value depends on the stream.
    pub(crate) fn is_constant(&self) -> bool {
        let is_constant = |add: &HeaderAddition| matches!(add.value, HeaderTemplate::Constant(_));
        self.add.iter().all(is_constant)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Changes the headers of the request in `stream`.
    pub fn apply_to_request(&self, stream: &mut Stream) {
        self.remove_from(&mut stream.request.headers);
        let pending = self.evaluate(&Context::new(stream), &stream.request.headers);
        let headers = &mut stream.request.headers;
        write(pending, headers);
        headers.join(header::JOINED_IN_REQUESTS);
    }

    pub(crate) fn apply_to_response(&self, stream: &mut Stream, local_reply: bool) {
        let Some(response) = &mut stream.response else {
            return;
        };
        self.remove_from(&mut response.headers);
        let Some(response) = &stream.response else {
            return;
        };
        let context = if local_reply {
            Context::local_reply(stream, b"")
        } else {
            Context::new(stream)
        };
        let pending = self.evaluate(&context, &response.headers);
        if let Some(response) = &mut stream.response {
            write(pending, &mut response.headers);
            response.headers.join(header::JOINED_IN_RESPONSES);
        }
    }

    /// Applies mutations whose values do not depend on the stream.
    pub(crate) fn apply_constants(&self, headers: &mut HeaderMap) {
        self.remove_from(headers);
        let pending = self.add.iter().filter_map(|addition| {
            let HeaderTemplate::Constant(value) = &addition.value else {
                return None;
            };
            addition.applied(headers, value.clone())
        });
        let pending = pending.collect();
        write(pending, headers);
    }

    /// Adds the headers that the values read.
    pub(crate) fn capture(&self, captures: &mut Captures) {
        for addition in &self.add {
            if let HeaderTemplate::Format(formatter) = &addition.value {
                formatter.capture(captures);
            }
        }
    }

    fn remove_from(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
    }

    fn evaluate<'m>(
        &'m self,
        context: &Context<'_>,
        headers: &HeaderMap,
    ) -> SmallVec<[EvaluatedHeader<'m>; 8]> {
        let mut text = Vec::new();
        let pending = self.add.iter().filter_map(|addition| {
            addition.overwrites(headers)?;
            let value = match &addition.value {
                HeaderTemplate::Constant(value) => value.clone(),
                HeaderTemplate::Format(formatter) => {
                    text.clear();
                    formatter.write(*context, &mut text);
                    // A value that is not valid in a header is not added.
                    HeaderValue::from_bytes(&text).ok()?
                }
            };
            addition.applied(headers, value)
        });
        pending.collect()
    }
}

impl HeaderAddition {
    /// Whether it overwrites the header; `None` if it does not apply to these headers.
    fn overwrites(&self, headers: &HeaderMap) -> Option<bool> {
        let exists = || headers.contains_key(&self.name);
        match self.action {
            HeaderAppendAction::AppendIfExistsOrAdd => Some(false),
            HeaderAppendAction::AddIfAbsent => (!exists()).then_some(false),
            HeaderAppendAction::OverwriteIfExistsOrAdd => Some(true),
            HeaderAppendAction::OverwriteIfExists => exists().then_some(true),
        }
    }

    /// What it writes with this value, if anything.
    fn applied(&self, headers: &HeaderMap, value: HeaderValue) -> Option<EvaluatedHeader<'_>> {
        let overwrite = self.overwrites(headers)?;
        (self.keep_empty || !value.is_empty()).then_some(EvaluatedHeader {
            name: &self.name,
            value,
            overwrite,
        })
    }
}

fn write(pending: SmallVec<[EvaluatedHeader<'_>; 8]>, headers: &mut HeaderMap) {
    for header in pending.iter().filter(|header| header.overwrite) {
        // As in Envoy, an overwritten header moves to the end.
        headers.remove(header.name);
        headers.append(header.name, header.value.clone());
    }
    for header in pending.into_iter().filter(|header| !header.overwrite) {
        headers.append(header.name, header.value);
    }
}

impl HeaderAddition {
    fn build(config: &HeaderValueOption, path: &FieldPath) -> Result<HeaderAddition, ConfigError> {
        let header = config
            .header
            .as_ref()
            .ok_or_else(|| ConfigError::new(&path.field("header"), "value is required"))?;
        let header_path = path.field("header");
        let key_path = header_path.field("key");
        if header.key.starts_with(':') || header.key.eq_ignore_ascii_case("host") {
            return Err(ConfigError::new(
                &key_path,
                ":-prefixed or host headers may not be modified",
            ));
        }
        let name = header_name(&header.key, &key_path)?;
        let value_path = header_path.field("value");
        // The older spelling of a filter state. As in Envoy, `raw_value` is ignored.
        let text = header
            .value
            .replace("%PER_REQUEST_STATE(", "%FILTER_STATE(");
        let formatter = Formatter::compile_omitting(&text, &value_path)?;
        let value = match formatter.constant() {
            Some(text) => HeaderTemplate::Constant(
                HeaderValue::try_from(text)
                    .map_err(|_| ConfigError::new(&value_path, "not a header value"))?,
            ),
            None => HeaderTemplate::Format(formatter),
        };
        Ok(HeaderAddition {
            name,
            value,
            action: append_action(config, path)?,
            keep_empty: config.keep_empty_value,
        })
    }
}

/// `append_action`, or the deprecated `append` that it replaces.
#[expect(deprecated, reason = "Envoy still reads append")]
fn append_action(
    config: &HeaderValueOption,
    path: &FieldPath,
) -> Result<HeaderAppendAction, ConfigError> {
    let action = config.append_action();
    match config.append {
        None => Ok(action),
        Some(_) if action != HeaderAppendAction::AppendIfExistsOrAdd => Err(ConfigError::new(
            &path.field("append"),
            "Both append and append_action are set and it's not allowed",
        )),
        Some(true) => Ok(HeaderAppendAction::AppendIfExistsOrAdd),
        Some(false) => Ok(HeaderAppendAction::OverwriteIfExistsOrAdd),
    }
}

fn removable(name: &str, path: &FieldPath) -> Result<HeaderName, ConfigError> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(ConfigError::new(
            path,
            ":-prefixed or host headers may not be removed",
        ));
    }
    header_name(name, path)
}

/// A header's name from the configuration.
pub(crate) fn header_name(name: &str, path: &FieldPath) -> Result<HeaderName, ConfigError> {
    name.parse()
        .map_err(|_| ConfigError::new(path, format!("{name:?} is not supported as a header name")))
}

#[cfg(test)]
mod tests;
