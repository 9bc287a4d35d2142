"""Strict comparison of what two networks return: structure, shapes, dtypes, integers, and numbers to a tolerance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.types.verdict import Gap

_ATOMS = (bool, int, str, bytes, type(None))


@dataclass(frozen=True)
class _Pair:
    where: str
    expected: Any
    actual: Any


def gap(expected: Any, actual: Any) -> Gap:
    """How far an output is from the expected one.

    Containers must have the same types, keys and lengths; tensors the same shape and dtype. Integers and booleans must
    be equal. Floating-point tensors are compared by the largest difference, relative to the largest finite value of the
    tensor; infinite values and NaN must stand at the same places.
    """
    worst, compared, where = 0.0, 0, ""
    for pair in _pairs("output", expected, actual):
        a, b = pair.expected, pair.actual
        if not isinstance(a, Tensor):
            return Gap(float("inf"), compared, f"{pair.where}: expected {a}; got {b}")
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            sizes = f"expected {tuple(a.shape)} {a.dtype}; got {tuple(b.shape)} {b.dtype}"
            return Gap(float("inf"), compared, f"{pair.where}: {sizes}")
        if not a.numel() or a.is_meta:
            continue
        error, counts = _error(a, b)
        compared += counts
        if not error <= worst:
            worst, where = error, pair.where
    return Gap(worst, compared, where)


def _error(a: Tensor, b: Tensor) -> tuple[float, bool]:
    """(relative error, whether there was a value to compare)."""
    if not (a.is_floating_point() or a.is_complex()):
        return (0.0 if torch.equal(a, b) else float("inf")), True
    finite = torch.isfinite(a)
    if not bool(finite.all()):
        if not torch.equal(finite, torch.isfinite(b)):
            return float("inf"), True
        special = ~finite
        if not a.is_complex() and not torch.equal(a[special].nan_to_num(nan=0.5), b[special].nan_to_num(nan=0.5)):
            return float("inf"), True
        a, b = a[finite], b[finite]
        if not a.numel():
            return 0.0, False
    if a.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()
    scale, difference = float(a.abs().max()), float((a - b).abs().max())
    error = difference / scale if scale else difference
    return (error if error == error else float("inf")), True


def _pairs(where: str, a: Any, b: Any) -> Iterator[_Pair]:
    """Tensors at the same place, and every other difference as a pair of descriptions."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        yield _Pair(where, a, b)
    elif type(a) is not type(b):
        yield _Pair(where, _described(a), _described(b))
    elif isinstance(a, Mapping):
        if list(a) != list(b):
            yield _Pair(where, f"the keys {list(a)}", list(b))
        else:
            for k in a:
                yield from _pairs(f"{where}[{k!r}]", a[k], b[k])
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            yield _Pair(where, f"{len(a)} values", len(b))
        else:
            for i, (x, y) in enumerate(zip(a, b)):
                yield from _pairs(f"{where}[{i}]", x, y)
    elif isinstance(a, float):
        yield _Pair(where, torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    elif isinstance(a, _ATOMS):
        if a != b:
            yield _Pair(where, repr(a), repr(b))
    elif hasattr(a, "__dict__") and not isinstance(a, nn.Module | type):
        yield from _pairs(where, dict(vars(a)), dict(vars(b)))


def _described(x: Any) -> str:
    return "None" if x is None else f"a {type(x).__name__}"


__all__ = ["gap"]
