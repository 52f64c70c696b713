"""Keywords that are for the machines, and what else the classes are."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import dask.config
import pytest
from distributed import Client
from distributed.security import Security

from herdsman import ClusterExists, UsageError, _bridge
from herdsman._dropin import DropIn
from herdsman.aws import EC2Cluster
from herdsman.azure import AzureVMCluster
from herdsman.digitalocean import DropletCluster
from herdsman.gcp import GCPCluster
from herdsman.hetzner import HetznerCluster
from herdsman.openstack import OpenStackCluster

CLASSES = (EC2Cluster, GCPCluster, AzureVMCluster, DropletCluster, HetznerCluster, OpenStackCluster)
pytestmark = pytest.mark.filterwarnings("ignore::herdsman._dropin_plan.MigrationWarning")
AGENT = {"agent.url": ["https://agents.example/{arch}"]}


def settings(cls, config=None, why=False, **given):
    """What the launcher understands, by dotted key."""

    async def ask():
        with dask.config.set({"cloudprovider": config or {}}):
            cluster = cls(asynchronous=True, **given)
        argv = ["config", "get", *(["--why"] if why else [])]
        try:
            return (await cluster._call(argv)).document
        finally:
            await cluster.close()

    return asyncio.run(ask())


def worker(document):
    (group,) = document["workers"]
    return group


def test_what_is_for_the_machines():
    found = settings(
        EC2Cluster,
        n_workers=3,
        worker_class="mine.Worker2",
        worker_options={"nthreads": 2, "memory_limit": "4GiB", "resources": {"GPU": 1}, "preload": ["a.py"]},
        scheduler_options={"idle_timeout": "1 hour", "preload": "b.py"},
        env_vars={"MSG": "it's", "DB_PASSWORD": "hunter2"},
        docker_args="-e A=1",
        extra_bootstrap=["echo a: b"],
        security=False,
    )
    assert found["provider"] == "aws" and found["security"]["insecure"] is True
    group = worker(found)
    assert (group["count"], group["threads"], group["memory"], group["class"]) == (
        3,
        2,
        "4GiB",
        "mine.Worker2",
    )
    assert group["resources"] == {"GPU": 1.0} and group["options"] == ["--preload=a.py"]
    assert found["scheduler"]["options"] == ["--preload=b.py"] and found["limits"]["idle"] == "1h"
    assert found["env"]["variables"] == {"MSG": "it's", "A": "1"} and found["env"]["secrets"] == [
        "DB_PASSWORD"
    ]
    assert "hunter2" not in json.dumps(found)
    assert found["extra_bootstrap"] == ["echo a: b"]
    found = settings(
        OpenStackCluster, worker_threads=3, worker_command="dask worker tcp://x --lifetime 1h", n_workers=0
    )
    assert (worker(found)["threads"], worker(found)["options"]) == (3, ["--lifetime", "1h"])
    assert settings(GCPCluster, auto_shutdown=False)["limits"]["idle"] == "off"
    assert worker(settings(EC2Cluster, worker_class="distributed.Worker"))["options"] == ["--no-nanny"]


def test_no_workers_unless_somebody_says_so():
    assert all(worker(settings(cls))["count"] == 0 for cls in CLASSES)
    assert worker(settings(HetznerCluster, n_workers=(1, 5)))["count"] == "1..5"


def test_certificates_of_ones_own(tmp_path):
    """Files are named; what is in memory goes to files that nobody else can read."""
    names = ["tls_ca_file", "tls_client_cert", "tls_client_key", "tls_scheduler_cert", "tls_scheduler_key"]
    names += ["tls_worker_cert", "tls_worker_key"]
    for name in names:
        (tmp_path / name).write_text("-----BEGIN X-----\n")
    mine = {name: str(tmp_path / name) for name in names}
    mine["tls_client_key"] = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n"
    found = settings(GCPCluster, security=Security(require_encryption=True, **mine))["security"]
    key = found.pop("tls_client_key")
    assert os.stat(key).st_mode & 0o777 == 0o600 and "PRIVATE KEY" in Path(key).read_text()
    assert found == {"insecure": False, **{k: v for k, v in mine.items() if k != "tls_client_key"}}


def test_the_old_configuration_is_the_weakest(tmp_path, monkeypatch):
    config = {"ec2": {"region": "eu-west-1", "key_name": "old", "ami": "ami-1", "filesystem_size": 60}}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "herdsman.toml").write_text('[place]\nssh_key = "new"\n')
    place = settings(EC2Cluster, config, ami="ami-2")["place"]
    assert (place["region"], place["ssh_key"], place["image"]) == ("eu-west-1", "new", "ami-2")
    monkeypatch.setenv("DASK_HERDSMAN__PLACE__REGION", "us-west-2")
    assert settings(EC2Cluster, config)["place"]["region"] == "us-west-2"
    with dask.config.set({"herdsman": {"worker-disk": "90GiB"}}):
        assert worker(settings(EC2Cluster, config))["disk"] == "90GiB"
    assert worker(settings(EC2Cluster, config))["disk"] == "60GiB"
    # What somebody says in herdsman's own words is the strongest.
    found = settings(EC2Cluster, config, region="eu-west-2", settings={"place.region": "eu-west-3"})
    assert found["place"]["region"] == "eu-west-3"


def test_defaults_of_an_imported_dask_cloudprovider_are_nobodys_wish():
    config = {"hetzner": {"server_type": "cx11", "location": "fsn1", "image": "ubuntu-20.04", "token": None}}
    found = settings(HetznerCluster, config, why=True)
    assert not any("type" in key or key.startswith("place.image") for key in found), found


@pytest.mark.parametrize("cls", CLASSES)
def test_user_data_for_images(cls):
    """What Packer is given: called without a loop and without an account."""
    lines = ["echo a: b", "curl -H 'X: y' http://x"]
    text = cls.get_cloud_init(
        extra_bootstrap=lines, settings=AGENT, env_vars={"MSG": "s3cret"}, security=True
    )
    assert text.startswith("#cloud-config\n") and all(line in text for line in lines)
    assert "install --no-start" in text and "https://agents.example/$a" in text
    assert "s3cret" not in text and "PRIVATE KEY" not in text and "join.json" not in text
    assert subprocess.run(["sh", "-n"], input=_script(text), text=True, check=False).returncode == 0


def _script(text):
    return "\n".join(line[1:] for line in text.splitlines()[3:]) + "\n"


def test_a_cluster_of_this_computer_by_the_old_words(capsys):
    """Everything but the machines is as in a cloud."""
    with GCPCluster(
        "my-project",
        "europe-west4-a",
        machine_type="n1-standard-2",
        n_workers=1,
        worker_options={"nthreads": 1},
        env_vars={"MSG": 'say "hi"; $(id)'},
        instance_labels={"team": "geo"},
        provider="local",
        settings=AGENT,
        debug=True,
        silence_logs=40,
        scheduler_sync_interval="3s",
    ) as cluster:
        assert cluster.name.startswith("dask-") and type(cluster).__name__ in repr(cluster)
        assert cluster.get_tags()["herdsman-cluster"] == cluster.name
        assert cluster._sync_interval == 3
        with Client(cluster) as client:
            assert client.submit(lambda: os.environ["MSG"]).result() == 'say "hi"; $(id)'
            cluster.scale(2)
            client.wait_for_workers(2, timeout=60)
            assert len(cluster.get_logs(cluster=False, scheduler=False)) == 2
        text = cluster.render_cloud_init()
        assert "#HERDSMAN-JOIN-BEGIN" in text and cluster.name in text
        with pytest.raises(ClusterExists):
            EC2Cluster(name=cluster.name, provider="local", create_mode="create_only")
        again = DropletCluster.from_name(cluster.name, provider="local")
        assert again.scheduler_address == cluster.scheduler_address
        again.close()
        assert cluster.status.name == "running"
    said = capsys.readouterr().out
    assert "Cloud init" in said and "herdsman-agent" in said and "PRIVATE KEY" not in said


def test_asynchronous():
    async def work():
        cluster = HetznerCluster(n_workers=1, provider="local", asynchronous=True, name="dask-async")
        async with cluster, Client(cluster, asynchronous=True) as client:
            return cluster.name, await client.submit(sum, [1, 2])

    assert asyncio.run(work()) == ("dask-async", 3)


def test_plain_tcp():
    with DropletCluster(n_workers=1, provider="local", security=False, protocol="tcp") as cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        with Client(cluster) as client:
            assert client.submit(sum, [1, 2]).result() == 3
    # Nothing of it stays in this process, as it did before.
    assert not dask.config.get("distributed.comm.require-encryption", None)


def test_what_the_launcher_refuses_is_an_error_with_a_code():
    with pytest.raises(UsageError) as e:
        AzureVMCluster(extra_vm_options={"network_profile": {"x": 1}}, settings=AGENT, env="none")
    assert e.value.code == "E-USAGE" and "networkProfile" in str(e.value)


def test_config_migrate_of_the_launcher(tmp_path):
    (tmp_path / "cloudprovider.yaml").write_text("cloudprovider:\n  gcp:\n    zone: europe-west4-a\n")
    env = {**os.environ, "DASK_CONFIG": str(tmp_path), "HERDSMAN_PYTHON": sys.executable}
    command = [os.environ["HERDSMAN_BINARY"], "config", "migrate"]
    done = subprocess.run(command, env=env, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'zones = ["europe-west4-a"]' in (tmp_path / "herdsman.toml").read_text()
    # The launcher takes what it wrote.
    done = subprocess.run(
        [os.environ["HERDSMAN_BINARY"], "config", "get", "place.zones", "-o", "json"],
        env=env,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == ["europe-west4-a"], done.stderr
    assert subprocess.run(command, env=env, cwd=tmp_path, check=False, capture_output=True).returncode == 8
    done = subprocess.run(
        [*command, "--print", "-o", "json"],
        env=env,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout)["moved"] == {"cloudprovider.gcp.zone": ["place.zones"]}


def test_all_are_what_they_were():
    assert all(issubclass(cls, DropIn) for cls in CLASSES)
    assert isinstance(_bridge.PROTOCOL, int)
