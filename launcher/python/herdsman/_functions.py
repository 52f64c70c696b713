"""What needs no cluster object."""

from __future__ import annotations

import datetime
from typing import Any

from herdsman import _bridge, _settings
from herdsman._types import ClusterInfo
from herdsman.cluster import Cluster


def connect(name: str | None = None, **kwargs: Any) -> Cluster:
    """The cluster of this name, or the only one there is; ``close()`` leaves it running."""
    kwargs.setdefault("create_mode", "connect_only")
    kwargs.setdefault("shutdown_on_close", False)
    return Cluster(name, **kwargs)


def list_clusters(profile: str | None = None) -> list[ClusterInfo]:
    """All clusters of the providers that are in use."""
    request = _bridge.Request(["ls"], dask=_settings.from_dask(), profile=profile)
    return _listed(_bridge.call(request).document)


def _listed(document: Any) -> list[ClusterInfo]:
    rows = (document or {}).get("clusters") or []
    found = []
    for row in rows:
        age = row.get("age_seconds")
        found.append(
            ClusterInfo(
                name=str(row["name"]),
                provider=str(row.get("provider", "")),
                state=str(row.get("state", "")),
                workers=str(row.get("workers", "")),
                age=None if age is None else datetime.timedelta(seconds=float(age)),
                owner=str(row.get("owner", "")),
                hint=row.get("hint"),
            )
        )
    return found


def check(*providers: str, profile: str | None = None) -> dict[str, Any]:
    """Whether providers can be used: credentials, permissions, quota, network. The answer
    is that of ``herdsman check -o json``."""
    request = _bridge.Request(["check", *providers], dask=_settings.from_dask(), profile=profile)
    document: dict[str, Any] = _bridge.call(request).document
    return document
