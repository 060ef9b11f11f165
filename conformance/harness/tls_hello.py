"""A ClientHello of TLS 1.2 by hand, and what a server answers before anything is encrypted.

`hello:` of a step (or a list of them) may hold `sni`, `alpn`, `ciphers` (numbers), `status: true` (asks for an OCSP response), `sct: true`,
`pad` (bytes of a padding extension), `piece` (bytes in each write), `records` (bytes in each record), `grease: true`.
"""
import hashlib
import socket
import struct

CIPHERS = [0xC02B, 0xC02F, 0xCCA9, 0xCCA8]
NAMES = {2: "ServerHello", 4: "NewSessionTicket", 11: "Certificate", 12: "ServerKeyExchange", 13: "CertificateRequest", 14: "ServerHelloDone",
         22: "CertificateStatus"}
ALERTS = {0: "close_notify", 10: "unexpected_message", 22: "record_overflow", 40: "handshake_failure", 47: "illegal_parameter", 50: "decode_error",
          70: "protocol_version", 80: "internal_error", 112: "unrecognized_name", 120: "no_application_protocol"}


def vector(data: bytes, size: int) -> bytes:
    """Bytes after their length, which takes `size` bytes."""
    return len(data).to_bytes(size, "big") + data


def numbers(values: list) -> bytes:
    """Numbers of two bytes."""
    return b"".join(struct.pack(">H", value) for value in values)


def client_hello(spec: dict) -> bytes:
    """The message in its records."""
    grease = [0x2A2A] if spec.get("grease") else []
    parts = [(0x3A3A, b"")] if grease else []
    if "sni" in spec:
        parts.append((0, vector(b"\0" + vector(spec["sni"].encode(), 2), 2)))
    parts += [(10, vector(numbers(grease + [29, 23]), 2)), (11, vector(b"\0", 1)), (13, vector(numbers([0x0403, 0x0804, 0x0401]), 2))]
    if "alpn" in spec:
        parts.append((16, vector(b"".join(vector(one.encode(), 1) for one in spec["alpn"]), 2)))
    if spec.get("status"):
        parts.append((5, b"\1\0\0\0\0"))
    if spec.get("sct"):
        parts.append((18, b""))
    if "pad" in spec:
        parts.append((21, bytes(spec["pad"])))
    extensions = b"".join(struct.pack(">H", kind) + vector(data, 2) for kind, data in parts)
    ciphers = numbers(grease + spec.get("ciphers", CIPHERS))
    body = b"\x03\x03" + bytes(range(32)) + vector(b"", 1) + vector(ciphers, 2) + vector(b"\0", 1) + vector(extensions, 2)
    message = b"\1" + vector(body, 3)
    size = spec.get("records", 16384)
    return b"".join(b"\x16\x03\x01" + vector(message[at:at + size], 2) for at in range(0, len(message), size))


def ask(sock: socket.socket, spec: dict) -> dict:
    """Sends a ClientHello and reads the answer to its end, or to an alert."""
    hello = client_hello(spec)
    piece = spec.get("piece", len(hello))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for at in range(0, len(hello), piece):
            sock.sendall(hello[at:at + piece])
        return read(sock.makefile("rb"))
    except OSError as error:
        return {"failed": type(error).__name__}
    finally:
        sock.close()


def read(stream) -> dict:
    """The messages of a server up to ServerHelloDone, and what is worth knowing of them."""
    seen, pending = {"messages": []}, b""
    while True:
        header = stream.read(5)
        if len(header) < 5:
            return {**seen, "end": "closed"}
        kind, length = header[0], int.from_bytes(header[3:], "big")
        data = stream.read(length)
        if kind == 21:
            return {**seen, "end": ALERTS.get(data[1], data[1])}
        pending += data
        while len(pending) >= 4 and len(pending) >= 4 + int.from_bytes(pending[1:4], "big"):
            end = 4 + int.from_bytes(pending[1:4], "big")
            message, pending = pending[:end], pending[end:]
            note(seen, message[0], message[4:])
            if message[0] == 14:
                return seen


def note(seen: dict, kind: int, body: bytes) -> None:
    """Adds a message to what was seen."""
    seen["messages"].append(NAMES.get(kind, kind))
    if kind == 2:
        at = 35 + body[34]
        seen["cipher"] = f"{int.from_bytes(body[at:at + 2], 'big'):04x}"
    elif kind == 11:
        length = int.from_bytes(body[3:6], "big")
        seen["certificate"] = hashlib.sha256(body[6:6 + length]).hexdigest()[:16]
    elif kind == 22:
        seen["status"] = hashlib.sha256(body[4:]).hexdigest()[:16]
    elif kind == 13:
        at = 1 + body[0]
        at += 2 + int.from_bytes(body[at:at + 2], "big")
        names = body[at + 2:]
        seen["authorities"] = 0
        while names:
            names = names[2 + int.from_bytes(names[:2], "big"):]
            seen["authorities"] += 1
