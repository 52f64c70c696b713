"""Names of dask-cloudprovider's that are not carried over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn


def gone(module: str, name: str, names: Mapping[str, str]) -> NoReturn:
    """Raises for a name that a module has not, with what to use where it is known.

    ``from module import name`` makes an ImportError of an AttributeError and loses its
    words, so one that is known raises ImportError by itself.
    """
    if name in names:
        raise ImportError(f"herdsman has no {name}: {names[name]}", name=module)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")
