"""Runs one case against one binary: starts the backends and the proxy, runs the steps, and stops everything."""
import concurrent.futures
import json
import re
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import backends, client, http1, http2, steps, tls
from .case import Case, fill
from .dns_backend import DnsBackend
from .grpc_backend import GrpcBackend
from .interop import InteropBackend
from .service_backend import ServiceBackend
from .grpc_client import grpcio_channel
from .normalise import Normaliser
from .proxy import NotStarted, Proxy
from .telemetry_backend import Collector, OtlpBackend
from .xds_backend import XdsBackend

KINDS = {"http": backends.Http, "script": backends.Script, "closed": backends.Closed, "blackhole": backends.Blackhole, "grpc": GrpcBackend, "interop": InteropBackend, "authz": ServiceBackend, "ratelimit": ServiceBackend, "extproc": ServiceBackend, "dns": DnsBackend, "xds": XdsBackend,
         "otlp": OtlpBackend, "collector": Collector}
# An observation that may lag (stats, logs) is looked at until it is the expected one, for at most this long …
SETTLE = 4.0
# … or, when nothing is expected yet, until it stays the same for this long.
QUIET = 0.25
# A run ends at its first step that is not as expected, for whoever asks only whether there is one.
STOP_EARLY = False


@dataclass
class Outcome:
    """The result of one run: the observations, or why there are none."""

    observed: dict
    notes: str = ""
    seconds: float = 0.0


class Run:
    """The state of a case while it runs."""

    def __init__(self, case: Case, binary: str, expected: dict | None):
        self.case = case
        self.binary = binary
        self.expected = expected
        self.folder = Path(tempfile.mkdtemp(prefix="conf-"))
        self.backends: dict = {}
        self.held: list[socket.socket] = []
        self.proxy: Proxy | None = None
        self.conns: dict = {}
        self.sessions: dict = {}  # of TLS, by the names that steps gave them
        self.channels: dict = {}
        self.looked: dict = {}
        self.background: dict = {}
        self.notes: list[str] = []
        self.wanted = None
        self.differs = False  # an earlier step was not as expected: do not wait for the rest to become right
        self.pool = concurrent.futures.ThreadPoolExecutor(64)
        self.values: dict = {"dir": str(self.folder), "bin": binary, "config": str(self.folder / "envoy.yaml"), "certs": str(tls.CERTS)}
        self.normalise = Normaliser(str(self.folder), {})

    def whole(self) -> dict:
        """Runs everything in order. The result is normalised."""
        for name, spec in self.case.backends.items():
            backend = self.backend(name, fill(spec, self.values))
            self.backends[name] = backend
            self.values[f"{name}.port"] = backend.port
            self.values[f"{name}.path"] = str(self.folder / f"{name}.sock")
        for backend in self.backends.values():
            backend.start()
        self.write_files()
        observed: dict = {}
        if self.case.spec.get("start", True) and not self.start(observed):
            return observed
        traced = any(isinstance(backend, (Collector, OtlpBackend)) for backend in self.backends.values())
        self.normalise = Normaliser(str(self.folder), self.ports(), traced)
        observed["steps"] = self.traffic()
        if not (STOP_EARLY and self.differs):
            self.afterwards(observed)
        return observed

    def backend(self, name: str, spec: dict):
        """A backend with a port that no other backend has on any address, so that observations can distinguish them. The port is bound on
        127.0.0.1 too, so that the proxy does not get it for a listener."""
        others = {one.port for one in self.backends.values()}
        while True:
            made = KINDS[spec["kind"]](name, spec, self.folder)
            if not made.port or made.port not in others:
                break
            made.stop()
        held = socket.socket()
        try:
            held.bind(("127.0.0.1", made.port or 0))
        except OSError:
            held.close()  # the backend itself is there
        else:
            self.held.append(held)
        return made

    def write_files(self) -> None:
        """Writes the config and the case's files."""
        config = self.case.config()
        if config is not None:
            # JSON is YAML in which nobody takes a text `y` for a boolean; a case about YAML itself brings a text.
            written = fill(config, self.values)
            (self.folder / "envoy.yaml").write_text(written if isinstance(written, str) else json.dumps(written, indent=1))
        for name, content in self.case.spec.get("files", {}).items():
            content = fill(content, self.values)
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        steps.certs(self, self.case.spec)
        for name, target in self.case.spec.get("links", {}).items():
            (self.folder / name).symlink_to(target)

    def start(self, observed: dict) -> bool:
        """Starts the proxy. A failure to start is an observation, too."""
        flags = [str(f) for f in fill(self.case.spec.get("flags", []), self.values)]
        self.proxy = Proxy(self.binary, self.folder, flags, self.case.spec.get("env", {}))
        try:
            self.proxy.wait_admin()
            if self.case.spec.get("start", True) != "admin":
                self.proxy.wait_ready()
        except NotStarted as error:
            observed["start"] = str(error)
            return False
        return True

    def ports(self) -> dict:
        """All ports of this run by their placeholder."""
        ports = {f"{name}.port": backend.port for name, backend in self.backends.items()}
        if self.proxy is not None:
            listeners = {f"{n}.port": a[1] for n, a in self.proxy.listeners.items() if isinstance(a, tuple)}
            ports.update(listeners)
            self.values.update(listeners)
            if isinstance(self.proxy.admin, tuple):
                ports["admin.port"] = self.proxy.admin[1]
                self.values["admin.port"] = self.proxy.admin[1]
        return ports

    def traffic(self) -> list:
        """Runs the steps. A step that fails records its error and ends the case."""
        seen = []
        recorded = (self.expected or {}).get("steps", [])
        for step in fill(self.case.spec.get("traffic", []), self.values):
            at = len(seen)
            self.wanted = recorded[at].get("saw") if at < len(recorded) else None
            try:
                result = steps.perform(self, step)
            except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, concurrent.futures.TimeoutError) as error:
                seen.append({"step": label(step), "saw": self.normalise(f"failed: {type(error).__name__}: {error}")})
                break
            if result is not None:
                seen.append({"step": self.normalise(label(step)), "saw": self.normalise(result)})
                self.differs = self.differs or self.expected is not None and seen[-1]["saw"] != self.wanted
            if STOP_EARLY and self.differs:
                break
        return seen

    def afterwards(self, observed: dict) -> None:
        """The observations at the end of every case: stats, the access log, whether the proxy is alive."""
        if self.proxy is None:
            return
        expected = self.expected or {}
        for conn in self.conns.values():
            conn.sock.close()
        for channel in self.channels.values():
            channel.close()
        ended = self.proxy.process.poll()
        if "stats" in self.case.spec and ended is None:
            self.wanted = expected.get("stats")
            observed["stats"] = self.normalise(self.settle(lambda: self.stats(self.case.spec["stats"], False)))
        if (self.folder / "access.log").exists() and self.case.spec.get("log", True):
            self.wanted = expected.get("log")
            observed["log"] = self.normalise(self.settle(lambda: self.lines("access.log")))
        exits = any(isinstance(s, dict) and ("exit" in s or "signal" in s) or s == "exit" for s in self.case.spec.get("traffic", []))
        if ended is not None and not exits:
            observed["crashed"] = f"exit code {ended}"
        if "panicked" in self.proxy.stderr():
            observed["crashed"] = "panicked"

    # -- what steps use --------------------------------------------------------------------------------------------
    def settle(self, look):
        """Repeats the observation until it is the expected one or stays the same."""
        wanted, deadline = None if self.differs else self.wanted, time.monotonic() + SETTLE
        last, since = look(), time.monotonic()
        while time.monotonic() < deadline:
            if wanted is not None and self.normalise(last) == wanted:
                return last
            if wanted is None and time.monotonic() - since > QUIET:
                return last
            time.sleep(0.02)
            now = look()
            if now != last:
                last, since = now, time.monotonic()
        return last

    def address(self, name: str):
        """The address of a listener or of the admin port."""
        if name == "admin":
            return self.proxy.admin
        place = self.proxy.listeners[name]
        return (place[0].replace("0.0.0.0", "127.0.0.1"), place[1]) if isinstance(place, tuple) else place

    def connection(self, step: dict, codec: str):
        """A new connection, or the one that steps share by `via: name`."""
        name = step.get("via")
        if name in self.conns:
            return self.conns[name]
        sock = client.connect(self.address(step.get("to", "ingress")), step.get("from"))
        patience = step.get("patience", http1.PATIENCE)
        if "tls" in step:
            sock = tls.client(sock, {"alpn": ["h2" if codec == "http2" else "http/1.1"], **(step["tls"] or {})})
        if codec == "http1":
            made = http1.Stream(sock, patience)
        else:
            made = http2.Connection(sock, patience)
            if codec == "http2":
                http2.action(made, "preface")
        if name is not None:
            self.conns[name] = made
        return made

    def channel(self, name: str, address):
        """A grpcio channel that steps share."""
        if name not in self.channels:
            self.channels[name] = grpcio_channel(address)
        return self.channels[name]

    def stats(self, patterns, zeros: bool) -> list:
        """Matching lines of /stats, sorted; zeros and histograms only when asked for."""
        patterns = [patterns] if isinstance(patterns, str) else patterns
        lines = self.proxy.get("/stats")[2].decode().splitlines()
        wanted = [line for line in lines if any(re.search(p, line.rpartition(": ")[0] or line) for p in patterns)]
        # Bytes depend on how the peers frame, the admin listener's numbers on how often we look, the last on who is faster.
        taste = ("listener.admin.", "http.admin.", "_bytes_", "downstream_rq_response_before_rq_complete")
        wanted = [line for line in wanted if not any(t in line and t.strip("_.") not in str(patterns) for t in taste)]
        wanted = [line for line in wanted if "histogram" in str(patterns) or not re.search(r": (P0\(|No recorded values)", line)]
        return sorted(line for line in wanted if zeros or not line.endswith(": 0"))

    def stat_values(self) -> dict:
        """All counters and gauges."""
        pairs = (line.rpartition(": ") for line in self.proxy.get("/stats")[2].decode().splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdigit()}

    def lines(self, name: str) -> list:
        """The complete lines of a file of the case."""
        file = self.folder / name
        if not file.exists():
            return []
        found = file.read_bytes().decode("latin-1").split("\n")
        lines = found[:-1] + ([found[-1]] if found[-1] else [])
        return sorted(lines) if "log" in self.case.spec.get("unordered", []) else lines

    def facts(self, conditions: dict) -> str:
        """The current values of the conditions that a `wait` waited for."""
        values = self.stat_values() if "stat" in conditions and self.proxy.process.poll() is None else {}
        return str({name: values.get(name) for name in conditions.get("stat", {})})

    def stop(self) -> str:
        """Stops everything. Returns the proxy's log."""
        said = "\n".join(self.notes)
        if self.proxy is not None:
            self.proxy.stop()
            said += self.proxy.stderr()[-3000:]
        for conn in self.conns.values():
            conn.sock.close()
        for channel in self.channels.values():
            channel.close()
        for backend in self.backends.values():
            backend.stop()
        for held in self.held:
            held.close()
        self.pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        return said


def label(step) -> str:
    """A step's name in the recording: its `what`, or its key and its value if that is short."""
    if isinstance(step, str):
        return step
    if "what" in step:
        return step["what"]
    word = next(key for key in step if key in steps.WORDS)
    return f"{word} {step[word]}" if isinstance(step[word], (str, int)) else word


def run_case(case: Case, binary: str, expected: dict | None) -> Outcome:
    """Runs a case once. Never raises for the proxy's behaviour."""
    began = time.monotonic()
    run = Run(case, binary, expected)
    try:
        observed = run.whole()
    finally:
        said = run.stop()
    return Outcome(observed, said, time.monotonic() - began)
