"""Azure: ``AzureVMCluster`` with the keywords of dask-cloudprovider.

>>> from herdsman.azure import AzureVMCluster                            # doctest: +SKIP
>>> cluster = AzureVMCluster(location="westeurope", n_workers=4)         # doctest: +SKIP
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

from distributed.diagnostics.plugin import WorkerPlugin

from herdsman._dropin import DropIn, given
from herdsman._dropin_common import AUTO_SHUTDOWN, BOOTSTRAP
from herdsman._dropin_plan import Keyword, MigrationWarning, Plan, Vendor, gibibytes, one, to
from herdsman._gone import gone

__all__ = ["AzurePreemptibleWorkerPlugin", "AzureVMCluster"]

_OLD_IMAGE = {"publisher": "Canonical", "offer": "UbuntuServer", "sku": "18.04-LTS", "version": "latest"}


def _image(plan: Plan, image: Any) -> None:
    if isinstance(image, str):
        plan.set("place.image", image)
        return
    named = image.get("id") or image.get("shared_gallery_image_id") or image.get("community_gallery_image_id")
    if named:
        plan.set("place.image", str(named))
        return
    # The old package filled in what was left out.
    whole = {**_OLD_IMAGE, **image} if image.get("sku") or image.get("version") else dict(image)
    lacking = [k for k in ("publisher", "offer", "sku") if not whole.get(k)]
    if lacking:
        raise ValueError(f"{plan.name}: vm_image lacks {', '.join(lacking)}; or give it an id")
    words = [str(whole[k]) for k in ("publisher", "offer", "sku")]
    plan.set("place.image", ":".join([*words, str(whole.get("version") or "latest")]))


def _plan_of_marketplace(plan: Plan, offer: Any) -> None:
    lacking = [k for k in ("name", "publisher", "product") if not offer.get(k)]
    if lacking:
        raise ValueError(f"{plan.name}: marketplace_plan lacks {', '.join(lacking)}")
    plan.set("azure.marketplace_plan", {k: str(offer[k]) for k in ("name", "publisher", "product")})


#: Parts of a machine's description that do not stand below its properties.
_ABOVE = {"extendedLocation", "identity", "location", "plan", "tags", "zones"}
#: Acronyms, as the API spells them.
_SPELT = {"diskSizeGb": "diskSizeGB", "enableAutomaticUpdates": "enableAutomaticUpdates"}


def _camel(name: str) -> str:
    plain = re.sub(r"_([a-z0-9])", lambda m: m.group(1).upper(), name)
    return _SPELT.get(plain, plain)


#: Tables whose keys people choose.
_FREE = {"tags", "userAssignedIdentities"}


def _spelt(value: Any, free: bool = False) -> Any:
    """As the API has it, from the names of Azure's package for Python."""
    if isinstance(value, Mapping):
        return {
            (str(k) if free else _camel(str(k))): _spelt(v, not free and _camel(str(k)) in _FREE)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_spelt(v) for v in value]
    return value


def _extra(plan: Plan, options: Any) -> None:
    whole = _spelt(options)
    properties = dict(whole.pop("properties", {}))
    above: dict[str, Any] = {}
    for name, value in whole.items():
        (above if name in _ABOVE else properties)[name] = value
    if properties.pop("priority", None) in {"Spot", "Low"}:
        plan.set("workers.spot", "only")
        plan.warn(
            "extra_vm_options.priority",
            'extra_vm_options: priority Spot is for workers only (spot="only"), and the scheduler stays; '
            'spot="prefer" takes ordinary machines where there are no others',
        )
    policy = properties.pop("evictionPolicy", None)
    if policy not in {None, "Delete"}:
        plan.warn(
            "extra_vm_options.evictionPolicy",
            f"extra_vm_options: eviction_policy {policy!r} is left out: a machine that is taken away is deleted, so "
            "that nothing of it is paid for, and replaced",
        )
    price = (properties.get("billingProfile") or {}).get("maxPrice")
    if price is not None:
        properties.pop("billingProfile")
        if float(price) > 0:
            plan.set("azure.spot_max_price", float(price))
    identity = above.pop("identity", None)
    if identity:
        _identity(plan, identity)
    zones = above.pop("zones", None)
    if zones:
        plan.set("place.zones", one(zones))
    tags = above.pop("tags", None)
    for key, value in (tags or {}).items():
        plan.set(f"tags.{key}", str(value))
    if above.pop("location", None):
        plan.warn("extra_vm_options.location", "extra_vm_options: location is left out: say location=…")
    offer = above.pop("plan", None)
    if offer:
        _plan_of_marketplace(plan, offer)
    hardware = properties.pop("hardwareProfile", None)
    if hardware and hardware.get("vmSize"):
        plan.set("workers.type", one(hardware["vmSize"]))
        plan.set("scheduler.type", one(hardware["vmSize"]))
    if properties:
        above["properties"] = properties
    if above:
        plan.set("azure.extra", above)


def _identity(plan: Plan, identity: Any) -> None:
    named = list(identity.get("userAssignedIdentities") or {})
    if len(named) > 1:
        plan.warn(
            "extra_vm_options.identity",
            f"extra_vm_options: of {len(named)} identities the first is used, as a machine has one here",
        )
    plan.set("place.role", named[0] if named else "system")


VENDOR = Vendor(
    name="AzureVMCluster",
    provider="azure",
    section="azure",
    keywords=(
        Keyword("location", to("place.region"), ("place.region",), "else as `az` has it"),
        Keyword(
            "resource_group",
            to("azure.resource_group"),
            ("azure.resource_group",),
            "not needed any more: one is made, and deleted with the cluster",
        ),
        Keyword(
            "vnet",
            to("place.network"),
            ("place.network",),
            "not needed any more: a network is made. GROUP/NAME names one of another resource group",
            config="azurevm.vnet",
        ),
        Keyword("subnet", to("place.subnets", form=one), ("place.subnets",), config="azurevm.subnet"),
        Keyword(
            "security_group",
            to("place.security_groups", form=one),
            ("place.security_groups",),
            "not needed any more: one is made that lets in your address only. A group of yours has to let you in to "
            "8785 and 8786",
            config="azurevm.security_group",
        ),
        Keyword(
            "public_ingress",
            to("azure.public_ingress", form=bool),
            ("azure.public_ingress",),
            "of the scheduler; workers have no address of their own, as before",
            config="azurevm.public_ingress",
            usual=(True,),
        ),
        Keyword(
            "vm_size",
            to("workers.type", "scheduler.type", form=one),
            ("workers.type", "scheduler.type"),
            "else the cheapest that is large enough",
            config="azurevm.vm_size",
            usual=("Standard_DS1_v2",),
        ),
        Keyword(
            "scheduler_vm_size",
            to("scheduler.type", form=one),
            ("scheduler.type",),
            config="azurevm.scheduler_vm_size",
        ),
        Keyword(
            "vm_image",
            _image,
            ("place.image",),
            'or `{"id": …}` of an image or a gallery; else the newest Debian',
            config="azurevm.vm_image",
            usual=(_OLD_IMAGE,),
            absent=({},),
        ),
        Keyword(
            "disk_size",
            to("workers.disk", "scheduler.disk", form=gibibytes),
            ("workers.disk", "scheduler.disk"),
            "GiB",
            config="azurevm.disk_size",
            usual=(50,),
        ),
        Keyword(
            BOOTSTRAP.name, BOOTSTRAP.put, BOOTSTRAP.to, BOOTSTRAP.says, "azurevm.bootstrap", (True,), (True,)
        ),
        Keyword(
            AUTO_SHUTDOWN.name,
            AUTO_SHUTDOWN.put,
            AUTO_SHUTDOWN.to,
            AUTO_SHUTDOWN.says,
            "azurevm.auto_shutdown",
            (True,),
            (True,),
        ),
        Keyword(
            "marketplace_plan",
            _plan_of_marketplace,
            ("azure.marketplace_plan",),
            config="azurevm.marketplace_plan",
            absent=({},),
        ),
        Keyword(
            "subscription_id",
            to("azure.subscription"),
            ("azure.subscription",),
            "else as `az` has it, without running it",
        ),
        Keyword(
            "extra_vm_options",
            _extra,
            ("azure.extra", "workers.spot", "place.role", "place.zones"),
            "in the spelling of Azure's package or of the API; `priority` is for workers only; what would undo "
            "herdsman's promises is an error",
            config="azurevm.extra_vm_options|azurevm.extra_options",
            usual=({},),
            absent=({},),
        ),
    ),
)


class AzureVMCluster(DropIn):
    """A Dask cluster on Azure, with the keywords of dask-cloudprovider's class.

    ``help(herdsman.Cluster)`` has more; all of it is taken here as well.
    """

    _vendor = VENDOR

    def __init__(
        self,
        location: str | None = None,
        resource_group: str | None = None,
        vnet: str | None = None,
        subnet: str | None = None,
        security_group: str | None = None,
        public_ingress: bool | None = None,
        vm_size: str | None = None,
        scheduler_vm_size: str | None = None,
        vm_image: dict[str, str] | str | None = None,
        disk_size: int | None = None,
        bootstrap: bool | None = None,
        auto_shutdown: bool | None = None,
        docker_image: str | None = None,
        debug: bool = False,
        marketplace_plan: dict[str, str] | None = None,
        subscription_id: str | None = None,
        extra_vm_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(given(locals()))


class AzurePreemptibleWorkerPlugin(WorkerPlugin):
    """Does nothing: the agent of each machine watches for notices of the cloud by itself,
    moves what its worker has computed, and the machine is replaced."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            "AzurePreemptibleWorkerPlugin is not needed: machines of herdsman's watch for such notices by themselves",
            MigrationWarning,
            stacklevel=2,
        )


def __getattr__(name: str) -> NoReturn:
    gone(
        __name__,
        name,
        {"AzureMLCluster": "it left dask-cloudprovider in 2021; say herdsman.azure.AzureVMCluster"},
    )
