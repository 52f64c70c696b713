"""Options that were for Docker, for Dask's processes and for cloud-init, in our words."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from dask.utils import parse_bytes


@lru_cache(maxsize=1)
def ours() -> frozenset[str]:
    """Arguments of :class:`herdsman.Cluster`."""
    from herdsman.cluster import Cluster

    names = inspect.signature(Cluster.__init__).parameters
    return frozenset(n for n, p in names.items() if n != "self" and p.kind is not p.VAR_KEYWORD)


@dataclass
class DockerWords:
    """What stands in ``docker_args``."""

    variables: dict[str, str] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)


def docker_words(text: Any) -> DockerWords:
    """Variables that were given to ``docker run``, and all the rest. A variable
    without a value is taken from this computer in `docker run`, which was the
    machine; so it is no value of anybody's."""
    words = shlex.split(text) if isinstance(text, str) else [str(w) for w in text]
    found = DockerWords()
    at = 0
    while at < len(words):
        word = words[at]
        pair = None
        if word in {"-e", "--env"} and at + 1 < len(words):
            at += 1
            pair = words[at]
        elif word.startswith("--env="):
            pair = word.removeprefix("--env=")
        elif word.startswith("-e") and "=" in word and not word.startswith("--"):
            pair = word.removeprefix("-e")
        if pair is not None and "=" in pair:
            name, value = pair.split("=", 1)
            found.variables[name] = value
        else:
            found.rest.append(word if pair is None or word == pair else f"{word} {pair}")
        at += 1
    return found


def bootstrap_lines(packages: Iterable[str]) -> list[str]:
    """Lines that install packages of Debian's or Ubuntu's."""
    words = " ".join(shlex.quote(p) for p in packages)
    return [
        "export DEBIAN_FRONTEND=noninteractive",
        f"apt-get -qq update && apt-get -qq install -y --no-install-recommends {words}",
    ]


@dataclass
class Words:
    """Options of one of Dask's processes."""

    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)


#: Why an option of a process is not the caller's here.
_FIXED = "addresses and ports are fixed, as the firewall and the certificates know them"
_NAMED = "a worker is named after its machine"
_CLOSED = "the dashboard is reached through herdsman only: cluster.dashboard_link"
_OURS = "the process itself is herdsman's"
_TLS = "say security=Security(…)"

_NOT_WORKERS = {
    "name": _NAMED,
    "port": _FIXED,
    "worker_port": _FIXED,
    "nanny_port": _FIXED,
    "host": _FIXED,
    "interface": _FIXED,
    "protocol": _FIXED,
    "contact_address": _FIXED,
    "listen_address": _FIXED,
    "scheduler_ip": _FIXED,
    "scheduler_port": _FIXED,
    "dashboard": _CLOSED,
    "dashboard_address": _CLOSED,
    "dashboard_prefix": _CLOSED,
    "http_prefix": _CLOSED,
    "security": _TLS,
    "tls_ca_file": _TLS,
    "tls_cert": _TLS,
    "tls_key": _TLS,
    "silence_logs": "say silence_logs to the class; `cluster.get_logs()` shows logs of workers",
    "scheduler_file": _OURS,
    "pid_file": _OURS,
    "loop": _OURS,
    "validate": _OURS,
    "reconnect": _OURS,
}

_NOT_SCHEDULERS = {
    "port": _FIXED,
    "host": _FIXED,
    "interface": _FIXED,
    "protocol": _FIXED,
    "dashboard": _CLOSED,
    "dashboard_address": _CLOSED,
    "dashboard_prefix": _CLOSED,
    "http_prefix": _CLOSED,
    "jupyter": "it gives a shell to everybody who reaches the dashboard",
    "security": _TLS,
    "tls_ca_file": _TLS,
    "tls_cert": _TLS,
    "tls_key": _TLS,
    "scheduler_file": _OURS,
    "pid_file": _OURS,
    "loop": _OURS,
}

#: Values that are so here anyway.
_SO_ANYWAY: Mapping[str, tuple[Any, ...]] = {
    "port": (8786, "8786", 0),
    "protocol": ("tls", "tls://", "tcp", "tcp://"),
    "dashboard": (True,),
    "dashboard_address": (":8787", "0.0.0.0:8787", 8787, True),
    "loop": (None,),
    "security": (None,),
    "jupyter": (False,),
    "reconnect": (True,),
    "validate": (False, None),
}


def _split(options: Mapping[str, Any], fixed: Mapping[str, str], what: str) -> Words:
    words = Words()
    for name, value in options.items():
        plain = name.strip("-").replace("-", "_")
        if plain not in fixed:
            words.options[plain] = value
        elif value not in _SO_ANYWAY.get(plain, ()):
            words.warnings[f"{what}.{plain}"] = f"{what}: {plain}={value!r} is left out: {fixed[plain]}"
    return words


def worker_words(options: Any) -> Words:
    """``worker_options``. Memory is the launcher's to know, as machines are chosen by it."""
    if not isinstance(options, Mapping):
        return Words(options={}, settings={"workers.options": [str(o) for o in options]})
    words = _split(options, _NOT_WORKERS, "worker_options")
    if "ncores" in words.options:
        words.options.setdefault("nthreads", words.options.pop("ncores"))
    limit = words.options.pop("memory_limit", "auto")
    if limit in ("auto", None) and limit is not None:
        return words
    if limit is None or limit == 0 or limit == "0":
        words.warnings["worker_options.memory_limit"] = (
            f"worker_options: memory_limit={limit!r} is left out: a worker without a limit takes its machine with it; "
            "the limit is the machine's memory"
        )
    elif isinstance(limit, float) and limit <= 1:
        if limit < 1:
            words.warnings["worker_options.memory_limit"] = (
                f"worker_options: memory_limit={limit!r} is left out: a share of the machine's memory is no limit "
                "here; say it in bytes, or workers_per_node"
            )
    else:
        processes = int(words.options.get("nworkers") or words.options.get("nprocs") or 1)
        words.settings["workers.memory"] = f"{parse_bytes(limit) * processes}B"
    return words


def scheduler_words(options: Any) -> Words:
    """``scheduler_options``."""
    if not isinstance(options, Mapping):
        return Words(options={}, settings={"scheduler.options": [str(o) for o in options]})
    return _split(options, _NOT_SCHEDULERS, "scheduler_options")
