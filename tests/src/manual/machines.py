"""A cloud in one file: makes machines that are an agent in a folder, with a
loopback address each, as the programs of provider `manual` would make real ones.

usage: machines.py FOLDER AGENT, with a request of herdsman's on standard input
"""
import json, os, signal, socket, subprocess, sys, time, zlib

folder, agent = sys.argv[1:3]
request = json.load(sys.stdin)
assert request["version"] == 1, request
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, "requests"), "a") as f:
    f.write(json.dumps(request) + "\n")


def home(node):
    return os.path.join(folder, node)


def marked(node):
    """Processes of a machine, by the mark in their environment."""
    mark = ("HERDSMAN_NODE_DIR=" + home(node)).encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if mark in f.read().split(b"\0"):
                    found.append(int(pid))
        except OSError:
            pass
    return found


def machine(node):
    try:
        with open(os.path.join(home(node), "machine.json")) as f:
            return json.load(f)
    except FileNotFoundError:
        return None


def free(address, ports):
    for port in ports:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((address, port))
            except OSError:
                return False
    return True


def place(node, scheduler):
    number = 2 if scheduler else 3 + int(node.rsplit("-w", 1)[1])
    # Others look for theirs at the same time, and a port is taken only later.
    own = zlib.crc32(folder.encode())
    for block in range(own, own + 200):
        address = f"127.{20 + block % 200}.{20 + block // 200 % 200}.{number}"
        if free(address, [8785, 8786] if scheduler else [8788, 8789, 8790]):
            return address
    sys.exit("no address is free")


def create():
    node = request["node"]
    known = machine(node)
    if known and marked(node):
        return {k: known[k] for k in ("id", "address")}
    os.makedirs(home(node), 0o700, exist_ok=True)
    with open(request["user_data"]) as f:
        join = json.load(f)
    scheduler = join["role"] == "scheduler"
    address = place(node, scheduler)
    # What a machine of its own has by itself.
    join["bind"] = address
    if scheduler:
        join["listen"] = address + ":8785"
    join["paths"] = {n: os.path.join(home(node), n) for n in ("state", "run", "environments")}
    path = os.path.join(home(node), "join.json")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
        json.dump(join, f)
    new = {"id": "m-" + node, "node": node, "address": address, "tags": request["tags"]}
    with open(os.path.join(home(node), "machine.json"), "w") as f:
        json.dump(new, f)
    with open(os.path.join(home(node), "boot.log"), "ab") as log:
        subprocess.Popen(
            [agent, "run", "--config", path],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True,
            env={"PATH": os.environ["PATH"], "HOME": home(node), "HERDSMAN_NODE_DIR": home(node)},
        )
    return {"id": new["id"], "address": address}


def listed():
    all = [machine(n) for n in sorted(os.listdir(folder)) if os.path.isdir(home(n))]
    keys = ("id", "node", "address", "tags")
    return {"machines": [{**{k: m[k] for k in keys}, "running": bool(marked(m["node"]))} for m in all if m]}


def delete():
    node = request["node"]
    for sig, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        for pid in marked(node):
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                pass
        until = time.monotonic() + (patience if request["role"] == "worker" else 10)
        while marked(node) and time.monotonic() < until:
            time.sleep(0.05)
        if not marked(node):
            break
    subprocess.run(["rm", "-rf", home(node)], check=True)


verb = request["verb"]
if verb == "create":
    print(json.dumps(create()))
elif verb == "list":
    print(json.dumps(listed()))
elif verb == "delete":
    delete()
elif verb == "console":
    with open(os.path.join(home(request["node"]), "boot.log")) as f:
        print(f.read())
else:
    sys.exit("unknown verb " + verb)
