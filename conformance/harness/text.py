"""Bytes as people write and read them in a case."""
import hashlib


def payload(value) -> bytes:
    """A body: text, or `{size: N, of: x}` for a large one, or `{hex: …}`."""
    if isinstance(value, dict):
        if "hex" in value:
            return bytes.fromhex(str(value["hex"]))
        return (value.get("of", "x") * value["size"]).encode("latin-1")[:value["size"]]
    return value if isinstance(value, bytes) else str(value).encode("latin-1", "replace")


def crlf(value: str) -> bytes:
    """HTTP/1 written in YAML: each line end becomes CRLF, the empty line after the head included."""
    return value.replace("\r\n", "\n").replace("\n", "\r\n").encode("latin-1")


def latin(value: bytes | str) -> str:
    """Bytes one to one as text, so that nothing is lost."""
    return value if isinstance(value, str) else value.decode("latin-1")


def shown(data: bytes) -> str:
    """A body in an observation: itself when short, its size and digest when not."""
    if len(data) > 1500:
        return f"({len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()[:16]})"
    return latin(data)


def lines(data: bytes) -> list | str:
    """A text of several lines as a list, so that a recorded expectation reads well."""
    whole = shown(data)
    return whole.split("\n") if "\n" in whole.rstrip("\n") else whole
