"""OpenStack: ``OpenStackCluster`` with the keywords of dask-cloudprovider.

>>> from herdsman.openstack import OpenStackCluster                      # doctest: +SKIP
>>> cluster = OpenStackCluster(n_workers=4, size="m1.large")             # doctest: +SKIP
"""

from __future__ import annotations

import shlex
from typing import Any

from herdsman._dropin import DropIn, given
from herdsman._dropin_common import BOOTSTRAP
from herdsman._dropin_plan import Keyword, Plan, Vendor, one, secret, to

__all__ = ["OpenStackCluster"]


def _worker_command(plan: Plan, command: Any) -> None:
    words = shlex.split(command) if isinstance(command, str) else [str(w) for w in command]
    for usual in (["dask", "worker"], ["dask-worker"], ["python", "-m", "distributed.cli.dask_worker"]):
        if words[: len(usual)] == usual:
            rest = words[len(usual) :]
            # An address may follow, which is the cluster's own here.
            options = rest if not rest or rest[0].startswith("-") else rest[1:]
            if options:
                plan.set("workers.options", options)
            return
    if words[:1] == ["dask-cuda-worker"] or words[:2] == ["dask", "cuda"]:
        plan.warn(
            "worker_command",
            f"worker_command={command!r}: workers are Dask's own here; tasks see all of a machine's graphics "
            "processors, and dask_cuda's spilling of their memory is not there",
        )
        return
    raise TypeError(
        f"{plan.name}: worker_command={command!r} cannot be run: herdsman starts `dask worker` with certificates of "
        "its own. Say worker_class for another class, worker_options for its options, env_vars for variables"
    )


def _threads(plan: Plan, threads: Any) -> None:
    plan.set("workers.threads", str(int(threads)))


VENDOR = Vendor(
    name="OpenStackCluster",
    provider="openstack",
    section="openstack",
    keywords=(
        Keyword(
            "region",
            to("place.region"),
            ("place.region",),
            "else as clouds.yaml has it, or the only one",
            usual=("RegionOne",),
        ),
        Keyword(
            "size",
            to("workers.type", "scheduler.type", form=one),
            ("workers.type", "scheduler.type"),
            "a flavor; else the smallest that is large enough",
        ),
        Keyword(
            "image", to("place.image"), ("place.image",), "else the newest Debian or Ubuntu of the cloud"
        ),
        BOOTSTRAP,
        Keyword(
            "worker_threads",
            _threads,
            ("workers.threads",),
            "had no effect before; the old default of 2 is taken for nothing said, which is all of a machine's",
            usual=(2,),
            absent=(2,),
        ),
        Keyword(
            "worker_command",
            _worker_command,
            ("workers.options",),
            "`dask worker …` keeps its options; `dask-cuda-worker` becomes an ordinary worker, with a warning; "
            "another program is an error that says what to use",
        ),
        Keyword(
            "auth_url", to("openstack.auth_url"), ("openstack.auth_url",), "in files only", keyword=False
        ),
        Keyword(
            "application_credential_id",
            to("openstack.application_credential_id"),
            ("openstack.application_credential_id",),
            "in files only",
            keyword=False,
        ),
        Keyword(
            "application_credential_secret",
            secret("OS_APPLICATION_CREDENTIAL_SECRET"),
            ("OS_APPLICATION_CREDENTIAL_SECRET",),
            "in files only; never sent to a machine",
            keyword=False,
        ),
        Keyword(
            "auth_type",
            lambda plan, kind: plan.note("auth_type", f"auth_type={kind!r} has no effect, as before"),
            says="in files only; had no effect before either",
            keyword=False,
            usual=("v3applicationcredential",),
        ),
        Keyword("network_id", to("place.network"), ("place.network",), "in files only", keyword=False),
        Keyword("keypair_name", to("place.ssh_key"), ("place.ssh_key",), "in files only", keyword=False),
        Keyword(
            "security_group",
            to("place.security_groups", form=one),
            ("place.security_groups",),
            "in files only; besides the cluster's own",
            keyword=False,
        ),
        Keyword(
            "external_network_id",
            to("openstack.external_network"),
            ("openstack.external_network",),
            "in files only",
            keyword=False,
        ),
        Keyword(
            "create_floating_ip",
            to("openstack.create_floating_ip", form=bool),
            ("openstack.create_floating_ip",),
            "in files only; `True`: every machine. The scheduler has one where it is not reached otherwise",
            keyword=False,
            usual=(False,),
        ),
    ),
)


class OpenStackCluster(DropIn):
    """A Dask cluster on OpenStack, with the keywords of dask-cloudprovider's class.

    ``help(herdsman.Cluster)`` has more; all of it is taken here as well.
    """

    _vendor = VENDOR

    def __init__(
        self,
        region: str | None = None,
        size: str | None = None,
        image: str | None = None,
        docker_image: str | None = None,
        debug: bool = False,
        bootstrap: bool = True,
        worker_threads: int = 2,
        worker_command: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(given(locals()))
