"""Published configs: every file loaded by Envoy and by Outrider, and what both accept served by both, request by request.

The files are not part of this repository (`--shared` says where they are); `conformance/corpus.tsv` has the results.
"""
import collections
import concurrent.futures
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .case import ROOT

DEPRECATED = re.compile(r"sing deprecated option '([\w.]+)'")
# Envoy warns of this one also when the file has Admin.access_log_path, of which it makes an access log with that option.
MADE_BY_ENVOY = "envoy.extensions.access_loggers.file.v3.FileAccessLog.format"
TABLE = ROOT / "corpus.tsv"
UNSHARE = ["unshare", "-m", "-n", "-p", "--fork", "--kill-child"]
NAMED = re.compile(r"^\S+?:\d+:\d+: ([^:\n]+): ([^\n]*not supported[^\n]*)", re.MULTILINE)


def run(args) -> int:
    """Loads every file of the corpus with both; serves what both accept; writes the table. Needs root, `unshare` and `openssl`."""
    from .command import envoy_binary  # noqa: PLC0415 - that module imports this one
    began = time.monotonic()
    shared = Path(args.shared).resolve()
    binaries = {"envoy": envoy_binary(), "outrider": str(Path(args.bin).resolve())}
    with (shared / "verdicts.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if not args.k or any(word in row["file"] for word in args.k)]
    with tempfile.TemporaryDirectory(prefix="corpus-") as made, concurrent.futures.ThreadPoolExecutor(args.j) as pool:
        marks = made_pair(Path(made))
        results = list(pool.map(lambda row: guarded(row, shared, binaries, marks, args), rows))
    for result in results:
        if result["what"] not in ("same", "refused by name") or args.v:
            print(f"--- {result['file']}: {result['what']} {result['requests']}\n{result['detail']}")
    if not args.k:
        write_table(results)
    totals = collections.Counter(result["what"] for result in results)
    print(f"{len(results)} files in {time.monotonic() - began:.0f} s: " + ", ".join(f"{what} {count}" for what, count in totals.most_common())
          + f"; {sum(result['requests'] for result in results)} requests compared")
    return 0 if set(totals) <= {"same", "refused by name"} else 1


def guarded(row: dict, shared: Path, binaries: dict, marks: dict, args) -> dict:
    """One file; a defect of the harness is a result that fails."""
    result = {"file": row["file"], "class": row["class"], "envoy": row["envoy"], "requests": 0, "detail": ""}
    try:
        return {**result, **one(row, shared, binaries, marks, args)}
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        return {**result, "what": "harness", "detail": f"{type(error).__name__}: {error}"}


def one(row: dict, shared: Path, binaries: dict, marks: dict, args) -> dict:
    """The verdicts of both, then the answers of both."""
    verdicts = {who: world(row, shared, binary, marks, "validate") for who, binary in binaries.items()}
    accepted = {who: verdict["exit"] == 0 for who, verdict in verdicts.items()}
    if accepted["envoy"] != (row["envoy"] == "accepted"):
        return {"what": "not as recorded of Envoy", "detail": verdicts["envoy"]["said"][-800:]}
    said = verdicts["outrider"]["said"]
    if accepted["envoy"] and not accepted["outrider"]:
        named = refusals(said)
        return {"what": "refused by name", "detail": "; ".join(named)} if named else {"what": "refused wrongly", "detail": said[-800:]}
    if accepted["outrider"] and not accepted["envoy"]:
        return {"what": "accepted wrongly", "detail": verdicts["envoy"]["said"][-800:]}
    if not accepted["envoy"]:
        return {"what": "same"}
    warned = {who: sorted(set(DEPRECATED.findall(verdict["said"])) - {MADE_BY_ENVOY}) for who, verdict in verdicts.items()}
    if warned["envoy"] != warned["outrider"]:
        return {"what": "differs", "detail": f"deprecated for Envoy: {warned['envoy']}, for Outrider: {warned['outrider']}"}
    return served(row, shared, binaries, marks, args)


def served(row: dict, shared: Path, binaries: dict, marks: dict, args) -> dict:
    """Sends the same requests to both and returns the differences."""
    from .command import difference, pretty  # noqa: PLC0415 - that module imports this one
    truth = world(row, shared, binaries["envoy"], marks, "serve")
    if "start" in truth:
        return {"what": "Envoy does not start", "detail": truth["start"]}
    plan = truth.pop("plan")
    ours = world(row, shared, binaries["outrider"], marks, "serve", plan)
    ours.pop("plan", None)
    if args.v:
        print(pretty(truth))
    if truth != ours:
        return {"what": "differs", "detail": difference(truth, ours, ("envoy", "outrider"))}
    return {"what": "same", "requests": len(truth["answers"])}


def refusals(said: str) -> list:
    """The fields and extensions that a refusal names, without their indices."""
    found = []
    for path, why in NAMED.findall(said):
        extension = re.match(r"(envoy\.[\w.]+|\S+\.v\d\w*\.\w+)", why)
        name = extension[1] if extension else re.sub(r"\[\d+\]", "[]", path)
        found += [name] if name not in found else []
    return found


def world(row: dict, shared: Path, binary: str, marks: dict, mode: str, plan: dict | None = None) -> dict:
    """Runs one binary on one file in an isolated environment."""
    folder = Path(tempfile.mkdtemp(prefix="corpus-"))
    try:
        name, _, ending = row["file"].rpartition(".")
        copy_files(shared / "files" / name, folder / "tree", marks)
        shutil.copy(shared / "configs" / row["file"], folder / f"tree/cwd/cfg.{ending}")
        (folder / "root").mkdir()
        variable = re.search(r"env var (\w+)", row["flags_or_env"])
        flags = ["--service-cluster", "corpus", "--service-node", "corpus"] if "--service-cluster" in row["flags_or_env"] else []
        spec = {"mode": mode, "root": str(folder / "root"), "tree": str(folder / "tree"), "binary": binary, "config": f"/cwd/cfg.{ending}",
                "flags": flags, "env": {variable[1]: "corpus"} if variable else {}, "plan": plan}
        done = subprocess.run([*UNSHARE, sys.executable, "-m", "harness.corpus_world"], input=json.dumps(spec), capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise ValueError(f"the world ended with {done.returncode}: {done.stderr[-1500:]}")
        return json.loads(done.stdout)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_files(source: Path, tree: Path, marks: dict) -> None:
    """Copies the files that a config names, with a generated key pair where it needs one."""
    (tree / "cwd").mkdir(parents=True)
    for place, _, names in os.walk(source):
        inner = Path(place).relative_to(source)
        parts = ["cwd" if part == "__cwd__" else part for part in inner.parts]
        target = tree.joinpath(*parts)
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            if name != ".keep":
                data = (Path(place) / name).read_bytes()
                (target / name).write_bytes(marks.get(data, data))


def made_pair(folder: Path) -> dict:
    """A self-signed pair and a revocation list, by their placeholders in the corpus."""
    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-keyout", "key", "-out", "cert", "-subj", "/CN=corpus.test",
            "-addext", "subjectAltName=DNS:corpus.test,DNS:localhost")
    (folder / "ca.cnf").write_text("[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\ncrlnumber=crlnumber\ndefault_md=sha256\ndefault_crl_days=3650\n")
    (folder / "index.txt").touch()
    (folder / "crlnumber").write_text("01\n")
    openssl("ca", "-config", "ca.cnf", "-gencrl", "-keyfile", "key", "-cert", "cert", "-out", "crl")
    return {f"@{name}@\n".encode(): (folder / name).read_bytes() for name in ("cert", "key", "crl")}


def write_table(results: list) -> None:
    """One line a file, in the order of the corpus."""
    lines = ["file\tclass\tEnvoy 1.40.0\tOutrider\trequests compared\tnot supported, or what differs"]
    for one_result in results:
        detail = one_result["detail"] if one_result["what"] == "refused by name" else one_result["detail"].partition("\n")[0]
        lines.append("\t".join([one_result["file"], one_result["class"], one_result["envoy"], one_result["what"], str(one_result["requests"] or ""), detail]))
    TABLE.write_text("\n".join(lines) + "\n")
