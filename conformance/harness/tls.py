"""TLS on both ends of a case: Python's `ssl`, which is OpenSSL, and the certificates of `conformance/certs`.

`tls:` of a request, or as a step of its own, may hold `ca`, `cert`, `sni`, `alpn`, `max`, `min`, `ciphers`; of a backend `cert`, `alpn`,
`ca` (then clients must have a certificate), `max`, `min`, and `note: true` (each connection's name, protocol and client are noted).
With `any_alert: true` a handshake does not tell by which alert it was refused.
"""
import socket
import ssl
from pathlib import Path

CERTS = Path(__file__).parent.parent / "certs"
VERSIONS = {1.2: ssl.TLSVersion.TLSv1_2, 1.3: ssl.TLSVersion.TLSv1_3}


def context(spec: dict, protocol) -> ssl.SSLContext:
    """A context for one side."""
    made = ssl.SSLContext(protocol)
    if "ciphers" in spec:
        made.set_ciphers(spec["ciphers"])
    if "max" in spec:
        made.maximum_version = VERSIONS[spec["max"]]
    if "min" in spec:
        made.minimum_version = VERSIONS[spec["min"]]
    if spec.get("tickets") is False:
        made.options |= ssl.OP_NO_TICKET
    if spec.get("alpn"):
        made.set_alpn_protocols(spec["alpn"])
    if "cert" in spec:
        made.load_cert_chain(CERTS / f"{spec['cert']}.pem", CERTS / f"{spec['cert']}.key")
    return made


def client(sock: socket.socket, spec: dict, resumed=None) -> ssl.SSLSocket:
    """The client's side of a handshake. With `ca`, the server's certificate is checked against it. `resumed` is a context and a session of it."""
    if resumed:
        return resumed[0].wrap_socket(sock, server_hostname=spec.get("sni"), session=resumed[1])
    made = context(spec, ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if "ca" in spec:
        made.load_verify_locations(CERTS / f"{spec['ca']}.pem")
        made.verify_mode = ssl.CERT_REQUIRED
        made.check_hostname = "sni" in spec
    return made.wrap_socket(sock, server_hostname=spec.get("sni"))


def server_context(spec: dict) -> ssl.SSLContext:
    """The context of one server. All of its connections need the same one, or no session could be resumed."""
    made = context(spec, ssl.PROTOCOL_TLS_SERVER)
    made.sni_callback = lambda sock, name, _context: setattr(sock, "asked", name)
    if "ca" in spec:
        made.load_verify_locations(CERTS / f"{spec['ca']}.pem")
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def server(conn: socket.socket, made: ssl.SSLContext, spec: dict, note) -> ssl.SSLSocket:
    """The server's side of a handshake."""
    try:
        secure = made.wrap_socket(conn, server_side=True)
    except ssl.SSLError as error:
        if spec.get("note"):
            note({"tls": "failed: " + str(error.reason)})
        raise
    if spec.get("note"):
        note({"tls": {"sni": getattr(secure, "asked", None), **facts(secure)}})
    return secure


def facts(secure: ssl.SSLSocket) -> dict:
    """The negotiated version, suite and protocol, and the subject of the peer's certificate."""
    peer = secure.getpeercert(binary_form=True)
    seen = {"version": secure.version(), "cipher": secure.cipher()[0], "alpn": secure.selected_alpn_protocol()}
    if peer:
        seen["peer"] = next((f.stem for f in CERTS.glob("*.pem") if ssl.PEM_cert_to_DER_cert(first(f)) == peer), "unknown")
    return seen


def pem(name: str, kind: str) -> bytes:
    """A certificate (`pem`) or its key (`key`)."""
    return (CERTS / f"{name}.{kind}").read_bytes()


def first(file: Path) -> str:
    """The first certificate of a file."""
    end = "-----END CERTIFICATE-----"
    return file.read_text().split(end)[0] + end + "\n"


def handshake(sock: socket.socket, spec: dict, sessions: dict) -> dict:
    """The result of a handshake alone. With TLS 1.3, a refusal arrives with the first read.
    `save: NAME` keeps the session; `resume: NAME` offers it again. `hint: true` shows how long its ticket is good for."""
    try:
        secure = client(sock, spec, sessions.get(spec.get("resume")))
        seen = facts(secure)
        if secure.version() == "TLSv1.3":
            secure.settimeout(0.3)
            try:
                secure.recv(1)
            except TimeoutError:
                pass
        if "save" in spec:
            secure.settimeout(5)
            secure.sendall(b"GET / HTTP/1.1\r\nhost: any.test\r\n\r\n")  # BoringSSL sends the tickets of TLS 1.3 before its first data
            secure.recv(4096)
        if "save" in spec and secure.session:
            sessions[spec["save"]] = (secure.context, secure.session)
            seen["ticket"] = secure.session.ticket_lifetime_hint if spec.get("hint") else secure.session.has_ticket
        if "resume" in spec:
            seen["resumed"] = secure.session_reused
        secure.close()
        return seen
    except ssl.SSLError as error:
        return {"failed": "alert" if spec.get("any_alert") else str(error.reason or error)}
    except OSError as error:
        return {"failed": type(error).__name__}
