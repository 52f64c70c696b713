"""Every keyword of dask-cloudprovider's classes is honoured or explained.

The old package is asked itself, in an environment of its own:
``HERDSMAN_TEST_CLOUDPROVIDER_PYTHON``, or ``target/dropin-venv``.
"""

import importlib
import inspect
import json
import os
import subprocess
import warnings
from pathlib import Path

import pytest
from distributed.security import Security

from herdsman import _dropin
from herdsman._dropin import find, from_config, translate
from herdsman._dropin_common import COMMON
from herdsman._dropin_plan import MigrationWarning
from herdsman._dropin_words import docker_words, ours

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {
    "EC2Cluster": "aws",
    "GCPCluster": "gcp",
    "AzureVMCluster": "azure",
    "DropletCluster": "digitalocean",
    "HetznerCluster": "hetzner",
    "OpenStackCluster": "openstack",
}


def python():
    named = os.environ.get("HERDSMAN_TEST_CLOUDPROVIDER_PYTHON")
    return Path(named) if named else ROOT / "target/dropin-venv/bin/python"


@pytest.fixture(scope="module")
def old():
    interpreter = python()
    if not interpreter.exists():
        pytest.skip("no Python with dask-cloudprovider; scripts/test makes one")
    done = subprocess.run(
        [interpreter, ROOT / "tests/python/cloudprovider.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == "2025.9.0"
    return found


def vendor(name):
    return importlib.import_module(f"herdsman.{CLASSES[name]}").VENDOR


def cls(name):
    return getattr(importlib.import_module(f"herdsman.{CLASSES[name]}"), name)


@pytest.mark.parametrize("name", CLASSES)
def test_every_keyword_is_honoured_or_explained(old, name):
    theirs = old["classes"][name]["keywords"]
    assert len(theirs) > 20  # those of the class, of VMCluster and of SpecCluster
    bare = [k for k in theirs if not (v := find(vendor(name), k)) or not (v.to or v.says)]
    assert not bare, f"{name}: neither honoured nor explained: {bare}"


@pytest.mark.parametrize("name", CLASSES)
def test_keywords_stand_where_they_stood(old, name):
    """Who gave them without their names gives the same."""
    mine = [
        p.name
        for p in inspect.signature(cls(name).__init__).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"
    ]
    assert mine == old["classes"][name]["order"]


@pytest.mark.parametrize("name", CLASSES)
def test_old_defaults_are_nobodys_wish(old, name):
    """Neither those of the signatures nor those of the package's own file, which is in
    dask's configuration once it was imported."""
    theirs = old["classes"][name]["keywords"]
    plan = translate(
        vendor(name), {k: v["default"] for k, v in theirs.items() if k not in {"n_workers", "security"}}
    )
    harmless = {"provider", "asynchronous", "shutdown_on_close", "_sync_interval", "_debug"}
    assert not plan.settings and not plan.warnings and not plan.secrets
    assert set(plan.arguments) <= harmless, plan.arguments
    weak = from_config(vendor(name), old["config"])
    assert not (weak.settings or weak.arguments or weak.secrets or weak.warnings), weak


@pytest.mark.parametrize("name", CLASSES)
def test_every_key_of_the_old_file_is_known(old, name):
    section = dict(old["config"][vendor(name).section])
    if name == "AzureVMCluster":
        section |= {f"azurevm.{k}": v for k, v in section.pop("azurevm").items()}
    known = {
        path
        for k in (*vendor(name).keywords, *COMMON)
        for path in (k.name if k.config is None else k.config).split("|")
    }
    lost = set(section) - known
    assert not lost, f"cloudprovider.{vendor(name).section}: {lost}"


def test_what_is_not_carried_over_says_what_to_use(old):
    for module, names in old["public"].items():
        for name in names:
            if name in CLASSES:
                assert cls(name).__name__ == name
                continue
            try:
                getattr(importlib.import_module(f"herdsman.{module}"), name)
            except ImportError as e:
                assert "herdsman has no" in str(e) and ("Say " in str(e) or "say " in str(e)), str(e)
            else:
                assert name == "AzurePreemptibleWorkerPlugin"
    with pytest.raises(ImportError, match="AzureVMCluster"):
        from herdsman.azure import AzureMLCluster  # noqa: F401
    with pytest.raises(AttributeError):
        importlib.import_module("herdsman.aws").Nothing  # noqa: B018


@pytest.mark.parametrize("name", CLASSES)
def test_all_of_our_own_keywords_are_taken(name):
    given = {"idle_timeout": "1h", "max_cost": 3, "allow": ["me"], "wait_for_workers": 1, "tags": {"a": "b"}}
    plan = translate(vendor(name), given)
    assert given.items() <= plan.arguments.items()
    assert {"name", "settings", "create_mode", "start_timeout"} <= ours()


def test_a_keyword_that_nobody_knows_is_a_type_error_with_a_hint():
    def said(name, **given):
        with pytest.raises(TypeError) as e:
            translate(vendor(name), given)
        return str(e.value)

    assert "did you mean 'instance_type'" in said("EC2Cluster", instance_typ="x")
    assert "worker_class" in said("GCPCluster", worker_module="dask_cuda.cli")
    assert "idle_timeout" in said("EC2Cluster", scheduler_timeout="5 minutes")
    assert "settings={'hetzner." in said("HetznerCluster", zzz=1)
    assert "n_workers" in said("DropletCluster", scheduler={"cls": "x"})
    assert "Security" in said("DropletCluster", security="yes")
    assert "worker_class" in said("OpenStackCluster", worker_command="sh start.sh")


def test_general_and_special_types_exclude_each_other():
    for name, given in [
        ("EC2Cluster", {"instance_type": "a", "worker_instance_type": "b"}),
        ("GCPCluster", {"machine_type": "a", "scheduler_machine_type": "b"}),
        ("GCPCluster", {"ngpus": 1, "worker_ngpus": 1}),
    ]:
        with pytest.raises(ValueError, match="may not specify"):
            translate(vendor(name), given)


def test_withdrawn_types_name_the_nearest():
    with pytest.raises(ValueError, match="cx23"):
        translate(vendor("HetznerCluster"), {"server_type": "cx11"})


def test_false_is_not_nothing():
    """Where the old package took an explicit False for its default."""
    plan = translate(
        vendor("GCPCluster"), {"public_ingress": False, "preemptible": False, "scheduler_ngpus": 0}
    )
    assert plan.settings == {"place.private": True, "workers.spot": "never", "scheduler.gpus": 0}
    plan = translate(vendor("EC2Cluster"), {"auto_shutdown": False})
    assert plan.settings == {"limits.idle": "off"} and "auto_shutdown" in plan.warnings
    plan = translate(vendor("EC2Cluster"), {"auto_shutdown": False, "idle_timeout": "2h"})
    assert not plan.settings and plan.arguments["idle_timeout"] == "2h"


def test_variables_are_never_quoted_into_a_shell():
    plan = translate(
        vendor("EC2Cluster"),
        {
            "env_vars": {
                "MSG": 'it\'s "$(id)"',
                "EXTRA_APT_PACKAGES": "gdal-bin $(reboot)",
                "EXTRA_PIP_PACKAGES": "x",
            },
            "docker_args": "--shm-size=2g -e A=1 --env 'B=two words' -v /a:/b",
            "extra_bootstrap": ["echo a: b"],
        },
    )
    assert plan.arguments["env_vars"] == {"MSG": 'it\'s "$(id)"', "A": "1", "B": "two words"}
    lines = plan.settings["extra_bootstrap"]
    assert lines[0] == "echo a: b" and "gdal-bin '$(reboot)'" in lines[-1]
    assert set(plan.warnings) == {"EXTRA_PIP_PACKAGES", "docker_args"}
    assert docker_words("-eA=1 -e B").rest == ["-e B"]


def test_options_of_processes_keep_what_is_theirs():
    plan = translate(
        vendor("EC2Cluster"),
        {
            "worker_options": {"nthreads": 2, "memory_limit": "4 GiB", "resources": {"GPU": 1}, "name": "w"},
            "scheduler_options": {"idle_timeout": "1 hour", "port": 8786, "jupyter": True, "preload": "x.py"},
        },
    )
    assert plan.arguments["worker_options"] == {"nthreads": 2, "resources": {"GPU": 1}}
    assert plan.arguments["scheduler_options"] == {"idle_timeout": "1 hour", "preload": "x.py"}
    assert plan.settings == {"workers.memory": "4294967296B"}
    assert set(plan.warnings) == {"worker_options.name", "scheduler_options.jupyter"}
    for limit, said in [("auto", 0), (None, 1), (0, 1), (0.5, 1), (1.0, 0)]:
        plan = translate(vendor("EC2Cluster"), {"worker_options": {"memory_limit": limit}})
        assert (not plan.settings, len(plan.warnings)) == (True, said), limit


def test_classes_of_workers():
    def of(name):
        return translate(vendor("GCPCluster"), {"worker_class": name})

    assert "worker_class" not in of("dask.distributed.Nanny").arguments
    assert of("distributed.Worker").arguments["_no_nanny"]
    assert of("mine.Worker2").arguments["worker_class"] == "mine.Worker2"
    assert "worker_class" in of("dask_cuda.CUDAWorker").warnings


def test_graphics_without_a_driver_are_told():
    for name, given, told in [
        ("EC2Cluster", {"worker_instance_type": "g4dn.xlarge"}, True),
        ("EC2Cluster", {"worker_instance_type": "p5.48xlarge", "ami": "ami-1"}, False),
        ("EC2Cluster", {"instance_type": "m7g.large"}, False),
        ("AzureVMCluster", {"vm_size": "Standard_NC4as_T4_v3"}, True),
        ("GCPCluster", {"worker_ngpus": 1, "worker_gpu_type": "nvidia-l4"}, True),
        ("GCPCluster", {"ngpus": 0}, False),
        ("DropletCluster", {"size": "gpu-h100x1-80gb", "extra_bootstrap": ["sh install-driver"]}, False),
    ]:
        plan = translate(vendor(name), given)
        _dropin._look_for_driver(plan, from_config(vendor(name), {}))
        assert ("driver" in plan.warnings) is told, (name, given)


def test_certificates_of_ones_own_are_passed_on():
    mine = Security(tls_ca_file="a", tls_client_cert="b", tls_client_key="c", require_encryption=True)
    assert translate(vendor("GCPCluster"), {"security": mine}).arguments["security"] is mine
    for value in (False, None):
        plan = translate(vendor("GCPCluster"), {"security": value})
        assert plan.arguments["security"] is False and "security" in plan.warnings
    assert "security" not in translate(vendor("GCPCluster"), {"security": True}).arguments


@pytest.mark.parametrize(
    ("security", "protocol", "fits"),
    [
        (True, "tls", 1),
        (False, "tcp", 1),
        (True, "tcp", 0),
        (False, "tls", 0),
        (True, "ws", 0),
        (True, "ucx", 0),
    ],
)
def test_protocols(security, protocol, fits):
    plan = translate(vendor("GCPCluster"), {"security": security})
    if fits:
        _dropin._check_protocol(plan, protocol)
    else:
        with pytest.raises(ValueError, match="protocol"):
            _dropin._check_protocol(plan, protocol)


def test_keys_of_people_are_for_the_launcher_alone():
    config = {
        "digitalocean": {"token": "dop_v1_x"},
        "hetzner": {"token": "hz"},
        "openstack": {"application_credential_secret": "s", "application_credential_id": "i"},
    }
    for name, variable in [
        ("DropletCluster", "DIGITALOCEAN_TOKEN"),
        ("HetznerCluster", "HCLOUD_TOKEN"),
        ("OpenStackCluster", "OS_APPLICATION_CREDENTIAL_SECRET"),
    ]:
        plan = from_config(vendor(name), config)
        assert list(plan.secrets) == [variable]
        assert not any(plan.secrets[variable] == v for v in plan.settings.values())
    plan = translate(vendor("GCPCluster"), {"service_account_credentials": {"private_key": "x"}})
    assert plan.secrets == {"GOOGLE_CREDENTIALS": '{"private_key": "x"}'} and not plan.settings


def test_azures_options_in_both_spellings():
    snake = {
        "priority": "Spot",
        "billing_profile": {"max_price": 0.5},
        "license_type": "RHEL_BYOS",
        "identity": {"type": "UserAssigned", "user_assigned_identities": {"/subscriptions/s/x_y": {}}},
        "tags": {"cost_centre": "7"},
        "zones": ["2"],
    }
    camel = {
        "properties": {"priority": "Spot", "billingProfile": {"maxPrice": 0.5}, "licenseType": "RHEL_BYOS"},
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {"/subscriptions/s/x_y": {}}},
        "tags": {"cost_centre": "7"},
        "zones": ["2"],
    }
    for options in (snake, camel):
        plan = translate(vendor("AzureVMCluster"), {"extra_vm_options": options})
        assert plan.settings == {
            "workers.spot": "only",
            "azure.spot_max_price": 0.5,
            "azure.extra": {"properties": {"licenseType": "RHEL_BYOS"}},
            "place.role": "/subscriptions/s/x_y",
            "tags.cost_centre": "7",
            "place.zones": ["2"],
        }


def test_a_warning_is_said_once(monkeypatch):
    monkeypatch.setattr(_dropin, "_said", set())
    plan = translate(vendor("EC2Cluster"), {"docker_image": "rapidsai/base:25"})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _dropin._tell(plan, stacklevel=1)
        _dropin._tell(plan, stacklevel=1)
    assert [w.category for w in said] == [MigrationWarning]
    assert "rapidsai/base:25" in str(said[0].message)
    # Dask's own image is what everybody had: nothing to warn about.
    assert not translate(vendor("EC2Cluster"), {"docker_image": "daskdev/dask:2025.9.0-py3.12"}).warnings
