"""`herdsman up` on emulated clouds: calls, time until all nodes have enrolled, memory.

Every call takes 100 ms more than the emulator needs, and every machine boots for 20 s.
The scheduler's machine is the real agent, started from the user-data that the launcher
sent, with a real Dask scheduler; workers are fakes that enrol by the agent's own code
with what their user-data says. The launcher waits for all workers, which fakes never
let it end: it is ended when all of them have enrolled, and the cluster taken down.

Beside it dask-cloudprovider's EC2Cluster, unpatched, against the same server with the
same latency. Its scheduler runs by the very command of the user-data that it sent.

Runs in a network namespace where all addresses are this computer's: `bench.py` makes
it. Prints rows of a table as JSON.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

LATENCY, BOOT = 0.1, 20.0
# Longest wait for anything.
DEADLINE = 900
# Clouds where one call makes any number of machines.
BULK = ("aws", "gcp")
CLOUDS = pathlib.Path(__file__).parents[1] / "clouds"
AWS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

# The type is named, as ours is; all else is as it comes.
PEER = """
import sys, time
from dask_cloudprovider.aws import EC2Cluster
if __name__ == "__main__":
    cluster = EC2Cluster(n_workers=int(sys.argv[1]), instance_type="t3.large")
    print("made", flush=True)
    sys.stdin.read()
    import os; os._exit(0)
"""


class Emulator:
    """An emulator of `tests/clouds` in a process of its own."""

    def __init__(self, python, script, *args):
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [python, CLOUDS / script, *args], cwd=CLOUDS, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.url = f"http://127.0.0.1:{json.loads(self.process.stdout.readline())['port']}"

    def ask(self, path, given=None):
        request = urllib.request.Request(f"{self.url}/_/{path}", json.dumps(given).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return json.load(answer)

    def end(self):
        self.process.stdin.close()
        self.process.wait(60)


class Fleet:
    """Machines, by the load generator."""

    def __init__(self, options, folder):
        self.events, self.failed = {}, []
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else folder
        self.memory = tempfile.TemporaryDirectory(prefix="hb", dir=memory, ignore_cleanup_errors=True)
        env = {**os.environ, "HERDSMAN_TEST_PYTHON": sys.executable}
        self.process = subprocess.Popen(
            [options.load, "fleet", options.agent, folder, self.memory.name],
            env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            now, said = time.monotonic(), json.loads(line)
            if "failed" in said:
                self.failed.append(said)
            for what in ("agent", "enrolled"):
                if what in said:
                    self.events.setdefault(what, {})[said[what]] = now

    def boot(self, machine, after):
        told = {"id": machine["id"], "address": machine["address"], "user_data": machine["user_data"], "after": after}
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()

    def enrolled(self):
        return self.events.get("enrolled", {})

    def end(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.memory.cleanup()


class Ec2:
    name, creates = "aws", ("RunInstances",)
    args = ("--type", "t3.large", "--scheduler-type", "t3.medium")

    def __init__(self, options):
        self.emulator = Emulator(options.clouds_python, "ec2.py")
        self.env = AWS
        # What it loads for the first machine of all is no part of anybody's start.
        self.emulator.ask("warm")

    def begin(self):
        self.emulator.ask("clear")
        self.seen = 0

    def new(self):
        made = self.emulator.ask("made", self.seen)
        self.seen += len(made)
        return made


class Gce:
    name, creates = "gcp", ("instances.insert", "instances.bulkInsert")
    args = ()

    def __init__(self, options):
        self.emulator = Emulator(options.clouds_python, "gcp.py")
        key = pathlib.Path(options.folder) / "key.json"
        key.write_text(json.dumps(self.emulator.ask("key")))
        # Nobody answers there, and nobody else is asked.
        self.env = {"GOOGLE_APPLICATION_CREDENTIALS": str(key), "GCE_METADATA_HOST": "127.0.0.1:1"}

    def begin(self):
        self.emulator.ask("clear")
        self.emulator.ask("set", {"quota": 10000})
        self.seen = set()

    def new(self):
        there = self.emulator.ask("instances", True)["instances"]
        new = [{"id": i["name"], **i} for i in there if i["name"] not in self.seen]
        self.seen |= {i["id"] for i in new}
        return new


class Plain:
    """Clouds whose emulators are ours and alike."""

    args = ()

    def __init__(self, options):
        self.emulator = Emulator(options.clouds_python, f"{self.name}.py")
        self.env = {self.token[0]: self.token[1]}

    def begin(self):
        self.emulator.ask("clear")
        self.emulator.ask("places", {"limit": 10000})
        self.seen = set()

    def new(self):
        there = self.emulator.ask("there")["machines"]
        new = [{**m, "id": str(m["id"]), "address": m["private"]} for m in there if m["private"] and m["id"] not in self.seen]
        self.seen |= {int(m["id"]) for m in new}
        return new


class Hetzner(Plain):
    name, creates, token = "hetzner", ("POST /servers",), ("HCLOUD_TOKEN", "hz-test")


class DigitalOcean(Plain):
    name, creates, token = "digitalocean", ("POST /v2/droplets",), ("DIGITALOCEAN_TOKEN", "dop_v1_test")


def address_here(address):
    """Dask looks for the machine's address among those of the interfaces."""
    subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=False, capture_output=True)


def peak(pid):
    """Largest resident memory so far, MB."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


class Run:
    """One `up` of a scheduler and so many workers."""

    def __init__(self, options, cloud, workers):
        self.options, self.cloud, self.workers = options, cloud, workers
        self.folder = tempfile.mkdtemp(prefix=f"{workers}-", dir=options.folder)
        self.home = pathlib.Path(self.make("home"))
        (self.home / "herdsman.toml").write_text(
            f'[env]\nimage_python = "{sys.executable}"\n[agent]\nurl = ["https://agents.example/{{arch}}"]\n'
        )
        self.env = {
            "HOME": str(self.home),
            "USER": "bench",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HERDSMAN_STATE_DIR": str(self.home / "s"),
            "HERDSMAN_AGENT": options.agent,
            "HERDSMAN_PROVIDER": cloud.name,
            "HERDSMAN_ENV": "image",
            "HERDSMAN_PYTHON": sys.executable,
            # As clouds see this computer.
            "HERDSMAN_MY_ADDRESS": "203.0.113.7",
            f"HERDSMAN_{cloud.name.upper()}_ENDPOINT": cloud.emulator.url,
            **cloud.env,
        }

    def make(self, name):
        folder = pathlib.Path(self.folder) / name
        folder.mkdir()
        return str(folder)

    def command(self, *args):
        return [self.options.herdsman, *args]

    def log(self):
        return self.cloud.emulator.ask("log")

    def measure(self):
        emulator = self.cloud.emulator
        self.cloud.begin()
        emulator.ask("reset")
        emulator.ask("latency", LATENCY)
        fleet = Fleet(self.options, self.make("m"))
        try:
            seen = self.up(fleet)
            self.process.kill()
            self.process.wait()
            print(f"  {self.cloud.name} {self.workers}: {seen}", file=sys.stderr, flush=True)
            return seen | self.down()
        finally:
            self.process.kill()
            self.process.wait()
            fleet.end()
            emulator.ask("latency", 0)

    def down(self):
        before, began = len(self.log()), time.monotonic()
        down = subprocess.run(
            self.command("down", "bench", "-y", "-q"), env=self.env, cwd=self.home, capture_output=True, timeout=DEADLINE
        )
        if down.returncode != 0:
            # moto needs half a minute to list a thousand machines, which is an end of its own.
            return {"down": None, "down_error": down.stderr.decode().splitlines()[0]}
        return {"down": time.monotonic() - began, "down_calls": len(self.log()) - before}

    def up(self, fleet):
        errors = open(f"{self.folder}/up", "wb")
        began = time.monotonic()
        self.process = subprocess.Popen(
            self.command(
                "up", "bench", "-y", "-q", "--workers", str(self.workers), "--start-timeout", f"{DEADLINE}s", *self.cloud.args
            ),
            env=self.env, cwd=self.home, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
        )
        memory = 0.0
        while len(fleet.enrolled()) < self.workers:
            for machine in self.cloud.new():
                if "HERDSMAN-JOIN" in machine["user_data"] and '"role":"scheduler"' in machine["user_data"]:
                    address_here(machine["address"])
                fleet.boot(machine, BOOT)
            memory = max(memory, peak(self.process.pid))
            said = pathlib.Path(f"{self.folder}/up").read_text()
            assert self.process.poll() is None, said
            assert not fleet.failed, fleet.failed[:3]
            assert time.monotonic() - began < DEADLINE, f"{len(fleet.enrolled())} of {self.workers} enrolled\n{said}"
            time.sleep(0.05)
        enrolled = max(fleet.enrolled().values())
        # The hub's own word for it, while the launcher goes on watching.
        status = subprocess.run(
            self.command("status", "bench", "-o", "json"), env=self.env, cwd=self.home, capture_output=True, timeout=DEADLINE
        )
        nodes = json.loads(status.stdout)["status"]["nodes"]
        known = [n for n in nodes if n["role"] == "worker" and n["state"] not in ("expected", "failed", "revoked")]
        assert len(known) == self.workers, f"the hub knows {len(known)} of {self.workers}"
        memory = max(memory, peak(self.process.pid))
        log = [e for e in self.log() if e["at"] < enrolled]
        assert not any(e["violations"] for e in log), [e["violations"] for e in log if e["violations"]][:3]
        asked = max(e["at"] for e in log if e["action"] in self.cloud.creates and e.get("status", 0) < 300)
        counts = collections.Counter(e["action"] for e in log)
        print(f"  {self.cloud.name} {self.workers}: {dict(counts)}", file=sys.stderr)
        return {
            "calls": len(log),
            "asked": asked - began,
            "enrolled": enrolled - began,
            "emulator": sum(e.get("took", 0) for e in log),
            "memory": memory,
        }


class Peer:
    """dask-cloudprovider."""

    def __init__(self, options, cloud, workers):
        self.options, self.cloud, self.workers = options, cloud, workers
        self.python = options.peer_python

    def measure(self):
        emulator = self.cloud.emulator
        self.cloud.begin()
        # In an account without it, it fails.
        emulator.ask("group", "dask-default")
        emulator.ask("reset")
        emulator.ask("latency", LATENCY)
        folder = pathlib.Path(tempfile.mkdtemp(prefix="peer-", dir=self.options.folder))
        env = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "AWS_ENDPOINT_URL": emulator.url, **AWS}
        script = folder / "peer.py"
        script.write_text(PEER)
        errors = open(folder / "errors", "wb")
        began = time.monotonic()
        client = subprocess.Popen(
            [self.python, script, str(self.workers)], env=env, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        scheduler, boot_at, made = None, None, []
        ready = threading.Event()

        def listen():
            if b"made\n" in client.stdout:
                ready.set()

        threading.Thread(target=listen, daemon=True).start()
        try:
            while not ready.wait(0.05):
                made += self.cloud.new()
                if made and boot_at is None:
                    boot_at = time.monotonic() + BOOT
                if boot_at and scheduler is None and time.monotonic() >= boot_at:
                    scheduler = self.boot(made[0], folder)
                said = (folder / "errors").read_text()
                assert client.poll() is None, said
                assert time.monotonic() - began < DEADLINE, said
            returned = time.monotonic()
            log = [e for e in emulator.ask("log") if e["at"] < returned]
        finally:
            emulator.ask("latency", 0)
            for process in filter(None, (client, scheduler)):
                process.kill()
                process.wait()
        creates = [e["at"] for e in log if e["action"] == "RunInstances" and e.get("status") == 200]
        assert len(creates) == self.workers + 1, len(creates)
        return {
            "calls": len(log),
            "asked": max(creates) - began,
            "returned": returned - began,
            "emulator": sum(e.get("took", 0) for e in log),
        }

    def boot(self, machine, folder):
        """What its container would run, without the container."""
        import yaml

        lines = yaml.safe_load(machine["user_data"])["runcmd"]
        command = next(line for line in lines if line.startswith("docker run "))
        command = command[command.index("env DASK_INTERNAL_INHERIT_CONFIG") :]
        bin_folder = pathlib.Path(self.python).parent
        env = {"HOME": str(folder), "PATH": f"{bin_folder}:/usr/bin:/bin"}
        log = open(folder / "scheduler", "wb")
        return subprocess.Popen(["sh", "-c", f"exec {command}"], env=env, cwd=folder, stdout=log, stderr=log)


def rows_of(cloud, seen, peers):
    """Rows of the table: what, measured, against, ratio, aim."""
    first = seen.get(1)
    for n, s in seen.items():
        what = f"{cloud.name}, 1 + {n}: "
        calls = "≤ 12" if cloud.name in BULK and n <= 100 else ""
        peer = peers.get(n)
        against = f"EC2Cluster {peer['calls']}" if peer else ""
        yield what + "calls", str(s["calls"]), against, f"{s['calls'] / peer['calls']:.3f}" if peer else "", calls
        against = f"EC2Cluster {peer['asked']:.1f} s" if peer else ""
        ratio = f"{s['asked'] / peer['asked']:.3f}" if peer else ""
        yield "  all machines asked for", f"{s['asked']:.1f} s", against, ratio, ""
        own = f"of that the emulator itself {s['emulator']:.1f} s" if s["emulator"] > 1 else ""
        ratio, aim = (f"{s['enrolled'] / first['enrolled']:.2f}", "≤ 2") if first and n > 1 else ("", "")
        if own and ratio:
            plain = (s["enrolled"] - s["emulator"]) / (first["enrolled"] - first["emulator"])
            own += f", ratio without {plain:.2f}"
        yield "  all enrolled", f"{s['enrolled']:.1f} s", own, ratio, aim if n <= 100 else ""
        yield "  launcher, peak", f"{s['memory']:.1f} MB", "", "", "≤ 100 MB"
        if s["down"] is None:
            yield "  down", "failed", s["down_error"], "", ""
        else:
            yield "  down", f"{s['down']:.1f} s", f"{s['down_calls']} calls", "", ""


def numbers(text):
    return [int(n) for n in text.split(",") if n]


def main():
    parser = argparse.ArgumentParser()
    for name in ("herdsman", "agent", "load", "clouds-python", "peer-python", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--all", action="store_true", help="1000 workers, and 100 of the peer's")
    parser.add_argument("--workers", type=numbers)
    parser.add_argument("--peers", type=numbers)
    parser.add_argument("clouds", nargs="*")
    options = parser.parse_args()
    known = {c.name: c for c in (Ec2, Gce, Hetzner, DigitalOcean)}
    rows = []
    for name in options.clouds or known:
        cloud, seen, peers = known[name](options), {}, {}
        # Those whose every machine is a call, or every ten, are asked for less.
        sizes = [1, 10, 100] + ([1000] if options.all else []) if name in BULK else [1, 100]
        try:
            if name == "aws":
                for n in ([1, 10] + ([100] if options.all else []) if options.peers is None else options.peers):
                    peers[n] = Peer(options, cloud, n).measure()
                    print(f"  EC2Cluster {n}: {peers[n]}", file=sys.stderr, flush=True)
            for n in sizes if options.workers is None else options.workers:
                seen[n] = Run(options, cloud, n).measure()
        finally:
            cloud.emulator.end()
        rows += rows_of(cloud, seen, peers)
    # All that is said before goes to standard error.
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
