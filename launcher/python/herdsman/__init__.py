"""Dask clusters on cloud machines: secure by default, in a minute.

>>> from herdsman import Cluster
>>> cluster = Cluster("demo", n_workers=4)                               # doctest: +SKIP
>>> client = cluster.get_client()                                        # doctest: +SKIP
"""

from __future__ import annotations

from herdsman import _config as _config
from herdsman._functions import check, connect, list_clusters
from herdsman._types import ClusterInfo, Cost, Event, Finished, Node
from herdsman._version import __version__
from herdsman.cluster import Cluster
from herdsman.exceptions import (
    Cancelled,
    ClusterExists,
    HerdsmanError,
    NotFound,
    PartlyDone,
    PermissionDenied,
    QuotaError,
    StartTimeout,
    Unreachable,
    UsageError,
    VersionMismatch,
)
from herdsman.local import LocalVMs

__all__ = [
    "Cancelled",
    "Cluster",
    "ClusterExists",
    "ClusterInfo",
    "Cost",
    "Event",
    "Finished",
    "HerdsmanError",
    "LocalVMs",
    "Node",
    "NotFound",
    "PartlyDone",
    "PermissionDenied",
    "QuotaError",
    "StartTimeout",
    "Unreachable",
    "UsageError",
    "VersionMismatch",
    "__version__",
    "check",
    "connect",
    "list_clusters",
]
