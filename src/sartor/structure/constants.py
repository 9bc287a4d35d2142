"""Arguments of slices and pads after a cut, for a forward that is rewritten."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sartor.structure.axes import Axis
from sartor.structure.calls import Op
from sartor.structure.masks import Masks


def pads(op: Op, masks: Mapping[Axis, Tensor]) -> list[tuple[int, int]]:
    """(amount as traced, amount after the cut) for each side, in the order of the argument."""
    out: list[tuple[int, int]] = []
    cut, amounts = Masks.of(masks), op.args[1]
    for i in range(len(amounts) // 2):
        before, after = amounts[2 * i : 2 * i + 2]
        mask = cut.mask(op.out.axes[op.out.ndim - 1 - i])
        out.append((before, int(mask[:before].sum()) if before > 0 else before))
        out.append((after, int(mask[len(mask) - after :].sum()) if after > 0 else after))
    return out


def moved(v: int, mask: Tensor) -> int:
    """A boundary of a slice after the cut; a negative one counts from the end."""
    return int(mask[:v].sum()) if v >= 0 else -int(mask[v:].sum())
