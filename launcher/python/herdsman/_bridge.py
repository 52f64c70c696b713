"""The one way to the launcher: settings in as JSON, an answer and events out as JSON.

```text
Python ── stdin: {"protocol": 1, "arguments": …} ──▶ herdsman VERB -o json --events jsonl
       ◀── stdout: one document, or {"error": …} ───
       ◀── stderr: one event a line ────────────────
```

Nothing is read that was written for people, and no value of a setting is ever in
an argument, where everybody who can list processes would see it.

Threads read the pipes, so that this works under any event loop, in any thread,
and without a loop. A child is a session of its own: Ctrl-C in a terminal reaches
Python alone, which then interrupts the child and waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from herdsman import _binary
from herdsman.exceptions import HerdsmanError, UsageError, VersionMismatch, from_json

logger = logging.getLogger(__name__)

#: Version of what crosses between this package and the launcher.
PROTOCOL = 1

#: How long an interrupted child may clean up.
CLEAN_UP = 120.0
#: Lines of a child's own words that are kept for an error.
_TAIL = 20

T = TypeVar("T")

Event = dict[str, Any]
OnEvent = Callable[[Event], None]


@dataclass
class Request:
    """One call of the launcher."""

    argv: Sequence[str]
    #: Dotted keys that win over everything else.
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: Those of dask.config.
    dask: Mapping[str, Any] = field(default_factory=dict)
    #: Those that everything else wins over.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: Values of secret variables, for the child's environment.
    secrets: Mapping[str, str] = field(default_factory=dict)
    profile: str | None = None
    file: str | None = None
    #: Whether settings cross at all; a few verbs read stdin for others.
    settings: bool = True

    def command(self) -> list[str]:
        words = [_binary.find(), "--output", "json", "--events", "jsonl", "--no-input", "--yes"]
        if self.profile is not None:
            words += ["--profile", self.profile]
        if self.settings:
            words += ["--settings", "-"]
        return words + list(self.argv)

    def document(self) -> bytes:
        return json.dumps(
            {
                "protocol": PROTOCOL,
                "arguments": dict(self.arguments),
                "dask": dict(self.dask),
                "defaults": dict(self.defaults),
                "file": self.file,
            },
            default=str,
        ).encode()

    def environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        environment.update(self.secrets)
        return environment


@dataclass
class Answer:
    """What the launcher answered."""

    document: Any
    exit_code: int


class Child:
    """A running launcher. Its pipes are read by threads; :meth:`wait` and
    :meth:`result` may be called from anywhere."""

    _all: weakref.WeakSet[Child] = weakref.WeakSet()

    def __init__(
        self,
        request: Request,
        on_event: OnEvent | None = None,
        on_line: OnEvent | None = None,
        keep_stdin: bool = False,
    ) -> None:
        self._on_event = on_event
        self._on_line = on_line
        self._owner = os.getpid()
        self._out: list[bytes] = []
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._error: Event | None = None
        command = request.command()
        logger.debug("running %s", " ".join(command))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=request.environment(),
            start_new_session=sys.platform != "win32",
        )
        Child._all.add(self)
        self._threads = [
            threading.Thread(target=read, daemon=True, name=f"herdsman-{what}")
            for what, read in (("stdout", self._read_out), ("stderr", self._read_err))
        ]
        for thread in self._threads:
            thread.start()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it says by itself why it ended
            if request.settings:
                self.process.stdin.write(request.document() + b"\n")
                self.process.stdin.flush()
        if not keep_stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    # --- reading --------------------------------------------------------------------------

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if self._on_line is None:
                self._out.append(line)
                continue
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                if "error" in value and len(value) == 1:
                    self._error = value
                _tell(self._on_line, value)

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            try:
                event = json.loads(text)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                self._tail.append(text)
                continue
            # The error that ends it has nothing beside it; those of phases have.
            if "error" in event and "phase" not in event:
                self._error = event
            elif self._on_event is not None:
                _tell(self._on_event, event)

    # --- ending ---------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def send_signal(self, number: int) -> None:
        """Only from the process that started it: a fork has no say."""
        if os.getpid() == self._owner and self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def interrupt(self) -> None:
        """Asks it to end; what it had made, it deletes."""
        self.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end.

        Raises ``subprocess.TimeoutExpired``.
        """
        code = self.process.wait(timeout)
        for thread in self._threads:
            thread.join(5)
        return code

    def end(self, timeout: float = CLEAN_UP) -> None:
        """Interrupts it and waits; one that does not heed is killed."""
        self.interrupt()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(5)

    def close_stdin(self) -> None:
        """For children that live as long as somebody holds their input."""
        if os.getpid() == self._owner and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def result(self) -> Answer:
        """Its answer, once it has ended.

        Raises :class:`HerdsmanError`.
        """
        code = self.process.returncode
        text = b"".join(self._out).decode("utf-8", "replace")
        documents = list(_documents(text))
        last = documents[-1] if documents else None
        error = last if isinstance(last, dict) and set(last) == {"error"} else self._error
        if error is not None and code != 0:
            raise from_json(error, code)
        if code in {0, 7, 10} and (documents or code == 0):
            return Answer(last, code)
        raise self._unexplained(code)

    def _unexplained(self, code: int | None) -> HerdsmanError:
        """It ended without an error of its own: wrong usage, or a crash."""
        tail = [line for line in self._tail if line.strip()]
        if code == 2:
            text = " ".join(tail)
            if "--settings" in text or "unrecognized subcommand" in text:
                return VersionMismatch(
                    "E-PROTOCOL",
                    "the launcher is older than this package",
                    cause=[f"{_binary.find()}: {tail[0] if tail else ''}"],
                    try_=["python -m pip install --upgrade --force-reinstall herdsman"],
                    exit_code=2,
                )
            message = tail[0].removeprefix("error: ") if tail else "wrong usage"
            return UsageError("E-USAGE", message, cause=tail[1:], exit_code=2)
        what = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
        return HerdsmanError("E-INTERNAL", f"the launcher {what}", log=tail, exit_code=code or 1)


def _tell(listener: OnEvent, value: Event) -> None:
    try:
        listener(value)
    except Exception:  # a fault of a listener must not stop the reading
        logger.exception("an event could not be told")


def _documents(text: str) -> Any:
    """All JSON values of a text that holds nothing else."""
    decoder = json.JSONDecoder()
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at >= len(text):
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            return
        yield value


# --- calls --------------------------------------------------------------------------------


def call(request: Request, on_event: OnEvent | None = None, timeout: float | None = None) -> Answer:
    """Runs the launcher and waits for it, without any event loop."""
    child = Child(request, on_event)
    try:
        child.wait(timeout)
    except subprocess.TimeoutExpired:
        child.end()
        raise _late(request, timeout) from None
    except BaseException:
        child.end()
        raise
    return child.result()


async def acall(
    request: Request,
    on_event: OnEvent | None = None,
    timeout: float | None = None,
    children: set[Child] | None = None,
    leave: bool = False,
) -> Answer:
    """Runs the launcher and waits for it. Cancelling interrupts it, and waits until it
    has cleaned up; or, with ``leave``, lets it go on. ``children`` holds it meanwhile,
    so that others can interrupt it."""
    child = Child(request, on_event)
    if children is not None and not leave:
        children.add(child)
    ended = _ended(child)
    try:
        await asyncio.wait_for(asyncio.shield(ended), timeout)
    except asyncio.TimeoutError:
        child.interrupt()
        await _in_thread(child.end)
        raise _late(request, timeout) from None
    except asyncio.CancelledError:
        if leave:
            raise
        child.interrupt()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(_in_thread(child.end))
        raise
    finally:
        if children is not None and not child.running:
            children.discard(child)
    return child.result()


def _ended(child: Child) -> asyncio.Future[None]:
    """Done once the child has ended and all it said is read."""
    return _in_thread(child.wait)


def _in_thread(work: Callable[[], Any]) -> asyncio.Future[None]:
    """Runs ``work`` in a thread that does not keep Python from ending, unlike those of
    the loop's own pool."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def done(error: BaseException | None) -> None:
        if future.cancelled() or future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as e:
            error = e
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(done, error)

    threading.Thread(target=run, daemon=True, name="herdsman-wait").start()
    return future


async def in_thread(work: Callable[[], T]) -> T:
    """What ``work`` gives, which may take a while."""
    results: list[T] = []
    await _in_thread(lambda: results.append(work()))
    return results[0]


def _late(request: Request, timeout: float | None) -> HerdsmanError:
    from herdsman.exceptions import StartTimeout

    verb = " ".join(request.argv[:2])
    return StartTimeout(
        "E-DEADLINE",
        f"`herdsman {verb}` was not done within {timeout:g} s",
        try_=["the same again goes on from there"],
        exit_code=6,
    )


async def raw(
    request: Request, timeout: float | None = None, children: set[Child] | None = None
) -> tuple[int, str, str]:
    """Runs a verb whose output is that of somebody else's program."""
    child = Child(request)
    if children is not None:
        children.add(child)
    try:
        await asyncio.wait_for(asyncio.shield(_in_thread(child.wait)), timeout)
    except asyncio.TimeoutError:
        await _in_thread(lambda: child.end(5))
        raise _late(request, timeout) from None
    except asyncio.CancelledError:
        child.interrupt()
        raise
    finally:
        if children is not None:
            children.discard(child)
    code = child.process.returncode
    if code == 125 and child._error is not None:
        raise from_json(child._error, code)
    out = b"".join(child._out).decode("utf-8", "replace")
    return code, out, "\n".join(child._tail)


def detach(request: Request, log: str) -> subprocess.Popen[bytes]:
    """Starts the launcher so that it outlives this process, with its output in a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            request.command(),
            stdin=subprocess.PIPE,
            stdout=descriptor,
            stderr=descriptor,
            env=request.environment(),
            start_new_session=sys.platform != "win32",
        )
    finally:
        os.close(descriptor)
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(request.document() + b"\n")
        process.stdin.close()
    return process


def _after_fork() -> None:
    """In a fork the parent's children are not ours to end, and holding the ends of
    their pipes would keep them from seeing that the parent is gone."""
    for child in list(Child._all):
        for pipe in (child.process.stdin, child.process.stdout, child.process.stderr):
            if pipe is not None:
                # Not closed: a thread of the parent may have held its lock.
                with contextlib.suppress(OSError, ValueError):
                    null = os.open(os.devnull, os.O_RDWR)
                    os.dup2(null, pipe.fileno(), inheritable=False)
                    os.close(null)
        child.process.returncode = 0
    Child._all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
