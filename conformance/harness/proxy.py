"""The proxy under test: one process for one case, known by its pid and ended with the case."""
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

START = 10.0
# Every proxy is started with these; a case adds its own `flags`.
FLAGS = ["--disable-hot-restart", "--concurrency", "1", "--file-flush-interval-msec", "20"]
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Runs in the child: makes the kernel end the proxy if the harness is killed."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class NotStarted(Exception):
    """The proxy ended, or did not open its admin port, before any traffic."""


class Proxy:
    """A running proxy and its admin port."""

    def __init__(self, binary: str, folder: Path, flags: list, env: dict):
        self.folder = folder
        self.address_file = folder / "admin.address"
        level = [] if any(f in ("-l", "--log-level") for f in flags) else ["-l", "warning"]
        default = [] if "--concurrency" in flags else FLAGS[1:3]
        words = [binary, "-c", str(folder / "envoy.yaml"), "--admin-address-path", str(self.address_file), FLAGS[0], *default, *FLAGS[3:], *level, *flags]
        self.out = open(folder / "stdout", "wb")
        self.err = open(folder / "stderr", "wb")
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err, cwd=folder,
                                        env={**os.environ, **env}, preexec_fn=die_with_parent)
        self.admin: tuple | str | None = None
        self.listeners: dict = {}

    def wait_admin(self) -> None:
        """Waits for the admin port."""
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise NotStarted(f"ended with exit code {self.process.returncode} before it served")
            if self.address_file.exists() and self.address_file.read_text():
                self.admin = parse_address(self.address_file.read_text())
                return
            time.sleep(0.005)
        raise NotStarted("no admin address after 10 s")

    def wait_ready(self) -> None:
        """Waits for /ready, then asks where the listeners are."""
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise NotStarted(f"ended with exit code {self.process.returncode} before it was ready")
            try:
                if self.get("/ready")[0] == 200:
                    return self.find_listeners()
            except OSError:
                pass
            time.sleep(0.005)
        raise NotStarted("not ready after 10 s")

    def find_listeners(self) -> None:
        """The bound addresses by listener name."""
        status, _, body = self.get("/listeners?format=json")
        if status != 200:
            raise NotStarted(f"/listeners answered {status}")
        for one in json.loads(body).get("listener_statuses", []):
            places = [one["local_address"], *(a for a in one.get("additional_local_addresses", []))]
            for at, place in enumerate(places):
                if "envoy_internal_address" in place:
                    continue
                self.listeners[one["name"] if not at else f"{one['name']}.{at}"] = place_of(place)

    def get(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple:
        """One admin request: status, headers, body."""
        conn = http.client.HTTPConnection("127.0.0.1", 1, timeout=5)
        conn.sock = connect(self.admin)
        try:
            conn.request(method, path, body)
            reply = conn.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            conn.close()

    def stderr(self) -> str:
        """Its log so far."""
        return (self.folder / "stderr").read_text(errors="replace")

    def stop(self) -> int | None:
        """Ends it; returns the exit code when it had ended by itself."""
        code = self.process.poll()
        if code is None:
            self.process.kill()
            self.process.wait()
        self.out.close()
        self.err.close()
        return code


def place_of(address: dict):
    """An admin API address as Python wants it."""
    if "pipe" in address:
        return address["pipe"]["path"]
    one = address["socket_address"]
    return one["address"], one["port_value"]


def parse_address(line: str):
    """`127.0.0.1:1234`, `[::1]:1234` or a path."""
    line = line.strip()
    if line.startswith(("/", "@")):
        return line
    host, _, port = line.rpartition(":")
    return host.strip("[]"), int(port)


def connect(address) -> socket.socket:
    """A connection to a TCP or UNIX address."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        sock.connect(address)
        return sock
    return socket.create_connection(address, timeout=5)
