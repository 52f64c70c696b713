"""``herdsman config migrate``: from ``cloudprovider.*`` in dask's configuration to
``herdsman.toml``.

The classes of dask-cloudprovider read the old configuration here too; a file of
herdsman's own is for those who go on without it. Keys of people, such as a token of
DigitalOcean's, are not written: the sentences say where they belong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.config

from herdsman import aws, azure, digitalocean, gcp, hetzner, openstack
from herdsman._dropin import wishes
from herdsman._dropin_plan import Plan, Vendor
from herdsman.exceptions import ClusterExists, HerdsmanError, NotFound, UsageError

VENDORS: tuple[Vendor, ...] = (
    aws.VENDOR,
    gcp.VENDOR,
    azure.VENDOR,
    digitalocean.VENDOR,
    hetzner.VENDOR,
    openstack.VENDOR,
)

#: Tables of the old configuration that are not carried over, with what they were for.
_OTHERS = {"ecs": "ECSCluster and FargateCluster", "ibm": "IBMCodeEngineCluster", "nebius": "NebiusCluster"}


@dataclass
class Migration:
    """What was found of one cloud, and where it goes."""

    provider: str
    #: The old key and the new ones.
    moved: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    #: Variables to export, with the old key whose value they get.
    secrets: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def migrate(vendor: Vendor, config: Mapping[str, Any]) -> Migration:
    """What the old configuration says of a cloud, in settings of herdsman's."""
    done = Migration(vendor.provider)
    for wish in wishes(vendor, config):
        plan = Plan(vendor.name)
        try:
            wish.keyword.put(plan, wish.value)
        except (TypeError, ValueError) as e:
            done.remarks.append(f"{wish.path}: {e}")
            continue
        done.moved[wish.path] = list(plan.settings)
        done.settings.update(plan.settings)
        done.secrets.update(dict.fromkeys(plan.secrets, wish.path))
        done.remarks += [f"{wish.path}: {s}" for s in (*plan.warnings.values(), *plan.notes.values())]
    return done


def found(config: Mapping[str, Any]) -> list[Migration]:
    """All clouds of which the old configuration says something."""
    each = [migrate(vendor, config) for vendor in VENDORS]
    return [m for m in each if m.moved or m.remarks]


# --- the file -----------------------------------------------------------------------------


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(str(k))} = {_value(v)}" for k, v in value.items() if v is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    # A string of JSON is one of TOML.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "a").replace("_", "a").isalnum()
    return name if bare else json.dumps(name)


def toml(migration: Migration) -> str:
    """The text of ``herdsman.toml``."""
    origin: dict[str, str] = {}
    for old, new in migration.moved.items():
        origin.update(dict.fromkeys(new, old))
    tables: dict[str, list[str]] = {}
    for key, value in migration.settings.items():
        table, _, name = key.partition(".")
        if not name:
            table, name = "", key
        elif not name.startswith('"'):
            name = _key(name)
        tables.setdefault(table, []).append(f"{name} = {_value(value)}    # {origin[key]}")
    lines = ["# Made by `herdsman config migrate` from dask's configuration.", "version = 1"]
    lines += [f"provider = {_value(migration.provider)}", *tables.pop("", [])]
    for table, entries in tables.items():
        head = "[[workers]]" if table == "workers" else f"[{_key(table)}]"
        lines += ["", head, *entries]
    return "\n".join(lines) + "\n"


# --- the command --------------------------------------------------------------------------


def _choose(all_of_them: list[Migration], provider: str | None) -> Migration:
    if provider is not None:
        for one in all_of_them:
            if one.provider == provider:
                return one
        raise NotFound(
            "E-NOT-FOUND", f"dask's configuration says nothing of cloudprovider for {provider}", exit_code=3
        )
    if not all_of_them:
        places = ", ".join(str(p) for p in dask.config.paths)
        raise NotFound(
            "E-NOT-FOUND",
            "dask's configuration says nothing under cloudprovider that is not dask-cloudprovider's own default",
            cause=[f"looked at: {places}, and DASK_CLOUDPROVIDER__…"],
            exit_code=3,
        )
    if len(all_of_them) > 1:
        names = [m.provider for m in all_of_them]
        raise UsageError(
            "E-USAGE",
            f"dask's configuration has settings for {', '.join(names)}; a file is for one of them",
            try_=[f"herdsman config migrate --provider {names[0]}"],
            exit_code=2,
        )
    return all_of_them[0]


def _write(path: Path, text: str, force: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        descriptor = os.open(path, flags, 0o644)
    except FileExistsError:
        raise ClusterExists(
            "E-CONFLICT",
            f"{path} is there already",
            try_=["herdsman config migrate --print", "herdsman config migrate --force     replaces it"],
            exit_code=8,
        ) from None
    except OSError as e:
        raise HerdsmanError("E-DISK", f"{path} cannot be written: {e.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _run(args: argparse.Namespace) -> None:
    config = dask.config.get("cloudprovider", {}) or {}
    chosen = _choose(found(config), args.provider)
    text = toml(chosen)
    if not args.print:
        _write(args.to, text, args.force)
    if args.json:
        document = {
            "provider": chosen.provider,
            "file": None if args.print else str(args.to),
            "moved": chosen.moved,
            "settings": chosen.settings,
            "export": chosen.secrets,
            "remarks": chosen.remarks,
        }
        print(json.dumps(document, indent=2))
        return
    if args.print:
        print(text, end="")
    say = sys.stderr
    for old, new in chosen.moved.items():
        if new:
            print(f"{old} → {', '.join(new)}", file=say)
    for variable, old in chosen.secrets.items():
        print(f"{old} is not written to a file: export {variable}=…", file=say)
    for remark in chosen.remarks:
        print(remark, file=say)
    for section, name in _OTHERS.items():
        if config.get(section) and "dask_cloudprovider" not in sys.modules:
            print(f"cloudprovider.{section} is left out: herdsman has no {name}", file=say)
    if not args.print:
        print(f"wrote {args.to}", file=say)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Gives its exit code."""
    parser = argparse.ArgumentParser(prog="herdsman config migrate", description=__doc__)
    parser.add_argument("--provider", help="which cloud, where there are settings of several")
    parser.add_argument("--to", type=Path, default=Path("herdsman.toml"), help="the file to write")
    parser.add_argument("--print", action="store_true", help="print it instead")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--json", action="store_true", help="say what was done as JSON")
    args = parser.parse_args(argv)
    try:
        _run(args)
    except HerdsmanError as e:
        if args.json:
            error = {"code": e.code, "message": e.message, "cause": e.cause, "try": e.try_}
            print(json.dumps({"error": error}))
        else:
            print(f"error{e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
