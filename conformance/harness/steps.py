"""The kinds of steps in `traffic:`, one function each, with the table at the end. Each returns its observation, or None for none."""
import concurrent.futures
import json
import os
import re
import signal
import subprocess

from . import backends, bootstrap, client, grpc_client, http1, http2, normalise, sockets, text, tls, tls_hello
from .proxy import die_with_parent

WAIT = 8  # seconds for a `wait` that does not say how many


def http(run, step: dict):
    """`http: GET /path`: one request; `codec` (or a list of them), `headers`, `body`, `trailers`, `authority`, `to`, `via`, `show`."""
    codecs = step.get("codec", run.case.down)
    if isinstance(codecs, list):
        return {codec: http(run, {**step, "codec": codec}) for codec in codecs}
    request = client.request_of(step)
    conn = run.connection(step, codecs)
    seen = (client.over_http2 if codecs == "http2" else client.over_http1)(conn, request)
    if "via" not in step:
        hang_up(conn)
    return only(seen, step.get("show"))


def hang_up(conn) -> None:
    """Closes a connection of either kind."""
    conn.sock.close()


def only(seen: dict, show):
    """The parts of an answer that a step asks for: `status`, `body`, `trailers`, or header names."""
    if show is None:
        return seen
    names = show.split() if isinstance(show, str) else show
    if names == ["status"]:
        return seen.get("status", seen)
    kept = {k: seen[k] for k in ("status", "body", "trailers", "reset", "ended") if k in seen and (k in names or k in ("reset", "ended"))}
    wanted = [line for line in seen.get("headers", []) if line.split(":")[0].lower() in names]
    return {**kept, **({"headers": wanted} if wanted else {})}


def requests(run, step: dict) -> list:
    """`requests:` a list of requests, each on its own connection; the step's other keys are shared by all of them."""
    shared = {k: v for k, v in step.items() if k != "requests"}
    table = []
    for one in step["requests"]:
        one = {"http": one} if isinstance(one, str) else one
        named = ", ".join(f"{k}: {v}" for k, v in one.items() if k in ("headers", "authority", "codec"))
        table.append({one["http"] + (f" ({named})" if named else ""): http(run, {**shared, **one})})
    return table


def raw(run, step: dict):
    """`raw:` HTTP/1 bytes: `send: text` (line ends become CRLF), `bytes: text` (as it is), `receive: answer|head-answer|end|how|N`, `close`, `end`.
    `how` is `end` with the way it ended: where it is no race whether FIN or RST comes."""
    stream = run.connection(step, "http1")
    seen = []
    for one in step["raw"]:
        (word, value), = one.items() if isinstance(one, dict) else ((one, None),)
        if word == "send":
            stream.write(text.crlf(value))
        elif word == "bytes":
            stream.write(text.payload(value))
        elif word == "receive":
            seen.append(received(stream, value))
        elif word == "end":
            http2.half_close(stream, None)
        elif word == "abort":
            http2.hard_close(http2.Connection(stream.sock), None)
        elif word == "close":
            stream.sock.close()
        else:
            raise ValueError(f"unknown raw step {word!r}")
    if "via" not in step:
        stream.sock.close()
    return seen


def received(stream: http1.Stream, what):
    """Reads as an HTTP/1 client does."""
    if what in ("end", "how"):
        data = stream.rest()
        ended = "reset" if what == "how" and stream.reset else stream.ended
        return {"end": ended, **({"bytes": text.lines(data)} if data else {})}
    if isinstance(what, int):
        return text.lines(stream.exactly(what))
    return client.read_answer(stream, what == "head-answer")


def frames(run, step: dict):
    """`h2:` a frame script (see `http2.action`); its transcript. `show` names frame kinds that are left out otherwise."""
    conn = run.connection(step, "frames")
    before = len(conn.events)
    for one in step["h2"]:
        http2.action(conn, one)
    seen = http2.transcript(conn.events[before:], tuple(step.get("show", "").split()))
    if "via" not in step:
        hang_up(conn)
    return seen


def grpc(run, step: dict):
    """`grpc: Method` by one client or each of a list; `times: N` with `parallel: true` sums up by status and pod."""
    clients = step.get("client", "grpcio")
    if isinstance(clients, list):
        return {one: grpc(run, {**step, "client": one}) for one in clients}
    address = run.address(step.get("to", "ingress"))
    call = grpc_client.Call(step)
    if "times" not in step:
        channel = run.channel(step["via"], address) if "via" in step else None
        return grpc_client.CLIENTS[clients](address, call, channel)
    channel = run.channel(step.get("via", "shared"), address)
    workers = step["times"] if step.get("parallel") else 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        answers = list(pool.map(lambda _: grpc_client.grpcio(address, call, channel), range(step["times"])))
    return summed(answers)


def summed(answers: list) -> dict:
    """A summary of many calls: how many had each status, and which pod answered them."""
    counts: dict = {"status": {}, "pods": {}}
    for one in answers:
        end = f"{one['status']} {one['message']}".strip()
        counts["status"][end] = counts["status"].get(end, 0) + 1
        for line in one.get("initial", []):
            if line.startswith("pod: "):
                counts["pods"][line[5:]] = counts["pods"].get(line[5:], 0) + 1
    return {k: dict(sorted(v.items())) for k, v in counts.items() if v}


def admin(run, step: dict):
    """`admin: GET /path`; `grep: regex` keeps matching lines, `pick: [dotted.path[]]` parts of JSON, `show` parts of the answer."""
    words = step["admin"].split(" ", 1)
    method, path = words if len(words) == 2 else ("GET", words[0])

    def ask():
        status, headers, body = run.proxy.get(path, method, step.get("body", "").encode() or None)
        seen = {"status": status, "headers": client.listed([h for h in headers if h[0].lower() not in ("date", "content-length", "transfer-encoding")])}
        seen["body"] = admin_body(step, body)
        return {k: v for k, v in seen.items() if k in step.get("show", "status headers body").split()}

    return run.settle(ask) if step.get("settle", True) else ask()


def admin_body(step: dict, body: bytes):
    """The part of an admin response that a step compares."""
    if "pick" in step:
        tree = json.loads(body)
        return {path: pick(tree, path.split(".")) for path in ([step["pick"]] if isinstance(step["pick"], str) else step["pick"])}
    whole = body.decode("latin-1")
    if whole.startswith("{") and "grep" not in step:
        return json.loads(json.dumps(json.loads(whole), sort_keys=True))  # Envoy shuffles the keys of its objects
    if "grep" in step:
        found = [line for line in whole.split("\n") if re.search(step["grep"], line)]
        found = [line.rpartition(": ")[0] for line in found] if step.get("names") else found
        return sorted(found) if step.get("sorted", True) else found
    return whole.split("\n") if "\n" in whole.rstrip("\n") else whole


def pick(tree, path: list):
    """`a.b[].c` in JSON; what is missing is null."""
    if not path:
        return tree
    name, *rest = path
    if name == "*":
        return {k: pick(v, rest) for k, v in tree.items()}
    many = name.endswith("[]")
    inner = tree.get(name.removesuffix("[]")) if isinstance(tree, dict) else None
    if many:
        return [pick(one, rest) for one in inner or []]
    return pick(inner, rest) if inner is not None else None


def stats(run, step: dict):
    """`stats: regex` (or several): the matching lines of /stats once they have settled; `all: true` shows zeros too."""
    return run.settle(lambda: run.stats(step["stats"], step.get("all", False)))


def seen(run, step: dict):
    """`seen: backend`: what a backend saw since the last look; `sorted: true` where the order is open."""
    backend = run.backends[step["seen"]]
    start = run.looked.get(step["seen"], 0)

    def look():
        with backend.lock:
            found = list(backend.seen[start:])
        return sorted(found, key=lambda one: normalise.without_ids(str(one))) if step.get("sorted") else found

    result = run.settle(look)
    run.looked[step["seen"]] = start + len(result)
    return result


def queries(run, step: dict) -> list:
    """`queries: dns`: the different questions a name server got since the last look; `each: true`: all of them in their order,
    with their EDNS record and, in whole seconds, how long after the one before they came; `each: sorted`: by name, without the times and cookies."""
    server = run.backends[step["queries"]]
    start = run.looked.get(step["queries"], 0)

    def each():
        times = [at for at, _ in server.details]
        gaps = [""] + [f", {round(after - before)} s later" if after - before >= 0.5 else "" for before, after in zip(times, times[1:])]
        lines = zip(server.seen, server.details, gaps)
        if step["each"] == "sorted":
            return sorted(f"{one}, {edns.removesuffix(', cookie')}" for one, (_, edns), _ in list(lines)[start:])
        return [f"{one}, {edns}{gap}" for one, (_, edns), gap in list(lines)[start:]]

    def look():
        with server.lock:
            return each() if "each" in step else sorted(set(server.seen[start:]))

    result = run.settle(look)
    run.looked[step["queries"]] = len(server.seen)
    return result


def connections(run, step: dict):
    """`connections: backend`: how many were made, how many are open."""
    backend = run.backends[step["connections"]]
    return run.settle(lambda: {"accepted": backend.accepted, "open": backend.open})


def log(run, step: dict):
    """`log: file`: the lines of an access log (or another file of the case) since the last look; `first: N` shows no more than N of a log that
    grows, `words: N` no more than N words of each line."""
    return run.settle(lambda: [" ".join(line.split(" ")[:step.get("words")]) for line in run.lines(step["log"])[:step.get("first")]])


def wait(run, step: dict):
    """`wait:` until a `stat: {name: value}` holds (`>N` for more than N), `ready: 200|503`, `seen: {backend: N}`, `open: {backend: N}`,
    `queries: {dns: N}`, `lines: {file: N}`, `refused: listener`, or the process is `gone: true`; `for: seconds`, 8 by default. Not coming is an observation."""
    conditions = {key: value for key, value in step["wait"].items() if key != "for"}

    def met():
        return all(CONDITIONS[key](run, value) for key, value in conditions.items())

    came = backends.wait_until(met, 2 if run.differs else step["wait"].get("for", WAIT))
    return None if came else f"did not come: {conditions}, but {run.facts(conditions)}"


def stat_holds(run, wanted: dict) -> bool:
    """Whether each stat has its value."""
    values = run.stat_values()
    for name, value in wanted.items():
        now = values.get(name, 0)
        good = now > int(value[1:]) if isinstance(value, str) and value.startswith(">") else now == value
        if not good:
            return False
    return True


def ready_is(run, value: int) -> bool:
    """Whether /ready answers that status."""
    try:
        return run.proxy.get("/ready")[0] == value
    except OSError:
        return False


def refuses(run, name: str) -> bool:
    """Whether connections to the address are refused."""
    try:
        client.connect(run.address(name)).close()
        return False
    except OSError:
        return True


CONDITIONS = {
    "stat": stat_holds,
    "ready": ready_is,
    "seen": lambda run, value: all(len(run.backends[name].seen) >= count for name, count in value.items()),
    "queries": lambda run, value: all(len(run.backends[name].seen) - run.looked.get(name, 0) >= count for name, count in value.items()),
    "open": lambda run, value: all(run.backends[name].open == count for name, count in value.items()),
    "lines": lambda run, value: all(len(run.lines(name)) >= count for name, count in value.items()),
    "refused": lambda run, name: refuses(run, name),
    "gone": lambda run, _value: run.proxy.process.poll() is not None,
}


def dns(run, step: dict) -> None:
    """`dns: {server: {name: entry}}`: changes records; `null` removes one."""
    for server, records in step["dns"].items():
        with run.backends[server].lock:
            run.backends[server].records = {k: v for k, v in {**run.backends[server].records, **records}.items() if v is not None}


def replies(run, step: dict) -> None:
    """`replies: {backend: {path: reply}}`: an HTTP backend answers these paths in another way from now on."""
    for name, changed in step["replies"].items():
        spec = run.backends[name].spec
        spec["replies"] = {**spec.get("replies", {}), **changed}


def health(run, step: dict) -> None:
    """`health: {backend: {service: STATUS}}`: what the health service of a gRPC backend says from now on."""
    for name, changed in step["health"].items():
        run.backends[name].health = {**run.backends[name].health, **changed}


def xds(run, step: dict) -> None:
    """`xds: {backend: {…}}`: a control plane changes its resources (`cds: {version: …, resources: […]}`), sends `raw` responses, ends its
    streams (`end: 14 gone`), or refuses new ones (`refuse: 7 no`, or null)."""
    for name, what in step["xds"].items():
        run.backends[name].change(what)


def pod(run, step: dict) -> None:
    """`stop: {backend: address}` and `start: {backend: address}`: a pod of a gRPC backend dies or comes back."""
    for word, act in (("stop", "stop_pod"), ("start", "start_pod")):
        for name, host in step.get(word, {}).items():
            getattr(run.backends[name], act)(host)


def send_signal(run, step: dict) -> None:
    """`signal: TERM`."""
    os.kill(run.proxy.process.pid, getattr(signal, f"SIG{step['signal']}"))


def ended(run, _step: dict):
    """`exit:` waits for the process to end: its exit code."""
    try:
        return {"code": run.proxy.process.wait(15)}
    except subprocess.TimeoutExpired:
        return "still running"


def execute(run, step: dict) -> dict:
    """`run: [flags]`: the binary once, to its end; `<config>` is the case's file. `grep` keeps matching lines of stdout, `stderr` of stderr."""
    env = {**os.environ, **step.get("env", {})}
    words = [run.binary, *[str(w) for w in step["run"]]]
    done = subprocess.run(words, cwd=run.folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, preexec_fn=die_with_parent)
    result = {"exit": done.returncode, "stdout": text.lines(done.stdout)}
    if "grep" in step:
        result["stdout"] = [line for line in done.stdout.decode("latin-1").split("\n") if re.search(step["grep"], line)]
    if "stderr" in step:
        result["stderr"] = [line for line in done.stderr.decode("latin-1").split("\n") if re.search(step["stderr"], line)]
    run.notes.append((done.stdout + done.stderr).decode("utf-8", "replace")[-2000:])
    return result


def validate(run, step: dict) -> dict:
    """`validate:` a config with a mistake, as `proxy:` (the short form), `config:` or `text:`, or the `file:` that is not there; `names` are
    words that the message must hold. Nothing is compared word by word: each proxy's message is recorded for itself."""
    what = step["validate"]
    name = what.get("file", "bad.yaml")
    if "text" in what:
        (run.folder / name).write_bytes(text.payload(what["text"]))
    elif "file" not in what:
        whole = what["config"] if "config" in what else bootstrap.expand({"log": False, **what["proxy"]}, {})
        (run.folder / name).write_text(json.dumps(whole, indent=1))
    words = [run.binary, "--mode", "validate", "-l", "critical", "-c", str(run.folder / name), *what.get("flags", [])]
    done = subprocess.run(words, cwd=run.folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, preexec_fn=die_with_parent)
    said = message_of((done.stdout + done.stderr).decode("utf-8", "replace"))
    plain = "".join(said).replace(str(run.folder), "").lower().replace("_", "")
    named = [word for word in step.get("names", "").split() if word.lower().replace("_", "") in plain]
    return {"exit": done.returncode, "names": named, "said": said}


def message_of(said: str) -> list:
    """A config error in lines: without the log's prefix, and without the dumps in Envoy's, whose order and white space are random."""
    said = re.sub(r"(?m)^\[[^]]*\]\[\d+\]\[critical\]\[\w+\] \[[^]]*\] ", "", said).strip()
    said = re.sub(r"goo\.gle/debug\w+.*?(?=Proto constraint|$)", "", said, flags=re.DOTALL)
    said = re.sub(r"(?s)\): \{\".*$", ")", said)
    said = re.sub(r"near\s+\d+:\d+\s+\(offset\s+\d+\)", "near <place>", said)
    lines = [re.sub(r"\s+", " ", line).strip() for line in said.split("\n") if line.strip()]
    lines = [re.sub(r"\.\w+: [^:]*, near <place>: '\w+' has already", ".<either>: near <place>: '<either>' has already", line) for line in lines]
    return lines


def write(run, step: dict) -> None:
    """`write: {name: text}`: a file in the case's folder."""
    for name, content in step["write"].items():
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def certs(run, step: dict) -> None:
    """`certs: {name: server.pem}`: files of `conformance/certs` in the case's folder, each put in place by a rename."""
    for name, source in step.get("certs", {}).items():
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / "new-file").write_bytes((tls.CERTS / source).read_bytes())
        (run.folder / "new-file").rename(run.folder / name)


def link(run, step: dict) -> None:
    """`link: {name: target}`: links in the case's folder, each put in place by a rename."""
    for name, target in step["link"].items():
        (run.folder / "new-link").symlink_to(run.folder / target)
        (run.folder / "new-link").rename(run.folder / name)


def rename(run, step: dict) -> None:
    """`rename: {old: new}`: files in the case's folder."""
    for old, new in step["rename"].items():
        (run.folder / old).rename(run.folder / new)


def close(run, step: dict) -> None:
    """`close: name`: ends a connection that steps shared by `via: name`."""
    conn = run.conns.pop(step["close"], None)
    if conn is not None:
        hang_up(conn)
    channel = run.channels.pop(step["close"], None)
    if channel is not None:
        channel.close()


def begin(run, step: dict) -> None:
    """`begin: {name: step}`: starts steps without waiting; `finish: name` is their observation."""
    for name, inner in step["begin"].items():
        run.background[name] = run.pool.submit(perform, run, inner)


def curl(run, step: dict) -> dict:
    """`curl: [flags]`: curl against a listener, for the name `server.test`; its exit code, and the version, status and body."""
    host, port = run.address(step.get("to", "ingress"))
    words = ["curl", "--silent", "--max-time", "10", "--write-out", "|%{http_version} %{http_code}", "--resolve", f"server.test:{port}:{host}",
             *[str(word) for word in step["curl"]], f"https://server.test:{port}/"]
    done = subprocess.run(words, cwd=tls.CERTS, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, preexec_fn=die_with_parent)
    body, _, facts = done.stdout.decode("latin-1").rpartition("|")
    return {"exit": done.returncode, "seen": facts, "body": text.lines(body.encode("latin-1"))[:1]}


def s_client(run, step: dict) -> list:
    """`s_client: [flags]`: OpenSSL's client against a listener, which sends `send` and then nothing; what matches `grep` in its lines."""
    host, port = run.address(step.get("to", "ingress"))
    words = ["openssl", "s_client", "-connect", f"{host}:{port}", *[str(word) for word in step["s_client"]]]
    sent = step.get("send", "").replace("\n", "\r\n").encode()
    done = subprocess.run(words, cwd=tls.CERTS, input=sent, capture_output=True, timeout=20, preexec_fn=die_with_parent)
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    found = [re.search(step["grep"], line) for line in lines]
    return [one[0].strip() for one in found if one]


def hellos(run, step: dict):
    """`hello: {sni: …}` (or a list of them): a ClientHello by hand, and what the server answers in the clear, as `harness/tls_hello.py` has it."""
    several = step["hello"] if isinstance(step["hello"], list) else [step["hello"]]
    return [tls_hello.ask(client.connect(run.address(step.get("to", "ingress")), step.get("from")), one or {}) for one in several]


def handshakes(run, step: dict):
    """`handshake: {sni: …}` (or a list of them): TLS handshakes and nothing else, as `harness/tls.py` has them; `to`, `from`."""
    several = step["handshake"] if isinstance(step["handshake"], list) else [step["handshake"]]
    connect = lambda one: client.connect(run.address(one.get("to", step.get("to", "ingress"))), step.get("from"))
    return [tls.handshake(connect(one or {}), one or {}, run.sessions) for one in several]


def finish(run, step: dict):
    """The observation of a step that `begin` started."""
    return run.background.pop(step["finish"]).result(20)


def parallel(run, step: dict) -> list:
    """`parallel: [steps]`: all at once; their observations in the order written."""
    started = [run.pool.submit(perform, run, inner) for inner in step["parallel"]]
    return [one.result(20) for one in started]


def perform(run, step):
    """Performs a step. Its first key that is in the table selects the function."""
    if isinstance(step, str):
        step = {"http": step} if " /" in step or " *" in step else {step: None}
    word = next((key for key in step if key in WORDS), None)
    if word is None:
        raise ValueError(f"no such step: {step}")
    return WORDS[word](run, step)


WORDS = {
    "http": http, "requests": requests, "raw": raw, "h2": frames, "grpc": grpc, "admin": admin, "stats": stats, "seen": seen, "queries": queries,
    "connections": connections, "log": log, "wait": wait, "dns": dns, "stop": pod, "start": pod, "signal": send_signal, "exit": ended,
    "run": execute, "validate": validate, "write": write, "rename": rename, "link": link, "certs": certs, "close": close, "begin": begin, "finish": finish, "parallel": parallel,
    "sockets": lambda run, step: run.settle(lambda: sockets.look(run, step)),
    "handshake": handshakes,
    "hello": hellos,
    "curl": curl, "s_client": s_client,
    "cut": lambda run, step: run.backends[step["cut"]].cut(),
    "release": lambda run, step: run.backends[step["release"]].held.set(),
    "replies": replies, "health": health, "xds": xds,
}
