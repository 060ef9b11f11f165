#!/usr/bin/env python3
"""How CPU per request grows: from 1 to 10,000 hosts, 1 to 10,000 routes, 1 to 5,000 connections, 1 and 2 workers.

usage: growth.py --outrider BIN [--envoy BIN] [--svg docs/growth.svg] [--markdown FILE] [--scale 1.0]
"""

import argparse
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench import GRPC  # noqa: E402
from load import Backends, h2load  # noqa: E402
from proxies import Proxy, envoy_config  # noqa: E402

AXES = {"hosts": [1, 10, 100, 1000, 10000], "routes": [1, 10, 100, 1000, 10000], "connections": [1, 10, 100, 1000, 5000], "workers": [1, 2]}


class Grown(Proxy):
    """A proxy whose config has the given number of hosts or routes."""

    def __init__(self, name, binary, folder, backend, *, hosts=1, routes=1, workers=1):
        self.grow = (hosts, routes)
        self.workers = workers
        super().__init__(name, binary, folder, backend, None, h2=True)

    def config(self, backend, **how):
        made = envoy_config(self.port, self.admin, backend, **how)
        hosts, routes = self.grow
        cluster = made["static_resources"]["clusters"][0]
        endpoint = lambda i: {"endpoint": {"address": {"socket_address": {"address": f"127.{1 + i // 65000}.{i // 250 % 250}.{1 + i % 250}", "port_value": backend}}}}
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [endpoint(i) for i in range(hosts)]
        # Ten thousand connections are opened within a second or two; circuit breakers must not limit them.
        cluster["circuit_breakers"] = {"thresholds": [{"max_connections": 100000, "max_requests": 100000, "max_pending_requests": 100000}]}
        host = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]
        action = {"cluster": "backend", "timeout": "0s"}
        host["routes"] = [{"match": {"prefix": f"/unused{i}/"}, "route": action} for i in range(routes - 1)] + [{"match": {"prefix": "/small"}, "route": action}]
        return made


def measure(name, binary, folder, backends, axis, value, scale):
    """CPU µs per request, and the rate, at one point of one axis."""
    proxy = Grown(name, binary, folder, backends.h2_port, **({axis: value} if axis != "connections" else {}))
    try:
        clients = value if axis == "connections" else 8
        n = int(max(40000 * scale, clients * 8, value * 2 if axis == "hosts" else 0))
        # 4 connections a client thread; every connection has at most 16 streams, so that the load itself stays the same.
        argv = [f"-c{clients}", f"-m{max(1, 128 // clients)}", "-d", f"{folder}/small", *GRPC]
        log = f"{folder}/h2load.log"
        h2load([*argv, f"-n{n}"], proxy.port, "/small", 1, log)
        before = proxy.process.cpu_ns()
        seen = h2load([*argv, f"-n{n}"], proxy.port, "/small", 1, log)
        return {"cpu_us": (proxy.process.cpu_ns() - before) / 1000 / seen["requests"], "rate": seen["rate"], "rss_mb": proxy.process.rss_kb() / 1024}
    finally:
        proxy.stop()


COLOURS = {"outrider": "#0a7d55", "envoy": "#b03060"}


def svg(results):
    """Four small charts side by side, logarithmic on both axes except for the number of workers."""
    import math
    width, height, pad = 240, 200, 40
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{(width + pad) * len(AXES) + pad}" height="{height + 2 * pad + 20}" font-family="sans-serif" font-size="11">',
           '<rect width="100%" height="100%" fill="white"/>']
    top = max(p["cpu_us"] for rows in results.values() for points in rows.values() for p in points.values()) * 1.2
    y = lambda us: pad + height - height * math.log10(max(us, 1)) / math.log10(top)
    for column, (axis, values) in enumerate(AXES.items()):
        left = pad + column * (width + pad)
        x = lambda i: left + width * i / max(1, len(values) - 1)
        out.append(f'<text x="{left}" y="{pad - 12}" font-weight="bold">{axis}</text><rect x="{left}" y="{pad}" width="{width}" height="{height}" fill="none" stroke="#999"/>')
        out += [f'<text x="{x(i):.0f}" y="{pad + height + 14}" text-anchor="middle">{v}</text>' for i, v in enumerate(values)]
        out += [f'<text x="{left - 3}" y="{y(us):.0f}" text-anchor="end">{us}</text>' for us in (1, 10, 100, 1000) if us < top]
        for name, points in results.get(axis, {}).items():
            line = " ".join(f"{x(values.index(int(v))):.1f},{y(p['cpu_us']):.1f}" for v, p in points.items())
            out.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
    for i, (name, colour) in enumerate(COLOURS.items()):
        out.append(f'<text x="{pad + 90 * i}" y="{height + 2 * pad + 10}" fill="{colour}">■ {name}</text>')
    out.append(f'<text x="{pad + 200}" y="{height + 2 * pad + 10}">CPU µs per gRPC request (logarithmic)</text></svg>')
    return "\n".join(out)


def markdown(results):
    """One table per axis."""
    lines = []
    for axis, rows in results.items():
        lines += ["", f"| {axis} | " + " | ".join(map(str, AXES[axis])) + " |", "|---|" + "--:|" * len(AXES[axis])]
        lines += [f"| {name}, CPU µs | " + " | ".join(f"{points[v]['cpu_us']:.1f}" if v in points else "–" for v in AXES[axis]) + " |" for name, points in rows.items()]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outrider")
    parser.add_argument("--envoy")
    parser.add_argument("--axes", default=",".join(AXES))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--svg")
    parser.add_argument("--markdown")
    args = parser.parse_args()
    found = {name: path for name, path in (("outrider", args.outrider), ("envoy", args.envoy)) if path}
    results = {}
    with tempfile.TemporaryDirectory(prefix="outrider-growth-") as folder:
        os.chmod(folder, 0o755)
        backends = Backends(folder, 1, every_address=True)
        try:
            for axis in args.axes.split(","):
                for name, binary in found.items():
                    for value in AXES[axis]:
                        point = measure(name, binary, folder, backends, axis, value, args.scale)
                        results.setdefault(axis, {}).setdefault(name, {})[value] = point
                        print(f"{axis} {value:6} {name:9} {point['cpu_us']:8.1f} µs  {point['rate']:9.0f}/s  {point['rss_mb']:6.0f} MB", flush=True)
        finally:
            backends.stop()
    if args.svg:
        with open(args.svg, "w") as f:
            f.write(svg(results))
    print(markdown(results))
    if args.markdown:
        with open(args.markdown, "w") as f:
            f.write(markdown(results) + "\n")


if __name__ == "__main__":
    main()
