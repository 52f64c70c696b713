"""The link with the agent: what guards say by themselves, and the calls they obey."""

import contextlib
import os
import subprocess
import sys
import time

import dask
import distributed
import pytest
from rig import GUARD, wait_until
from tasks import inc, make_block, noted, wait_for

WORKERS = ("a", "b", "c-0", "c-1")


@pytest.fixture(scope="module")
def cluster(pki, folder):
    """Nodes a and b with a worker each, one of them without a nanny; node c with two.

    CRL and interval are of no interest here, the link is what counts.
    """
    import tempfile

    from rig import FakeAgent, Rig

    agent = FakeAgent(tempfile.mktemp(prefix="s", dir=folder))
    rig = Rig(pki, folder, agent)
    rig.scheduler()
    rig.worker("a", "--no-nanny", NODE="a")
    rig.worker("b", NODE="b")
    rig.worker("c", "--nworkers", 2)
    rig.guard = agent.peer("scheduler")
    for name in WORKERS:
        agent.peer("worker", name)
    wait_until(lambda: rig.guard.ok("status")["workers"] == 4, "four workers")
    yield rig
    rig.stop()
    agent.stop()


@pytest.fixture
def client(cluster):
    with cluster.client() as client:
        client.wait_for_workers(1, timeout=60)
        yield client


def test_hello_says_who_is_there(cluster):
    peers = {(k, n): cluster.agent.peer(k, n) for k, n in [("scheduler", None), *(("worker", n) for n in WORKERS), *(("nanny", n) for n in WORKERS[1:])]}
    for (kind, name), peer in peers.items():
        hello = peer.hello
        assert peer.messages[0][1][0] == "hello"
        assert hello["v"] == 1 and hello["kind"] == kind
        assert hello["name"] == name or kind == "scheduler"
        assert hello["address"].startswith("tls://127.0.0.1:")
        assert hello["dask"] == dask.__version__
        assert hello["distributed"] == distributed.__version__
        assert hello["python"] == ".".join(map(str, sys.version_info[:3]))
        assert ("workers" in hello) == (kind == "scheduler")
        os.kill(hello["pid"], 0)
    assert peers["worker", "b"].hello["pid"] != peers["nanny", "b"].hello["pid"]


def test_workers_are_announced(cluster):
    added = {w["name"]: w for w in cluster.guard.hello["workers"] + cluster.guard.all("worker_added")}
    assert sorted(added) == sorted(WORKERS)
    address = cluster.agent.peer("worker", "a").hello["address"]
    assert added["a"] == {"name": "a", "address": address, "nthreads": 1, "memory_limit": 1 << 30}


def test_reports_tell_busy_from_idle(cluster, client, folder):
    def reports():
        return cluster.guard.all("report")

    wait_until(lambda: reports() and reports()[-1]["idle_seconds"] is not None, "idle")
    gate = folder / f"gate-{time.monotonic_ns()}"
    running = client.submit(wait_for, str(gate), workers=["a"])
    waiting = client.submit(str.upper, running)
    busy = wait_until(
        lambda: reports()[-1]["tasks"]["processing"] == 1 and reports()[-1], "a busy report"
    )
    assert busy["idle_seconds"] is None
    assert busy["tasks"] == {
        "waiting": 1, "processing": 1, "memory": 0, "erred": 0, "released": 0, "queued": 0, "no-worker": 0,
    }
    assert busy["workers"] == 4 and busy["clients"] == 1
    detail = {w["name"]: w for w in busy["workers_detail"]}
    assert sorted(detail) == sorted(WORKERS)
    assert detail["a"]["processing"] == 1 and detail["b"]["processing"] == 0
    assert set(detail["a"]) == {
        "name", "processing", "memory_tasks", "memory_bytes", "managed_bytes", "spilled_bytes", "cpu", "occupancy",
    }
    assert cluster.guard.ok("processing") == {"a": 1, "b": 0, "c-0": 0, "c-1": 0}
    worker = cluster.agent.peer("worker", "a")
    report = wait_until(lambda: [r for r in worker.all("report") if r["executing"]], "a's report")
    assert set(report[0]) == {"executing", "ready", "memory_bytes", "data"}
    assert report[0]["executing"] == 1 and report[0]["memory_bytes"] > 10 << 20

    stuck = client.submit(inc, 1, resources={"GPU": 1})
    wait_until(lambda: reports()[-1]["tasks"]["no-worker"] == 1, "a task nobody may run")
    gate.touch()
    assert waiting.result(60) == str(gate).upper()
    done = wait_until(lambda: reports()[-1]["tasks"]["memory"] == 2 and reports()[-1], "done")
    assert done["idle_seconds"] is None, "a task without a worker is work"
    stuck.cancel()
    wait_until(lambda: cluster.guard.ok("status")["idle_seconds"] is not None, "idle again")
    began = time.monotonic()
    first = cluster.guard.ok("status")["idle_seconds"]
    later = wait_until(lambda: (i := cluster.guard.ok("status")["idle_seconds"]) > first + 1 and i, "")
    assert abs(later - first - (time.monotonic() - began)) < 2, "the idle clock is a clock"

    erred = client.submit(int, "x")
    wait_until(lambda: reports()[-1]["tasks"]["erred"] == 1, "an erred task")
    del running, waiting, stuck, erred


def test_reports_are_sparse(cluster, client):
    """A burst of changes makes reports no more frequent than every two seconds."""
    end = time.monotonic() + 5
    number = 0
    while time.monotonic() < end:
        number = client.submit(inc, number).result(60)
    times = [when for when, (kind, _) in list(cluster.guard.messages) if kind == "report"]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    assert gaps and min(gaps) > 1.5
    assert max(times) > end - 5


def test_unknown_ops_and_malformed_lines(cluster):
    guard = cluster.guard
    assert guard.call("sing")["error"] == "unknown op 'sing' for a scheduler"
    assert guard.call("__class__")["error"].startswith("unknown op")
    assert "names" in guard.call("retire")["error"]
    assert "names" in guard.call("retire", names="b")["error"]
    for kind, name, op in (("worker", "a", "retire"), ("nanny", "b", "pick")):
        error = cluster.agent.peer(kind, name).call(op, names=[])["error"]
        assert error == f"unknown op '{op}' for a {kind}"
    before = cluster.started[0].log.count("malformed")
    lines = (b"\n", b"hello\n", b"[1]\n", b'{"call":{"id":"x","op":"status"}}\n', b"[" * 100_000 + b"\n")
    for line in lines:
        guard.write(line)
    assert "ok" in guard.call("status"), "the link has survived"
    assert cluster.started[0].log.count("malformed") == before + len(lines)


def test_a_line_that_is_too_long_costs_the_link_only(cluster):
    guard = cluster.guard
    with contextlib.suppress(BrokenPipeError):  # it may hang up before it was all written
        guard.write(b"x" * (3 << 20) + b"\n")
    cluster.guard = cluster.agent.peer("scheduler", but=(guard,))
    assert cluster.guard.ok("status")["workers"] == 4


def test_pick_names_idle_workers_first(cluster, client, folder):
    gate = folder / f"gate-{time.monotonic_ns()}"
    running = [client.submit(wait_for, str(gate), workers=[n], key=f"on-{n}") for n in ("a", "c-1")]
    wait_until(lambda: sum(cluster.guard.ok("processing").values()) == 2, "two at work")
    assert sorted(cluster.guard.ok("pick", n=2)["names"]) == ["b", "c-0"]
    assert len(cluster.guard.ok("pick", n=4)["names"]) == 4
    assert cluster.guard.ok("pick", n=0)["names"] == []
    gate.touch()
    client.gather(running)


def test_the_link_comes_back(cluster):
    """The agent goes away, and another one takes its place: all guards say hello again."""
    old = list(cluster.agent.peers)
    cluster.agent.stop()
    wait_until(lambda: not any(p.open for p in old), "the old links are closed")
    cluster.agent.start()
    cluster.guard = cluster.agent.peer("scheduler", but=old)
    assert sorted(w["name"] for w in cluster.guard.hello["workers"]) == sorted(WORKERS)
    for name in WORKERS:
        assert cluster.agent.peer("worker", name, but=old).ok("status")["executing"] == 0
    assert cluster.agent.peer("nanny", "b", but=old).ok("status")["worker_alive"]


def test_a_deaf_agent_costs_dask_nothing(cluster, client):
    """What it does not read must not pile up, and must not hold anything up."""
    guard = cluster.guard
    guard.connection.shutdown(0)  # reads nothing more; the guard does not see that by itself
    futures = client.map(inc, range(200), pure=False)
    assert len(client.gather(futures)) == 200
    guard.connection.close()
    cluster.guard = cluster.agent.peer("scheduler", but=(guard,))


def test_a_worker_that_could_not_leave_in_time_keeps_working(cluster, client):
    # More than can be moved in a millisecond.
    blocks = client.map(make_block, range(20), size=5_000_000, workers=["b"], pure=False)
    wait_until(lambda: all(block.done() for block in blocks), "the blocks")
    answer = cluster.guard.ok("retire", names=["b"], timeout=0.001)
    assert answer["kept"] == [{"name": "b", "why": "its data was not moved within 0.001 s"}]
    assert answer["retired"] == [] and answer["unknown"] == []
    assert client.submit(inc, 1, workers=["b"], pure=False).result(60) == 2

    def policies(dask_scheduler):
        return len(dask_scheduler.extensions["amm"].policies)

    before = client.run_on_scheduler(policies)
    assert cluster.guard.ok("retire", names=["b"], timeout=0.001)["kept"]
    assert client.run_on_scheduler(policies) == before, "and is not emptied behind the agent's back"


def test_retiring_nodes_moves_data_and_recomputes_nothing(cluster, client, folder):
    """Nodes b and c go while tasks run and finish on them; c has two workers."""
    path = str(folder / f"notes-{time.monotonic_ns()}")
    done = client.map(noted, range(40), path=path, pure=False)
    client.gather(done)
    short = client.map(noted, range(100, 140), path=path, seconds=0.02, pure=False)
    wait_until(lambda: sum(f.done() for f in short) >= 4, "the second batch is under way")
    answer = cluster.guard.ok("retire", names=["b", "c", "nobody"], timeout=60)
    assert answer == {"retired": ["b", "c"], "unknown": ["nobody"], "kept": []}
    finished = {str(n) for n, f in zip(range(100, 140), short) if f.done()}
    assert cluster.guard.ok("status")["workers"] == 1
    removed = wait_until(
        lambda: len(cluster.guard.all("worker_removed")) == 3 and cluster.guard.all("worker_removed"),
        "three workers are said to have left",
    )
    assert sorted(w["name"] for w in removed) == ["b", "c-0", "c-1"]
    assert len(client.gather(done + short)) == 80
    runs = [line.strip() for line in open(path)]
    assert sorted(map(int, (r for r in runs if int(r) < 40))) == list(range(40)), "all ran once"
    twice = {r for r in runs if runs.count(r) > 1}
    assert not twice & finished and len(twice) <= 3, "only what was running may run again"
    for dask in cluster.started[2:4]:
        assert dask.process.wait(60) == 0, "nanny and workers have ended"


def test_the_last_worker_keeps_its_data(cluster, client):
    block = client.submit(make_block, 2, pure=False)
    block.result(60)
    answer = cluster.guard.ok("retire", names=["a"], timeout=30)
    assert answer["kept"] == [{"name": "a", "why": "no other running worker can take its data"}]
    assert client.submit(inc, 5, pure=False).result(60) == 6
    assert len(block.result(60)) == 100_000


def test_closing_a_nanny_moves_its_workers_data(cluster, client):
    cluster.worker("n")
    nanny, worker = cluster.agent.peer("nanny", "n"), cluster.agent.peer("worker", "n")
    client.wait_for_workers(2, timeout=60)
    block = client.submit(make_block, 3, workers=["n"], pure=False, key="only-on-n")
    assert len(block.result(60)) == 100_000
    assert nanny.ok("close", timeout=30) is True
    assert cluster.started[-1].process.wait(60) == 0
    assert "lost" not in client.run_on_scheduler(lambda dask_scheduler: str(dask_scheduler.tasks["only-on-n"].state))
    assert len(block.result(60)) == 100_000
    with pytest.raises(ProcessLookupError):
        os.kill(worker.hello["pid"], 0)


def test_closing_a_worker_takes_its_nanny_along(cluster, client):
    cluster.worker("m")
    worker = cluster.agent.peer("worker", "m")
    client.wait_for_workers(2, timeout=60)
    assert worker.ok("close") is True
    assert cluster.started[-1].process.wait(60) == 0


def test_a_revoked_node_is_forgotten_at_once(cluster, client):
    cluster.worker("evil", "--no-nanny", NODE="node-e")
    client.wait_for_workers(2, timeout=60)
    answer = cluster.guard.ok("forget", names=["node-e", "nobody"])
    assert answer == {"forgotten": ["node-e"], "unknown": ["nobody"]}
    assert cluster.guard.ok("status")["workers"] == 1
    assert cluster.guard.all("worker_removed")[-1]["name"] == "evil"
    cluster.started[-1].process.wait(60)


def test_names_of_nodes_are_not_mistaken_for_each_other(cluster, client):
    """Node x-1 is no second worker of node x, where guards tell the scheduler their node."""
    for node in ("x", "x-1"):
        cluster.worker(node, "--no-nanny", NODE=node)
    client.wait_for_workers(3, timeout=60)
    assert cluster.guard.ok("retire", names=["x"], timeout=60)["retired"] == ["x"]
    names = {w["name"] for w in cluster.guard.ok("status")["workers_detail"]}
    assert names == {"a", "x-1"}


LEAKS = """
import asyncio, logging, sys, threading
from distributed import Nanny, Scheduler, Worker
from distributed.security import Security
guard, ca, sched, node, socket = sys.argv[1:]
security = Security(tls_ca_file=ca, tls_scheduler_cert=sched, tls_worker_cert=node)

def tasks():
    return {t for t in asyncio.all_tasks() if "herdsman" in repr(t) or "Link." in repr(t)}

async def main():
    loop = asyncio.get_running_loop()
    loop.set_debug(False)
    common = dict(security=security, dashboard_address="127.0.0.1:0", host="127.0.0.1", preload=guard)
    async with Scheduler(protocol="tls", port=0, **common) as scheduler:
        async with Worker(scheduler.address, name="w", nthreads=1, **common) as worker:
            server = worker
            assert worker.herdsman_link.tasks and scheduler.herdsman_link.tasks
            assert tasks()
            while not (worker.herdsman_link.writer and scheduler.herdsman_link.writer):
                await asyncio.sleep(0.05)
    assert not tasks(), tasks()
    assert worker.herdsman_link.writer is None
    await asyncio.sleep(0)
    print("threads", sorted(t.name for t in threading.enumerate() if "herdsman" in t.name))
    print("fine")

asyncio.run(main())
"""


def test_nothing_is_left_behind_at_close(cluster, pki):
    sched, node = (pki.write(f"leak-{i}", getattr(pki, i).issue(i)) for i in ("sched", "node"))
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", LEAKS, GUARD, pki.ca, sched, node, ""],
        env={**os.environ, "HERDSMAN_GUARD_SOCKET": cluster.agent.path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1:] == ["fine"], done.stdout + done.stderr
    assert "never awaited" not in done.stderr and "was destroyed" not in done.stderr
    assert "threads []" in done.stdout
