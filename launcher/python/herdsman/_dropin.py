"""What the classes of dask-cloudprovider become here.

Each of its classes has a table of keywords (:class:`Keyword`), and a call is turned
into a :class:`Plan`: arguments of :class:`herdsman.Cluster`, settings of
``herdsman.toml``, and sentences about what is not as it was. The tables are also
what the documentation's tables are made of, and what the tests hold against the
signatures of the old package.

What the old package's configuration (``cloudprovider.*``) says goes the same way,
into settings that everything else wins over.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import logging
import re
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import dask.config
from dask.utils import parse_timedelta
from distributed.security import Security

from herdsman._bridge import Request, call
from herdsman._dropin_common import COMMON
from herdsman._dropin_plan import Keyword, MigrationWarning, Plan, Vendor, is_usual
from herdsman._dropin_words import ours
from herdsman._settings import from_dask
from herdsman.cluster import Cluster

logger = logging.getLogger("herdsman.migration")

T = TypeVar("T", bound="DropIn")

# --- from a call to a plan ----------------------------------------------------------------


def find(vendor: Vendor, name: str) -> Keyword | None:
    """The keyword of a name, of this class or of all."""
    return next((k for k in (*vendor.keywords, *COMMON) if k.name == name and k.keyword), None)


def translate(vendor: Vendor, given: Mapping[str, Any]) -> Plan:
    """The plan of a call. What herdsman's own class takes is passed on."""
    plan = Plan(vendor.name)
    plan.arguments["provider"] = vendor.provider
    rest = dict(given)
    _exclude(vendor, rest)
    wishes: list[tuple[Keyword, Any]] = []
    for keyword in (*COMMON, *vendor.keywords):
        if not keyword.keyword or keyword.name not in rest:
            continue
        value = rest.pop(keyword.name)
        # `security=None` was plain TCP.
        if keyword.is_given(value) or (keyword.name == "security" and value is None):
            wishes.append((keyword, value))
    known = ours()
    for name in list(rest):
        if name in known:
            plan.arguments[name] = rest.pop(name)
        else:
            raise TypeError(unknown(vendor, name))
    for keyword, value in wishes:
        keyword.put(plan, value)
    # What the caller says in herdsman's own words wins.
    plan.settings.update(plan.arguments.pop("settings", None) or {})
    options = plan.arguments.get("scheduler_options")
    if "idle_timeout" in plan.arguments or (isinstance(options, Mapping) and options.get("idle_timeout")):
        plan.settings.pop("limits.idle", None)
    return plan


@dataclass(frozen=True)
class Wish:
    """Something that the old configuration says, and that is not its own default."""

    path: str
    keyword: Keyword
    value: Any


def wishes(vendor: Vendor, config: Mapping[str, Any]) -> Iterator[Wish]:
    """What the old package's configuration says. Its own defaults, which are in dask's
    configuration as soon as it was imported, are nobody's wish."""
    found = dask.config.get(vendor.section, {}, config=dict(config)) or {}
    for keyword in (*COMMON, *vendor.keywords):
        where = keyword.name if keyword.config is None else keyword.config
        for path in filter(None, where.split("|")):
            value = dask.config.get(path, None, config=found)
            if keyword.is_given(value) and not is_usual(keyword, value):
                yield Wish(f"cloudprovider.{vendor.section}.{path}", keyword, value)


def from_config(vendor: Vendor, config: Mapping[str, Any]) -> Plan:
    """The plan of what the old package's configuration says."""
    plan = Plan(vendor.name)
    for wish in wishes(vendor, config):
        wish.keyword.put(plan, wish.value)
    return plan


def _exclude(vendor: Vendor, given: Mapping[str, Any]) -> None:
    for general, special in vendor.exclusive:
        both = [name for name in special if given.get(name) is not None]
        if given.get(general) is not None and both:
            raise ValueError(f"If you specify {general}, you may not specify {' or '.join(special)}")


def unknown(vendor: Vendor, name: str) -> str:
    """The sentence about a keyword that nobody knows."""
    text = f"{vendor.name}() got an unexpected keyword argument {name!r}"
    if name in vendor.gone:
        return f"{text}: {vendor.gone[name]}"
    if name in GONE:
        return f"{text}: {GONE[name]}"
    names = [k.name for k in (*vendor.keywords, *COMMON) if k.keyword] + sorted(ours())
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"{text}; did you mean {close[0]!r}?"
    return f"{text}; settings that only {vendor.provider} has go into settings={{'{vendor.provider}.…': …}}"


#: Keywords of former releases, which their documentation still names.
GONE = {
    "worker_module": "say worker_class, with the class's whole name",
    "worker_command": "say worker_class and worker_options",
    "scheduler_timeout": "say idle_timeout",
    "auto_scale": "call adapt(minimum=…, maximum=…)",
    "silence_startup": "say quiet=True",
    "cloud_init": "say extra_bootstrap",
}


# --- saying things once -------------------------------------------------------------------

_said: set[tuple[str, str]] = set()


def _tell(plan: Plan, stacklevel: int) -> None:
    for about, sentence in plan.warnings.items():
        if (plan.name, about) not in _said:
            _said.add((plan.name, about))
            warnings.warn(f"{plan.name}: {sentence}", MigrationWarning, stacklevel=stacklevel + 1)
    for about, sentence in plan.notes.items():
        if (plan.name, about) not in _said:
            _said.add((plan.name, about))
            logger.info("%s: %s", plan.name, sentence)


# --- the classes --------------------------------------------------------------------------


_IMAGE = ("render", "cloud-init", "--role", "image")


class DropIn(Cluster):
    """What the classes of dask-cloudprovider have in common here.

    They take its keywords, and besides everything that :class:`herdsman.Cluster` takes.
    """

    _vendor: ClassVar[Vendor]

    def __init__(self, given: Mapping[str, Any]) -> None:
        plan = translate(self._vendor, given)
        weak = from_config(self._vendor, dask.config.get("cloudprovider", {}) or {})
        own = {name: plan.arguments.pop(name) for name in list(plan.arguments) if name.startswith("_")}
        _look_for_driver(plan, weak)
        rehearsed = dask.config.get("herdsman.drop-in-provider", None)
        if rehearsed and plan.arguments["provider"] == self._vendor.provider:
            # To try a program without its cloud; what only the cloud has is left out.
            plan.arguments["provider"] = str(rehearsed)
            plan.note("provider", f"a cluster of provider {rehearsed}, as herdsman.drop-in-provider says")
        _check_protocol(plan, own.get("_protocol"))
        if own.get("_no_nanny"):
            _without_nanny(plan)
        self._weak: dict[str, Any] = {"workers.count": "0", **weak.settings}
        self._hidden: dict[str, str] = {**weak.secrets, **plan.secrets}
        self._open_until_closed = contextlib.ExitStack()
        self._debug = bool(own.get("_debug"))
        if plan.arguments.get("name") is None and plan.arguments.get("create_mode") is None:
            # Each call makes a cluster of its own, as before.
            plan.arguments["name"] = f"dask-{uuid.uuid4().hex[:8]}"
            plan.arguments["create_mode"] = "create_only"
        if "n_workers" not in plan.arguments:
            logger.info("%s: no workers unless n_workers says so; scale(n) makes some", self._vendor.name)
        _tell(plan, stacklevel=3)
        _tell(weak, stacklevel=3)
        if self._debug:
            plan.arguments.setdefault("quiet", False)
            logging.getLogger("herdsman").setLevel(logging.DEBUG)
        level = own.get("_silence_logs")
        if level:
            for root in ("distributed", "bokeh"):
                self._open_until_closed.enter_context(_quiet(level, root))
        try:
            super().__init__(**plan.arguments, settings=plan.settings)
        except BaseException:
            self._open_until_closed.close()
            raise
        interval = own.get("_sync_interval")
        if interval is not None:
            self._sync_interval = parse_timedelta(interval, default="seconds")

    @classmethod
    def from_name(cls: type[T], name: str, **kwargs: Any) -> T:
        """The cluster of this name, which has to exist. ``close()`` leaves it running."""
        kwargs.setdefault("create_mode", "connect_only")
        kwargs.setdefault("shutdown_on_close", False)
        # Classes below have signatures of their own.
        make = cast("Callable[..., T]", cls)
        return make(name=name, **kwargs)

    def _request(self, argv: Sequence[str], **extra: Any) -> Request:
        request = super()._request(argv, **extra)
        # What belongs together must not be mixed from two sources.
        request.defaults = {**request.defaults, **self._weak}
        request.secrets = {**self._hidden, **request.secrets}
        return request

    async def _begin(self) -> None:
        if self._debug:
            answer = await self._call(_IMAGE)
            print(f"\nCloud init\n==========\n\n{(answer.document or {}).get('user_data', '')}")
        await super()._begin()

    @classmethod
    def get_cloud_init(cls, *args: Any, **kwargs: Any) -> str:
        """User-data that makes an image of a machine, as for Packer: the agent, and lines
        of ``extra_bootstrap``, without any key. Arguments are those of the class."""
        called = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs).arguments
        plan = translate(cls._vendor, given(called))
        weak = from_config(cls._vendor, dask.config.get("cloudprovider", {}) or {})
        request = Request(
            _IMAGE,
            arguments={"provider": cls._vendor.provider, **plan.settings},
            dask=from_dask(),
            defaults=weak.settings,
            profile=plan.arguments.get("profile"),
            file=plan.arguments.get("file"),
        )
        return str(call(request).document["user_data"])

    def render_cloud_init(self, role: str = "worker", **_: Any) -> str:
        """User-data that makes a machine of yours a node of this cluster. It holds a key,
        which is good for one machine, once, and for a short time: keep it as secret as a
        password until then. ``role="image"``: see :meth:`get_cloud_init`."""
        argv = (
            list(_IMAGE)
            if role == "image"
            else ["render", "cloud-init", "--cluster", self.name, "--role", role]
        )
        return str(call(self._request(argv)).document["user_data"])

    async def _finish(self, delete: bool) -> None:
        try:
            await super()._finish(delete)
        finally:
            self._open_until_closed.close()


def given(names: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a call, from ``locals()`` of an ``__init__``."""
    mine = {name: value for name, value in names.items() if name not in {"self", "__class__", "kwargs"}}
    return {**mine, **names.get("kwargs", {})}


def _quiet(level: Any, root: str) -> Any:
    from distributed.utils import silence_logging_cmgr

    return silence_logging_cmgr(level=level, root=root)


#: Machine types with graphics processors: EC2's, Azure's, DigitalOcean's.
_GRAPHICS = re.compile(r"(p|g)\d+[a-z]*\.|.*_N[CDV]|gpu-")


def _look_for_driver(plan: Plan, weak: Plan) -> None:
    """The old package installed a driver of NVIDIA's at each boot, for many minutes."""
    settings = {**weak.settings, **plan.settings}
    types = [t for key in ("workers.type", "scheduler.type") for t in settings.get(key, [])]
    counts = [
        settings.get("workers.gpus", 0),
        settings.get("scheduler.gpus", 0),
        plan.arguments.get("worker_gpu") or 0,
    ]
    has_graphics = any(counts) or any(_GRAPHICS.match(t) for t in types)
    if has_graphics and "place.image" not in settings and not settings.get("extra_bootstrap"):
        plan.warn(
            "driver",
            "the machines have graphics processors, and the usual image has no driver for them: name an image that "
            "has one, or install it by extra_bootstrap (and give more start_timeout)",
        )


def _without_nanny(plan: Plan) -> None:
    options = plan.arguments.get("worker_options") or {}
    if isinstance(options, Mapping):
        plan.arguments["worker_options"] = {**options, "nanny": False}


def _check_protocol(plan: Plan, protocol: str | None) -> None:
    security = plan.arguments.get("security", True)
    is_plain = security is False or (isinstance(security, Security) and not security.require_encryption)
    if protocol is None or protocol == ("tcp" if is_plain else "tls"):
        return
    if protocol not in {"tcp", "tls"}:
        raise ValueError(
            f"{plan.name}: protocol={protocol!r}: Dask speaks TLS between herdsman's machines, "
            "or plain TCP with security=False"
        )
    raise ValueError(f"{plan.name}: protocol={protocol!r} and security={security!r} exclude each other")
