"""The version, which Cargo decides."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("herdsman")
except PackageNotFoundError:  # used from its sources
    __version__ = "0.0.0"
