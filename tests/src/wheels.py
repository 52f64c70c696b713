"""Makes wheels for the tests' own package index.

Reads JSON from stdin: {"out": FOLDER, "repack": [NAME...], "make": [{"name",
"version", "files": {PATH: TEXT}}...]}. What is named in "repack" and all that it
requires is packed as it is installed in this Python, so no test needs the
public index.
"""

import base64
import hashlib
import json
import os
import re
import sys
import zipfile
from importlib import metadata


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names):
    found, open_ = {}, list(names)
    while open_:
        name = normal(open_.pop())
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for requirement in found[name].requires or []:
            if "extra ==" not in requirement:
                open_.append(re.match(r"[A-Za-z0-9._-]+", requirement).group())
    return found.values()


def write(folder, name, version, tag, files):
    name = normal(name).replace("-", "_")
    path = os.path.join(folder, f"{name}-{version}-{tag}.whl")
    if os.path.exists(path):
        return
    info = f"{name}-{version}.dist-info"
    record = []
    partial = f"{path}.{os.getpid()}"
    with zipfile.ZipFile(partial, "w") as wheel:

        def add(inside, content):
            wheel.writestr(zipfile.ZipInfo(inside, (2020, 1, 1, 0, 0, 0)), content)

        for inside, content in sorted(files.items()):
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{inside},sha256={digest},{len(content)}")
            add(inside, content)
        add(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    os.rename(partial, path)


def repack(folder, dist):
    name = normal(dist.metadata["Name"]).replace("-", "_")
    version = dist.version
    info = f"{name}-{version}.dist-info"
    files = {}
    for file in dist.files:
        parts = file.parts
        if ".." in parts or "__pycache__" in parts:
            continue
        if parts[0].endswith(".dist-info"):
            if parts[-1] in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
                continue
            parts = (info, *parts[1:])
        path = dist.locate_file(file)
        if os.path.isfile(path):
            with open(path, "rb") as f:
                files["/".join(parts)] = f.read()
    text = files[f"{info}/WHEEL"].decode()
    # What was built here is as good as a manylinux wheel for nodes that are here.
    text = re.sub(r"-linux_x86_64", "-manylinux_2_17_x86_64", text)
    files[f"{info}/WHEEL"] = text.encode()
    tags = [t.split("-") for t in re.findall(r"^Tag: (\S+)", text, re.M)]
    tag = "-".join(".".join(sorted({t[i] for t in tags})) for i in range(3))
    write(folder, name, version, tag, files)


def main():
    ask = json.load(sys.stdin)
    os.makedirs(ask["out"], exist_ok=True)
    for dist in closure(ask.get("repack", [])):
        repack(ask["out"], dist)
    for one in ask.get("make", []):
        name, version = one["name"], one["version"]
        info = f"{name}-{version}.dist-info"
        files = {path: text.encode() for path, text in one["files"].items()}
        files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
        files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        write(ask["out"], name, version, "py3-none-any", files)


main()
