"""Google Cloud: ``GCPCluster`` with the keywords of dask-cloudprovider.

>>> from herdsman.gcp import GCPCluster                                  # doctest: +SKIP
>>> cluster = GCPCluster(n_workers=4, zone="europe-west4-a")             # doctest: +SKIP
"""

from __future__ import annotations

import json
from typing import Any

from herdsman._dropin import DropIn, given
from herdsman._dropin_common import AUTO_SHUTDOWN, BOOTSTRAP
from herdsman._dropin_plan import Keyword, Plan, Vendor, gibibytes, number, one, spot, to

__all__ = ["GCPCluster"]

#: The old package's image, an Ubuntu of 2018 as it was in 2020.
_OLD_IMAGE = "projects/ubuntu-os-cloud/global/images/ubuntu-minimal-1804-bionic-v20201014"


def _network(plan: Plan, network: Any) -> None:
    # It was the name of a subnet, which is that of its network where Google makes it.
    name = str(network).rsplit("/", 1)[-1]
    if name != "default":
        plan.set("place.subnets", [name])


def _public_ingress(plan: Plan, public: Any) -> None:
    plan.set("place.private", not public)


def _key(plan: Plan, key: Any) -> None:
    # Only in the environment of the launcher, which takes what Terraform takes.
    plan.secrets["GOOGLE_CREDENTIALS"] = key if isinstance(key, str) else json.dumps(key)


VENDOR = Vendor(
    name="GCPCluster",
    provider="gcp",
    section="gcp",
    exclusive=(
        ("machine_type", ("scheduler_machine_type", "worker_machine_type")),
        ("ngpus", ("scheduler_ngpus", "worker_ngpus")),
        ("gpu_type", ("scheduler_gpu_type", "worker_gpu_type")),
    ),
    keywords=(
        Keyword(
            "projectid",
            to("gcp.project"),
            ("gcp.project",),
            "else that of your login, as `gcloud` has it",
            usual=("",),
            absent=("",),
        ),
        Keyword(
            "zone",
            to("place.zones", form=one),
            ("place.zones",),
            "a list is tried in order; else as `gcloud` has it, instead of us-east1-c",
            usual=("us-east1-c",),
        ),
        Keyword(
            "network", _network, ("place.subnets",), "the name of a subnet, as it was", usual=("default",)
        ),
        Keyword("network_projectid", to("gcp.network_project"), ("gcp.network_project",)),
        Keyword(
            "machine_type",
            to("workers.type", "scheduler.type", form=one),
            ("workers.type", "scheduler.type"),
            "else the cheapest that is large enough",
            usual=("n1-standard-1",),
        ),
        Keyword(
            "scheduler_machine_type",
            to("scheduler.type", form=one),
            ("scheduler.type",),
            usual=("n1-standard-1",),
        ),
        Keyword(
            "worker_machine_type", to("workers.type", form=one), ("workers.type",), usual=("n1-standard-1",)
        ),
        Keyword(
            "on_host_maintenance",
            to("gcp.on_host_maintenance"),
            ("gcp.on_host_maintenance",),
            usual=("TERMINATE",),
        ),
        Keyword(
            "source_image",
            to("place.image"),
            ("place.image",),
            "else the newest Debian; a family instead of an image stays new",
            usual=(_OLD_IMAGE,),
            absent=(_OLD_IMAGE,),
        ),
        Keyword(
            "ngpus",
            to("workers.gpus", "scheduler.gpus", form=number),
            ("workers.gpus", "scheduler.gpus"),
            usual=("",),
        ),
        Keyword(
            "gpu_type",
            to("workers.gpu_type", "scheduler.gpu_type"),
            ("workers.gpu_type", "scheduler.gpu_type"),
            usual=("",),
            absent=("",),
        ),
        Keyword("scheduler_ngpus", to("scheduler.gpus", form=number), ("scheduler.gpus",), usual=("",)),
        Keyword(
            "scheduler_gpu_type", to("scheduler.gpu_type"), ("scheduler.gpu_type",), usual=("",), absent=("",)
        ),
        Keyword("worker_ngpus", to("workers.gpus", form=number), ("workers.gpus",), usual=("",)),
        Keyword("worker_gpu_type", to("workers.gpu_type"), ("workers.gpu_type",), usual=("",), absent=("",)),
        Keyword(
            "filesystem_size",
            to("workers.disk", "scheduler.disk", form=gibibytes),
            ("workers.disk", "scheduler.disk"),
            "GiB",
            usual=(50,),
        ),
        Keyword(
            "disk_type",
            to("place.disk_type"),
            ("place.disk_type",),
            "else a kind that the machine takes, instead of spinning disks",
            usual=("pd-standard",),
        ),
        AUTO_SHUTDOWN,
        BOOTSTRAP,
        Keyword(
            "preemptible",
            to("workers.spot", form=spot),
            ("workers.spot",),
            '`True` is `spot="only"`; workers that go are replaced',
        ),
        Keyword(
            "instance_labels",
            to("gcp.labels", form=dict),
            ("gcp.labels",),
            "besides herdsman's own; `container_vm` is not set any more",
            usual=({"container_vm": "dask-cloudprovider"},),
            absent=({},),
        ),
        Keyword(
            "service_account",
            to("place.role"),
            ("place.role",),
            "else none: machines may do nothing in the project",
            usual=("default",),
        ),
        Keyword(
            "service_account_credentials",
            _key,
            ("GOOGLE_CREDENTIALS",),
            "only in the launcher's environment; a machine never sees it",
            config="",
            absent=({},),
        ),
        Keyword(
            "instance_scopes",
            to("gcp.scopes", form=one),
            ("gcp.scopes",),
            "in files only",
            keyword=False,
            usual=(
                [
                    "https://www.googleapis.com/auth/devstorage.read_write",
                    "https://www.googleapis.com/auth/logging.write",
                    "https://www.googleapis.com/auth/monitoring.write",
                ],
            ),
        ),
        Keyword(
            "public_ingress",
            _public_ingress,
            ("place.private",),
            "`False` works as a keyword too: no machine has a public address",
            usual=(True,),
        ),
    ),
)


class GCPCluster(DropIn):
    """A Dask cluster on Compute Engine, with the keywords of dask-cloudprovider's class.

    ``help(herdsman.Cluster)`` has more; all of it is taken here as well.
    """

    _vendor = VENDOR

    def __init__(
        self,
        projectid: str | None = None,
        zone: str | list[str] | None = None,
        network: str | None = None,
        network_projectid: str | None = None,
        machine_type: str | None = None,
        scheduler_machine_type: str | None = None,
        worker_machine_type: str | None = None,
        on_host_maintenance: str | None = None,
        source_image: str | None = None,
        docker_image: str | None = None,
        ngpus: int | None = None,
        gpu_type: str | None = None,
        scheduler_ngpus: int | None = None,
        scheduler_gpu_type: str | None = None,
        worker_ngpus: int | None = None,
        worker_gpu_type: str | None = None,
        filesystem_size: int | None = None,
        disk_type: str | None = None,
        auto_shutdown: bool | None = None,
        bootstrap: bool | None = True,
        preemptible: bool | None = None,
        debug: bool = False,
        instance_labels: dict[str, str] | None = None,
        service_account: str | None = None,
        service_account_credentials: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(given(locals()))
