"""Amazon Web Services: ``EC2Cluster`` with the keywords of dask-cloudprovider.

>>> from herdsman.aws import EC2Cluster                                  # doctest: +SKIP
>>> cluster = EC2Cluster(n_workers=4, instance_type="m7i.large")         # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from herdsman._dropin import DropIn, given
from herdsman._dropin_common import AUTO_SHUTDOWN, BOOTSTRAP
from herdsman._dropin_plan import Keyword, Plan, Vendor, gibibytes, one, spot, to
from herdsman._gone import gone

__all__ = ["EC2Cluster"]


def _profile(plan: Plan, profile: Any) -> None:
    if isinstance(profile, Mapping):
        found = [profile[k] for k in ("Arn", "arn", "Name", "name") if profile.get(k)]
        if not found:
            raise ValueError('iam_instance_profile is {"Arn": "…"} or {"Name": "…"}')
        profile = found[0]
    plan.set("place.role", str(profile))


def _vpc(plan: Plan, vpc: Any) -> None:
    if vpc != "default":
        plan.set("place.network", str(vpc))


def _zones(plan: Plan, zones: Any) -> None:
    plan.set("place.zones", one(zones))


def _security_groups(plan: Plan, groups: Any) -> None:
    plan.set("place.security_groups", one(groups))


VENDOR = Vendor(
    name="EC2Cluster",
    provider="aws",
    section="ec2",
    exclusive=(("instance_type", ("scheduler_instance_type", "worker_instance_type")),),
    keywords=(
        Keyword("region", to("place.region"), ("place.region",), "else as the AWS tools have it"),
        Keyword(
            "availability_zone",
            _zones,
            ("place.zones",),
            "a list is tried in order, for all machines of a cluster alike",
        ),
        BOOTSTRAP,
        AUTO_SHUTDOWN,
        Keyword("ami", to("place.image"), ("place.image",), "else the newest Debian"),
        Keyword(
            "instance_type",
            to("workers.type", "scheduler.type", form=one),
            ("workers.type", "scheduler.type"),
            "else the cheapest that is large enough, instead of t2.micro with its 1 GiB",
            usual=("t2.micro",),
        ),
        Keyword(
            "scheduler_instance_type",
            to("scheduler.type", form=one),
            ("scheduler.type",),
            usual=("t2.micro",),
        ),
        Keyword("worker_instance_type", to("workers.type", form=one), ("workers.type",), usual=("t2.micro",)),
        Keyword("vpc", _vpc, ("place.network",), "else the default VPC"),
        Keyword(
            "subnet_id", to("place.subnets", form=one), ("place.subnets",), "else all subnets of the VPC"
        ),
        Keyword(
            "security_groups",
            _security_groups,
            ("place.security_groups",),
            "besides the cluster's own, which lets in your address only, and not all of the internet",
            usual=([],),
            absent=([],),
        ),
        Keyword(
            "filesystem_size",
            to("workers.disk", "scheduler.disk", form=gibibytes),
            ("workers.disk", "scheduler.disk"),
            "GiB; encrypted as the account says",
            usual=(40,),
        ),
        Keyword("key_name", to("place.ssh_key"), ("place.ssh_key",)),
        Keyword(
            "iam_instance_profile",
            _profile,
            ("place.role",),
            usual=({},),
            absent=({},),
        ),
        Keyword(
            "instance_tags",
            to("aws.instance_tags", form=dict),
            ("aws.instance_tags",),
            "besides herdsman's own; `createdBy` is not set any more",
            usual=({"createdBy": "dask-cloudprovider"},),
            absent=({},),
        ),
        Keyword(
            "volume_tags",
            to("aws.volume_tags", form=dict),
            ("aws.volume_tags",),
            "likewise",
            usual=({"createdBy": "dask-cloudprovider"},),
            absent=({},),
        ),
        Keyword(
            "use_private_ip",
            to("place.private", form=bool),
            ("place.private",),
            usual=(False,),
        ),
        Keyword(
            "enable_detailed_monitoring",
            to("aws.detailed_monitoring", form=bool),
            ("aws.detailed_monitoring",),
            usual=(False,),
        ),
        Keyword(
            "spot",
            to("workers.spot", form=lambda v: v if isinstance(v, str) else spot(v)),
            ("workers.spot",),
            "`True` is `only`; `prefer` takes ordinary machines where there are no others; those that go are replaced",
            config="",
            absent=(False,),
        ),
    ),
)


class EC2Cluster(DropIn):
    """A Dask cluster on EC2, with the keywords of dask-cloudprovider's class.

    ``help(herdsman.Cluster)`` has more; all of it is taken here as well.
    """

    _vendor = VENDOR

    def __init__(
        self,
        region: str | None = None,
        availability_zone: str | list[str] | None = None,
        bootstrap: bool | None = None,
        auto_shutdown: bool | None = None,
        ami: str | None = None,
        instance_type: str | None = None,
        scheduler_instance_type: str | None = None,
        worker_instance_type: str | None = None,
        vpc: str | None = None,
        subnet_id: str | None = None,
        security_groups: list[str] | None = None,
        filesystem_size: int | None = None,
        key_name: str | None = None,
        iam_instance_profile: dict[str, str] | None = None,
        docker_image: str | None = None,
        debug: bool = False,
        instance_tags: dict[str, str] | None = None,
        volume_tags: dict[str, str] | None = None,
        use_private_ip: bool | None = None,
        enable_detailed_monitoring: bool | None = None,
        spot: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(given(locals()))


def __getattr__(name: str) -> NoReturn:
    gone(
        __name__,
        name,
        {
            "ECSCluster": "machines of EC2 are faster to come than containers: say herdsman.aws.EC2Cluster, with "
            "worker_cpu and worker_memory for the size of a task",
            "FargateCluster": "machines of EC2 are faster to come than containers, and end by themselves as well: say "
            "herdsman.aws.EC2Cluster, with worker_cpu and worker_memory for the size of a task",
        },
    )
