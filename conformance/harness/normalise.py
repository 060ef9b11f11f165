"""Replaces everything in an observation that is not deterministic, so that it is equal in every run. No other module does this."""
import re
import socket

from . import tls

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# Ids of traces and spans, in the cases that have a collector of them.
TRACE_ID = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{32}|[0-9a-f]{16})(?![0-9a-f])")
MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
RULES = [(re.compile(pattern), by) for pattern, by in [
    (rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (?:{MONTHS}) \d{{4}} \d\d:\d\d:\d\d GMT", "<date>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d+Z?", "<time>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "<time>"),
    (r"(?i)(x-envoy-upstream-service-time: )\d+", r"\1<ms>"),
    (r'(pool_ready"?[:=])\d+', r"\1<ms>"),
    (r"(grpc-timeout: |grpc\.timeout=)\d+[nuSmMH]", r"\1<timeout>"),
    (r"(x-envoy-expected-rq-timeout-ms: )14[5-9]\d\d\b", r"\g<1>15000"),  # a later try, after part of the default has passed
    (r"(x-envoy-expected-rq-timeout-ms: )(?!15000\b)\d+", r"\1<ms>"),
    (r"Stream removed \(Deadline Exceeded\)", "Deadline Exceeded"),  # grpcio's own words, whichever of its timers is first
    (r"(user-agent: grpc-python)[^\n\"]*", r"\1"),
    (r"(user-agent: grpc-\w+)/[\w.+ ()/;-]*", r"\1"),
    (r"(?:[0-9a-f]{40}|outrider-\d+\.\d+\.\d+)/1\.\d+\.\d+/[A-Za-z-]+/[A-Z]+/[A-Za-z0-9-]+", "<version>"),
    (r"\S+(  version: <version>)", r"<program>\1"),
    (r"(Listener-local-init-manager \S+ )\d+", r"\1<hash>"),
    (r'="[0-9a-f]{16}"', '="<hash>"'),  # a cookie that is made for hash_policy, of the addresses of a connection
    (r"\b(127\.\d+\.\d+\.\d+|\[::1\]):\d{4,5}\b", r"\1:<port>"),
]]


def without_ids(value: str) -> str:
    """A text without the ids that are random, to sort by."""
    return TRACE_ID.sub("", UUID.sub("", value))


def local_address() -> str:
    """The machine's own address, which Envoy writes into x-forwarded-for for a loopback client."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]
    except OSError:
        return "127.0.0.1"
    finally:
        probe.close()


class Normaliser:
    """The rules, with the folder and ports of this run. With `traced`, ids of traces and spans are named by their first appearance, and of a
    request id the digit is kept that tells why it is traced."""

    def __init__(self, folder: str, ports: dict, traced: bool = False):
        self.folder = folder
        self.ids: dict | None = {} if traced else None
        self.ports = {re.compile(rf"(?<!\d){number}(?!\d)"): f"<{name}>" for name, number in ports.items() if number}
        local = local_address()
        self.local = re.compile(rf"(?<![\d.]){re.escape(local)}(?![\d.])") if local != "127.0.0.1" else None
        self.host = socket.gethostname()

    def __call__(self, tree):
        """An observation with the rules applied to every text in it."""
        if isinstance(tree, dict):
            return {self(k): self(v) for k, v in tree.items()}
        if isinstance(tree, (list, tuple)):
            return [self(one) for one in tree]
        if isinstance(tree, int) and not isinstance(tree, bool):
            return self(str(tree)) if any(p.fullmatch(str(tree)) for p in self.ports) else tree
        return self.text(tree) if isinstance(tree, str) else tree

    def text(self, value: str) -> str:
        """One text."""
        value = value.replace(self.folder, "<dir>").replace(str(tls.CERTS), "<certs>")
        # Before the ports, whose digits some ids have.
        if self.ids is None:
            value = UUID.sub("<uuid>", value)
        else:
            value = UUID.sub(lambda found: f"<uuid {found[0][14]}>", value)
            value = TRACE_ID.sub(lambda found: f"<id {self.ids.setdefault(found[0], len(self.ids) + 1)}>", value)
        for pattern, by in self.ports.items():
            value = pattern.sub(by, value)
        for pattern, by in RULES:
            value = pattern.sub(by, value)
        if self.local:
            value = self.local.sub("<local-address>", value)
        return value.replace(self.host, "<hostname>") if len(self.host) > 3 else value
