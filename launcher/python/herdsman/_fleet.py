"""Which nodes there are, are on their way, and are wanted. No I/O.

``requested`` are nodes that exist or are being made; ``plan`` is ``requested`` and a
stand-in for each node that is wanted and has no name yet. Names are the machines'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: States in which a node counts as one of the workers that there are.
ALIVE = frozenset({"expected", "starting", "ready", "failed"})
#: How long a node that was asked for may be missing in the hub's list, in seconds.
_UNSEEN = 120.0

#: How long an old list may be on its way, in seconds. Not for ever: a hub that was started
#: anew counts anew.
_ON_ITS_WAY = 10.0


class Fleet:
    """The workers of a cluster."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        #: How many are wanted; ``None`` leaves that to others.
        self.target: int | None = None
        #: A change of ours is under way, so what appears or goes is no news.
        self.busy = False
        self._first = True
        self._seq = 0
        self._seq_at = float("-inf")
        self._states: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._wished: dict[str, float] = {}
        self._leaving: set[str] = set()
        self._node_of: dict[str, str] = {}

    # --- sets of names --------------------------------------------------------------------

    @property
    def requested(self) -> set[str]:
        return (self._alive() | set(self._wished)) - self._leaving

    @property
    def plan(self) -> set[str]:
        names = self.requested
        if self.target is not None:
            for i in range(self.target - len(names)):
                names.add(f"{self.name}-?{i}")
        return names

    def observed(self, workers: Iterable[Any]) -> set[str]:
        """Nodes of Dask's names of workers."""
        return {self.node_of(str(name)) for name in workers}

    def node_of(self, worker: str) -> str:
        """The node of one of Dask's workers; its own name where it is the only one."""
        if worker in self._states or worker in self._wished:
            return worker
        known = self._node_of.get(worker)
        if known is not None:
            return known
        stem, _, number = worker.rpartition("-")
        return stem if number.isdigit() and stem in self._states else worker

    def _alive(self) -> set[str]:
        return {name for name, state in self._states.items() if state in ALIVE}

    @property
    def missing(self) -> int:
        return 0 if self.target is None else max(0, self.target - len(self.requested))

    def arrived(self) -> set[str]:
        """Nodes whose Dask workers are registered, as the hub says."""
        return {name for name, state in self._states.items() if state == "ready"}

    def late(self, now: float, limit: float) -> set[str]:
        """Nodes that have not become ready within ``limit`` seconds, or failed."""
        return {
            name
            for name in self.requested
            if self._states.get(name) != "ready"
            and now - self._since.get(name, self._wished.get(name, now)) > limit
        }

    # --- changes --------------------------------------------------------------------------

    def wish(self, names: Iterable[str], now: float) -> None:
        """These are being made."""
        for name in names:
            if name not in self._states:
                self._wished[name] = now

    def unwish(self) -> None:
        """What was being made did not come about, as far as nobody has seen it."""
        self._wished.clear()

    def leave(self, names: Iterable[str]) -> None:
        """These are being given up."""
        self._leaving.update(names)

    def stay(self, names: Iterable[str]) -> None:
        """These could not go."""
        self._leaving.difference_update(names)

    def left(self, names: Iterable[str]) -> None:
        """These are gone."""
        for name in names:
            self._states.pop(name, None)
            self._wished.pop(name, None)
            self._leaving.discard(name)

    def update(self, nodes: Iterable[Mapping[str, Any]], now: float, seq: int = 0) -> set[str]:
        """Takes the hub's list over; gives the nodes that were lost. ``seq`` is the number
        of the newest event in it: a list that was on its way when a newer one came is old.

        What others added or gave up changes the target. What was lost does not: it is
        to be replaced.
        """
        if seq < self._seq and now - self._seq_at < _ON_ITS_WAY:
            return set()
        self._seq, self._seq_at = seq, now
        before = self.requested
        states: dict[str, str] = {}
        preempted: set[str] = set()
        for node in nodes:
            if node.get("role") != "worker":
                continue
            name = str(node["name"])
            states[name] = str(node.get("state"))
            notice = (node.get("report") or {}).get("notice") or {}
            if notice.get("kind") == "preempted":
                preempted.add(name)
            for worker in node.get("workers") or ():
                self._node_of[str(worker.get("name"))] = name
        was_ready = self.arrived()
        self._states = states
        for name in list(self._wished):
            if name in states or now - self._wished[name] > _UNSEEN:
                self._since.setdefault(name, self._wished.pop(name))
        for name, state in states.items():
            if state == "ready":
                self._since[name] = now
            else:
                # A node that was ready and failed has time from then.
                self._since.setdefault(name, now)
                if name in was_ready:
                    self._since[name] = now
        self._since = {n: t for n, t in self._since.items() if n in states}
        self._leaving &= set(states) | set(self._wished)
        after = self.requested
        gone = before - after - self._leaving
        lost = {n for n in gone if states.get(n) == "lost" or n in preempted}
        first, self._first = self._first, False
        if self.target is not None and not self.busy and not first:
            self.target = max(0, self.target + len(after - before) - len(gone - lost))
        return lost
