"""A notebook that was written for dask-cloudprovider, with its import changed.

Here on this computer; `tests/it/clouds/notebook.rs` runs it on machines of an
emulated cloud.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOTEBOOK = HERE / "notebooks/hetzner.ipynb"


def test_the_notebook_runs():
    env = {**os.environ, "DASK_HERDSMAN__DROP_IN_PROVIDER": "local"}
    done = subprocess.run(
        [sys.executable, HERE / "run_notebook.py", NOTEBOOK],
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "HetznerCluster(demo" in done.stdout and "332833500" in done.stdout and "Status.closed" in done.stdout
    )
    assert "http://127.0.0.1:" in done.stdout and 'it\'s "me"' in done.stdout.replace("\\'", "'")
    # What is different is said, and is no error.
    assert "MigrationWarning" not in done.stderr, done.stderr


def test_only_the_import_is_changed():
    text = NOTEBOOK.read_text()
    assert (
        text.count("herdsman.hetzner") == 1
        and "# from dask_cloudprovider.hetzner import HetznerCluster" in text
    )
