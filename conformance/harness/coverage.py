"""Field coverage: which fields that `proto/support` calls implemented are shown by no case.

The configs of all cases are walked against the official descriptors (`proto/envoy-v3.binpb`), `Any` by its `@type`. Which case shows
the effect of a field is recorded with real Envoy by `effect`.
"""
import json
from pathlib import Path

import yaml
from google.protobuf import descriptor_pb2

from .case import ROOT, select

PROTO = ROOT.parent / "proto"
REASONS = ROOT / "unobserved.txt"
MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
ENUM = descriptor_pb2.FieldDescriptorProto.TYPE_ENUM
OBEYED = {"yes", "only", "extension"}  # what the table calls a field that is read and obeyed


class Definitions:
    """Messages by full name, with their fields by both spellings."""

    def __init__(self, file: Path):
        self.messages: dict = {}
        self.enums: dict = {}
        for one in descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes()).file:
            self.enums.update({f"{one.package}.{enum.name}": enum for enum in one.enum_type})
            for message in one.message_type:
                self.add(one.package, message)

    def add(self, scope: str, message) -> None:
        """A message and those inside it."""
        name = f"{scope}.{message.name}" if scope else message.name
        self.messages[name] = message
        self.enums.update({f"{name}.{enum.name}": enum for enum in message.enum_type})
        for inner in message.nested_type:
            self.add(name, inner)

    def field(self, message: str, key: str):
        """A field by its name as a config spells it."""
        fields = self.messages[message].field if message in self.messages else ()
        return next((f for f in fields if key in (f.name, f.json_name or camel(f.name))), None)

    def value_name(self, enum: str, value) -> str:
        """A value of an enum by its name in capitals, however a config spells it."""
        values = self.enums[enum].value if enum in self.enums else ()
        return next((one.name for one in values if one.number == value), str(value)).upper()

    def enum_of(self, name: str) -> str | None:
        """The enum of a field or of a value, by the name of either."""
        owner, _, last = name.rpartition(".")
        if owner in self.enums:
            return owner
        field = self.field(owner, last)
        return field.type_name.lstrip(".") if field is not None and field.type == ENUM else None


def camel(name: str) -> str:
    """lowerCamelCase of a field's name."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


class Walk:
    """Collects (message, field) of configs."""

    def __init__(self, definitions: Definitions):
        self.definitions = definitions
        self.used: set = set()

    def message(self, name: str, tree) -> None:
        """One message; a list in its place is several of them."""
        for one in tree if isinstance(tree, list) else [tree]:
            if isinstance(one, dict) and "@type" in one:
                self.any(one)
            elif isinstance(one, dict):
                self.fields(name, one)

    def any(self, tree: dict) -> None:
        """An `Any`: the message that `@type` names; inside TypedStruct, the one that `type_url` names."""
        inner = {k: v for k, v in tree.items() if k != "@type"}
        if tree["@type"].endswith("TypedStruct"):
            self.message(tree.get("type_url", "").rpartition("/")[2], tree.get("value", {}))
        else:
            self.message(tree["@type"].rpartition("/")[2], inner)

    def fields(self, name: str, tree: dict) -> None:
        """The fields of one message."""
        for key, value in tree.items():
            field = self.definitions.field(name, str(key))
            if field is None or value is None:
                continue
            self.used.add((name, field.name))
            if field.type == ENUM:
                self.used |= {(field.type_name.lstrip("."), str(one).upper()) for one in (value if isinstance(value, list) else [value])}
            if field.type == MESSAGE:
                self.value(field.type_name.lstrip("."), value)

    def value(self, kind: str, value) -> None:
        """A message field's value, or the values of a map."""
        entry = self.definitions.messages.get(kind)
        if entry is not None and entry.options.map_entry:
            inner = entry.field[1]
            for one in value.values() if isinstance(value, dict) and inner.type == MESSAGE else []:
                self.message(inner.type_name.lstrip("."), one)
        else:
            self.message(kind, value)


def listed(definitions: Definitions, statuses: set) -> set:
    """(message, field) with one of these statuses in the support table. A field's own line overrides the line `*`."""
    found, message, named = set(), "", set()
    for file in sorted((PROTO / "support").glob("*.txt")):
        if file.name == "extensions.txt":
            continue
        for line in file.read_text().splitlines():
            words = line.split("#")[0].split()
            if line.startswith("["):
                message, named = line.strip().strip("[]"), set()
            elif len(words) > 1 and message:
                known = message in definitions.messages
                fields = {f.name for f in definitions.messages[message].field} - named if words[0] == "*" and known else {words[0]}
                named |= fields
                pairs = {(message, name if known else name.upper()) for name in fields if name != "*"}
                found = found | pairs if words[1] in statuses else found - pairs
    return found


class State:
    """The fields that cases set, and those that must be shown. Read once, for recording and for the check."""

    def __init__(self):
        from .places import places  # noqa: PLC0415 - that module imports this one
        self.definitions = Definitions(PROTO / "envoy-v3.binpb")
        self.cases = {case.name: case for case in select([])}
        self.places: dict = {}
        for case in self.cases.values():
            for name, where in places(case, self.definitions).items():
                self.places.setdefault(name, {})[case.name] = where
        self.wanted = wanted(self.definitions)
        self.harmless = {f"{message}.{field}" for message, field in listed(self.definitions, {"inert"})}
        lines = REASONS.read_text().splitlines()
        self.reasons = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


def wanted(definitions: Definitions) -> set:
    """The names of everything that must be shown: fields, the values of their enums except the default, and extensions."""
    fields = listed(definitions, OBEYED)
    names = {f"{message}.{field}" for message, field in fields}
    split = {message for message, _ in fields if message in definitions.enums}
    kinds = {definitions.enum_of(f"{message}.{field}") for message, field in fields if message in definitions.messages} - {None} - split
    values = {f"{kind}.{value.name.upper()}" for kind in kinds for value in definitions.enums[kind].value if value.number}
    return names | (values - refused_values(definitions)) | extensions()


def refused_values(definitions: Definitions) -> set:
    """The enum values that a field of status `only` does not list."""
    refused, message = set(), ""
    for file in (PROTO / "support").glob("*.txt"):
        for line in file.read_text().splitlines():
            message = line.strip().strip("[]") if line.startswith("[") else message
            words = line.replace(":", " ").replace(",", " ").split()
            kind = definitions.enum_of(f"{message}.{words[0]}") if len(words) > 2 and words[1] == "only" else None
            if kind:
                refused |= {f"{kind}.{value.name.upper()}" for value in definitions.enums[kind].value if value.name not in words}
    return refused


def extensions() -> set:
    """The messages of the extensions that have a section in the table."""
    texts = {file.name: file.read_text().splitlines() for file in (PROTO / "support").glob("*.txt")}
    listing = [line.split() for line in texts.pop("extensions.txt")]
    chosen = {line.split()[2] for lines in texts.values() for line in lines if line.split()[1:2] == ["extension"]}
    known = {words[2] for words in listing if len(words) > 2 and words[0] in chosen}
    return known & {line.strip().strip("[]") for lines in texts.values() for line in lines if line.startswith("[")}


def report(args) -> int:
    """Lists implemented fields that no case shows and that no reason excuses; exit code 1 when there are any."""
    missing, total = gaps()
    for line in missing:
        print(line)
    if args.json:
        Path(args.json).write_text(json.dumps(missing, indent=1))
    print(f"{total} fields, enum values and extensions are to be shown, or shown to do nothing; {len(missing)} are not")
    return 1 if missing else 0


def gaps() -> tuple:
    """The defects of coverage, and the number of implemented fields."""
    from . import effect  # noqa: PLC0415 - that module imports this one
    state = State()
    return effect_gaps(state, effect.read()), len(state.wanted | state.harmless)


def effect_gaps(state: State, rows: dict) -> list:
    """Fields without a row or reason, and rows and reasons that are out of date."""
    from . import effect  # noqa: PLC0415 - that module imports this one
    missing = [f"{name}: " + ("no case is known to show its effect" if name in state.places else "implemented, and in no case")
               for name in sorted(state.wanted - set(rows) - set(state.reasons))]
    missing += [f"{name}: said to have no effect, and no case is known to be the same without it"
                for name in sorted(state.harmless - set(rows) - set(state.reasons))]
    missing += [f"{row.field}: {why}" for row in rows.values() if (why := stale(state, row))]
    missing += [f"{name}: {REASONS.name} excuses a field that a case shows" for name in sorted(set(state.reasons) & set(rows))]
    missing += [f"{name}: {REASONS.name} excuses a field that is not implemented" for name in sorted(set(state.reasons) - state.wanted - state.harmless)]
    return [*missing, f"record what the cases show: {effect.COMMAND}"] if missing else []


def stale(state: State, row) -> str:
    """Why a row of the effect table is out of date; empty if it is not."""
    from . import effect  # noqa: PLC0415 - that module imports this one
    case = state.cases.get(row.case)
    if row.field not in (state.harmless if row.what == effect.NOTHING else state.wanted):
        return "has a row that is not what the support table says of it"
    if case is None:
        return f"{row.case} showed it, and is gone"
    if row.case not in state.places.get(row.field, {}):
        return f"{row.case} showed it, and does not set it any more"
    return f"{row.case} showed it, and has changed since" if effect.digest(case) != row.digest else ""
