"""The commands: each selects cases, runs them in several processes and prints the result."""
import argparse
import collections
import concurrent.futures
import difflib
import json
import multiprocessing
import sys
import time
import traceback
from pathlib import Path

import yaml

from . import corpus, coverage, document, effect
from .case import Case, ROOT, load, select
from .execute import Outcome, run_case

TARGET = ROOT.parent / "target"
OPEN = ROOT / "open.txt"


def envoy_binary() -> str:
    """The binary inside the pinned package."""
    import envoy  # noqa: PLC0415 - only there when it could be installed
    found = [p / "_bin" / "envoy" for p in map(Path, envoy.__path__) if (p / "_bin" / "envoy").exists()]
    return str(found[0])


def attempt(case: Case, binary: str, expected: dict | None) -> Outcome:
    """One run in a worker process. An exception in the harness itself is reported as such."""
    try:
        return run_case(case, binary, expected)
    except Exception:  # noqa: BLE001 - the report must name the case, whatever went wrong
        return Outcome({"harness": traceback.format_exc()})


def pool(jobs: int) -> concurrent.futures.ProcessPoolExecutor:
    """Worker processes: spawned, since gRPC's C core must not be forked."""
    return concurrent.futures.ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))


def pretty(observed) -> str:
    """An observation as text, for files and for diffs."""
    return json.dumps(observed, indent=1, ensure_ascii=False)


def difference(left, right, names: tuple) -> str:
    """Both as a unified diff."""
    lines = difflib.unified_diff(pretty(left).splitlines(), pretty(right).splitlines(), *names, lineterm="", n=4)
    return "\n".join(lines)


def record(args) -> int:
    """Runs each case three times against Envoy. Only observations that repeat are written."""
    cases = select(args.k)
    binary = args.bin or envoy_binary()
    who = ".outrider.json" if args.bin else ".expected.json"
    if args.bin:
        cases = [case for case in cases if "differs" in case.spec]
    unstable = 0
    with pool(args.j) as workers:
        results = dict(zip((c.name for c in cases), workers.map(record_one, cases, [binary] * len(cases)), strict=True))
    by_file: dict = collections.defaultdict(dict)
    for case in cases:
        observed, problem = results[case.name]
        if problem:
            unstable += 1
            print(f"UNSTABLE {case.name}\n{problem}")
        else:
            by_file[case.path][case.variant] = observed
    for path, variants in by_file.items():
        file = path.with_suffix(who)
        old = json.loads(file.read_text()) if file.exists() else {}
        kept = {case.variant for case in load(path)}
        new = {name: one for name, one in {**old, **variants}.items() if name in kept}
        if new != old:
            file.write_text(pretty(new) + "\n")
            print(f"recorded {path.relative_to(ROOT)}")
    print(f"{len(cases) - unstable} recorded, {unstable} unstable")
    return 1 if unstable else 0


def record_one(case: Case, binary: str) -> tuple:
    """The observation, and the difference if a later run gave another."""
    first = attempt(case, binary, None)
    problem = first.observed.get("harness", "")
    refused = "differs" in case.spec and "not supported" in first.notes
    if not problem and not first.observed.get("steps") and case.spec.get("traffic") and not refused:
        problem = f"nothing observed: {first.observed}\n{first.notes[:1500]}"
    # Where Outrider differs on purpose, what a case waits for may never come in Envoy.
    bad = "failed: " if "differs" in case.spec else ("failed: ", "did not come")
    failed = [s for s in first.observed.get("steps", []) if str(s["saw"]).startswith(bad)]
    problem = problem or "".join(f"{s}\n{first.notes[:1500]}" for s in failed)
    for _ in range(2):
        if problem:
            break
        again = attempt(case, binary, first.observed)
        problem = difference(first.observed, again.observed, ("first run", "again")) if again.observed != first.observed else ""
    return first.observed, problem


def check(args) -> int:
    """Runs the cases and compares; the last line is the verdict."""
    cases = select(args.k)
    who = "envoy" if args.envoy else "outrider"
    binary = envoy_binary() if args.envoy else args.bin
    began = time.monotonic()
    rows = []
    with pool(args.j) as workers:
        running = {workers.submit(attempt, case, binary, case.expected(who)): case for case in cases}
        for done in concurrent.futures.as_completed(running):
            rows.append(compared(running[done], done.result(), who, args))
    if args.envoy:
        rows = [row if row["passed"] else once_more(row["case"], cases, binary, args) for row in rows]
    rows.sort(key=lambda row: row["case"])
    summary(rows, time.monotonic() - began)
    TARGET.mkdir(exist_ok=True)
    Path(args.json or TARGET / f"conformance-{who}.json").write_text(json.dumps(rows, indent=1))
    waiting = {} if args.envoy else still_open(rows)
    failed = sum(not row["passed"] and row["case"] not in waiting for row in rows)
    uncovered = [] if args.k else coverage.gaps()[0]
    for line in uncovered:
        print(f"--- FAILED coverage: {line}")
    print(f"{sum(row['passed'] for row in rows)} passed, {failed} failed" + (f", {len(uncovered)} gaps in coverage" if uncovered else ""))
    return 1 if failed or uncovered else 0


def once_more(name: str, cases: list, binary: str, args) -> dict:
    """A case that Envoy failed, run again with nothing beside it: on a busy machine Envoy may be late once.

    A recording that it fails to reproduce twice is wrong.
    """
    print(f"=== once more, alone: {name}")
    case = next(case for case in cases if case.name == name)
    return compared(case, attempt(case, binary, case.expected("envoy")), "envoy", args)


def known_open() -> dict:
    """The cases in which Outrider is known to differ from Envoy for now, each with the difference."""
    return dict(line.split(maxsplit=1) for line in OPEN.read_text().splitlines() if line and not line.startswith("#"))


def still_open(rows: list) -> dict:
    """Prints the known-open cases that failed, and returns them."""
    known = known_open()
    for row in rows:
        if row["passed"] and row["case"] in known:
            print(f"!!! {row['case']} passes: take it out of {OPEN.name}")
    waiting = {row["case"]: known[row["case"]] for row in rows if not row["passed"] and row["case"] in known}
    if waiting:
        print(f"open, not yet as Envoy: {len(waiting)} of {len(rows)} ({OPEN.name})")
    return waiting


def compared(case: Case, outcome: Outcome, who: str, args) -> dict:
    """Compares one outcome; a failure is printed at once."""
    expected = case.expected(who)
    passed = expected is not None and outcome.observed == expected
    unlike = verdicts(case) if passed and who == "outrider" else ""
    if unlike:
        print(f"--- FAILED {case.name}\n{unlike}")
        passed = False
    elif not passed and (args.v or who == "envoy" or case.name not in known_open()):
        why = outcome.observed.get("harness") or explanation(expected, outcome, who)
        shown = why if args.v else "\n".join(why.splitlines()[:args.lines])
        print(f"--- FAILED {case.name}\n{shown}")
        if outcome.notes.strip() and args.v:
            print(f"--- the proxy said:\n{outcome.notes[-2000:]}")
        sys.stdout.flush()
    return {"case": case.name, "area": case.name.split("/")[0], "passed": passed, "differs": case.spec.get("differs"), "seconds": round(outcome.seconds, 2)}


def verdicts(case: Case) -> str:
    """The `validate` steps whose exit codes differ, or in which ours does not name what it must."""
    problems = []
    steps = [step for step in case.spec.get("traffic", []) if isinstance(step, dict) and "validate" in step]
    if not steps:
        return ""
    seen = [[one["saw"] for one in case.expected(who)["steps"] if isinstance(one["saw"], dict) and "names" in one["saw"]] for who in ("envoy", "outrider")]
    for step, envoy, ours in zip(steps, *seen, strict=False):
        if envoy["exit"] != ours["exit"] and "stricter" not in step:
            problems.append(f"{step['what']}: exit code {ours['exit']}, Envoy's is {envoy['exit']}")
        missing = set(step.get("names", "").split()) - set(ours["names"])
        if missing and ours["exit"]:
            problems.append(f"{step['what']}: the message does not name {sorted(missing)}: {ours['said']}")
    return "\n".join(problems)


def explanation(expected: dict | None, outcome: Outcome, who: str) -> str:
    """Why a case failed: the difference, or the proxy's log if it did not start."""
    if expected is None:
        return "nothing recorded yet"
    if "start" in outcome.observed and "start" not in expected:
        return f"{outcome.observed['start']}\n{outcome.notes.strip()[-1500:]}"
    return difference(expected, outcome.observed, ("recorded", who))


def summary(rows: list, seconds: float) -> None:
    """A line per area."""
    areas = collections.defaultdict(lambda: [0, 0, 0.0])
    for row in rows:
        areas[row["area"]][0 if row["passed"] else 1] += 1
        areas[row["area"]][2] += row["seconds"]
    print(f"\n{'area':<14}{'passed':>8}{'failed':>8}{'seconds':>9}")
    for area, (good, bad, spent) in sorted(areas.items()):
        print(f"{area:<14}{good:>8}{bad:>8}{spent:>9.1f}")
    slow = sorted(rows, key=lambda row: -row["seconds"])[:3]
    print("slowest: " + ", ".join(f"{r['case']} {r['seconds']:.1f} s" for r in slow))
    print(f"in {seconds:.0f} s")


def diff(args) -> int:
    """Runs both binaries now and prints the difference."""
    same = True
    for case in select([args.name]):
        truth = attempt(case, envoy_binary(), case.expected("envoy"))
        ours = attempt(case, args.bin, truth.observed)
        shown = difference(truth.observed, ours.observed, ("envoy", "outrider"))
        same = same and not shown
        print(f"=== {case.name}\n{shown or 'the same'}")
        if args.v:
            print(f"--- envoy said:\n{truth.notes}\n--- outrider said:\n{ours.notes}")
    return 0 if same else 1


def show(args) -> int:
    """The whole config of a case, and what one run of a binary observes."""
    for case in select([args.name]):
        print(f"# {case.name}: {case.spec['about']}\n{yaml.safe_dump(case.config(), sort_keys=False)}")
        if args.bin or args.envoy:
            outcome = attempt(case, envoy_binary() if args.envoy else args.bin, None)
            print(pretty(outcome.observed))
            print(outcome.notes)
    return 0


def names(args) -> int:
    """The cases and what they are about."""
    for case in select(args.k):
        print(f"{case.name}: {case.spec['about']}")
    return 0


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="conformance/run.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-k", action="append", default=[], help="only cases whose name holds this; may be repeated")
    common.add_argument("-j", type=int, default=2, help="cases at a time")
    common.add_argument("-v", action="store_true", help="whole differences, and what the proxy said")
    common.add_argument("--lines", type=int, default=40, help="lines of a difference to print")
    common.add_argument("--bin", help="the proxy to run")
    common.add_argument("--envoy", action="store_true", help="real Envoy 1.40.0 is the proxy to run")
    common.add_argument("--json", help="where the result file goes")
    common.add_argument("--shared", help="the folder of the published configs, for `corpus`")
    for word, act, takes_name in [("record", record, False), ("check", check, False), ("list", names, False), ("diff", diff, True), ("show", show, True),
                                  ("docs", document.write, False), ("coverage", coverage.report, False), ("effect", effect.record, False),
                                  ("corpus", corpus.run, False)]:
        command = commands.add_parser(word, parents=[common], help=act.__doc__.splitlines()[0])
        command.set_defaults(act=act)
        if takes_name:
            command.add_argument("name")
    args = parser.parse_args()
    args.bin = args.bin and str(Path(args.bin).resolve())  # a proxy runs in the folder of its case
    if args.act in (check, diff, corpus.run) and not args.envoy and not args.bin:
        args.bin = str(TARGET / "release" / "outrider")
    sys.exit(args.act(args))
