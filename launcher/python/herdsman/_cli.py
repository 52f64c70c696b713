"""``dask herdsman …``: the launcher under Dask's own command."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from herdsman import _binary
from herdsman.exceptions import HerdsmanError


@click.command(
    name="herdsman",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def main(args: tuple[str, ...]) -> None:
    """Dask clusters on cloud machines: secure by default, in a minute."""
    try:
        program = _binary.find()
    except HerdsmanError as e:
        raise click.ClickException(str(e)) from None
    if sys.platform == "win32":
        sys.exit(subprocess.call([program, *args]))
    os.execv(program, [program, *args])
