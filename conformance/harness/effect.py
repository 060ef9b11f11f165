"""Finds the case that shows the effect of a field: run on real Envoy without the field, its observation differs from the recorded one.
For a field without effect, no case that sets it may change.

A field that is accepted and ignored would pass every case that sets it. The table that this module writes (`effect.tsv`) names
one case for each implemented field whose observation depends on it; `coverage` checks the table. A row is recorded again only when its case changes.
"""
import collections
import concurrent.futures
import csv
import dataclasses
import hashlib
import json
import time
from dataclasses import astuple, dataclass

from . import coverage, execute, proxy
from .case import ROOT, Case, select
from .places import changed, drop, holders, others, sources

TABLE = ROOT / "effect.tsv"
COLUMNS = ["field", "case", "how", "what changed", "case's digest"]
COMMAND = "python3 conformance/run.py effect"
CASES = 8  # of those that set a field, how many are tried
HELD: dict = {}  # what `holds` found
NOTHING = "nothing"  # what changes without a field that has no effect
ENOUGH = 3  # cases in which Envoy refuses to start without the field, whatever is in its place


@dataclass(order=True)
class Row:
    """A line of the table: in `case`, `field` was changed as `how` says (removed, replaced, removed with its parent), and `what` differed."""

    field: str
    case: str
    how: str
    what: str
    digest: str


@dataclass
class Task:
    """A field to be shown, the cases that set it with the places in each, the most promising first, and the values of its enum."""

    field: str
    cases: list
    names: list
    harmless: bool


def read() -> dict:
    """The recorded rows by field."""
    if not TABLE.exists():
        return {}
    with TABLE.open() as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {row[0]: Row(*row) for row in rows[1:]}


def write(rows: dict) -> None:
    """Writes the table, sorted."""
    lines = ["\t".join(one) for one in [COLUMNS, *map(astuple, sorted(rows.values()))]]
    TABLE.write_text("\n".join(lines) + "\n")


def digest(case: Case) -> str:
    """A digest of everything in a case that determines Envoy's behaviour."""
    spec = {key: value for key, value in case.spec.items() if key not in ("about", "differs")}
    return hashlib.sha256(json.dumps([spec, case.variant], sort_keys=True, default=str).encode()).hexdigest()[:12]


def record(args) -> int:
    """Finds a case that shows each field which the table does not have yet, and writes the table."""
    from .command import envoy_binary, pool  # noqa: PLC0415 - that module imports this one
    began = time.monotonic()
    state = coverage.State()
    rows = {name: row for name, row in read().items() if not coverage.stale(state, row)}
    open_names = (state.wanted | state.harmless) - set(rows) - set(state.reasons)
    tasks = [task for name in sorted(open_names) if chosen(args, name) and (task := prepared(state, name))]
    print(f"{len(rows)} fields have a row, {len(tasks)} to try")
    write(rows)
    with pool(args.j) as workers:
        running = {workers.submit(unseen if task.harmless else shown, task, envoy_binary()): task for task in tasks}
        for done in concurrent.futures.as_completed(running):
            row, tried = done.result()
            if row:
                rows[row.field] = row
                write(rows)
            if args.v or not row:
                print(f"{running[done].field}: " + (f"{row.case} {row.how} {row.what}" if row else f"not shown; {tried}"), flush=True)
    missing = [line for line in coverage.effect_gaps(state, rows) if chosen(args, line.split(":")[0])]
    print(f"{len(rows)} of {len(state.wanted | state.harmless)} have a row, {len(missing)} neither shown nor excused, in {time.monotonic() - began:.0f} s")
    return 1 if missing else 0


def chosen(args, name: str) -> bool:
    """`-k` picks fields here."""
    return not args.k or any(word in name for word in args.k)


def prepared(state, name: str) -> Task | None:
    """The task for a field; none when no case sets it."""
    ranked = sorted(state.places.get(name, {}), key=lambda at: likelihood(state.cases[at], name))
    names = [value.name.upper() for value in state.definitions.enums[state.definitions.enum_of(name)].value] if state.definitions.enum_of(name) else []
    return Task(name, [(state.cases[at], state.places[name][at]) for at in ranked[:CASES]], names, name in state.harmless) if ranked else None


def likelihood(case: Case, name: str) -> float:
    """Lower is more promising: the case sets the field itself, its name or description mentions it, and it is short."""
    field = name.rpartition(".")[2]
    source = case.path.read_text()
    score = len(source) / 400 + (20 if case.spec.get("start") is False else 0) + (20 if isinstance(case.spec.get("config"), str) else 0)
    score -= 5 if field in source else 0
    score -= 10 if field in case.spec["about"] else 0
    return score - 4 * sum(word in case.name for word in field.split("_") if len(word) > 2)


def hurry() -> None:
    """Shortens all waits in this process: if a field has an effect, the recorded observation never arrives."""
    execute.STOP_EARLY, execute.SETTLE, execute.http1.PATIENCE, execute.steps.WAIT, proxy.START = True, 1.0, 2.5, 3, 4.0


def shown(task: Task, binary: str) -> tuple:
    """The row for the first case that shows the field, or None, and a description of the attempts."""
    hurry()
    required, tried = None, collections.Counter()
    for case, where in task.cases:
        if tried["refused"] == ENOUGH:
            break
        if not holds(case, binary):
            tried["not as recorded"] += 1
            continue
        how, what = in_case(case, where, task.names, binary)
        tried["refused" if what == "refused" else how] += 1
        row = Row(task.field, case.name, how, what, digest(case))
        if what not in ("", "refused"):
            return row, ""
        required = required or (row if what == "refused" else None)
    return required, ", ".join(f"{how} {number}" for how, number in tried.items())


def unseen(task: Task, binary: str) -> tuple:
    """The row for a field without effect: the most promising case, if no case that sets the field changes without it."""
    hurry()
    row = None
    for case, where in task.cases:
        if not holds(case, binary):
            return None, f"{case.name} is not as recorded"
        if case.spec.get("start") is False:
            continue  # whether its values are valid is another matter
        how, what = "removed", outcome(case, changed(case, where, drop), binary)
        if what == "refused":  # it must be there, and may be anything
            replaced = changed(case, where, lambda holder, key: replace(holder, key, task.names, 0))
            how, what = "replaced", outcome(case, replaced, binary)
        if what:
            return None, f"it has an effect in {case.name}: {what}"
        row = row or Row(task.field, case.name, how, NOTHING, digest(case))
    return row, ""


def holds(case: Case, binary: str) -> bool:
    """Whether the unchanged case gives the recorded observation with the short waits; checked once per process."""
    if case.name not in HELD:
        HELD[case.name] = case.expected("envoy") is not None and outcome(case, case, binary) == ""
    return HELD[case.name]


def in_case(case: Case, where: list, names: list, binary: str) -> tuple:
    """How the case was changed, and the effect: none (empty), Envoy did not start (`refused`), or the name of a step."""
    what = outcome(case, changed(case, where, drop), binary)
    if what not in ("", "refused"):
        return "removed", what
    for at in range(4 if what or scalar(case, where) else 0):
        replaced = changed(case, where, lambda holder, key, at=at: replace(holder, key, names, at))
        if sources(replaced) == sources(case):
            break  # no other value to be had
        now = outcome(case, replaced, binary)
        if now not in ("", "refused"):
            return "replaced", now
    if what == "refused" and holders(where):
        now = outcome(case, changed(case, holders(where), drop), binary)
        if now not in ("", "refused"):
            return "removed with its holder", now
    return "removed", what


def replace(holder, key, names: list, at: int) -> None:
    """Sets the other value with this number, if there is one."""
    found = others(holder[key], names)
    if at < len(found):
        holder[key] = found[at]


def scalar(case: Case, where: list) -> bool:
    """Whether the first place holds a single value, whose default it may be."""
    seen = []
    changed(case, where[:1], lambda holder, key: seen.append(holder[key]))
    return bool(seen) and not isinstance(seen[0], (dict, list))


def outcome(case: Case, other: Case, binary: str) -> str:
    """What is different in another version of a case, in each of two runs."""
    from .command import attempt  # noqa: PLC0415 - that module imports this one
    echoes = [step for step in case.spec.get("traffic", []) if isinstance(step, dict) and "config_dump" in str(step.get("admin", ""))]
    recorded = case.expected("envoy")
    recorded = {**recorded, "steps": [step for step in recorded.get("steps", []) if step["step"] not in map(execute.label, echoes)]}
    traffic = [step for step in other.spec.get("traffic", []) if step not in echoes]
    other = dataclasses.replace(other, spec={**other.spec, "traffic": traffic})
    word = difference(case, recorded, attempt(other, binary, recorded).observed)
    if word in ("", "refused"):
        return word
    return word if difference(case, recorded, attempt(other, binary, recorded).observed) == word != "harness" else ""


def difference(case: Case, recorded: dict, observed: dict) -> str:
    """The name of the first observation that differs from the recorded one."""
    if "harness" in observed:
        return "harness"
    if "start" in observed and "start" not in recorded:
        return "refused"
    before, now = recorded.get("steps", []), observed.get("steps", [])
    for left, right in zip(before, now, strict=False):
        if left != right:
            return kind(case, right["step"])
    if len(before) != len(now):
        return "steps"
    return next((word for word in ("start", "stats", "log", "crashed") if recorded.get(word) != observed.get(word)), "")


def kind(case: Case, label: str) -> str:
    """The word of the step with that label."""
    for step in case.spec.get("traffic", []):
        if isinstance(step, dict) and execute.label(step) == label:
            return next(key for key in step if key in execute.steps.WORDS)
    return "http" if " /" in label else label.split()[0]
