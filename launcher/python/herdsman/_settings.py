"""From Python's arguments and dask.config to the launcher's settings.

The launcher merges and checks; what is done here is only to name things as it
does: ``idle_timeout=timedelta(hours=1)`` becomes ``{"limits.idle": "3600s"}``.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dask.config
from dask.utils import parse_bytes, parse_timedelta

from herdsman.exceptions import UsageError

Settings = dict[str, Any]


class Unset(str):
    """A default that is shown in the signature, but is not a wish of the caller's:
    settings files may say otherwise."""

    __slots__ = ()


class UnsetNumber(float):
    """The same for a number."""

    __slots__ = ()


def is_unset(value: Any) -> bool:
    """Whether the caller said nothing."""
    return isinstance(value, (Unset, UnsetNumber))


# --- forms of values ----------------------------------------------------------------------


def duration(value: Any) -> str:
    """A time as the launcher reads it; ``None`` and ``False`` are ``off``."""
    if value is None or value is False:
        return "off"
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in {"off", "none", "never"}:
            return "off"
        try:
            value = parse_timedelta(text, default="s")
        except (KeyError, ValueError):
            return text  # such as 1h30m; the launcher knows, or says what is wrong
    milliseconds = round(float(value) * 1000)
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


def size(value: Any) -> str:
    """Bytes as the launcher reads them."""
    if isinstance(value, str):
        try:
            return f"{parse_bytes(value)}B"
        except ValueError:
            return value
    return f"{int(value)}B"


def count(value: Any) -> Any:
    """``4``, ``(2, 8)`` or ``"2..8"``."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise UsageError("E-USAGE", f"n_workers={value!r}: give a number, or (least, most)")
        return f"{int(value[0])}..{int(value[1])}"
    return str(value)


def names(value: Any) -> list[str]:
    """One name, or several."""
    if isinstance(value, str):
        return [value]
    return [str(v) for v in value]


def spot(value: Any) -> str:
    """``never``, ``prefer`` or ``only``; ``True`` is ``prefer``."""
    if isinstance(value, bool):
        return "prefer" if value else "never"
    return str(value)


def wait(value: Any) -> str:
    """What to wait for: a share, a word, or nothing."""
    if value is None or value is False:
        return "none"
    if value is True:
        return "all"
    if isinstance(value, (int, float)):
        return "scheduler" if value == 0 else ("all" if value >= 1 else f"{value:g}")
    return str(value)


def whole(value: Any) -> Any:
    """A number without a fraction where it has none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _as_is(value: Any) -> Any:
    return value


Form = Callable[[Any], Any]

#: Arguments of :class:`herdsman.Cluster` that are settings, with the key and the form.
ARGUMENTS: dict[str, tuple[str, Form]] = {
    "provider": ("provider", str),
    "n_workers": ("workers.count", count),
    "worker_cpu": ("workers.cpu", whole),
    "worker_memory": ("workers.memory", size),
    "worker_type": ("workers.type", names),
    "worker_disk": ("workers.disk", size),
    "worker_gpu": ("workers.gpus", whole),
    "worker_gpu_type": ("workers.gpu_type", str),
    "scheduler_cpu": ("scheduler.cpu", whole),
    "scheduler_memory": ("scheduler.memory", size),
    "scheduler_type": ("scheduler.type", names),
    "scheduler_disk": ("scheduler.disk", size),
    "scheduler_gpu": ("scheduler.gpus", whole),
    "scheduler_gpu_type": ("scheduler.gpu_type", str),
    "threads": ("workers.threads", lambda v: str(v)),
    "workers_per_node": ("workers.workers_per_vm", whole),
    "region": ("place.region", str),
    "zone": ("place.zones", names),
    "spot": ("workers.spot", spot),
    "env": ("env.mode", str),
    "python": ("env.python", str),
    "sync": ("env.include", names),
    "docker_image": ("env.mode", lambda v: f"docker:{v}"),
    "private": ("place.private", bool),
    "allow": ("place.allow", names),
    "role": ("place.role", str),
    "idle_timeout": ("limits.idle", duration),
    "no_client_timeout": ("limits.no_client", duration),
    "max_lifetime": ("limits.lifetime", duration),
    "max_cost": ("limits.max_cost", float),
    "max_workers": ("limits.max_workers", whole),
    "start_timeout": ("limits.start_timeout", duration),
    "wait_for_workers": ("wait", wait),
}

#: Arguments where ``None`` is a wish, not the lack of one.
_NONE_IS_OFF = {"idle_timeout", "max_lifetime", "wait_for_workers"}

#: Keys under ``herdsman`` in dask.config that only this package reads.
PYTHON_ONLY = {
    "asynchronous",
    "create-mode",
    "debug",
    "drop-in-provider",
    "loop",
    "name",
    "profile",
    "quiet",
    "shutdown-on-close",
    "silence-logs",
    "widget",
}


def from_arguments(arguments: Mapping[str, Any]) -> Settings:
    """Settings of the arguments that were given."""
    settings: Settings = {}
    for name, value in arguments.items():
        if is_unset(value) or (value is None and name not in _NONE_IS_OFF):
            continue
        key, form = ARGUMENTS[name]
        try:
            settings[key] = form(value)
        except (TypeError, ValueError) as e:
            raise UsageError("E-USAGE", f"{name}={value!r}: {e}") from None
    return settings


# --- options of Dask's commands -----------------------------------------------------------


def _words(options: Mapping[str, Any]) -> list[str]:
    """Keyword arguments as the command line has them."""
    words: list[str] = []
    for name, value in options.items():
        flag = "--" + name.strip("-").replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is False:
            words.append("--no-" + flag[2:])
        elif isinstance(value, (list, tuple)):
            words += [f"{flag}={v}" for v in value]
        elif value is not None:
            words.append(f"{flag}={value}")
    return words


def worker_options(options: Mapping[str, Any] | Iterable[str] | None) -> Settings:
    """``worker_options``: keyword arguments, or words of the command line."""
    if not options:
        return {}
    if not isinstance(options, Mapping):
        return {"workers.options": names(options)}
    rest = dict(options)
    settings: Settings = {}
    threads = rest.pop("nthreads", None)
    if threads is None:
        threads = rest.pop("ncores", None)
    if threads is not None:
        settings["workers.threads"] = str(threads)
    processes = rest.pop("nworkers", rest.pop("nprocs", None))
    if processes is not None:
        settings["workers.workers_per_vm"] = int(processes)
    resources = rest.pop("resources", None)
    if isinstance(resources, Mapping):
        settings["workers.resources"] = {str(k): float(v) for k, v in resources.items()}
    elif isinstance(resources, str):
        pairs = (p.split("=", 1) for p in re.split(r"[,\s]+", resources.strip()) if p)
        settings["workers.resources"] = {k: float(v) for k, v in pairs}
    if rest:
        settings["workers.options"] = _words(rest)
    return settings


def scheduler_options(options: Mapping[str, Any] | Iterable[str] | None) -> Settings:
    """``scheduler_options``: likewise. Its idle time is the cluster's."""
    if not options:
        return {}
    if not isinstance(options, Mapping):
        return {"scheduler.options": names(options)}
    rest = dict(options)
    settings: Settings = {}
    idle = rest.pop("idle_timeout", None)
    if idle is not None:
        settings["limits.idle"] = duration(idle)
    if rest:
        settings["scheduler.options"] = _words(rest)
    return settings


def worker_class(name: str | None) -> Settings:
    """The class under the nanny. Those that Dask starts by itself are not named."""
    if name is None or is_unset(name) or name in _USUAL:
        return {}
    return {"workers.class": name}


_USUAL = {
    "dask.distributed.Nanny",
    "distributed.Nanny",
    "distributed.nanny.Nanny",
    "dask.distributed.Worker",
    "distributed.Worker",
}

#: Names of variables whose values are for nobody else to see.
_SECRET = re.compile(
    r"(?i)(secret|token|passw|passphrase|credential|api_?key|access_?key|private_?key|session|auth|_key$|^key$|dsn)"
)


def variables(given: Mapping[str, Any] | None) -> tuple[Settings, dict[str, str]]:
    """``env_vars``: settings, and values that the launcher reads from its own
    environment, which nobody else can, and sends over mTLS."""
    if not given:
        return {}, {}
    plain: dict[str, str] = {}
    secret: dict[str, str] = {}
    for name, value in given.items():
        if value is None:
            continue
        (secret if _SECRET.search(name) else plain)[name] = str(value)
    settings: Settings = {}
    if plain:
        settings["env.variables"] = plain
    if secret:
        settings["env.secrets"] = sorted(secret)
    return settings, secret


# --- groups of workers --------------------------------------------------------------------

_GROUP: dict[str, tuple[str, Form]] = {
    "name": ("workers.name", str),
    "n": ("workers.count", count),
    "count": ("workers.count", count),
    "cpu": ("workers.cpu", whole),
    "memory": ("workers.memory", size),
    "type": ("workers.type", names),
    "disk": ("workers.disk", size),
    "gpu": ("workers.gpus", whole),
    "gpus": ("workers.gpus", whole),
    "gpu_type": ("workers.gpu_type", str),
    "spot": ("workers.spot", spot),
    "threads": ("workers.threads", str),
    "workers_per_vm": ("workers.workers_per_vm", whole),
    "workers_per_node": ("workers.workers_per_vm", whole),
    "resources": ("workers.resources", dict),
    "class": ("workers.class", str),
    "options": ("workers.options", names),
}


def groups(given: Iterable[Mapping[str, Any]] | None) -> Settings:
    """``workers``: one group so far."""
    if given is None:
        return {}
    all_groups = [given] if isinstance(given, Mapping) else list(given)
    if len(all_groups) != 1:
        raise UsageError(
            "E-USAGE",
            f"workers: {len(all_groups)} groups; one group of workers is supported so far",
        )
    settings: Settings = {}
    for name, value in all_groups[0].items():
        if name not in _GROUP:
            raise UsageError("E-USAGE", f"workers: a group has no {name!r}; known: {', '.join(_GROUP)}")
        key, form = _GROUP[name]
        settings[key] = form(value)
    return settings


# --- dask.config --------------------------------------------------------------------------


def from_dask(config: Mapping[str, Any] | None = None) -> Settings:
    """What dask.config says under ``herdsman``: the names of the arguments, or tables
    as in ``herdsman.toml``. What stands in the environment is left out: the
    launcher reads that by itself, with upper and lower case."""
    if config is None:
        found = dask.config.get("herdsman", {}) or {}
        by_environment = (dask.config.collect_env() or {}).get("herdsman") or {}
        config = _without(found, by_environment)
    settings: Settings = {}
    for name, value in config.items():
        if value is None or name.replace("_", "-") in PYTHON_ONLY:
            continue
        argument = name.replace("-", "_")
        if argument == "env_vars":
            settings.update({f"env.variables.{k}": str(v) for k, v in value.items()})
        elif argument == "worker_options":
            settings.update(worker_options(value))
        elif argument == "scheduler_options":
            settings.update(scheduler_options(value))
        elif argument == "worker_class":
            settings.update(worker_class(value))
        elif argument in ARGUMENTS and not isinstance(value, Mapping):
            settings.update(from_arguments({argument: value}))
        elif isinstance(value, Mapping):
            settings.update(_flat(name, value))
        else:
            settings[argument] = value
    return settings


def _flat(prefix: str, table: Mapping[str, Any]) -> Settings:
    """Dotted keys of a table, two deep: below that keys are the user's own."""
    flat: Settings = {}
    for name, value in table.items():
        if value is None:
            continue
        key = f"{prefix}.{name}" if prefix == "tags" else f"{prefix}.{str(name).replace('-', '_')}"
        flat[key] = value
    return flat


def _without(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for name, value in config.items():
        theirs = other.get(name, other.get(name.replace("-", "_"), other.get(name.replace("_", "-"))))
        if isinstance(value, Mapping) and isinstance(theirs, Mapping):
            below = _without(value, theirs)
            if below:
                rest[name] = below
        elif theirs is None or theirs != value:
            rest[name] = value
    return rest
