"""Certificates of a Dask client, which the launcher renews while a notebook runs.

Dask makes a TLS context once and keeps it, and a context keeps the certificate
that it was given. Certificates live for hours and notebooks for days, so contexts
that were made here are given the new certificate as soon as there is one.
"""

from __future__ import annotations

import os
import ssl
import weakref
from typing import Any

from distributed.security import Security


class ClusterSecurity(Security):
    """What Dask needs to reach a cluster of herdsman's."""

    def __init__(self, ca_file: str, certificate: str, key: str, **kwargs: Any) -> None:
        self._files = (ca_file, certificate, key)
        self._contexts: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        super().__init__(
            tls_ca_file=ca_file,
            tls_client_cert=certificate,
            tls_client_key=key,
            tls_min_version=ssl.TLSVersion.TLSv1_3,
            require_encryption=True,
            **kwargs,
        )
        self._seen = self._state()

    def get_connection_args(self, role: str) -> dict[str, Any]:
        args: dict[str, Any] = super().get_connection_args(role)
        context = args.get("ssl_context")
        if isinstance(context, ssl.SSLContext):
            self._contexts.add(context)
        return args

    def _state(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self._files[1])
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def refresh(self) -> bool:
        """Gives all contexts the certificate that is on disk now, if it is a new one.

        Whether it was. A file that cannot be read leaves everything as it is.
        """
        state = self._state()
        if state is None or state == self._seen:
            return False
        for context in list(self._contexts):
            try:
                context.load_cert_chain(*self._files[1:])
            except (OSError, ssl.SSLError):
                return False
        self._seen = state
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._files
