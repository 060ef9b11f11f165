#!/usr/bin/env python3
"""Keeps Outrider busy for some minutes with all that comes and goes, and checks that it returns to where it began.

usage: soak.py --outrider BIN [--minutes 10]

Clients come and go in both codecs and cancel requests, the addresses of a host change, and the configuration is loaded again with other
clusters and routes. Afterwards: resident memory is flat over the second half, gauges are zero, and no descriptors are left open. Exits
with 1 otherwise, or if a well-behaved client lost a request.
"""
import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from attacks import Client, frame, play_bytes, GET, OPEN, streams  # noqa: E402
from harness.dns_backend import DnsBackend  # noqa: E402
from load import Backends  # noqa: E402
from proxies import H2, Proxy  # noqa: E402

# What may grow: a fifth, or 8 MB.
GROWTH, GROWTH_KB = 1.2, 8 * 1024
# Gauges that describe the configuration or the process, not work under way.
KEPT = re.compile(r"^(server|runtime|listener_manager|cluster_manager|overload|main_thread|workers)\.|membership|lb_subsets_active|\.version|max_host_weight|"
                  r"circuit_breakers|upstream_cx_active|upstream_cx_http\d_active|rds\.|http\.admin|listener\.admin|clusters_inflated|warming|concurrency|filesystem|ssl\.certificate")


class Target(Proxy):
    """A proxy with a cluster by name, and clusters and routes that change with each version."""

    version = 0
    dns_port = 0

    def config(self, backend, **how):
        made = super().config(backend, **how)
        resources = made["static_resources"]
        endpoint = {"endpoint": {"address": {"socket_address": {"address": "svc.test", "port_value": backend}}}}
        named = {"name": "named", "type": "STRICT_DNS", "dns_refresh_rate": "0.5s", "connect_timeout": "5s", "dns_lookup_family": "V4_ONLY", "typed_extension_protocol_options": H2,
                 "load_assignment": {"cluster_name": "named", "endpoints": [{"lb_endpoints": [endpoint]}]}}
        changing = dict(resources["clusters"][0], name=f"changing-{self.version}")
        resources["clusters"] += [named, changing]
        made["dns_resolution_config"] = {"resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": self.dns_port}}]}
        routes = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
        routes.insert(0, {"match": {"prefix": "/small", "headers": [{"name": "x-to", "exact_match": "named"}]}, "route": {"cluster": "named"}})
        routes.insert(0, {"match": {"prefix": "/small", "headers": [{"name": "x-to", "exact_match": "changing"}]}, "route": {"cluster": f"changing-{self.version}"}})
        self.path, self.backend, self.how = None, backend, how
        return made

    def reload(self, folder):
        """Loads the next version."""
        self.version += 1
        path = f"{folder}/{self.name}.json"
        with open(path + ".next", "w") as f:
            json.dump(self.config(self.backend, **self.how), f)
        os.rename(path + ".next", path)
        self.admin_post("/reload")

    def admin_post(self, path):
        """A request that changes something."""
        return urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", method="POST"), timeout=60).read().decode()

    def stats(self):
        """Gauges that are not zero."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/stats?type=Gauges", timeout=30).read().decode()
        pairs = (line.rsplit(": ", 1) for line in text.splitlines() if ": " in line)
        return {name: value for name, value in pairs if value != "0" and not KEPT.search(name)}

    def descriptors(self):
        """How many descriptors are open."""
        return len(os.listdir(f"/proc/{self.process.child.pid}/fd"))


def forever(stopped, work, pause):
    """Repeats `work` until the end."""
    def run():
        while not stopped.wait(pause):
            work()
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def load(port, *argv):
    """Clients that come and go. Answers of a cluster that has just changed may be errors."""
    subprocess.run(["h2load", *argv, f"http://127.0.0.1:{port}/small"], capture_output=True, timeout=120, check=False)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outrider", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    given = parser.parse_args()
    dns = DnsBackend("dns", {"records": {"svc.test": {"A": ["127.0.0.1"], "ttl": 0}}}, None)
    dns.start()
    cancels = OPEN + streams(lambda s: frame(1, 5, s, GET), 50) + streams(lambda s: frame(3, 0, s, b"\0\0\0\x08"), 50)
    samples, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        backends = Backends(folder, None, every_address=True)
        Target.dns_port = dns.port
        proxy = Target("outrider", given.outrider, folder, backends.h2_port, None, h2=True)
        load(proxy.port, "-n", "200", "-c", "10")
        time.sleep(2)
        opened = proxy.descriptors()
        client, stopped = Client(proxy.port), threading.Event()
        jobs = [
            forever(stopped, lambda: load(proxy.port, "-n", "500", "-c", "50", "-m", "10"), 0.1),
            forever(stopped, lambda: load(proxy.port, "--h1", "-n", "200", "-c", "50"), 0.1),
            forever(stopped, lambda: load(proxy.port, "-n", "200", "-c", "5", "-H", "x-to: named"), 0.1),
            forever(stopped, lambda: load(proxy.port, "-n", "200", "-c", "5", "-H", "x-to: changing"), 0.1),
            forever(stopped, lambda: play_bytes(proxy.port, cancels), 0.1),
            forever(stopped, lambda: dns.records["svc.test"].update(A=[f"127.0.0.{random.randint(1, 9)}" for _ in range(random.randint(1, 3))]), 0.7),
            forever(stopped, lambda: proxy.reload(folder), 2),
        ]
        end = time.monotonic() + given.minutes * 60
        while time.monotonic() < end and proxy.process.child.poll() is None:
            time.sleep(1)
            samples.append(proxy.process.rss_kb())
        stopped.set()
        for job in jobs:
            job.join()
        p99, lost = client.stop()
        time.sleep(5)
        half, last = samples[len(samples) // 2], samples[-1]
        gauges, left = proxy.stats(), proxy.descriptors()
        print(f"{proxy.version} reloads; p99 {p99:.1f} ms, {lost} requests lost; memory {samples[0]} KB, at half time {half} KB, at the end {last} KB; descriptors {opened}, at the end {left}")
        checks = {"lost requests": lost == 0, "memory": last <= max(half * GROWTH, half + GROWTH_KB), f"gauges {gauges}": not gauges, "descriptors": left <= opened + 30}
        failed = [what for what, good in checks.items() if not good]
        proxy.stop()
        backends.stop()
    if failed:
        print("not as before:", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
