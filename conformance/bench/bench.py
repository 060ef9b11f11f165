#!/usr/bin/env python3
"""Outrider side by side with Envoy, HAProxy and nghttpx: the same work, one worker each, alternating rounds, medians.

usage: bench.py --outrider target/pgo/outrider [--before OTHER_BUILD] [--envoy PATH] [--jobs grpc-4x32,…] [--rounds 3] [--scale 1.0] [--json FILE]

`--proxies …,relay` adds what the kernel alone takes: a relay that copies bytes (relay.c, needs `cc`); `polling` is one that never
sleeps.

CPU time is what the kernel charged to the proxy (/proc/PID/task/*/schedstat), so it does not depend on who else runs; where
the machine has hardware counters, `perf stat` adds cycles and instructions. Any error answer fails the run.
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import messages  # noqa: E402
from load import Backends, h2load  # noqa: E402
from proxies import Process, Proxy, binaries, free_port, wait_for_port  # noqa: E402

GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "user-agent: grpc-go/1.60"]

# name: (h2load arguments with {n}, requests, path, HTTP/2?, how the proxy is configured)
JOBS = {
    "grpc-4x32": (["-c4", "-m32", "-n{n}", "-d", "{dir}/small", *GRPC], 60000, "/small", True, {}),
    "grpc-100x1": (["-c100", "-m1", "-n{n}", "-d", "{dir}/small", *GRPC], 40000, "/small", True, {}),
    "grpc-1x1": (["-c1", "-m1", "-n{n}", "-d", "{dir}/small", *GRPC], 8000, "/small", True, {}),
    "grpc-rate": (["-c4", "-m32", "-n{n}", "--rps=500", "-d", "{dir}/small", *GRPC], 8000, "/small", True, {}),
    "grpc-json-log": (["-c4", "-m32", "-n{n}", "-d", "{dir}/small", *GRPC], 60000, "/small", True, {"access_log": "{dir}/access.log"}),
    "grpc-stats": (["-c4", "-m32", "-n{n}", "-d", "{dir}/small", *GRPC], 60000, "/small.Service/Method", True, {"grpc_stats": True}),
    "grpc-no-stats": (["-c4", "-m32", "-n{n}", "-d", "{dir}/small", *GRPC], 60000, "/small.Service/Method", True, {}),
    "download-8m": (["-c2", "-m2", "-n{n}", "-w24", "-W26"], 120, "/8m", True, {}),
    "upload-4m": (["-c2", "-m2", "-n{n}", "-d", "{dir}/4m"], 120, "/small", True, {}),
    "http1-32": (["--h1", "-c32", "-n{n}"], 40000, "/", False, {}),
}


def counters(pids, seconds_of_work):
    """Runs `seconds_of_work` under `perf stat -p`. Returns the counters that the machine has (in a VM often none)."""
    perf = shutil.which("perf")
    if not perf or not counters.supported:
        return {}, seconds_of_work()
    events = "cycles:u,cycles:k,instructions:u,instructions:k"
    stat = subprocess.Popen([perf, "stat", "-x,", "-e", events, "-p", ",".join(map(str, pids))], stderr=subprocess.PIPE, text=True)
    result = seconds_of_work()
    stat.send_signal(2)
    found = {}
    for line in stat.communicate()[1].splitlines():
        part = line.split(",")
        if len(part) > 2 and part[0].isdigit():
            found[part[2]] = int(part[0])
    return found, result


def probe_counters():
    """Whether this machine has hardware counters at all."""
    perf = shutil.which("perf")
    if not perf:
        return False
    out = subprocess.run([perf, "stat", "-x,", "-e", "cycles:u", "true"], capture_output=True, text=True, check=False).stderr
    return bool(re.search(r"^\d+,", out, re.M))


def filled(how, folder):
    """The proxy's options, with the folder of the run filled in."""
    return {k: v.format(dir=folder) if isinstance(v, str) else v for k, v in how.items()}


def traffic_round(name, binary, job, backends, folder, scale):
    """Runs one job with one proxy once: starts the proxy, warms it up, measures it."""
    argv, n, path, h2, how = JOBS[job]
    n = max(int(n * scale), 20)
    fill = lambda args, count: [a.format(n=count, dir=folder) for a in args]
    proxy = Proxy(name, binary, folder, backends.h2_port if h2 else backends.h1_port, 0, h2=h2, **filled(how, folder))
    try:
        idle = proxy.process.rss_kb()
        log = f"{folder}/h2load.log"
        h2load(fill([a for a in argv if not a.startswith("--rps")], max(n // 10, 128)), proxy.port, path, 1, log)
        before = proxy.process.cpu_ns()
        counted, seen = counters(proxy.process.pids(), lambda: h2load(fill(argv, n), proxy.port, path, 1, log))
        seen["cpu_us"] = (proxy.process.cpu_ns() - before) / 1000 / seen["requests"]
        for event, count in counted.items():
            seen[event] = count / seen["requests"]
        seen |= {"ready_ms": proxy.ready_ms, "rss_idle_kb": idle, "rss_after_kb": proxy.process.rss_kb()}
        return seen
    finally:
        proxy.stop()


def idle_connections(name, binary, backends, folder, count=2000):
    """Memory of `count` idle HTTP/2 connections that have each carried nothing but the preface."""
    proxy = Proxy(name, binary, folder, backends.h2_port, 0, h2=True)
    held = []
    try:
        before = proxy.process.rss_kb()
        for _ in range(count):
            s = socket.create_connection(("127.0.0.1", proxy.port))
            s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            held.append(s)
        for s in held:
            s.settimeout(10)
            s.recv(4096)
        after = proxy.process.rss_kb()
        return {"idle_connection_kb": (after - before) / count, "rss_idle_kb": before, "rss_after_kb": after, "ready_ms": proxy.ready_ms}
    finally:
        for s in held:
            s.close()
        proxy.stop()


SETTLED = 3  # seconds


def many_clusters(name, binary, backends, folder, count=1000):
    """Start-up time and memory with `count` idle clusters, compared with none, after memory used for loading was returned."""
    proxy = Proxy(name, binary, folder, backends.h2_port, 0, h2=True)
    time.sleep(SETTLED)
    few = proxy.process.rss_kb()
    proxy.stop()
    proxy = Proxy(name, binary, folder, backends.h2_port, 0, h2=True, clusters=count)
    try:
        time.sleep(SETTLED)
        return {"cluster_kb": (proxy.process.rss_kb() - few) / count, "ready_ms": proxy.ready_ms, "rss_idle_kb": few, "rss_after_kb": proxy.process.rss_kb()}
    finally:
        proxy.stop()


def scrapes(name, binary, backends, folder, count=1000, times=20):
    """CPU for one scrape of all stats with `count` idle clusters, by format: medians of `times`."""
    proxy = Proxy(name, binary, folder, backends.h2_port, 0, h2=True, clusters=count)

    def scrape(path):
        begin, size = proxy.process.cpu_ns(), 0
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy.admin}{path}", timeout=30) as answer:
            while piece := answer.read(1 << 20):
                size += len(piece)
        return (proxy.process.cpu_ns() - begin) / 1e6, size / 1e6

    try:
        time.sleep(SETTLED)
        seen = {}
        for key, path in (("prometheus", "/stats/prometheus"), ("text", "/stats"), ("json", "/stats?format=json")):
            runs = [scrape(path) for _ in range(times + 1)][1:]  # the first warms
            seen[f"{key}_cpu_ms"] = statistics.median(cpu for cpu, _ in runs)
            seen[f"{key}_mb"] = runs[-1][1]
        return seen | {"rss_after_kb": proxy.process.rss_kb()}
    finally:
        proxy.stop()


def echo_backend(folder, cpu):
    """A backend that echoes messages: its port and process."""
    port = free_port()
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "messages.py")
    backend = Process([sys.executable, script, "serve", str(port)], f"{folder}/messages.log", cpu)
    wait_for_port(port, backend.child)
    return port, backend


def message_streams(name, binary, backends, folder, count=40000):
    """CPU per echoed 1 KB message on bidirectional streams."""
    port, backend = echo_backend(folder, 1)
    proxy = Proxy(name, binary, folder, port, 0, h2=True)
    try:
        messages.load(proxy.port, count // 10)
        before = proxy.process.cpu_ns()
        rate = messages.load(proxy.port, count)
        return {"rate": rate, "cpu_us": (proxy.process.cpu_ns() - before) / 1000 / count, "ready_ms": proxy.ready_ms, "rss_after_kb": proxy.process.rss_kb()}
    finally:
        proxy.stop()
        backend.stop()


OURS_AND_ENVOY = ("outrider", "before", "envoy")


def cost_of(how, path="/small", pairs=20, count=5000):
    """Measures the cost per request of the option `how`: two listeners of one process, only one with the option, in alternating rounds. Medians."""
    def job(name, binary, backends, folder):
        beside = free_port()
        proxy = Proxy(name, binary, folder, backends.h2_port, 0, h2=True, beside=beside, **filled(how, folder))
        argv = [a.format(n=count, dir=folder) for a in ["-c4", "-m32", "-n{n}", "-d", "{dir}/small", *GRPC]]

        def used(port):
            before = proxy.process.cpu_ns()
            h2load(argv, port, path, 1, f"{folder}/h2load.log")
            return (proxy.process.cpu_ns() - before) / 1000 / count

        try:
            seen = []
            for turn in range(pairs + 1):
                ports = [proxy.port, beside] if turn % 2 else [beside, proxy.port]
                taken = {port: used(port) for port in ports}
                seen.append((taken[proxy.port], taken[beside]))
            seen = seen[1:]  # the first warms
            without, having = (statistics.median(column) for column in zip(*seen))
            return {"without_us": without, "with_us": having, "cost_us": statistics.median(b - a for a, b in seen)}
        finally:
            proxy.stop()
    job.only = OURS_AND_ENVOY
    return job


many_clusters.only = scrapes.only = OURS_AND_ENVOY

SPECIAL = {
    "messages-1k": message_streams,
    "idle-2000": idle_connections,
    "clusters-1000": many_clusters,
    "scrapes-1000": scrapes,
    "cost-json-log": cost_of({"access_log": "{dir}/access.log"}),
    "cost-grpc-stats": cost_of({"grpc_stats": True}, "/small.Service/Method"),
}


def table(results, order):
    """Prints one table per job, with a row per proxy and its ratio to Envoy."""
    for job, rows in results.items():
        print(f"\n{job}")
        envoy = rows.get("envoy", {})
        for name in order:
            row = rows.get(name)
            if not row:
                continue
            cells = [f"{k} {v:,.1f}" for k, v in row.items() if k not in ("requests",)]
            key = "cycles" if "cycles:u" in row else "cpu_us"
            if key == "cpu_us" and "cpu_us" in row and "cpu_us" in envoy:
                cells.append(f"cpu vs envoy {envoy['cpu_us'] / row['cpu_us']:.2f}x")
            elif "cycles:u" in row and "cycles:u" in envoy:
                total = lambda r: r["cycles:u"] + r.get("cycles:k", 0)
                cells.append(f"cycles vs envoy {total(envoy) / total(row):.2f}x")
            print(f"  {name:9} " + "  ".join(cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outrider")
    parser.add_argument("--before", help="another build of Outrider, to compare with")
    parser.add_argument("--envoy")
    parser.add_argument("--jobs", default=",".join([*JOBS, *SPECIAL]))
    parser.add_argument("--proxies", default="outrider,before,envoy,haproxy,nghttpx")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--json")
    args = parser.parse_args()
    counters.supported = probe_counters()
    found = binaries(args.outrider, args.envoy, args.before)
    order = [p for p in args.proxies.split(",") if p in found]
    print(f"proxies: {', '.join(order)}; hardware counters: {'yes' if counters.supported else 'no (CPU time only)'}")
    results = {}
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as folder:
        os.chmod(folder, 0o755)
        backends = Backends(folder, 1)
        try:
            for job in args.jobs.split(","):
                rounds = {name: [] for name in order}
                for _ in range(args.rounds):
                    for name in order:
                        if job in SPECIAL:
                            if name not in getattr(SPECIAL[job], "only", order):
                                continue
                            rounds[name].append(SPECIAL[job](name, found[name], backends, folder))
                        elif not (name == "nghttpx" and job == "http1-32"):
                            rounds[name].append(traffic_round(name, found[name], job, backends, folder, args.scale))
                results[job] = {name: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for name, runs in rounds.items() if runs}
                table({job: results[job]}, order)
        finally:
            backends.stop()
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"time": time.strftime("%Y-%m-%d"), "results": results}, f, indent=1)


if __name__ == "__main__":
    main()
