"""Example inputs of other sizes: every dimension that a model lets vary is varied.

Dimensions that always change together (the lengths of the ids and of their mask) are one *extent*. Which ones there are
is found by running the model on meta tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sartor.structure.example import Example, batch_of, map_tensors, tensors

Extent = tuple[tuple[int, int], ...]  # (number of the tensor, dimension) of the places that change together
Accepts = Callable[[Example], int]  # 0: not taken; 1: taken, other operators are called; 2: taken
_STEPS = (1, 2, 4, 8, 16, 32, 64)
_PACES = ((3, 7, 12), (5, 2, 11), (7, 13, 4), (2, 9, 5))  # steps by which each extent grows in each example
_LONG = 16  # sizes beyond it grow by about a quarter, a half and three quarters
_SHORT = ((1, 2, 3), (2, 3, 1), (3, 1, 2), (1, 3, 2))


def resized(example: Example, sizes: dict[tuple[int, int], int]) -> Example:
    """The example with other sizes, as meta tensors.

    Args:
        example: inputs.
        sizes: (number of the tensor, dimension) -> its size.
    """
    count = -1

    def resize(t: Tensor) -> Tensor:
        nonlocal count
        count += 1
        shape = [sizes.get((count, d), n) for d, n in enumerate(t.shape)]
        return torch.empty(shape, dtype=t.dtype, device="meta")

    return map_tensors(resize, example)


def extents(example: Example, accepts: Accepts) -> dict[Extent, int]:
    """What may vary: extent -> the smallest step by which it can be changed (negative: it can only shrink).

    Args:
        example: inputs that the model takes.
        accepts: whether the model takes other inputs of the same structure, on meta, and with the same operators.
    """
    found: dict[Extent, int] = {}
    left: list[Extent] = []
    for extent in _candidates(example):
        step = _step(example, extent, accepts)
        if step:
            found[extent] = step
        elif len(extent) > 1:
            for place in extent:
                step = _step(example, (place,), accepts)
                if step:
                    found[place,] = step
                else:
                    left.append((place,))
        else:
            left.append(extent)
    size = _sizes(example)
    for n in dict.fromkeys(size[e[0]] for e in left):
        together = tuple(place for e in left if size[e[0]] == n for place in e)
        if n > 1 and len(together) > 1:
            step = _step(example, together, accepts)
            if step:
                found[together] = step
    return found


def _sizes(example: Example) -> dict[tuple[int, int], int]:
    return {(i, d): n for i, t in enumerate(tensors(example)) for d, n in enumerate(t.shape)}


def _candidates(example: Example) -> list[Extent]:
    """The batch, then equal sizes at the same dimension of all tensors."""
    together: dict[tuple[int, int], list[tuple[int, int]]] = {}
    batch = batch_of(example)
    for (i, d), n in _sizes(example).items():
        together.setdefault((d, n), []).append((i, d))
    return [tuple(places) for _, places in sorted(together.items(), key=lambda e: e[0] != (0, batch))]


def _step(example: Example, extent: Extent, accepts: Accepts) -> int:
    """The smallest step that the model takes; 0: none."""
    n = _sizes(example)[extent[0]]
    second = 0  # a step for which other operators are called
    for step in (*_STEPS, *([n] if n not in _STEPS else []), *(-s for s in _STEPS if n - 3 * s >= 1)):
        grade = accepts(resized(example, dict.fromkeys(extent, n + step)))
        if grade == 2:
            return step
        second = second or (step if grade else 0)
    return second


def settings(example: Example, accepts: Accepts) -> list[Example]:
    """Examples of other sizes, three of them if the extents are independent; none if nothing may vary.

    All extents change at once, by different amounts in each example, so that no two sizes are equal by chance in all
    of them. Long extents grow by large amounts, so that what strides leave of them changes too; by small ones if the
    model does not take those. If it does not take such combinations, each extent is changed alone.
    """
    steps = extents(example, accepts)
    if not steps:
        return []
    size = _sizes(example)

    def changed(paces: Sequence[Sequence[int]], i: int, only: Extent | None = None, far: bool = False) -> Example:
        sizes: dict[tuple[int, int], int] = {}
        for k, (extent, step) in enumerate(steps.items()):
            if only is None or extent == only:
                pace, n = paces[k % len(paces)][i] + k // len(paces), size[extent[0]]
                times = n // (_LONG * abs(step)) + 1 if far and n > _LONG and step > 0 else 1
                sizes |= dict.fromkeys(extent, n + step * pace * times)
        if any(n < 1 for n in sizes.values()):
            return None
        return resized(example, sizes)

    for paces, far in ((_PACES, True), (_PACES, False), (_SHORT, False)):
        together = [changed(paces, i, far=far) for i in range(3)]
        if all(e is not None and accepts(e) > far for e in together):
            return together
    alone = [changed(_SHORT, i, extent) for extent in steps for i in (0, 1)]
    return [e for e in alone if e is not None and accepts(e)]


__all__ = ["Accepts", "Extent", "extents", "resized", "settings"]
