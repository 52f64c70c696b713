import shutil
import tempfile
from pathlib import Path

import pytest
from pki import Pki
from rig import FakeAgent, Rig


@pytest.fixture(scope="session")
def folder():
    """Short, as the path of a unix socket may have about 100 characters."""
    path = Path(tempfile.mkdtemp(prefix="hg-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def pki(folder):
    return Pki(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What Dask wrote goes into the report of a test that failed."""
    report = yield
    if report.when == "call" and report.failed:
        rigs = [*getattr(item.funcargs.get("make_rig"), "rigs", ()), item.funcargs.get("base")]
        for dask in [dask for rig in rigs if rig for dask in rig.started]:
            report.sections.append((dask.log_path.name, dask.log))
    return report


@pytest.fixture
def make_rig(pki, folder):
    """Rigs of one test; `agent=True` gives it a fake agent of its own."""
    rigs, agents = [], []

    def make(agent=False, **settings):
        if agent:
            agents.append(FakeAgent(tempfile.mktemp(prefix="s", dir=folder)))
        rigs.append(Rig(pki, folder, agents[-1] if agent else None, **settings))
        return rigs[-1]

    make.rigs = rigs
    yield make
    for rig in rigs:
        rig.stop()
    for agent in agents:
        agent.stop()


@pytest.fixture(scope="module")
def base(pki, folder):
    """A scheduler and a worker under a nanny, all guarded; its CRL file is not there at first."""
    agent = FakeAgent(tempfile.mktemp(prefix="s", dir=folder))
    rig = Rig(pki, folder, agent, CRL=tempfile.mktemp(suffix=".crl", dir=folder))
    rig.scheduler()
    rig.worker("w1")
    rig.listeners = {k: agent.peer(k).hello["address"] for k in ("scheduler", "worker", "nanny")}
    yield rig
    rig.stop()
    agent.stop()
