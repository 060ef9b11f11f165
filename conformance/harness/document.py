"""The generated parts of the documentation: the result table and the list of intended differences."""
import json
from pathlib import Path

from .case import ROOT, select

DOCS = ROOT.parent / "docs"
TARGET = ROOT.parent / "target"


def write(args) -> int:
    """Writes the generated sections of docs/conformance.md and docs/differences.md."""
    replace(DOCS / "conformance.md", "results", table())
    replace(DOCS / "differences.md", "conformance", differences())
    return 0


def replace(file: Path, name: str, content: str) -> None:
    """Replaces what stands between the marks `name` and `end of name`."""
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


def differences() -> str:
    """One line for each case that differs on purpose."""
    lines = {f"* `{case.path.relative_to(ROOT / 'cases').with_suffix('')}`: {case.spec['differs']}" for case in select([]) if "differs" in case.spec}
    return "\n".join(sorted(lines)) + "\n" if lines else "None.\n"
