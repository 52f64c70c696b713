"""Clusters on this computer: no account, no cost."""

from __future__ import annotations

from typing import Any

from herdsman.cluster import Cluster

__all__ = ["LocalCluster", "LocalVMs", "QEMUCluster"]


class LocalCluster(Cluster):
    """Nodes are process trees of this computer, which boot, enrol and end as machines of
    a cloud do. Where the user is root each has a network of its own, with a real packet
    filter."""

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        kwargs["provider"] = "local"
        super().__init__(name, **kwargs)


#: The name that says what they stand for.
LocalVMs = LocalCluster


class QEMUCluster(Cluster):
    """Nodes are virtual machines of this computer."""

    def __init__(self, name: str | None = None, *, image: str | None = None, **kwargs: Any) -> None:
        kwargs["provider"] = "qemu"
        settings = dict(kwargs.pop("settings", None) or {})
        if image is not None:
            settings.setdefault("qemu.image", image)
        super().__init__(name, settings=settings, **kwargs)
