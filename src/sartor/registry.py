"""Registries: name -> entry. Recipes and the command line use names; Python code may also pass the value itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sartor.errors import BadInput, UnknownName

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered value with its description."""

    name: str
    value: T
    source: str  # publication or origin
    summary: str  # one line
    traits: Mapping[str, Any] = field(default_factory=dict)  # properties that code may depend on


class Registry(Generic[T]):
    """The registered values of one kind. The error for an unknown name suggests the nearest one.

    >>> colours = Registry("colour")
    >>> colours.add("red", 1, source="a tomato")
    1
    >>> colours["red"].source
    'a tomato'
    >>> colours["rad"]
    Traceback (most recent call last):
    ...
    sartor.errors.UnknownName: no colour is called 'rad'. Did you mean 'red'?
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def add(self, name: str, value: T, *, source: str, summary: str = "", **traits: Any) -> T:
        """Register `value` under `name` and return it.

        Args:
            name: not yet registered.
            value: to register.
            source: publication or origin.
            summary: one line; "": the first line of the value's docstring.
            traits: properties that code may depend on.

        Raises:
            BadInput: the name is already registered.
        """
        if name in self._entries:
            raise BadInput(f"{self.kind} {name!r} is already registered")
        summary = summary or (getattr(value, "__doc__", None) or "").strip().split("\n")[0]
        self._entries[name] = Entry(name, value, source, summary, traits)
        return value

    def register(self, name: str, *, source: str, summary: str = "", **traits: Any) -> Callable[[T], T]:
        """`add` as a decorator."""
        return lambda value: self.add(name, value, source=source, summary=summary, **traits)

    def __getitem__(self, name: str) -> Entry[T]:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownName(self.kind, name, self._entries) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry[T]]:
        """All entries, by name."""
        return [self._entries[n] for n in self]
