"""A DNS server under the case's control, on UDP and TCP of one loopback port.

`records: {svc.test: {A: [127.0.0.2], AAAA: […], ttl: 5}}`. Instead of addresses a name can have `rcode: SERVFAIL` (or
NXDOMAIN, REFUSED), `drop: true` (no answer), `truncate: true` (UDP says "use TCP"), `CNAME: other`, `delay: seconds`,
`answers: [{A: 127.0.0.2, ttl: 5, owner: other.test, class: 3}, {CNAME: other.test}]` (records as they are, whatever was asked),
`shape:` one of `SHAPES` (a reply that is wrong in some way). A name that is not listed is NXDOMAIN. `listens: []` closes both
ports, `listens: [udp]` that of TCP.
"""
import ipaddress
import socket
import struct
import threading
import time

RCODES = {"NOERROR": 0, "FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "NOTIMP": 4, "REFUSED": 5}
TYPES = {1: "A", 5: "CNAME", 28: "AAAA", 33: "SRV", 12: "PTR", 65: "HTTPS"}


class DnsBackend:
    """One name server."""

    def __init__(self, name: str, spec: dict, _folder):
        self.name = name
        self.records = spec.get("records", {})
        self.seen: list = []
        self.details: list = []
        self.listens = spec.get("listens", ["udp", "tcp"])
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        while True:
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind(("127.0.0.1", spec.get("port", 0)))
            self.port = self.udp.getsockname()[1]
            self.tcp = socket.socket()
            try:
                self.tcp.bind(("127.0.0.1", self.port))
            except OSError:
                self.udp.close()
                continue
            break
        if "tcp" in self.listens:
            self.tcp.listen(16)
        else:
            self.tcp.close()
        if "udp" not in self.listens:
            self.udp.close()

    def start(self) -> None:
        """Begins to answer."""
        serve = {"udp": self.serve_udp, "tcp": self.serve_tcp}
        for transport in self.listens:
            threading.Thread(target=serve[transport], daemon=True).start()

    def serve_udp(self) -> None:
        """Datagrams; a delayed answer does not hold up the others."""
        while not self.stopped.is_set():
            try:
                query, peer = self.udp.recvfrom(4096)
            except OSError:
                return
            if len(query) < 17:  # what a closing socket returns
                continue
            threading.Thread(target=self.one_datagram, args=(query, peer), daemon=True).start()

    def one_datagram(self, query: bytes, peer) -> None:
        """One question by UDP."""
        reply = self.answer(query, "udp")
        if reply:
            try:
                self.udp.sendto(reply, peer)
            except OSError:
                pass

    def serve_tcp(self) -> None:
        """Connections, one question each at a time."""
        while not self.stopped.is_set():
            try:
                conn, _ = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=self.one_connection, args=(conn,), daemon=True).start()

    def one_connection(self, conn: socket.socket) -> None:
        """Questions by TCP until the asker closes."""
        with conn:
            conn.settimeout(10)
            try:
                while True:
                    size = conn.recv(2, socket.MSG_WAITALL)
                    if len(size) < 2:
                        return
                    query = conn.recv(struct.unpack(">H", size)[0], socket.MSG_WAITALL)
                    reply = self.answer(query, "tcp")
                    if reply:
                        conn.sendall(struct.pack(">H", len(reply)) + reply)
            except OSError:
                return

    def answer(self, query: bytes, transport: str) -> bytes | None:
        """The reply to one question by the records as they are now."""
        name, kind, end = question(query)
        with self.lock:
            self.seen.append(f"{TYPES.get(kind, kind)} {name} {transport}")
            self.details.append((time.monotonic(), edns(query, end)))
            entry = self.records.get(name, {"rcode": "NXDOMAIN"})
            server_wide = self.records.get("*")
        entry = server_wide or entry
        if entry.get("delay"):
            self.stopped.wait(entry["delay"])
        if entry.get("drop") is True or entry.get("drop") == TYPES.get(kind):
            return None
        section = query[12:end]
        flags = 0x8580
        if entry.get("truncate") and transport == "udp":
            return header(query, flags | 0x0200, 0) + section
        if "shape" in entry:
            return SHAPES[entry["shape"]](query, section)
        rcode = entry.get("rcode", "NOERROR")
        rcode = rcode.get(TYPES.get(kind), "NOERROR") if isinstance(rcode, dict) else rcode
        if rcode != "NOERROR":
            return header(query, flags | RCODES[rcode], 0) + section
        return self.records_reply(query, section, kind, entry)

    def records_reply(self, query: bytes, section: bytes, kind: int, entry: dict) -> bytes:
        """A positive reply, following a CNAME inside the records."""
        ttl, owner, answers = entry.get("ttl", 60), b"\xc0\x0c", [given(one) for one in entry.get("answers", [])]
        while "CNAME" in entry:
            target = wire(entry["CNAME"])
            answers.append(record(owner, 5, entry.get("ttl", 60), target))
            owner, entry = target, self.records.get(entry["CNAME"], {})
            ttl = entry.get("ttl", 60)
        for address in entry.get(TYPES.get(kind, ""), []):
            answers.append(record(owner, kind, ttl, ipaddress.ip_address(address).packed))
        return header(query, 0x8580, len(answers)) + section + b"".join(answers)

    def stop(self) -> None:
        """Ends the server."""
        self.stopped.set()
        for sock in (self.udp, self.tcp):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()


def question(query: bytes) -> tuple:
    """Name, type and where the question ends."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode("latin-1").lower())
        at += 1 + query[at]
    return ".".join(labels), struct.unpack(">H", query[at + 1:at + 3])[0], at + 5


def header(query: bytes, flags: int, answers: int) -> bytes:
    """A reply's header; only the question and the answers are filled."""
    return query[:2] + struct.pack(">HHHHH", flags, 1, answers, 0, 0)


def wire(name: str) -> bytes:
    """A name as labels."""
    return b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0"


def record(owner: bytes, kind: int, ttl: int, data: bytes) -> bytes:
    """One resource record of class IN."""
    return owner + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def given(spec: dict) -> bytes:
    """One record of an entry's `answers`."""
    owner = wire(spec["owner"]) if "owner" in spec else b"\xc0\x0c"
    kind = next(number for number, name in TYPES.items() if name in spec)
    value = spec[TYPES[kind]]
    data = wire(value) if kind == 5 else ipaddress.ip_address(value).packed
    one = record(owner, kind, spec.get("ttl", 60), data)
    at = len(owner) + 2
    return one[:at] + struct.pack(">H", spec.get("class", 1)) + one[at + 2:]


def edns(query: bytes, end: int) -> str:
    """What the query's EDNS record says, if it has one."""
    if len(query) < end + 11 or query[end:end + 3] != b"\0\0\x29":
        return "no edns"
    payload, rest = struct.unpack(">H", query[end + 3:end + 5])[0], query[end + 11:]
    return f"edns {payload}" + (", cookie" if rest[:2] == b"\0\x0a" else "")


LOOPBACK = record(b"\xc0\x0c", 1, 60, b"\x7f\0\0\x02")

# Replies that are wrong, or odd, in one way each.
SHAPES = {
    "another id": lambda query, section: bytes([query[0] ^ 1]) + header(query, 0x8580, 1)[1:] + section + LOOPBACK,
    "another question": lambda query, _: header(query, 0x8580, 1) + wire("other.test") + b"\0\x01\0\x01" + LOOPBACK,
    "no question": lambda query, _: query[:2] + struct.pack(">HHHHH", 0x8580, 0, 0, 0, 0),
    "three bytes": lambda query, _: query[:2] + b"\x85",
    "more announced than there is": lambda query, section: header(query, 0x8580, 2) + section + LOOPBACK,
    "less announced than there is": lambda query, section: header(query, 0x8580, 1) + section + LOOPBACK + LOOPBACK[:-1] + b"\x03",
    "bytes after the end": lambda query, section: header(query, 0x8580, 1) + section + LOOPBACK + b"more",
    "a question, not a reply": lambda query, section: header(query, 0x0100, 1) + section + LOOPBACK,
    "NXDOMAIN with an address": lambda query, section: header(query, 0x8583, 1) + section + LOOPBACK,
    "SERVFAIL with an address": lambda query, section: header(query, 0x8582, 1) + section + LOOPBACK,
    "YXDOMAIN with an address": lambda query, section: header(query, 0x8586, 1) + section + LOOPBACK,
    "an unknown code": lambda query, section: header(query, 0x858F, 1) + section + LOOPBACK,
    "a short address": lambda query, section: header(query, 0x8580, 1) + section + record(b"\xc0\x0c", 1, 60, b"\x7f\0\0"),
}
