"""From ``cloudprovider.*`` to ``herdsman.toml``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dask.config
import pytest

from herdsman import _migrate
from herdsman._migrate import found, toml

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

CONFIG = {
    "ec2": {
        "region": "eu-central-1",
        "instance_type": "t2.micro",  # the old default
        "worker_instance_type": "m7i.large",
        "filesystem_size": 100,
        "instance_tags": {"team": "geo", "a b": 'say "hi"'},
        "security_groups": ["sg-1"],
        "auto_shutdown": False,
        "docker_image": "rapidsai/base:25",
        "extra_bootstrap": ['echo "it\'s"'],
    },
    "digitalocean": {"token": "dop_v1_secret", "region": "fra1"},
    "hetzner": {"server_type": "cx11", "token": None},
    "ibm": {"region": "us-east"},
}


def test_what_somebody_said_is_moved_and_nothing_else():
    aws, digitalocean = found(CONFIG)
    assert aws.settings == {
        "extra_bootstrap": ['echo "it\'s"'],
        "limits.idle": "off",
        "place.region": "eu-central-1",
        "workers.type": ["m7i.large"],
        "place.security_groups": ["sg-1"],
        "workers.disk": "100GiB",
        "scheduler.disk": "100GiB",
        "aws.instance_tags": {"team": "geo", "a b": 'say "hi"'},
    }
    assert aws.moved["cloudprovider.ec2.filesystem_size"] == ["workers.disk", "scheduler.disk"]
    assert any("rapidsai/base:25" in r for r in aws.remarks)
    assert digitalocean.secrets == {"DIGITALOCEAN_TOKEN": "cloudprovider.digitalocean.token"}
    assert "dop_v1" not in toml(digitalocean) + json.dumps(digitalocean.remarks)


@pytest.mark.skipif(tomllib is None, reason="no tomllib")
def test_the_file_says_the_same():
    aws, _ = found(CONFIG)
    document = tomllib.loads(toml(aws))
    assert document["provider"] == "aws" and document["version"] == 1
    assert document["workers"] == [{"type": ["m7i.large"], "disk": "100GiB"}]
    assert document["aws"]["instance_tags"] == {"team": "geo", "a b": 'say "hi"'}
    assert document["extra_bootstrap"] == ['echo "it\'s"']


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with dask.config.set({"cloudprovider": CONFIG}):
        assert _migrate.main([]) == 2  # of which cloud?
        assert "--provider aws" in capsys.readouterr().err
        assert _migrate.main(["--provider", "aws"]) == 0
        said = capsys.readouterr().err
        assert "cloudprovider.ec2.region → place.region" in said and "IBMCodeEngineCluster" in said
        assert "[[workers]]" in (tmp_path / "herdsman.toml").read_text()
        assert _migrate.main(["--provider", "aws"]) == 8
        assert _migrate.main(["--provider", "aws", "--force"]) == 0
        assert _migrate.main(["--provider", "gcp"]) == 3
        capsys.readouterr()
        assert _migrate.main(["--provider", "digitalocean", "--print", "--json"]) == 0
        said = capsys.readouterr().out
        assert json.loads(said)["export"] == {"DIGITALOCEAN_TOKEN": "cloudprovider.digitalocean.token"}
        assert "dop_v1" not in said
    with dask.config.set({"cloudprovider": {}}):
        assert _migrate.main(["--json"]) == 3
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "E-NOT-FOUND"


def test_withdrawn_types_are_told_and_not_written():
    (only,) = found({"hetzner": {"server_type": "cx31", "location": "nbg1"}})
    assert only.settings == {"place.region": "nbg1"} and "cx33" in only.remarks[0]


def test_files_of_dask_are_read(tmp_path):
    """As a user has it: YAML in dask's folder, a variable, and no cloud's package."""
    (tmp_path / "cloudprovider.yaml").write_text(
        "cloudprovider:\n  gcp:\n    zone: europe-west4-a\n    ngpus: ''\n"
    )
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(_migrate.__file__).parents[1]),
        "DASK_CONFIG": str(tmp_path),
        "DASK_CLOUDPROVIDER__GCP__PROJECTID": "my-project",
    }
    done = subprocess.run(
        [sys.executable, "-m", "herdsman._migrate", "--print"],
        env=env,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'zones = ["europe-west4-a"]' in done.stdout and 'project = "my-project"' in done.stdout
    assert "gpus" not in done.stdout
