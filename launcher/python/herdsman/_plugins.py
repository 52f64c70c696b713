"""What is sent to workers. Nodes may have no herdsman in their Python, so classes travel
by value."""

from __future__ import annotations

from typing import Any

import cloudpickle
from distributed.diagnostics.plugin import NannyPlugin, WorkerPlugin


def _plugins(env: dict[str, str]) -> tuple[Any, Any]:
    class PrivateEnvironment(WorkerPlugin):
        """Sets variables in a worker's process."""

        name = "herdsman-private-env"

        def setup(self, worker: Any) -> None:
            import os

            os.environ.update(env)

    class PrivateNannyEnvironment(NannyPlugin):
        """Sets them in processes that a nanny starts later."""

        name = "herdsman-private-env-nanny"
        restart = False

        def setup(self, nanny: Any) -> None:
            nanny.env.update(env)

    return PrivateEnvironment(), PrivateNannyEnvironment()


async def register_environment(scheduler: Any, env: dict[str, str]) -> None:
    """Variables of all workers, now and later."""
    worker, nanny = _plugins(env)
    for plugin, register in (
        (nanny, scheduler.register_nanny_plugin),
        (worker, scheduler.register_worker_plugin),
    ):
        answers = await register(
            plugin=cloudpickle.dumps(plugin), name=f"{plugin.name}-{'-'.join(sorted(env))}", idempotent=False
        )
        for answer in (answers or {}).values():
            if isinstance(answer, dict) and answer.get("status") == "error":
                raise answer["exception"]
