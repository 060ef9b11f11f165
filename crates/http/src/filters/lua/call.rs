//! Calls that scripts make to other clusters.

use bytes::Bytes;
use http::Method;
use mlua::IntoLuaMulti;
use mlua::Lua;
use mlua::LuaString;
use mlua::MultiValue;
use mlua::Table;
use mlua::Value;
use outrider_client::CallFailure;
use outrider_client::CallOptions;
use outrider_client::InternalClient;
use outrider_client::Response;
use outrider_codec::Body;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::Target;
use outrider_codec::header;
use std::time::Duration;

use super::headers::field;
use super::headers::lower;
use super::machine::fail;
use super::run::Run;

/// How many calls that no script waits for may be under way on one worker.
const MAX_BACKGROUND: usize = 1024;

/// A call of a script, ready to be made.
pub(super) struct Call {
    cluster: String,
    head: RequestHead,
    body: Bytes,
    options: CallOptions,
    /// `return_duplicate_headers`
    duplicates: bool,
}

/// The answer to a call.
pub(super) struct CallResult {
    response: Response,
    duplicates: bool,
}

/// The arguments after the headers and the body.
#[derive(Default)]
struct Options {
    timeout_ms: i64,
    asynchronous: bool,
    duplicates: bool,
    without_forwarded_for: bool,
}

impl Call {
    /// The call that a script asks for. The flag tells whether the script does not wait for the answer.
    pub(super) fn build(
        lua: &Lua,
        run: &Run,
        (cluster, headers, body, options, flag): (
            LuaString,
            Table,
            Option<LuaString>,
            Value,
            Option<Value>,
        ),
    ) -> mlua::Result<(Call, bool)> {
        let options = Options::parse(lua, options, flag)?;
        let cluster = cluster.to_string_lossy();
        if run.environment.clusters.get(&cluster).is_none() {
            return Err(fail(lua, "http call cluster invalid. Must be configured"));
        }
        let mut head = RequestHead::default();
        let mut has_method = false;
        for (name, value) in fields(lua, &headers)? {
            let invalid = || fail(lua, format!("not a valid {name}"));
            let text = || std::str::from_utf8(&value).map_err(|_| invalid());
            match name.as_str() {
                ":method" => {
                    head.method = Method::from_bytes(&value).map_err(|_| invalid())?;
                    has_method = true;
                }
                ":path" => {
                    head.path = Some(Target::try_from(text()?).map_err(|_| invalid())?);
                }
                ":authority" => {
                    head.authority = Some(HeaderValue::from_bytes(&value).map_err(|_| invalid())?);
                }
                ":scheme" => {
                    head.scheme = Some(value.as_slice().try_into().map_err(|_| invalid())?);
                }
                _ => {
                    let (name, value) = field(lua, &name, &value)?;
                    head.headers.append(name, value);
                }
            }
        }
        if !has_method || head.path.is_none() || head.authority.is_none() {
            let text = "http call headers must include ':path', ':method', and ':authority'";
            return Err(fail(lua, text));
        }
        let body = body.map(|body| Bytes::copy_from_slice(&body.as_bytes()));
        if let Some(body) = &body {
            let length = HeaderValue::from(body.len());
            head.headers.insert(&header::CONTENT_LENGTH, length);
        }
        let millis = u64::try_from(options.timeout_ms).unwrap_or_default();
        let call = Call {
            cluster,
            head,
            body: body.unwrap_or_default(),
            options: CallOptions {
                request_end: None,
                timeout: (millis > 0).then(|| Duration::from_millis(millis)),
                is_internal: true,
                forwarded_for: !options.without_forwarded_for,
            },
            duplicates: options.duplicates,
        };
        Ok((call, options.asynchronous))
    }

    /// Makes the call. A failure is answered as Envoy answers it.
    pub(super) async fn make(self, client: &InternalClient) -> CallResult {
        let body = Body::full(self.body);
        let made = client.request(&self.cluster, self.head, body, &self.options);
        let response = match made.await {
            Ok(response) => response,
            Err(CallFailure::NoResponse { status, text, .. }) => {
                let mut response = Response {
                    head: status.into(),
                    body: Bytes::from(text.into_owned()),
                };
                let headers = &mut response.head.headers;
                let length = HeaderValue::from(response.body.len());
                headers.append(&header::CONTENT_LENGTH, length);
                let text = HeaderValue::from_static("text/plain");
                headers.append(&header::CONTENT_TYPE, text);
                response
            }
            Err(
                CallFailure::UnknownCluster | CallFailure::Reset { .. } | CallFailure::TooLarge,
            ) => Response {
                head: http::StatusCode::SERVICE_UNAVAILABLE.into(),
                body: Bytes::from_static(b"upstream failure"),
            },
        };
        CallResult {
            response,
            duplicates: self.duplicates,
        }
    }

    /// Makes the call without waiting for it.
    pub(super) fn make_in_background(self, lua: &Lua, run: &Run) -> mlua::Result<()> {
        let mut background = run.environment.background.borrow_mut();
        while background.try_join_next().is_some() {}
        if background.len() >= MAX_BACKGROUND {
            let text = format!("{MAX_BACKGROUND} asynchronous http calls are under way already");
            return Err(fail(lua, text));
        }
        let client = run.environment.client.clone();
        background.spawn_local(async move {
            self.make(&client).await;
        });
        Ok(())
    }
}

impl Options {
    fn parse(lua: &Lua, options: Value, flag: Option<Value>) -> mlua::Result<Options> {
        let mut parsed = Options::default();
        if let Value::Table(table) = options {
            for pair in table.pairs::<LuaString, Value>() {
                let (key, value) = pair?;
                let is_set = !matches!(value, Value::Nil | Value::Boolean(false));
                match &*key.to_string_lossy() {
                    "timeout_ms" => parsed.timeout_ms = millis(lua, &value)?,
                    "asynchronous" => parsed.asynchronous = is_set,
                    "return_duplicate_headers" => parsed.duplicates = is_set,
                    "send_xff" => parsed.without_forwarded_for = !is_set,
                    // There are no traces.
                    "trace_sampled" => {}
                    other => {
                        let text = format!("\"{other}\" is not valid key for httpCall() options");
                        return Err(fail(lua, text));
                    }
                }
            }
        } else {
            parsed.timeout_ms = millis(lua, &options)?;
            match flag {
                None | Some(Value::Boolean(false)) => {}
                Some(Value::Boolean(true)) => parsed.asynchronous = true,
                Some(_) => {
                    let text = "http call asynchronous flag must be 'true', 'false', or empty";
                    return Err(fail(lua, text));
                }
            }
        }
        match parsed.timeout_ms < 0 {
            true => Err(fail(lua, "http call timeout must be >= 0")),
            false => Ok(parsed),
        }
    }
}

fn millis(lua: &Lua, value: &Value) -> mlua::Result<i64> {
    let number = lua.coerce_number(value.clone())?;
    let expected = || {
        let kind = value.type_name();
        fail(
            lua,
            format!("bad argument #4 to 'httpCall' (number expected, got {kind})"),
        )
    };
    Ok(number.ok_or_else(expected)? as i64)
}

/// The headers in a table: the values are texts, numbers, or lists of them.
pub(super) fn fields(lua: &Lua, table: &Table) -> mlua::Result<Vec<(String, Vec<u8>)>> {
    let text = |value: Value| {
        let kind = value.type_name();
        let text = lua.coerce_string(value)?;
        text.ok_or_else(|| {
            fail(
                lua,
                format!("string expected in a table of headers, got {kind}"),
            )
        })
    };
    let mut fields = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (name, value) = pair?;
        let name = lower(&text(name)?);
        if let Value::Table(values) = value {
            for value in values.pairs::<Value, Value>() {
                let value = text(value?.1)?.as_bytes().to_vec();
                fields.push((name.clone(), value));
            }
        } else {
            fields.push((name, text(value)?.as_bytes().to_vec()));
        }
    }
    Ok(fields)
}

impl IntoLuaMulti for CallResult {
    fn into_lua_multi(self, lua: &Lua) -> mlua::Result<MultiValue> {
        let table = lua.create_table()?;
        let head = &self.response.head;
        table.raw_set(":status", head.status.as_str())?;
        for (name, value) in &head.headers {
            let value = lua.create_string(value.as_bytes())?;
            if self.duplicates && head.headers.get_all(name).nth(1).is_some() {
                match table.raw_get::<Value>(name.as_str())? {
                    Value::Table(values) => values.raw_push(value)?,
                    _ => table.raw_set(name.as_str(), [value])?,
                }
            } else {
                table.raw_set(name.as_str(), value)?;
            }
        }
        let body = match self.response.body.is_empty() {
            true => None,
            false => Some(lua.create_string(&self.response.body)?),
        };
        (table, body).into_lua_multi(lua)
    }
}

/// The headers of a reply, without `:status`.
pub(super) fn reply_headers(
    lua: &Lua,
    fields: &[(String, Vec<u8>)],
) -> mlua::Result<Vec<(HeaderName, HeaderValue)>> {
    let fields = fields.iter().filter(|(name, _)| !name.starts_with(':'));
    fields
        .map(|(name, value)| field(lua, name, value))
        .collect()
}
