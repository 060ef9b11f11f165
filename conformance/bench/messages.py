#!/usr/bin/env python3
"""Bidirectional streams of 1 KB messages in raw HTTP/2 frames: an echoing backend, and a client that keeps messages in flight.

Both ends look at frame headers only (no HPACK decoding), so that one Python process keeps a proxy busy.
usage: messages.py serve PORT | messages.py load PORT MESSAGES
"""

import selectors
import socket
import struct
import sys
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW = (1 << 24) - 1
SETTINGS = struct.pack(">HI", 4, WINDOW)
STREAMS, IN_FLIGHT = 8, 4
MESSAGE = b"\0" + struct.pack(">I", 1019) + b"m" * 1019


def frame(kind, flags, stream, payload=b""):
    """One HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """A header field without indexing or Huffman coding (RFC 7541 section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


REQUEST = b"\x83\x86" + b"\x04\x0a/echo/Echo" + b"\x01\x04echo" + literal(b"content-type", b"application/grpc") + literal(b"te", b"trailers")
RESPONSE = b"\x88" + literal(b"content-type", b"application/grpc")
TRAILERS = literal(b"grpc-status", b"0")


class Peer:
    """One connection. Splits received bytes into frames."""

    def __init__(self, sock):
        self.sock, self.buffer = sock, bytearray()

    def frames(self):
        """The complete frames received so far; None at the end of the connection."""
        data = self.sock.recv(1 << 18)
        if not data:
            return None
        self.buffer += data
        if self.buffer.startswith(PREFACE):
            del self.buffer[:len(PREFACE)]
        out, at, size = [], 0, len(self.buffer)
        while size - at >= 9:
            length = int.from_bytes(self.buffer[at:at + 3], "big")
            if size - at < 9 + length:
                break
            kind, flags = self.buffer[at + 3], self.buffer[at + 4]
            stream = int.from_bytes(self.buffer[at + 5:at + 9], "big") & 0x7FFFFFFF
            out.append((kind, flags, stream, bytes(self.buffer[at + 9:at + 9 + length])))
            at += 9 + length
        del self.buffer[:at]
        return out


def control(kind, flags, payload):
    """The answer to SETTINGS and PING."""
    if kind == 4 and not flags & 1:
        return frame(4, 1, 0)
    if kind == 6 and not flags & 1:
        return frame(6, 1, 0, payload)
    return b""


def serve(port):
    """Echoes every DATA frame on its stream, forever."""
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    chosen = selectors.DefaultSelector()
    chosen.register(listener, selectors.EVENT_READ, None)
    while True:
        for key, _ in chosen.select():
            if key.data is None:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.sendall(frame(4, 0, 0, SETTINGS) + frame(8, 0, 0, struct.pack(">I", WINDOW - 65535)))
                chosen.register(sock, selectors.EVENT_READ, Peer(sock))
                continue
            try:
                frames = key.data.frames()
            except OSError:
                frames = None
            if frames is None:
                chosen.unregister(key.fileobj)
                key.fileobj.close()
                continue
            out, taken = [], 0
            for kind, flags, stream, payload in frames:
                if kind == 1:
                    out.append(frame(1, 4, stream, RESPONSE))
                elif kind == 0:
                    taken += len(payload)
                    out.append(frame(0, 0, stream, payload) if payload else b"")
                    if payload:
                        out.append(frame(8, 0, stream, struct.pack(">I", len(payload))))
                    if flags & 1:
                        out.append(frame(1, 5, stream, TRAILERS))
                else:
                    out.append(control(kind, flags, payload))
            if taken:
                out.append(frame(8, 0, 0, struct.pack(">I", taken)))
            key.fileobj.sendall(b"".join(out))


def load(port, messages):
    """Sends `messages` over 8 streams, 4 in flight on each, and waits for every echo; returns messages a second."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(20)
    peer = Peer(sock)
    streams = [1 + 2 * i for i in range(STREAMS)]
    out = [PREFACE, frame(4, 0, 0, SETTINGS), frame(8, 0, 0, struct.pack(">I", WINDOW - 65535))]
    for stream in streams:
        out.append(frame(1, 4, stream, REQUEST))
        out += [frame(0, 0, stream, MESSAGE)] * IN_FLIGHT
    sent, received, begun = STREAMS * IN_FLIGHT, 0, time.monotonic()
    sock.sendall(b"".join(out))
    unanswered = dict.fromkeys(streams, 0)
    while received < messages * len(MESSAGE):
        frames = peer.frames()
        if frames is None:
            raise RuntimeError("the proxy closed the connection")
        out, taken = [], 0
        for kind, flags, stream, payload in frames:
            if kind in (3, 7):
                raise RuntimeError(f"the proxy sent frame type {kind}: {payload!r}")
            if kind == 0:
                taken += len(payload)
                received += len(payload)
                unanswered[stream] += len(payload)
                out.append(frame(8, 0, stream, struct.pack(">I", len(payload))) if payload else b"")
                while unanswered[stream] >= len(MESSAGE):
                    unanswered[stream] -= len(MESSAGE)
                    if sent < messages:
                        sent += 1
                        out.append(frame(0, 0, stream, MESSAGE))
            else:
                out.append(control(kind, flags, payload))
        if taken:
            out.append(frame(8, 0, 0, struct.pack(">I", taken)))
        sock.sendall(b"".join(out))
    sock.close()
    return messages / (time.monotonic() - begun)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        print(load(int(sys.argv[2]), int(sys.argv[3])))
