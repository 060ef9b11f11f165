//! `%METADATA(TYPE:NAMESPACE:KEY*)%` and its older spellings.

use outrider_config::api::envoy::config::core::v3::Metadata;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind as ValueKind;

use crate::Stream;
use crate::format::OutputKind;
use crate::format::command::FormatCommand;
use crate::format::json::write_string;
use crate::format::operators::Operator;
use crate::format::values;

/// Prints a value in metadata: which metadata, and the path to the value.
#[derive(Clone, Debug)]
pub(crate) struct MetadataOperator {
    of: MetadataSource,
    namespace: Box<str>,
    keys: Box<[Box<str>]>,
    /// How many bytes of the value are printed at most, unless it is a struct or a list.
    max_length: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum MetadataSource {
    Dynamic,
    Route,
    VirtualHost,
}

impl MetadataOperator {
    /// `%METADATA(TYPE:NAMESPACE:KEY*):Z%`.
    pub(crate) fn build_any(command: &FormatCommand<'_>) -> Result<Operator, String> {
        let mut parts = command.param.split(':');
        let kind = parts.next().unwrap_or_default();
        let of = match kind {
            "ROUTE" => MetadataSource::Route,
            "VIRTUAL_HOST" => MetadataSource::VirtualHost,
            "DYNAMIC" => MetadataSource::Dynamic,
            "CLUSTER" | "UPSTREAM_HOST" | "LISTENER" | "LISTENER_FILTER_CHAIN" => {
                return Err(format!("METADATA of {kind} is not supported"));
            }
            other => return Err(format!("{other} is not supported type of metadata")),
        };
        Ok(Operator::Metadata(MetadataOperator {
            of,
            namespace: parts.next().unwrap_or_default().into(),
            keys: parts.map(Into::into).collect(),
            max_length: command.max_length,
        }))
    }

    /// `%DYNAMIC_METADATA(NAMESPACE:KEY*):Z%`.
    pub(crate) fn build_dynamic(command: &FormatCommand<'_>) -> Result<Operator, String> {
        command.required_param()?;
        let mut parts = command.param.split(':');
        Ok(Operator::Metadata(MetadataOperator {
            of: MetadataSource::Dynamic,
            namespace: parts.next().unwrap_or_default().into(),
            keys: parts.map(Into::into).collect(),
            max_length: command.max_length,
        }))
    }

    pub(crate) fn write(&self, stream: &Stream, out: &mut Vec<u8>) -> OutputKind {
        let route = stream.route.as_ref();
        let metadata = match self.of {
            MetadataSource::Dynamic => stream.dynamic_metadata.get(),
            MetadataSource::Route => route.and_then(|route| route.metadata.as_deref()),
            MetadataSource::VirtualHost => {
                route.and_then(|route| route.virtual_host.metadata.as_deref())
            }
        };
        match metadata.and_then(|metadata| self.find(metadata)) {
            Some(MetadataValue::Struct(fields)) => {
                write_struct(fields, out);
                OutputKind::Json
            }
            Some(MetadataValue::Value(value)) => self.write_value(value, out),
            None => OutputKind::Absent,
        }
    }

    fn find<'m>(&self, metadata: &'m Metadata) -> Option<MetadataValue<'m>> {
        let mut found = MetadataValue::Struct(metadata.filter_metadata.get(&*self.namespace)?);
        for key in &self.keys {
            let fields = match found {
                MetadataValue::Struct(fields) => fields,
                MetadataValue::Value(Value {
                    kind: Some(ValueKind::StructValue(fields)),
                }) => fields,
                MetadataValue::Value(_) => return None,
            };
            found = MetadataValue::Value(fields.fields.get(&**key)?);
        }
        Some(found)
    }

    fn write_value(&self, value: &Value, out: &mut Vec<u8>) -> OutputKind {
        let start = out.len();
        match &value.kind {
            None | Some(ValueKind::NullValue(_)) => OutputKind::Absent,
            Some(ValueKind::StringValue(text)) => {
                out.extend_from_slice(text.as_bytes());
                values::truncate(out, start, self.max_length);
                OutputKind::Text
            }
            Some(_) => {
                write_json(value, out);
                OutputKind::Json
            }
        }
    }
}

enum MetadataValue<'m> {
    Struct(&'m Struct),
    Value(&'m Value),
}

/// Appends `value` as JSON. The loader limits the depth of values.
pub(crate) fn write_json(value: &Value, out: &mut Vec<u8>) {
    match &value.kind {
        None | Some(ValueKind::NullValue(_)) => out.extend_from_slice(b"null"),
        Some(ValueKind::NumberValue(number)) => values::float(*number, out),
        Some(ValueKind::StringValue(text)) => write_string(text.as_bytes(), out),
        Some(ValueKind::BoolValue(true)) => out.extend_from_slice(b"true"),
        Some(ValueKind::BoolValue(false)) => out.extend_from_slice(b"false"),
        Some(ValueKind::StructValue(fields)) => write_struct(fields, out),
        Some(ValueKind::ListValue(list)) => {
            out.push(b'[');
            for (at, value) in list.values.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_json(value, out);
            }
            out.push(b']');
        }
    }
}

fn write_struct(fields: &Struct, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (key, value)) in fields.fields.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(key.as_bytes(), out);
        out.push(b':');
        write_json(value, out);
    }
    out.push(b'}');
}
