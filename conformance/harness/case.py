"""A case: one YAML file, read and filled in. `docs/conformance.md` describes the format."""
import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from . import bootstrap

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "cases"
KEYS = {"about", "codecs", "config", "proxy", "flags", "env", "files", "certs", "links", "backends", "traffic", "stats", "unordered", "start", "differs", "log"}
CODECS = {"h1": "http1", "h2": "http2"}
PLACE = re.compile(r"<(dir|bin|config|certs|[\w-]+\.(?:port|path))>")


@dataclass
class Case:
    """One case in one variant: its name, the content of its file, the codecs on both sides."""

    name: str
    path: Path
    spec: dict
    down: str
    up: str
    variant: str

    @property
    def backends(self) -> dict:
        """The backends with their codec: `kind: http` takes the variant's."""
        made = {}
        for name, spec in self.spec.get("backends", {}).items():
            spec = {"kind": spec} if isinstance(spec, str) else dict(spec)
            if spec["kind"] in ("http", "http1", "http2"):
                spec["codec"] = {"http": self.up}.get(spec["kind"], spec["kind"])
                spec["kind"] = "http"
            made[name] = spec
        return made

    def config(self) -> dict | None:
        """The bootstrap with placeholders."""
        if "config" in self.spec:
            return self.spec["config"]
        if self.spec.get("start") is False and "proxy" not in self.spec:
            return None
        return bootstrap.expand(self.spec.get("proxy", {}), self.backends)

    def expected(self, who: str) -> dict | None:
        """The recorded observation: Envoy's, or Outrider's own where the case has `differs`."""
        for one in ([".outrider.json"] if who == "outrider" else []) + [".expected.json"]:
            file = self.path.with_suffix(one)
            if file.exists():
                recorded = json.loads(file.read_text())
                if self.variant in recorded:
                    return recorded[self.variant]
        return None


def load(path: Path) -> list[Case]:
    """All variants of the case in a file."""
    spec = yaml.safe_load(path.read_text())
    unknown = set(spec) - KEYS | {key for step in spec.get("traffic", []) if isinstance(step, dict) for key in step if not isinstance(key, str)}
    if unknown or "about" not in spec:
        raise ValueError(f"{path}: unknown keys {sorted(unknown)}" if unknown else f"{path}: `about` is missing")
    name = str(path.relative_to(CASES).with_suffix(""))
    codecs = spec.get("codecs", ["h1-h1"])
    codecs = ["h1-h1", "h1-h2", "h2-h1", "h2-h2"] if codecs == "all" else codecs
    codecs = codecs if isinstance(codecs, list) else [codecs]
    cases = []
    for pair in codecs:
        down, up = pair.split("-")
        label = f"{name}[{pair}]" if len(codecs) > 1 else name
        cases.append(Case(label, path, spec, CODECS[down], CODECS[up], pair))
    return cases


def select(words: list[str]) -> list[Case]:
    """The cases whose name holds one of the words; all of them without words."""
    found = [case for path in sorted(CASES.rglob("*.yaml")) for case in load(path)]
    return [case for case in found if not words or any(word in case.name for word in words)]


def fill(tree, values: dict):
    """Replaces placeholders in a tree. A string that is only a placeholder becomes the value itself, so that a port is a number."""
    if isinstance(tree, dict):
        return {fill(k, values): fill(v, values) for k, v in tree.items()}
    if isinstance(tree, list):
        return [fill(one, values) for one in tree]
    if not isinstance(tree, str):
        return tree
    whole = PLACE.fullmatch(tree)
    if whole and whole[1] in values:
        return values[whole[1]]
    return PLACE.sub(lambda m: str(values.get(m[1], m[0])), tree)
