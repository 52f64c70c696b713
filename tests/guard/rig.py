"""What the guard's tests are made with: real Dask processes, a fake agent, TLS probes."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

from cryptography import x509

GUARD = Path(__file__).parents[2] / "agent/src/dask/herdsman_guard.py"
PRELOAD = GUARD.with_name("herdsman_preload.py")
DEADLINE = 60  # seconds; generous, as the machine may be busy


def wait_until(condition, what, timeout=DEADLINE):
    """The first true value of the condition; fails with the last false one."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {timeout} s: {what} (last: {value!r})"
        time.sleep(0.05)
    return value


class Dask:
    """A scheduler or worker started from the command line, in a process group of its own."""

    def __init__(self, role, name, folder, args, env):
        self.log_path = folder / f"{name}-{time.monotonic_ns()}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("DASK_", "HERDSMAN_"))}
        environment.update(env, PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1")
        environment["PYTHONPATH"] = str(Path(__file__).parent)  # for tasks.py
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{role}", *map(str, args)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    def find(self, pattern):
        """Wait for a line in the log."""

        def look():
            found = re.search(pattern, self.log)
            assert found or self.process.poll() is None, f"Dask has ended:\n{self.log}"
            return found

        return wait_until(look, f"{pattern} in the log of {self.log_path.name}:\n{self.log}")

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def stop(self):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        self.signal(signal.SIGKILL)
        self.process.wait(15)


class Rig:
    """Starts Dask with and without the guard, and ends all of it."""

    def __init__(self, pki, folder, agent=None, **settings):
        self.pki, self.folder, self.agent, self.started = pki, folder, agent, []
        self.settings = {"INTERVAL": "0.2", **settings}
        if agent:
            self.settings["SOCKET"] = agent.path
        self.address = None

    def env(self, extra):
        settings = {"FILE": GUARD, **self.settings, **extra}
        return {f"HERDSMAN_GUARD_{k}": str(v) for k, v in settings.items()}

    def start(self, role, name, *args, guard=True, cert=None, key=None, config=(), **settings):
        issuer = self.pki.sched if role == "scheduler" else self.pki.node
        cert = cert or self.pki.write(f"{name}-{id(self)}", issuer.issue(name))
        tls = ["--tls-ca-file", self.pki.ca, "--tls-cert", cert]
        tls += ["--tls-key", key] if key else []
        preload = ["--preload", PRELOAD] if guard else []
        if guard and role == "worker":
            preload += ["--preload-nanny", PRELOAD]
        env = {**self.env(settings), **dict(config)}
        dask = Dask(role, name, self.folder, [*args, *tls, *preload], env)
        self.started.append(dask)
        dask.cert = cert
        return dask

    def scheduler(self, name="scheduler", **kwargs):
        """Start a scheduler and wait until it listens."""
        web = ["--dashboard-address", "127.0.0.1:0", "--no-dashboard"]
        dask = self.start("scheduler", name, "--host", "tls://127.0.0.1", "--port", 0, *web, **kwargs)
        self.address = dask.address = dask.find(r"Scheduler at: +(tls://\S+)")[1]
        return dask

    def worker(self, name, *args, **kwargs):
        args = ["--name", name, "--nthreads", 1, "--host", "127.0.0.1", *args]
        args += ["--dashboard-address", "127.0.0.1:0", "--no-dashboard", "--memory-limit", "1GiB"]
        args += ["--local-directory", self.folder / f"scratch-{name}"]
        return self.start("worker", name, self.address, *args, **kwargs)

    def client(self, cert=None, **kwargs):
        from distributed import Client
        from distributed.security import Security

        cert = cert or self.pki.client()[1]
        security = Security(
            tls_ca_file=self.pki.ca, tls_client_cert=cert, require_encryption=True
        )
        return Client(self.address, security=security, timeout=DEADLINE, **kwargs)

    def stop(self):
        for dask in reversed(self.started):
            dask.process.terminate()
        for dask in self.started:
            dask.stop()


class Peer:
    """One connection of a guard to the fake agent."""

    def __init__(self, agent, connection):
        self.agent, self.connection, self.messages = agent, connection, []
        self.open = True
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        with contextlib.suppress(OSError), self.connection.makefile("rb") as lines:
            for line in lines:
                assert len(line) <= 1 << 20
                message = json.loads(line)
                assert len(message) == 1
                self.messages.append((time.monotonic(), *message.items()))
        self.open = False

    def all(self, kind):
        return [value for _, (name, value) in list(self.messages) if name == kind]

    @property
    def hello(self):
        return next(iter(self.all("hello")), None)

    def write(self, line):
        self.connection.sendall(line)

    def call(self, op, within=DEADLINE, **arguments):
        """The reply, whole; calls are numbered over all connections."""
        number = self.agent.number()
        self.write(json.dumps({"call": {"id": number, "op": op, **arguments}}).encode() + b"\n")
        replies = wait_until(
            lambda: [r for r in self.all("reply") if r["id"] == number], f"reply to {op}", within
        )
        return replies[0]

    def ok(self, op, **arguments):
        reply = self.call(op, **arguments)
        assert "ok" in reply, reply
        return reply["ok"]


class FakeAgent:
    """The agent's end of the link: listens on a unix socket, and keeps what it is told."""

    def __init__(self, path):
        self.path, self.peers, self.calls = str(path), [], 0
        self.lock = threading.Lock()
        self.start()

    def start(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen(64)
        threading.Thread(target=self.accept, args=(self.socket,), daemon=True).start()

    def accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                self.peers.append(Peer(self, listener.accept()[0]))

    def stop(self):
        os.unlink(self.path)
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.connection.shutdown(socket.SHUT_RDWR)
            peer.connection.close()
        self.peers = []

    def number(self):
        with self.lock:
            self.calls += 1
            return self.calls

    def peer(self, kind, name=None, but=(), **fields):
        """Wait for a live guard of that kind (and name) and return it."""

        def look():
            for peer in reversed(self.peers):
                hello = peer.open and peer not in but and peer.hello
                if hello and hello["kind"] == kind and name in (None, hello["name"]):
                    return peer

        return wait_until(look, f"hello of a {kind} {name or ''}")


class Probe:
    """One TLS connection to a Dask listener, as far as the first byte that Dask sends.

    Dask writes first on a new connection, and TLS tickets come before that, so `served` says
    whether the peer was let in, and `session` holds the ticket if one was handed out.
    """

    def __init__(self, address, ca, cert=None, context=None, session=None, timeout=DEADLINE):
        host, port = address.removeprefix("tls://").rsplit(":", 1)
        self.context = context or tls_client(ca, cert)
        self.served, self.reused, self.session, self.serial, self.error = False, None, None, None, ""
        try:
            with socket.create_connection((host, int(port)), timeout) as plain:
                with self.context.wrap_socket(plain, session=session) as tls:
                    self.reused = tls.session_reused
                    shown = x509.load_der_x509_certificate(tls.getpeercert(True))
                    self.serial = shown.serial_number
                    self.served = bool(tls.recv(1))
                    self.session = tls.session
        except OSError as error:
            self.error = str(error)

    @property
    def ticket(self):
        return bool(self.session and self.session.has_ticket)

    def again(self, address):
        """Come back with the session of this probe."""
        return Probe(address, None, context=self.context, session=self.session)


def tls_client(ca, cert):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(ca)
    if cert:
        context.load_cert_chain(cert)
    return context
