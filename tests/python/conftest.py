"""Tests of the Python package with the real launcher and real Dask, in a home of their own.

HERDSMAN_BINARY   the launcher [default: target/debug/herdsman]
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(tempfile.mkdtemp(prefix="hp", dir="/tmp"))  # short: paths of sockets have 107 bytes
BINARY = os.environ.setdefault("HERDSMAN_BINARY", str(ROOT / "target/debug/herdsman"))

# Before dask is imported, which reads its configuration once.
for name in [n for n in os.environ if n.startswith(("HERDSMAN_", "DASK_", "XDG_"))]:
    if name != "HERDSMAN_BINARY" and not name.startswith("HERDSMAN_TEST_"):
        del os.environ[name]
os.environ.update(
    HOME=str(HOME),
    USER="tester",
    HERDSMAN_STATE_DIR=str(HOME / "s"),
    XDG_CONFIG_HOME=str(HOME / "config"),
    DASK_CONFIG=str(HOME / "dask"),
    DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="20s",
)
agent = Path(BINARY).with_name("herdsman-agent")
if agent.is_file():
    os.environ["HERDSMAN_AGENT"] = str(agent)
if "herdsman" not in sys.modules and not os.environ.get("HERDSMAN_TEST_INSTALLED"):
    # As it is installed, with its entry points.
    site = HOME / "site"
    metadata = site / "herdsman-0.0.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: herdsman\nVersion: 0.0.0\n")
    project = (ROOT / "launcher/python/pyproject.toml").read_text()
    groups = re.findall(r'^\[project\.entry-points\."?([\w.]+)"?\]\n(\w+) = "([^"]+)"', project, re.M)
    assert len(groups) == 3
    points = "".join(f"[{group}]\n{name} = {value}\n" for group, name, value in groups)
    (metadata / "entry_points.txt").write_text(points)
    (site / "herdsman").symlink_to(ROOT / "launcher/python/herdsman")
    sys.path.insert(0, str(site))
    os.environ["PYTHONPATH"] = f"{site}:{Path(__file__).parent}"

import pytest  # noqa: E402

import herdsman  # noqa: E402

LONG = 60


def launcher(*args, check=True):
    """Runs the launcher; its JSON."""
    done = subprocess.run(
        [BINARY, *args, "-o", "json", "-y", "--no-input"], capture_output=True, text=True, timeout=120
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


def names():
    return {c["name"] for c in launcher("ls")["clusters"]}


def until(condition, timeout=LONG):
    """Waits for a condition; gives what it gave."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {timeout} s: {condition}"
        time.sleep(0.05)


@pytest.fixture(scope="session", autouse=True)
def home():
    (HOME / "work").mkdir()
    os.chdir(HOME / "work")
    yield HOME
    left = names()
    launcher("down", "--all", check=False)
    shutil.rmtree(HOME, ignore_errors=True)
    assert not left, f"tests left clusters: {left}"


@pytest.fixture(scope="module")
def shared(home):
    """A cluster for tests that leave it as they found it: two workers."""
    with herdsman.Cluster(n_workers=2, wait_for_workers=1, quiet=True) as cluster:
        yield cluster


@pytest.fixture
def gone():
    """Clusters that a test makes by other ways than an object."""
    made = []
    yield made.append
    for name in made:
        launcher("down", name, check=False)


def run_python(code, *args, **kwargs):
    """A program of its own, started and not waited for."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **kwargs,
    )


def end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
