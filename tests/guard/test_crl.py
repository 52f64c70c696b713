"""Revocation: one PEM bundle with the CRLs of both issuing certificates."""

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

import pytest
from pki import Authority, replace
from rig import GUARD, Probe, wait_until

CODE = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import herdsman_guard
from distributed.comm import connect
from distributed.security import Security

security = Security(tls_ca_file=sys.argv[2], tls_worker_cert=sys.argv[3])

async def main():
    try:
        await connect(sys.argv[4], timeout=10, **security.get_connection_args("worker"))
        print("connected")
    except Exception as error:
        while error is not None:
            print(error)
            error = error.__cause__

asyncio.run(main())
"""


@pytest.fixture
def crl(folder):
    return tempfile.mktemp(suffix=".crl", dir=folder)


def test_life_of_a_crl(make_rig, pki, crl):
    rig = make_rig(agent=True, CRL=crl)
    rig.scheduler()
    guard = rig.agent.peer("scheduler")
    (one, cert1), (two, cert2) = pki.client("one"), pki.client("two")
    other = pki.client("other")[1]

    def served():
        probes = [Probe(rig.address, pki.ca, cert) for cert in (cert1, cert2, other)]
        assert all(p.served or "revoked" in p.error for p in probes), [p.error for p in probes]
        return [p.served for p in probes]

    def put(bundle):
        replace(crl, bundle)
        return guard.call("reload")

    assert served() == [True, True, True]
    empty, first = pki.crl(since=-120), pki.crl([one], since=-60)
    assert put(empty)["ok"]["changed"]
    assert served() == [True, True, True]
    assert put(first)["ok"]["changed"]
    assert served() == [False, True, True]
    assert "ok" in put(pki.crl([one, two], since=-30))
    assert served() == [False, False, True]

    assert "ok" in put(empty)
    assert served() == [False, False, True], "an older CRL undoes nothing"
    os.unlink(crl)
    assert "ok" in guard.call("reload")
    assert served() == [False, False, True], "a CRL that is gone undoes nothing"

    impostor = Authority("I_node", pki.node_root)
    unfit = {
        "no certificate or crl": b"garbage\n",
        "signature": impostor.crl([one]) + pki.sched.crl(),
        "unable to get certificate crl": pki.node.crl([one]),
    }
    for reason, bundle in unfit.items():
        reply = put(bundle)
        told = guard.all("problem")[-1]
        assert told["code"] == "crl-rejected", (reason, reply)
        if reason != "signature":
            assert reason in reply["error"].lower(), (reason, reply)
        assert served() == [False, False, True]
    assert put(pki.crl([one], since=-10))["ok"]["changed"]
    assert served() == [False, True, True], "a newer one holds, whatever it says"


def test_a_crl_that_is_there_at_start_holds_for_the_first_connection(make_rig, pki, crl):
    doomed, cert = pki.client("doomed")
    replace(crl, pki.crl([doomed]))
    rig = make_rig(CRL=crl)
    rig.scheduler()
    assert "revoked" in Probe(rig.address, pki.ca, cert).error
    assert Probe(rig.address, pki.ca, pki.client()[1]).served


def test_an_unreadable_crl_at_start_shuts_the_door_until_a_good_one_comes(make_rig, pki, crl):
    replace(crl, b"garbage\n")
    rig = make_rig(agent=True, CRL=crl)
    rig.scheduler()
    guard, cert = rig.agent.peer("scheduler"), pki.client()[1]
    wait_until(lambda: guard.all("problem"), "the agent is told")
    assert guard.all("problem")[0]["code"] == "crl-rejected"
    assert not Probe(rig.address, pki.ca, cert).served
    replace(crl, pki.crl())
    guard.ok("reload")
    assert Probe(rig.address, pki.ca, cert).served


def test_a_stale_crl_refuses_everybody(make_rig, pki, crl):
    replace(crl, pki.crl(life=6))
    rig = make_rig(agent=True, CRL=crl)
    rig.scheduler()
    guard, cert = rig.agent.peer("scheduler"), pki.client()[1]
    wait_until(lambda: not Probe(rig.address, pki.ca, cert).served, "the CRL is stale")
    stale = wait_until(
        lambda: [p for p in guard.all("problem") if p["code"] == "crl-stale"], "the agent is told"
    )
    assert len(stale) == 1
    assert "CRL has expired" in rig.started[0].log
    replace(crl, pki.crl())
    assert guard.ok("reload") == {"changed": True, "problems": {}}
    assert Probe(rig.address, pki.ca, cert).served


def tls_server(pki, cert):
    """A listener that is no Dask; shakes hands and hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)
    context.load_verify_locations(pki.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                with context.wrap_socket(listener.accept()[0], server_side=True) as tls:
                    tls.recv(1)
            except ssl.SSLError:
                continue
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    return listener, f"tls://127.0.0.1:{listener.getsockname()[1]}"


def test_a_revoked_listener_is_refused_by_those_who_connect(pki, crl, folder):
    """The context is Security's, as every outgoing one; a good listener gets through TLS."""
    doomed = pki.node.issue("listener")
    mine = pki.write("connector", pki.node.issue("connector"))
    replace(crl, pki.crl([doomed]))
    said = {}
    for name, leaf in (("revoked", doomed), ("good", pki.node.issue("good"))):
        listener, address = tls_server(pki, pki.write(name, leaf))
        with listener:
            said[name] = subprocess.run(
                [sys.executable, "-c", CODE, GUARD.parent, pki.ca, mine, address],
                env={**os.environ, "HERDSMAN_GUARD_CRL": crl, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                timeout=60,
            ).stdout
    assert "certificate revoked" in said["revoked"]
    assert "certificate" not in said["good"]


def test_live_connections_of_a_revoked_certificate_are_cut(make_rig, pki, crl):
    """As the agent does it: the CRL first, then the serials."""
    replace(crl, pki.crl())
    rig = make_rig(agent=True, CRL=crl)
    rig.scheduler()
    guard = rig.agent.peer("scheduler")
    (doomed, cert), other = pki.client("doomed"), pki.client("other")[1]
    with rig.client(cert) as one, rig.client(other) as two:
        assert guard.ok("status")["clients"] == 2
        replace(crl, pki.crl([doomed]))
        guard.ok("reload")
        assert one.scheduler_info() is not None, "the list alone cuts nothing"
        answer = guard.ok("cut", serials=[f"{doomed.serial:040x}"])
        assert answer["cut"] >= 1
        wait_until(lambda: guard.ok("status")["clients"] == 1, "the revoked client is gone")
        assert two.run_on_scheduler(lambda: 42) == 42
        assert guard.ok("cut", serials=["00ff"]) == {"cut": 0}
