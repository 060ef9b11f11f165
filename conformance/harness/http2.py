"""One HTTP/2 connection, played frame by frame: the same code is the raw client and the raw server.

It is no general implementation: it does what a case says, also when that breaks the protocol, and writes down what the
other side answers. Frames are read and written in the text form that `action` documents.
"""
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

import hpack

from . import text

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TYPES = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION"]
FLAGS = {"END_STREAM": 1, "ACK": 1, "END_HEADERS": 4, "PADDED": 8, "PRIORITY": 32}
ERRORS = ["NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
          "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"]
SETTINGS = {"HEADER_TABLE_SIZE": 1, "ENABLE_PUSH": 2, "MAX_CONCURRENT_STREAMS": 3, "INITIAL_WINDOW_SIZE": 4, "MAX_FRAME_SIZE": 5,
            "MAX_HEADER_LIST_SIZE": 6, "ENABLE_CONNECT_PROTOCOL": 8}
# How long a script waits for the other side before it writes down "nothing".
PATIENCE = 5.0


@dataclass
class Event:
    """A frame (header blocks joined) or the end of the connection, as the other side sent it."""

    kind: str
    stream: int = 0
    end: bool = False
    fields: list = field(default_factory=list)
    data: bytes = b""
    code: str = ""
    number: int = 0
    ack: bool = False


class Connection:
    """A socket with HTTP/2 frames on it, and what has been received so far."""

    def __init__(self, sock: socket.socket, patience: float = PATIENCE):
        self.sock = sock
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) if sock.family != socket.AF_UNIX else None
        self.patience = patience
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder(max_header_list_size=1 << 24)
        self.decoder.max_allowed_table_size = 1 << 16
        self.buffer = b""
        self.events: list[Event] = []
        self.block = b""
        self.opening: Event | None = None
        self.windows = {0: 65535}
        self.initial_window = 65535
        self.next_stream = 1
        self.closed = False
        self.credit = True  # hand received bytes back at once
        self.ack_settings = True
        self.prefaced = True
        self.lock = threading.Lock()
        self.corked: list | None = None

    # -- sending ---------------------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        """Sends bytes. If the peer is gone, that shows in what is received."""
        if self.corked is not None:
            self.corked.append(data)
            return
        try:
            with self.lock:
                self.sock.sendall(data)
        except OSError:
            pass

    def cork(self) -> None:
        """Holds back what is sent until `uncork`, so that it arrives in one piece."""
        self.corked = []

    def uncork(self) -> None:
        """Sends what was held back."""
        held, self.corked = b"".join(self.corked or []), None
        if held:
            self.write(held)

    def frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Sends one frame unchecked."""
        self.write(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload)

    def settings(self, values: dict | None = None) -> None:
        """Sends SETTINGS; the keys are the RFC's names without the prefix, or numbers."""
        payload = b"".join(struct.pack(">HI", SETTINGS.get(k, k), v) for k, v in (values or {}).items())
        self.frame(4, 0, 0, payload)

    def headers(self, stream: int, fields: list, flags: int = 4) -> None:
        """Sends a header block in one HEADERS frame, or with CONTINUATION where it must be."""
        block = self.encode(fields)
        if len(block) <= 16384:
            return self.frame(1, flags, stream, block)
        self.frame(1, flags & ~4, stream, block[:16384])
        rest = block[16384:]
        while rest:
            self.frame(9, 4 if len(rest) <= 16384 else 0, stream, rest[:16384])
            rest = rest[16384:]

    def encode(self, fields: list) -> bytes:
        """HPACK without Huffman coding and without never-indexed fields, so that the block is predictable."""
        return self.encoder.encode([(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields], huffman=False)

    def body(self, stream: int, data: bytes, end: bool) -> None:
        """Sends a body within the windows that the other side grants."""
        offset = 0
        while True:
            room = min(self.windows[0], self.windows.setdefault(stream, self.initial_window), 16384)
            chunk = data[offset:offset + room]
            if chunk or offset == len(data):
                offset += len(chunk)
                self.windows[0] -= len(chunk)
                self.windows[stream] -= len(chunk)
                last = offset >= len(data)
                self.frame(0, 1 if last and end else 0, stream, chunk)
                if last:
                    return
                continue
            if self.corked is not None:
                self.uncork()
            if not self.pump() or any(e.kind == "RST_STREAM" and e.stream == stream for e in self.events):
                return

    # -- receiving -------------------------------------------------------------------------------------------------
    def pump(self, patience: float | None = None) -> bool:
        """Reads once from the socket into events. False: nothing came in time, or the connection is over."""
        if self.closed:
            return False
        self.sock.settimeout(self.patience if patience is None else max(patience, 0.001))
        try:
            data = self.sock.recv(65536)
        except (socket.timeout, BlockingIOError):
            return False
        except OSError:
            self.closed = True
            self.events.append(Event("close"))  # FIN or RST: a race of the two sides
            return True
        if not data:
            self.closed = True
            self.events.append(Event("close"))
            return True
        self.buffer += data
        self.split()
        return True

    def split(self) -> None:
        """Turns complete frames in the buffer into events."""
        if not self.prefaced:
            if len(self.buffer) < len(PREFACE):
                return
            self.buffer = self.buffer[len(PREFACE):]
            self.prefaced = True
        while len(self.buffer) >= 9:
            if self.buffer[:5] == b"HTTP/" and not self.events:
                self.events.append(Event("HTTP/1", data=self.buffer))
                self.buffer = b""
                return
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                return
            kind, flags = self.buffer[3], self.buffer[4]
            stream = int.from_bytes(self.buffer[5:9], "big") & 0x7FFFFFFF
            payload = self.buffer[9:9 + length]
            self.buffer = self.buffer[9 + length:]
            self.received(kind, flags, stream, payload)

    def received(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Records one frame, and sends acknowledgements and window updates."""
        name = TYPES[kind] if kind < len(TYPES) else f"TYPE{kind}"
        event = Event(name, stream)
        if name in ("DATA", "HEADERS") and flags & 8:
            payload = payload[1:len(payload) - payload[0]]
        if name == "DATA":
            event.data, event.end = payload, bool(flags & 1)
            if payload and self.credit:
                self.credits(stream, len(payload), bool(flags & 1))
        elif name in ("HEADERS", "CONTINUATION", "PUSH_PROMISE"):
            if name == "HEADERS":
                self.opening, self.block = Event(name, stream, bool(flags & 1)), b""
                payload = payload[5:] if flags & 32 else payload
            self.block += payload
            if not flags & 4 or self.opening is None:
                return
            event, self.opening = self.opening, None
            event.fields = [(text.latin(n), text.latin(v)) for n, v in self.decoder.decode(self.block, raw=True)]
        elif name == "RST_STREAM":
            event.code = error_name(int.from_bytes(payload, "big"))
        elif name == "SETTINGS":
            self.got_settings(event, flags, payload)
        elif name == "PING":
            event.ack, event.data = bool(flags & 1), payload
            if not flags & 1:
                self.frame(6, 1, 0, payload)
        elif name == "GOAWAY":
            event.number = int.from_bytes(payload[:4], "big")
            event.code = error_name(int.from_bytes(payload[4:8], "big"))
            event.data = payload[8:]
        elif name == "WINDOW_UPDATE":
            event.number = int.from_bytes(payload, "big")
            self.windows[stream] = self.windows.get(stream, self.initial_window) + event.number
        self.events.append(event)

    def got_settings(self, event: Event, flags: int, payload: bytes) -> None:
        """Notes SETTINGS, applies the window size, acknowledges."""
        event.ack = bool(flags & 1)
        names = {v: k for k, v in SETTINGS.items()}
        for at in range(0, len(payload), 6):
            key, value = struct.unpack(">HI", payload[at:at + 6])
            event.fields.append((names.get(key, str(key)), str(value)))
            if key == 4:
                for stream in self.windows:
                    self.windows[stream] += value - self.initial_window if stream else 0
                self.initial_window = value
            if key == 1:
                self.encoder.header_table_size = min(value, 4096)
        if not event.ack and self.ack_settings:
            self.frame(4, 1, 0, b"")

    def credits(self, stream: int, count: int, ended: bool) -> None:
        """Restores the peer's window."""
        self.frame(8, 0, 0, struct.pack(">I", count))
        if not ended:
            self.frame(8, 0, stream, struct.pack(">I", count))

    def until(self, done, patience: float | None = None) -> bool:
        """Reads until `done(event)` holds for an event not looked at before. False when it never came."""
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        at = getattr(self, "looked", 0)
        while True:
            while at < len(self.events):
                at += 1
                if done(self.events[at - 1]):
                    self.looked = at
                    return True
            left = deadline - time.monotonic()
            if left <= 0 or self.closed or not self.pump(left):
                self.looked = at
                return False

    def close(self) -> None:
        """Ends the connection."""
        self.closed = True
        self.sock.close()


def error_name(code: int) -> str:
    """The RFC's name of an error code."""
    return ERRORS[code] if code < len(ERRORS) else str(code)


def awaited(what: str):
    """The condition behind `await:`: `close`, `END 1`, `HEADERS 3`, `GOAWAY`, `SETTINGS ACK`, `PING ACK`, `RST_STREAM`."""
    words = what.split()
    kind, stream = words[0], next((int(w) for w in words[1:] if w.isdigit()), None)
    ack = "ACK" in words

    def done(event: Event) -> bool:
        if event.kind == "close":
            return True
        if kind == "close":
            return False
        if stream is not None and event.stream != stream:
            return False
        if kind == "END":
            return event.end or event.kind == "RST_STREAM"
        return event.kind == kind and (not ack or event.ack)

    return done


def fields_of(lines: list) -> list:
    """`name: value` lines as pairs; a pseudo header's own colon stays."""
    pairs = []
    for line in lines:
        found = re.match(r"(:?[^:]*):\s?(.*)", line, re.S)
        name, value = found.groups() if found else (line, "")
        size = re.fullmatch(r"\((.) x (\d+)\)", value)
        pairs.append((name, size[1] * int(size[2]) if size else value))
    return pairs


def action(conn: Connection, step: dict | str) -> None:
    """Plays one step of a frame script.

    `preface`, `close`, `end` (half close), `await: WHAT`, or a frame: `SETTINGS: {…}`, `HEADERS: {stream, flags: [..],
    fields: [..]}`, `DATA: {stream, flags, data, padding}`, `RST_STREAM: {stream, code}`, `PING: text`, `GOAWAY: {..}`,
    `WINDOW_UPDATE: {stream, increment}`, `FRAME: {type, flags, stream, hex}` for anything else, `bytes: text`.
    `together: [..]` plays steps whose bytes leave in one piece.
    """
    if isinstance(step, str):
        step = {step: None}
    (word, value), = step.items()
    value = {} if value is None and word.isupper() else value
    if word in PLAIN:
        PLAIN[word](conn, value)
    elif word in FRAMES:
        FRAMES[word](conn, value)
    else:
        raise ValueError(f"unknown frame action {word!r}")


def flags_of(value: dict, default: list) -> int:
    """The flags byte: names or a number."""
    names = value.get("flags", default)
    if isinstance(names, int):
        return names
    names = names.split() if isinstance(names, str) else names
    return sum(FLAGS[n] for n in names)


def send_headers(conn: Connection, value: dict) -> None:
    """HEADERS or CONTINUATION from fields or bytes; `stream` defaults to the next of a client."""
    stream = value.get("stream")
    if stream is None:
        stream = conn.next_stream
    conn.next_stream = max(conn.next_stream, stream + 2)
    flags = flags_of(value, ["END_STREAM", "END_HEADERS"])
    if "hex" in value:
        return conn.frame(1, flags, stream, bytes.fromhex(value["hex"]))
    if "cut" in value:  # the block up to this many bytes, the rest for CONTINUATION
        block = conn.encode(fields_of(value["fields"]))
        conn.left = block[value["cut"]:]
        return conn.frame(1, flags, stream, block[:value["cut"]])
    fields = fields_of(value["fields"])
    if flags & ~5:
        extra = bytes([value.get("padding", 0)]) if flags & 8 else b""
        extra += struct.pack(">IB", value.get("depends", 0), value.get("weight", 16) - 1) if flags & 32 else b""
        block = extra + conn.encode(fields) + b"\0" * value.get("pad", value.get("padding", 0))
        return conn.frame(1, flags, stream, block)
    return conn.headers(stream, fields, flags)


def send_continuation(conn: Connection, value: dict) -> None:
    """CONTINUATION: what `cut` left over, or fields of its own."""
    block = conn.encode(fields_of(value["fields"])) if "fields" in value else conn.left
    conn.frame(9, flags_of(value, ["END_HEADERS"]), value["stream"], block)


def send_data(conn: Connection, value: dict) -> None:
    """DATA as it is, or within the windows when `flow: true`."""
    data = text.payload(value.get("data", ""))
    flags = flags_of(value, [])
    if value.get("flow"):
        return conn.body(value["stream"], data, bool(flags & 1))
    if flags & 8:
        data = bytes([value.get("padding", 0)]) + data + b"\0" * value.get("pad", value.get("padding", 0))
    conn.windows[0] -= len(data)
    conn.frame(0, flags, value["stream"], data)
    return None


def code_of(value) -> int:
    """An error code by name or number."""
    return ERRORS.index(value) if isinstance(value, str) else value


def await_step(conn: Connection, what) -> None:
    """`await:` one or several things; frames that never arrive are recorded as missing."""
    for one in what if isinstance(what, list) else [what]:
        if not conn.until(awaited(one)):
            conn.events.append(Event(f"(no {one})"))
            conn.looked = len(conn.events)


def half_close(conn: Connection, _value) -> None:
    """FIN in our direction only."""
    try:
        conn.sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def hard_close(conn: Connection, _value) -> None:
    """RST instead of FIN."""
    conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def start(conn: Connection, value) -> None:
    """A client's preface with its SETTINGS."""
    conn.write(PREFACE)
    conn.settings(value or {})


def send_together(conn: Connection, steps: list) -> None:
    """Runs steps that do not wait, and sends their bytes in one piece."""
    conn.cork()
    for step in steps:
        action(conn, step)
    conn.uncork()


PLAIN = {
    "preface": start,
    "together": send_together,
    "close": lambda conn, _value: conn.close(),
    "end": half_close,
    "abort": hard_close,
    "await": await_step,
    "bytes": lambda conn, value: conn.write(text.payload(value)),
    "hex": lambda conn, value: conn.write(bytes.fromhex(value)),
    "credit": lambda conn, value: setattr(conn, "credit", value),
    "acknowledge": lambda conn, value: setattr(conn, "ack_settings", value),
    "repeat": lambda conn, value: [action(conn, one) for _ in range(value["times"]) for one in value["steps"]],
    "wait": lambda conn, value: conn.until(lambda event: event.kind == "close", value),
}
FRAMES = {
    "SETTINGS": lambda conn, value: conn.frame(4, 1, 0, b"") if value == "ACK" else conn.settings(value),
    "HEADERS": send_headers,
    "CONTINUATION": send_continuation,
    "DATA": send_data,
    "PRIORITY": lambda conn, v: conn.frame(2, 0, v["stream"], struct.pack(">IB", v.get("depends", 0), v.get("weight", 16) - 1)),
    "RST_STREAM": lambda conn, v: conn.frame(3, 0, v.get("stream", conn.next_stream - 2), struct.pack(">I", code_of(v.get("code", "CANCEL")))),
    "PING": lambda conn, v: conn.frame(6, 0, 0, str(v or "12345678").encode()),
    "GOAWAY": lambda conn, v: conn.frame(7, 0, 0, struct.pack(">II", v.get("last", 0), code_of(v.get("code", 0))) + v.get("debug", "").encode()),
    "WINDOW_UPDATE": lambda conn, v: conn.frame(8, 0, v.get("stream", 0), struct.pack(">I", v["increment"])),
    "FRAME": lambda conn, v: conn.frame(v["type"], flags_of(v, []), v.get("stream", 0), bytes.fromhex(v.get("hex", "")) or b"\0" * v.get("size", 0)),
}


def transcript(events: list[Event], show: tuple = ()) -> list:
    """The received frames as text: one line per frame, header fields below it, the DATA of a stream together.

    SETTINGS, WINDOW_UPDATE and PING acknowledgements differ between correct senders. They are left out unless `show`
    names them.
    """
    lines: list = []
    at = 0
    while at < len(events):
        event = events[at]
        at += 1
        if skipped(event, show):
            continue
        head = " ".join(str(w) for w in [event.kind, event.stream or "", "ACK" if event.ack else "", event.code] if w != "")
        if event.kind == "DATA":
            data, end = event.data, event.end
            while at < len(events) and not end and (follows(events[at], event) or skipped(events[at], show)):
                if follows(events[at], event):
                    data += events[at].data
                    end = events[at].end
                at += 1
            lines.append(f"{head}{' END_STREAM' if end else ''}: {text.shown(data)}")
        elif event.kind == "HTTP/1":
            lines.append({"HTTP/1": text.lines(event.data)})
        elif event.fields:
            lines.append({head + (" END_STREAM" if event.end else ""): [f"{n}: {v}" for n, v in sorted(event.fields, key=lambda f: f[0])]})
        else:
            extra = f" last={event.number}" if event.kind == "GOAWAY" else f" {event.number}" if event.kind == "WINDOW_UPDATE" else ""
            lines.append(head + extra)  # a GOAWAY's debug text is each implementation's own
    return lines


def follows(event: Event, first: Event) -> bool:
    """Whether a frame carries on the body that `first` began."""
    return event.kind == "DATA" and event.stream == first.stream


def skipped(event: Event, show: tuple) -> bool:
    """Whether the transcript leaves this frame out."""
    return event.kind in ("SETTINGS", "WINDOW_UPDATE", "PING") and event.kind not in show or event.kind == "SETTINGS" and event.ack
