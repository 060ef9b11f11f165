"""The proxies under measurement: how each is configured and started, one worker each."""

import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request


def free_port():
    """A free port, chosen by the kernel."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_port(port, process, seconds=20):
    """Waits until something accepts on `port`; fails when `process` ends first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.002)
    raise RuntimeError(f"{process.args[0]}: port {port} did not open")


class Process:
    """A child process whose CPU time and memory are read from /proc."""

    def __init__(self, argv, log, cpu=None):
        self.log = open(log, "wb")
        if cpu is not None:
            argv = ["taskset", "-c", str(cpu), *argv]
        self.child = subprocess.Popen(argv, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def pids(self):
        """The process and its children (nghttpx and nginx fork)."""
        found, todo = [], [self.child.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    todo += map(int, open(f"/proc/{pid}/task/{task}/children").read().split())
            except OSError:
                pass
        return found

    def cpu_ns(self):
        """CPU time so far, user and kernel, of all threads, in ns."""
        total = 0
        for pid in self.pids():
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    total += int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0])
            except OSError:
                pass
        return total

    def rss_kb(self):
        """Resident memory in KB."""
        total = 0
        for pid in self.pids():
            try:
                for line in open(f"/proc/{pid}/status"):
                    if line.startswith("VmRSS:"):
                        total += int(line.split()[1])
            except OSError:
                pass
        return total

    def stop(self):
        """Ends the process and waits for it."""
        for pid in reversed(self.pids()):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        self.child.wait()
        self.log.close()


ROUTER = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
H2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def envoy_config(listen, admin, backend, *, h2, clusters=0, access_log=None, grpc_stats=False, beside=None):
    """The bootstrap that Envoy and Outrider both get. `beside` is the port of a second listener; only that one has an access log and stats."""
    def cluster(name):
        made = {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
                    "socket_address": {"address": "127.0.0.1", "port_value": backend}}}}]}],
            },
        }
        if h2:
            made["typed_extension_protocol_options"] = H2
        return made

    plain = {
        "@type": HCM,
        "stat_prefix": "ingress",
        "codec_type": "AUTO",
        "route_config": {"name": "r", "virtual_hosts": [{
            "name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "0s"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": ROUTER}],
    }
    hcm = copy.deepcopy(plain)
    if grpc_stats:
        hcm["http_filters"].insert(0, {"name": "grpc_stats", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
            "stats_for_all_methods": True, "enable_upstream_stats": True}})
    if access_log:
        hcm["access_log"] = [{"name": "file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": access_log,
            "log_format": {"json_format": {
                "start": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
                "protocol": "%PROTOCOL%", "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "received": "%BYTES_RECEIVED%",
                "sent": "%BYTES_SENT%", "duration": "%DURATION%", "upstream": "%UPSTREAM_HOST%",
                "request_id": "%REQ(X-REQUEST-ID)%", "authority": "%REQ(:AUTHORITY)%", "grpc": "%GRPC_STATUS%"}},
        }}]
    def listener(name, port, manager):
        return {"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}]}

    listeners = [listener("in", listen, hcm)]
    if beside:
        listeners = [listener("in", listen, plain), listener("beside", beside, hcm | {"stat_prefix": "beside"})]
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {
            "listeners": listeners,
            "clusters": [cluster("backend")] + [cluster(f"c{i}") for i in range(clusters)],
        },
    }


HAPROXY = """
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  http-reuse always
frontend f
  bind 127.0.0.1:{listen} {front}
  option forwardfor
  unique-id-format %[uuid]
  unique-id-header x-request-id
  default_backend b
backend b
  server s 127.0.0.1:{backend} {back}
"""


class Proxy:
    """A running proxy: `port` takes the traffic; `ready_ms` is the time from start to the first accept (or `/ready`)."""

    workers = 1

    def __init__(self, name, binary, folder, backend, cpu, **how):
        self.name, self.port = name, free_port()
        self.admin = free_port()
        start = getattr(self, "start_" + name)
        self.process = start(binary, folder, backend, cpu, **how)

    def config(self, backend, **how):
        """The bootstrap of Envoy and Outrider, as a tree."""
        return envoy_config(self.port, self.admin, backend, **how)

    def start_envoy(self, binary, folder, backend, cpu, **how):
        config = f"{folder}/{self.name}.json"
        with open(config, "w") as f:
            json.dump(self.config(backend, **how), f)
        begin = time.monotonic()
        process = Process([binary, "-c", config, "--concurrency", str(self.workers), "-l", "error", "--base-id", str(os.getpid() % 10000 + len(self.name))],
                          f"{folder}/{self.name}.log", cpu)
        while True:
            if process.child.poll() is not None:
                raise RuntimeError(open(f"{folder}/{self.name}.log").read()[-2000:])
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/ready", timeout=5) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.0005)
        self.ready_ms = (time.monotonic() - begin) * 1000
        return process

    start_outrider = start_before = start_envoy

    def start_haproxy(self, binary, folder, backend, cpu, h2=True, clusters=0, access_log=None, grpc_stats=False):
        config = f"{folder}/haproxy.cfg"
        with open(config, "w") as f:
            f.write(HAPROXY.format(listen=self.port, backend=backend, front="proto h2" if h2 else "", back="proto h2" if h2 else ""))
        begin = time.monotonic()
        process = Process([binary, "-db", "-f", config], f"{folder}/haproxy.log", cpu)
        wait_for_port(self.port, process.child)
        self.ready_ms = (time.monotonic() - begin) * 1000
        return process

    def start_nghttpx(self, binary, folder, backend, cpu, h2=True, clusters=0, access_log=None, grpc_stats=False):
        begin = time.monotonic()
        process = Process([binary, "--conf=/dev/null", f"-f127.0.0.1,{self.port};no-tls", f"-b127.0.0.1,{backend};;" + ("proto=h2" if h2 else "proto=http/1.1"),
                           "--workers=1", "--accesslog-file=/dev/null", "--errorlog-file=/dev/null", "--no-ocsp"], f"{folder}/nghttpx.log", cpu)
        wait_for_port(self.port, process.child)
        self.ready_ms = (time.monotonic() - begin) * 1000
        return process

    def start_polling(self, source, folder, backend, cpu, **_how):
        return self.start_relay(source, folder, backend, cpu, "poll")

    def start_relay(self, source, folder, backend, cpu, *poll, **_how):
        relay = f"{folder}/relay"
        subprocess.run(["cc", "-O2", "-o", relay, source], check=True)
        begin = time.monotonic()
        process = Process([relay, str(self.port), str(backend), *poll], f"{folder}/relay.log", cpu)
        wait_for_port(self.port, process.child)
        self.ready_ms = (time.monotonic() - begin) * 1000
        return process

    def stop(self):
        self.process.stop()


RELAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "relay.c")


def binaries(outrider, envoy, before=None):
    """The proxies that this machine has; `before` is another build of Outrider. `relay` and `polling` only copy bytes: see relay.c."""
    found = {"outrider": outrider, "before": before, "envoy": envoy, "haproxy": shutil.which("haproxy") or "/usr/sbin/haproxy", "nghttpx": shutil.which("nghttpx"), "relay": RELAY, "polling": RELAY}
    return {name: path for name, path in found.items() if path and os.path.exists(path)}
