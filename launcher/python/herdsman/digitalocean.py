"""DigitalOcean: ``DropletCluster`` with the keywords of dask-cloudprovider.

>>> from herdsman.digitalocean import DropletCluster                     # doctest: +SKIP
>>> cluster = DropletCluster(n_workers=4, region="fra1")                 # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from herdsman._dropin import DropIn, given
from herdsman._dropin_plan import Keyword, Vendor, one, secret, to

__all__ = ["DropletCluster"]

VENDOR = Vendor(
    name="DropletCluster",
    provider="digitalocean",
    section="digitalocean",
    keywords=(
        Keyword("region", to("place.region"), ("place.region",), "else nyc3, as it was", usual=("nyc3",)),
        Keyword(
            "size",
            to("workers.type", "scheduler.type", form=one),
            ("workers.type", "scheduler.type"),
            "else the cheapest that is large enough, instead of s-1vcpu-1gb",
            usual=("s-1vcpu-1gb",),
        ),
        Keyword(
            "image",
            to("place.image"),
            ("place.image",),
            "else the newest Debian",
            usual=("ubuntu-20-04-x64",),
        ),
        Keyword(
            "token",
            secret("DIGITALOCEAN_TOKEN"),
            ("DIGITALOCEAN_TOKEN",),
            "in files only; never sent to a machine",
            keyword=False,
        ),
    ),
)


class DropletCluster(DropIn):
    """A Dask cluster on DigitalOcean, with the keywords of dask-cloudprovider's class.

    ``help(herdsman.Cluster)`` has more; all of it is taken here as well.
    """

    _vendor = VENDOR

    def __init__(
        self,
        region: str | None = None,
        size: str | None = None,
        image: str | None = None,
        debug: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(given(locals()))
