"""Field coverage: which fields that `proto/support` calls implemented occur in no case.

The configs of all cases are walked against the official descriptors (`proto/envoy-v3.binpb`), `Any` by its `@type`.
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
WORDS = {"yes", "only", "extension"}  # what the table calls a field that is read and obeyed


class Definitions:
    """Messages by full name, with their fields by both spellings."""

    def __init__(self, file: Path):
        self.messages: dict = {}
        for one in descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes()).file:
            for message in one.message_type:
                self.add(one.package, message)

    def add(self, scope: str, message) -> None:
        """A message and those inside it."""
        name = f"{scope}.{message.name}" if scope else message.name
        self.messages[name] = message
        for inner in message.nested_type:
            self.add(name, inner)

    def field(self, message: str, key: str):
        """A field by its name as a config spells it."""
        fields = self.messages[message].field if message in self.messages else ()
        return next((f for f in fields if key in (f.name, f.json_name or camel(f.name))), None)


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


def implemented(definitions: Definitions) -> set:
    """(message, field) that the support table calls implemented; what it says of a field goes before what it says of `*`."""
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
                found = found | pairs if words[1] in WORDS else found - pairs
    return found


def used_fields(definitions: Definitions) -> set:
    """(message, field) that occur in some case: its config, and the files it brings."""
    walk = Walk(definitions)
    for case in select([]):
        sources = [case.config(), *case.spec.get("files", {}).values()]
        for source in sources:
            try:
                tree = yaml.safe_load(source) if isinstance(source, str) else source
            except yaml.YAMLError:
                continue  # a case about broken YAML
            walk.message("envoy.config.bootstrap.v3.Bootstrap", tree)
    return walk.used


def report(args) -> int:
    """Lists implemented fields that no case uses and that no reason excuses; exit code 1 when there are any."""
    missing, total = gaps()
    for line in missing:
        print(line)
    if args.json:
        Path(args.json).write_text(json.dumps(missing, indent=1))
    print(f"{total - len(missing)} of {total} implemented fields occur in a case or have a reason not to ({REASONS.name})")
    return 1 if missing else 0


def gaps() -> tuple:
    """What is to be said about coverage, and how many fields are implemented."""
    definitions = Definitions(PROTO / "envoy-v3.binpb")
    wanted = {f"{message}.{field}" for message, field in implemented(definitions)}
    used = {f"{message}.{field}" for message, field in used_fields(definitions)}
    reasons = dict(line.split(maxsplit=1) for line in REASONS.read_text().splitlines() if line and not line.startswith("#"))
    missing = [f"{name}: implemented, and in no case" for name in sorted(wanted - used - set(reasons))]
    missing += [f"{name}: {REASONS.name} excuses a field that a case uses" for name in sorted(set(reasons) & used)]
    missing += [f"{name}: {REASONS.name} excuses a field that is not implemented" for name in sorted(set(reasons) - wanted)]
    return missing, len(wanted)
