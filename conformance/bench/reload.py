#!/usr/bin/env python3
"""Reloads under load: gRPC and HTTP/1 calls go on while routes, clusters, filter chains and a listener's port change.

usage: reload.py --outrider BIN [--reloads 100] [--rate 300] [--memory 1000] [--large]

Prints how many calls were made and lost, p50 and p99 before and during the reloads, the CPU time that the workers used per second,
which other processes on the machine do not change, and with --memory the resident memory after 10, 100, 500, 1,000, 2,000 … reloads.
--large gives the config 1,000 clusters and 10,000 routes more. Exits with 1 if a call was lost.
"""
import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE.parent.parent / "target" / "conformance-venv" / "bin" / "python"
if Path(sys.executable) != VENV and VENV.exists():
    os.environ["PYTHONPATH"] = str(HERE.parent)
    os.execv(VENV, [str(VENV), *sys.argv])

import grpc  # noqa: E402

sys.path.insert(0, str(HERE.parent))
from harness.backends import Http  # noqa: E402
from harness.grpc_backend import GrpcBackend  # noqa: E402

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def free_ports(count):
    """Ports that the kernel chooses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Config:
    """The bootstrap. Each reload loads another version of it."""

    def __init__(self, folder, http_port, grpc_port, large):
        self.path = Path(folder) / "envoy.json"
        self.http, self.grpc, self.large = http_port, grpc_port, large
        self.admin, self.fixed, *self.moving = free_ports(4)

    def cluster(self, name, port, h2, timeout="1s"):
        """One STATIC cluster."""
        endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
        made = {"name": name, "connect_timeout": timeout, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}
        if h2:
            made["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": OPTIONS, "explicit_http_config": {"http2_protocol_options": {}}}}
        return made

    def listener(self, name, port, routes, idle):
        """One listener."""
        manager = {"@type": HCM, "stat_prefix": name, "stream_idle_timeout": idle,
                   "route_config": {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
                   "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}]}
        return {"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}]}

    def prepare(self, version):
        """Writes version 0, 1, 2 …: each differs from the one before in a cluster's name, another's timeout, and in turn in routes, a filter
        chain and a port."""
        named, chain, port = f"named-{version}", version // 3 % 2, self.moving[version // 2 % 2]
        to = lambda prefix, cluster: {"match": {"prefix": prefix}, "route": {"cluster": cluster, "timeout": "0s"}}
        unused = [to(f"/unused{i}/", f"unused-{i % 1000}") for i in range(10_000 if self.large else 0)]
        routes = [*unused, to("/test", "grpc"), to("/named", named), to("/", ("http", "changing")[version % 2])]
        clusters = [self.cluster("http", self.http, False), self.cluster("grpc", self.grpc, True), self.cluster(named, self.http, False),
                    self.cluster("changing", self.http, False, f"{1 + version % 5}s")]
        clusters += [self.cluster(f"unused-{i}", self.http, False) for i in range(1000 if self.large else 0)]
        made = {"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.admin}}},
                "static_resources": {"clusters": clusters, "listeners": [
                    self.listener("fixed", self.fixed, routes, f"{300 + chain}s"), self.listener("moving", port, routes, "300s")]}}
        self.prepared(version).write_text(json.dumps(made))

    def prepared(self, version):
        """Where a version waits to be moved into place: to write one takes this process longer than a call."""
        return self.path.with_suffix(f".{version}")

    def port(self, listener):
        """The current address of a listener."""
        if listener == "fixed":
            return self.fixed
        listeners = json.loads(get(self.admin, "/listeners?format=json"))["listener_statuses"]
        return next(one["local_address"]["socket_address"]["port_value"] for one in listeners if one["name"] == listener)


def get(port, path, data=None):
    """A request to the admin port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=data, timeout=60) as answer:
        return answer.read().decode()


class Load:
    """Calls at a steady rate, each timed, each failure kept."""

    def __init__(self, config, rate):
        self.config, self.stopped = config, threading.Event()
        self.times, self.failures, self.lock = [], [], threading.Lock()
        kinds = [self.http, self.http, self.calls, self.calls]
        pause = len(kinds) * 2 / rate
        self.threads = [threading.Thread(target=kind, args=(listener, pause)) for listener in ("fixed", "moving") for kind in kinds]
        for thread in self.threads:
            thread.start()

    def call(self, connect, what, pause):
        """One call on a connection, and the pause until the next. To find the listener and connect is not timed."""
        began = time.monotonic()
        try:
            connect()
            began = time.monotonic()
            what()
        except Exception as error:  # noqa: BLE001 - whatever it is, the call is lost
            with self.lock:
                self.failures.append(f"{type(error).__name__}: {error}")
        took = time.monotonic() - began
        self.times.append(took)
        self.stopped.wait(max(0, pause - took))

    def http(self, listener, pause):
        """HTTP/1.1 on a connection that is kept for as long as the proxy keeps it."""
        connection = None

        def connect():
            nonlocal connection
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.config.port(listener), timeout=20)
                connection.connect()

        def one():
            nonlocal connection
            connection.request("GET", "/x")
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{listener}: HTTP {answer.status}")
            if answer.will_close:
                connection.close()
                connection = None
        while not self.stopped.is_set():
            self.call(connect, one, pause)

    def calls(self, listener, pause):
        """Unary gRPC calls; a client of the listener that moves asks where it is when its connection was told to go."""
        channel, at = None, None

        def connect():
            nonlocal channel, at
            while (now := self.config.port(listener)) != at:
                if channel is not None:
                    channel.close()
                channel, at = grpc.insecure_channel(f"127.0.0.1:{now}", options=[("grpc.use_local_subchannel_pool", 1)]), now
                try:
                    grpc.channel_ready_future(channel).result(1)
                except grpc.FutureTimeoutError:
                    at = None  # it has moved on meanwhile

        def one():
            channel.unary_unary("/test.Test/Unary")(b"x" * 100, timeout=20, wait_for_ready=True)
        while not self.stopped.is_set():
            self.call(connect, one, pause)

    def stop(self):
        """Ends all threads."""
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def percentiles(times):
    """p50 and p99 in milliseconds."""
    ordered = sorted(times) or [0]
    at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000
    return f"p50 {at(0.5):.1f} ms, p99 {at(0.99):.1f} ms"


def rss_kb(pid):
    """Resident memory."""
    return int(next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1])


def worker_cpu(pid):
    """The CPU time of all workers so far, in seconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    workers = [task for task in tasks if (task / "comm").read_text().startswith("wrk:")]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in workers) / 1e9


def reload(config, version):
    """One reload, to its end."""
    config.prepared(version).rename(config.path)
    outcome = json.loads(get(config.admin, "/reload", data=b""))
    if outcome["outcome"] != "applied":
        raise RuntimeError(json.dumps(outcome))
    return outcome["duration_ms"]


def main():
    """Runs the calls and reloads described at the top of this module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outrider", required=True)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--memory", type=int, default=0)
    parser.add_argument("--large", action="store_true")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        web, pod = Http("web", {"codec": "http1"}, folder), GrpcBackend("grpc", {}, folder)
        web.start()
        config = Config(folder, web.port, pod.port, words.large)
        for version in range(words.reloads + 1):
            config.prepare(version)
        config.prepared(0).rename(config.path)
        log = open(f"{folder}/log", "w+", encoding="utf-8")
        process = subprocess.Popen([words.outrider, "-c", str(config.path), "--concurrency", "2", "--drain-time-s", "2"], stderr=log)
        try:
            lost = measure(words, config, process.pid)
            log.seek(0)
            errors = [line for line in log if "[error]" in line or "[critical]" in line]
            print("".join(errors[:10]), end="")
        finally:
            process.terminate()
            process.wait()
            web.stop()
            pod.stop()
    sys.exit(1 if lost else 0)


def measure(words, config, pid):
    """The run; how many calls were lost."""
    for _ in range(400):
        try:
            get(config.admin, "/ready")
            break
        except OSError:
            time.sleep(0.05)
    load = Load(config, words.rate)
    time.sleep(2)
    load.times.clear()
    used, began = worker_cpu(pid), time.monotonic()
    time.sleep(5)
    idle_cpu = (worker_cpu(pid) - used) / (time.monotonic() - began)
    before, load.times = load.times, []
    took, version = [], 0
    used, began = worker_cpu(pid), time.monotonic()
    for version in range(1, words.reloads + 1):
        took.append(reload(config, version))
        time.sleep(0.05)
    during, cpu = list(load.times), (worker_cpu(pid) - used) / (time.monotonic() - began)
    time.sleep(4)
    load.stop()
    print(f"{words.reloads} reloads of {sum(took) / len(took):.0f} ms (longest {max(took)} ms), {len(before) + len(load.times)} calls, {len(load.failures)} lost")
    print(f"before: {percentiles(before)}, workers {idle_cpu * 1000:.1f} ms/s; during: {percentiles(during)}, workers {cpu * 1000:.1f} ms/s")
    for failure in sorted(set(load.failures))[:10]:
        print(f"  {load.failures.count(failure)} × {failure}")
    if words.memory:
        for count in range(1, words.memory + 1):
            config.prepare(version + count)
            reload(config, version + count)
            if count in (10, 100, 500, words.memory) or count % 1000 == 0:
                time.sleep(8)
                print(f"after {words.reloads + count} reloads: {rss_kb(pid)} KB resident")
    return len(load.failures)


if __name__ == "__main__":
    main()
