"""The upstreams of a case: HTTP in both codecs, raw scripts, and sockets that do not answer.

A backend listens before the proxy starts, records what it receives, and ends with the case.
"""
import collections
import socket
import ssl
import struct
import threading
import time

from . import http1, http2, text, tls
from .client import listed, pairs


class Listener:
    """A bound TCP (or UNIX) socket and the threads that serve it."""

    def __init__(self, name: str, spec: dict, folder):
        self.name = name
        self.spec = spec
        self.seen: list = []
        self.accepted = 0
        self.open = 0
        self.lock = threading.Lock()
        self.sockets: list = []
        self.conns: list = []
        self.stopped = threading.Event()
        self.path = None
        self.tls = tls.server_context(spec["tls"]) if "tls" in spec else None
        if spec.get("unix"):
            self.path = spec["unix"] if isinstance(spec["unix"], str) else str(folder / f"{name}.sock")
            self.port = 0
            self.bind(socket.AF_UNIX, self.path)
            return
        hosts = spec.get("at", ["127.0.0.1"])
        self.hosts = hosts
        self.port = self.bind_all(hosts, spec.get("down", []))

    def bind_all(self, hosts: list, down: list) -> int:
        """Binds the same port on each address; tries another port if it is taken on one of them."""
        while True:
            port = self.spec.get("port", 0)
            try:
                for host in hosts:
                    family = socket.AF_INET6 if ":" in host else socket.AF_INET
                    port = self.bind(family, (host, port), listening=host not in down).getsockname()[1]
                return port
            except OSError:
                for sock in self.sockets:
                    sock.close()
                self.sockets.clear()
                if "port" in self.spec:
                    raise

    def bind(self, family, address, listening: bool = True) -> socket.socket:
        """Binds one address."""
        sock = socket.socket(family)
        self.sockets.append(sock)
        sock.bind(address)
        if listening:
            sock.listen(256)
        return sock

    def start(self) -> None:
        """Begins to accept."""
        for sock in self.sockets:
            threading.Thread(target=self.accept, args=(sock,), daemon=True).start()

    def accept(self, sock: socket.socket) -> None:
        """Accepts until the case ends."""
        while not self.stopped.is_set():
            try:
                conn, _ = sock.accept()
            except OSError:
                return
            with self.lock:
                self.accepted += 1
                self.open += 1
                number = self.accepted
                self.conns.append(conn)
            threading.Thread(target=self.guarded, args=(conn, number), daemon=True).start()

    def guarded(self, conn: socket.socket, number: int) -> None:
        """Serves one connection, then closes and counts it, also after an error."""
        try:
            if "tls" in self.spec:
                with self.lock:
                    self.conns.remove(conn)
                conn = tls.server(conn, self.tls, self.spec["tls"], self.note)
                with self.lock:
                    self.conns.append(conn)
            self.serve(conn, number)
        except (OSError, ValueError, IndexError, KeyError):
            pass
        finally:
            with self.lock:
                self.open -= 1
            conn.close()

    def serve(self, conn: socket.socket, number: int) -> None:
        """Serves one connection. Each kind of backend implements this."""
        raise NotImplementedError

    def note(self, what) -> None:
        """Adds an observation."""
        with self.lock:
            self.seen.append(what)

    def cut(self) -> None:
        """Closes every connection that is open, as a crash would."""
        with self.lock:
            conns = list(self.conns)
        for conn in conns:
            try:
                conn.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stop(self) -> None:
        """Closes all sockets and ends all threads."""
        self.stopped.set()
        for sock in self.sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()
        self.cut()


class Closed(Listener):
    """A port that is taken and refuses connections."""

    def bind(self, family, address, listening: bool = True) -> socket.socket:
        return super().bind(family, address, listening=False)

    def start(self) -> None:
        """Nothing to serve."""


class Blackhole(Listener):
    """A port whose accept queue is full: a connection attempt gets no answer at all."""

    def bind(self, family, address, listening: bool = True) -> socket.socket:
        sock = super().bind(family, address, listening=False)
        sock.listen(0)
        for _ in range(4):
            filler = socket.socket(family)
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
            self.conns.append(filler)
        return sock

    def start(self) -> None:
        """Nothing to serve."""


class Http(Listener):
    """Answers requests in one codec: with the reply in `replies` for the path, else with an echo of the request."""

    def __init__(self, name: str, spec: dict, folder):
        super().__init__(name, spec, folder)
        self.codec = spec["codec"]
        self.given: collections.Counter = collections.Counter()  # replies that were given, by their key
        self.held = threading.Event()  # set: requests that are held get their answer

    def reply_to(self, method: str, path: str) -> dict:
        """The scripted reply; `replies` are keyed by path, or `METHOD path`. Several replies are given in turn, and the last is repeated."""
        replies = self.spec.get("replies", {})
        plain = path.split("?")[0]
        key = next((key for key in (f"{method} {plain}", plain, "*") if key in replies), None)
        reply = replies.get(key) or {}
        if isinstance(reply, dict):
            return reply
        with self.lock:
            self.given[key] += 1
            return reply[min(self.given[key], len(reply)) - 1]

    def serve(self, conn: socket.socket, number: int) -> None:
        codec = spoken(conn) if self.codec == "any" else self.codec
        if codec == "http2":
            Http2Server(self, conn).run()
        else:
            self.serve_http1(http1.Stream(conn, patience=60))

    def serve_http1(self, stream: http1.Stream) -> None:
        """Serves requests until the proxy closes the connection."""
        while True:
            message = http1.read_head(stream)
            if message is None:
                return
            method, path, _ = message.first.split(" ", 2)
            reply = self.reply_to(method, path)
            if message.get("expect") == "100-continue" and not reply.get("refuse"):
                stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if not reply.get("early"):
                read_request_body(stream, message)
            seen = Seen(message.first, message.fields, message.body, message.trailers)
            if not message.complete:
                seen.first += " (cut)"
            self.note(seen.shown())
            if not self.send_http1(stream, reply, seen, method == "HEAD"):
                return

    def send_http1(self, stream: http1.Stream, reply: dict, seen: "Seen", bodiless: bool) -> bool:
        """Writes a reply; False when the connection is to end."""
        self.pause(reply)
        if "raw" in reply:
            stream.write(text.crlf(reply["raw"]))
            self.pause(reply, "then_delay")
            return self.after(stream.sock, reply)
        if reply.get("abort") == "before":
            return self.after(stream.sock, {"then": reply.get("then", "close")})
        for status in reply.get("interim", []):
            stream.write(http1.head(f"HTTP/1.1 {status} Interim", pairs(reply.get("interim_headers"))))
        status, fields, body, trailers = self.parts(reply, seen)
        declared = {n.lower() for n, _ in fields}
        chunked = bool(trailers) or reply.get("chunked", False)
        if chunked:
            fields = [*fields, ("transfer-encoding", "chunked")]
        elif "content-length" not in declared and status not in (204, 304) and not reply.get("until_close"):
            fields = [*fields, ("content-length", str(len(body)))]
        stream.write(http1.head(f"HTTP/1.1 {status} {reply.get('reason', 'OK')}", fields))
        if reply.get("abort") == "headers":
            return self.after(stream.sock, {"then": reply.get("then", "close")})
        if not bodiless:
            self.pause(reply, "body_delay")
            data = body[:len(body) // 2] if reply.get("abort") == "body" else body
            stream.write(http1.chunk(data) if chunked and data else data)
            if reply.get("abort") == "body":
                return self.after(stream.sock, {"then": reply.get("then", "close")})
            if chunked:
                tail = "".join(f"{n}: {v}\r\n" for n, v in trailers).encode("latin-1")
                stream.write(b"0\r\n" + tail + b"\r\n")
        return not reply.get("until_close") and self.after(stream.sock, reply)

    def parts(self, reply: dict, seen: "Seen") -> tuple:
        """Status, fields, body and trailers of a reply."""
        body = text.payload(reply["body"]) if "body" in reply else seen.echo(self.name)
        return reply.get("status", 200), pairs(reply.get("headers")), body, pairs(reply.get("trailers"))

    def pause(self, reply: dict, key: str = "delay") -> None:
        """`delay: seconds`, or `hold`: until a step says `release`."""
        if key == "delay" and reply.get("hold"):
            while not self.held.wait(0.05) and not self.stopped.is_set():
                pass
        if reply.get(key):
            self.stopped.wait(reply[key])

    @staticmethod
    def after(sock: socket.socket, reply: dict) -> bool:
        """`then: close` ends the connection with FIN, `then: reset` with RST."""
        if reply.get("then") == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return "then" not in reply


def spoken(conn: socket.socket) -> str:
    """The codec of a peer: HTTP/2 if its first bytes are those of the preface."""
    if isinstance(conn, ssl.SSLSocket):
        return "http2" if conn.selected_alpn_protocol() == "h2" else "http1"
    return "http2" if conn.recv(3, socket.MSG_PEEK | socket.MSG_WAITALL) == b"PRI" else "http1"


def read_request_body(stream: http1.Stream, message: http1.Message) -> None:
    """Reads the body that a request's head announces."""
    if "chunked" in (message.get("transfer-encoding") or "").lower():
        http1.read_chunks(stream, message)
    elif message.get("content-length"):
        length = int(message.get("content-length"))
        message.body = stream.exactly(length)
        message.complete = len(message.body) == length


class Seen:
    """A request as a backend saw it."""

    def __init__(self, first: str, fields: list, body: bytes, trailers: list):
        self.first, self.fields, self.body, self.trailers = first, fields, body, trailers

    def shown(self) -> dict:
        """The request as an observation."""
        shown = {"request": self.first, "headers": listed(self.fields)}
        if self.body:
            shown["body"] = text.lines(self.body)
        if self.trailers:
            shown["trailers"] = listed(self.trailers)
        return shown

    def echo(self, backend: str) -> bytes:
        """The request as a response body, so that the client sees what arrived."""
        lines = [f"{backend} saw {self.first}", *listed(self.fields)]
        if self.body:
            lines += ["", text.shown(self.body)]
        if self.trailers:
            lines += ["", *listed(self.trailers)]
        return ("\n".join(lines) + "\n").encode("latin-1")


class Http2Server:
    """One HTTP/2 connection of an `Http` backend."""

    def __init__(self, backend: Http, sock: socket.socket):
        self.backend = backend
        self.conn = http2.Connection(sock, patience=60)
        self.conn.prefaced = False
        self.replies: dict = {}  # the reply to each request, by its stream
        self.requests: dict = {}
        self.write_lock = threading.Lock()

    def run(self) -> None:
        """Serves streams until the proxy closes."""
        self.conn.settings(self.backend.spec.get("settings"))
        at = 0
        while True:
            while at < len(self.conn.events):
                event = self.conn.events[at]
                at += 1
                if event.kind == "close":
                    return
                if not self.event(event):
                    self.conn.close()
                    return
            if not self.conn.pump():
                return

    def event(self, event: http2.Event) -> bool:
        """Collects a request; answers it at its end. False ends the connection."""
        if event.kind == "RST_STREAM":
            self.backend.note(f"RST_STREAM {event.code}")
            self.requests.pop(event.stream, None)
        if event.kind not in ("HEADERS", "DATA"):
            return True
        if event.kind == "HEADERS" and event.stream not in self.requests:
            pseudo = dict(f for f in event.fields if f[0].startswith(":"))
            first = f"{pseudo.get(':method')} {pseudo.get(':path', '')} HTTP/2"
            self.requests[event.stream] = Seen(first, event.fields, b"", [])
            method, path, _ = first.split(" ", 2)
            self.replies[event.stream] = self.backend.reply_to(method, path)
        elif event.stream in self.requests:
            request = self.requests[event.stream]
            request.body += event.data
            request.trailers += event.fields
        request = self.requests.get(event.stream)
        if request is None:
            return True
        reply = self.replies[event.stream]
        if event.end or reply.get("early") and event.kind == "HEADERS":
            self.requests.pop(event.stream)
            self.backend.note(request.shown())
            if reply.get("hold") or reply.get("delay"):
                threading.Thread(target=self.later, args=(event.stream, reply, request), daemon=True).start()
                return True
            return self.answer(event.stream, reply, request)
        return True

    def later(self, stream: int, reply: dict, request: Seen) -> None:
        """Sends a delayed reply. Runs in a thread of its own, so that other streams are not delayed."""
        self.backend.pause(reply)
        if not self.answer(stream, reply, request):
            self.conn.sock.shutdown(socket.SHUT_RDWR)

    def answer(self, stream: int, reply: dict, request: Seen) -> bool:
        """Writes a reply; False when the connection is to end."""
        conn, backend = self.conn, self.backend
        if reply.get("abort") == "before":
            return self.abort(stream, reply)
        status, fields, body, trailers = backend.parts(reply, request)
        with self.write_lock:
            for interim in reply.get("interim", []):
                conn.headers(stream, [(":status", str(interim)), *pairs(reply.get("interim_headers"))], 4)
            bodiless = not body and not trailers or request.first.startswith("HEAD ")
            conn.headers(stream, [(":status", str(status)), *fields], 5 if bodiless and reply.get("abort") != "headers" else 4)
            if reply.get("abort") == "headers":
                return self.abort(stream, reply)
            backend.pause(reply, "body_delay")
            if reply.get("abort") == "body":
                conn.body(stream, body[:len(body) // 2], False)
                return self.abort(stream, reply)
            if not bodiless and (body or not trailers):
                conn.body(stream, body, not trailers)
            if trailers:
                conn.headers(stream, trailers, 5)
        if reply.get("goaway"):
            http2.action(conn, {"GOAWAY": {"last": stream}})
        return backend.after(conn.sock, reply)

    def abort(self, stream: int, reply: dict) -> bool:
        """`then: CODE` resets the stream; `close` and `reset` end the connection."""
        then = reply.get("then", "INTERNAL_ERROR")
        if then in ("close", "reset"):
            return self.backend.after(self.conn.sock, {"then": then})
        http2.action(self.conn, {"RST_STREAM": {"stream": stream, "code": then}})
        return True


class Script(Listener):
    """Plays a script on each connection: `connections` lists one per connection, the last is repeated.

    HTTP/1 steps: `receive: head|request|N|end|how`, `send: text`, `bytes: payload`, `end` (FIN), `close`, `abort`, `hold` (until a step says `release`), `wait: seconds`. With `codec: http2` the
    steps are those of `http2.action`.
    """

    def __init__(self, name: str, spec: dict, folder):
        super().__init__(name, spec, folder)
        self.held = threading.Event()

    def serve(self, conn: socket.socket, number: int) -> None:
        scripts = self.spec["connections"]
        script = scripts[min(number, len(scripts)) - 1]
        if self.spec.get("codec") == "http2":
            return self.frames(conn, script)
        stream = http1.Stream(conn)
        for step in script:
            (word, value), = step.items() if isinstance(step, dict) else ((step, None),)
            if word == "send":
                stream.write(text.crlf(value))
            elif word == "receive":
                self.note(self.received(stream, value))
            elif word == "bytes":
                stream.write(text.payload(value))
            elif word == "end":
                conn.shutdown(socket.SHUT_WR)
            elif word == "hold":
                while not self.held.wait(0.05) and not self.stopped.is_set():
                    pass
            elif word == "wait":
                self.stopped.wait(value)
            elif word == "abort":
                Http.after(conn, {"then": "reset"})
                return None
            elif word == "close":
                return None
        stream.rest(60)
        return None

    @staticmethod
    def received(stream: http1.Stream, what):
        """The bytes that the proxy sent."""
        if what in ("end", "how"):
            data = stream.rest()
            return {"end": text.lines(data), "by": "reset" if what == "how" and stream.reset else stream.ended}
        if isinstance(what, int):
            return text.lines(stream.exactly(what))
        message = http1.read_head(stream)
        if message is None:
            return stream.ended
        if what == "request":
            read_request_body(stream, message)
        return Seen(message.first, message.fields, message.body, message.trailers).shown()

    def frames(self, sock: socket.socket, script: list) -> None:
        """An HTTP/2 server's script; what was received is its transcript."""
        conn = http2.Connection(sock)
        conn.prefaced = False
        try:
            for step in script:
                http2.action(conn, step)
            conn.until(http2.awaited("close"), 60)
        finally:
            self.note({"received": http2.transcript(conn.events, tuple(self.spec.get("show", [])))})


def wait_until(condition, patience: float) -> bool:
    """Polls a condition that has no event to wait for."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
