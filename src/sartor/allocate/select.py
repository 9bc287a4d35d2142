"""Which groups may be cut, by the patterns of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from sartor.errors import BadInput, UnknownName


def select(names: Sequence[str], only: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[str]:
    """Names that match any pattern of `only` (all if it is empty) and none of `exclude`, in order.

    Raises:
        UnknownName: a pattern matches nothing, which is a misspelling more often than not.
        BadInput: nothing is left.

    >>> select(["a.0", "a.1", "b"], only=["a.*"], exclude=["*.1"])
    ['a.0']
    """
    for pattern in (*only, *exclude):
        if not any(fnmatchcase(n, pattern) for n in names):
            raise UnknownName("group matching the pattern", pattern, names)
    chosen = [
        n
        for n in names
        if (not only or any(fnmatchcase(n, p) for p in only)) and not any(fnmatchcase(n, p) for p in exclude)
    ]
    if names and not chosen:
        raise BadInput(f"recipe fields 'only' and 'exclude' leave no group to cut, of {len(names)}; loosen them")
    return chosen
