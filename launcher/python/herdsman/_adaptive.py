"""Dask's ``Adaptive`` for nodes that are given up through the launcher."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from distributed.deploy.adaptive import Adaptive as DaskAdaptive

if TYPE_CHECKING:
    from herdsman.cluster import Cluster


class Adaptive(DaskAdaptive):
    """Follows the work. What differs from Dask's own:

    * workers are not retired here and deleted later: one command does both, and a
      worker that has got work since it was chosen stays;
    * a node with several workers is one thing, of which there are ``minimum`` to
      ``maximum``.
    """

    cluster: Cluster

    def _per_node(self) -> int:
        return max(1, getattr(self.cluster, "_workers_per_node", 1))

    async def target(self) -> int:
        return math.ceil(await super().target() / self._per_node())

    async def workers_to_close(self, target: int) -> list[str]:
        per_node = self._per_node()
        workers = await super().workers_to_close(target * per_node)
        if per_node == 1:
            return [str(w) for w in workers]
        by_node: dict[str, int] = {}
        for worker in workers:
            node = self.cluster._fleet.node_of(str(worker))
            by_node[node] = by_node.get(node, 0) + 1
        # Only nodes all of whose workers may go.
        return [node for node, n in by_node.items() if n >= per_node]

    async def scale_down(self, workers: Iterable[Any]) -> None:  # type: ignore[override]
        names = [str(w) for w in workers]
        if names:
            await self.cluster._give_up(names, idle=True)

    async def scale_up(self, n: int) -> None:  # type: ignore[override]
        await self.cluster._scale_to(n if math.isinf(self.maximum) else min(n, int(self.maximum)))
