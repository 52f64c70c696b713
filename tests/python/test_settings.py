"""From arguments and dask.config to keys of herdsman.toml."""

import datetime
import json
import subprocess

import dask
import pytest
from conftest import BINARY

from herdsman import UsageError, _bridge, _settings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("20 minutes", "1200s"),
        ("1h30m", "1h30m"),
        (90, "90s"),
        (0.5, "500ms"),
        (datetime.timedelta(hours=2), "7200s"),
        (None, "off"),
        ("off", "off"),
    ],
)
def test_times(given, expected):
    assert _settings.duration(given) == expected


def test_arguments_that_were_not_given_are_no_wish():
    said = _settings.from_arguments(
        {"idle_timeout": _settings.Unset("20 minutes"), "region": None, "max_lifetime": None}
    )
    assert said == {"limits.lifetime": "off"}


def test_forms():
    said = _settings.from_arguments(
        {
            "n_workers": (2, 8),
            "worker_memory": "16 GiB",
            "worker_type": "m5.large",
            "spot": True,
            "wait_for_workers": 0.3,
            "allow": ["me", "10.0.0.0/8"],
        }
    )
    assert said == {
        "workers.count": "2..8",
        "workers.memory": f"{16 * 2**30}B",
        "workers.type": ["m5.large"],
        "workers.spot": "prefer",
        "wait": "0.3",
        "place.allow": ["me", "10.0.0.0/8"],
    }
    with pytest.raises(UsageError):
        _settings.from_arguments({"n_workers": (1, 2, 3)})


def test_options_of_dask():
    said = _settings.worker_options(
        {"nthreads": 4, "resources": {"GPU": 1}, "lifetime": "1h", "no_nanny": None, "death_timeout": 60}
    )
    assert said == {
        "workers.threads": "4",
        "workers.resources": {"GPU": 1.0},
        "workers.options": ["--lifetime=1h", "--death-timeout=60"],
    }
    assert _settings.scheduler_options({"idle_timeout": "1 hour"}) == {"limits.idle": "3600s"}
    assert _settings.worker_class("dask.distributed.Nanny") == {}
    assert _settings.worker_class("mine.Worker") == {"workers.class": "mine.Worker"}


def test_secret_variables_are_named_only():
    settings, secrets = _settings.variables({"A": 1, "AWS_SECRET_ACCESS_KEY": "s3cret", "DB_PASSWORD": "x"})
    assert settings == {
        "env.variables": {"A": "1"},
        "env.secrets": ["AWS_SECRET_ACCESS_KEY", "DB_PASSWORD"],
    }
    assert secrets == {"AWS_SECRET_ACCESS_KEY": "s3cret", "DB_PASSWORD": "x"}
    request = _bridge.Request(["up"], arguments=settings, secrets=secrets)
    assert not any("s3cret" in word for word in request.command())
    assert b"s3cret" not in request.document()
    assert request.environment()["AWS_SECRET_ACCESS_KEY"] == "s3cret"


def test_dask_config(monkeypatch):
    monkeypatch.setenv("DASK_HERDSMAN__MAX_LIFETIME", "3h")
    with dask.config.set(
        {"herdsman": {"idle-timeout": "1h", "limits": {"no-client": "2h"}, "max-lifetime": "3h"}}
    ):
        said = _settings.from_dask()
    assert said == {"limits.idle": "3600s", "limits.no_client": "2h"}, "the environment is the launcher's"


def test_groups():
    assert _settings.groups([{"name": "cpu", "n": 3, "cpu": 2}]) == {
        "workers.name": "cpu",
        "workers.count": "3",
        "workers.cpu": 2,
    }
    with pytest.raises(UsageError, match="one group"):
        _settings.groups([{}, {}])
    with pytest.raises(UsageError, match="sise"):
        _settings.groups([{"sise": 1}])


# --- what wins over what, asked of the launcher ---------------------------------------------


def resolved(**parts):
    request = _bridge.Request(["config", "get", "--why"], **parts)
    return _bridge.call(request).document


def test_order_of_sources(home, monkeypatch):
    toml = home / "work" / "herdsman.toml"
    named = home / "named.toml"
    toml.write_text('wait = "first"\n[limits]\nidle = "1m"\nlifetime = "1h"\nstart_timeout = "3m"\n')
    named.write_text('[limits]\nidle = "2m"\n')
    monkeypatch.setenv("HERDSMAN_LIFETIME", "2h")
    try:
        dask_says = {"limits.idle": "3m", "limits.lifetime": "3h", "limits.no_client": "3m"}
        defaults = {"wait": "all", "limits.max_workers": 7}
        found = resolved(dask=dask_says, defaults=defaults)
        assert found["limits.idle"]["value"] == "3m", "dask.config before herdsman.toml"
        assert found["limits.lifetime"]["value"] == "2h", "the environment before dask.config"
        assert found["wait"]["value"] == "first", "herdsman.toml before defaults"
        assert found["limits.max_workers"]["value"] == 7
        found = resolved(dask=dask_says, defaults=defaults, file=str(named))
        assert found["limits.idle"]["value"] == "2m", "a named file before dask.config"
        assert found["limits.start_timeout"]["value"] == "5m", "and in place of herdsman.toml"
        found = resolved(arguments={"limits.idle": "4m"}, dask=dask_says, file=str(named))
        assert found["limits.idle"]["value"] == "4m", "arguments before all"
        assert found["limits.idle"]["origin"] == {"from": "argument", "key": "limits.idle"}
    finally:
        toml.unlink()


def test_every_argument_is_a_setting():
    """Every key that arguments stand for is one that the launcher knows."""
    values = {
        str: "none",
        _settings.size: "1GiB",
        _settings.duration: "1h",
        _settings.count: 2,
        _settings.names: ["none"],
        _settings.spot: True,
        _settings.wait: 0.5,
        _settings.whole: 2,
        bool: True,
        float: 2.0,
    }
    arguments = {}
    for name, (key, form) in _settings.ARGUMENTS.items():
        value = values.get(form, 2)
        if name == "provider":
            value = "local"
        elif name == "env":
            value = "none"
        elif name == "docker_image":
            continue
        arguments[key] = form(value)
    resolved(arguments=arguments)


def test_unknown_settings_name_the_argument():
    with pytest.raises(UsageError, match="argument") as e:
        resolved(arguments={"limits.idel": "1h"})
    assert e.value.code == "E-USAGE"
    assert "idle" in str(e.value)


def test_another_protocol_is_refused_by_code():
    document = json.dumps({"protocol": 99}).encode()
    done = subprocess.run(
        [BINARY, "--settings", "-", "-o", "json", "config", "get"],
        input=document,
        capture_output=True,
        timeout=30,
    )
    assert json.loads(done.stdout)["error"]["code"] == "E-PROTOCOL"
