"""What a call of dask-cloudprovider's becomes, and the words in which its keywords
are described."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


class MigrationWarning(UserWarning):
    """Something of dask-cloudprovider's that is different here. Said once."""


@dataclass
class Plan:
    """What a call means in herdsman's words."""

    #: The class that was called, for sentences.
    name: str
    #: Arguments of :class:`herdsman.Cluster`.
    arguments: dict[str, Any] = field(default_factory=dict)
    #: Dotted keys of ``herdsman.toml``.
    settings: dict[str, Any] = field(default_factory=dict)
    #: Variables for the launcher alone, such as a cloud's token.
    secrets: dict[str, str] = field(default_factory=dict)
    #: What is to be said, by what it is about.
    warnings: dict[str, str] = field(default_factory=dict)
    #: The same, but nothing to worry about.
    notes: dict[str, str] = field(default_factory=dict)

    def set(self, key: str, value: Any) -> None:
        """A setting of the launcher's."""
        self.settings[key] = value

    def warn(self, about: str, sentence: str) -> None:
        """Says what is different."""
        self.warnings[about] = sentence

    def note(self, about: str, sentence: str) -> None:
        """Says it in the log only."""
        self.notes[about] = sentence


Put = Callable[[Plan, Any], None]


@dataclass(frozen=True)
class Keyword:
    """A keyword of the old package, and what becomes of it."""

    name: str
    #: Puts a value where it belongs. It is not called for what was not given.
    put: Put
    #: Where values end: settings (with a dot) and arguments of :class:`herdsman.Cluster`.
    to: tuple[str, ...] = ()
    #: For people: what is different. Needed where ``to`` is empty.
    says: str = ""
    #: The key in the old configuration, if it is not the name; empty: it has none.
    config: str | None = None
    #: The old configuration's own defaults, which are nobody's wish.
    usual: tuple[Any, ...] = ()
    #: What the old signature has where nothing is given, besides ``None``.
    absent: tuple[Any, ...] = ()
    #: Whether it is one of the old package's keywords, and not only in its files.
    keyword: bool = True

    def is_given(self, value: Any) -> bool:
        """Whether a value is somebody's wish."""
        return value is not None and not any(_same(value, a) for a in self.absent)


def is_usual(keyword: Keyword, value: Any) -> bool:
    """Whether it is the old configuration's own default."""
    return any(_same(value, u) for u in keyword.usual)


def _same(a: Any, b: Any) -> bool:
    # 0 and False are equal to Python, and are two wishes.
    return type(a) is type(b) and bool(a == b)


@dataclass(frozen=True)
class Vendor:
    """One of the old classes."""

    #: Its name, and the provider of the launcher's.
    name: str
    provider: str
    #: Its table in the old configuration, and tables besides.
    section: str
    keywords: tuple[Keyword, ...]
    #: Pairs of a keyword for all machines and those for each kind, of which only one
    #: may be given.
    exclusive: tuple[tuple[str, tuple[str, ...]], ...] = ()
    #: Keywords that the old documentation still names, with what to use.
    gone: Mapping[str, str] = field(default_factory=dict)


# --- forms of values ----------------------------------------------------------------------


def to(*keys: str, form: Callable[[Any], Any] = lambda v: v) -> Put:
    """Sets each of these keys."""

    def put(plan: Plan, value: Any) -> None:
        for key in keys:
            plan.set(key, form(value))

    return put


def argument(name: str, form: Callable[[Any], Any] = lambda v: v) -> Put:
    """An argument of :class:`herdsman.Cluster`."""

    def put(plan: Plan, value: Any) -> None:
        plan.arguments[name] = form(value)

    return put


def secret(variable: str) -> Put:
    """A variable that only the launcher sees."""

    def put(plan: Plan, value: Any) -> None:
        plan.secrets[variable] = str(value)

    return put


def gibibytes(value: Any) -> str:
    """What clouds call a gigabyte of disk."""
    return f"{int(value)}GiB"


def one(value: Any) -> list[str]:
    """A list of one, or the list."""
    return [value] if isinstance(value, str) else [str(v) for v in value]


def number(value: Any) -> int:
    """A number; the old package's empty text is 0."""
    return int(value or 0)


def spot(value: Any) -> str:
    """The old package asks for such machines or for ordinary ones, never for both."""
    return "only" if value else "never"


def nothing(_plan: Plan, _value: Any) -> None:
    """For what needs nothing here."""
