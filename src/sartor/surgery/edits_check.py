"""What edits may change: a slice keeps existing indices once, an attribute that holds sizes gets other sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sartor.errors import BadInput
from sartor.structure.fibres import Rows


def check_kept(name: str, shape: Sequence[int], slices: Mapping[int, tuple[int, ...] | Rows]) -> None:
    """Check the kept indices of a tensor.

    Raises:
        BadInput: a dimension or an index that the tensor does not have, or an index that is kept twice.
    """
    for d, kept in slices.items():
        place = f"edits, tensor {name!r}, dimension {d}"
        if not 0 <= d < len(shape):
            raise BadInput(f"{place}: expected a dimension below {len(shape)}")
        rows = kept.rows if isinstance(kept, Rows) else (kept,)
        if not rows or len({len(row) for row in rows}) > 1:
            raise BadInput(f"{place}: expected as many kept indices in every row")
        for row in rows:
            if not row or len(set(row)) < len(row) or not 0 <= min(row) <= max(row) < shape[d]:
                raise BadInput(f"{place}: expected different indices below {shape[d]}; got {list(row)[:8]}")
        if isinstance(kept, Rows):
            if not 0 <= kept.along < len(shape) or kept.along == d or len(kept.which) != shape[kept.along]:
                raise BadInput(f"{place}: expected one row for each index along another dimension")
            if not all(0 <= row < len(rows) for row in kept.which):
                raise BadInput(f"{place}: expected rows below {len(rows)}; got {list(kept.which)[:8]}")


def check_size(path: str, attribute: str, old: Any, new: Any, largest: int) -> None:
    """Check that an attribute holds a size, or several, and gets as many.

    Args:
        path: of the module.
        attribute: its name.
        old: what the attribute is, without calling anything.
        new: its value after the edit.
        largest: size that any tensor of the network has.

    Raises:
        BadInput: the attribute is no whole number and no list of them, or the new value is not of its kind.
    """
    place = f"edits, attribute {attribute!r} of module {path!r}"
    if not _is_size(old):
        raise BadInput(f"{place}: a cut changes whole numbers and lists of them; this one is a {type(old).__name__}")
    several = isinstance(old, list | tuple)
    if not _is_size(new) or isinstance(new, list | tuple) != several or (several and len(new) != len(old)):
        raise BadInput(f"{place}: expected {f'{len(old)} whole numbers' if several else 'a whole number'}; got {new!r}")
    most = max(largest, *old) if several and old else largest if several else max(largest, old)
    if any(not 0 <= n <= most for n in (new if several else [new])):
        raise BadInput(f"{place}: expected sizes from 0 to {most}; got {new!r}")


def _is_size(x: Any) -> bool:
    return type(x) is int or (isinstance(x, list | tuple) and all(type(n) is int for n in x))


__all__ = ["check_kept", "check_size"]
