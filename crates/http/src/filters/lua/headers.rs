//! The header object: the headers of a message, or its trailers.

use std::borrow::Cow;
use std::rc::Rc;

use http::Method;
use http::StatusCode;
use http::uri::Scheme;
use mlua::Lua;
use mlua::LuaString;
use mlua::MetaMethod;
use mlua::MultiValue;
use mlua::UserData;
use mlua::UserDataMethods;
use mlua::Value;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::Target;
use outrider_codec::header;

use super::handle::add_logs;
use super::machine::fail;
use super::run::Direction;
use super::run::Live;
use super::run::Run;
use super::run::Scoped;

/// Which headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Request,
    Response,
    Trailers,
}

/// A set of [`Part`]s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PartSet([bool; 3]);

impl PartSet {
    fn has(self, part: Part) -> bool {
        self.0.get(part as usize).copied().unwrap_or_default()
    }

    fn with(mut self, part: Part, is_in: bool) -> PartSet {
        if let Some(flag) = self.0.get_mut(part as usize) {
            *flag = is_in;
        }
        self
    }
}

pub(super) struct Headers {
    scope: Scoped,
    part: Part,
}

type Field<'l> = (Cow<'l, str>, Cow<'l, [u8]>);

impl Headers {
    pub(super) fn new(run: &Rc<Run>, part: Part) -> Headers {
        Headers {
            scope: Scoped::new(run),
            part,
        }
    }

    /// The run, if the headers may be changed.
    fn modify(&self, lua: &Lua) -> mlua::Result<&Rc<Run>> {
        let run = self.scope.enter(lua)?;
        if run.iterates.get().has(self.part) {
            let text = "header map cannot be modified while iterating";
            return Err(fail(lua, text));
        }
        let own = match run.direction {
            Direction::Request => Part::Request,
            Direction::Response => Part::Response,
        };
        if self.part == own {
            if run.has_continued.get() {
                return Err(fail(lua, "header map can no longer be modified"));
            }
            if own == Part::Request && run.environment.config.clears_route_cache {
                run.route_changed.set(true);
            }
        }
        Ok(run)
    }

    fn get(&self, lua: &Lua, name: &LuaString) -> mlua::Result<MultiValue> {
        let live = self.scope.enter(lua)?.live.borrow();
        let values: Vec<_> = values(&live, self.part, &lower(name));
        match values.is_empty() {
            true => Ok(MultiValue::new()),
            false => one(lua, &values.join(&b","[..])),
        }
    }

    fn get_at(&self, lua: &Lua, name: &LuaString, index: f64) -> mlua::Result<MultiValue> {
        let live = self.scope.enter(lua)?.live.borrow();
        let values = values(&live, self.part, &lower(name));
        let value = values.iter().enumerate();
        let mut value =
            value.filter(|(at, value)| *at as f64 == index.trunc() && !value.is_empty());
        match value.next() {
            Some((_, value)) => one(lua, value),
            None => Ok(MultiValue::new()),
        }
    }

    fn count(&self, lua: &Lua, name: &LuaString) -> mlua::Result<usize> {
        let live = self.scope.enter(lua)?.live.borrow();
        Ok(values(&live, self.part, &lower(name)).len())
    }

    fn add(&self, lua: &Lua, name: &LuaString, value: &LuaString) -> mlua::Result<()> {
        let live = &mut *self.modify(lua)?.live.borrow_mut();
        let name = lower(name);
        let value = value.as_bytes();
        if is_joined(self.part, &name)
            && let Some(known) = values(live, self.part, &name).first()
        {
            let joined = [&**known, &value].join(&b","[..]);
            return set(lua, live, self.part, &name, &joined);
        }
        let (name, value) = field(lua, &name, &value)?;
        if let Some(headers) = map(live, self.part) {
            headers.append(name, value);
        }
        Ok(())
    }

    fn replace(&self, lua: &Lua, name: &LuaString, value: &LuaString) -> mlua::Result<()> {
        let live = &mut *self.modify(lua)?.live.borrow_mut();
        set(lua, live, self.part, &lower(name), &value.as_bytes())
    }

    fn remove(&self, lua: &Lua, name: &LuaString) -> mlua::Result<()> {
        let live = &mut *self.modify(lua)?.live.borrow_mut();
        let name = lower(name);
        if is_part_of_head(self.part, &name) {
            let text = format!("{name} cannot be removed: a message without it is not valid");
            return Err(fail(lua, text));
        }
        if let Some(headers) = map(live, self.part) {
            headers.remove(&*name);
        }
        Ok(())
    }

    fn pairs(&self, lua: &Lua) -> mlua::Result<mlua::Function> {
        let run = self.scope.enter(lua)?.clone();
        let (live, iterates) = (run.live.borrow(), run.iterates.get());
        if iterates.has(self.part) {
            let text = "cannot create a second iterator before completing the first";
            return Err(fail(lua, text));
        }
        run.iterates.set(iterates.with(self.part, true));
        let fields = fields(&live, self.part).into_iter();
        let fields: Vec<_> = fields
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        let mut fields = fields.into_iter();
        let (run, scope, part) = (run.clone(), Scoped::new(&run), self.part);
        lua.create_function_mut(move |lua, _: MultiValue| match fields.next() {
            Some((name, value)) => Ok((Some(name), Some(lua.create_string(value)?))),
            None => {
                if scope.enter(lua).is_ok() {
                    run.iterates.set(run.iterates.get().with(part, false));
                }
                Ok((None, None))
            }
        })
    }
}

impl UserData for Headers {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_logs(methods);
        methods.add_method("get", |lua, this, name| this.get(lua, &name));
        methods.add_method(
            "getAtIndex",
            |lua, this, (name, index): (LuaString, f64)| this.get_at(lua, &name, index),
        );
        methods.add_method("getNumValues", |lua, this, name| this.count(lua, &name));
        methods.add_method("add", |lua, this, (name, value): (LuaString, LuaString)| {
            this.add(lua, &name, &value)
        });
        methods.add_method(
            "replace",
            |lua, this, (name, value): (LuaString, LuaString)| this.replace(lua, &name, &value),
        );
        methods.add_method("remove", |lua, this, name| this.remove(lua, &name));
        methods.add_method("setHttp1ReasonPhrase", |lua, this, _: LuaString| {
            this.scope.enter(lua)?;
            Err::<(), _>(fail(lua, "setHttp1ReasonPhrase() is not supported"))
        });
        methods.add_meta_method(MetaMethod::Pairs, |lua, this, ()| this.pairs(lua));
    }
}

fn one(lua: &Lua, text: &[u8]) -> mlua::Result<MultiValue> {
    let text = Value::String(lua.create_string(text)?);
    Ok(MultiValue::from_vec(vec![text]))
}

/// A header's name as Envoy looks it up.
pub(super) fn lower(name: &LuaString) -> String {
    let name = name.to_string_lossy().to_ascii_lowercase();
    match name.as_str() {
        "host" => ":authority".to_owned(),
        _ => name,
    }
}

/// A valid header.
pub(super) fn field(
    lua: &Lua,
    name: &str,
    value: &[u8],
) -> mlua::Result<(HeaderName, HeaderValue)> {
    let invalid = |what: &str| fail(lua, format!("{what} is not valid in a header"));
    let key = HeaderName::try_from(name).map_err(|_| invalid(&format!("the name {name:?}")))?;
    let value = HeaderValue::from_bytes(value);
    let value = value.map_err(|_| invalid(&format!("the value of {name}")))?;
    Ok((key, value))
}

fn map(live: &mut Live, part: Part) -> Option<&mut HeaderMap> {
    match part {
        Part::Request => Some(&mut live.stream.request.headers),
        Part::Response => live.stream.response.as_mut().map(|head| &mut head.headers),
        Part::Trailers => live.trailers.as_mut(),
    }
}

/// The pseudo-header fields of the head.
fn pseudo(live: &Live, part: Part) -> Vec<Field<'_>> {
    let stream = &live.stream;
    match part {
        Part::Request => {
            let head = &stream.request;
            let authority = head.authority.as_ref().map(HeaderValue::as_bytes);
            let path = head.path.as_ref().map(|path| path.as_str().as_bytes());
            let scheme = head
                .scheme
                .as_ref()
                .map(|scheme| scheme.as_str().as_bytes());
            let fields = [
                (":authority", authority),
                (":path", path),
                (":method", Some(head.method.as_str().as_bytes())),
                (":scheme", scheme),
            ];
            let fields = fields.into_iter();
            fields
                .filter_map(|(name, value)| Some((Cow::Borrowed(name), Cow::Borrowed(value?))))
                .collect()
        }
        Part::Response => {
            let status = stream.response.as_ref().map(|head| {
                let status = head.status.as_str().as_bytes().to_vec();
                (Cow::Borrowed(":status"), Cow::Owned(status))
            });
            status.into_iter().collect()
        }
        Part::Trailers => Vec::new(),
    }
}

/// All fields, the pseudo-header fields first.
fn fields(live: &Live, part: Part) -> Vec<Field<'_>> {
    let mut all = pseudo(live, part);
    let stream = &live.stream;
    let headers = match part {
        Part::Request => Some(&stream.request.headers),
        Part::Response => stream.response.as_ref().map(|head| &head.headers),
        Part::Trailers => live.trailers.as_ref(),
    };
    let headers = headers.into_iter().flatten();
    all.extend(headers.map(|(name, value)| {
        let (name, value) = (name.as_str(), value.as_bytes());
        (Cow::Borrowed(name), Cow::Borrowed(value))
    }));
    all
}

fn values<'l>(live: &'l Live, part: Part, name: &str) -> Vec<Cow<'l, [u8]>> {
    if name.starts_with(':') {
        let all = pseudo(live, part).into_iter();
        return all
            .filter_map(|(found, value)| (found == name).then_some(value))
            .collect();
    }
    let stream = &live.stream;
    let headers = match part {
        Part::Request => Some(&stream.request.headers),
        Part::Response => stream.response.as_ref().map(|head| &head.headers),
        Part::Trailers => live.trailers.as_ref(),
    };
    let Some(headers) = headers else {
        return Vec::new();
    };
    let found = headers.iter().filter(|(found, _)| *found == name);
    found
        .map(|(_, value)| Cow::Borrowed(value.as_bytes()))
        .collect()
}

fn is_part_of_head(part: Part, name: &str) -> bool {
    match part {
        Part::Request => [":authority", ":path", ":method", ":scheme"].contains(&name),
        Part::Response => name == ":status",
        Part::Trailers => false,
    }
}

/// Whether values of this name are joined in one field.
fn is_joined(part: Part, name: &str) -> bool {
    let joined = match part {
        Part::Request => header::JOINED_IN_REQUESTS,
        Part::Response => header::JOINED_IN_RESPONSES,
        Part::Trailers => header::JOINED_IN_TRAILERS,
    };
    is_part_of_head(part, name) || joined.has(name)
}

fn set(lua: &Lua, live: &mut Live, part: Part, name: &str, value: &[u8]) -> mlua::Result<()> {
    let invalid = || fail(lua, format!("not a valid {name}: {}", value.escape_ascii()));
    let text = || std::str::from_utf8(value).map_err(|_| invalid());
    let head = &mut live.stream.request;
    match (part, name) {
        (Part::Request, ":path") => {
            head.path = Some(Target::try_from(text()?).map_err(|_| invalid())?);
        }
        (Part::Request, ":authority") => {
            head.authority = Some(HeaderValue::from_bytes(value).map_err(|_| invalid())?);
        }
        (Part::Request, ":method") => {
            head.method = Method::from_bytes(value).map_err(|_| invalid())?;
        }
        (Part::Request, ":scheme") => {
            head.scheme = Some(Scheme::try_from(value).map_err(|_| invalid())?);
        }
        (Part::Response, ":status") => {
            let status = StatusCode::from_bytes(value).map_err(|_| invalid())?;
            if let Some(head) = &mut live.stream.response {
                head.status = status;
            }
        }
        _ => {
            let (name, value) = field(lua, name, value)?;
            if let Some(headers) = map(live, part) {
                headers.insert(name, value);
            }
        }
    }
    Ok(())
}
