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
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import dask.config
from dask.utils import parse_timedelta
from distributed.security import Security

from herdsman._bridge import Request, call
from herdsman._dropin_words import bootstrap_lines, docker_words, ours, scheduler_words, worker_words
from herdsman._settings import from_dask
from herdsman.cluster import Cluster

logger = logging.getLogger("herdsman.migration")

T = TypeVar("T", bound="DropIn")


class MigrationWarning(UserWarning):
    """Something of dask-cloudprovider's that is different here. Said once."""


@dataclass
class Plan:
    """What a call means in herdsman's words."""

    #: The class that was called, for sentences.
    name: str
    #: Arguments of :class:`herdsman.Cluster`.
    arguments: dict[str, Any] = field(default_factory=dict)
    #: Dotted keys of ``herdsman.toml``.
    settings: dict[str, Any] = field(default_factory=dict)
    #: Variables for the launcher alone, such as a cloud's token.
    secrets: dict[str, str] = field(default_factory=dict)
    #: What is to be said, by what it is about.
    warnings: dict[str, str] = field(default_factory=dict)
    #: The same, but nothing to worry about.
    notes: dict[str, str] = field(default_factory=dict)

    def set(self, key: str, value: Any) -> None:
        """A setting of the launcher's."""
        self.settings[key] = value

    def warn(self, about: str, sentence: str) -> None:
        """Says what is different."""
        self.warnings[about] = sentence

    def note(self, about: str, sentence: str) -> None:
        """Says it in the log only."""
        self.notes[about] = sentence


Put = Callable[[Plan, Any], None]


@dataclass(frozen=True)
class Keyword:
    """A keyword of the old package, and what becomes of it."""

    name: str
    #: Puts a value where it belongs. It is not called for what was not given.
    put: Put
    #: Where values end: settings (with a dot) and arguments of :class:`herdsman.Cluster`.
    to: tuple[str, ...] = ()
    #: For people: what is different. Needed where ``to`` is empty.
    says: str = ""
    #: The key in the old configuration, if it is not the name; empty: it has none.
    config: str | None = None
    #: The old configuration's own defaults, which are nobody's wish.
    usual: tuple[Any, ...] = ()
    #: What the old signature has where nothing is given, besides ``None``.
    absent: tuple[Any, ...] = ()
    #: Whether it is one of the old package's keywords, and not only in its files.
    keyword: bool = True

    def is_given(self, value: Any) -> bool:
        """Whether a value is somebody's wish."""
        return value is not None and not any(_same(value, a) for a in self.absent)


def _same(a: Any, b: Any) -> bool:
    # 0 and False are equal to Python, and are two wishes.
    return type(a) is type(b) and bool(a == b)


@dataclass(frozen=True)
class Vendor:
    """One of the old classes."""

    #: Its name, and the provider of the launcher's.
    name: str
    provider: str
    #: Its table in the old configuration, and tables besides.
    section: str
    keywords: tuple[Keyword, ...]
    #: Pairs of a keyword for all machines and those for each kind, of which only one
    #: may be given.
    exclusive: tuple[tuple[str, tuple[str, ...]], ...] = ()
    #: Keywords that the old documentation still names, with what to use.
    gone: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Keyword | None:
        """The keyword of a name, of this class or of all."""
        return next((k for k in (*self.keywords, *COMMON) if k.name == name and k.keyword), None)


# --- forms of values ----------------------------------------------------------------------


def to(*keys: str, form: Callable[[Any], Any] = lambda v: v) -> Put:
    """Sets each of these keys."""

    def put(plan: Plan, value: Any) -> None:
        for key in keys:
            plan.set(key, form(value))

    return put


def argument(name: str, form: Callable[[Any], Any] = lambda v: v) -> Put:
    """An argument of :class:`herdsman.Cluster`."""

    def put(plan: Plan, value: Any) -> None:
        plan.arguments[name] = form(value)

    return put


def secret(variable: str) -> Put:
    """A variable that only the launcher sees."""

    def put(plan: Plan, value: Any) -> None:
        plan.secrets[variable] = str(value)

    return put


def gibibytes(value: Any) -> str:
    """What clouds call a gigabyte of disk."""
    return f"{int(value)}GiB"


def one(value: Any) -> list[str]:
    """A list of one, or the list."""
    return [value] if isinstance(value, str) else [str(v) for v in value]


def number(value: Any) -> int:
    """A number; the old package's empty text is 0."""
    return int(value or 0)


def spot(value: Any) -> str:
    """The old package asks for such machines or for ordinary ones, never for both."""
    return "only" if value else "never"


def nothing(_plan: Plan, _value: Any) -> None:
    """For what needs nothing here."""


# --- what all classes have ----------------------------------------------------------------


def _docker_image(plan: Plan, image: Any) -> None:
    if not image:
        return
    name = str(image)
    if name.split("@")[0].rsplit(":", 1)[0] in _DASK_IMAGES:
        plan.note("docker_image", f"{name} is not run: workers get a copy of this Python environment, without Docker")
        return
    plan.warn(
        "docker_image",
        f"docker_image={name!r} is not run: workers get a copy of this Python environment, without Docker. "
        "What only the image has - programs, libraries of the system, packages that are not installed here - "
        "is missing there: install packages here, name programs in extra_bootstrap=[…], or bake an image of the "
        'cloud\'s and pass env="image"',
    )


_DASK_IMAGES = {"daskdev/dask", "ghcr.io/dask/dask", "docker.io/daskdev/dask", "index.docker.io/daskdev/dask"}


def _docker_args(plan: Plan, args: Any) -> None:
    words = docker_words(args)
    if words.variables:
        plan.arguments["env_vars"] = {**words.variables, **(plan.arguments.get("env_vars") or {})}
    if words.rest:
        plan.warn(
            "docker_args",
            f"docker_args: {' '.join(words.rest)} is left out, as no container is run; variables (-e) are set",
        )


def _env_vars(plan: Plan, variables: Any) -> None:
    rest = dict(variables)
    apt = rest.pop("EXTRA_APT_PACKAGES", None)
    if apt:
        lines = plan.settings.setdefault("extra_bootstrap", [])
        lines += bootstrap_lines(str(apt).split())
    for name in ("EXTRA_PIP_PACKAGES", "EXTRA_CONDA_PACKAGES"):
        packages = rest.pop(name, None)
        if packages:
            plan.warn(
                name,
                f"{name}={packages!r} was for the image daskdev/dask: install these packages here, "
                "and workers get the same versions",
            )
    if rest:
        plan.arguments["env_vars"] = {**(plan.arguments.get("env_vars") or {}), **rest}


def _extra_bootstrap(plan: Plan, lines: Any) -> None:
    wanted = one(lines)
    if any(line.split()[:1] == ["docker"] or "docker " in line for line in wanted):
        plan.warn(
            "extra_bootstrap",
            "extra_bootstrap: machines have no Docker unless their image or a line before installs it; "
            "lines that only log in to a registry or pull an image can go",
        )
    plan.set("extra_bootstrap", wanted + plan.settings.get("extra_bootstrap", []))


def _bootstrap(plan: Plan, wanted: Any) -> None:
    if not wanted:
        plan.note(
            "bootstrap",
            "bootstrap=False: a machine never installs Docker here; it takes the agent of its image where the "
            "image has the right one, and downloads it otherwise",
        )


def _auto_shutdown(plan: Plan, wanted: Any) -> None:
    if wanted:
        return
    # An idle_timeout of the caller's own says more.
    plan.settings.setdefault("limits.idle", "off")
    plan.warn(
        "auto_shutdown",
        "auto_shutdown=False: the cluster does not end when it is idle, but still at the end of its life "
        "(max_lifetime, 12 hours unless said otherwise), so that nothing is paid for for ever",
    )


def _security(plan: Plan, value: Any) -> None:
    if value is True:
        return
    if not value:
        plan.arguments["security"] = False
        plan.warn(
            "security",
            "security=False: Dask's own traffic is readable and open to everybody in allow=… and in the machines' "
            "network. Nothing gets faster or easier by it here: certificates are made and renewed by themselves, "
            "and user-data stays small",
        )
        return
    if not isinstance(value, Security):
        raise TypeError("security is True, False or a distributed.Security")
    plan.arguments["security"] = value


def _protocol(plan: Plan, protocol: Any) -> None:
    plan.arguments["_protocol"] = str(protocol).removesuffix("://")


def _debug(plan: Plan, debug: Any) -> None:
    if debug:
        plan.arguments["_debug"] = True


def _worker_class(plan: Plan, name: Any) -> None:
    text = name if isinstance(name, str) else f"{name.__module__}.{name.__qualname__}"
    if text.rsplit(".", 1)[-1] == "CUDAWorker":
        plan.warn(
            "worker_class",
            f"worker_class={text!r}: workers are Dask's own here, one for each machine unless workers_per_node says "
            "otherwise. Tasks see all of a machine's graphics processors; dask_cuda's spilling of their memory and its "
            "one process for each of them are not there",
        )
    elif text in _NANNIES:
        return
    elif text in _BARE:
        plan.arguments["_no_nanny"] = True
    else:
        plan.arguments["worker_class"] = text


_NANNIES = {"dask.distributed.Nanny", "distributed.Nanny", "distributed.nanny.Nanny"}
_BARE = {"dask.distributed.Worker", "distributed.Worker", "distributed.worker.Worker"}


def _worker_options(plan: Plan, options: Any) -> None:
    words = worker_words(options)
    plan.warnings.update(words.warnings)
    plan.settings.update(words.settings)
    if words.options:
        plan.arguments["worker_options"] = words.options


def _scheduler_options(plan: Plan, options: Any) -> None:
    words = scheduler_words(options)
    plan.warnings.update(words.warnings)
    if words.options:
        plan.arguments["scheduler_options"] = words.options


def _spec(name: str) -> Put:
    def put(plan: Plan, value: Any) -> None:
        if name == "workers" and isinstance(value, Sequence) and not isinstance(value, str):
            plan.arguments["workers"] = value
        else:
            raise TypeError(
                f"{plan.name}({name}=…) described processes of SpecCluster's, and machines make their own here; "
                "say n_workers, worker_class, worker_options and scheduler_options"
            )

    return put


def _shutdown_scheduler(plan: Plan, wanted: Any) -> None:
    if wanted:
        return
    plan.arguments.setdefault("shutdown_on_close", False)
    plan.warn(
        "shutdown_scheduler",
        "shutdown_scheduler=False: close() leaves the whole cluster as it is (shutdown_on_close=False), which then "
        "ends by its own limits; scale(0) before it deletes the workers",
    )


_SAME = "as it was"

#: Keywords of ``VMCluster`` and of Dask's ``SpecCluster``, which all classes take.
COMMON: tuple[Keyword, ...] = (
    Keyword("n_workers", argument("n_workers"), ("n_workers",), "0 unless given, or (least, most) to follow the work"),
    Keyword(
        "worker_class",
        _worker_class,
        ("worker_class",),
        "a class that runs under Dask's nanny; `CUDAWorker` becomes an ordinary worker, with a warning",
    ),
    Keyword(
        "worker_options",
        _worker_options,
        ("worker_options", "workers.threads", "workers.memory", "workers.resources"),
        "names, ports and protocols are herdsman's own, and are left out with a warning",
        absent=({},),
    ),
    Keyword(
        "scheduler_options",
        _scheduler_options,
        ("scheduler_options", "limits.idle"),
        "`idle_timeout` is the cluster's: its machines are deleted then; ports, addresses and `jupyter` are left out "
        "with a warning",
        absent=({},),
    ),
    Keyword(
        "docker_image",
        _docker_image,
        says="no container is run: workers get a copy of this Python environment; a warning says so for images that "
        "are not Dask's own",
        config="docker_image|azurevm.docker_image",
        usual=("daskdev/dask:latest",),
    ),
    Keyword(
        "extra_bootstrap",
        _extra_bootstrap,
        ("extra_bootstrap",),
        "shell lines, run as root before the agent starts, and quoted as they should be",
        absent=([],),
    ),
    Keyword(
        "env_vars",
        _env_vars,
        ("env_vars", "extra_bootstrap"),
        "sent over mTLS, never in user-data; `EXTRA_APT_PACKAGES` are installed, `EXTRA_PIP_PACKAGES` and "
        "`EXTRA_CONDA_PACKAGES` are to be installed here, with a warning",
        absent=({},),
        config="",
    ),
    Keyword(
        "docker_args",
        _docker_args,
        ("env_vars",),
        "variables (`-e`) are set; the rest is left out with a warning, as no container is run",
        absent=("",),
        config="",
    ),
    Keyword(
        "security",
        _security,
        ("security",),
        "`True`: a certificate of its own for each machine and for you; a `Security` of yours is used as it is; "
        "`False` works, with a warning",
        config="",
    ),
    Keyword(
        "protocol",
        _protocol,
        ("security",),
        "`tls` and `tcp` follow from `security`; others are an error",
        config="",
    ),
    Keyword("debug", _debug, ("debug",), "says more, and prints the first boot's script without any key", config=""),
    Keyword("asynchronous", argument("asynchronous"), ("asynchronous",), _SAME, config=""),
    Keyword("loop", argument("loop"), ("loop",), _SAME, config=""),
    Keyword("silence_logs", argument("_silence_logs"), ("silence_logs",), _SAME, absent=(False,), config=""),
    Keyword(
        "name",
        argument("name"),
        ("name",),
        "the cluster's handle from everywhere (`herdsman ls`); a cluster that has it is connected to. Without a name "
        "each call makes a cluster of its own",
        config="",
    ),
    Keyword("shutdown_on_close", argument("shutdown_on_close"), ("shutdown_on_close",), _SAME, config=""),
    Keyword(
        "scheduler_sync_interval",
        argument("_sync_interval"),
        ("scheduler_sync_interval",),
        _SAME,
        config="",
    ),
    Keyword(
        "shutdown_scheduler",
        _shutdown_scheduler,
        ("shutdown_on_close",),
        "`False` is `shutdown_on_close=False`, with a warning",
        absent=(True,),
        config="",
    ),
    Keyword("workers", _spec("workers"), says="a table of processes was possible before; an error says what to use", config=""),
    Keyword("scheduler", _spec("scheduler"), says="likewise", config=""),
    Keyword("worker", _spec("worker"), says="likewise", config=""),
)

BOOTSTRAP = Keyword(
    "bootstrap",
    _bootstrap,
    says="nothing has to be installed for Docker; an image that has the agent already is used as it is",
    usual=(True,),
    absent=(True,),
)
AUTO_SHUTDOWN = Keyword(
    "auto_shutdown",
    _auto_shutdown,
    ("limits.idle",),
    "machines are deleted, not only shut down; `False`: not when idle, but at the end of the cluster's life",
    usual=(True,),
    absent=(True,),
)


# --- from a call to a plan ----------------------------------------------------------------


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
            if keyword.is_given(value) and not any(_same(value, u) for u in keyword.usual):
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
        return cls(name=name, **kwargs)

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
        argv = list(_IMAGE) if role == "image" else ["render", "cloud-init", "--cluster", self.name, "--role", role]
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
    counts = [settings.get("workers.gpus", 0), settings.get("scheduler.gpus", 0), plan.arguments.get("worker_gpu") or 0]
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
