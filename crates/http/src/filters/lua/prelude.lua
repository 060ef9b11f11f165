-- Completes the API in each Lua state, before the script is loaded.
local handle, body_chunks, next_chunk, stale_route, plain_error, waiting, routed = ...
local yield, raw_pcall, raw_xpcall = coroutine.yield, pcall, xpcall
local running, raw_create, raw_wrap = coroutine.running, coroutine.create, coroutine.wrap

-- Errors of the proxy reach scripts as text, as all other errors do.
local function with_text(ok, ...)
  if ok then return ok, ... end
  return ok, plain_error((...))
end
function pcall(...)
  return with_text(raw_pcall(...))
end
function xpcall(body, handler, ...)
  return raw_xpcall(body, function(why) return handler(plain_error(why)) end, ...)
end

-- The coroutines that the script itself has made. What such a one yields goes to the script and not to the proxy.
local own = setmetatable({}, {__mode = "k"})
local function noted(body)
  if type(body) ~= "function" then return body end
  return function(...)
    own[running()] = true
    return body(...)
  end
end
function coroutine.create(body) return raw_create(noted(body)) end
function coroutine.wrap(body) return raw_wrap(noted(body)) end

-- A function that may have to wait returns the operation to wait for, or nil and its results.
local function finish(operation, ...)
  if not operation then return ... end
  if own[running()] then
    if operation == true then return yield() end
    error("a coroutine of the script cannot wait", 3)
  end
  return yield(operation)
end
for name, start in pairs(waiting) do
  handle[name] = function(...) return finish(start(...)) end
end
for name, get in pairs(routed) do
  handle[name] = function(self)
    finish(stale_route(self))
    return get(self)
  end
end
function handle.bodyChunks(self)
  body_chunks(self)
  return function() return finish(next_chunk(self)) end
end

EnvoyTimestampResolution = {MILLISECOND = 0, MICROSECOND = 1}
