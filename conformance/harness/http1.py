"""HTTP/1.1 by raw bytes: what a client needs to read a response and a server to read a request, and no more."""
import socket
import time

PATIENCE = 5.0


class Stream:
    """A socket with a buffer: reads up to something, or to the end."""

    def __init__(self, sock: socket.socket, patience: float = PATIENCE):
        self.sock = sock
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.patience = patience
        self.buffer = b""
        self.ended = ""  # "close" or "timeout"
        self.reset = False  # whether it ended with RST

    def fill(self, patience: float | None = None) -> bool:
        """Reads once; False at the end or when nothing came in time."""
        if self.ended == "close":
            return False
        self.sock.settimeout(max(self.patience if patience is None else patience, 0.001))
        try:
            data = self.sock.recv(65536)
        except (socket.timeout, BlockingIOError):
            self.ended = "timeout"
            return False
        except OSError as error:
            self.reset = isinstance(error, ConnectionResetError)
            self.ended = "close"  # whether FIN or RST comes first is a race of the two sides
            return False
        if not data:
            self.ended = "close"
            return False
        self.buffer += data
        return True

    def until(self, mark: bytes) -> bytes | None:
        """Everything up to and with `mark`."""
        deadline = time.monotonic() + self.patience
        while mark not in self.buffer:
            if not self.fill(deadline - time.monotonic()):
                return None
        at = self.buffer.index(mark) + len(mark)
        head, self.buffer = self.buffer[:at], self.buffer[at:]
        return head

    def exactly(self, count: int) -> bytes:
        """That many bytes, or fewer when the other side ends."""
        while len(self.buffer) < count and self.fill():
            pass
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def rest(self, patience: float | None = None) -> bytes:
        """Everything up to the end of the connection."""
        while self.fill(patience):
            pass
        data, self.buffer = self.buffer, b""
        return data

    def write(self, data: bytes) -> None:
        """Sends bytes; that the other side is gone shows in what is read."""
        try:
            self.sock.sendall(data)
        except OSError:
            pass


class Message:
    """A request or response as read: first line, fields in order, body, trailers."""

    def __init__(self, first: str, fields: list):
        self.first = first
        self.fields = fields
        self.body = b""
        self.trailers: list = []
        self.complete = True

    def get(self, name: str) -> str | None:
        """The first field of that name."""
        return next((v for n, v in self.fields if n.lower() == name), None)


def read_head(stream: Stream) -> Message | None:
    """A head, or None when the connection ended before it was complete."""
    head = stream.until(b"\r\n\r\n")
    if head is None:
        return None
    first, *rest = head[:-4].decode("latin-1").split("\r\n")
    fields = [tuple(line.split(":", 1)) if ":" in line else (line, "") for line in rest]
    return Message(first, [(n, v.strip(" \t")) for n, v in fields])


def read_message(stream: Stream, bodiless: bool = False, request: bool = False) -> Message | None:
    """A whole message; `bodiless` for answers to HEAD and the like."""
    message = read_head(stream)
    if message is None:
        return None
    status = "" if request else message.first.split(" ")[1]
    if bodiless or status in ("204", "304") or status.startswith("1"):
        return message
    if "chunked" in (message.get("transfer-encoding") or ""):
        read_chunks(stream, message)
    elif message.get("content-length") is not None:
        length = int(message.get("content-length"))
        message.body = stream.exactly(length)
        message.complete = len(message.body) == length
    elif not request:
        message.body = stream.rest()
    return message


def read_chunks(stream: Stream, message: Message) -> None:
    """A chunked body with its trailers."""
    while True:
        line = stream.until(b"\r\n")
        if line is None:
            message.complete = False
            return
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        message.body += stream.exactly(size)
        stream.exactly(2)
    while (line := stream.until(b"\r\n")) not in (None, b"\r\n"):
        name, _, value = line[:-2].decode("latin-1").partition(":")
        message.trailers.append((name, value.strip()))


def chunk(data: bytes) -> bytes:
    """One chunk."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def head(first: str, fields: list) -> bytes:
    """A head on the wire."""
    return "".join([first, "\r\n", *(f"{n}: {v}\r\n" for n, v in fields), "\r\n"]).encode("latin-1")
