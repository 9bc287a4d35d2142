"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def lazy_names(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A `__getattr__` for a package: it imports the module that defines a name, and keeps the name in the package.

    Args:
        package: such as "sartor.types".
        homes: module within the package -> the names that it defines.
    """

    def attribute(name: str) -> Any:
        for home, names in homes.items():
            if name in names:
                with _no_side_effects():
                    value = getattr(import_module(f"{package}.{home}"), name)
                setattr(sys.modules[package], name, value)
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute


@contextmanager
def _no_side_effects() -> Iterator[None]:
    """Filters of warnings and Python's random generator, which libraries change when they are imported, stay."""
    state = random.getstate()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(state)
