"""What goes wrong, with a code that stays the same, and with what can be tried.

Every error of the launcher becomes one of these. Those for which Python has a
word of its own are also that: a :class:`StartTimeout` is a ``TimeoutError``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "Cancelled",
    "ClusterExists",
    "HerdsmanError",
    "NotFound",
    "PartlyDone",
    "PermissionDenied",
    "QuotaError",
    "StartTimeout",
    "Unreachable",
    "UsageError",
    "VersionMismatch",
    "from_json",
]


class HerdsmanError(Exception):
    """Something that herdsman could not do.

    ``code`` never changes its meaning, such as ``E-QUOTA``. ``cause`` are further
    lines about why, ``try_`` lines to paste, ``log`` the last lines of a log.
    ``retryable`` says whether the same may go through later.
    """

    def __init__(
        self,
        code: str = "E-INTERNAL",
        message: str = "",
        *,
        cause: Iterable[str] = (),
        try_: Iterable[str] = (),
        log: Iterable[str] = (),
        retryable: bool = False,
        exit_code: int = 1,
    ) -> None:
        self.code = code
        self.message = message
        self.cause = list(cause)
        self.try_ = list(try_)
        self.log = list(log)
        self.retryable = retryable
        self.exit_code = exit_code
        super().__init__(code, message)

    @property
    def hint(self) -> list[str]:
        """The same as ``try_``."""
        return self.try_

    def __str__(self) -> str:
        lines = [f"[{self.code}] {self.message}"]
        lines += [f"  {line}" for line in self.cause]
        for i, line in enumerate(self.try_):
            lines.append(f"  {'try:' if i == 0 else '    '} {line}")
        lines += [f"  | {line}" for line in self.log]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        options = {
            "cause": self.cause,
            "try_": self.try_,
            "log": self.log,
            "retryable": self.retryable,
            "exit_code": self.exit_code,
        }
        return _rebuild, (type(self), self.code, self.message, options)


def _rebuild(kind: type[HerdsmanError], code: str, message: str, options: dict[str, Any]) -> HerdsmanError:
    return kind(code, message, **options)


class UsageError(HerdsmanError, ValueError):
    """An argument or a settings file is wrong."""


class NotFound(HerdsmanError, LookupError):
    """There is no such cluster, node or file."""


class PermissionDenied(HerdsmanError, PermissionError):
    """No credentials, or a permission is missing; names which."""

    # OSError has a text and a constructor of its own, which would win.
    __str__ = HerdsmanError.__str__


class QuotaError(HerdsmanError):
    """The account may not have so much, or the provider has nothing left."""


class StartTimeout(HerdsmanError, TimeoutError):
    """A deadline passed; the cause names the phase."""

    __str__ = HerdsmanError.__str__


class PartlyDone(HerdsmanError):
    """Some nodes failed, or something could not be deleted; the message lists them."""


class ClusterExists(HerdsmanError):
    """It exists with other settings, or another command is at work on it."""


class Unreachable(HerdsmanError, ConnectionError):
    """A cluster or a provider does not answer."""

    __str__ = HerdsmanError.__str__


class VersionMismatch(HerdsmanError):
    """Python, Dask, or the two halves of herdsman do not fit each other."""


class Cancelled(HerdsmanError):
    """The launcher was interrupted."""


_KINDS: dict[str, type[HerdsmanError]] = {
    "E-USAGE": UsageError,
    "E-MALFORMED": UsageError,
    "E-TOO-LARGE": UsageError,
    "E-NOT-FOUND": NotFound,
    "E-CREDENTIALS": PermissionDenied,
    "E-PERM": PermissionDenied,
    "E-FORBIDDEN": PermissionDenied,
    "E-CERT": PermissionDenied,
    "E-REVOKED": PermissionDenied,
    "E-QUOTA": QuotaError,
    "E-CAPACITY": QuotaError,
    "E-RATE": QuotaError,
    "E-DEADLINE": StartTimeout,
    "E-TOO-EARLY": StartTimeout,
    "E-BOOT": PartlyDone,
    "E-DASK": PartlyDone,
    "E-LEFTOVER": PartlyDone,
    "E-CONFLICT": ClusterExists,
    "E-UNREACHABLE": Unreachable,
    "E-MISMATCH": VersionMismatch,
    "E-PROTOCOL": VersionMismatch,
    "E-ENV": VersionMismatch,
    "E-INTERRUPTED": Cancelled,
}


def kind_of(code: str) -> type[HerdsmanError]:
    """The class of errors with this code."""
    return _KINDS.get(code, HerdsmanError)


def from_json(document: Mapping[str, Any], exit_code: int = 1) -> HerdsmanError:
    """The exception for ``{"error": {…}}`` as the launcher writes it."""
    error = document.get("error", document)
    code = str(error.get("code", "E-INTERNAL"))
    cause = [str(line) for line in error.get("cause") or ()]
    hints = error.get("try") or error.get("hint") or ()
    return kind_of(code)(
        code,
        str(error.get("message", "")),
        cause=cause,
        try_=[str(line) for line in hints],
        log=_log_lines(cause),
        retryable=bool(error.get("retryable", False)),
        exit_code=int(error.get("exit", exit_code)),
    )


def _log_lines(cause: list[str]) -> list[str]:
    """Lines of a log that an error quotes: all behind the line that announces them."""
    for i, line in enumerate(cause):
        if "last line" in line and line.rstrip().endswith(":"):
            quoted = cause[i + 1 :]
            del cause[i:]
            return quoted
    return []
