"""New files are taken up by running processes; files that are no good never are."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from pki import Authority, pem, replace
from rig import GUARD, Probe, wait_until
from tasks import make_block, read, slow_double

LIFE, RENEW = 15, 2  # seconds; a busy machine may hold a process up for several


class Renewer:
    """Stands in for the agents: gives out certificates that live a few seconds, again and again."""

    def __init__(self, pki, names):
        self.pki, self.names, self.stopping = pki, names, threading.Event()
        self.paths = {name: str(pki.folder / f"{name}-renewed.pem") for name in names}
        self.serials = {}
        self.write()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def write(self):
        for name in self.names:
            issuer = self.pki.sched if name == "scheduler" else self.pki.node
            leaf = issuer.issue(name, life=LIFE)
            self.serials[name] = leaf.serial
            replace(self.paths[name], leaf.bundle)

    def run(self):
        while not self.stopping.wait(RENEW):
            self.write()

    def stop(self):
        self.stopping.set()
        self.thread.join()


@pytest.fixture
def renewer(pki):
    renewer = Renewer(pki, ("scheduler", "w0", "w1", "late"))
    yield renewer
    renewer.stop()


class Work:
    """Tasks that run all the time on an established client; the first failure is kept."""

    def __init__(self, client):
        self.client, self.rounds, self.failure = client, 0, None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            while not self.stopping.is_set():
                futures = self.client.map(slow_double, range(4), pure=False)
                assert self.client.gather(futures) == [0, 2, 4, 6]
                self.rounds += 1
        except Exception as error:
            self.failure = error

    def stop(self):
        self.stopping.set()
        self.thread.join(60)


def transfer(client, source, target):
    """A worker reads another's data over a connection made now."""

    def forget_connections(dask_worker):
        for address in list(dask_worker.rpc.available):
            dask_worker.rpc.remove(address)

    client.run(forget_connections)
    block = client.submit(make_block, time.monotonic(), workers=[source], pure=False)
    assert client.submit(read, block, workers=[target], pure=False).result(60) == 100_000


def test_work_goes_on_across_renewals(make_rig, renewer, pki):
    """All the checks come after every certificate that any process started with has expired."""
    rig = make_rig(agent=True)
    rig.scheduler(cert=renewer.paths["scheduler"])
    workers = {n: rig.worker(n, cert=renewer.paths[n]) for n in ("w0", "w1")}
    nannies = {n: rig.agent.peer("nanny", n) for n in workers}
    before = {n: rig.agent.peer("worker", n) for n in workers}
    ready = time.monotonic()
    with rig.client() as client:
        client.wait_for_workers(2, timeout=60)
        transfer(client, "w0", "w1")
        work = Work(client)
        wait_until(lambda: time.monotonic() > ready + LIFE + 1, "the first certificates expire")
        assert work.rounds > 0

        addresses = [rig.address] + [p.hello["address"] for p in (*nannies.values(), *before.values())]
        for address in addresses:
            assert Probe(address, pki.ca, pki.client()[1]).served
        with rig.client() as newcomer:
            assert newcomer.submit(slow_double, 21).result(60) == 42
        transfer(client, "w0", "w1")
        transfer(client, "w1", "w0")

        rig.worker("late", cert=renewer.paths["late"])
        client.wait_for_workers(3, timeout=60)
        assert client.submit(slow_double, 4, workers=["late"]).result(60) == 8

        old = before["w1"].hello
        os.kill(old["pid"], signal.SIGKILL)
        new = rig.agent.peer("worker", "w1", but=(before["w1"],)).hello
        assert new["pid"] != old["pid"]
        client.wait_for_workers(3, timeout=60)
        transfer(client, "w0", "w1")

        rounds = work.rounds
        wait_until(lambda: work.failure or work.rounds > rounds, "work goes on")
        work.stop()
        assert work.failure is None
    assert "cert-rejected" not in rig.started[0].log


@pytest.fixture
def split(make_rig, pki, folder):
    """A guarded scheduler whose key is in a file of its own, and what changes its files."""
    rig = make_rig(agent=True)
    good = pki.sched.issue("split")
    cert, key = replace(folder / "split.crt", good.chain), replace(folder / "split.key", pem(good.key))
    rig.dask = rig.scheduler(cert=cert, key=key)
    rig.guard = rig.agent.peer("scheduler")

    def put(leaf, with_key=True):
        replace(cert, leaf.chain)
        if with_key:
            replace(key, pem(leaf.key))
        return leaf.serial

    rig.put, rig.good, rig.cert, rig.key = put, good, cert, key
    return rig


def test_bad_files_never_reach_a_live_context(split, pki):
    client = pki.client()[1]
    stranger = Authority("another root")
    bad = {
        "key values mismatch": lambda: split.put(pki.sched.issue("mismatch"), with_key=False),
        "expired": lambda: split.put(pki.sched.issue("expired", life=-5)),
        "unable to get local issuer": lambda: split.put(stranger.issue("stranger")),
        "not yet valid": lambda: split.put(pki.sched.issue("early", since=3600, life=7200)),
        "PEM lib": lambda: replace(split.cert, b"not a certificate\n"),
        "No such file": lambda: os.unlink(split.key),
    }
    for reason, damage in bad.items():
        damage()
        reply = split.guard.call("reload")
        assert reason.lower() in reply["error"].lower(), (reason, reply)
        shown = Probe(split.address, pki.ca, client)
        assert shown.served and shown.serial == split.good.serial
        problem = split.guard.all("problem")[-1]
        assert problem["code"] == "cert-rejected" and reason.lower() in problem["message"].lower()
    fresh = split.put(pki.sched.issue("fresh"))
    assert split.guard.ok("reload") == {"changed": True, "problems": {}}
    shown = Probe(split.address, pki.ca, client)
    assert shown.served and shown.serial == fresh


def test_a_bad_file_is_told_once_and_no_key_is_logged(split, pki):
    split.put(pki.sched.issue("mismatch"), with_key=False)
    wait_until(lambda: split.guard.all("problem"), "the guard finds it by itself")
    for _ in range(20):  # each is a look at the files, on top of those by the clock
        assert "error" in split.guard.call("reload")
    assert split.dask.log.count("cert-rejected") == 1
    assert len(split.guard.all("problem")) == 1
    assert "PRIVATE" not in split.dask.log
    fresh = split.put(pki.sched.issue("fresh"))
    client = pki.client()[1]
    wait_until(
        lambda: Probe(split.address, pki.ca, client).serial == fresh, "taken up without a call"
    )


def test_an_expired_certificate_in_use_is_told(split, pki):
    split.put(pki.sched.issue("brief", life=3))
    split.guard.ok("reload")
    wait_until(
        lambda: [p for p in split.guard.all("problem") if p["code"] == "cert-expired"],
        "the guard meets its own expired certificate",
    )


def test_a_new_root_is_taken_up(make_rig, pki, folder):
    rig = make_rig(agent=True)
    private = replace(folder / "growing-ca.pem", open(pki.ca, "rb").read())
    usual, pki.ca = pki.ca, private
    try:
        rig.scheduler()
    finally:
        pki.ca = usual
    another = Authority("R_new")
    leaf = another.issue("newcomer")
    cert = replace(folder / "newcomer.pem", leaf.bundle)
    assert not Probe(rig.address, pki.ca, cert).served
    replace(private, open(pki.ca, "rb").read() + pem(another.certificate))
    assert rig.agent.peer("scheduler").ok("reload")["changed"]
    assert Probe(rig.address, pki.ca, cert).served


def test_a_renewal_while_certificates_are_loaded_is_no_mismatch(pki, folder):
    """Contexts are made again and again while another thread renews the bundle as fast as it can."""
    bundle = folder / "restless.pem"
    leaves = [pki.node.issue(f"restless-{n}").bundle for n in range(8)]
    replace(bundle, leaves[0])
    code = f"""
import sys
sys.path.insert(0, {str(GUARD.parent)!r})
import herdsman_guard
from distributed.security import Security
tls = {{"tls_ca_file": {str(pki.ca)!r}, "tls_worker_cert": {str(bundle)!r}, "tls_worker_key": {str(bundle)!r}}}
print("ready", flush=True)
for n in range(400):
    assert Security(require_encryption=True, **tls).get_listen_args("worker")["ssl_context"]
print("done")
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    renewals = 0
    while child.poll() is None:
        renewals += 1
        replace(bundle, leaves[renewals % len(leaves)])
        time.sleep(0.001)  # as fast as files can be told apart
    out, err = child.communicate()
    assert out == "done\n" and renewals > 100, (renewals, err)
