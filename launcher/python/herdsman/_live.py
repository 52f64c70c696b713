"""The launcher's process that stays for as long as a cluster is used from here.

It tells what happens to the nodes, renews certificates, and holds the tunnels. It ends
when its input is closed, so it never outlives this process, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from herdsman._bridge import Child, Request, _in_thread
from herdsman.exceptions import HerdsmanError, StartTimeout

logger = logging.getLogger(__name__)

Message = dict[str, Any]

#: Pause before one that ended is started again, and the longest.
_AGAIN = 1.0
_AGAIN_MOST = 60.0


class Live:
    """Keeps one such process running; ``on_message`` is called on the loop."""

    def __init__(
        self, request: Callable[[Message | None], Request], on_message: Callable[[Message], None]
    ) -> None:
        self._request = request
        self._on_message = on_message
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[Message] | None = None
        self._last: Message | None = None
        self._closed = False

    async def start(self, timeout: float) -> Message:
        """Starts it; gives its first message.

        Raises :class:`HerdsmanError`, such as that there is no such cluster.
        """
        self._opened = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._run())
        try:
            return await asyncio.wait_for(asyncio.shield(self._opened), timeout)
        except asyncio.TimeoutError:
            await self.close()
            raise StartTimeout(
                "E-DEADLINE", f"the cluster's hub did not answer within {timeout:g} s", exit_code=6
            ) from None
        except BaseException:
            await self.close()
            raise

    async def _run(self) -> None:
        pause = _AGAIN
        loop = asyncio.get_running_loop()
        while not self._closed:
            started = loop.time()
            try:
                error = await self._once(loop)
            except HerdsmanError as e:
                error = e
            if self._opened is not None and not self._opened.done():
                self._opened.set_exception(
                    error or HerdsmanError("E-INTERNAL", "the launcher ended before it said anything")
                )
                return
            if self._closed:
                return
            if error is not None:
                self._on_message({"kind": "trouble", "error": error})
            pause = _AGAIN if loop.time() - started > _AGAIN_MOST else min(pause * 2, _AGAIN_MOST)
            await asyncio.sleep(pause)

    async def _once(self, loop: asyncio.AbstractEventLoop) -> HerdsmanError | None:
        def told(message: Message) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._take, message)

        child = self._child = Child(self._request(self._last), on_line=told, keep_stdin=True)
        try:
            await asyncio.shield(_in_thread(child.wait))
        finally:
            child.close_stdin()
        try:
            child.result()
        except HerdsmanError as e:
            return e
        return None

    def _take(self, message: Message) -> None:
        if message.get("kind") == "open":
            self._last = message
            if self._opened is not None and not self._opened.done():
                self._opened.set_result(message)
        if not self._closed:
            self._on_message(message)

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.process.pid

    async def close(self) -> None:
        """Ends it and waits."""
        self._closed = True
        child = self._child
        if child is not None:
            child.close_stdin()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_in_thread(lambda: child.wait(3)), 5)
            if child.running:
                await _in_thread(lambda: child.end(2))
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def drop(self) -> None:
        """Ends it without waiting, when Python ends."""
        self._closed = True
        if self._child is not None:
            self._child.close_stdin()
