"""The guard is imported more than once, and Dask does not start without it where it cannot work."""

import os
import subprocess
import sys

import pytest
from rig import GUARD, PRELOAD, Probe

REMOVED = {
    "Security._get_tls_context": "import distributed.security as m; del m.Security._get_tls_context",
    "Security.get_listen_args": "import distributed.security as m; del m.Security.get_listen_args",
    "TLSListener._prepare_stream": "import distributed.comm.tcp as m; del m.TLSListener._prepare_stream",
    "distributed.comm.tcp._expect_tls_context": "import distributed.comm.tcp as m; del m._expect_tls_context",
    "RetireWorker": "import distributed, distributed.active_memory_manager as m; del m.RetireWorker",
}


def python(code, *args, **env):
    """Start Python on a piece of code; the clean environment is not the test's business."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HERDSMAN_GUARD_FILE": str(GUARD), **env},
    )


def output(child):
    try:
        return child.communicate(timeout=60)[0]
    finally:
        child.kill()


def command(role, *args):
    return (
        f"from distributed.cli.dask_{role} import main\n"
        f"main({['--preload', str(PRELOAD), *map(str, args)]!r})"
    )


def test_a_missing_private_api_stops_dask_and_is_named():
    import distributed

    listen = ("--host", "tls://127.0.0.1", "--port", 0, "--dashboard-address", "127.0.0.1:0")
    start = command("scheduler", *listen)
    children = {api: python(f"{code}\n{start}") for api, code in REMOVED.items()}
    for api, child in children.items():
        said = output(child)
        assert child.returncode == 1, said
        assert api in said.splitlines()[-1], said
        assert distributed.__version__ in said.splitlines()[-1]


def test_a_worker_without_its_guard_does_not_start_either():
    child = python(f"{REMOVED['Security._get_tls_context']}\n{command('worker', 'tls://127.0.0.1:9')}")
    assert "has no Security._get_tls_context" in output(child)
    assert child.returncode == 1


def test_a_nanny_with_a_broken_guard_does_not_start():
    code = (
        "import distributed.comm.tcp as m; del m._expect_tls_context\n"
        "from distributed.cli.dask_worker import main\n"
        f"main(['tls://127.0.0.1:9', '--host', '127.0.0.1', '--preload-nanny', {str(PRELOAD)!r}])"
    )
    child = python(code)
    assert "has no distributed.comm.tcp._expect_tls_context" in output(child)
    assert child.returncode == 1


@pytest.mark.parametrize("path", ["", "/nowhere/guard.py"])
def test_dask_does_not_start_where_the_guard_is_not_found(path):
    child = python(command("worker", "tls://127.0.0.1:9"), HERDSMAN_GUARD_FILE=path)
    said = output(child).splitlines()[-1]
    assert "Error" in said and (path or "HERDSMAN_GUARD_FILE is not set") in said
    assert child.returncode == 1


def test_the_guard_is_loaded_once_however_often_its_preload_is(tmp_path):
    code = """
import shutil, sys
from distributed.utils import import_file
copy = shutil.copy(sys.argv[1], sys.argv[2])
first = import_file(sys.argv[1])[0]
guard = sys.modules["herdsman_guard"]
second = import_file(str(copy))[0]
assert sys.modules["herdsman_guard"] is guard
assert first.dask_setup is second.dask_setup is guard.dask_setup
assert second.dask_teardown is guard.dask_teardown
print("fine")
"""
    said = output(python(code, PRELOAD, tmp_path))
    assert said.splitlines()[-1] == "fine", said


@pytest.mark.parametrize("value", ["often", "-1", "0", "nan", "inf"])
def test_a_senseless_setting_stops_dask(value):
    child = python(f"import sys; sys.path.insert(0, {str(GUARD.parent)!r}); import herdsman_guard",
                   HERDSMAN_GUARD_HANDSHAKE=value)
    assert f"HERDSMAN_GUARD_HANDSHAKE={value!r}" in output(child).splitlines()[-1]
    assert child.returncode == 1


def test_importing_again_and_again_wraps_once(pki):
    code = """
import importlib, inspect, ssl, sys
sys.path.insert(0, sys.argv[1])
from distributed.comm import tcp
from distributed.security import Security
originals = Security._get_tls_context, tcp.TLSListener._prepare_stream, tcp._expect_tls_context
import herdsman_guard as guard
security = Security(tls_ca_file=sys.argv[2], tls_scheduler_cert=sys.argv[3])
first = security.get_listen_args("scheduler")["ssl_context"]
for _ in range(300):
    importlib.reload(guard)
kept = guard.SHARED.originals
assert (kept["_get_tls_context"], kept["_prepare_stream"], kept["_expect_tls_context"]) == originals
second = security.get_listen_args("scheduler")["ssl_context"]
client = security.get_connection_args("scheduler")["ssl_context"]
for context in (first, second, client):
    assert context.options & ssl.OP_NO_TICKET and context in guard.SHARED.contexts
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
assert first.num_tickets == second.num_tickets == 0
assert len(guard._identities()) == 1
del first, second, client, context
import gc; gc.collect()
assert not guard.SHARED.contexts, "contexts are kept weakly"
print("fine")
"""
    cert = pki.write("again", pki.sched.issue("again"))
    said = output(python(code, GUARD.parent, pki.ca, cert))
    assert said.splitlines()[-1] == "fine", said


def test_contexts_of_other_clusters_are_left_alone(pki, folder):
    """User code may talk to a cluster with a CA of its own, to which our CRL means nothing."""
    code = """
import ssl, sys
sys.path.insert(0, sys.argv[1])
import herdsman_guard as guard
from distributed.security import Security
ours = Security(tls_ca_file=sys.argv[2], tls_worker_cert=sys.argv[3])
mine = ours.get_connection_args("worker")["ssl_context"]
theirs = Security.temporary().get_connection_args("client")["ssl_context"]
assert guard.dask_tcp._expect_tls_context({"ssl_context": theirs}) is theirs
assert theirs not in guard.SHARED.contexts and not theirs.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
assert mine.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
unknown = ssl.create_default_context()
guard.dask_tcp._expect_tls_context({"ssl_context": unknown})
assert unknown in guard.SHARED.contexts and unknown.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
print("fine")
"""
    cert = pki.write("ours", pki.node.issue("ours"))
    crl = folder / "ours.crl"
    crl.write_bytes(pki.crl())
    said = output(python(code, GUARD.parent, pki.ca, cert, HERDSMAN_GUARD_CRL=str(crl)))
    assert said.splitlines()[-1] == "fine", said


def test_a_listener_without_tls_does_not_come_up_where_tls_is_expected():
    for how in ((), ("--protocol", "tcp")):
        listen = (*how, "--host", "127.0.0.1", "--port", 0, "--dashboard-address", "127.0.0.1:0")
        child = python(command("scheduler", *listen))
        said = output(child)
        assert "no certificate and CA for the scheduler's listener" in said
        assert child.returncode == 1


def test_plain_tcp_is_refused_even_with_certificates(pki):
    cert = pki.write("plain", pki.sched.issue("plain"))
    args = ("--protocol", "tcp", "--host", "127.0.0.1", "--port", 0, "--dashboard-address", "127.0.0.1:0")
    child = python(command("scheduler", *args, "--tls-ca-file", pki.ca, "--tls-cert", cert))
    assert "encryption required" in output(child)
    assert child.returncode == 1


def test_insecure_keeps_the_link(make_rig, pki):
    rig = make_rig(agent=True, TLS="0")
    from rig import Dask

    listen = ("--host", "tcp://127.0.0.1", "--port", 0, "--dashboard-address", "127.0.0.1:0")
    rig.started.append(
        Dask("scheduler", "insecure", rig.folder, [*listen, "--preload", GUARD], rig.env({}))
    )
    guard = rig.agent.peer("scheduler")
    assert guard.hello["address"].startswith("tcp://127.0.0.1:")
    assert guard.ok("reload") == {"changed": False, "problems": {}}
    assert guard.ok("status")["workers"] == 0


def test_no_agent_no_link_but_all_the_rest(make_rig, pki):
    rig = make_rig()
    dask = rig.scheduler()
    probe = Probe(rig.address, pki.ca, pki.client()[1])
    assert probe.served and not probe.ticket
    assert "link" not in dask.log
