"""What herdsman costs beside what it starts, as a table with ratios."""

import argparse
import json
import lzma
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "guard"))

WORKERS = 4
DEADLINE = 120

# One client for all ways: its time is in all of them alike.
CLIENT = f"""
from dask.distributed import Client
client = Client(timeout=100)
client.wait_for_workers({WORKERS}, timeout=100)
print(client.submit(sum, range(100)).result())
"""

LOCAL_CLUSTER = f"""
from dask.distributed import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers={WORKERS}, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            client.wait_for_workers({WORKERS})
            print(client.submit(sum, range(100)).result())
            import os; os._exit(0)
"""


class Table:
    def __init__(self):
        self.rows = [("what", "measured", "against", "ratio", "aim")]

    def add(self, what, measured, against="", ratio="", aim=""):
        self.rows.append((what, measured, against, ratio, aim))
        print(f"  {what}: {measured} {ratio}", file=sys.stderr, flush=True)

    def show(self):
        widths = [max(len(row[i]) for row in self.rows) for i in range(5)]
        for row in self.rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def spread(times, unit="s", factor=1.0):
    times = sorted(t * factor for t in times)
    return f"{statistics.median(times):.3g} {unit} ({times[0]:.3g}–{times[-1]:.3g}, n={len(times)})"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Bench:
    def __init__(self, options):
        self.herdsman = os.path.abspath(options.herdsman)
        self.agent = os.path.abspath(options.agent)
        self.load_program = os.path.abspath(options.load)
        self.runs, self.nodes = options.runs, options.nodes
        self.rounds, self.qemu_rounds = options.rounds, options.qemu_rounds
        self.clouds_python, self.peer_python, self.all = options.clouds_python, options.peer_python, options.all
        self.folder = tempfile.TemporaryDirectory(prefix="hb", dir="/tmp")
        self.home = pathlib.Path(self.folder.name)
        self.env = {
            "HOME": str(self.home),
            "USER": "bench",
            "PATH": f"{pathlib.Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HERDSMAN_STATE_DIR": str(self.home / "s"),
            "HERDSMAN_AGENT": self.agent,
            "HERDSMAN_PYTHON": sys.executable,
        }

    def command(self, *args, **kwargs):
        return subprocess.run(
            [self.herdsman, *args], env=self.env, cwd=self.home, check=True, capture_output=True, timeout=DEADLINE, **kwargs
        )

    def client(self, variables):
        env = {**self.env, **variables}
        out = subprocess.run([sys.executable, "-c", CLIENT], env=env, check=True, capture_output=True, timeout=DEADLINE)
        assert out.stdout.strip() == b"4950", out

    # --- start ------------------------------------------------------------

    def start_ours(self, *wait):
        """With `--wait scheduler` the client starts beside the workers, as it does by hand."""
        began = time.monotonic()
        self.command("up", "bench", "--workers", str(WORKERS), "-q", *wait)
        up = time.monotonic() - began
        self.client(json.loads(self.command("env", "bench", "-o", "json").stdout))
        took = time.monotonic() - began
        self.command("down", "bench", "-q")
        return took, up

    def start_floor(self, pki):
        """The same processes by hand, with certificates that are there already."""
        port = free_port()
        tls = lambda cert: ["--tls-ca-file", str(pki.ca), "--tls-cert", str(cert), "--tls-key", str(cert)]
        env = {**self.env, "DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION": "1.3"}
        started = []

        def start(kind, *args):
            scratch = self.home / f"floor-{len(started)}-{port}"
            scratch.mkdir()
            log = open(scratch / "log", "wb")
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", f"distributed.cli.dask_{kind}", *args],
                    env=env, cwd=scratch, stdout=log, stderr=log, start_new_session=True,
                )
            )

        began = time.monotonic()
        scheduler = f"tls://127.0.0.1:{port}"
        start("scheduler", "--host", "tls://127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0", *tls(self.certs[0]))
        for n in range(WORKERS):
            start("worker", scheduler, "--name", f"w{n}", "--nthreads", "1", "--dashboard-address", "127.0.0.1:0", *tls(self.certs[1]))
        variables = {
            "DASK_SCHEDULER_ADDRESS": scheduler,
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(pki.ca),
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": str(self.certs[2]),
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": str(self.certs[2]),
        }
        out = subprocess.run([sys.executable, "-c", CLIENT], env={**env, **variables}, check=True, capture_output=True, timeout=DEADLINE)
        assert out.stdout.strip() == b"4950", out
        took = time.monotonic() - began
        for process in started:
            os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            process.wait(30)
        return took

    def start_local_cluster(self):
        script = self.home / "local_cluster.py"
        script.write_text(LOCAL_CLUSTER)
        began = time.monotonic()
        subprocess.run([sys.executable, script], env=self.env, cwd=self.home, check=True, capture_output=True, timeout=DEADLINE)
        return time.monotonic() - began

    def start(self, table):
        import pki as pki_module

        pki = pki_module.Pki(self.home)
        self.certs = [
            pki.write("scheduler", pki.sched.issue("scheduler")),
            pki.write("worker", pki.node.issue("worker")),
            pki.client()[1],
        ]
        ours, ups, beside, floor, local = [], [], [], [], []
        for _ in range(self.runs):
            took, up = self.start_ours()
            ours.append(took)
            ups.append(up)
            beside.append(self.start_ours("--wait", "scheduler")[0])
            floor.append(self.start_floor(pki))
            local.append(self.start_local_cluster())
        median = statistics.median
        what = f"1 scheduler + {WORKERS} workers to the first result"
        table.add(what, spread(ours), f"by hand {spread(floor)}", f"{median(ours) / median(floor):.2f}", "≤ 1.15")
        table.add("  with `--wait scheduler`", spread(beside), f"by hand {spread(floor)}", f"{median(beside) / median(floor):.2f}", "≤ 1.15")
        table.add("", spread(ours), f"LocalCluster {spread(local)}", f"{median(ours) / median(local):.2f}")
        table.add("  of that `herdsman up`", spread(ups))

    # --- agent ------------------------------------------------------------

    def agent_numbers(self, table):
        size = os.path.getsize(self.agent)
        packed = len(lzma.compress(pathlib.Path(self.agent).read_bytes(), preset=9 | lzma.PRESET_EXTREME))
        table.add("agent, static", f"{size / 1e6:.2f} MB", aim="≤ 5 MB")
        table.add("agent, xz", f"{packed / 1e6:.2f} MB", aim="≤ 2 MB")
        listening = [self.load("listen", self.agent)["milliseconds"] for _ in range(self.runs * 2)]
        table.add("agent, start to listening", spread(listening, "ms"), aim="≤ 5 ms")
        self.command("up", "bench", "--workers", "1", "-q")
        try:
            time.sleep(8)  # past the start: what it needs while nothing happens
            for role, pid in self.agents():
                rss = int(next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")).split()[1])
                table.add(f"agent of the {role}, resident while idle", f"{rss / 1024:.1f} MiB", aim="≤ 8 MB")
        finally:
            self.command("down", "bench", "-q")

    def agents(self):
        for entry in os.listdir("/proc"):
            try:
                line = open(f"/proc/{entry}/cmdline", "rb").read().split(b"\0")
            except OSError:
                continue
            if len(line) > 3 and line[1] == b"run" and str(self.home).encode() in line[3]:
                yield ("scheduler" if b"scheduler" in line[3] else "worker"), entry

    # --- hub, tunnel ------------------------------------------------------

    def load(self, *args, timeout=600):
        """The load generator; it needs a descriptor for each simulated node."""
        env = {"HERDSMAN_TEST_PYTHON": sys.executable, **os.environ}
        out = subprocess.run([self.load_program, *args], env=env, capture_output=True, timeout=timeout, check=False)
        assert out.returncode == 0, out.stderr.decode()
        return json.loads(out.stdout)

    def hub(self, table):
        seen = self.load("nodes", self.agent, str(self.nodes), "20")
        what = f"hub, {self.nodes} nodes on one core: "
        table.add(what + "enrolments", f"{seen['enrolments_per_second']:.0f}/s", f"{seen['enrolments_per_core_second']:.0f}/s of a core")
        table.add(what + "sessions begun", f"{seen['connections_per_second']:.0f}/s")
        table.add(what + "reports every 5 s", f"{seen['reports_per_second']:.0f}/s", f"{seen['reports_per_core_second']:.0f}/s of a core")
        table.add(what + "processor", f"{seen['cores']:.3f} cores", aim="≤ 0.5 cores")
        table.add(what + "resident", f"{seen['memory_mib']:.0f} MiB", f"{seen['memory_enrolled_mib']:.0f} MiB before sessions", aim="≤ 150 MB")
        table.add(what + "status of all", f"{seen['status_seconds'] * 1000:.0f} ms")

    def tunnel(self, table):
        seen = self.load("tunnel", self.agent)
        for way, name in (("up", "to"), ("down", "from")):
            bare, ours = seen[f"bare_{way}"], seen[way]
            table.add(f"tunnel {name} the scheduler", f"{ours / 1e9:.2f} GB/s", f"bare TLS {bare / 1e9:.2f} GB/s", f"{ours / bare:.2f}", "≥ 0.8")

    # --- boot -------------------------------------------------------------

    def boot(self, table):
        """Containers: what is measured is said in load/boot.rs."""
        self.boots(table, "boot", self.rounds, 600)

    def boot_qemu(self, table):
        """The same with kernels of their own, which takes minutes without KVM."""
        self.boots(table, "boot-qemu", self.qemu_rounds, 4000)

    def boots(self, table, part, rounds, within):
        seen = self.load(part, str(rounds), timeout=within * rounds)
        if not seen:
            table.add(f"{part} to registered", "no test machines can run here")
            return
        registered = {kind: [r["registered"] for r in rounds] for kind, rounds in seen.items()}
        floor = statistics.median(registered["floor"])
        against = f"bare unit {spread(registered['floor'])}"
        for kind, aim in (("baked", "≤ 1.1"), ("stock", "")):
            ratio = f"{statistics.median(registered[kind]) / floor:.2f}"
            table.add(f"{part} to registered, {kind}", spread(registered[kind]), against, ratio, aim)
        for kind, rounds in seen.items():
            # Each milestone is told with what it took since the one before it.
            names = set.intersection(*(set(r) for r in rounds))
            medians = sorted((statistics.median(r[n] for r in rounds), n) for n in names)
            before = 0.0
            for at, name in medians:
                table.add(f"  {kind}: {name}", f"+{at - before:.2f} s", f"at {at:.2f} s")
                before = at

    # --- clouds -----------------------------------------------------------

    def clouds(self, table):
        """In a network where all addresses are this computer's: what it does is said in clouds.py."""
        lines = "ip link set lo up && ip route add local 0.0.0.0/0 dev lo && exec \"$@\""
        namespace = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
        given = {
            "herdsman": self.herdsman, "agent": self.agent, "load": self.load_program, "folder": self.home,
            "clouds-python": self.clouds_python, "peer-python": self.peer_python,
        }
        options = [f"--{name}={value}" for name, value in given.items()] + ["--all"] * self.all
        script = pathlib.Path(__file__).with_name("clouds.py")
        out = subprocess.run(
            [*namespace, "sh", "-c", lines, "sh", sys.executable, script, *options], check=True, stdout=subprocess.PIPE, timeout=7200
        )
        for row in json.loads(out.stdout):
            table.add(*row)

    # --- command ----------------------------------------------------------

    def command_line(self, table):
        self.command("up", "bench", "--workers", "1", "-q")
        try:
            for what, args, aim in [
                ("`herdsman status --offline`", ["status", "bench", "--offline"], "≤ 15 ms"),
                ("`herdsman status`", ["status", "bench"], ""),
                ("`herdsman --version`", ["--version"], ""),
            ]:
                times = []
                for _ in range(self.runs * 5):
                    began = time.monotonic()
                    self.command(*args)
                    times.append(time.monotonic() - began)
                table.add(what, spread(times, "ms", 1000), aim=aim)
        finally:
            self.command("down", "bench", "-q")
        table.add("launcher", f"{os.path.getsize(self.herdsman) / 1e6:.2f} MB", aim="≤ 15 MB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--herdsman", required=True)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--load", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=3, help="of part boot")
    parser.add_argument("--qemu-rounds", type=int, default=1, help="of part boot-qemu")
    parser.add_argument("--clouds-python", help="of part clouds: an interpreter with the emulators' packages")
    parser.add_argument("--peer-python", help="of part clouds: an interpreter with dask-cloudprovider")
    parser.add_argument("--all", action="store_true", help="of part clouds: 1000 workers as well")
    parts = {
        "start": Bench.start,
        "agent": Bench.agent_numbers,
        "hub": Bench.hub,
        "tunnel": Bench.tunnel,
        "command": Bench.command_line,
        "boot": Bench.boot,
        "boot-qemu": Bench.boot_qemu,
        "clouds": Bench.clouds,
    }
    parser.add_argument("names", nargs="*", help=", ".join(parts), metavar="PART")
    options = parser.parse_args()
    if unknown := set(options.names) - set(parts):
        parser.error(f"no such part: {', '.join(unknown)}")
    bench, table = Bench(options), Table()
    for name in options.names or parts:
        parts[name](bench, table)
    table.show()


if __name__ == "__main__":
    main()
