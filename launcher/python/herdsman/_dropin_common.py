"""Keywords that all classes of dask-cloudprovider take: those of its ``VMCluster`` and of
Dask's ``SpecCluster``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distributed.security import Security

from herdsman._dropin_plan import Keyword, Plan, Put, argument, one
from herdsman._dropin_words import bootstrap_lines, docker_words, scheduler_words, worker_words


def _docker_image(plan: Plan, image: Any) -> None:
    if not image:
        return
    name = str(image)
    if name.split("@")[0].rsplit(":", 1)[0] in _DASK_IMAGES:
        plan.note(
            "docker_image",
            f"{name} is not run: workers get a copy of this Python environment, without Docker",
        )
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
    Keyword(
        "n_workers",
        argument("n_workers"),
        ("n_workers",),
        "0 unless given, or (least, most) to follow the work",
    ),
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
    Keyword(
        "debug",
        _debug,
        ("debug",),
        "says more, and prints the first boot's script without any key",
        config="",
    ),
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
    Keyword(
        "workers",
        _spec("workers"),
        says="a table of processes was possible before; an error says what to use",
        config="",
    ),
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
