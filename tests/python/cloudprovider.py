"""What dask-cloudprovider 2025.9.0 takes, asked of the package itself.

Run by the interpreter of an environment of its own, which has that package and
none of the clouds' packages: those are stood in for, as only signatures are read.
Prints JSON.
"""

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import inspect
import json
import sys
from pathlib import Path
from unittest import mock

CLASSES = {
    "EC2Cluster": "aws",
    "GCPCluster": "gcp",
    "AzureVMCluster": "azure",
    "DropletCluster": "digitalocean",
    "HetznerCluster": "hetzner",
    "OpenStackCluster": "openstack",
}
ABSENT = {
    "aiobotocore",
    "azure",
    "botocore",
    "digitalocean",
    "google",
    "google_auth_httplib2",
    "googleapiclient",
    "hcloud",
    "httplib2",
    "openstack",
}


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = mock.MagicMock(name=spec.name)
        module.__name__, module.__spec__, module.__path__ = spec.name, spec, []
        return module

    def exec_module(self, module):
        pass


def keywords(cls):
    """What can be given: to the class itself, and what it hands on."""
    found = {}
    for ancestor in cls.__mro__:
        if "__init__" not in vars(ancestor) or ancestor is object:
            continue
        parameters = inspect.signature(ancestor.__init__).parameters.values()
        for p in parameters:
            if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) or p.name == "self":
                continue
            default = None if p.default is p.empty else p.default
            found.setdefault(p.name, {"from": ancestor.__name__, "default": default})
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def order(cls):
    names = inspect.signature(cls.__init__).parameters.values()
    return [p.name for p in names if p.name != "self" and p.kind is p.POSITIONAL_OR_KEYWORD]


def main():
    import dask_cloudprovider.config
    import yaml

    sys.meta_path.append(StandIn())
    classes = {}
    for name, module in CLASSES.items():
        cls = getattr(importlib.import_module(f"dask_cloudprovider.{module}"), name)
        classes[name] = {"keywords": keywords(cls), "order": order(cls)}
    folder = Path(dask_cloudprovider.config.__file__).parent
    files = yaml.safe_load((folder / "cloudprovider.yaml").read_text())
    version = importlib.metadata.version("dask-cloudprovider")
    public = {}
    for module in (*CLASSES.values(), "ibm", "nebius"):
        tree = ast.parse((folder / module / "__init__.py").read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        public[module] = [alias.name for node in imports for alias in node.names]
    print(
        json.dumps(
            {"version": version, "classes": classes, "config": files["cloudprovider"], "public": public}
        )
    )


main()
