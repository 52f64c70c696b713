"""One cluster of this computer, seen from all sides."""

import asyncio
import http.cookiejar
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path

import processes
import pytest
from conftest import launcher, names, run_python, until
from dask.distributed import Client
from distributed.core import Status

import herdsman
from herdsman import Cluster, ClusterExists, NotFound, UsageError
from herdsman._security import ClusterSecurity


def test_names_are_the_same_everywhere(shared):
    wanted = {f"{shared.name}-w0", f"{shared.name}-w1"}
    shared.wait_for_workers(2)
    assert shared.plan == shared.requested == shared.observed == wanted
    assert {n["name"] for n in launcher("status", shared.name)["status"]["nodes"]} >= wanted
    assert {n.name for n in shared.nodes() if n.role == "worker"} == wanted
    assert set(shared.workers) == wanted
    assert shared.name in names()
    assert shared.name in repr(shared) and shared.scheduler_address.startswith("tls://")


def test_client(shared):
    with Client(shared) as client:
        assert client.submit(sum, [1, 2]).result(60) == 3
        assert client.dashboard_link == shared.dashboard_link
    with shared.get_client() as client:
        assert client.cluster is shared
    assert shared.status == Status.running


def test_two_objects_of_one_cluster(shared):
    with Cluster.from_name(shared.name) as other:
        assert other == shared
        assert other.plan == shared.plan
        assert other._fleet.target is None, "it replaces nothing that it did not ask for"
        with Client(other) as client:
            assert client.submit(lambda x: x + 1, 1).result(60) == 2
    assert other.status == Status.closed and other.dashboard_link == ""
    assert shared.name in names(), "closing what one did not make leaves it"
    again = herdsman.connect()
    assert again.name == shared.name, "the only one there is"
    again.close()
    assert [c.name for c in herdsman.list_clusters()] == [shared.name]


def test_create_modes(shared):
    with pytest.raises(ClusterExists) as e:
        Cluster(shared.name, create_mode="create_only")
    assert e.value.code == "E-CONFLICT" and e.value.try_
    with pytest.raises(NotFound) as e:
        Cluster("nobody", create_mode="connect_only")
    assert isinstance(e.value, LookupError)
    with pytest.raises(UsageError):
        Cluster("x", create_mode="maybe")
    with pytest.raises(UsageError, match="memmory"):
        Cluster("x", settings={"workers.memmory": "1GiB"})
    with Cluster(shared.name) as there:
        assert not there._created and there.plan == shared.plan
    assert names() == {shared.name}


def test_dashboard_is_here(shared):
    link = shared.dashboard_link
    assert link.startswith("http://127.0.0.1:")
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    page = opener.open(link, timeout=30)
    assert page.status == 200 and page.url.endswith("/status")


def test_shown_in_notebooks(shared):
    html = until(lambda: "stops in" in shared._repr_html_() and shared._repr_html_())
    assert "stops in" in html and shared.name in html
    assert "Workers: 2" in shared._scaling_status()
    shared._cost, before = herdsman.Cost(0.66, 0.13, "USD"), shared._cost
    try:
        assert "0.66 USD/h · 0.13 so far · stops in" in shared._money()
    finally:
        shared._cost = before


def test_looking(shared):
    assert shared.cost().per_hour == 0
    kinds = {e.kind for e in shared.events()}
    assert "phase" in kinds and "state" in kinds
    assert all(e.time is not None for e in shared.events())
    logs = shared.get_logs(boot=True)
    assert "Scheduler" in logs and "Cluster" in logs
    assert {w for w in shared.scheduler_info["workers"]} <= set(logs)
    assert f"{shared.name}-w0 boot" in logs
    assert herdsman.check("local")["providers"][0]["ready"]
    assert shared.get_tags()["herdsman-cluster"] == shared.name


def test_commands_on_the_scheduler(shared):
    done = shared.run(
        [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"]
    )
    assert (done.returncode, done.stdout) == (3, "out\n") and "err" in done.stderr
    with pytest.raises(subprocess.CalledProcessError):
        done.check()
    assert shared.run(["true"], detach=True).returncode is None
    with pytest.raises(UsageError):
        shared.run("words")


def test_limits_can_be_put_off(shared):
    before = shared._status_message["ending"]["lifetime_ends"]
    shared.extend("20 hours", idle="3 hours")
    ending = until(
        lambda: (e := launcher("status", shared.name)["status"]["ending"])["lifetime_ends"] > before and e
    )
    assert ending["idle_seconds"] == 3 * 3600
    with pytest.raises(UsageError):
        shared.extend()


def test_private_variables_reach_workers(shared, home):
    with Client(shared) as client:
        shared.send_private_envs({"MY_TOKEN": "s3cret-value"})
        assert set(client.run(lambda: __import__("os").environ.get("MY_TOKEN")).values()) == {"s3cret-value"}
        client.restart(timeout=60)
        assert set(client.run(lambda: __import__("os").environ.get("MY_TOKEN")).values()) == {
            "s3cret-value"
        }, "new processes too"
    found = subprocess.run(["grep", "-rlF", "s3cret-value", str(home / "s")], capture_output=True, text=True)
    assert found.stdout == "", "no file has it"


def test_metadata_that_other_processes_see(shared):
    with Client(shared) as client:
        info = until(lambda: client.get_metadata("cluster-manager-info", None))
    assert (info["name"], info["type"]) == (shared.name, "herdsman.Cluster")


def test_scheme_of_our_own(shared):
    with Client(f"herdsman://{shared.name}") as client:
        assert isinstance(client.security, ClusterSecurity)
        assert client.submit(sum, [1, 2]).result(60) == 3
    with pytest.raises(Exception, match="nobody"):
        Client("herdsman://nobody", timeout=5)


SCHEME = """
import sys
from dask.distributed import Client
with Client("herdsman://" + sys.argv[1]) as client:
    print("answer", client.submit(sum, [1, 2]).result(60))
"""


@pytest.mark.parametrize("with_file", [False, True], ids=["bare", "etc/dask"])
def test_scheme_from_a_process_that_never_heard_of_us(shared, tmp_path, with_file):
    if with_file:  # as the wheel installs it
        (tmp_path / "herdsman.yaml").write_text(
            Path(herdsman.__file__).with_name("herdsman.yaml").read_text()
        )
    process = run_python(SCHEME, shared.name, env={**os.environ, "DASK_CONFIG": str(tmp_path)})
    out, _ = process.communicate(timeout=90)
    assert "answer 3" in out, out


def test_certificates_are_renewed_in_live_contexts(shared):
    context = shared.security.get_connection_args("client")["ssl_context"]
    assert context in shared.security._contexts
    assert not shared.security.refresh(), "nothing is new"
    path = shared.security.tls_client_cert
    os.utime(path)
    assert shared.security.refresh()
    copy = pickle.loads(pickle.dumps(shared.security))
    assert copy.tls_client_cert == path


def test_asynchronous(shared):
    async def main():
        cluster = Cluster(shared.name, create_mode="connect_only", asynchronous=True)
        assert cluster.status == Status.created
        first, second = await asyncio.gather(_awaited(cluster), _awaited(cluster))
        assert first is second is cluster and cluster.status == Status.running
        async with Client(cluster, asynchronous=True) as client:
            assert await client.submit(sum, [1, 2]) == 3
        assert (await cluster.cost()).per_hour == 0
        assert "Scheduler" in await cluster.get_logs()
        await cluster.close()
        await cluster.close()
        assert cluster.status == Status.closed
        async with Cluster(shared.name, asynchronous=True) as cluster:
            await cluster.wait_for_workers(2)

    async def _awaited(cluster):
        return await cluster

    asyncio.run(main())


def test_in_a_running_loop_as_in_jupyter(shared):
    async def cell():
        with Cluster.from_name(shared.name) as cluster, Client(cluster) as client:
            return client.submit(sum, [1, 2]).result(60)

    assert asyncio.run(cell()) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_has_no_part_in_it(shared):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = multiprocessing.get_context("fork")
        process = context.Process(target=shared.close)
        process.start()
    process.join(60)
    assert process.exitcode == 0
    with Client(shared) as client:
        assert client.submit(sum, [1, 2]).result(60) == 3


def test_a_spawned_process_attaches(shared):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=processes.attached, args=(shared, queue))
    process.start()
    assert queue.get(timeout=90) == (False, 3)
    process.join(60)
    assert process.exitcode == 0 and shared.name in names()


def test_dask_herdsman(shared):
    command = [sys.executable, "-m", "dask", "herdsman"]
    done = subprocess.run([*command, "ls", "-o", "json"], capture_output=True, text=True, timeout=60)
    assert [c["name"] for c in json.loads(done.stdout)["clusters"]] == [shared.name], done.stderr
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60)
    assert "extend" in done.stdout, "the launcher's own help"


def test_discovery(shared):
    from herdsman._discovery import discover

    async def found():
        return [name async for name, _ in discover()]

    assert asyncio.run(found()) == [shared.name]
