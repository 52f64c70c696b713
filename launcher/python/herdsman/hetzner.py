"""Hetzner: ``HetznerCluster`` with the keywords of dask-cloudprovider.

>>> from herdsman.hetzner import HetznerCluster                          # doctest: +SKIP
>>> cluster = HetznerCluster(n_workers=4, location="nbg1")               # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from herdsman._dropin import DropIn, given
from herdsman._dropin_common import BOOTSTRAP
from herdsman._dropin_plan import Keyword, Plan, Vendor, one, secret, to

__all__ = ["HetznerCluster"]

#: Types that are no more, and what is nearest to them today.
_WITHDRAWN = {
    "cx11": "cx23",
    "cx21": "cx23",
    "cx31": "cx33",
    "cx41": "cx43",
    "cx51": "cx53",
}


def _server_type(plan: Plan, name: Any) -> None:
    nearest = _WITHDRAWN.get(str(name).lower())
    if nearest is not None:
        raise ValueError(
            f"{plan.name}: Hetzner has withdrawn server_type {name!r}; the nearest today is {nearest!r}, and "
            "`herdsman sizes --provider hetzner` shows all"
        )
    plan.set("workers.type", one(name))
    plan.set("scheduler.type", one(name))


VENDOR = Vendor(
    name="HetznerCluster",
    provider="hetzner",
    section="hetzner",
    keywords=(
        BOOTSTRAP,
        Keyword(
            "image", to("place.image"), ("place.image",), "else the newest Debian", usual=("ubuntu-20.04",)
        ),
        Keyword(
            "location",
            to("place.region"),
            ("place.region",),
            "now also sent to the API; else fsn1",
            usual=("fsn1",),
        ),
        Keyword(
            "server_type",
            _server_type,
            ("workers.type", "scheduler.type"),
            "else the cheapest that is large enough; withdrawn ones, such as the old default cx11, are an error that "
            "names the nearest",
            usual=("cx11",),
        ),
        Keyword(
            "token",
            secret("HCLOUD_TOKEN"),
            ("HCLOUD_TOKEN",),
            "in files only; never sent to a machine",
            keyword=False,
        ),
    ),
)


class HetznerCluster(DropIn):
    """A Dask cluster on Hetzner's cloud, with the keywords of dask-cloudprovider's class.

    ``help(herdsman.Cluster)`` has more; all of it is taken here as well.
    """

    _vendor = VENDOR

    def __init__(
        self,
        bootstrap: bool | None = None,
        image: str | None = None,
        location: str | None = None,
        server_type: str | None = None,
        docker_image: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(given(locals()))
