"""Where the launcher is: named, beside this Python, or on the path."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path

from herdsman.exceptions import NotFound

#: Names the launcher, where it is not the one that was installed with this package.
VARIABLE = "HERDSMAN_BINARY"

_NAME = "herdsman.exe" if sys.platform == "win32" else "herdsman"


def find() -> str:
    """The path of the launcher."""
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise NotFound("E-NOT-FOUND", f"{VARIABLE} names {named}, which is no file", exit_code=3)
        return named
    return _installed()


@lru_cache(maxsize=1)
def _installed() -> str:
    for folder in _folders():
        path = folder / _NAME
        if path.is_file():
            return str(path)
    on_path = shutil.which(_NAME)
    if on_path:
        return on_path
    raise NotFound(
        "E-NOT-FOUND",
        "the program herdsman is neither beside this Python nor on the path",
        try_=[
            "python -m pip install --force-reinstall herdsman",
            f"export {VARIABLE}=/path/to/herdsman",
        ],
        exit_code=3,
    )


def _folders() -> list[Path]:
    """Where an installer may have put programs of this package."""
    folders = [Path(sysconfig.get_path("scripts"))]
    scheme = sysconfig.get_preferred_scheme("user")
    if scheme in sysconfig.get_scheme_names():
        folders.append(Path(sysconfig.get_path("scripts", scheme)))
    # `pip install --target`: bin beside the package.
    package = Path(__file__).resolve().parent
    folders += [package.parent / "bin", package.parent.parent / "bin"]
    return folders
