"""More and fewer nodes, without losing what they have computed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, cast

from dask.utils import parse_bytes, parse_timedelta
from distributed.core import Status
from distributed.exceptions import WorkerStartTimeoutError

from herdsman._adaptive import Adaptive
from herdsman._cluster_base import ClusterBase
from herdsman._types import Node
from herdsman.exceptions import HerdsmanError, UsageError


class Scaling(ClusterBase):
    """The part of a cluster object that scales."""

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

    async def _wait_for_workers(self, n_workers: int = 0, timeout: Any = None) -> None:
        """As Dask's own, which reads the list of workers anew at each look, so that what was
        told meanwhile is forgotten."""
        until = None if timeout is None else time.monotonic() + float(parse_timedelta(timeout))
        while True:
            info = await self._identity()
            running = sum(w["status"] == Status.running.name for w in info["workers"].values())
            if running >= n_workers:
                for address, worker in info["workers"].items():
                    self.scheduler_info["workers"].setdefault(address, worker)
                return
            if until is not None and time.monotonic() > until:
                raise WorkerStartTimeoutError(running, n_workers, cast(float, timeout))
            await asyncio.sleep(0.1)

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
    async def _my_turn(self) -> AsyncIterator[None]:
        if self._turn is None:
            raise HerdsmanError("E-INTERNAL", "the cluster was not started")
        async with self._turn:
            if self.status != Status.running:
                raise HerdsmanError("E-NOT-FOUND", f"the cluster is {self.status.name}")
            self._fleet.busy = True
            try:
                with self._busy:
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
        self._take_nodes(document.get("status"))

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
        self._take_nodes(document.get("status"))
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
