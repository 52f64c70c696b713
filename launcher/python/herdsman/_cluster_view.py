"""What a cluster object shows: nodes, events, logs, cost, the widget."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from distributed.core import Status
from distributed.utils import Log, Logs

from herdsman import _bridge
from herdsman._cluster_base import ClusterBase, Time
from herdsman._helpers import escape, span
from herdsman._types import Cost, Event
from herdsman.exceptions import HerdsmanError


class View(ClusterBase):
    """The part of a cluster object that is looked at."""

    _cached_widget: Any

    async def _extend(self, lifetime: Time = "") -> None:
        raise NotImplementedError

    def events(self) -> list[Event]:
        """What happened at the cluster, the oldest first."""
        return list(self._event_log)

    @property
    def dashboard_link(self) -> str:
        """Dask's dashboard on this computer, through a tunnel. Whoever has the link may
        look at it."""
        if self.status in {Status.closing, Status.closed}:
            return ""
        return str(self._opened.get("dashboard") or "")

    def cost(self) -> Any:
        """What the cluster costs, by list prices."""
        return self.sync(self._get_cost)

    async def _get_cost(self) -> Cost:
        answer = await self._call(["cost", self.name])
        rows = (answer.document or {}).get("clusters") or [{}]
        row = rows[0]
        price = row.get("price") or {}
        self._cost = Cost(price.get("per_hour"), row.get("so_far"), price.get("currency"))
        self._cost_at = time.monotonic()
        self._cost_nodes = len(self._fleet.requested)
        return self._cost

    def _refresh_cost(self) -> None:
        """Behind the scenes, for what is shown."""
        if self._cost_task is not None and not self._cost_task.done():
            return
        if self._cost is not None and time.monotonic() - self._cost_at < 30:
            return

        async def refresh() -> None:
            with contextlib.suppress(HerdsmanError):
                await self._get_cost()

        self._cost_task = asyncio.ensure_future(refresh())

    def _ending(self) -> str:
        """When it ends by itself, in words."""
        ending = self._status_message.get("ending") or {}
        if ending.get("ending"):
            return f"ending: {ending['ending']}"
        now = float(self._status_message.get("now") or 0) + (time.monotonic() - self._status_at) * 1000
        ends = [t for t in (ending.get("idle_ends"), ending.get("lifetime_ends")) if t]
        if not ends or not self._status_message:
            return ""
        return f"stops in {span((min(ends) - now) / 1000)}"

    def _money(self) -> str:
        """``0.66 USD/h · 0.13 so far · stops in 17 min``."""
        parts = []
        if self._cost is not None and self._cost.per_hour:
            hours = (time.monotonic() - self._cost_at) / 3600
            so_far = (self._cost.so_far or 0) + hours * self._cost.per_hour
            parts.append(f"{self._cost.per_hour:.2f} {self._cost.currency}/h · {so_far:.2f} so far")
        ending = self._ending()
        if ending:
            parts.append(ending)
        return " · ".join(parts)

    def _repr_html_(self, cluster_status: Any = None) -> str:
        money = self._money()
        if money:
            row = (
                '<tr><td style="text-align: left;" colspan="2">'
                f"<strong>Cost:</strong> {escape(money)}</td></tr>"
            )
            cluster_status = row if cluster_status is None else f"{cluster_status}{row}"
        return str(super()._repr_html_(cluster_status=cluster_status))

    def _scaling_status(self) -> str:
        text = str(super()._scaling_status())
        workers = len(self.observed)
        wanted = len(self.plan)
        count = str(workers) if workers == wanted else f"{workers} / {wanted}"
        mode = "Adaptive" if self._adaptive and self._adaptive.periodic_callback else "Manual"
        return (
            f'<table><tr><td style="text-align: left;">Scaling mode: {mode}</td></tr>'
            f'<tr><td style="text-align: left;">Workers: {count}</td></tr></table>'
            if text
            else text
        )

    def _widget(self) -> Any:
        try:
            return self._cached_widget
        except AttributeError:
            pass
        tab = super()._widget()
        if tab is None:
            return None
        from ipywidgets import Button, VBox

        status, scaling = tab.children
        extend = Button(description="Extend 1 h", tooltip="Put off the time when the cluster ends by itself")

        def clicked(_: Any) -> None:
            loop = self.loop
            if loop is not None:
                loop.add_callback(self._extend, "1 hour")

        extend.on_click(clicked)
        tab.children = [VBox([status, extend]), scaling]
        return tab

    async def _get_logs(
        self, cluster: Any = True, scheduler: Any = True, workers: Any = True, boot: bool = False
    ) -> Logs:
        try:
            logs = await super()._get_logs(cluster=cluster, scheduler=scheduler, workers=workers)
        except (OSError, asyncio.TimeoutError):
            # The scheduler does not answer; its node may.
            logs = Logs()
            if cluster:
                logs["Cluster"] = Log("\n".join(line[1] for line in self._cluster_manager_logs))
            for node, text in (await self._node_logs([])).items():
                logs[node] = text
        if boot:
            for node, text in (await self._node_logs(["--boot"])).items():
                logs[f"{node} boot"] = text
        return logs

    async def _node_logs(self, flags: Sequence[str]) -> dict[str, Log]:
        lines: dict[str, list[str]] = {}

        def told(line: dict[str, Any]) -> None:
            if "text" in line:
                lines.setdefault(str(line.get("node")), []).append(str(line["text"]))

        child = _bridge.Child(self._request(["logs", self.name, "--tail", "0", *flags]), on_line=told)
        try:
            await asyncio.wait_for(asyncio.shield(_bridge._in_thread(child.wait)), 60)
            child.result()
        except asyncio.TimeoutError:
            child.interrupt()
        return {node: Log("\n".join(text)) for node, text in lines.items()}

    def get_logs(  # type: ignore[override]
        self, cluster: Any = True, scheduler: Any = True, workers: Any = True, boot: bool = False
    ) -> Any:
        """Logs of this object, of the scheduler and of the workers; ``boot``: also what
        the machines say on their consoles. Nodes can be asked when Dask is dead."""
        return self.sync(self._get_logs, cluster=cluster, scheduler=scheduler, workers=workers, boot=boot)
