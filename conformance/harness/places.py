"""Finds where the configs of a case set a field, and makes copies of the case with the field removed or changed."""
import copy
import dataclasses
import re

import yaml

from .case import PLACE, Case
from .coverage import ENUM, Definitions, Walk

BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"
DURATION = re.compile(r"\d+(\.\d+)?s")
CONFIG = ""  # the name of the config among the files of a case


class Places(Walk):
    """Collects, by `message.field`, `enum.VALUE` and message of an extension, the paths at which a tree sets them."""

    def __init__(self, definitions: Definitions):
        super().__init__(definitions)
        self.found: dict = {}
        self.path: tuple = ()

    def note(self, name: str, path: tuple) -> None:
        """Adds a place for a name."""
        self.found.setdefault(name, []).append(path)

    def message(self, name: str, tree) -> None:
        """One message; a list in its place is several of them."""
        if isinstance(tree, list):
            for at, one in enumerate(tree):
                self.under((at,), super().message, name, one)
        else:
            super().message(name, tree)

    def any(self, tree: dict) -> None:
        """An `Any`: a place of the extension that it names, and of what it sets."""
        if not tree["@type"].endswith("TypedStruct"):
            self.note(tree["@type"].rpartition("/")[2], self.path)
            super().any(tree)
            return
        self.note(tree.get("type_url", "").rpartition("/")[2], self.path)
        self.under(("value",), super().message, tree.get("type_url", "").rpartition("/")[2], tree.get("value", {}))

    def fields(self, name: str, tree: dict) -> None:
        """The fields of one message."""
        for key, value in tree.items():
            field = self.definitions.field(name, str(key))
            if field is None or value is None:
                continue
            self.note(f"{name}.{field.name}", (*self.path, key))
            if field.type == ENUM:
                self.enum(field.type_name.lstrip("."), (*self.path, key), value)
            self.under((key,), super().fields, name, {key: value})

    def enum(self, name: str, path: tuple, value) -> None:
        """The value, or the values, of a field that is an enum."""
        for at, one in enumerate(value) if isinstance(value, list) else [(None, value)]:
            self.note(f"{name}.{self.definitions.value_name(name, one)}", path if at is None else (*path, at))

    def value(self, kind: str, value) -> None:
        """A message field's value, or the values of a map, each at its key."""
        entry = self.definitions.messages.get(kind)
        if entry is not None and entry.options.map_entry and isinstance(value, dict):
            for key, one in value.items():
                self.under((key,), super().value, kind, {key: one})
        else:
            super().value(kind, value)

    def under(self, step: tuple, act, *arguments) -> None:
        """Runs the block with the path extended by a step."""
        before, self.path = self.path, (*self.path, *step)
        act(*arguments)
        self.path = before


def sources(case: Case) -> dict:
    """The trees of a case: its config, and of the files that it brings those which are YAML."""
    trees = {}
    for name, source in {CONFIG: case.config(), **case.spec.get("files", {})}.items():
        try:
            tree = yaml.safe_load(source) if isinstance(source, str) else source
        except yaml.YAMLError:
            continue  # a case about broken YAML
        if isinstance(tree, dict):
            trees[name] = tree
    return trees


def places(case: Case, definitions: Definitions) -> dict:
    """The places of a case by field name: each has the file and the path in it."""
    found: dict = {}
    for name, tree in sources(case).items():
        walk = Places(definitions)
        walk.message(BOOTSTRAP, tree)
        for what, paths in walk.found.items():
            found.setdefault(what, []).extend((name, path) for path in paths)
    return found


def with_config(case: Case, trees: dict) -> Case:
    """The case with other trees in place of its own."""
    spec = {key: value for key, value in case.spec.items() if key != "proxy"}
    files = {**case.spec.get("files", {}), **{name: tree for name, tree in trees.items() if name != CONFIG}}
    return dataclasses.replace(case, spec={**spec, **({"config": trees[CONFIG]} if CONFIG in trees else {}), "files": files})


def changed(case: Case, where: list, change) -> Case:
    """The case with each of the places changed by `change(holder, key)`, the later ones first, so that indices hold."""
    trees = copy.deepcopy(sources(case))
    for name, path in sorted(where, key=lambda place: tuple(map(order, place[1])), reverse=True):
        holder = trees[name]
        try:
            for step in path[:-1]:
                holder = holder[step]
            change(holder, path[-1])
        except (KeyError, IndexError):
            continue  # what held it has gone already
    return with_config(case, trees)


def order(step) -> tuple:
    """Steps of a path, comparable: keys by name, indices by number."""
    return (0, "", step) if isinstance(step, int) else (1, str(step), 0)


def drop(holder, key) -> None:
    """Removes a place from its mapping or list."""
    del holder[key]


def holders(where: list) -> list:
    """For each place, the nearest enclosing list element or map value, if there is one."""
    found = []
    for name, path in where:
        at = max((i for i, step in enumerate(path[:-1]) if isinstance(step, int)), default=None)
        if at is not None:
            found.append((name, path[:at + 1]))
    return list(dict.fromkeys(found))


def others(value, names: list) -> list:
    """Other values that the field may have. `names` are the values of its enum."""
    if names:
        return [name for name in names if name != str(value).upper()][:4]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value + 1, value * 10 + 20]
    if isinstance(value, str):
        return text_others(value)
    if isinstance(value, dict):
        return [{}] if value else []
    if isinstance(value, list) and value:
        return [value[:1]] if len(value) > 1 else [[one] for one in others(value[0], [])]
    return []


def text_others(value: str) -> list:
    """Other texts: another time for a time, another port for a port, another name for a name."""
    if DURATION.fullmatch(value):
        return ["100s", "0.020s"]
    if PLACE.fullmatch(value):
        return [1] if value.endswith(".port>") else [f"{value}-other"]
    return [f"{value}-other", "other"]
