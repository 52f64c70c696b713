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
import contextlib
import datetime
import logging
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import dask.config
from distributed.core import Status, rpc
from distributed.objects import SchedulerInfo
from distributed.security import Security

from herdsman import _bridge, _settings
from herdsman._cluster_base import Time
from herdsman._cluster_end import Ends, in_use
from herdsman._cluster_scaling import Scaling
from herdsman._cluster_view import View
from herdsman._fleet import Fleet
from herdsman._helpers import (
    Busy,
    compare_versions,
    is_shown,
    new_name,
    own_certificates,
    render,
    unreachable,
)
from herdsman._live import Live
from herdsman._security import ClusterSecurity
from herdsman._settings import Unset, UnsetNumber
from herdsman._types import Cost, Event, Finished
from herdsman.exceptions import HerdsmanError, PartlyDone, UsageError

if TYPE_CHECKING:
    from tornado.ioloop import IOLoop

logger = logging.getLogger(__name__)

T = TypeVar("T", bound="Cluster")

#: Longest wait for the hub's and the scheduler's answers once the cluster is up, in seconds.
CONNECT = 30.0

_CREATE_MODES = {"create_or_connect": "keep", "create_only": "fail", "connect_only": None}


class Cluster(Scaling, View, Ends):  # type: ignore[misc]
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
        idle_timeout: Time = Unset("20 minutes"),
        no_client_timeout: Time = None,
        max_lifetime: Time = Unset("12 hours"),
        max_cost: float | None = None,
        wait_for_workers: float | str | bool | None = UnsetNumber(0.3),
        start_timeout: Time = Unset("5 minutes"),
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
        provisional = str(known) if known is not None else new_name()
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
        self._reading: asyncio.Future[None] | None = None
        self._finishing: asyncio.Future[None] | None = None
        self._deleting: _bridge.Child | None = None
        self._deleted = False
        self._turn: asyncio.Lock | None = None
        self._start_lock: asyncio.Lock | None = None
        self._wake: asyncio.Event | None = None
        self._have_status: asyncio.Event | None = None
        self._busy = Busy()
        self.security: Security = Security()

        super().__init__(
            asynchronous=asynchronous,
            loop=loop,
            quiet=configured("quiet", quiet, not is_shown()),
            name=provisional,
        )
        self._cluster_info["type"] = "herdsman.Cluster"
        in_use.add(self)
        if not self.called_from_running_loop:
            self._loop_runner.start()
            try:
                self.sync(self._start)
            except BaseException:
                self.status = Status.closed
                in_use.discard(self)
                with contextlib.suppress(Exception):
                    self._loop_runner.stop()
                raise

    # --- names and settings --------------------------------------------------------------------

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
        return own_certificates(security)

    # --- start ---------------------------------------------------------------------------------

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
            with self._busy:
                try:
                    await self._begin()
                except BaseException:
                    await asyncio.shield(self._abandon())
                    raise

    async def _begin(self) -> None:
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._have_status = asyncio.Event()
        partly: PartlyDone | None = None
        if self._mode != "connect_only":
            try:
                await self._up()
            except PartlyDone as e:
                # It may be up with fewer workers; then it can be connected to.
                partly, self._created, self._named = e, True, True
        try:
            await self._connect()
        except HerdsmanError as e:
            raise partly or e from None
        if partly is not None:
            warnings.warn(str(partly), stacklevel=2)
            self._say(str(partly))
        await super()._start()
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
        in_use.discard(self)

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
        assert self._have_status is not None
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._have_status.wait(), CONNECT)
        self.name = str(opened["name"])
        self._named = True
        self._fleet.name = self.name
        self._workers_per_node = int(opened.get("workers_per_node") or 1)
        self.security = self._make_security(opened)
        if self._check:
            compare_versions(opened.get("versions") or {}, self.name)
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
            raise unreachable(self.name, errors)
        if getattr(self, "_adaptive_options", None) and self._fleet.target is not None:
            options: dict[str, Any] = dict(self._adaptive_options)
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

    # --- what happens --------------------------------------------------------------------------

    def _on_live(self, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind == "status":
            self._status_message = message
            self._status_at = time.monotonic()
            if self._have_status is not None:
                self._have_status.set()
            lost = self._take_nodes(message)
            self._compare_workers()
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

    def _compare_workers(self) -> None:
        """Reads the scheduler's list anew where the hub knows of others: the scheduler
        tells changes to one observer only, the last that asked."""
        if self.status != Status.running or (self._reading is not None and not self._reading.done()):
            return
        if self._hubs_workers() != set(self.scheduler_info["workers"]):
            self._reading = asyncio.ensure_future(self._read_workers())

    def _hubs_workers(self) -> set[str]:
        nodes = self._status_message.get("nodes") or ()
        return {str(w.get("address")) for node in nodes for w in node.get("workers") or ()}

    async def _read_workers(self) -> None:
        # What the hub or the scheduler has heard of, the other hears of within a moment.
        for pause in (0.0, 0.2, 0.5, 1, 2):
            await asyncio.sleep(pause)
            try:
                self.scheduler_info = SchedulerInfo(await self._identity())
            except (OSError, asyncio.TimeoutError):
                continue
            if self._hubs_workers() == set(self.scheduler_info["workers"]):
                return

    async def _watch_worker_status(self, comm: Any) -> None:
        """As Dask's own, and connects again: laptops sleep, and networks break."""
        while True:
            try:
                await super()._watch_worker_status(comm)
            except Exception:  # one odd message must not make this object blind
                logger.debug("the list of workers is read anew", exc_info=True)
                comm.abort()
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

    def _update_worker_status(self, op: str, msg: Any) -> None:
        """As Dask's own, but a worker that is unknown already is no error: waiting for
        workers reads the whole list, ahead of what is on its way."""
        if op == "remove":
            self.scheduler_info["workers"].pop(msg, None)
        else:
            super()._update_worker_status(op, msg)

    # --- doing ---------------------------------------------------------------------------------

    def extend(self, lifetime: Time = Unset(""), *, idle: Time = Unset("")) -> Any:
        """Puts off the end of the cluster's life, counted from now, or changes its idle
        limit; ``None`` is without limit.

        >>> cluster.extend("2 hours")                                    # doctest: +SKIP
        """
        return self.sync(self._extend, lifetime, idle)

    async def _extend(self, lifetime: Time = Unset(""), idle: Time = Unset("")) -> None:
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

    # --- for those who make images and templates -----------------------------------------------

    def render_cloud_init(self, role: str = "worker") -> str:
        """What a machine of this role is told at its first boot, without any secret."""
        return render(self._request(["render", "cloud-init", "--role", role]))

    @classmethod
    def get_cloud_init(cls, *args: Any, **kwargs: Any) -> str:
        """The same without making a cluster; arguments are those of the class."""
        role = kwargs.pop("role_of_machine", "worker")
        kwargs.pop("asynchronous", None)
        # Not started: an asynchronous one waits for its first await.
        cluster = cls(*args, asynchronous=True, **kwargs)
        cluster.status = Status.closed
        in_use.discard(cluster)
        return cluster.render_cloud_init(role)

    def get_tags(self) -> dict[str, str]:
        """Tags of everything that is made."""
        tags = dict(self._arguments.get("tags") or {})
        tags.update({k[5:]: v for k, v in self._arguments.items() if k.startswith("tags.")})
        return {**tags, "herdsman-cluster": self.name}


def _attached(name: str) -> Cluster:
    return Cluster.from_name(name)
