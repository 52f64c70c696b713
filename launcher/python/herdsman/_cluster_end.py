"""How the use of a cluster ends: closed, deleted, or with Python itself."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from distributed.core import Status
from distributed.utils import NoOpAwaitable

from herdsman import _bridge
from herdsman._cluster_base import ClusterBase
from herdsman.exceptions import HerdsmanError, NotFound

#: Most time that closing may take while Python ends, in seconds; the launcher goes on after it.
AT_EXIT = 10.0
#: Longest wait for connections to close.
LET_GO = 5.0


class Ends(ClusterBase):
    """The part of a cluster object that ends."""

    @property
    def _deletes(self) -> bool:
        if self._shutdown_on_close is None:
            return self._created
        return bool(self._shutdown_on_close)

    async def _close(self) -> None:
        await self._finish(self._deletes)

    async def _finish(self, delete: bool) -> None:
        """Ends everything. Whoever does not wait for it any more (a deadline, Ctrl-C) does
        not keep it from going on."""
        if self._finishing is None:
            self._finishing = asyncio.ensure_future(self._finish_all(delete))
        await asyncio.shield(self._finishing)

    async def _finish_all(self, delete: bool) -> None:
        if self.status == Status.closed:
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
        for aside in (self._cost_task, self._reading):
            if aside is not None:
                aside.cancel()
        try:
            await self._let_go()
            # Not closed before the machines are gone.
            self.status = Status.closing
            if self._live is not None:
                await self._live.close()
            if delete and (started or self._created):
                await self._down()
        finally:
            self.status = Status.closed
            in_use.discard(self)

    async def _let_go(self) -> None:
        """Dask's own end, which waits for a scheduler that may not answer any more."""
        tasks = [self._sync_cluster_info_task, self._watch_worker_status_task]
        self._sync_cluster_info_task = self._watch_worker_status_task = None
        if self._watch_worker_status_comm is not None:
            self._watch_worker_status_comm.abort()
            self._watch_worker_status_comm = None
        waiting = [task for task in tasks if task is not None]
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting, timeout=1)
        with contextlib.suppress(asyncio.TimeoutError, OSError):
            await asyncio.wait_for(super()._close(), LET_GO)

    async def _down(self) -> None:
        try:
            child = self._deleting = _bridge.Child(self._request(["down", self.name]), self._on_event)
            await _bridge.in_thread(child.wait)
            child.result()
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
        if self.status == Status.closed and not self._deleted:
            # Its loop is gone.
            if self.asynchronous:
                return self._down()
            with contextlib.suppress(NotFound):
                _bridge.call(self._request(["down", self.name]), timeout=timeout)
            self._deleted = True
            return None
        return self._end(self._shutdown, timeout)

    async def _shutdown(self) -> None:
        await self._finish(True)

    def _end(self, how: Callable[[], Awaitable[None]], timeout: float | None) -> Any:
        if self.status == Status.closed:
            return NoOpAwaitable() if self.asynchronous else None
        try:
            return self.sync(how, callback_timeout=timeout)
        except RuntimeError:  # the loop is closed, as at the end of Python
            self._end_at_exit()
            return None
        finally:
            ended: Any = self.status
            if not self.asynchronous and ended == Status.closed:
                with contextlib.suppress(Exception):
                    self._loop_runner.stop()

    def _end_at_exit(self) -> None:
        """Python ends: deletion is handed to a launcher that outlives it."""
        if self.status == Status.closed:
            return
        started, self._deleting = self._deleting, None
        live, self._live = self._live, None
        if live is not None:
            live.drop()
        for child in list(self._children):
            child.interrupt()
        delete = self._deletes and not self._deleted and self._created_or_named()
        self.status = Status.closed
        in_use.discard(self)
        if not delete:
            return
        if started is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(AT_EXIT)
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


#: Clusters that are in use from here, for the end of Python.
in_use: weakref.WeakSet[Ends] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for cluster in list(in_use):
        with contextlib.suppress(Exception):
            cluster._end_at_exit()


def _after_fork() -> None:
    """A fork has no part in its parent's clusters: it neither closes nor deletes them."""
    for cluster in list(in_use):
        cluster.status = Status.closed
    in_use.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
