"""The emulated clouds of ``tests/clouds`` for tests of the Python package.

Machines never boot there: what counts is what was asked for.
"""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Address that clouds see this computer with.
LAPTOP = "203.0.113.7"

#: Program, and who asks.
CLOUDS = {
    "aws": (
        "ec2.py",
        {
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_REGION": "us-east-1",
        },
    ),
    "azure": (
        "resource_manager.py",
        {
            "AZURE_TENANT_ID": "66666666-7777-8888-9999-aaaaaaaaaaaa",
            "AZURE_CLIENT_ID": "herdsman-test",
            "AZURE_CLIENT_SECRET": "not-a-secret",
            "AZURE_SUBSCRIPTION_ID": "11111111-2222-3333-4444-555555555555",
        },
    ),
    "digitalocean": ("digitalocean.py", {"DIGITALOCEAN_TOKEN": "dop_v1_test"}),
    "gcp": ("gcp.py", {"GCE_METADATA_HOST": "127.0.0.1:1"}),
    "hetzner": ("hetzner.py", {"HCLOUD_TOKEN": "hz-test"}),
    "openstack": (
        "openstack.py",
        {
            "OS_USERNAME": "ann",
            "OS_PASSWORD": "not-a-secret",
            "OS_PROJECT_NAME": "geo",
            "OS_REGION_NAME": "RegionOne",
        },
    ),
}


def python():
    """The interpreter that has the emulators' packages, if there is one."""
    named = os.environ.get("HERDSMAN_TEST_CLOUDS_PYTHON")
    path = Path(named) if named else ROOT / "target/clouds-venv/bin/python"
    return path if path.exists() else None


class Emulator:
    """A running emulator."""

    def __init__(self, cloud, *args):
        script, self.keys = CLOUDS[cloud]
        self.cloud = cloud
        folder = ROOT / "tests/clouds"
        self.process = subprocess.Popen(
            [python(), folder / script, *args],
            cwd=folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.port = json.loads(self.process.stdout.readline())["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def ask(self, path, given=None):
        """One of the paths for tests."""
        request = urllib.request.Request(f"{self.url}/_/{path}", json.dumps(given).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def environment(self):
        """Variables of somebody who uses it."""
        endpoint = self.url + ("/identity" if self.cloud == "openstack" else "")
        return {
            **self.keys,
            f"HERDSMAN_{self.cloud.upper()}_ENDPOINT": endpoint,
            "HERDSMAN_MY_ADDRESS": LAPTOP,
        }

    def asked(self, *actions):
        """Requests so far, all of which are as the vendor's model says."""
        log = self.ask("log")
        wrong = [(entry["action"], entry["violations"]) for entry in log if entry["violations"]]
        assert not wrong, wrong
        return [entry for entry in log if not actions or entry["action"] in actions]

    def machines(self):
        """What was asked for by role: the body of the first call for each."""
        found = {}
        for entry in self.asked(*MAKES[self.cloud]):
            body = entry["facts"].get("body", entry["facts"].get("form"))
            text = json.dumps(body)
            body = body.get("instanceProperties") or body.get("server") or body
            role = "scheduler" if is_scheduler(self.cloud, entry, text) else "worker"
            found.setdefault(
                role,
                {**body, "_facts": {k: v for k, v in entry["facts"].items() if k not in {"body", "form"}}},
            )
        return found


#: Calls that make machines.
MAKES = {
    "aws": ("RunInstances",),
    "azure": ("VirtualMachines_CreateOrUpdate",),
    "digitalocean": ("POST /v2/droplets",),
    "gcp": ("instances.insert", "instances.bulkInsert"),
    "hetzner": ("POST /servers",),
    "openstack": ("POST servers",),
}


def is_scheduler(cloud, entry, text):
    if cloud == "aws":
        return "scheduler" in entry["facts"]["form"].values()
    if cloud == "digitalocean":
        return any(n.endswith("-scheduler") for n in entry["facts"]["body"].get("names", []))
    if cloud == "openstack":
        return entry["facts"]["node"].endswith("-scheduler")
    return '"herdsman-role": "scheduler"' in text


def at(body, path):
    """A value at `a.b.0.c`; `None` where there is none."""
    for part in path.split("/"):
        if isinstance(body, list):
            body = body[int(part)] if int(part) < len(body) else None
        else:
            body = (body or {}).get(part)
    return body
