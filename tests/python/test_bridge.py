"""The launcher as a child: answers, errors, events, its end. A script stands for it."""

import asyncio
import json
import os
import pickle
import signal
import stat
import sys
import threading
import time

import pytest
from conftest import until

from herdsman import (
    ClusterExists,
    HerdsmanError,
    NotFound,
    PermissionDenied,
    QuotaError,
    StartTimeout,
    UsageError,
    VersionMismatch,
    _bridge,
)
from herdsman.exceptions import from_json


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes a program that stands for the launcher."""

    def make(body):
        path = tmp_path / "herdsman"
        path.write_text(f"#!{sys.executable}\nimport json, os, signal, sys, time\n{body}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("HERDSMAN_BINARY", str(path))
        return path

    return make


def test_answer_and_events(fake):
    fake(
        "given = json.loads(sys.stdin.readline())\n"
        'print(json.dumps({"made": ["w0"]}), file=sys.stderr)\n'
        'print(json.dumps({"got": given["arguments"], "argv": sys.argv[1:]}, indent=1))\n'
    )
    events = []
    answer = _bridge.call(_bridge.Request(["up", "x"], arguments={"a.b": 1}), events.append)
    assert answer.document["got"] == {"a.b": 1}
    assert answer.document["argv"][-2:] == ["up", "x"]
    assert events == [{"made": ["w0"]}]
    again = asyncio.run(_bridge.acall(_bridge.Request(["up", "x"], arguments={"a.b": 1})))
    assert again.document == answer.document


@pytest.mark.parametrize(
    ("code", "kind", "also"),
    [
        ("E-USAGE", UsageError, ValueError),
        ("E-NOT-FOUND", NotFound, LookupError),
        ("E-PERM", PermissionDenied, PermissionError),
        ("E-QUOTA", QuotaError, HerdsmanError),
        ("E-CAPACITY", QuotaError, HerdsmanError),
        ("E-DEADLINE", StartTimeout, TimeoutError),
        ("E-CONFLICT", ClusterExists, HerdsmanError),
        ("E-MISMATCH", VersionMismatch, HerdsmanError),
        ("E-SOMETHING-NEW", HerdsmanError, HerdsmanError),
    ],
)
def test_errors_have_kind_code_cause_and_hints(fake, code, kind, also):
    error = {
        "error": {
            "code": code,
            "message": "no",
            "cause": ["why"],
            "try": ["this"],
            "exit": 5,
            "retryable": True,
        }
    }
    fake(f"print(json.dumps({error!r})); sys.exit(5)")
    with pytest.raises(kind) as e:
        _bridge.call(_bridge.Request(["up"]))
    assert isinstance(e.value, also)
    for error in (e.value, pickle.loads(pickle.dumps(e.value))):
        assert type(error) is kind
        assert (error.code, error.message, error.cause, error.try_) == (code, "no", ["why"], ["this"])
        assert error.hint == error.try_ and error.retryable and error.exit_code == 5
        assert str(error).splitlines() == [f"[{code}] no", "  why", "  try: this"]


def test_lines_of_a_log_are_kept_apart():
    e = from_json(
        {"error": {"code": "E-BOOT", "message": "late", "cause": ["w2: last lines:", "uv: no space"]}}
    )
    assert e.log == ["uv: no space"] and e.cause == []


def test_a_crash_is_told_with_its_last_words(fake):
    fake('print("thread panicked at x.rs", file=sys.stderr); os.abort()')
    with pytest.raises(HerdsmanError, match="signal 6") as e:
        _bridge.call(_bridge.Request(["ls"]))
    assert e.value.code == "E-INTERNAL" and "panicked" in e.value.log[-1]


def test_an_older_launcher_is_named(fake):
    fake("print(\"error: unexpected argument '--settings' found\", file=sys.stderr); sys.exit(2)")
    with pytest.raises(VersionMismatch, match="older"):
        _bridge.call(_bridge.Request(["ls"]))


def test_partly_done_is_an_answer(fake):
    fake('print(json.dumps({"kept": [1]})); sys.exit(7)')
    answer = _bridge.call(_bridge.Request(["scale"]))
    assert (answer.document, answer.exit_code) == ({"kept": [1]}, 7)


SLOW = """
def told(*_):
    open(os.environ["MARK"], "w").write("cleaned up")
    sys.exit(130)
signal.signal(signal.SIGINT, told)
print(json.dumps({"note": "at it"}), file=sys.stderr, flush=True)
time.sleep(600)
"""


def test_cancelling_interrupts_and_waits(fake, tmp_path, monkeypatch):
    fake(SLOW)
    mark = tmp_path / "mark"
    monkeypatch.setenv("MARK", str(mark))

    async def main():
        started = asyncio.Event()
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(
            _bridge.acall(_bridge.Request(["up"]), lambda _: loop.call_soon_threadsafe(started.set))
        )
        await asyncio.wait_for(started.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mark.read_text() == "cleaned up", "it was waited for"

    asyncio.run(main())


def test_a_deadline_ends_the_child(fake, tmp_path, monkeypatch):
    fake(SLOW)
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    started = time.monotonic()
    with pytest.raises(StartTimeout):
        asyncio.run(_bridge.acall(_bridge.Request(["up"]), timeout=2))
    assert time.monotonic() - started < 30
    assert (tmp_path / "mark").exists()


def test_one_that_does_not_heed_is_killed(fake):
    fake(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        'print(json.dumps({"note": 1}), file=sys.stderr, flush=True)\ntime.sleep(600)'
    )
    told = threading.Event()
    child = _bridge.Child(_bridge.Request(["up"]), lambda _: told.set())
    assert told.wait(30)
    child.end(timeout=0.3)
    assert child.process.returncode == -signal.SIGKILL


def test_ctrl_c_of_the_terminal_is_pythons_alone(fake):
    fake("print(json.dumps({'group': os.getpgid(0), 'parent': os.getppid()}))")
    answer = _bridge.call(_bridge.Request(["ls"]))
    assert answer.document["group"] != os.getpgid(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_lets_its_parents_children_be(fake, tmp_path):
    mark = tmp_path / "ended"
    fake(f"sys.stdin.readline(); sys.stdin.read(); open({str(mark)!r}, 'w').write('x')")
    child = _bridge.Child(_bridge.Request(["attend"]), keep_stdin=True)
    pid = os.fork()
    if pid == 0:
        child.interrupt()
        child.end(1)
        time.sleep(30)
        os._exit(0)
    try:
        time.sleep(0.3)
        assert child.running, "the fork has no say"
        child.close_stdin()
        child.wait(30)  # and does not hold the pipe
        assert mark.exists()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_listeners_that_fail_stop_nothing(fake):
    fake('print(json.dumps({"note": 1}), file=sys.stderr)\nprint("{}")')

    def bad(_):
        raise RuntimeError("mine")

    assert _bridge.call(_bridge.Request(["ls"]), bad).document == {}


def test_a_launcher_that_is_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("HERDSMAN_BINARY", str(tmp_path / "none"))
    with pytest.raises(NotFound, match="HERDSMAN_BINARY"):
        _bridge.call(_bridge.Request(["ls"]))


def test_documents():
    assert list(_bridge._documents('{"a": 1}\n[2]\n')) == [{"a": 1}, [2]]
    assert list(_bridge._documents("")) == []
    assert list(_bridge._documents("words")) == []
    assert json.loads(_bridge.Request(["x"]).document())["protocol"] == _bridge.PROTOCOL
    until(lambda: True)
