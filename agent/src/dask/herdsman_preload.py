"""What Dask loads in each of its processes: hands it the guard.

Dask throws the compiled form of a preload away, compiles it anew and runs it twice, at every
use. The guard is a thousand lines, so that would be felt at each start of a worker; this
file is a few. A guard that cannot be imported fails here, and then Dask does not start.
"""

import importlib.util
import os
import sys

_NAME = "herdsman_guard"


def _guard():
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    path = os.environ.get("HERDSMAN_GUARD_FILE")
    if not path:
        raise ImportError("herdsman preload: HERDSMAN_GUARD_FILE is not set")
    spec = importlib.util.spec_from_file_location(_NAME, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_NAME]  # a half of it is not it
        raise
    return module


dask_setup, dask_teardown = _guard().dask_setup, _guard().dask_teardown
