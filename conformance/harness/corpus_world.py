"""An isolated environment for one published config: its addresses, names and files exist and lead to test backends.

Runs as `python -m harness.corpus_world` in new mount, network and process namespaces, reads its task from stdin and prints
its observations. Nothing in the config is changed: a private root has the files that it names, the loopback device has the addresses, a
name server on 127.0.0.1 knows every name, and all ports are free.
"""
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

from . import backends, client, corpus_traffic, http1, http2
from .corpus_net import AnyName, Network, address_of
from .normalise import UUID, Normaliser
from .proxy import NotStarted, Proxy, die_with_parent

BOUND = ["usr", "lib", "lib64", "bin", "sbin"]
ETC = ["hosts", "passwd", "group", "nsswitch.conf", "ssl/certs"]
ADMIN = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}"
QUIET = 0.3
COUNTED = re.compile(r"(cluster|http|listener|tcp|vhost|cluster_manager|listener_manager|runtime|filesystem)\.")
UNCOUNTED = re.compile(r"downstream_cx_destroy_|(listener|http)\.admin\.|_bytes_|response_before_rq_complete|P0\(|No recorded values|^filesystem|update_time|_buffered")
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


def mount(*words: str) -> None:
    """Runs `mount`, which must succeed."""
    subprocess.run(["mount", *words], check=True)


def build_root(root: Path, tree: Path, binary: str) -> None:
    """Mounts the machine's programs read-only, and the config's own files."""
    mount("-t", "tmpfs", "tmpfs", str(root))
    for name in [*BOUND, "etc/ssl", "proc", "dev", "tmp", "run", "var/log", "var/run", "cwd", "outrider"]:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in BOUND:
        mount("--bind", f"/{name}", str(root / name))
        mount("-o", "remount,ro,bind", str(root / name))
    mount("-t", "tmpfs", "tmpfs", str(root / "usr/local"))
    mount("-t", "proc", "proc", str(root / "proc"))
    for name in ("null", "zero", "random", "urandom"):
        (root / "dev" / name).touch()
        mount("--bind", f"/dev/{name}", str(root / "dev" / name))
    (root / "dev/stdout").symlink_to("/proc/self/fd/1")
    (root / "dev/stderr").symlink_to("/proc/self/fd/2")
    for name in ETC:
        if os.path.exists(f"/etc/{name}"):
            subprocess.run(["cp", "-r", f"/etc/{name}", str(root / "etc" / name)], check=True)
    (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    subprocess.run(["cp", "-r", f"{tree}/.", str(root)], check=True)
    (root / "outrider/bin").touch()
    mount("--bind", binary, str(root / "outrider/bin"))


class ChrootProxy(Proxy):
    """The proxy inside the private root."""

    def __init__(self, root: Path, flags: list, env: dict):
        self.folder = root / "cwd"
        self.root = root
        self.address_file = root / "tmp/admin.address"
        inner = ["/outrider/bin", "--admin-address-path", "/tmp/admin.address", "--disable-hot-restart", "--concurrency", "1",
                 "--file-flush-interval-msec", "20", "-l", "warning", *flags]
        self.out = open(self.folder / "stdout", "wb")
        self.err = open(self.folder / "stderr", "wb")
        self.process = subprocess.Popen(["chroot", str(root), "/bin/sh", "-c", 'cd /cwd; exec "$@"', "sh", *inner], stdin=subprocess.DEVNULL,
                                        stdout=self.out, stderr=self.err, env={**ENV, **env}, preexec_fn=die_with_parent)
        self.admin = None
        self.listeners = {}

    def wait_admin(self) -> None:
        """A socket's path is inside the root."""
        super().wait_admin()
        if isinstance(self.admin, str):
            self.admin = inside(self.root, self.admin)


def inside(root: Path, path: str) -> str:
    """The path, outside of the private root, of a path in the config."""
    return str(root / path.lstrip("/") if path.startswith("/") else root / "cwd" / path)


def serve(spec: dict, root: Path) -> dict:
    """Starts the proxy and the backends, and sends the plan's requests. Without a plan, makes one from the proxy's config dump."""
    network = Network()
    names = AnyName("dns", {"port": 53}, None)
    names.start()
    flags = ["-c", spec["config"], *spec["flags"]]
    tree = parsed((root / spec["config"].lstrip("/")).read_bytes())
    if not has_admin(tree):
        flags += ["--config-yaml", ADMIN]
    make_listenable(tree, root, network)
    proxy = ChrootProxy(root, flags, spec["env"])
    try:
        proxy.wait_admin()
        proxy.wait_ready()
    except NotStarted as error:
        return {"start": f"{error}: {proxy.stderr()[-1500:]}"}
    plan = spec.get("plan")
    if plan is None:
        dump = json.loads(proxy.get("/config_dump")[2])
        bootstrap = next(one["bootstrap"] for one in dump["configs"] if one["@type"].endswith("BootstrapConfigDump"))
        plan = corpus_traffic.plan(bootstrap)
    standing = start_backends(plan, root, network)
    normalise = Normaliser(str(root), {})
    observed = [ask(root, proxy, one) for one in plan["requests"]]
    seen = {name: sum(len(b.seen) for b in standing if b.name == name) for name in sorted({b.name for b in standing})}
    counted, logged = settled(lambda: counters(proxy)), settled(lambda: log_lines(root))
    return {"plan": plan, "answers": normalise(observed), "seen": seen, "alive": proxy.process.poll() is None,
            "stats": normalise(counted), "log": normalise(logged)}


def settled(look) -> list:
    """Repeats an observation until it stays the same."""
    last, since = look(), time.monotonic()
    while time.monotonic() - since < QUIET:
        time.sleep(0.05)
        now = look()
        if now != last:
            last, since = now, time.monotonic()
    return last


def counters(proxy: Proxy) -> list:
    """The counters and gauges, without those of bytes, which depend on the peers' framing."""
    lines = proxy.get("/stats")[2].decode().splitlines()
    return sorted(line for line in lines if COUNTED.match(line) and not line.endswith(": 0") and not UNCOUNTED.search(line))


def log_lines(root: Path) -> list:
    """The log on stdout, without numbers: durations and sizes change from run to run."""
    text = re.sub(UUID, "<uuid>", (root / "cwd/stdout").read_text(errors="replace"))
    return [re.sub(r"\d+(\.\d+)?", "<n>", line) for line in text.splitlines()]


class AnyTag(yaml.SafeLoader):
    """YAML with any tags; tagged values are not used here."""


AnyTag.add_multi_constructor("!", lambda _loader, _tag, _node: "tagged")


def parsed(text: bytes) -> dict:
    """The first document, if it is a mapping."""
    tree = next(iter(yaml.load_all(text, AnyTag)), None)
    return tree if isinstance(tree, dict) else {}


def has_admin(tree: dict) -> bool:
    """Whether the config brings an admin server."""
    return isinstance(tree.get("admin"), dict) and "address" in tree["admin"]


def make_listenable(tree: dict, root: Path, network: Network) -> None:
    """Adds the addresses of the config's listeners, and creates the folders of their sockets."""
    static = tree.get("static_resources", tree.get("staticResources")) or {}
    listeners = static.get("listeners") or []
    written = str([one.get("address") for one in (listeners if isinstance(listeners, list) else [listeners]) if isinstance(one, dict)])
    for address in re.findall(r"'address': '([^']+)'", written):
        network.own(address)
    for path in re.findall(r"'path': '([^'@][^']*)'", written):
        Path(inside(root, path)).parent.mkdir(parents=True, exist_ok=True)


def start_backends(plan: dict, root: Path, network: Network) -> list:
    """An echo of either codec behind each endpoint that is not the proxy itself."""
    standing = []
    for end in plan["endpoints"]:
        try:
            if "pipe" in end:
                path = inside(root, end["pipe"])
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                backend = backends.Http(end["cluster"], {"codec": "any", "unix": path}, root)
            else:
                host = address_of(end["host"])
                with network.where(host):
                    backend = backends.Http(end["cluster"], {"codec": "any", "at": [host], "port": end["port"]}, root)
        except OSError:
            continue  # two clusters share an endpoint, or the proxy listens there: a config that talks to itself
        backend.start()
        standing.append(backend)
    return standing


def ask(root: Path, proxy: Proxy, request: dict) -> dict:
    """One request of the plan, on a connection of its own."""
    shown = f"{request['codec']} {request['http']} host {request['authority']}" + "".join(f" {k}: {v}" for k, v in request.get("headers", {}).items())
    try:
        sock = client.connect(where(root, proxy, request["to"]))
        made = client.request_of(request)
        if request["codec"] == "http1":
            answer = client.over_http1(http1.Stream(sock), made)
        else:
            conn = http2.Connection(sock)
            http2.action(conn, "preface")
            answer = client.over_http2(conn, made)
        sock.close()
    except OSError as error:
        answer = f"{type(error).__name__}"
    except ValueError:
        answer = "not HTTP"  # the end of a tunnel that the world's servers do not know
    return {"request": shown, "answer": answer}


def where(root: Path, proxy: Proxy, to: dict):
    """A listener's address as a client connects to it."""
    if "pipe" in to:
        return inside(root, to["pipe"])
    if not to["port"]:
        return proxy.listeners[to["name"]]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(to["host"], to["host"]), to["port"]


def validate(spec: dict, root: Path) -> dict:
    """The exit code of `--mode validate`, and its output."""
    words = ["/outrider/bin", "--mode", "validate", "-l", "warning", "-c", spec["config"], *spec["flags"]]
    done = subprocess.run(["chroot", str(root), "/bin/sh", "-c", 'cd /cwd; exec timeout 20 "$@"', "sh", *words], stdin=subprocess.DEVNULL,
                          capture_output=True, env={**ENV, **spec["env"]})
    return {"exit": done.returncode, "said": (done.stdout + done.stderr).decode("utf-8", "replace")}


def main() -> None:
    """Runs the task in one environment and prints the result."""
    spec = json.load(sys.stdin)
    root = Path(spec["root"])
    build_root(root, Path(spec["tree"]), spec["binary"])
    socket.setdefaulttimeout(10)
    result = (validate if spec["mode"] == "validate" else serve)(spec, root)
    json.dump(result, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # the namespace ends with us: no thread of a backend needs to be waited for


if __name__ == "__main__":
    main()
