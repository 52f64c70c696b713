"""Dask's guard: a preload for scheduler, workers and nannies of a herdsman cluster.

It does two things. It keeps Dask's TLS honest: no session tickets (a ticket outlives the
expiry and the revocation of the certificate it was given for), TLS 1.3, a deadline for
handshakes, and certificate, roots and CRL loaded again into the contexts in use when their
files change. And it links Dask with the agent of its node over a unix socket.

What safety rests on is done while this file is imported, because Dask goes on without a
preload whose `dask_setup` failed, but not without one that could not be imported. Dask imports
a preload twice or more into one namespace, so what must survive that is kept on the class
that is patched (`Security.herdsman_guard`).

Rules for whoever writes the files: replace them by rename; a CRL bundle holds one CRL for each
issuer of leaves; a newer CRL's nextUpdate is never before that of an older one, as OpenSSL
falls back to the older one otherwise. A root that was loaded once stays until the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import math
import os
import platform
import random
import re
import ssl
import tempfile
import time
import weakref

import dask
import distributed


class GuardError(ImportError):
    """The guard cannot do its work here; raised at import, so that Dask does not start."""


try:
    from distributed import Nanny, Scheduler, Worker
    from distributed.active_memory_manager import RetireWorker
    from distributed.comm import tcp as dask_tcp
    from distributed.diagnostics.plugin import SchedulerPlugin
    from distributed.security import Security
except ImportError as missing:
    raise GuardError(f"herdsman guard: distributed {distributed.__version__}: {missing}") from None

logger = logging.getLogger("distributed.herdsman")

PROTOCOL = 1  # of the link with the agent
MAX_LINE = 1 << 20  # bytes of one message, either way
MAX_PENDING = 4 << 20  # bytes the agent may leave unread before the link is dropped
MAX_CALLS = 64  # calls of the agent at work at the same time
MAX_WORKERS = 2000  # workers described in one message
FIRST_RETRY, LAST_RETRY = 0.2, 5.0  # seconds between attempts to reach the agent
TICK = 0.5  # seconds between looks at what may be worth a report
REPORT_EVERY, REPORT_AT_LEAST = 2.0, 10.0  # seconds
REPORT_SHARE = 200  # a report that took t seconds is followed by at least 200 t without one
MEMORY_STEP = 32 << 20  # bytes by which a worker's memory must move to be news
READS = 50  # of files that change while they are read
HEALTH_EVERY = 12  # looks at the files between two proofs that peers would still accept us
TASK_STATES = ("waiting", "processing", "memory", "erred", "released", "queued", "no-worker")

# X.509 verification results (x509_vfy.h) that get a name of their own in a problem.
VERIFY_PROBLEMS = {
    3: "crl-missing",
    9: "cert-not-yet-valid",
    10: "cert-expired",
    12: "crl-stale",
    23: "cert-revoked",
}
# Those which say that a CRL itself is unfit: such a bundle is not loaded.
CRL_FAULTS = {3, 5, 8, 11, 15, 16, 33, 35, 36, 44}


def _seconds(name, default):
    text = os.environ.get(name) or default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise GuardError(f"herdsman guard: {name}={text!r} is not a number of seconds")
    return value


SOCKET = os.environ.get("HERDSMAN_GUARD_SOCKET")
INTERVAL = _seconds("HERDSMAN_GUARD_INTERVAL", "5")
HANDSHAKE = _seconds("HERDSMAN_GUARD_HANDSHAKE", "10")
CRL = os.environ.get("HERDSMAN_GUARD_CRL")
TLS = os.environ.get("HERDSMAN_GUARD_TLS", "1") != "0"  # anything but a plain 0 is the safe side
NODE = os.environ.get("HERDSMAN_GUARD_NODE")


# --- what survives a second import --------------------------------------------------------


class Shared:
    """State of this process: the contexts in use and what is known about their files."""

    def __init__(self):
        self.originals = {}
        self.contexts = weakref.WeakKeyDictionary()  # SSLContext -> Identity or None (unknown)
        self.foreign = weakref.WeakSet()  # contexts of other clusters, used by user code: not ours
        self.ca = None  # the CA file that makes a context ours
        self.crl = None  # CRL bundle in force, bytes
        self.crl_mark = None
        self.problems = {}  # code -> message, as long as the problem lasts
        self.links = weakref.WeakSet()


class Identity:
    """Certificate, key and CA as Dask was given them; mark is None until all contexts agree."""

    def __init__(self, security, tls, mark):
        self.security, self.tls, self.mark = security, dict(tls), mark

    def files(self):
        return _files(self.tls)

    def contexts(self):
        return [c for c, identity in list(SHARED.contexts.items()) if identity is self]

    def listener(self):
        servers = (c for c in self.contexts() if c.protocol == ssl.PROTOCOL_TLS_SERVER)
        return next(servers, None)


if "herdsman_guard" not in vars(Security):
    Security.herdsman_guard = Shared()
SHARED = Security.herdsman_guard


def _identities():
    return set(SHARED.contexts.values()) - {None}


# --- contexts: no tickets, TLS 1.3, CRL ---------------------------------------------------


def _files(tls):
    """Paths of an identity; PEM text given in place of a path cannot change."""
    values = (tls.get("ca_file"), tls.get("cert"), tls.get("key"))
    return tuple(v for v in values if v and "\n" not in v)


def _mark(*paths):
    """What changes whenever one of the files is replaced."""
    marks = []
    for path in paths:
        try:
            found = os.stat(path)
            marks.append((found.st_mtime_ns, found.st_size, found.st_ino))
        except OSError:
            marks.append(None)
    return tuple(marks)


@contextlib.contextmanager
def _as_path(data):
    """Bytes as a path that OpenSSL can open, off the disk: what was checked is what is loaded."""
    try:
        fd = os.memfd_create("herdsman-guard")
        path, name = f"/proc/self/fd/{fd}", None
    except (AttributeError, OSError):
        fd, name = tempfile.mkstemp(prefix="herdsman-guard-")
        path = name
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            yield path
    finally:
        if name:
            os.unlink(name)


def _harden(context):
    """num_tickets stops TLS 1.3 tickets, OP_NO_TICKET the stateless ones; it takes both."""
    context.options |= ssl.OP_NO_TICKET
    if context.protocol != ssl.PROTOCOL_TLS_CLIENT:
        context.num_tickets = 0
    if context.maximum_version in (ssl.TLSVersion.MAXIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_3):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if CRL and SHARED.crl is None:
        _renew_crl() if SHARED.contexts else _first_crl()
    if SHARED.crl is not None:
        _apply_crl(context)


def _first_crl():
    """The bundle there is at start; one that is there but cannot be read shuts the door."""
    SHARED.crl_mark = _mark(CRL)
    try:
        with open(CRL, "rb") as file:
            SHARED.crl = file.read()
    except FileNotFoundError:
        SHARED.crl_mark = None
    except OSError:
        SHARED.crl = b""


def _apply_crl(context):
    """Flag first: a context which lacks the CRL it asks for refuses everybody."""
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    try:
        with _as_path(SHARED.crl) as path:
            context.load_verify_locations(path)
    except OSError as error:
        _problem("crl-rejected", f"{CRL} cannot be loaded, all peers are refused: {error}")


def _register(context, security, tls, mark):
    """Contexts of one identity share it; if they saw different files, all load them again."""
    identity = next((i for i in _identities() if i.tls == tls), None)
    if identity is None:
        identity = Identity(security, tls, mark)
    elif identity.mark != mark:
        identity.mark = None
    SHARED.contexts[context] = identity


def _copies(tls, stack):
    """The files of an identity read once each, in the form Security takes."""
    copies = dict(tls)
    for name in ("ca_file", "cert", "key"):
        value = copies.get(name)
        if value and "\n" not in value:
            with open(value, "rb") as file:
                copies[name] = stack.enter_context(_as_path(file.read()))
    return copies


def _make_context(security, tls, purpose):
    """OpenSSL opens a bundle twice, for certificate and key: a renewal in between would be a
    certificate with another's key, and a worker that does not start. Gives the files' mark too."""
    for left in reversed(range(READS)):
        mark = _mark(*_files(tls))
        with contextlib.ExitStack() as stack:
            copies = _copies(tls, stack)
            if not left or _mark(*_files(tls)) == mark:
                return SHARED.originals["_get_tls_context"](security, copies, purpose), mark


def _get_tls_context(security, tls, purpose):
    """Security's maker of contexts, guarded. The first one made tells which CA is ours."""
    context, mark = _make_context(security, tls, purpose)
    if context is None:
        return None
    if SHARED.ca is None:
        SHARED.ca = tls["ca_file"]
    if tls["ca_file"] != SHARED.ca:
        SHARED.foreign.add(context)
    else:
        _harden(context)
        _register(context, security, tls, mark)
    return context


def _get_listen_args(security, role):
    """A listener without TLS where TLS is expected must not come up, whatever the reason."""
    args = SHARED.originals["get_listen_args"](security, role)
    if args.get("ssl_context") is None:
        raise RuntimeError(f"herdsman guard: no certificate and CA for the {role}'s listener")
    return {**args, "require_encryption": True}


def _expect_tls_context(connection_args):
    """Every context passes here before use: those made before the guard came are caught here."""
    context = SHARED.originals["_expect_tls_context"](connection_args)
    if context not in SHARED.contexts and context not in SHARED.foreign:
        _harden(context)
        SHARED.contexts[context] = None
    return context


async def _prepare_stream(listener, stream, address):
    """A listener's handshake with a deadline, and no resumed sessions.

    The deadline is two timers, one after the other: when the event loop was held up, the first
    fires late and the peer still has half of its time.
    """
    loop = asyncio.get_running_loop()

    def expire():
        stream.close(exc_info=TimeoutError(f"no TLS handshake within {HANDSHAKE:g} s"))

    def halfway():
        nonlocal timer
        timer = loop.call_later(HANDSHAKE / 2, expire)

    timer = loop.call_later(HANDSHAKE / 2, halfway)
    try:
        ready = await SHARED.originals["_prepare_stream"](listener, stream, address)
    finally:
        timer.cancel()
    if ready is not None and getattr(ready.socket, "session_reused", False):
        logger.warning("refused a resumed TLS session of %s", address)
        ready.close()
        return None
    return ready


def _patch():
    """Put the guards in place; originals are taken once, so that a second import cannot wrap them."""
    places = (
        (Security, "_get_tls_context", _get_tls_context),
        (Security, "get_listen_args", _get_listen_args),
        (getattr(dask_tcp, "TLSListener", None), "_prepare_stream", _prepare_stream),
        (dask_tcp, "_expect_tls_context", _expect_tls_context),
    )
    for owner, name, _ in places:
        if not callable(getattr(owner, name, None)):
            where = getattr(owner, "__name__", "distributed.comm.tcp.TLSListener")
            raise GuardError(
                f"herdsman guard: distributed {distributed.__version__} has no {where}.{name},"
                " Dask is not started without its guard"
            )
    for owner, name, guarded in places:
        SHARED.originals.setdefault(name, getattr(owner, name))
        setattr(owner, name, guarded)


if TLS:
    _patch()


# --- files: look, rehearse, load ----------------------------------------------------------


def _problem(code, message):
    """One line and one message for each new problem, however often it is met."""
    if SHARED.problems.get(code) == message:
        return
    SHARED.problems[code] = message
    logger.warning("%s: %s", code, message)
    for link in list(SHARED.links):
        link.send({"problem": {"code": code, "message": message}})


def _shake_hands(server, client):
    """One TLS handshake in memory: certificates are judged by the very rules of their peers."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, True)]
    for _ in range(8):
        for end in list(ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                ends.remove(end)
    if ends:
        raise ssl.SSLError("the handshake does not come to an end")


def _renew(identity):
    """Load an identity's files into its contexts once they have passed a rehearsal; true if so."""
    mark = _mark(*identity.files())
    make = SHARED.originals["_get_tls_context"]
    try:
        with contextlib.ExitStack() as stack:
            tls = _copies(identity.tls, stack)
            if _mark(*identity.files()) != mark:
                return False  # replaced while they were read; the next look sees them whole
            client = make(identity.security, tls, ssl.Purpose.SERVER_AUTH)
            server = make(identity.security, tls, ssl.Purpose.CLIENT_AUTH)
            if identity.listener():
                _shake_hands(server, client)
            for context in identity.contexts():
                context.load_verify_locations(tls["ca_file"])
                context.load_cert_chain(tls["cert"], tls.get("key"))
    except (OSError, ValueError) as error:
        _problem("cert-rejected", f"{identity.tls['cert']} not taken, the old one stays: {error}")
        return False
    first, identity.mark = identity.mark is None, mark
    SHARED.problems.pop("cert-rejected", None)
    (logger.debug if first else logger.info)("loaded %s", ", ".join(identity.files()))
    return True


def _judge_crl(identity, path):
    """Would a peer that has only this bundle be able to tell that our certificate is good?

    The peer shows no certificate, so our end complains at last; only its own verdict counts.
    A stale bundle and one that revokes us are fit: what they say must hold.
    """
    if not identity.listener():
        return
    peer = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=identity.tls["ca_file"])
    peer.check_hostname = False
    peer.verify_flags &= ~ssl.VERIFY_X509_STRICT
    peer.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    peer.load_verify_locations(path)
    try:
        _shake_hands(identity.listener(), peer)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in CRL_FAULTS:
            raise
    except ssl.SSLError:
        pass


def _renew_crl():
    """Load a new bundle into every context; CRLs are only ever added, so none can be undone."""
    mark = _mark(CRL) if CRL else None
    if mark in (None, (None,), SHARED.crl_mark):
        return
    try:
        with open(CRL, "rb") as file:
            data = file.read()
        if data != SHARED.crl:
            with _as_path(data) as path:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
                for identity in _identities():
                    _judge_crl(identity, path)
            SHARED.crl = data
            for context in list(SHARED.contexts):
                _apply_crl(context)
            logger.info("loaded %s", CRL)
    except (OSError, ValueError) as error:
        _problem("crl-rejected", f"{CRL} not taken, the old one stays: {error}")
        return
    SHARED.crl_mark = mark
    SHARED.problems.pop("crl-rejected", None)


def _check_health():
    """Shake hands with ourselves: a peer would meet an expired certificate or a stale CRL too."""
    found = {}
    for identity in _identities():
        clients = (c for c in identity.contexts() if c.protocol == ssl.PROTOCOL_TLS_CLIENT)
        server, client = identity.listener(), next(clients, None)
        if server is None or client is None:
            continue
        try:
            _shake_hands(server, client)
        except ssl.SSLCertVerificationError as error:
            code = VERIFY_PROBLEMS.get(error.verify_code, "cert-untrusted")
            found[code] = f"peers refuse {identity.tls['cert']}: {error.verify_message}"
        except ssl.SSLError as error:
            found["cert-untrusted"] = f"peers refuse {identity.tls['cert']}: {error}"
    for code in (*VERIFY_PROBLEMS.values(), "cert-untrusted"):
        if code not in found:
            SHARED.problems.pop(code, None)
    for code, message in found.items():
        _problem(code, message)


def check_files(health=False):
    """Take up whatever changed on disk; true if something was loaded."""
    before = SHARED.crl_mark
    stale = [i for i in _identities() if i.mark is None or i.mark != _mark(*i.files())]
    renewed = [_renew(identity) for identity in stale]
    _renew_crl()
    changed = any(renewed) or SHARED.crl_mark != before
    if health or changed:
        _check_health()
    return changed


def _adopt(server, role):
    """Workers and nannies made their outgoing context before the guard was there."""
    context = (server.connection_args or {}).get("ssl_context")
    if isinstance(context, ssl.SSLContext) and SHARED.contexts.get(context) is None:
        _harden(context)
        tls = server.security.get_tls_config_for_role(role)
        _register(context, server.security, tls, None)


# --- what scheduler, worker and nanny can tell and do -------------------------------------


def _number(value):
    """JSON knows no NaN and no infinity."""
    ok = isinstance(value, (int, float)) and math.isfinite(value)
    return value if ok else 0


def _serial_of(comm):
    """Serial of the peer's certificate, hex; None where there is no TLS."""
    peer = getattr(comm, "extra_info", {}).get("peercert") or {}
    return str(peer.get("serialNumber", "")).lower().lstrip("0") or None


class Side:
    """One Dask server as the agent sees it: what it reports, and the calls it obeys."""

    kind = role = "worker"
    at_least = None  # seconds after which a report is due without news; None: no reports at all

    def __init__(self, server, send):
        self.server, self.send = server, send

    def name(self):
        return str(self.server.name) if self.server.name is not None else NODE or ""

    def hello(self):
        """Messages that bring an agent which knows nothing up to date."""
        first = {
            "v": PROTOCOL,
            "kind": self.kind,
            "pid": os.getpid(),
            "address": self.server.address_safe,
            "name": self.name(),
            "dask": dask.__version__,
            "distributed": distributed.__version__,
            "python": platform.python_version(),
        }
        return [{"hello": first}]

    def tick(self):
        """Called every TICK; must cost nothing."""

    def news(self):
        """A cheap value that differs when a report is worth sending."""

    def report(self):
        return None

    async def op_status(self, call):
        return self.report()

    async def op_reload(self, call):
        """Files that were not taken make the answer an error; other problems are only told."""
        changed = TLS and check_files(health=True)
        refused = [m for code, m in SHARED.problems.items() if code.endswith("-rejected")]
        if refused:
            raise RuntimeError("; ".join(refused))
        return {"changed": changed, "problems": dict(SHARED.problems)}

    async def op_cut(self, call):
        """End live connections with these certificates: a CRL is only asked in handshakes."""
        serials = {str(serial).lower().lstrip("0") for serial in call["serials"]}
        doomed = [comm for comm in self._comms() if _serial_of(comm) in serials]
        for comm in doomed:
            comm.abort()
        return {"cut": len(doomed)}

    def _comms(self):
        """Every open connection of this server, whichever end opened it."""
        pool = self.server.rpc
        comms = set(getattr(self.server, "_comms", ()))
        for by_address in (pool.available, pool.occupied):
            comms.update(*by_address.values())
        return {comm for comm in comms if not comm.closed()}

    async def op_close(self, call):
        """Answer first: closing takes this link down."""
        if self.kind == "scheduler":
            raise LookupError("the scheduler is closed by its agent, with a signal")
        self.server.io_loop.add_callback(self._close, float(call.get("timeout", 30)))
        return True

    async def _give_away(self, address, timeout):
        """Have the scheduler move a worker's data; if it does not play along in time, go anyway."""
        stimulus = f"herdsman-close-{time.time()}"
        retire = self.server.scheduler.retire_workers(
            workers=[address], close_workers=False, remove=True, stimulus_id=stimulus
        )
        with contextlib.suppress(asyncio.TimeoutError, OSError):
            await asyncio.wait_for(retire, timeout)


class WorkerSide(Side):
    at_least = math.inf

    def __init__(self, server, send):
        super().__init__(server, send)
        if NODE:  # travels with the registration: the scheduler's guard finds a node's workers by it
            server.startup_information["herdsman"] = lambda worker: {"node": NODE}

    def report(self):
        state, memory = self.server.state, self.server.monitor.quantities["memory"]
        return {
            "executing": state.executing_count,
            "ready": len(state.ready),
            "memory_bytes": int(memory[-1]) if memory else 0,
            "data": len(self.server.data),
        }

    def news(self):
        report = self.report()
        return {**report, "memory_bytes": report["memory_bytes"] // MEMORY_STEP}

    async def _close(self, timeout):
        """Takes its nanny along, if it has one."""
        await self._give_away(self.server.address, timeout)
        await self.server.close(reason="herdsman")


class NannySide(Side):
    kind = "nanny"

    def report(self):
        return {"worker_alive": bool(self.server.is_alive()), "worker": self.server.worker_address}

    async def _close(self, timeout):
        """Its worker gives its data away, is not started again, and then both go."""
        if self.server.worker_address:
            self.server.close_gracefully(reason="herdsman")
            await self._give_away(self.server.worker_address, timeout)
        await self.server.close(reason="herdsman")


class Watcher(SchedulerPlugin):
    """Tells the agent of workers as they come and go. Names are kept, as Dask forgets them first."""

    name = "herdsman-guard"

    def __init__(self, send):
        self.send, self.names = send, {}

    def add_worker(self, scheduler, worker):
        state = scheduler.workers[worker]
        self.names[worker] = str(state.name)
        self.send({"worker_added": describe_worker(state)})

    def remove_worker(self, scheduler, worker, **kwargs):
        name = self.names.pop(worker, worker)
        self.send({"worker_removed": {"name": name, "address": worker}})


def describe_worker(state):
    return {
        "name": str(state.name),
        "address": state.address,
        "nthreads": state.nthreads,
        "memory_limit": state.memory_limit,
    }


def describe_load(state):
    metrics = state.metrics
    return {
        "name": str(state.name),
        "processing": len(state.processing),
        "memory_tasks": len(state.has_what),
        "memory_bytes": _number(metrics.get("memory")),
        "managed_bytes": _number(state.nbytes),
        "spilled_bytes": _number((metrics.get("spilled_bytes") or {}).get("disk")),
        "cpu": _number(metrics.get("cpu")),
        "occupancy": round(_number(state.occupancy), 3),
    }


class SchedulerSide(Side):
    kind = role = "scheduler"
    at_least = REPORT_AT_LEAST

    def __init__(self, server, send):
        super().__init__(server, send)
        self.idle_mark, self.idle_at = None, 0.0
        watcher = Watcher(send)
        watcher.names = {address: str(ws.name) for address, ws in server.workers.items()}
        server.add_plugin(watcher, name=watcher.name)

    def name(self):
        return NODE or "scheduler"

    def hello(self):
        messages = super().hello()
        workers = [describe_worker(ws) for ws in list(self.server.workers.values())]
        messages[0]["hello"]["workers"] = workers[:MAX_WORKERS]
        return messages + [{"worker_added": worker} for worker in workers[MAX_WORKERS:]]

    def tick(self):
        """Dask notes by the wall clock when it became idle; count from then by a clock that is not set."""
        if self.server.idle_since != self.idle_mark:
            self.idle_mark, self.idle_at = self.server.idle_since, time.monotonic()

    def news(self):
        scheduler = self.server
        counts = (scheduler.transition_counter, len(scheduler.workers), len(scheduler.clients))
        return (*counts, self.idle_mark is None)

    def report(self):
        """Counts come from Dask's own per-prefix counters; tasks are never walked."""
        scheduler, counts = self.server, dict.fromkeys(TASK_STATES, 0)
        for prefix in scheduler.task_prefixes.values():
            for state, count in prefix.states.items():
                if state in counts:
                    counts[state] += count
        busy = any(counts[s] for s in ("waiting", "processing", "queued", "no-worker"))
        busy = busy or getattr(scheduler, "_active_graph_updates", 0) > 0
        self.tick()
        idle = time.monotonic() - self.idle_at if self.idle_mark is not None else 0.0
        workers = list(scheduler.workers.values())
        return {
            "tasks": counts,
            "workers": len(workers),
            # Dask's own entry for futures without a client is always there.
            "clients": len(scheduler.clients) - ("fire-and-forget" in scheduler.clients),
            "idle_seconds": None if busy else round(idle, 3),
            "workers_detail": [describe_load(ws) for ws in workers[:MAX_WORKERS]],
        }

    def workers_of(self, name):
        """Workers of a node: by what their guard told, by name, or NAME-0, NAME-1 as Dask names several."""
        several = re.compile(re.escape(name) + r"-\d+")

        def belongs(ws):
            node = (ws.extra.get("herdsman") or {}).get("node") if ws.extra else None
            if node is not None:
                return name in (node, str(ws.name))
            return str(ws.name) == name or several.fullmatch(str(ws.name))

        return [ws for ws in self.server.workers.values() if belongs(ws)]

    async def remove(self, address, why, close=True):
        """Dask's remove_worker, not counted against the tasks that were there."""
        remove = self.server.remove_worker
        expected = "expected" if "expected" in inspect.signature(remove).parameters else "safe"
        stimulus = f"herdsman-{why}-{time.time()}"
        await remove(address, stimulus_id=stimulus, close=close, **{expected: True})

    async def op_forget(self, call):
        """For a revoked node: at once; its connection is cut even if it does not obey."""
        found = {name: self.workers_of(name) for name in _names(call)}
        for ws in {ws.address: ws for workers in found.values() for ws in workers}.values():
            stream = self.server.stream_comms.get(ws.address)
            await self.remove(ws.address, "forget")
            if stream is not None:
                asyncio.get_running_loop().call_later(1, stream.abort)
        return {
            "forgotten": [name for name, workers in found.items() if workers],
            "unknown": [name for name, workers in found.items() if not workers],
        }

    async def op_pick(self, call):
        count = max(0, int(call["n"]))
        return {"names": [str(n) for n in self.server.workers_to_close(n=count, attribute="name")]}

    async def op_processing(self, call):
        return {str(ws.name): len(ws.processing) for ws in self.server.workers.values()}

    async def op_retire(self, call):
        """Let nodes go without losing what they have computed; those that cannot go keep working."""
        timeout = float(call.get("timeout", 60))
        found = {name: self.workers_of(name) for name in _names(call)}
        kept = {}
        idle = bool(call.get("idle"))
        patience = time.monotonic() + (0 if idle else float(call.get("running", 0)))
        if idle:
            for workers in found.values():
                if any(ws.processing or ws.long_running for ws in workers):
                    kept.update((ws.address, "it has got something to do") for ws in workers)
        every = {ws.address: ws.status.name for workers in found.values() for ws in workers}
        status = {address: name for address, name in every.items() if address not in kept}
        pending = set(status)
        try:
            await asyncio.wait_for(self._drain(pending, kept, patience, idle), timeout)
        except asyncio.TimeoutError:
            kept.update(dict.fromkeys(pending, f"its data was not moved within {timeout:g} s"))
        finally:
            self._resume({a: status[a] for a in {*pending, *kept} if a in status})
        answer = {"retired": [], "unknown": [], "kept": []}
        for name, workers in found.items():
            why = next((kept[ws.address] for ws in workers if ws.address in kept), None)
            if why:
                answer["kept"].append({"name": name, "why": why})
            else:
                answer["retired" if workers else "unknown"].append(name)
        return answer

    async def _drain(self, pending, kept, patience, idle=False):
        """Flush, look, remove, in rounds.

        What runs on a worker when it is told to go may end until `patience` is over; a worker
        that is to go starts nothing new, and what only waits on it runs elsewhere. With `idle`, a
        worker that got something to do before it was told stays.

        Dask's own retire_workers removes up to half a second after it looked last, and recomputes
        what running tasks have finished in between. Here nothing can happen between the look and
        the removal, as remove() runs up to the removal without giving way.
        """
        scheduler = self.server
        while pending:
            moved = await scheduler.retire_workers(
                workers=list(pending), close_workers=False, remove=False
            )
            running = await self._running(pending) if time.monotonic() < patience else ()
            for address in list(pending):
                ws = scheduler.workers.get(address)
                if address in running:
                    continue
                if ws is not None and address not in moved:
                    kept[address] = (
                        "it holds actors, which cannot be moved"
                        if ws.actors
                        else "no other running worker can take its data"
                    )
                elif ws is not None and idle and ws.processing:
                    kept[address] = "it has got something to do"
                elif ws is not None:
                    if any(self._only_here(task, pending) for task in ws.has_what):
                        continue
                    # Not told to close: its agent stops it next, and a nanny which is told to
                    # stop while its worker stops on the scheduler's word waits 8 s for it.
                    await self.remove(address, "retire", close=False)
                pending.discard(address)
            if running:
                await asyncio.sleep(0.05)

    async def _running(self, addresses):
        """Those of the workers that run a task which the scheduler still waits for."""

        async def runs(address):
            ws = self.server.workers.get(address)
            if ws is None or not ws.processing:
                return False
            here = {task.key for task in ws.processing}
            if any(task.key in here for task in ws.executing):
                return True
            stacks = await asyncio.wait_for(self.server.rpc(address).call_stack(keys=None), 5)
            return bool(here & set(stacks or ()))

        addresses = list(addresses)
        answers = await asyncio.gather(*map(runs, addresses), return_exceptions=True)
        return {address for address, answer in zip(addresses, answers) if answer is True}

    @staticmethod
    def _only_here(task, leaving):
        return not task.actor and all(ws.address in leaving for ws in task.who_has or ())

    def _resume(self, status):
        """Give workers that stay their old status back, as Dask does where it cannot retire."""
        manager = self.server.extensions.get("amm")
        for policy in list(manager.policies) if manager else ():
            if isinstance(policy, RetireWorker) and policy.address in status:
                manager.policies.discard(policy)
        for address, name in status.items():
            if address in self.server.workers:
                stimulus = f"herdsman-resume-{time.time()}"
                message = {"op": "worker-status-change", "status": name, "stimulus_id": stimulus}
                self.server.stream_comms[address].send(message)


def _names(call):
    names = call["names"]
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ValueError("names must be a list of strings")
    return dict.fromkeys(names)


# --- the link with the agent --------------------------------------------------------------


class Link:
    """JSON lines over the agent's socket, for one Dask server. Sending never waits: what is not
    read goes into the transport's buffer, and an agent that leaves too much unread is dropped and
    told everything again by the next hello."""

    def __init__(self, server, side):
        self.server, self.side = server, side(server, self.send)
        self.writer, self.tasks, self.calls = None, [], set()

    def start(self):
        loops = [self._watch_files] if TLS else []
        loops += [self._keep_connected] if SOCKET else []
        loops += [self._report] if SOCKET and self.side.at_least else []
        self.tasks = [asyncio.ensure_future(self._kept(loop)) for loop in loops]
        SHARED.links.add(self)

    async def _kept(self, loop):
        """What goes wrong in one of the guard's loops is told, and the loop goes on."""
        while True:
            try:
                await loop()
            except Exception as error:
                text = f"{loop.__name__}: {type(error).__name__}: {error}"
                _problem("guard-failed", text)
            await asyncio.sleep(LAST_RETRY)

    async def stop(self):
        SHARED.links.discard(self)
        running = [*self.tasks, *self.calls]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def send(self, message):
        """False if the message is too long for the protocol."""
        line = json.dumps(message, separators=(",", ":"), default=str).encode() + b"\n"
        if len(line) > MAX_LINE:
            return False
        if self.writer is not None and not self.writer.is_closing():
            if self.writer.transport.get_write_buffer_size() + len(line) > MAX_PENDING:
                logger.warning("the agent does not read, the link is dropped")
                self.writer.transport.abort()
            else:
                self.writer.write(line)
        return True

    async def _watch_files(self):
        looks = 0
        while True:
            check_files(health=looks % HEALTH_EVERY == 0)
            looks += 1
            await asyncio.sleep(INTERVAL)

    async def _keep_connected(self):
        delay, told = FIRST_RETRY, False
        while True:
            began = time.monotonic()
            try:
                reader, writer = await asyncio.open_unix_connection(SOCKET, limit=MAX_LINE)
                try:
                    await self._talk(reader, writer)
                finally:
                    self.writer = None
                    writer.close()
                logger.info("the agent closed the link")
                told = True
            except (OSError, ValueError) as error:  # ValueError: a line over the limit
                if not told:
                    logger.warning("no link with the agent: %s", error)
                told = True
            if time.monotonic() - began > LAST_RETRY:
                delay, told = FIRST_RETRY, False
            await asyncio.sleep(delay * random.uniform(0.75, 1.25))
            delay = min(LAST_RETRY, 2 * delay)

    async def _talk(self, reader, writer):
        self.writer = writer
        for message in self.side.hello():
            self.send(message)
        for code, message in SHARED.problems.items():
            self.send({"problem": {"code": code, "message": message}})
        while line := await reader.readline():
            self._receive(line, writer)

    async def _report(self):
        last, sent, quiet_until = None, -math.inf, -math.inf
        while True:
            await asyncio.sleep(TICK)
            self.side.tick()
            now = time.monotonic()
            if self.writer is None or now < quiet_until:
                continue
            news = (id(self.writer), self.side.news())
            if news == last and now < sent + self.side.at_least:
                continue
            report = self.side.report()
            while not self.send({"report": report}) and report.get("workers_detail"):
                del report["workers_detail"][len(report["workers_detail"]) // 2 :]
            last, sent = news, now
            quiet_until = now + max(REPORT_EVERY, REPORT_SHARE * (time.monotonic() - now))

    def _receive(self, line, writer):
        try:
            call = json.loads(line)["call"]
            number, op = call["id"], call["op"]
            if type(number) is not int or not isinstance(op, str):
                raise ValueError("id or op of a wrong type")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            logger.warning("ignored a malformed line of the agent: %s", type(error).__name__)
            return
        task = asyncio.ensure_future(self._answer(number, op, call, writer))
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)

    async def _answer(self, number, op, call, writer):
        """The answer goes to the agent that asked, never to its successor."""
        handler = getattr(self.side, f"op_{op}", None)
        try:
            if handler is None:
                raise LookupError(f"unknown op {op!r} for a {self.side.kind}")
            if len(self.calls) > MAX_CALLS:
                raise RuntimeError("too many calls at the same time")
            reply = {"id": number, "ok": await handler(call)}
        except Exception as error:
            plain = isinstance(error, (LookupError, RuntimeError)) and not isinstance(error, KeyError)
            text = str(error) if plain else f"{type(error).__name__}: {error}"
            reply = {"id": number, "error": text}
        if writer is self.writer and not self.send({"reply": reply}):
            self.send({"reply": {"id": number, "error": "the answer is too long"}})


SIDES = ((Scheduler, SchedulerSide), (Worker, WorkerSide), (Nanny, NannySide))


async def dask_setup(server):
    side = next((side for dask_class, side in SIDES if isinstance(server, dask_class)), None)
    if side is None:
        return
    if TLS:
        _adopt(server, side.role)
    server.herdsman_link = Link(server, side)
    server.herdsman_link.start()


async def dask_teardown(server):
    link = getattr(server, "herdsman_link", None)
    if link is not None:
        await link.stop()
