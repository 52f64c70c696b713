"""What all parts of a cluster object share: its state, calls of the launcher, Ctrl-C."""

from __future__ import annotations

import asyncio
import datetime
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distributed.core import Status
from distributed.deploy.cluster import Cluster as DaskCluster
from distributed.security import Security

from herdsman import _bridge
from herdsman._fleet import Fleet
from herdsman._helpers import Busy, story
from herdsman._live import Live
from herdsman._types import Cost, Event, Node
from herdsman.exceptions import ClusterExists, NotFound

#: Longest wait for another command that is at work on the same cluster, in seconds.
TURN = 300.0

Time = str | float | int | datetime.timedelta | None


class ClusterBase(DaskCluster):
    """The state; nothing here makes, changes or ends a cluster."""

    security: Security
    scheduler_comm: Any
    status: Status
    _arguments: dict[str, Any]
    _dask_settings: dict[str, Any]
    _defaults: dict[str, Any]
    _secrets: dict[str, str]
    _profile: str | None
    _file: str | None
    _shutdown_on_close: bool | None
    _created: bool
    _deleted: bool
    _fleet: Fleet
    _live: Live | None
    _opened: dict[str, Any]
    _status_message: dict[str, Any]
    _status_at: float
    _event_log: deque[Event]
    _workers_per_node: int
    _cost: Cost | None
    _cost_at: float
    _cost_nodes: int
    _cost_task: asyncio.Future[Any] | None
    _reading: asyncio.Future[None] | None
    _finishing: asyncio.Future[None] | None
    _deleting: _bridge.Child | None
    _background: list[asyncio.Task[Any]]
    _turn: asyncio.Lock | None
    _wake: asyncio.Event | None
    _children: set[_bridge.Child]
    _busy: Busy

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

    def _on_event(self, event: dict[str, Any]) -> None:
        """Events of a command, in a thread that reads them."""
        text = story(event)
        if text:
            self._say(text)

    def _say(self, text: str) -> None:
        self._cluster_manager_logs.append((datetime.datetime.now(), text))
        if not self.quiet:
            print(f"{self.name}: {text}")

    def _take_nodes(self, status: Mapping[str, Any] | None) -> set[str]:
        if not status:
            return set()
        seq = int(status.get("events") or 0)
        return self._fleet.update(status.get("nodes") or (), time.monotonic(), seq)

    def nodes(self) -> list[Node]:
        """The cluster's machines, the scheduler's first, as they were heard of last."""
        return [Node.from_json(n) for n in self._status_message.get("nodes") or ()]

    async def _identity(self) -> dict[str, Any]:
        """What the scheduler says of itself and of all workers."""
        answer: dict[str, Any] = await self.scheduler_comm.identity()
        return answer

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()

    def sync(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Dask's own; Ctrl-C also interrupts what the launcher is at, and waits until it
        has cleaned up."""
        if self.status == Status.closed:
            raise NotFound("E-NOT-FOUND", f"this object of `{self.name}` is closed", exit_code=3)
        try:
            return super().sync(func, *args, **kwargs)
        except KeyboardInterrupt:
            self._interrupted()
            raise

    def _interrupted(self) -> None:
        children = [child for child in list(self._children) if child.running]
        for child in children:
            child.interrupt()
        if children or self._busy.busy:
            print(f"{self.name}: interrupted; cleaning up (once more Ctrl-C: do not wait)", file=sys.stderr)
            self._busy.wait(_bridge.CLEAN_UP)

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

    async def _patiently(
        self, argv: Sequence[str], on_event: _bridge.OnEvent | None = None
    ) -> _bridge.Answer:
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
