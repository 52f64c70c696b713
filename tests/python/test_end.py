"""How a cluster's use ends: closed, interrupted, killed, by itself."""

import os
import signal
import subprocess
import threading
import time

import dask
import pytest
from conftest import end, launcher, names, run_python, until
from dask.distributed import Client
from distributed.core import Status

import herdsman
from herdsman import Cluster, HerdsmanError, NotFound


def alone(name):
    """Whether no launcher attends to a cluster any more."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline").read().split("\0")
        except OSError:
            continue
        if "attend" in words and name in words:
            return False
    return True


def test_what_was_made_is_deleted_and_what_was_there_is_not(home):
    with Cluster("made", n_workers=1) as made:
        there = Cluster("made")
        assert there.get_tags()["herdsman-cluster"] == "made"
        there.close()
        assert names() == {"made"}
        with pytest.raises(HerdsmanError):
            there.scale(1)
        with pytest.raises(RuntimeError):
            Client(there)
    assert names() == set() and made.status == Status.closed
    made.close()
    made.shutdown()
    assert until(lambda: alone("made"))


def test_as_asked(home):
    kept = Cluster("kept", n_workers=1, shutdown_on_close=False)
    kept.close()
    assert names() == {"kept"}
    with Cluster.from_name("kept", shutdown_on_close=True):
        pass
    assert names() == set()
    kept = Cluster("kept", n_workers=1, shutdown_on_close=False)
    attached = Cluster.from_name("kept")
    attached.shutdown()
    assert names() == set() and attached.status == Status.closed
    kept.close()
    with pytest.raises(NotFound):
        herdsman.connect("kept")


def test_a_client_that_shuts_down(home):
    cluster = Cluster("short", n_workers=1)
    client = Client(cluster)
    client.shutdown()
    assert cluster.status == Status.closed and names() == set()


def test_closing_has_a_deadline_and_deletion_goes_on(home):
    cluster = Cluster("late", n_workers=1)
    with pytest.raises((TimeoutError, herdsman.StartTimeout)):
        cluster.close(timeout=0.05)
    until(lambda: names() == set(), 30)


def test_failed_starts_leave_nothing(home):
    with pytest.raises(HerdsmanError) as e:
        Cluster("bad", n_workers=1, worker_options=["--no-such-option"], start_timeout="20s")
    assert e.value.code in {"E-BOOT", "E-DASK", "E-DEADLINE", "E-USAGE"} and e.value.message
    assert names() == set()


FORGOTTEN = """
import herdsman
cluster = herdsman.Cluster("forgotten", n_workers=1, quiet=True)
print("up", cluster.get_client().submit(sum, [1, 2]).result())
"""


def test_a_script_that_does_not_close(home):
    process = run_python(FORGOTTEN)
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0 and "up 3" in out, out
    assert names() == set(), out
    assert until(lambda: alone("forgotten"))


WAITING = """
import herdsman, sys, time
cluster = herdsman.Cluster("killed", n_workers=1, quiet=True, idle_timeout=sys.argv[1])
print("up", flush=True)
time.sleep(600)
"""


def test_a_killed_kernel_leaves_the_cluster_for_others(home, gone):
    gone("killed")
    process = run_python(WAITING, "20m")
    try:
        assert "up" in process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    finally:
        end(process)
    assert until(lambda: alone("killed")), "what attended to it ends with it"
    with Cluster.from_name("killed") as cluster, Client(cluster) as client:
        assert client.submit(sum, [1, 2]).result(60) == 3


def test_a_killed_kernels_cluster_ends_by_its_idle_limit(home, gone):
    gone("killed")
    process = run_python(WAITING, "5s")
    try:
        assert "up" in process.stdout.readline()
    finally:
        end(process)
    until(lambda: {c.name: c.state for c in herdsman.list_clusters()}.get("killed") in {"ended", None}, 60)


INTERRUPTED = """
import herdsman
try:
    herdsman.Cluster("interrupted", n_workers=2, wait_for_workers=1, quiet=False)
except KeyboardInterrupt:
    print("interrupted", {c.name for c in herdsman.list_clusters()})
"""


@pytest.mark.parametrize("delay", [0.3, 1.0])
def test_ctrl_c_in_a_cell(home, delay):
    process = run_python(INTERRUPTED)
    try:
        until(
            lambda: os.path.isdir(os.path.join(os.environ["HERDSMAN_STATE_DIR"], "clusters", "interrupted"))
        )
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        end(process)
    assert "interrupted set()" in out, out
    assert names() == set()


def test_ctrl_c_while_scaling(home):
    with Cluster("scaling", n_workers=1, quiet=True) as cluster:
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            cluster.scale(2)
            time.sleep(1)
        except KeyboardInterrupt:
            pass
        cluster.scale(1)
        until(lambda: len(cluster.plan) == 1)
        with Client(cluster) as client:
            assert client.submit(sum, [1, 2]).result(60) == 3


TOGETHER = """
import herdsman, sys
cluster = herdsman.Cluster("together", n_workers=1, quiet=True)
print(cluster._created, cluster.get_client().submit(sum, [1, 2]).result(60), flush=True)
sys.stdin.readline()
cluster.close()
"""


def test_two_processes_make_one_cluster(home):
    both = [run_python(TOGETHER, stdin=subprocess.PIPE) for _ in range(2)]
    try:
        said = sorted(p.stdout.readline().strip() for p in both)
        assert said == ["False 3", "True 3"]
        assert names() == {"together"}
    finally:
        for p in both:
            p.communicate("\n", timeout=60)
    assert names() == set()


def test_a_cluster_that_is_deleted_elsewhere(home):
    cluster = Cluster("elsewhere", n_workers=1)
    launcher("down", "elsewhere")
    cluster.close()
    assert cluster.status == Status.closed


def test_without_a_name(home):
    with Cluster(n_workers=0) as one, Cluster(n_workers=0) as two:
        assert one.name != two.name and names() == {one.name, two.name}
        assert one.name.startswith("dask-tester-")


def test_insecure(home):
    with Cluster("plain", n_workers=1, security=False) as cluster, Client(cluster) as client:
        assert cluster.scheduler_address.startswith("tcp://")
        assert client.submit(sum, [1, 2]).result(60) == 3
    assert dask.config.get("distributed.comm.tls.client.cert", None) is None, "nothing is set for everybody"
