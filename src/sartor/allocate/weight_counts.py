"""How many weights of every matrix stay live, from a total: evenly, by sizes of layers, or by one threshold on scores.

Counts are exact: they add up to the total, unless the steps in which a pattern counts leave a rest that fits nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sartor.errors import BudgetNotMet

Shape = tuple[int, ...]


class Room(NamedTuple):
    """The counts that one matrix can have: least, least + step, ..., at most `most`."""

    least: int
    most: int
    step: int = 1

    def at_most(self, count: float) -> int:
        """The largest of them that is not above `count`; `least` if there is none."""
        return self.least + max(0, int(min(count, self.most)) - self.least) // self.step * self.step


def even_counts(sizes: Mapping[str, int], rooms: Mapping[str, Room], total: int) -> dict[str, int]:
    """The same share of every matrix, as far as the rooms allow.

    >>> even_counts({"a": 10, "b": 30}, {"a": Room(1, 10), "b": Room(1, 30)}, 20)
    {'a': 5, 'b': 15}
    """
    return rounded(_filled({n: float(k) for n, k in sizes.items()}, rooms, total), rooms, total)


def erdos_renyi_counts(
    shapes: Mapping[str, Shape], rooms: Mapping[str, Room], total: int, *, kernel: bool = True
) -> dict[str, int]:
    """Shares in proportion to (sum of the sizes) / (product of the sizes) of a matrix; small layers stay denser.

    A matrix whose share would exceed 1 is dense, and the others are scaled up.

    Args:
        shapes: [out, in, *kernel] of every matrix.
        rooms: the counts that it can have.
        total: of all matrices.
        kernel: whether the sizes of the kernel count among them.

    Source: Mocanu et al. 2018 (SET), arXiv:1707.04780, eq. 2; with the kernel Evci et al. 2020 (RigL),
    arXiv:1911.11134.

    >>> erdos_renyi_counts({"a": (10, 10), "b": (100, 100)}, {"a": Room(1, 100), "b": Room(1, 10_000)}, 1100)
    {'a': 100, 'b': 1000}
    """
    wished = {}
    for name, shape in shapes.items():
        inner = 1
        for k in shape[2:]:
            inner *= k
        wished[name] = float(sum(shape)) if kernel else float(sum(shape[:2]) * inner)
    return rounded(_filled(wished, rooms, total), rooms, total)


def threshold_counts(scores: Mapping[str, Tensor], rooms: Mapping[str, Room], total: int) -> dict[str, int]:
    """As many of every matrix as lie among the `total` largest scores of all, as far as the rooms allow.

    Args:
        scores: of every weight, any shape; comparable between matrices.
        rooms: the counts that a matrix can have.
        total: of all matrices.
    """
    _check(rooms, total)
    ranked = []
    for name, room in rooms.items():
        flat = scores[name].flatten().double()
        order = flat.argsort(descending=True, stable=True)
        flat = flat.index_fill(0, order[: room.least], torch.inf)
        ranked.append(flat.index_fill(0, order[room.most :], -torch.inf))
    everything = torch.cat(ranked)
    room_left = min(total, sum(r.most for r in rooms.values()))
    chosen = torch.zeros_like(everything, dtype=torch.bool)
    chosen[everything.topk(room_left, sorted=False).indices] = True
    parts = chosen.split([len(r) for r in ranked])
    return rounded({n: float(p.sum()) for n, p in zip(rooms, parts)}, rooms, total)


def rounded(wished: Mapping[str, float], rooms: Mapping[str, Room], total: int) -> dict[str, int]:
    """Counts near what is wished that the rooms have and that add up to `total`, or as near below as their steps allow.

    Raises:
        BudgetNotMet: the least counts of all rooms exceed the total.
    """
    _check(rooms, total)
    counts = {n: rooms[n].at_most(w + 1e-9) for n, w in wished.items()}
    while (excess := sum(counts.values()) - total) > 0:  # rooms whose least lies above what is wished
        able = [n for n in counts if counts[n] - rooms[n].step >= rooms[n].least]
        name = max(able, key=lambda n: (counts[n] - wished[n]) / rooms[n].step)
        steps = max(1, min(excess // rooms[name].step, int(counts[name] - wished[name]) // rooms[name].step))
        counts[name] -= min(steps, (counts[name] - rooms[name].least) // rooms[name].step) * rooms[name].step
    while True:
        left = total - sum(counts.values())
        able = [n for n in counts if rooms[n].step <= min(left, rooms[n].most - counts[n])]
        if not able:
            return counts
        name = max(able, key=lambda n: (wished[n] - counts[n]) / rooms[n].step)
        missing = max(1.0, min(float(left), wished[name] - counts[name]))
        counts[name] = max(rooms[name].at_most(counts[name] + missing), counts[name] + rooms[name].step)


def _filled(weights: Mapping[str, float], rooms: Mapping[str, Room], total: int) -> dict[str, float]:
    """Shares of the total in proportion to the weights, each at most what its room has; others get the excess."""
    full: set[str] = set()
    while True:
        left = total - sum(rooms[n].most for n in full)
        scale = left / (sum(w for n, w in weights.items() if n not in full) or 1.0)
        over = {n for n, w in weights.items() if n not in full and w * scale > rooms[n].most}
        if not over:
            return {n: float(rooms[n].most) if n in full else w * scale for n, w in weights.items()}
        full |= over


def _check(rooms: Mapping[str, Room], total: int) -> None:
    least = sum(r.least for r in rooms.values())
    if least > total:
        raise BudgetNotMet(
            f"weights: the budget allows {total} live weights; the pattern and the floor of {len(rooms)} matrices keep "
            f"at least {least}. Loosen the limit, lower 'allocate.floor', or choose another pattern"
        )


__all__ = ["Room", "erdos_renyi_counts", "even_counts", "rounded", "threshold_counts"]
