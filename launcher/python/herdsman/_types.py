"""What a cluster tells of itself."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def _time(milliseconds: Any) -> datetime.datetime | None:
    if milliseconds is None:
        return None
    return datetime.datetime.fromtimestamp(float(milliseconds) / 1000, tz=datetime.timezone.utc)


@dataclass(frozen=True)
class Cost:
    """An estimate, by the provider's list prices, without disks, traffic and discounts.
    ``None`` is what is not known."""

    per_hour: float | None
    so_far: float | None
    currency: str | None

    def __str__(self) -> str:
        if self.per_hour is None:
            return "price unknown"
        text = f"{self.per_hour:.2f} {self.currency}/h"
        return text if self.so_far is None else f"{text} · {self.so_far:.2f} so far"


@dataclass(frozen=True)
class Node:
    """A machine of a cluster."""

    name: str
    #: ``scheduler`` or ``worker``.
    role: str
    #: ``expected``, ``starting``, ``ready``, ``draining``, ``failed``, ``lost``, ``stopped``
    #: or ``revoked``.
    state: str
    address: str | None = None
    #: When it was heard of last.
    seen: datetime.datetime | None = None
    #: Names under which Dask knows its workers.
    workers: tuple[str, ...] = ()
    #: The phase that it is in, or that failed.
    phase: str | None = None
    #: What is wrong, if anything.
    trouble: str | None = None
    #: Everything that the hub says of it.
    details: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, node: Mapping[str, Any]) -> Node:
        report = node.get("report") or {}
        phases = report.get("phases") or []
        failed = next((p for p in phases if p.get("status") == "failed"), None)
        current = failed or next((p for p in phases if p.get("status") == "started"), None)
        trouble = None
        if failed and failed.get("error"):
            trouble = str(failed["error"].get("message"))
        elif report.get("notice"):
            trouble = str(report["notice"].get("text"))
        return cls(
            name=str(node["name"]),
            role=str(node.get("role", "worker")),
            state=str(node.get("state", "expected")),
            address=node.get("address"),
            seen=_time(node.get("seen")),
            workers=tuple(str(w.get("name")) for w in node.get("workers") or ()),
            phase=None if current is None else current.get("phase"),
            trouble=trouble,
            details=node,
        )


@dataclass(frozen=True)
class Event:
    """Something that happened at a cluster."""

    seq: int
    time: datetime.datetime | None
    #: Absent for the cluster as a whole.
    node: str | None
    #: ``phase``, ``state`` or ``note``.
    kind: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, event: Mapping[str, Any]) -> Event:
        kind = str(event.get("event", "note"))
        if kind == "phase":
            text = f"{event.get('phase')} {event.get('status')}"
        elif kind == "state":
            why = event.get("why")
            text = f"{event.get('state')}" + (f": {why}" if why else "")
        else:
            text = str(event.get("text", ""))
        return cls(
            seq=int(event.get("seq", 0)),
            time=_time(event.get("t")),
            node=event.get("node"),
            kind=kind,
            text=text,
            details=event,
        )


@dataclass(frozen=True)
class Finished:
    """How a command on the scheduler's machine ended."""

    args: tuple[str, ...]
    returncode: int | None
    stdout: str = ""
    stderr: str = ""

    def check(self) -> Finished:
        """Raises ``subprocess.CalledProcessError`` unless it ended with 0."""
        if self.returncode:
            import subprocess

            raise subprocess.CalledProcessError(self.returncode, list(self.args), self.stdout, self.stderr)
        return self


@dataclass(frozen=True)
class ClusterInfo:
    """A cluster in a list."""

    name: str
    provider: str
    #: ``up``, ``ended``, ``incomplete``, ``gone``, ``no key``, ``no answer`` or ``ending``.
    state: str
    #: ``3``, or ``2 of 3``.
    workers: str
    age: datetime.timedelta | None
    owner: str
    hint: str | None = None
