"""Small things that cluster objects need."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import secrets
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed.security import Security

from herdsman import _bridge
from herdsman.exceptions import HerdsmanError, Unreachable, VersionMismatch


class Busy:
    """Whether something is under way that Ctrl-C has to wait for."""

    def __init__(self) -> None:
        self._depth = 0
        self._done = threading.Event()
        self._done.set()

    def __enter__(self) -> None:
        self._depth += 1
        self._done.clear()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._done.set()

    @property
    def busy(self) -> bool:
        return not self._done.is_set()

    def wait(self, timeout: float) -> bool:
        return self._done.wait(timeout)


def new_name() -> str:
    """A name that nobody else has, which says whose it is."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "user"
    user = re.sub(r"[^a-z0-9]+", "-", user.lower()).strip("-")[:12] or "user"
    return f"dask-{user}-{secrets.token_hex(3)}"


def is_shown() -> bool:
    """Whether somebody reads what is printed: a terminal or a notebook."""
    with contextlib.suppress(Exception):
        if sys.stdout is not None and sys.stdout.isatty():
            return True
    return "ipykernel" in sys.modules


def story(event: Mapping[str, Any]) -> str | None:
    """What of an event people want to read."""
    if "note" in event:
        return str(event["note"])
    if "warning" in event:
        return f"warning: {event['warning']}"
    if event.get("status") == "failed":
        error = event.get("error") or {}
        return f"{event.get('node')}: {event.get('phase')}: {error.get('message', 'failed')}"
    if event.get("state") in {"ready", "lost"}:
        why = event.get("why")
        return f"{event.get('node')} is {event['state']}" + (f": {why}" if why else "")
    return None


def span(seconds: float) -> str:
    seconds = max(0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def unreachable(name: str, errors: list[BaseException]) -> HerdsmanError:
    return Unreachable(
        "E-UNREACHABLE",
        f"the scheduler of `{name}` does not answer",
        cause=[str(e).splitlines()[0] for e in errors if str(e)],
        try_=[f"herdsman doctor {name}     says which part of the way is closed"],
        retryable=True,
        exit_code=3,
    )


def compare_versions(theirs: Mapping[str, Any], name: str) -> None:
    """What is pickled here is unpickled there, so these have to agree."""
    from importlib.metadata import version as installed

    def minor(version: str) -> str:
        return ".".join(version.split(".")[:2])

    mine = {
        "python": ".".join(str(n) for n in sys.version_info[:3]),
        "dask": installed("dask"),
        "distributed": installed("distributed"),
    }
    different = []
    for what, here in mine.items():
        there = str(theirs.get(what) or "")
        same = minor(here) == minor(there) if what == "python" else here == there
        if there and not same:
            different.append(f"{what:<12} here {here}, there {there}")
    if different:
        raise VersionMismatch(
            "E-MISMATCH",
            f"Python here and on the nodes of `{name}` do not fit each other",
            cause=different,
            try_=[
                f"herdsman up {name} --env copy     brings this environment to the nodes",
                "or use the environment that the cluster was made from",
                "or check_versions=False, at your own risk",
            ],
            exit_code=3,
        )


def own_certificates(security: Security) -> dict[str, Any]:
    """Settings for certificates of the user's own. What is in memory is written to a
    folder that only the user can read, where it stays: later clients need it."""
    settings: dict[str, Any] = {}
    folder: Path | None = None
    for field in (
        "tls_ca_file",
        "tls_scheduler_cert",
        "tls_scheduler_key",
        "tls_worker_cert",
        "tls_worker_key",
        "tls_client_cert",
        "tls_client_key",
    ):
        value = getattr(security, field, None)
        if not value:
            continue
        if "\n" in value:
            if folder is None:
                folder = _private_folder()
            path = folder / f"{field}.pem"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(value)
            value = str(path)
        settings[f"security.{field}"] = os.path.abspath(value)
    return settings


def _private_folder() -> Path:
    places = _bridge.call(_bridge.Request(["config", "path"])).document
    base = Path(places["state"]) / "certificates"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=base))


def render(request: _bridge.Request) -> str:
    document = _bridge.call(request).document
    if isinstance(document, Mapping):
        return str(document.get("user_data") or document.get("text") or "")
    return str(document or "")
