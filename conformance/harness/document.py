"""The generated parts of the documentation: the result table and the list of intended differences."""
import collections
import csv
import json
from pathlib import Path

from .case import ROOT, select
from .corpus import TABLE

DOCS = ROOT.parent / "docs"
TARGET = ROOT.parent / "target"
DETAIL = "not supported, or what differs"


def write(args) -> int:
    """Writes the generated sections of docs/conformance.md and docs/differences.md."""
    replace(DOCS / "conformance.md", "results", table())
    replace(DOCS / "conformance.md", "corpus", corpus())
    replace(DOCS / "differences.md", "conformance", differences())
    return 0


def replace(file: Path, name: str, content: str) -> None:
    """Replaces the text between the marks `name` and `end of name`."""
    if not file.exists():
        return
    text = file.read_text()
    start, end = text.find(f"<!-- {name}:"), text.find(f"<!-- end of {name} -->")
    if start < 0 or end < 0:
        return
    after = text.index("-->", start) + 3
    file.write_text(f"{text[:after]}\n{content}{text[end:]}")


def table() -> str:
    """Cases per area, and how many pass on either proxy in the last runs."""
    areas: dict = {}
    for case in select([]):
        areas.setdefault(case.name.split("/")[0], []).append(case.name)
    runs = {who: passed(who) for who in ("envoy", "outrider")}
    lines = ["| area | cases | Envoy 1.40.0 | Outrider |", "|---|--:|--:|--:|"]
    for area, names in sorted(areas.items()):
        lines.append(row(area, names, runs))
    lines.append(row("**all**", [name for names in areas.values() for name in names], runs))
    return "\n".join(lines) + "\n"


def row(label: str, names: list, runs: dict) -> str:
    """One line of the table."""
    cells = ["–" if runs[who] is None else str(sum(name in runs[who] for name in names)) for who in ("envoy", "outrider")]
    return f"| {label} | {len(names)} | {cells[0]} | {cells[1]} |"


def passed(who: str) -> set | None:
    """The cases that passed in the last run, or None when there was none."""
    file = TARGET / f"conformance-{who}.json"
    return {one["case"] for one in json.loads(file.read_text()) if one["passed"]} if file.exists() else None


def corpus() -> str:
    """The published configs by class: how many files are the same, refused by name or different, and the most frequent reasons."""
    with TABLE.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    lines = ["| class | files | rejected by both | served alike | requests compared | refused by name | other |", "|---|--:|--:|--:|--:|--:|--:|"]
    for label in [*sorted({row["class"] for row in rows}), ""]:
        lines.append(corpus_row(label or "**all**", [row for row in rows if label in ("", row["class"])]))
    reasons = collections.Counter(reason for row in rows if row["Outrider"] == "refused by name" for reason in row[DETAIL].split("; "))
    most = ", ".join(f"`{reason.rpartition('.v3.')[2]}` {count}" for reason, count in reasons.most_common(20))
    return "\n".join(lines) + f"\n\nWhat is refused most often, in how many files: {most}.\n"


def corpus_row(label: str, rows: list) -> str:
    """One line of that table."""
    same = [row for row in rows if row["Outrider"] == "same"]
    served = [row for row in same if row["Envoy 1.40.0"] == "accepted"]
    refused = sum(row["Outrider"] == "refused by name" for row in rows)
    requests = sum(int(row["requests compared"] or 0) for row in served)
    return f"| {label} | {len(rows)} | {len(same) - len(served)} | {len(served)} | {requests} | {refused} | {len(rows) - len(same) - refused} |"


def differences() -> str:
    """One line for each case that differs on purpose."""
    lines = {f"* `{case.path.relative_to(ROOT / 'cases').with_suffix('')}`: {case.spec['differs']}" for case in select([]) if "differs" in case.spec}
    return "\n".join(sorted(lines)) + "\n" if lines else "None.\n"
