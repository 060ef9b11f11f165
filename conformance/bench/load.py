"""Load and backends: h2load against nghttpd (gRPC-like, with trailers) and nginx (HTTP/1.1)."""

import os
import re
import subprocess

from proxies import Process, free_port, wait_for_port

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "hello from the backend\\n"; }} }}
}}
"""


class Backends:
    """One nghttpd for HTTP/2 and one nginx for HTTP/1.1, off the proxy's core."""

    def __init__(self, folder, cpu, every_address=False):
        self.folder = folder
        with open(f"{folder}/small", "wb") as f:
            f.write(b"\0\0\0\0\x05hello")
        os.makedirs(f"{folder}/small.Service", exist_ok=True)
        with open(f"{folder}/small.Service/Method", "wb") as f:
            f.write(b"\0\0\0\0\x05hello")
        with open(f"{folder}/8m", "wb") as f:
            f.write(b"x" * (8 << 20))
        with open(f"{folder}/4m", "wb") as f:
            f.write(b"y" * (4 << 20))
        self.h2_port, self.h1_port = free_port(), free_port()
        self.h2 = Process(["nghttpd", "--no-tls", "-d", folder, "-w", "24", "-W", "24", "-m", "1000", "--trailer", "grpc-status: 0", "-a", "0.0.0.0" if every_address else "127.0.0.1",
                           str(self.h2_port)], f"{folder}/nghttpd.log", cpu)
        with open(f"{folder}/nginx.conf", "w") as f:
            f.write(NGINX.format(folder=folder, port=self.h1_port))
        self.h1 = Process(["nginx", "-p", folder, "-c", f"{folder}/nginx.conf"], f"{folder}/nginx.log", cpu)
        wait_for_port(self.h2_port, self.h2.child)
        wait_for_port(self.h1_port, self.h1.child)

    def stop(self):
        self.h2.stop()
        self.h1.stop()


def h2load(argv, port, path, cpu, log):
    """Runs h2load; returns requests, requests/s and latencies in µs. Any response other than success is an error."""
    pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
    command = [*pinned, "h2load", f"--log-file={log}", *argv, f"http://127.0.0.1:{port}{path}"]
    open(log, "w").close()
    out = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False).stdout
    numbers = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", out)
    if not numbers:
        raise RuntimeError("h2load said:\n" + out)
    total, done, good = int(numbers[1]), int(numbers[2]), int(numbers[3])
    if good != done or good == 0 or (total and good != total and "-D" not in argv):
        raise RuntimeError("error answers:\n" + out)
    rate = re.search(r"finished in [^,]+, ([\d.]+) req/s", out)
    times = sorted(int(line.split("\t")[2]) for line in open(log) if line.strip())
    pick = lambda q: times[min(len(times) - 1, int(q * len(times)))]
    return {"requests": good, "rate": float(rate[1]), "mean_us": sum(times) / len(times), "p50_us": pick(0.5), "p99_us": pick(0.99), "max_us": times[-1]}
