"""Keywords of dask-cloudprovider's classes are in the requests that clouds get.

The classes themselves are called, with the real launcher, against the emulated
clouds; machines never boot, so each call ends with `StartTimeout`, and what counts
is the emulator's log, all of which is held against the vendor's own model.
"""

import contextlib
import importlib
import itertools
import json
import os
import subprocess
import tempfile
import uuid
import warnings
from pathlib import Path

import dask.config
import emulated
import pytest
from emulated import Emulator, at

from herdsman import StartTimeout
from herdsman._dropin_plan import MigrationWarning

CLASSES = {
    "aws": "EC2Cluster",
    "azure": "AzureVMCluster",
    "digitalocean": "DropletCluster",
    "gcp": "GCPCluster",
    "hetzner": "HetznerCluster",
    "openstack": "OpenStackCluster",
}
BOTH, WORKER, SCHEDULER = ("scheduler", "worker"), ("worker",), ("scheduler",)


@pytest.fixture(scope="module", params=CLASSES)
def cloud(request):
    if emulated.python() is None:
        pytest.skip("no Python with the emulators' packages; scripts/test makes one")
    with Emulator(request.param) as emulator, contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hm", dir="/tmp")))
        patch = pytest.MonkeyPatch()
        stack.callback(patch.undo)
        for name in list(os.environ):
            kept = name in {"HERDSMAN_BINARY", "HERDSMAN_AGENT"} or name.startswith("HERDSMAN_TEST_")
            if name.startswith(("HERDSMAN_", "AWS_", "AZURE_", "GOOGLE_", "OS_", "CLOUDSDK_")) and not kept:
                patch.delenv(name)
        environment = {
            "HOME": str(home),
            "HERDSMAN_STATE_DIR": str(home / "s"),
            **emulator.environment(),
        }
        if request.param == "gcp":
            (home / "key.json").write_text(json.dumps(emulator.ask("key")))
            environment["GOOGLE_APPLICATION_CREDENTIALS"] = str(home / "key.json")
        if request.param == "openstack":
            emulator.ask("build", 0.2)
            emulator.ask("group", "theirs")
        if request.param == "aws":
            emulator.ask("profile", "worker-profile")
            MADE.update(
                emulator.ask("network", {"name": "lab", "network": "10.9.0.0/16", "subnet": "10.9.1.0/24"})
            )
        if request.param == "azure":
            subnets = {"first": "10.80.1.0/24", "second": "10.80.2.0/24"}
            emulator.ask(
                "network", {"group": "mine", "name": "net", "subnets": subnets, "firewalls": ["closed"]}
            )
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(home)
        yield emulator


def called(cloud, config=None, **given):
    """What a class asks for with these keywords, by role."""
    module = importlib.import_module(f"herdsman.{cloud.cloud}")
    cloud.ask("reset")
    given.setdefault("n_workers", 1)
    # `agent.url` leads nowhere, and nobody goes there; nor to a machine's address, which
    # is somebody else's in the real world.
    settings = {
        "agent.url": ["https://agents.example/{arch}"],
        "connect.proxy_command": "sleep 9",
        **given.pop("settings", {}),
    }
    with dask.config.set({"cloudprovider": {module.VENDOR.section: config or {}}}):
        with warnings.catch_warnings(), pytest.raises(StartTimeout):
            warnings.simplefilter("ignore", MigrationWarning)
            getattr(module, CLASSES[cloud.cloud])(
                **{"env": "none", "start_timeout": "1s", "quiet": True, **given}, settings=settings
            )
    return cloud.machines()


def tags(body, prefix):
    """Tags of a kind of thing, as EC2's query has them."""
    kinds = [k for k, v in body.items() if k.startswith("TagSpecification") and v == prefix]
    (number,) = {k.split(".")[1] for k in kinds}
    found = {}
    for i in itertools.count(1):
        key = body.get(f"TagSpecification.{number}.Tag.{i}.Key")
        if key is None:
            return found
        found[key] = body[f"TagSpecification.{number}.Tag.{i}.Value"]


def nic(b):
    return at(b, "properties/networkProfile/networkInterfaceConfigurations/0/properties")


#: What somebody made at EC2 before.
MADE = {}
IMAGE = str(uuid.uuid5(uuid.NAMESPACE_URL, "image 5"))
IDENTITY = "/subscriptions/s/resourceGroups/mine/providers/Microsoft.ManagedIdentity/userAssignedIdentities/w"
#: Calls of each class: keywords, what is in the configuration instead, and for each of
#: them where its value is in the request.
CALLS = {
    "aws": [
        (
            {
                "region": "eu-west-1",
                "availability_zone": ["eu-west-1b"],
                "ami": "ami-0d1300000000000" + "1a",
                "worker_instance_type": "m5.large",
                "scheduler_instance_type": "t3.medium",
                "filesystem_size": 77,
                "iam_instance_profile": {"Name": "worker-profile"},
                "instance_tags": {"team": "geo"},
                "volume_tags": {"kept": "no"},
                "use_private_ip": True,
                "enable_detailed_monitoring": True,
                "spot": True,
            },
            {
                "region": (BOTH, lambda b: b["_facts"]["region"] == "eu-west-1"),
                "ami": (BOTH, lambda b: b["ImageId"] == "ami-0d13000000000001a"),
                "worker_instance_type": (WORKER, lambda b: b["InstanceType"] == "m5.large"),
                "scheduler_instance_type": (SCHEDULER, lambda b: b["InstanceType"] == "t3.medium"),
                "filesystem_size": (BOTH, lambda b: b["BlockDeviceMapping.1.Ebs.VolumeSize"] == "77"),
                "iam_instance_profile": (BOTH, lambda b: b["IamInstanceProfile.Name"] == "worker-profile"),
                "instance_tags": (
                    BOTH,
                    lambda b: (
                        tags(b, "instance")["team"] == "geo" and "team" not in tags(b, "network-interface")
                    ),
                ),
                "volume_tags": (BOTH, lambda b: tags(b, "volume")["kept"] == "no"),
                "use_private_ip": (
                    BOTH,
                    lambda b: b["NetworkInterface.1.AssociatePublicIpAddress"] == "false",
                ),
                "enable_detailed_monitoring": (BOTH, lambda b: b["Monitoring.Enabled"] == "true"),
                "spot": (WORKER, lambda b: b["InstanceMarketOptions.MarketType"] == "spot"),
                # The zone is that of the subnet.
                "availability_zone": (BOTH, lambda b: b["NetworkInterface.1.SubnetId"].startswith("subnet-")),
            },
        ),
        (
            {
                "instance_type": "m5.large",
                "vpc": "$vpc",
                "subnet_id": "$subnet",
                "security_groups": ["$group"],
                "key_name": "mine",
                "spot": False,
            },
            {
                "instance_type": (BOTH, lambda b: b["InstanceType"] == "m5.large"),
                "subnet_id": (BOTH, lambda b: b["NetworkInterface.1.SubnetId"] == MADE["subnet"]),
                # The network is that of the subnet and of the groups; another would be an error.
                "vpc": (BOTH, lambda b: b["NetworkInterface.1.SubnetId"] == MADE["subnet"]),
                "security_groups": (
                    BOTH,
                    lambda b: MADE["group"] in [v for k, v in b.items() if "SecurityGroupId" in k],
                ),
                "key_name": (BOTH, lambda b: b["KeyName"] == "mine"),
            },
        ),
    ],
    "gcp": [
        (
            {
                "projectid": "my-project",
                "zone": "europe-west4-c",
                "network": "apart-too",
                "worker_machine_type": "n2-standard-4",
                "scheduler_machine_type": "e2-medium",
                "on_host_maintenance": "MIGRATE",
                "source_image": "projects/my-project/global/images/baked-1",
                "filesystem_size": 77,
                "disk_type": "pd-ssd",
                "instance_labels": {"team": "geo"},
                "service_account": "worker@my-project.iam.gserviceaccount.com",
                "public_ingress": False,
                "preemptible": True,
            },
            {
                "projectid": (BOTH, lambda b: b["_facts"]["project"] == "my-project"),
                "zone": (BOTH, lambda b: b["_facts"]["zone"] == "europe-west4-c"),
                "network": (
                    BOTH,
                    lambda b: at(b, "networkInterfaces/0/subnetwork").endswith(
                        "europe-west4/subnetworks/apart-too"
                    ),
                ),
                "worker_machine_type": (WORKER, lambda b: b["machineType"].endswith("n2-standard-4")),
                "scheduler_machine_type": (SCHEDULER, lambda b: b["machineType"].endswith("e2-medium")),
                "on_host_maintenance": (
                    SCHEDULER,
                    lambda b: at(b, "scheduling/onHostMaintenance") == "MIGRATE",
                ),
                "source_image": (
                    BOTH,
                    lambda b: at(b, "disks/0/initializeParams/sourceImage").endswith(
                        "my-project/global/images/baked-1"
                    ),
                ),
                "filesystem_size": (BOTH, lambda b: at(b, "disks/0/initializeParams/diskSizeGb") == "77"),
                "disk_type": (BOTH, lambda b: at(b, "disks/0/initializeParams/diskType").endswith("pd-ssd")),
                "instance_labels": (BOTH, lambda b: at(b, "labels/team") == "geo"),
                "service_account": (BOTH, lambda b: at(b, "serviceAccounts/0/email").startswith("worker@")),
                "public_ingress": (BOTH, lambda b: at(b, "networkInterfaces/0/accessConfigs") is None),
                "preemptible": (WORKER, lambda b: at(b, "scheduling/provisioningModel") == "SPOT"),
            },
        ),
        (
            {"machine_type": "n1-standard-4", "ngpus": 2, "gpu_type": "nvidia-tesla-t4"},
            {
                "machine_type": (BOTH, lambda b: b["machineType"].endswith("n1-standard-4")),
                "ngpus": (BOTH, lambda b: at(b, "guestAccelerators/0/acceleratorCount") == 2),
                "gpu_type": (
                    BOTH,
                    lambda b: at(b, "guestAccelerators/0/acceleratorType").endswith("nvidia-tesla-t4"),
                ),
            },
        ),
        (
            {
                "machine_type": "n1-standard-4",
                "scheduler_ngpus": 1,
                "scheduler_gpu_type": "nvidia-tesla-t4",
                "worker_ngpus": 4,
                "worker_gpu_type": "nvidia-l4",
                "network_projectid": "host-project",
                "network": "shared-a",
            },
            {
                "scheduler_ngpus": (SCHEDULER, lambda b: at(b, "guestAccelerators/0/acceleratorCount") == 1),
                "scheduler_gpu_type": (
                    SCHEDULER,
                    lambda b: at(b, "guestAccelerators/0/acceleratorType").endswith("nvidia-tesla-t4"),
                ),
                "worker_ngpus": (WORKER, lambda b: at(b, "guestAccelerators/0/acceleratorCount") == 4),
                "worker_gpu_type": (
                    WORKER,
                    lambda b: at(b, "guestAccelerators/0/acceleratorType").endswith("nvidia-l4"),
                ),
                "network_projectid": (
                    BOTH,
                    lambda b: at(b, "networkInterfaces/0/subnetwork").startswith("projects/host-project/"),
                ),
            },
        ),
    ],
    "azure": [
        (
            {
                "location": "East US",
                "resource_group": "mine",
                "vnet": "net",
                "subnet": "second",
                "security_group": "closed",
                "public_ingress": False,
                "vm_size": "Standard_D4s_v5",
                "scheduler_vm_size": "Standard_B2s",
                "vm_image": {
                    "publisher": "canonical",
                    "offer": "ubuntu-24_04-lts",
                    "sku": "server",
                    "version": "24.04.202609010",
                },
                "disk_size": 77,
                "marketplace_plan": {"name": "n", "publisher": "p", "product": "q"},
                "subscription_id": "11111111-2222-3333-4444-555555555555",
                "extra_vm_options": {
                    "priority": "Spot",
                    "billing_profile": {"max_price": 0.05},
                    "license_type": "SLES_BYOS",
                    "identity": {"type": "UserAssigned", "user_assigned_identities": {IDENTITY: {}}},
                },
            },
            {
                "location": (BOTH, lambda b: b["location"] == "eastus"),
                "resource_group": (
                    BOTH,
                    lambda b: "/resourceGroups/mine/" in at(nic(b), "networkSecurityGroup/id"),
                ),
                "vnet": (
                    BOTH,
                    lambda b: (
                        "/virtualNetworks/net/" in at(nic(b), "ipConfigurations/0/properties/subnet/id")
                    ),
                ),
                "subnet": (
                    BOTH,
                    lambda b: at(nic(b), "ipConfigurations/0/properties/subnet/id").endswith(
                        "/subnets/second"
                    ),
                ),
                "security_group": (
                    BOTH,
                    lambda b: at(nic(b), "networkSecurityGroup/id").endswith("/networkSecurityGroups/closed"),
                ),
                "public_ingress": (SCHEDULER, lambda b: "publicIPAddressConfiguration" not in json.dumps(b)),
                "vm_size": (
                    WORKER,
                    lambda b: at(b, "properties/hardwareProfile/vmSize") == "Standard_D4s_v5",
                ),
                "scheduler_vm_size": (
                    SCHEDULER,
                    lambda b: at(b, "properties/hardwareProfile/vmSize") == "Standard_B2s",
                ),
                "vm_image": (
                    BOTH,
                    lambda b: at(b, "properties/storageProfile/imageReference/version") == "24.04.202609010",
                ),
                "disk_size": (BOTH, lambda b: at(b, "properties/storageProfile/osDisk/diskSizeGB") == 77),
                "marketplace_plan": (
                    BOTH,
                    lambda b: b["plan"] == {"name": "n", "publisher": "p", "product": "q"},
                ),
                "subscription_id": (
                    BOTH,
                    lambda b: (
                        "/11111111-2222-3333-4444-555555555555/" in at(nic(b), "networkSecurityGroup/id")
                    ),
                ),
                "extra_vm_options": (
                    WORKER,
                    lambda b: (
                        at(b, "properties/priority") == "Spot"
                        and at(b, "properties/billingProfile/maxPrice") == 0.05
                        and at(b, "properties/licenseType") == "SLES_BYOS"
                        and IDENTITY in at(b, "identity/userAssignedIdentities")
                    ),
                ),
            },
        ),
    ],
    "digitalocean": [
        (
            {"region": "fra1", "size": "s-8vcpu-16gb", "image": "ubuntu-24-04-x64"},
            {
                "region": (BOTH, lambda b: b["region"] == "fra1"),
                "size": (BOTH, lambda b: b["size"] == "s-8vcpu-16gb"),
                "image": (BOTH, lambda b: b["image"] == "ubuntu-24-04-x64"),
            },
        ),
    ],
    "hetzner": [
        (
            {"location": "nbg1", "server_type": "cpx22", "image": "ubuntu-24.04"},
            {
                "location": (BOTH, lambda b: b["location"] == "nbg1"),
                "server_type": (BOTH, lambda b: b["server_type"] == "cpx22"),
                "image": (BOTH, lambda b: b["image"] in {"ubuntu-24.04", "161547269"}),
            },
        ),
    ],
    "openstack": [
        (
            {"region": "RegionTwo", "size": "m1.large", "image": "mine"},
            {
                "region": (BOTH, lambda b: b["_facts"]["region"] == "RegionTwo"),
                "size": (BOTH, lambda b: b["flavorRef"] == "4"),
                "image": (BOTH, lambda b: b["imageRef"] == IMAGE),
            },
        ),
    ],
}

#: The same from dask's configuration, for what stands in files only.
FILES = {
    "gcp": [
        (
            {
                "service_account": "w@my-project.iam.gserviceaccount.com",
                "instance_scopes": ["https://x/logging.write"],
            },
            {
                "instance_scopes": (
                    BOTH,
                    lambda b: at(b, "serviceAccounts/0/scopes") == ["https://x/logging.write"],
                )
            },
        )
    ],
    "openstack": [
        (
            {
                "network_id": "private",
                "keypair_name": "ann-key",
                "security_group": "theirs",
                "external_network_id": "outside",
                "create_floating_ip": True,
            },
            {
                "network_id": (BOTH, lambda b: at(b, "networks/0") is not None),
                "keypair_name": (BOTH, lambda b: b["key_name"] == "ann-key"),
                # Every machine is marked as one that is to have an address outside.
                "create_floating_ip": (BOTH, lambda b: at(b, "metadata/herdsman-reach") == "floating"),
            },
        )
    ],
}

#: Keywords of the classes' own that never reach a cloud, and where they are tested.
ELSEWHERE = {
    "bootstrap": "nothing to do",
    "auto_shutdown": "the end of a cluster: test_what_is_for_the_machines",
    "service_account_credentials": "test_a_key_of_google",
    "worker_threads": "test_what_is_for_the_machines",
    "worker_command": "test_what_is_for_the_machines",
    "token": "test_tokens_of_the_configuration",
    "application_credential_id": "test_tokens_of_the_configuration",
    "application_credential_secret": "test_tokens_of_the_configuration",
    "auth_url": "test_tokens_of_the_configuration",
    "auth_type": "had no effect before",
    "security_group": "a group of OpenStack's: on its port",
    "external_network_id": "OpenStack's floating addresses are asked for by it",
}


def filled(given):
    """With the names of what was made before."""

    def fill(value):
        if isinstance(value, list):
            return [fill(v) for v in value]
        return MADE[value[1:]] if isinstance(value, str) and value.startswith("$") else value

    return {name: fill(value) for name, value in given.items()}


def hold(machines, wanted):
    for name, (roles, test) in wanted.items():
        for role in roles:
            body = machines[role]
            try:
                there = test(body)
            except (KeyError, AttributeError, TypeError, IndexError) as e:
                there = repr(e)
            assert there is True, f"{name} of the {role}: {there}: {json.dumps(body, indent=1)}"


def test_keywords_are_in_the_requests(cloud):
    for given, wanted in CALLS[cloud.cloud]:
        assert set(wanted) <= set(given)
        hold(called(cloud, **filled(given)), wanted)


def test_the_old_configuration_is_in_the_requests(cloud):
    """All keywords again, from files; and what only files have."""
    vendor = importlib.import_module(f"herdsman.{cloud.cloud}").VENDOR
    for given, wanted in (*CALLS[cloud.cloud], *FILES.get(cloud.cloud, [])):
        config, keywords = {}, {}
        for name, value in filled(given).items():
            (keyword,) = [k for k in vendor.keywords if k.name == name]
            path = name if keyword.config is None else keyword.config.split("|")[0]
            if not path:
                keywords[name] = value
                continue
            table = config
            *above, last = path.split(".")
            for part in above:
                table = table.setdefault(part, {})
            table[last] = value
        hold(called(cloud, config, **keywords), wanted)


#: Tokens and the like in the configuration, and the variables that hold them elsewhere.
TOKENS = {
    "digitalocean": ({"token": "dop_v1_test"}, ["DIGITALOCEAN_TOKEN"]),
    "hetzner": ({"token": "hz-test"}, ["HCLOUD_TOKEN"]),
    "openstack": (
        {
            "auth_url": "$url/identity/v3",
            "application_credential_id": "whole",
            "application_credential_secret": "not-a-secret",
        },
        ["OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME", "HERDSMAN_OPENSTACK_ENDPOINT"],
    ),
}


def test_tokens_of_the_configuration(cloud, monkeypatch):
    if cloud.cloud not in TOKENS:
        pytest.skip("its credentials were never in dask's configuration")
    config, variables = TOKENS[cloud.cloud]
    config = {k: v.replace("$url", cloud.url) for k, v in config.items()}
    for name in variables:
        monkeypatch.delenv(name)
    assert set(called(cloud, config)) == {"scheduler", "worker"}
    # Another's token is used before it, as it was.
    secret = [v for k, v in config.items() if k in {"token", "application_credential_secret"}]
    told = json.dumps(cloud.ask("there", True if cloud.cloud == "openstack" else None))
    assert not any(s in told for s in secret)


def test_a_key_of_google(cloud, monkeypatch):
    if cloud.cloud != "gcp":
        pytest.skip("for GCP")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    key = cloud.ask("key")
    assert set(called(cloud, service_account_credentials=key)) == {"scheduler", "worker"}


def test_lines_of_ones_own_are_in_user_data_and_variables_are_not(cloud):
    if cloud.cloud != "hetzner":
        pytest.skip("the same for all")
    machines = called(
        cloud,
        name="dask-kept",
        settings={"keep_failed": True},
        extra_bootstrap=["curl -H 'X: y' http://x  # a: b"],
        env_vars={"MSG": "v4lue", "MY_TOKEN": "s3cret", "EXTRA_APT_PACKAGES": "gdal-bin"},
        docker_args="-e OTHER=v5lue",
    )
    there = cloud.ask("there")["machines"]
    subprocess.run(
        [os.environ["HERDSMAN_BINARY"], "down", "dask-kept", "-y"], check=True, capture_output=True
    )
    assert len(there) == len(machines) == 2
    for machine in there:
        text = machine["user_data"]
        assert (
            "curl -H 'X: y' http://x  # a: b" in text
            and "install -y --no-install-recommends gdal-bin" in text
        )
        assert not any(word in json.dumps(machine) for word in ("v4lue", "s3cret", "v5lue"))


def test_every_keyword_of_its_own_is_looked_for(cloud):
    vendor = importlib.import_module(f"herdsman.{cloud.cloud}").VENDOR
    tested = {name for _, wanted in (*CALLS[cloud.cloud], *FILES.get(cloud.cloud, [])) for name in wanted}
    lost = {k.name for k in vendor.keywords} - tested - set(ELSEWHERE)
    assert not lost, lost
