"""Our part of dask.config. Nothing in it is a wish: what stands there is shown for the
sake of those who look for keys, and would win over ``herdsman.toml``."""

from __future__ import annotations

from pathlib import Path

import dask.config

# Its defaults first: they would take ours for older ones of its own.
import distributed  # noqa: F401
import yaml

_FILE = Path(__file__).with_name("herdsman.yaml")

with _FILE.open() as _file:
    dask.config.update_defaults(yaml.safe_load(_file))
