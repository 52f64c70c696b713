"""More and fewer workers; no task runs twice, and no busy worker goes."""

import asyncio
import os
import signal
import threading
import time

import pytest
from conftest import launcher, until
from dask.distributed import Client, wait

from herdsman import Cluster, UsageError


@pytest.fixture
def ran(home, tmp_path):
    """Counts executions: each task adds a line to a file."""
    tmp_path.chmod(0o777)
    path = tmp_path / "ran"
    path.touch()
    path.chmod(0o666)

    def task(i, seconds=0.0):
        import os
        import time

        fd = os.open(str(path), os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{i}\n".encode())
        os.close(fd)
        time.sleep(seconds)
        return i

    task.count = lambda: len(path.read_text().split())
    return task


@pytest.fixture(scope="module")
def cluster(home):
    with Cluster(n_workers=2, wait_for_workers=1, quiet=True, worker_options={"nthreads": 1}) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def two(cluster):
    if cluster._adaptive is not None:
        cluster._adaptive.stop()
    cluster.scale(2)
    cluster.wait_for_workers(2, timeout=60)
    until(lambda: len(cluster.observed) == 2)


def machines(cluster):
    """Nodes of workers that the hub knows and that are not ended."""
    nodes = launcher("status", cluster.name)["status"]["nodes"]
    return {n["name"] for n in nodes if n["role"] == "worker" and n["state"] != "stopped"}


def test_finished_work_survives_a_scale_down(cluster, ran):
    with Client(cluster) as client:
        futures = client.map(ran, range(40), pure=False)
        wait(futures, timeout=60)
        cluster.scale(1)
        assert len(cluster.plan) == len(cluster.requested) == 1
        until(lambda: len(cluster.observed) == 1)
        assert client.gather(futures) == list(range(40))
    assert ran.count() == 40
    assert machines(cluster) == cluster.plan


def test_running_work_survives_a_scale_down(cluster, ran):
    with Client(cluster) as client:
        futures = client.map(ran, range(40), seconds=0.2, pure=False)
        until(lambda: ran.count() > 6)
        cluster.scale(1)
        assert client.gather(futures) == list(range(40))
    assert ran.count() == 40


def test_up_and_to_nothing_and_up(cluster, ran):
    cluster.scale(3)
    assert cluster.plan == cluster.requested and len(cluster.plan) == 3
    cluster.wait_for_workers(3, timeout=60)
    until(lambda: cluster.observed == cluster.plan)
    with Client(cluster) as client:
        wait(client.map(ran, range(10), pure=False), timeout=60)
        cluster.scale(0)
        until(lambda: not cluster.observed)
        assert machines(cluster) == set()
        cluster.scale(1)
        assert client.submit(sum, [1, 2]).result(60) == 3


def test_by_name(cluster):
    victim = max(cluster.observed)
    cluster.scale_down([victim])
    assert victim not in cluster.plan and len(cluster.plan) == 1
    assert victim not in machines(cluster)
    time.sleep(1)
    assert len(cluster.plan) == 1, "what was given up is not replaced"


def test_by_memory_and_cores(cluster):
    info = next(iter(cluster.scheduler_info["workers"].values()))
    assert cluster._count(None, cores=3 * info["nthreads"]) == 3
    assert cluster._count(1, memory=2 * info["memory_limit"]) == 2
    for wrong in ({}, {"n": -1}, {"n": 1, "group": "nobody"}):
        with pytest.raises(UsageError):
            cluster.scale(**wrong)


def test_more_than_is_allowed(home):
    with Cluster(n_workers=1, settings={"limits.max_workers": 1}, quiet=True) as cluster:
        with pytest.raises(UsageError, match="more than the most"):
            cluster.scale(2)
        assert len(cluster.plan) == 1, "and it is not tried again"
        assert cluster.adapt(minimum=0, maximum=10).maximum == 1


def test_two_who_scale_at_once(cluster):
    with Cluster.from_name(cluster.name) as other:
        threads = [threading.Thread(target=c.scale, args=(3,)) for c in (cluster, other)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(90)
        until(lambda: len(machines(cluster)) == 3)
        until(lambda: cluster.plan == other.plan and len(other.plan) == 3)
        other.scale(1)
        until(lambda: len(cluster.plan) == 1)
        time.sleep(1.5)
        assert len(machines(cluster)) == 1, "the first does not bring back what the other gave up"


def test_adaptive_stays_in_its_limits_and_spares_the_busy(cluster, ran):
    seen, most = set(), [0]
    stop = threading.Event()

    def look():
        while not stop.is_set():
            now = {name for name in cluster.requested}
            seen.update(now)
            most[0] = max(most[0], len(now), len(cluster.plan))
            time.sleep(0.02)

    watcher = threading.Thread(target=look)
    with Client(cluster) as client:
        cluster.scale(1)
        until(lambda: len(cluster.observed) == 1)
        before = set(cluster.requested)
        watcher.start()
        adaptive = cluster.adapt(minimum=1, maximum=3, interval="100ms", target_duration="1s", wait_count=2)
        futures = client.map(ran, range(40), seconds=0.5, pure=False)
        assert client.gather(futures) == list(range(40))
        assert ran.count() == 40, "each once"
        del futures
        until(lambda: len(cluster.plan) == 1)
        until(lambda: len(machines(cluster)) == 1)
        # And up again.
        client.gather(client.map(ran, range(40, 60), seconds=0.3, pure=False))
        assert ran.count() == 60
        stop.set()
        watcher.join()
        adaptive.stop()
    assert most[0] == 3
    assert 2 <= len(seen - before) <= 5, f"made and gave up without need: {seen}"


def test_a_worker_that_got_work_meanwhile_stays(cluster, ran):
    with Client(cluster) as client:
        workers = {w["name"]: a for a, w in cluster.scheduler_info["workers"].items()}
        busy, idle = sorted(workers)
        future = client.submit(ran, 1, seconds=3, workers=[workers[busy]], pure=False)
        until(lambda: ran.count() == 1)
        cluster.sync(cluster._give_up, [busy, idle], idle=True)
        assert cluster.plan == {busy}
        assert future.result(30) == 1 and ran.count() == 1
        assert client.submit(sum, [1, 2]).result(30) == 3, "and goes on working"


def test_asynchronous_scaling(cluster):
    async def main():
        async with Cluster(cluster.name, asynchronous=True, shutdown_on_close=False) as mine:
            await mine.scale(3)
            assert len(mine.plan) == 3
            await mine.scale_down([max(mine.plan)])
            assert len(mine.plan) == 2

    asyncio.run(main())


@pytest.mark.skipif(
    not os.environ.get("HERDSMAN_TEST_COMPLETE"), reason="a node is silent for a minute first"
)
def test_lost_workers_are_replaced(cluster, ran):
    with Client(cluster) as client:
        victim = min(cluster.observed)
        client.wait_for_workers(2)
        pids = client.run(os.getppid)
        assert pids
        machine = next(n for n in cluster.nodes() if n.name == victim)
        agent = os.path.join(os.environ["HERDSMAN_STATE_DIR"], "local")
        killed = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                line = open(f"/proc/{pid}/cmdline").read() + open(f"/proc/{pid}/environ").read()
            except OSError:
                continue
            if agent in line and f"{victim}" in line and int(pid) != os.getpid():
                os.kill(int(pid), signal.SIGKILL)
                killed += 1
        assert killed, machine
        until(lambda: victim not in cluster.plan and len(cluster.observed - {victim}) == 2, 150)
        assert client.submit(sum, [1, 2]).result(60) == 3
