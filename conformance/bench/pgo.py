#!/usr/bin/env python3
"""Builds the release binary with profile-guided optimisation, from profiles of the benchmark's jobs.

usage: pgo.py [--out target/pgo/outrider] [--scale 0.5]

Builds with counters, plays the benchmark's jobs through that build, and builds again with what was counted. Needs what
the benchmark needs (h2load, nghttpd, nginx) and `rustup component add llvm-tools`; RUSTFLAGS and the settings of cargo's
release profile are kept.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import messages  # noqa: E402
from bench import JOBS, echo_backend, filled  # noqa: E402
from load import Backends, h2load  # noqa: E402
from proxies import Proxy  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MESSAGES = 20000
ENDS_WITHIN = 60  # seconds


def output(*command):
    """The output of a command."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def build(folder, flag):
    """Builds the release binary in a target directory of its own; naming the target keeps build scripts out of the flags."""
    host = next(line.split()[1] for line in output("rustc", "-vV").splitlines() if line.startswith("host: "))
    flags = f"{os.environ.get('RUSTFLAGS', '')} {flag}".strip()
    command = ["cargo", "build", "--release", "--locked", "--package", "outrider", "--target", host, "--target-dir", folder]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "RUSTFLAGS": flags})
    return os.path.join(folder, host, "release", "outrider")


def profdata():
    """The `llvm-profdata` of rustc's own LLVM: another one may not read its profiles."""
    name = "llvm-profdata"
    for folder, _, files in os.walk(os.path.join(output("rustc", "--print", "sysroot").strip(), "lib", "rustlib")):
        if name in files:
            return os.path.join(folder, name)
    sys.exit(f"{name} is missing: rustup component add llvm-tools")


def ask(proxy, path, method="GET"):
    """One request to the admin port."""
    url = f"http://127.0.0.1:{proxy.admin}{path}"
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
        answer.read()


def leave(proxy):
    """Uses the admin endpoints that operators use, then shuts the proxy down, which writes its counts."""
    for path in ("/stats", "/stats?usedonly", "/stats/prometheus", "/clusters"):
        ask(proxy, path)
    ask(proxy, "/quitquitquit", "POST")
    if proxy.process.child.wait(ENDS_WITHIN) != 0:
        sys.exit(f"the instrumented build ended with {proxy.process.child.returncode}")
    proxy.process.log.close()


def train(binary, scale):
    """The benchmark's jobs, briefly and on any core, one proxy each."""
    with tempfile.TemporaryDirectory(prefix="outrider-pgo-") as folder:
        os.chmod(folder, 0o755)
        backends = Backends(folder, None)
        try:
            for argv, n, path, h2, how in JOBS.values():
                proxy = Proxy("outrider", binary, folder, backends.h2_port if h2 else backends.h1_port, None, h2=h2, **filled(how, folder))
                n = max(int(n * scale), 20)
                h2load([a.format(n=n, dir=folder) for a in argv], proxy.port, path, None, f"{folder}/h2load.log")
                leave(proxy)
            port, echo = echo_backend(folder, None)
            proxy = Proxy("outrider", binary, folder, port, None, h2=True)
            messages.load(proxy.port, int(MESSAGES * scale))
            leave(proxy)
            echo.stop()
        finally:
            backends.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(ROOT, "target", "pgo", "outrider"))
    parser.add_argument("--scale", type=float, default=0.5)
    args = parser.parse_args()
    merge = profdata()
    folder = os.path.join(ROOT, "target", "pgo")
    counts, profile = os.path.join(folder, "counts"), os.path.join(folder, "outrider.profdata")
    binary = build(os.path.join(folder, "counting"), f"-Cprofile-generate={counts}")
    shutil.rmtree(counts, ignore_errors=True)
    train(binary, args.scale)
    subprocess.run([merge, "merge", "-o", profile, counts], check=True)
    shutil.copy2(build(os.path.join(folder, "guided"), f"-Cprofile-use={profile}"), args.out)
    print(args.out)


if __name__ == "__main__":
    main()
