//! A Lua state with one loaded source code.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mlua::Error;
use mlua::Function;
use mlua::HookTriggers;
use mlua::Lua;
use mlua::Table;
use mlua::Value;
use mlua::VmState;
use outrider_net::clock;
use tokio::time::Instant;

use super::config::Code;
use super::handle;
use super::run::Direction;

/// The most memory that the scripts of one source code may use on one worker, in bytes.
const MEMORY_LIMIT: usize = 64 << 20;
/// How long a script may run before it waits or ends. A worker does nothing else meanwhile.
const TIME_LIMIT: Duration = Duration::from_secs(1);
/// How many instructions run between two looks at the clock: well below a millisecond.
const INSTRUCTIONS: u32 = 10_000;

/// A Lua state in which a code has been loaded.
pub(super) struct Machine {
    lua: Lua,
    on_request: Option<Function>,
    on_response: Option<Function>,
    deadline: Rc<Cell<Option<Instant>>>,
}

impl Machine {
    /// Makes a state and runs the code in it.
    ///
    /// # Errors
    /// What Lua says about the code.
    pub(super) fn load(code: &Code) -> Result<Machine, String> {
        let machine = Machine::new(code).map_err(|error| message(&error))?;
        let Machine { lua, .. } = &machine;
        let chunk = lua.load(code.text.as_slice());
        let loaded = machine.limited(|| chunk.set_name(chunk_name(&code.text)).exec());
        loaded.map_err(|error| message(&error))?;
        let function = |name| lua.globals().get::<Option<Function>>(name).ok().flatten();
        Ok(Machine {
            on_request: function("envoy_on_request"),
            on_response: function("envoy_on_response"),
            ..machine
        })
    }

    /// Loads a code on a worker, after it was loaded on the main thread without an error.
    pub(super) fn load_again(code: &Arc<Code>) -> Option<Rc<Machine>> {
        match Machine::load(code) {
            Ok(machine) => Some(Rc::new(machine)),
            Err(error) => {
                log::error!(target: "lua", "script load error: {error}");
                None
            }
        }
    }

    fn new(code: &Code) -> mlua::Result<Machine> {
        let lua = Lua::new();
        lua.set_memory_limit(MEMORY_LIMIT)?;
        let deadline = Rc::<Cell<Option<Instant>>>::default();
        // Compiled code does not look at the clock, so only the interpreter runs.
        let jit: Table = lua.globals().get("jit")?;
        jit.get::<Function>("off")?.call::<()>(())?;
        jit.raw_remove("on")?;
        watch_time(&lua, &deadline)?;
        if !code.package_paths.is_empty() {
            let package: Table = lua.globals().get("package")?;
            let known: String = package.get("path")?;
            package.set("path", format!("{};{known}", code.package_paths.join(";")))?;
        }
        handle::install(&lua)?;
        Ok(Machine {
            lua,
            on_request: None,
            on_response: None,
            deadline,
        })
    }

    /// The function that handles requests or responses, if the code has one.
    pub(super) fn function(&self, direction: Direction) -> Option<Function> {
        match direction {
            Direction::Request => self.on_request.clone(),
            Direction::Response => self.on_response.clone(),
        }
    }

    pub(super) fn lua(&self) -> &Lua {
        &self.lua
    }

    /// Runs Lua code for a limited time.
    pub(super) fn limited<T>(&self, run: impl FnOnce() -> mlua::Result<T>) -> mlua::Result<T> {
        self.deadline.set(Some(clock::now() + TIME_LIMIT));
        let result = run();
        if self
            .deadline
            .take()
            .is_some_and(|deadline| deadline < clock::now())
        {
            watch_time(&self.lua, &self.deadline)?;
        }
        if self.lua.used_memory() > MEMORY_LIMIT / 2 {
            // The collector may not have run yet, and an allocation above the limit fails without trying it.
            self.lua.gc_collect()?;
        }
        result
    }
}

/// Ends scripts at the deadline.
fn watch_time(lua: &Lua, deadline: &Rc<Cell<Option<Instant>>>) -> mlua::Result<()> {
    let deadline = deadline.clone();
    let triggers = HookTriggers::new().every_nth_instruction(INSTRUCTIONS);
    lua.set_global_hook(triggers, move |lua, _| {
        clock::expire();
        if deadline
            .get()
            .is_none_or(|deadline| clock::now() <= deadline)
        {
            return Ok(VmState::Continue);
        }
        // From now on each instruction fails, so that the script cannot go on after `pcall`.
        let at_once = HookTriggers::new().every_nth_instruction(1);
        lua.set_global_hook(at_once, |_, _| Err(too_long()))?;
        Err(too_long())
    })
}

/// Lua takes the code itself for its name, and shows its first line in messages.
fn chunk_name(code: &[u8]) -> String {
    let line = code.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let more = if line.len() < code.len() { "\n" } else { "" };
    let line = String::from_utf8_lossy(line).replace('\0', "");
    match line.starts_with(['=', '@']) {
        true => format!("={line}"),
        false => format!("{line}{more}"),
    }
}

fn too_long() -> Error {
    Error::runtime(format!(
        "script ran for more than {} ms",
        TIME_LIMIT.as_millis()
    ))
}

/// The text of an error, as Lua itself would show it.
pub(super) fn message(error: &Error) -> String {
    match error {
        Error::CallbackError { cause, .. } => message(cause),
        Error::WithContext { cause, .. } => message(cause),
        Error::RuntimeError(text) | Error::MemoryError(text) => {
            let end = text.find("\nstack traceback:").unwrap_or(text.len());
            text.get(..end).unwrap_or(text).to_owned()
        }
        Error::SyntaxError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

/// An error at the place in the script that called the current function.
pub(super) fn fail(lua: &Lua, text: impl fmt::Display) -> Error {
    for level in 1..4 {
        let place = lua.inspect_stack(level, |frame| {
            let source = frame.source();
            let name = source.short_src.map(|name| name.into_owned());
            (name.unwrap_or_default(), frame.current_line())
        });
        match place {
            Some((name, Some(line))) if !name.starts_with(handle::PRELUDE) => {
                return Error::runtime(format!("{name}:{line}: {text}"));
            }
            Some(_) => {}
            None => break,
        }
    }
    Error::runtime(text)
}

/// `error` as text, if it is an error of the proxy.
pub(super) fn plain_error(lua: &Lua, error: Value) -> mlua::Result<Value> {
    match error {
        Value::Error(error) => lua.create_string(message(&error)).map(Value::String),
        other => Ok(other),
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Machine, String> {
        Machine::load(&Code {
            text: text.as_bytes().to_vec(),
            package_paths: vec!["/nowhere/?.lua".to_owned()],
        })
    }

    fn run(machine: &Machine) -> Result<String, String> {
        let function = machine.function(Direction::Request).unwrap();
        let thread = machine.lua().create_thread(function).unwrap();
        let result = machine.limited(|| thread.resume::<Option<String>>(()));
        result
            .map_err(|error| message(&error))
            .map(Option::unwrap_or_default)
    }

    #[test]
    fn tells_where_a_script_is_wrong() {
        let error = load("function x( end").map(|_| ()).unwrap_err();
        assert_eq!(
            error,
            "[string \"function x( end\"]:1: <name> or '...' expected near 'end'"
        );
        let error = load("local a = nil\na.b = 1").map(|_| ()).unwrap_err();
        assert_eq!(
            error,
            "[string \"local a = nil...\"]:2: attempt to index local 'a' (a nil value)"
        );
    }

    #[test]
    fn a_script_that_runs_too_long_is_stopped_and_the_next_one_runs() {
        let text = "local first = true
            function envoy_on_request()
              if not first then return 'fine' end
              first = false
              while true do pcall(function() while true do end end) end
            end";
        let machine = load(text).unwrap();
        assert_eq!(
            run(&machine).unwrap_err(),
            "script ran for more than 1000 ms"
        );
        assert_eq!(run(&machine).unwrap(), "fine");
        assert!(load("while true do end").is_err());
    }

    #[test]
    fn a_script_that_uses_too_much_memory_is_stopped_and_the_next_one_runs() {
        let text = "local first = true
            function envoy_on_request()
              if not first then return 'fine' end
              first = false
              local all = {}
              for i = 1, 1e7 do all[i] = string.rep('x', 1e6) .. i end
            end";
        let machine = load(text).unwrap();
        assert_eq!(run(&machine).unwrap_err(), "not enough memory");
        assert_eq!(run(&machine).unwrap(), "fine");
    }
}
