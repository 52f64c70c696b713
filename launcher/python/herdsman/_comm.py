"""``Client("herdsman://NAME")``: a scheme of Dask's that knows clusters by name.

The launcher says where the cluster's scheduler is and renews the certificate on the way;
what flows is Dask's own TLS.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from distributed.comm.addressing import parse_address
from distributed.comm.core import Comm, Connector
from distributed.comm.registry import Backend, get_backend
from distributed.security import Security

from herdsman import _bridge, _settings
from herdsman._security import ClusterSecurity

SCHEME = "herdsman"

#: How long what was learnt of a cluster holds.
_FRESH = 60.0


@dataclass
class _Known:
    address: str
    security: Security
    at: float


_known: dict[str, _Known] = {}
_lock = threading.Lock()


def _name(address: str) -> str:
    return address.split("://", 1)[-1].strip("/")


def lookup(name: str) -> _Known:
    """Where a cluster is and what opens it.

    Raises ``herdsman.NotFound`` where there is none.
    """
    with _lock:
        known = _known.get(name)
        if known is not None and time.monotonic() - known.at < _FRESH:
            return known
        request = _bridge.Request(["env", name] if name else ["env"], dask=_settings.from_dask())
        variables = _bridge.call(request, timeout=60).document
        address = str(variables["DASK_SCHEDULER_ADDRESS"])
        ca = variables.get("DASK_DISTRIBUTED__COMM__TLS__CA_FILE")
        if ca is None:
            security = Security()
        elif known is not None and isinstance(known.security, ClusterSecurity):
            security = known.security
            security.refresh()
        else:
            security = ClusterSecurity(
                ca,
                variables["DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT"],
                variables["DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY"],
            )
        known = _known[name] = _Known(address, security, time.monotonic())
        return known


def security_loader(info: dict[str, Any]) -> Security | None:
    """For ``distributed.client.security-loader``: certificates for our scheme alone."""
    address = str(info.get("address") or "")
    if not address.startswith(f"{SCHEME}://"):
        return None
    return lookup(_name(address)).security


class HerdsmanConnector(Connector):
    """Connects to the scheduler of the cluster that the address names."""

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Comm:
        known = await _bridge.in_thread(lambda: lookup(_name(address)))
        scheme, location = parse_address(known.address)
        if connection_args.get("ssl_context") is None:
            # A client that was not told of our certificates.
            connection_args = known.security.get_connection_args("client")
        connector: Any = get_backend(scheme).get_connector()
        return await connector.connect(location, deserialize=deserialize, **connection_args)


class HerdsmanBackend(Backend):
    """The scheme, for clients only."""

    def get_connector(self) -> Connector:
        return HerdsmanConnector()

    def get_listener(self, loc: str, handle_comm: Any, deserialize: bool, **connection_args: Any) -> Any:
        raise NotImplementedError("nobody listens at herdsman://; it is for clients")

    def get_address_host(self, loc: str) -> str:
        _, location = parse_address(lookup(_name(loc)).address)
        return location.rsplit(":", 1)[0]

    def resolve_address(self, loc: str) -> str:
        return loc

    def get_local_address_for(self, loc: str) -> str:
        raise NotImplementedError("herdsman:// has no addresses of its own")
