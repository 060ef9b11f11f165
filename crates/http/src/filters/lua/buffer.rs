//! The buffer object: a body, or a part of one.

use std::rc::Rc;

use mlua::Lua;
use mlua::LuaString;
use mlua::UserData;
use mlua::UserDataMethods;
use outrider_codec::HeaderValue;
use outrider_codec::header;

use super::handle::add_logs;
use super::machine::fail;
use super::run::Direction;
use super::run::Run;
use super::run::Scoped;

pub(super) struct Buffer(Scoped);

impl Buffer {
    pub(super) fn new(run: &Rc<Run>) -> Buffer {
        Buffer(Scoped::new(run))
    }

    fn length(&self, lua: &Lua) -> mlua::Result<usize> {
        let live = self.0.enter(lua)?.live.borrow();
        Ok(live.body.as_ref().map_or(0, Vec::len))
    }

    fn bytes(&self, lua: &Lua, index: i64, length: i64) -> mlua::Result<LuaString> {
        let live = self.0.enter(lua)?.live.borrow();
        let data = live.body.as_deref().unwrap_or_default();
        let index = usize::try_from(index).ok();
        let part = usize::try_from(length).ok().and_then(|length| {
            let index = index?;
            data.get(index..index.checked_add(length)?)
        });
        let text = "index/length must be >= 0 and (index + length) must be <= buffer size";
        lua.create_string(part.ok_or_else(|| fail(lua, text))?)
    }

    fn set_bytes(&self, lua: &Lua, bytes: &LuaString) -> mlua::Result<usize> {
        let run = self.0.enter(lua)?;
        let live = &mut *run.live.borrow_mut();
        let data = bytes.as_bytes().to_vec();
        let length = data.len();
        live.body = Some(data);
        let headers = match run.direction {
            Direction::Request => Some(&mut live.stream.request.headers),
            Direction::Response => live.stream.response.as_mut().map(|head| &mut head.headers),
        };
        if let Some(headers) = headers {
            headers.insert(&header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(length)
    }
}

impl UserData for Buffer {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_logs(methods);
        methods.add_method("length", |lua, this, ()| this.length(lua));
        methods.add_method("getBytes", |lua, this, (index, length)| {
            this.bytes(lua, index, length)
        });
        methods.add_method("setBytes", |lua, this, bytes: LuaString| {
            this.set_bytes(lua, &bytes)
        });
    }
}
