"""For tools that look for clusters, such as dask-ctl."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from herdsman import _bridge
from herdsman._functions import connect, list_clusters


async def discover() -> AsyncIterator[tuple[str, Callable[..., Any]]]:
    """Names of clusters that are up, each with what connects to it."""
    for cluster in await _bridge.in_thread(list_clusters):
        if cluster.state == "up":
            yield cluster.name, connect
