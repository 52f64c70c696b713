"""``herdsman.Cluster``: a Dask cluster on machines that herdsman makes.

Dask's own ``Cluster`` is the parent, and the launcher does the work. Who does what:

* the launcher makes, retires and deletes machines (one process for each step);
* one more process of it stays for as long as the cluster is used from here
  (:mod:`herdsman._live`): it tells what happens to the nodes, renews the
  certificates, and holds the tunnels to the dashboard and the scheduler;
* Dask's scheduler is spoken to directly, over TLS.

A node's name is the machine's name, its Dask worker's name, and its key in ``plan``,
``requested`` and ``observed``.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import datetime
import getpass
import logging
import os
import re
import secrets as random_secrets
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union

import dask.config
from dask.utils import parse_bytes, parse_timedelta
from distributed.core import Status, rpc
from distributed.deploy.cluster import Cluster as DaskCluster
from distributed.objects import SchedulerInfo
from distributed.security import Security
from distributed.utils import Log, Logs, NoOpAwaitable

from herdsman import _bridge, _settings
from herdsman._adaptive import Adaptive
from herdsman._fleet import Fleet
from herdsman._live import Live
from herdsman._security import ClusterSecurity
from herdsman._settings import Unset, UnsetNumber
from herdsman._types import Cost, Event, Finished, Node
from herdsman.exceptions import (
    ClusterExists,
    HerdsmanError,
    NotFound,
    UsageError,
    VersionMismatch,
)

if TYPE_CHECKING:
    from tornado.ioloop import IOLoop

logger = logging.getLogger(__name__)

T = TypeVar("T", bound="Cluster")

#: Most time that closing may take while Python ends; the launcher goes on after it.
AT_EXIT = 10.0
#: Longest wait for the scheduler's answer once the cluster is up.
CONNECT = 30.0
#: Longest wait for another command that is at work on the same cluster.
TURN = 300.0

_CREATE_MODES = {"create_or_connect": "keep", "create_only": "fail", "connect_only": None}

_Time = Union[str, float, int, datetime.timedelta, None]


class Cluster(DaskCluster):
    """A Dask cluster on machines of a cloud, or of this computer.

    Arguments that are not given come from the file that ``file`` names, then
    dask.config (``herdsman:`` in YAML, ``DASK_HERDSMAN__…``), ``herdsman.toml`` or
    ``pyproject.toml`` of the working folder, the profile, and last what is built in;
    ``herdsman config get --why`` shows which it was.

    Parameters
    ----------
    name
        The cluster's name, under which it is found from anywhere. Without one, and
        with none in the settings, a new one is made up.
    n_workers
        How many machines; ``(least, most)`` follows the work.
    create_mode
        ``"create_or_connect"``: an existing cluster is used as it is, and brought to
        ``n_workers`` only if that is given. ``"create_only"``: one that exists is an
        error. ``"connect_only"``: one that does not exist is.
    shutdown_on_close
        Whether ``close()`` deletes the cluster. By default it does if this object made
        it, and does not if it was there before.
    settings
        Any further settings by their keys in ``herdsman.toml``, such as
        ``{"aws.tenancy": "dedicated"}``. They win over everything else.

    Times are texts (``"20 minutes"``, ``"1h30m"``), numbers of seconds or
    ``timedelta``; ``None`` is without limit. Sizes are texts or numbers of bytes.

    Examples
    --------
    >>> from herdsman import Cluster
    >>> with Cluster(n_workers=2) as cluster, cluster.get_client() as client:
    ...     client.submit(sum, [1, 2]).result()
    3
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        provider: str | None = None,
        profile: str | None = None,
        file: str | os.PathLike[str] | None = None,
        n_workers: int | tuple[int, int] | str | None = None,
        worker_cpu: int | None = None,
        worker_memory: str | int | None = None,
        worker_type: str | Sequence[str] | None = None,
        worker_disk: str | int | None = None,
        worker_gpu: int | None = None,
        scheduler_cpu: int | None = None,
        scheduler_memory: str | int | None = None,
        scheduler_type: str | Sequence[str] | None = None,
        workers: Sequence[Mapping[str, Any]] | None = None,
        region: str | None = None,
        zone: str | Sequence[str] | None = None,
        spot: str | bool | None = None,
        env: str = Unset("auto"),
        python: str | None = None,
        sync: str | Sequence[str] | None = None,
        docker_image: str | None = None,
        env_vars: Mapping[str, Any] | None = None,
        worker_options: Mapping[str, Any] | Sequence[str] | None = None,
        scheduler_options: Mapping[str, Any] | Sequence[str] | None = None,
        worker_class: str = Unset("dask.distributed.Nanny"),
        security: bool | Security | Mapping[str, Any] | None = True,
        private: bool | None = None,
        allow: str | Sequence[str] = Unset("me"),
        role: str | None = None,
        idle_timeout: _Time = Unset("20 minutes"),
        no_client_timeout: _Time = None,
        max_lifetime: _Time = Unset("12 hours"),
        max_cost: float | None = None,
        wait_for_workers: float | str | bool | None = UnsetNumber(0.3),
        start_timeout: _Time = Unset("5 minutes"),
        create_mode: str | None = None,
        shutdown_on_close: bool | None = None,
        tags: Mapping[str, str] | None = None,
        quiet: bool | None = None,
        asynchronous: bool = False,
        loop: IOLoop | None = None,
        settings: Mapping[str, Any] | None = None,
        check_versions: bool = True,
    ) -> None:
        config = dask.config.get("herdsman", {}) or {}

        def configured(argument: str, given: Any, default: Any = None) -> Any:
            if given is not None:
                return given
            value = config.get(argument.replace("_", "-"), config.get(argument))
            return default if value is None else value

        mode = configured("create_mode", create_mode, "create_or_connect")
        if mode not in _CREATE_MODES:
            raise UsageError(
                "E-USAGE", f"create_mode={mode!r}: one of {', '.join(_CREATE_MODES)}", exit_code=2
            )
        self._mode: str = mode
        self._shutdown_on_close: bool | None = configured("shutdown_on_close", shutdown_on_close)
        self._profile = configured("profile", profile)
        self._file = None if file is None else os.fspath(file)
        self._check = check_versions
        self._own_security: Security | None = None
        arguments = _settings.from_arguments(
            {
                "provider": provider,
                "n_workers": n_workers,
                "worker_cpu": worker_cpu,
                "worker_memory": worker_memory,
                "worker_type": worker_type,
                "worker_disk": worker_disk,
                "worker_gpu": worker_gpu,
                "scheduler_cpu": scheduler_cpu,
                "scheduler_memory": scheduler_memory,
                "scheduler_type": scheduler_type,
                "region": region,
                "zone": zone,
                "spot": spot,
                "env": env,
                "python": python,
                "sync": sync,
                "docker_image": docker_image,
                "private": private,
                "allow": allow,
                "role": role,
                "idle_timeout": idle_timeout,
                "no_client_timeout": no_client_timeout,
                "max_lifetime": max_lifetime,
                "max_cost": max_cost,
                "wait_for_workers": wait_for_workers,
                "start_timeout": start_timeout,
            }
        )
        arguments.update(_settings.groups(workers))
        arguments.update(_settings.worker_options(worker_options))
        arguments.update(_settings.scheduler_options(scheduler_options))
        arguments.update(_settings.worker_class(worker_class))
        visible, self._secrets = _settings.variables(env_vars)
        arguments.update(visible)
        arguments.update(self._security_settings(security))
        if tags:
            arguments["tags"] = {str(k): str(v) for k, v in tags.items()}
        for key, value in (settings or {}).items():
            if value is not None:
                arguments[key] = value
        known = name or arguments.pop("name", None) or configured("name", None)
        self._named = known is not None
        self._sized = "workers.count" in arguments
        self._arguments = arguments
        self._dask_settings = _settings.from_dask()
        self._defaults: dict[str, Any] = {
            "wait": _settings.wait(float(UnsetNumber(0.3))),
            "workers.count": "4",
            "env.python": sys.executable,
        }
        provisional = str(known) if known is not None else _new_name()
        if not self._named and mode != "connect_only":
            self._defaults["name"] = provisional

        self._children: set[_bridge.Child] = set()
        self._fleet = Fleet(provisional)
        self._live: Live | None = None
        self._opened: dict[str, Any] = {}
        self._status_message: dict[str, Any] = {}
        self._status_at = 0.0
        self._event_log: deque[Event] = deque(maxlen=2000)
        self._workers_per_node = 1
        self._cost: Cost | None = None
        self._cost_at = 0.0
        self._cost_nodes = -1
        self._cost_task: asyncio.Future[Any] | None = None
        self._background: list[asyncio.Task[Any]] = []
        self._created = False
        self._deleted = False
        self._turn: asyncio.Lock | None = None
        self._start_lock: asyncio.Lock | None = None
        self._wake: asyncio.Event | None = None
        self._idle_since_interrupt = _Idle()
        self.security: Security = Security()

        super().__init__(
            asynchronous=asynchronous,
            loop=loop,
            quiet=configured("quiet", quiet, not _is_shown()),
            name=provisional,
        )
        self._cluster_info["type"] = "herdsman.Cluster"
        _ends.add(self)
        if not self.called_from_running_loop:
            self._loop_runner.start()
            try:
                self.sync(self._start)
            except BaseException:
                self.status = Status.closed
                _ends.discard(self)
                with contextlib.suppress(Exception):
                    self._loop_runner.stop()
                raise

    # --- names and settings ---------------------------------------------------------------

    @classmethod
    def from_name(cls: type[T], name: str, **kwargs: Any) -> T:
        """The cluster of this name, which has to exist. ``close()`` leaves it running."""
        kwargs.setdefault("create_mode", "connect_only")
        kwargs.setdefault("shutdown_on_close", False)
        return cls(name, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is the same cluster, which that one does not own."""
        return _attached, (self.name,)

    def _security_settings(self, security: Any) -> dict[str, Any]:
        if security is False:
            return {"security.insecure": True}
        if security is None or security is True:
            return {}
        if isinstance(security, Mapping):
            security = Security(**security)
        if not isinstance(security, Security):
            raise UsageError(
                "E-USAGE", f"security={security!r}: True, False or distributed.Security", exit_code=2
            )
        self._own_security = security
        return _own_certificates(security)

    def _request(self, argv: Sequence[str], **extra: Any) -> _bridge.Request:
        return _bridge.Request(
            argv,
            arguments=self._arguments,
            dask=self._dask_settings,
            defaults=self._defaults,
            secrets=self._secrets,
            profile=self._profile,
            file=self._file,
            **extra,
        )

    # --- start ----------------------------------------------------------------------------

    def __await__(self: T) -> Generator[Any, None, T]:
        async def started() -> T:
            if self.status == Status.created:
                await self._start()
            return self

        return started().__await__()

    async def __aenter__(self: T) -> T:
        await self
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _start(self) -> None:
        if self._start_lock is None:
            self._start_lock = asyncio.Lock()
        async with self._start_lock:
            if self.status != Status.created:
                return
            self.status = Status.starting
            with self._idle_since_interrupt:
                try:
                    await self._begin()
                except BaseException:
                    await asyncio.shield(self._abandon())
                    raise

    async def _begin(self) -> None:
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        if self._mode != "connect_only":
            await self._up()
        await self._connect()
        await super()._start()
        self._fleet.update(self._status_message.get("nodes") or (), time.monotonic())
        self._wake_up()
        self._background.append(asyncio.ensure_future(self._replace()))
        self._refresh_cost()

    async def _abandon(self) -> None:
        """The start failed: nothing stays that this object made."""
        if self._live is not None:
            await self._live.close()
        if self._created and self._shutdown_on_close is not False:
            with contextlib.suppress(HerdsmanError):
                await self._down()
        if self.scheduler_comm is not None:
            with contextlib.suppress(Exception):
                await self.scheduler_comm.close_rpc()
        self.status = Status.closed
        _ends.discard(self)

    async def _up(self) -> None:
        argv = ["up"]
        if self._named:
            argv.append(self.name)
        exists = _CREATE_MODES[self._mode]
        if exists == "keep" and self._sized:
            exists = "converge"
        argv += ["--if-exists", str(exists)]
        answer = await self._patiently(argv, self._on_event)
        document = answer.document
        self.name = str(document["name"])
        self._named = True
        self._fleet.name = self.name
        self._created = not document.get("existed", False)
        workers = document.get("workers") or {}
        if self._created or self._sized:
            self._fleet.target = int(workers.get("want") or 0)
            most = int(workers.get("most") or 0)
            if most > self._fleet.target:
                self._adaptive_options = {"minimum": self._fleet.target, "maximum": most}

    async def _connect(self) -> None:
        self._live = Live(self._live_request, self._on_live)
        opened = await self._live.start(CONNECT)
        self.name = str(opened["name"])
        self._named = True
        self._fleet.name = self.name
        self._workers_per_node = int(opened.get("workers_per_node") or 1)
        self.security = self._make_security(opened)
        if self._check:
            _compare_versions(opened.get("versions") or {}, self.name)
        args = self.security.get_connection_args("client")
        errors: list[BaseException] = []
        for address in (opened.get("scheduler"), opened.get("tunnel")):
            if not address:
                continue
            comm = rpc(address, connection_args=args)
            try:
                await asyncio.wait_for(comm.identity(n_workers=0), CONNECT)
            except TypeError:
                # Before 2025.4 it takes no number.
                await comm.identity()
            except (OSError, asyncio.TimeoutError) as e:
                errors.append(e)
                await comm.close_rpc()
                continue
            self.scheduler_comm = comm
            break
        else:
            raise _unreachable(self.name, errors)
        if getattr(self, "_adaptive_options", None) and self._fleet.target is not None:
            options = dict(self._adaptive_options)
            asyncio.get_running_loop().call_soon(lambda: self.adapt(**options))

    def _live_request(self, last: dict[str, Any] | None) -> _bridge.Request:
        argv = ["attend", self.name] if self._named else ["attend"]
        if last is not None:
            # Links that people have open go on working.
            for flag, key in (("--dashboard-port", "dashboard_port"), ("--scheduler-port", "tunnel_port")):
                if last.get(key):
                    argv += [flag, str(last[key])]
        return self._request(argv)

    def _make_security(self, opened: Mapping[str, Any]) -> Security:
        if self._own_security is not None:
            return self._own_security
        files = opened.get("files")
        if not files:
            return Security()
        if opened.get("own"):
            return Security(
                tls_ca_file=files["ca"],
                tls_client_cert=files["certificate"],
                tls_client_key=files["key"],
                require_encryption=True,
            )
        return ClusterSecurity(files["ca"], files["certificate"], files["key"])

    # --- what happens ---------------------------------------------------------------------

    def _on_event(self, event: dict[str, Any]) -> None:
        """Events of a command, in a thread that reads them."""
        text = _story(event)
        if text:
            self._say(text)

    def _say(self, text: str) -> None:
        self._cluster_manager_logs.append((datetime.datetime.now(), text))
        if not self.quiet:
            print(f"{self.name}: {text}")

    def _on_live(self, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind == "status":
            self._status_message = message
            self._status_at = time.monotonic()
            lost = self._fleet.update(message.get("nodes") or (), self._status_at)
            for name in sorted(lost):
                self._say(f"{name} is lost")
            if self._fleet.missing:
                self._wake_up()
            if len(self._fleet.requested) != self._cost_nodes:
                self._refresh_cost()
        elif kind == "event":
            self._event_log.append(Event.from_json(message))
        elif kind == "renewed":
            if isinstance(self.security, ClusterSecurity):
                self.security.refresh()
        elif kind == "open":
            self._opened = message
            if isinstance(self.security, ClusterSecurity):
                self.security.refresh()
        elif kind == "gone":
            if self.status == Status.running:
                self._say("the cluster is gone")
                self._deleted = True
        elif kind == "trouble":
            error = message.get("error")
            self._cluster_manager_logs.append((datetime.datetime.now(), str(error)))

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()

    async def _watch_worker_status(self, comm: Any) -> None:
        """As Dask's own, and connects again: laptops sleep, and networks break."""
        while True:
            await super()._watch_worker_status(comm)
            pause = 0.5
            while True:
                if self.status != Status.running:
                    return
                await asyncio.sleep(pause)
                if self.status != Status.running:
                    return
                pause = min(pause * 2, 30)
                try:
                    comm = await self.scheduler_comm.live_comm()
                    comm.name = "Cluster worker status"
                    await comm.write({"op": "subscribe_worker_status"})
                    info = await comm.read()
                except (OSError, asyncio.TimeoutError):
                    continue
                self.scheduler_info = SchedulerInfo(info)
                self._watch_worker_status_comm = comm
                break

    # --- interruption ---------------------------------------------------------------------

    def sync(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Dask's own; Ctrl-C also interrupts what the launcher is at, and waits until it
        has cleaned up."""
        try:
            return super().sync(func, *args, **kwargs)
        except KeyboardInterrupt:
            self._interrupted()
            raise

    def _interrupted(self) -> None:
        children = [child for child in list(self._children) if child.running]
        for child in children:
            child.interrupt()
        if children or self._idle_since_interrupt.busy:
            print(f"{self.name}: interrupted; cleaning up (once more Ctrl-C: do not wait)", file=sys.stderr)
            self._idle_since_interrupt.wait(_bridge.CLEAN_UP)

    async def _call(
        self,
        argv: Sequence[str],
        on_event: _bridge.OnEvent | None = None,
        leave: bool = False,
        timeout: float | None = None,
    ) -> _bridge.Answer:
        return await _bridge.acall(
            self._request(argv), on_event, timeout=timeout, children=self._children, leave=leave
        )

    async def _patiently(self, argv: Sequence[str], on_event: _bridge.OnEvent | None = None) -> _bridge.Answer:
        """Waits for its turn while another command is at work on the cluster."""
        until = time.monotonic() + TURN
        pause = 0.2
        while True:
            try:
                return await self._call(argv, on_event)
            except ClusterExists as e:
                if "is at work on" not in e.message or time.monotonic() > until:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 3)

    # --- scaling --------------------------------------------------------------------------

    @property
    def plan(self) -> set[str]:
        return self._fleet.plan

    @property
    def requested(self) -> set[str]:
        return self._fleet.requested

    @property
    def observed(self) -> set[str]:
        return self._fleet.observed(w["name"] for w in self.scheduler_info["workers"].values())

    @property
    def workers(self) -> dict[str, Node]:
        """Nodes of workers by name."""
        nodes = {n.name: n for n in self.nodes() if n.role == "worker"}
        return {name: nodes.get(name, Node(name, "worker", "expected")) for name in self._fleet.requested}

    def scale(
        self,
        n: int | None = None,
        *,
        memory: str | int | None = None,
        cores: int | None = None,
        group: str | None = None,
    ) -> Any:
        """Brings the cluster to ``n`` nodes, or to as many as have so much memory or so
        many cores together.

        New machines are on their way when this returns; :meth:`wait_for_workers` waits
        for them. Fewer: what the workers that go have computed is moved first, and no
        task runs twice.
        """
        if group is not None and group not in {"default", self._arguments.get("workers.name")}:
            raise UsageError("E-USAGE", f"there is no group of workers {group!r}", exit_code=2)
        wanted = self._count(n, memory, cores)
        result = self.sync(self._scale_to, wanted)
        return result

    def scale_up(self, n: int) -> Any:
        """The same as :meth:`scale`."""
        return self.scale(n)

    def scale_down(self, workers: Iterable[str]) -> Any:
        """Gives up these nodes, without losing what they have computed."""
        return self.sync(self._give_up, [str(w) for w in workers])

    def _count(self, n: int | None, memory: Any = None, cores: Any = None) -> int:
        wanted = 0 if n is None else int(n)
        if memory is not None:
            wanted = max(wanted, -(-parse_bytes(memory) // self._of_worker("memory_limit")))
        if cores is not None:
            wanted = max(wanted, -(-int(cores) // self._of_worker("nthreads")))
        if n is None and memory is None and cores is None:
            raise UsageError("E-USAGE", "scale: give n, memory or cores", exit_code=2)
        if wanted < 0:
            raise UsageError("E-USAGE", f"scale: {wanted} workers", exit_code=2)
        return wanted

    def _of_worker(self, key: str) -> int:
        """Threads or bytes of a node, from those there are, else from the settings."""
        values = [int(w[key]) for w in self.scheduler_info["workers"].values() if w[key]]
        if values:
            return max(1, min(values) * self._workers_per_node)
        if key == "memory_limit" and "workers.memory" in self._arguments:
            return int(parse_bytes(self._arguments["workers.memory"]))
        if key == "nthreads" and "workers.cpu" in self._arguments:
            return int(self._arguments["workers.cpu"])
        raise UsageError(
            "E-USAGE",
            "how large a worker is, is not known before there is one",
            try_=["cluster.scale(1) first, or worker_cpu= and worker_memory="],
            exit_code=2,
        )

    def adapt(  # type: ignore[override]
        self,
        minimum: int = 0,
        maximum: int | float = float("inf"),
        *,
        minimum_cores: int | None = None,
        maximum_cores: int | None = None,
        minimum_memory: str | int | None = None,
        maximum_memory: str | int | None = None,
        Adaptive: type[Any] = Adaptive,
        **kwargs: Any,
    ) -> Any:
        """Follows the work with ``minimum`` to ``maximum`` nodes.

        Only workers with nothing to do are given up. Further arguments are those of
        ``distributed.Adaptive``, such as ``interval`` and ``wait_count``.
        """
        if minimum_cores is not None:
            minimum = max(minimum, -(-int(minimum_cores) // self._of_worker("nthreads")))
        if minimum_memory is not None:
            minimum = max(minimum, -(-parse_bytes(minimum_memory) // self._of_worker("memory_limit")))
        if maximum_cores is not None:
            maximum = min(maximum, int(maximum_cores) // self._of_worker("nthreads"))
        if maximum_memory is not None:
            maximum = min(maximum, parse_bytes(maximum_memory) // self._of_worker("memory_limit"))
        most = self._arguments.get("limits.max_workers")
        if most is not None:
            maximum = min(maximum, int(most))
        if maximum != float("inf"):
            maximum = int(maximum)
        if minimum > maximum:
            raise UsageError("E-USAGE", f"adapt: at least {minimum}, and at most {maximum}", exit_code=2)
        return super().adapt(Adaptive=Adaptive, minimum=minimum, maximum=maximum, **kwargs)

    async def _scale_to(self, n: int) -> None:
        self._fleet.target = n
        try:
            async with self._my_turn():
                await self._move()
        except BaseException:
            # Not tried again and again behind the caller's back.
            if self._fleet.target == n:
                self._fleet.target = len(self._fleet.requested)
            raise

    @contextlib.asynccontextmanager
    async def _my_turn(self) -> Any:
        if self._turn is None:
            raise HerdsmanError("E-INTERNAL", "the cluster was not started")
        async with self._turn:
            if self.status != Status.running:
                raise HerdsmanError("E-NOT-FOUND", f"the cluster is {self.status.name}")
            self._fleet.busy = True
            try:
                with self._idle_since_interrupt:
                    yield
            finally:
                self._fleet.busy = False

    async def _move(self) -> None:
        """Towards the target, as it is now."""
        target = self._fleet.target
        have = self._fleet.requested
        if target is None or target == len(have):
            return
        if target > len(have):
            await self._grow(target)
        else:
            await self._retire(await self._choose(len(have) - target), idle=False)

    async def _grow(self, target: int) -> None:
        loop = asyncio.get_running_loop()

        def seen(event: dict[str, Any]) -> None:
            if "made" in event:
                names = [str(n) for n in event["made"]]
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._fleet.wish, names, time.monotonic())
            else:
                self._on_event(event)

        argv = ["scale", self.name, str(target), "--wait", "none"]
        try:
            answer = await self._patiently(argv, seen)
        except BaseException:
            self._fleet.unwish()
            raise
        document = answer.document or {}
        self._fleet.wish([str(n) for n in document.get("added") or ()], time.monotonic())

    async def _choose(self, n: int) -> list[str]:
        """Nodes to give up: those that have not arrived first, then those that cost least."""
        here = self.observed
        chosen = sorted(self._fleet.requested - here, reverse=True)[:n]
        if len(chosen) < n:
            names = await self.scheduler_comm.workers_to_close(
                n=(n - len(chosen)) * self._workers_per_node, attribute="name"
            )
            for worker in names:
                node = self._fleet.node_of(str(worker))
                if node not in chosen and node in self._fleet.requested and len(chosen) < n:
                    chosen.append(node)
        # Dask leaves out workers with long-running tasks; the user's word counts more.
        for node in sorted(self._fleet.requested - set(chosen), reverse=True):
            if len(chosen) < n:
                chosen.append(node)
        return chosen

    async def _give_up(self, names: Sequence[str], idle: bool = False) -> None:
        """Without these nodes; ``idle``: only those that have nothing to do."""
        async with self._my_turn():
            nodes = {self._fleet.node_of(name) for name in names} & self._fleet.requested
            if nodes:
                await self._retire(sorted(nodes), idle)
            if self._fleet.target is not None:
                self._fleet.target = len(self._fleet.requested)

    async def _retire(self, names: Sequence[str], idle: bool) -> None:
        self._fleet.leave(names)
        argv = ["scale", self.name]
        for name in names:
            argv += ["--without", name]
        if idle:
            argv.append("--idle")
        try:
            answer = await self._patiently(argv, None if idle else self._on_event)
        except BaseException:
            self._fleet.stay(names)
            raise
        document = answer.document or {}
        kept = {str(k["node"]): str(k["why"]) for k in document.get("kept") or ()}
        self._fleet.stay(kept)
        self._fleet.left(n for n in names if n not in kept)
        if not idle:
            for name, why in kept.items():
                self._say(f"{name} stays: {why}")
            if self._fleet.target is not None and kept:
                self._fleet.target = len(self._fleet.requested)

    async def _replace(self) -> None:
        """Replaces nodes that were lost, or did not come up in time."""
        failures = 0
        assert self._wake is not None
        limit = self._start_seconds()
        while self.status == Status.running:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), 5)
            self._wake.clear()
            if self.status != Status.running or self._fleet.target is None or self._deleted:
                continue
            try:
                late = self._fleet.late(time.monotonic(), limit)
                if late:
                    self._say(f"{', '.join(sorted(late))}: not ready within {limit:g} s; replaced")
                    async with self._my_turn():
                        await self._retire(sorted(late), idle=False)
                        self._fleet.target = max(self._fleet.target, len(self._fleet.requested) + len(late))
                    failures += 1
                if self._fleet.missing and failures < 5:
                    async with self._my_turn():
                        await self._move()
                elif self._fleet.missing:
                    self._say(f"{self._fleet.missing} workers are missing and were not replaced again")
                    self._fleet.target = len(self._fleet.requested)
                if not self._fleet.missing and self._fleet.requested == self._fleet.arrived():
                    failures = 0
            except HerdsmanError as e:
                if self.status != Status.running:
                    return
                failures += 1
                self._say(f"workers could not be replaced: {e}")
                await asyncio.sleep(min(2.0**failures, 60))
                self._wake.set()

    def _start_seconds(self) -> float:
        value = self._arguments.get("limits.start_timeout", "300s")
        try:
            return float(parse_timedelta(value))
        except (KeyError, ValueError, TypeError):
            return 300.0

    # --- looking --------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        """The cluster's machines, the scheduler's first, as they were heard of last."""
        return [Node.from_json(n) for n in self._status_message.get("nodes") or ()]

    def events(self) -> list[Event]:
        """What happened at the cluster, the oldest first."""
        return list(self._event_log)

    @property
    def dashboard_link(self) -> str:
        """Dask's dashboard on this computer, through a tunnel. Whoever has the link may
        look at it."""
        if self.status in {Status.closing, Status.closed}:
            return ""
        return str(self._opened.get("dashboard") or "")

    def cost(self) -> Any:
        """What the cluster costs, by list prices."""
        return self.sync(self._get_cost)

    async def _get_cost(self) -> Cost:
        answer = await self._call(["cost", self.name])
        rows = (answer.document or {}).get("clusters") or [{}]
        row = rows[0]
        price = row.get("price") or {}
        self._cost = Cost(price.get("per_hour"), row.get("so_far"), price.get("currency"))
        self._cost_at = time.monotonic()
        self._cost_nodes = len(self._fleet.requested)
        return self._cost

    def _refresh_cost(self) -> None:
        """Behind the scenes, for what is shown."""
        if self._cost_task is not None and not self._cost_task.done():
            return
        if self._cost is not None and time.monotonic() - self._cost_at < 30:
            return

        async def refresh() -> None:
            with contextlib.suppress(HerdsmanError):
                await self._get_cost()

        self._cost_task = asyncio.ensure_future(refresh())

    def _ending(self) -> str:
        """When it ends by itself, in words."""
        ending = self._status_message.get("ending") or {}
        if ending.get("ending"):
            return f"ending: {ending['ending']}"
        now = float(self._status_message.get("now") or 0) + (time.monotonic() - self._status_at) * 1000
        ends = [t for t in (ending.get("idle_ends"), ending.get("lifetime_ends")) if t]
        if not ends or not self._status_message:
            return ""
        return f"stops in {_span((min(ends) - now) / 1000)}"

    def _money(self) -> str:
        """``0.66 USD/h · 0.13 so far · stops in 17 min``."""
        parts = []
        if self._cost is not None and self._cost.per_hour:
            hours = (time.monotonic() - self._cost_at) / 3600
            so_far = (self._cost.so_far or 0) + hours * self._cost.per_hour
            parts.append(f"{self._cost.per_hour:.2f} {self._cost.currency}/h · {so_far:.2f} so far")
        ending = self._ending()
        if ending:
            parts.append(ending)
        return " · ".join(parts)

    def _repr_html_(self, cluster_status: Any = None) -> str:
        money = self._money()
        if money:
            row = (
                '<tr><td style="text-align: left;" colspan="2">'
                f"<strong>Cost:</strong> {_escape(money)}</td></tr>"
            )
            cluster_status = row if cluster_status is None else f"{cluster_status}{row}"
        return str(super()._repr_html_(cluster_status=cluster_status))

    def _scaling_status(self) -> str:
        text = str(super()._scaling_status())
        workers = len(self.observed)
        wanted = len(self.plan)
        count = str(workers) if workers == wanted else f"{workers} / {wanted}"
        mode = "Adaptive" if self._adaptive and self._adaptive.periodic_callback else "Manual"
        return (
            f'<table><tr><td style="text-align: left;">Scaling mode: {mode}</td></tr>'
            f'<tr><td style="text-align: left;">Workers: {count}</td></tr></table>'
            if text
            else text
        )

    def _widget(self) -> Any:
        try:
            return self._cached_widget
        except AttributeError:
            pass
        tab = super()._widget()
        if tab is None:
            return None
        from ipywidgets import Button, VBox

        status, scaling = tab.children
        extend = Button(description="Extend 1 h", tooltip="Put off the time when the cluster ends by itself")

        def clicked(_: Any) -> None:
            self.loop.add_callback(self._extend, "1 hour")

        extend.on_click(clicked)
        tab.children = [VBox([status, extend]), scaling]
        return tab

    async def _get_logs(self, cluster: Any = True, scheduler: Any = True, workers: Any = True, boot: bool = False) -> Logs:
        try:
            logs = await super()._get_logs(cluster=cluster, scheduler=scheduler, workers=workers)
        except (OSError, asyncio.TimeoutError):
            # The scheduler does not answer; its node may.
            logs = Logs()
            if cluster:
                logs["Cluster"] = Log("\n".join(line[1] for line in self._cluster_manager_logs))
            for node, text in (await self._node_logs([])).items():
                logs[node] = text
        if boot:
            for node, text in (await self._node_logs(["--boot"])).items():
                logs[f"{node} boot"] = text
        return logs

    async def _node_logs(self, flags: Sequence[str]) -> dict[str, Log]:
        lines: dict[str, list[str]] = {}

        def told(line: dict[str, Any]) -> None:
            if "text" in line:
                lines.setdefault(str(line.get("node")), []).append(str(line["text"]))

        child = _bridge.Child(self._request(["logs", self.name, "--tail", "0", *flags]), on_line=told)
        try:
            await asyncio.wait_for(asyncio.shield(_bridge._in_thread(child.wait)), 60)
            child.result()
        except asyncio.TimeoutError:
            child.interrupt()
        return {node: Log("\n".join(text)) for node, text in lines.items()}

    def get_logs(  # type: ignore[override]
        self, cluster: Any = True, scheduler: Any = True, workers: Any = True, boot: bool = False
    ) -> Any:
        """Logs of this object, of the scheduler and of the workers; ``boot``: also what
        the machines say on their consoles. Nodes can be asked when Dask is dead."""
        return self.sync(self._get_logs, cluster=cluster, scheduler=scheduler, workers=workers, boot=boot)

    # --- doing ----------------------------------------------------------------------------

    def extend(self, lifetime: _Time = Unset(""), *, idle: _Time = Unset("")) -> Any:
        """Puts off the end of the cluster's life, counted from now, or changes its idle
        limit; ``None`` is without limit.

        >>> cluster.extend("2 hours")                                    # doctest: +SKIP
        """
        return self.sync(self._extend, lifetime, idle)

    async def _extend(self, lifetime: _Time = Unset(""), idle: _Time = Unset("")) -> None:
        argv = ["extend", self.name]
        if not _settings.is_unset(lifetime):
            argv.append(_settings.duration(lifetime))
        if not _settings.is_unset(idle):
            argv += ["--idle", _settings.duration(idle)]
        if len(argv) == 2:
            raise UsageError("E-USAGE", "extend: for how long?", exit_code=2)
        answer = await self._call(argv)
        if isinstance(answer.document, dict):
            self._status_message = {**self._status_message, "ending": answer.document}

    def run(self, command: Sequence[str], *, detach: bool = False, timeout: float | None = None) -> Any:
        """Runs a command on the scheduler's machine, with the same Python. ``detach`` does
        not wait for it.

        >>> cluster.run(["python", "-V"]).stdout                         # doctest: +SKIP
        """
        return self.sync(self._run, command, detach, timeout)

    async def _run(self, command: Sequence[str], detach: bool, timeout: float | None) -> Finished:
        if isinstance(command, str) or not command:
            raise UsageError("E-USAGE", "run: give a list of words", exit_code=2)
        words = command
        if detach:
            script = 'nohup "$@" >"${TMPDIR:-/tmp}/herdsman-run.log" 2>&1 </dev/null &'
            words = ["sh", "-c", script, "sh", *command]
        request = self._request(["exec", self.name, "--", *words])
        result = await _bridge.raw(request, timeout, self._children)
        return Finished(tuple(command), None if detach else result[0], result[1], result[2])

    def send_private_envs(self, env: Mapping[str, Any]) -> Any:
        """Sets variables in the processes of all workers, those that come later too. They
        travel over TLS to memory only: neither files nor machines' user-data have them."""
        return self.sync(self._send_private_envs, {str(k): str(v) for k, v in env.items()})

    async def _send_private_envs(self, env: dict[str, str]) -> None:
        from herdsman._plugins import register_environment

        await register_environment(self.scheduler_comm, env)

    # --- end ------------------------------------------------------------------------------

    @property
    def _deletes(self) -> bool:
        if self._shutdown_on_close is None:
            return self._created
        return bool(self._shutdown_on_close)

    async def _close(self) -> None:
        await self._finish(self._deletes)

    async def _finish(self, delete: bool) -> None:
        if self.status in {Status.closed, Status.closing}:
            return
        started = self.status == Status.running
        self.status = Status.closing
        if self._wake is not None:
            self._wake.set()
        for task in self._background:
            task.cancel()
        for task in self._background:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        if self._cost_task is not None:
            self._cost_task.cancel()
        try:
            await super()._close()
            # Not closed before the machines are gone.
            self.status = Status.closing
            if self._live is not None:
                await self._live.close()
            if delete and (started or self._created):
                await self._down()
        finally:
            self.status = Status.closed
            _ends.discard(self)

    async def _down(self) -> None:
        try:
            await self._call(["down", self.name], self._on_event, leave=True)
        except NotFound:
            pass  # somebody else has deleted it, or it has ended by itself
        self._deleted = True

    def close(self, timeout: float | None = None) -> Any:
        """Ends the use of the cluster from here, and deletes it if it is to be deleted:
        see ``shutdown_on_close``. After ``timeout`` deletion goes on without being waited
        for."""
        return self._end(self._close, timeout)

    def shutdown(self, timeout: float | None = None) -> Any:
        """Deletes the cluster, whoever made it."""
        return self._end(self._shutdown, timeout)

    async def _shutdown(self) -> None:
        if self.status == Status.closed and not self._deleted:
            await self._down()
            return
        await self._finish(True)

    def _end(self, how: Callable[[], Awaitable[None]], timeout: float | None) -> Any:
        if self.status == Status.closed and (self._deleted or how == self._close):
            return NoOpAwaitable() if self.asynchronous else None
        try:
            return self.sync(how, callback_timeout=timeout)
        except RuntimeError:  # the loop is closed, as at the end of Python
            self._end_at_exit()
            return None
        finally:
            if not self.asynchronous and self.status == Status.closed:
                with contextlib.suppress(Exception):
                    self._loop_runner.stop()

    def _end_at_exit(self) -> None:
        """Python ends: deletion is handed to a launcher that outlives it."""
        if self.status == Status.closed:
            return
        live, self._live = self._live, None
        if live is not None:
            live.drop()
        for child in list(self._children):
            child.interrupt()
        delete = self._deletes and not self._deleted and self._created_or_named()
        self.status = Status.closed
        _ends.discard(self)
        if not delete:
            return
        descriptor, log = tempfile.mkstemp(prefix=f"herdsman-{self.name}-", suffix=".log")
        os.close(descriptor)
        try:
            process = _bridge.detach(self._request(["down", self.name]), log)
        except (OSError, HerdsmanError) as e:
            print(f"herdsman: {self.name} could not be deleted: {e}", file=sys.stderr)
            return
        try:
            code = process.wait(AT_EXIT)
        except subprocess.TimeoutExpired:
            print(
                f"herdsman: {self.name} is being deleted in the background (process {process.pid}, {log})",
                file=sys.stderr,
            )
            process.returncode = 0
            return
        if code == 0:
            Path(log).unlink(missing_ok=True)
        else:
            print(
                f"herdsman: {self.name} could not be deleted wholly, see {log}\n"
                f"  try: herdsman down {self.name}",
                file=sys.stderr,
            )

    def _created_or_named(self) -> bool:
        return self._created or self._shutdown_on_close is True

    # --- for those who make images and templates --------------------------------------------

    def render_cloud_init(self, role: str = "worker") -> str:
        """What a machine of this role is told at its first boot, without any secret."""
        return _render(self._request(["render", "cloud-init", "--role", role]))

    @classmethod
    def get_cloud_init(cls, *args: Any, **kwargs: Any) -> str:
        """The same without making a cluster; arguments are those of the class."""
        role = kwargs.pop("role_of_machine", "worker")
        kwargs.pop("asynchronous", None)
        # Not started: an asynchronous one waits for its first await.
        cluster = cls(*args, asynchronous=True, **kwargs)
        cluster.status = Status.closed
        _ends.discard(cluster)
        return cluster.render_cloud_init(role)

    def get_tags(self) -> dict[str, str]:
        """Tags of everything that is made."""
        tags = dict(self._arguments.get("tags") or {})
        tags.update({k[5:]: v for k, v in self._arguments.items() if k.startswith("tags.")})
        return {**tags, "herdsman-cluster": self.name}


# --- helpers --------------------------------------------------------------------------------


class _Idle:
    """Whether something is under way that Ctrl-C has to wait for."""

    def __init__(self) -> None:
        self._depth = 0
        self._done = threading.Event()
        self._done.set()

    def __enter__(self) -> None:
        self._depth += 1
        self._done.clear()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._done.set()

    @property
    def busy(self) -> bool:
        return not self._done.is_set()

    def wait(self, timeout: float) -> bool:
        return self._done.wait(timeout)


def _attached(name: str) -> Cluster:
    return Cluster.from_name(name)


def _new_name() -> str:
    """A name that nobody else has, which says whose it is."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "user"
    user = re.sub(r"[^a-z0-9]+", "-", user.lower()).strip("-")[:12] or "user"
    return f"dask-{user}-{random_secrets.token_hex(3)}"


def _is_shown() -> bool:
    """Whether somebody reads what is printed: a terminal or a notebook."""
    with contextlib.suppress(Exception):
        if sys.stdout is not None and sys.stdout.isatty():
            return True
    return "ipykernel" in sys.modules


def _story(event: Mapping[str, Any]) -> str | None:
    """What of an event people want to read."""
    if "note" in event:
        return str(event["note"])
    if "warning" in event:
        return f"warning: {event['warning']}"
    if event.get("status") == "failed":
        error = event.get("error") or {}
        return f"{event.get('node')}: {event.get('phase')}: {error.get('message', 'failed')}"
    if event.get("state") in {"ready", "lost"}:
        why = event.get("why")
        return f"{event.get('node')} is {event['state']}" + (f": {why}" if why else "")
    return None


def _span(seconds: float) -> str:
    seconds = max(0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _unreachable(name: str, errors: list[BaseException]) -> HerdsmanError:
    from herdsman.exceptions import Unreachable

    return Unreachable(
        "E-UNREACHABLE",
        f"the scheduler of `{name}` does not answer",
        cause=[str(e).splitlines()[0] for e in errors if str(e)],
        try_=[f"herdsman doctor {name}     says which part of the way is closed"],
        retryable=True,
        exit_code=3,
    )


def _compare_versions(theirs: Mapping[str, Any], name: str) -> None:
    """What is pickled here is unpickled there, so these have to agree."""
    import dask as dask_package
    import distributed as distributed_package

    def minor(version: str) -> str:
        return ".".join(version.split(".")[:2])

    mine = {
        "python": ".".join(str(n) for n in sys.version_info[:3]),
        "dask": dask_package.__version__,
        "distributed": distributed_package.__version__,
    }
    different = []
    for what, here in mine.items():
        there = str(theirs.get(what) or "")
        same = minor(here) == minor(there) if what == "python" else here == there
        if there and not same:
            different.append(f"{what:<12} here {here}, there {there}")
    if different:
        raise VersionMismatch(
            "E-MISMATCH",
            f"Python here and on the nodes of `{name}` do not fit each other",
            cause=different,
            try_=[
                f"herdsman up {name} --env copy     brings this environment to the nodes",
                "or use the environment that the cluster was made from",
                "or check_versions=False, at your own risk",
            ],
            exit_code=3,
        )


def _own_certificates(security: Security) -> dict[str, Any]:
    """Settings for certificates of the user's own. What is in memory is written to a
    folder that only the user can read, where it stays: later clients need it."""
    settings: dict[str, Any] = {}
    folder: Path | None = None
    for field in (
        "tls_ca_file",
        "tls_scheduler_cert",
        "tls_scheduler_key",
        "tls_worker_cert",
        "tls_worker_key",
        "tls_client_cert",
        "tls_client_key",
    ):
        value = getattr(security, field, None)
        if not value:
            continue
        if "\n" in value:
            if folder is None:
                folder = _private_folder()
            path = folder / f"{field}.pem"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(value)
            value = str(path)
        settings[f"security.{field}"] = os.path.abspath(value)
    return settings


def _private_folder() -> Path:
    places = _bridge.call(_bridge.Request(["config", "path"])).document
    base = Path(places["state"]) / "certificates"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=base))


def _render(request: _bridge.Request) -> str:
    document = _bridge.call(request).document
    if isinstance(document, Mapping):
        return str(document.get("user_data") or document.get("text") or "")
    return str(document or "")


#: Clusters that are in use from here, for the end of Python.
_ends: weakref.WeakSet[Cluster] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for cluster in list(_ends):
        with contextlib.suppress(Exception):
            cluster._end_at_exit()


def _after_fork() -> None:
    """A fork has no part in its parent's clusters: it neither closes nor deletes them."""
    for cluster in list(_ends):
        cluster.status = Status.closed
    _ends.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
