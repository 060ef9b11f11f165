"""The client of `http` steps: one request in either codec, its whole answer as an observation."""
import socket
from dataclasses import dataclass, field

from . import http1, http2, text


@dataclass
class Request:
    """A request as a case writes it."""

    method: str
    path: str
    authority: str = "conformance.test"
    fields: list = field(default_factory=list)
    body: bytes | None = None
    trailers: list = field(default_factory=list)
    scheme: str = "http"


def pairs(value) -> list:
    """Header fields: a mapping (a list of values repeats the name) or `name: value` lines."""
    if isinstance(value, dict):
        spread = [(n, v if isinstance(v, list) else [v]) for n, v in value.items()]
        return http2.fields_of([f"{n}: {one}" for n, vs in spread for one in vs])
    return http2.fields_of(value or [])


def request_of(step: dict) -> Request:
    """`http: GET /path` with `headers`, `body`, `trailers`, `authority`."""
    method, _, path = step["http"].partition(" ")
    body = text.payload(step["body"]) if "body" in step else None
    return Request(method, path, str(step.get("authority", "conformance.test")), pairs(step.get("headers")), body,
                   pairs(step.get("trailers")), step.get("scheme", "http"))


def connect(address, source: str | None = None) -> socket.socket:
    """A TCP or UNIX connection to where the proxy listens."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
        return sock
    return socket.create_connection(address, timeout=http1.PATIENCE, source_address=(source, 0) if source else None)


def over_http1(stream: http1.Stream, request: Request) -> dict:
    """Sends a request on an HTTP/1.1 connection and reads the response, and interim responses before it."""
    fields = [("host", request.authority), *request.fields]
    names = {n.lower() for n, _ in request.fields}
    chunked = bool(request.trailers) or "transfer-encoding" in names
    if request.trailers and "transfer-encoding" not in names:
        fields.append(("transfer-encoding", "chunked"))
    if request.body is not None and not chunked and "content-length" not in names:
        fields.append(("content-length", str(len(request.body))))
    wire = http1.head(f"{request.method} {request.path} HTTP/1.1", fields)
    body = request.body or b""
    if chunked:
        tail = "".join(f"{n}: {v}\r\n" for n, v in request.trailers).encode("latin-1")
        wire += (http1.chunk(body) if body else b"") + b"0\r\n" + tail + b"\r\n"
    else:
        wire += body
    stream.write(wire)  # in one piece: whether the proxy sees the head alone must not be a race
    return read_answer(stream, request.method == "HEAD")


def read_answer(stream: http1.Stream, bodiless: bool) -> dict:
    """An HTTP/1.1 answer as an observation."""
    interim = []
    while True:
        message = http1.read_message(stream, bodiless)
        if message is None:
            return {**({"interim": interim} if interim else {}), "ended": stream.ended, **({"bytes": text.lines(stream.buffer)} if stream.buffer else {})}
        status = int(message.first.split(" ")[1])
        if not 100 <= status < 200 or status == 101:
            break
        interim.append(answer(status, message.fields, b"", []))
    seen = answer(status, message.fields, message.body, message.trailers)
    reason = message.first.split(" ", 2)[2] if message.first.count(" ") > 1 else ""
    seen = {"status": f"{status} {reason}".strip(), **{k: v for k, v in seen.items() if k != "status"}}
    if interim:
        seen["interim"] = interim
    if not message.complete:
        seen["ended"] = f"in the body: {stream.ended}"
    return seen


def over_http2(conn: http2.Connection, request: Request) -> dict:
    """Sends on an HTTP/2 connection and reads the answer."""
    stream = conn.next_stream
    conn.next_stream += 2
    first = [(":method", request.method), (":scheme", request.scheme), (":authority", request.authority), (":path", request.path)]
    if request.method == "CONNECT":
        first = [first[0], first[2]]
    fields = [(n.lower(), v) for n, v in request.fields]
    pseudo = [f for f in fields if f[0].startswith(":")]
    conn.cork()
    conn.headers(stream, first + pseudo + [f for f in fields if f not in pseudo], 4 if request.body is not None or request.trailers else 5)
    if request.body is not None or request.trailers:
        conn.body(stream, request.body or b"", not request.trailers)
    if request.trailers:
        conn.headers(stream, request.trailers, 5)
    conn.uncork()
    conn.until(lambda e: e.kind == "close" or e.stream == stream and (e.end or e.kind == "RST_STREAM"))
    return http2_answer(conn, stream)


def http2_answer(conn: http2.Connection, stream: int) -> dict:
    """The frames that arrived on one stream."""
    mine = [e for e in conn.events if e.stream == stream and e.kind in ("HEADERS", "DATA", "RST_STREAM")]
    over = [e.kind for e in conn.events if e.kind == "close"]
    seen: dict = {}
    heads = [e for e in mine if e.kind == "HEADERS"]
    interim = [e for e in heads if dict(e.fields).get(":status", "").startswith("1") and not e.end]
    finals = [e for e in heads if e not in interim]
    body = b"".join(e.data for e in mine if e.kind == "DATA")
    if finals:
        trailers = [f for e in finals[1:] for f in e.fields]
        fields = finals[0].fields
        seen = answer(dict(fields).get(":status"), [f for f in fields if f[0] != ":status"], body, trailers)
    if interim:
        seen["interim"] = [answer(dict(e.fields)[":status"], [f for f in e.fields if f[0] != ":status"], b"", []) for e in interim]
    resets = [e.code for e in mine if e.kind == "RST_STREAM"]
    if resets:
        seen["reset"] = resets[0]
    elif not any(e.end for e in mine):
        seen["ended"] = over[0] if over else "timeout"
    goaway = [e.code for e in conn.events if e.kind == "GOAWAY"]
    if goaway and "status" not in seen:
        seen["goaway"] = goaway[0]
    return seen


def answer(status, fields: list, body: bytes, trailers: list) -> dict:
    """An answer as it is recorded: fields sorted by name, since their order says nothing."""
    seen = {"status": str(status), "headers": listed(fields)}
    if body:
        seen["body"] = text.lines(body)
    if trailers:
        seen["trailers"] = listed(trailers)
    return seen


def listed(fields: list) -> list:
    """Fields as lines, sorted by name; values of one name keep their order."""
    return [f"{n}: {v if len(v) <= 1500 else f'({len(v)} characters)'}" for n, v in sorted(fields, key=lambda f: f[0].lower())]
