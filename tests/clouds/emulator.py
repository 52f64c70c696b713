"""What all emulated clouds share: a server on loopback with a log of every
request, faults on demand, and validation against the vendor's own model.

A cloud is a subclass of `Cloud` in a program of its own, ended by `serve(...)`.
It prints one line of JSON with its port, then answers until its standard input
closes, so that it never outlives the test that started it.

Paths under `/_/` are the test's: log, faults, holding answers back.
"""

import email.utils
import json
import os
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Request:
    """A request as it came, with what the cloud calls it."""

    method: str
    path: str
    query: str
    headers: dict
    body: bytes
    action: str = ""
    facts: dict = field(default_factory=dict)


@dataclass
class Reply:
    status: int
    body: bytes = b""
    headers: dict = field(default_factory=dict)


class Cloud:
    """What a subclass says of its vendor."""

    def read(self, request: Request) -> None:
        """Sets `action` and `facts`, which go into the log. No secrets."""
        request.action = f"{request.method} {request.path}"

    def is_read(self, request: Request) -> bool:
        """Whether a request changes nothing."""
        return request.method == "GET"

    def violations(self, request: Request) -> list:
        """What the vendor's model says against a request; empty when it is right."""
        return []

    def reply_violations(self, request: Request, reply: Reply) -> list:
        """The same for our own answers."""
        return []

    def answer(self, request: Request) -> Reply:
        raise NotImplementedError

    def control(self, path: str, given: object) -> object:
        """Further paths under `/_/`, for what only this cloud has."""
        raise KeyError(path)

    def forked(self) -> None:
        """Called in a copy of the process, which has no thread but one."""

    def fault(self, request: Request, fault: dict) -> Reply:
        """A fault in the vendor's own form: `status`, `code`, `message`."""
        body = json.dumps({"code": fault.get("code", ""), "message": fault.get("message", "")})
        return Reply(fault["status"], body.encode(), dict(fault.get("headers", {})))


class Gate:
    """Order, log and faults around a cloud."""

    def __init__(self, cloud: Cloud, latency: float):
        self.cloud = cloud
        self.latency = latency
        self.lock = threading.Condition()
        self.log: list = []
        # How often each thing was read.
        self.reads: dict = {}
        # Requests that count where a test has one after the other held back.
        self.counted = 0
        self.faults: list = []
        self.hold_at: int | None = None
        self.held = False
        # Seconds that the vendor's clock is ahead.
        self.skew = 0.0
        # Requests that are being answered.
        self.inside = 0

    def take(self, request: Request) -> tuple:
        """Logs a request and finds the fault that it meets, if any."""
        self.cloud.read(request)
        wrong = self.cloud.violations(request)
        with self.lock:
            # A launcher that looks again until something is done is the same after the
            # third look as after the second.
            looks = 0
            if self.cloud.is_read(request):
                key = (request.action, request.path, request.query, request.body)
                looks = self.reads[key] = self.reads.get(key, 0) + 1
            if looks <= 2:
                self.counted += 1
            entry = {
                "n": self.counted,
                "action": request.action,
                "facts": request.facts,
                "violations": wrong,
                "at": time.monotonic(),
            }
            self.log.append(entry)
            found = None
            for fault in self.faults:
                where = fault.get("where", {})
                if fault.get("action") not in (None, request.action):
                    continue
                if any(str(request.facts.get(k)) != str(v) for k, v in where.items()):
                    continue
                if fault.get("skip", 0) > 0:
                    fault["skip"] -= 1
                    continue
                if fault.get("times", 1) <= 0:
                    continue
                if random.random() >= fault.get("share", 1.0):
                    continue
                fault["times"] = fault.get("times", 1) - 1
                found = fault
                break
        return entry, found

    def handle(self, request: Request) -> Reply | None:
        with self.lock:
            self.inside += 1
        try:
            return self.handled(request)
        finally:
            with self.lock:
                self.inside -= 1
                self.lock.notify_all()

    def fork(self) -> dict:
        """The cloud as it is now, in a process and at a port of its own: what is done
        to one of the two is not done to the other. It ends with this one, or when
        `/_/end` is asked for."""
        # Nobody may be in the middle of anything: locks would stay locked over there.
        if not self.lock.wait_for(lambda: self.inside == 0, timeout=30):
            raise TimeoutError("requests that do not end")
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(ours)
                self.cloud.forked()
                port = start(Gate(self.cloud, self.latency))
                os.write(theirs, str(port).encode())
                os.close(theirs)
                while os.read(0, 4096):
                    pass
            finally:
                os._exit(0)
        os.close(theirs)
        threading.Thread(target=os.waitpid, args=(child, 0), daemon=True).start()
        with os.fdopen(ours) as pipe:
            return {"port": int(pipe.read())}

    def handled(self, request: Request) -> Reply | None:
        entry, fault = self.take(request)
        if self.latency:
            time.sleep(self.latency)
        began = time.monotonic()
        if fault is None:
            reply = self.cloud.answer(request)
            # What no cloud would need, for benchmarks.
            entry["took"] = time.monotonic() - began
        elif fault.get("late"):
            # Carried out, but the answer is a fault.
            self.cloud.answer(request)
            reply = self.cloud.fault(request, fault)
        elif fault.get("drop"):
            reply = None
        else:
            reply = self.cloud.fault(request, fault)
        if reply is not None:
            entry["status"] = reply.status
            if fault is None:
                entry["violations"] += self.cloud.reply_violations(request, reply)
        with self.lock:
            if self.hold_at is not None and entry["n"] >= self.hold_at:
                # The call was carried out; nobody hears of it.
                self.held = True
                self.lock.notify_all()
                while self.hold_at is not None:
                    self.lock.wait(1.0)
        return reply

    def control(self, path: str, body: bytes) -> object:
        given = json.loads(body) if body else None
        with self.lock:
            if path == "/_/log":
                return self.log
            if path == "/_/reset":
                self.log, self.faults, self.hold_at, self.held = [], [], None, False
                self.reads, self.counted = {}, 0
                self.lock.notify_all()
            elif path == "/_/faults":
                self.faults = given
            elif path == "/_/clock":
                self.skew = float(given)
            elif path == "/_/seed":
                random.seed(given)
            elif path == "/_/latency":
                self.latency = float(given)
            elif path == "/_/hold":
                # Answers of this call and of all later ones are held back.
                self.hold_at, self.held = given, False
            elif path == "/_/held":
                self.lock.wait_for(lambda: self.held, timeout=float(given or 0))
                return self.held
            elif path == "/_/release":
                self.hold_at, self.held = None, False
                self.lock.notify_all()
            elif path == "/_/fork":
                return self.fork()
            elif path == "/_/end":
                threading.Timer(0.1, os._exit, (0,)).start()
            else:
                return self.cloud.control(path, given)
        return True


def handler(gate: Gate):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def any(self):
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length)
            path, _, query = self.path.partition("?")
            if path.startswith("/_/"):
                self.send(Reply(200, json.dumps(gate.control(path, body)).encode()))
                return
            headers = {k.lower(): v for k, v in self.headers.items()}
            try:
                reply = gate.handle(Request(self.command, path, query, headers, body))
            except Exception as e:  # The emulator's own fault must not look like the cloud's.
                print(f"emulator: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
                gate.log[-1:] and gate.log[-1]["violations"].append(f"emulator broke: {type(e).__name__}: {e}")
                reply = Reply(500, b"emulator broke")
            if reply is None:
                self.close_connection = True
                return
            if gate.skew:
                reply.headers = {**reply.headers, "date": email.utils.formatdate(time.time() + gate.skew, usegmt=True)}
            self.send(reply)

        def send(self, reply: Reply):
            try:
                if any(name.lower() == "date" for name in reply.headers):
                    # A cloud with a clock of its own.
                    self.send_response_only(reply.status)
                else:
                    self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = any

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # Launchers are killed here all the time.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def start(gate: Gate) -> int:
    """Answers on a port of its choice."""
    server = Server(("127.0.0.1", 0), handler(gate))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def serve(cloud: Cloud, latency: float = 0.0) -> None:
    """Answers until standard input closes."""
    print(json.dumps({"port": start(Gate(cloud, latency))}), flush=True)
    sys.stdin.read()
