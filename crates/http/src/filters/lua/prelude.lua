-- Completes the API in each Lua state, before the script is loaded.
local handle, body_chunks, next_chunk, stale_route, plain_error, waiting, routed = ...
local yield, raw_pcall, raw_xpcall = coroutine.yield, pcall, xpcall

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

-- A function that may have to wait returns the operation to wait for, or nil and its results.
local function finish(operation, ...)
  if operation then return yield(operation) end
  return ...
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
