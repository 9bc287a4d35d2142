"""Which units the others can replace: backward elimination on the Gram matrices of their readers.

When a unit is removed, its readers are refitted on the remaining inputs, so its cost is the part of their results that
no linear combination of the remaining inputs reproduces. The inverse Gram matrix gives that part in closed form for
every unit at once, and one downdate removes the cheapest unit and refits the readers to the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sartor.activations.readers import Read


def elimination(reads: Sequence[Read], *, ridge: float = 1e-3) -> tuple[list[int], list[float]]:
    """The order in which units are removed, and the cost that each adds to those before it.

    Args:
        reads: all readers of one group.
        ridge: added to the diagonal of a Gram matrix, relative to its mean.

    Returns:
        (units in the order of their removal; for each, the squared error that its removal adds, summed over outputs,
        mean over rows, times `scale`). With one reader the costs of all units add up to the loss of everything that
        varies. Several readers lose the same information, so their errors are assumed to point the same way: they are
        added before they are squared.

    Source: the block form of Hassibi and Stork 1993, "Optimal Brain Surgeon", for a least-squares layer; the selection
    criterion of He et al. 2017, arXiv:1707.06168, section 3.1, solved by backward elimination instead of the lasso.

    >>> same = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()  # the first two are equal
    >>> read = Read(same, torch.ones(1, 3).double(), torch.arange(3).reshape(3, 1))
    >>> order, cost = elimination([read], ridge=1e-9)
    >>> order, [round(c, 3) for c in cost]
    ([0, 2, 1], [0.0, 1.0, 4.0])
    """
    states = [_State(r, ridge) for r in reads]
    alive = list(range(len(reads[0].columns)))
    order, costs = [], []
    while alive:
        left = torch.tensor(alive)
        cost = torch.stack([s.costs(left) for s in states]).sqrt().sum(0).square()
        which = int(cost.argmin())
        unit = alive.pop(which)
        order.append(unit)
        costs.append(float(cost[which]))
        for s in states:
            s.remove(unit)
    return order, costs


class _State:
    """A reader, refitted to the units that are left."""

    def __init__(self, read: Read, ridge: float):
        self.columns, self.scale = read.columns.to(read.gram.device), read.scale
        size = read.gram.diagonal().mean().clamp(min=1e-30)
        eye = torch.eye(len(read.gram), dtype=read.gram.dtype, device=read.gram.device)
        self.inverse = torch.linalg.inv(read.gram + ridge * size * eye)
        self.weight = read.weight.clone()

    def costs(self, units: Tensor) -> Tensor:
        """Error added by removing each of these alone, on the CPU."""
        c = self.columns[units.to(self.columns.device)]  # [n, k]
        block = self.inverse[c[:, :, None], c[:, None, :]]  # [n, k, k]
        w = self.weight[:, c].permute(1, 2, 0)  # [n, k, outputs]
        return self.scale * (w * torch.linalg.solve(block, w)).sum((1, 2)).clamp(min=0).cpu()

    def remove(self, unit: int) -> None:
        """Remove a unit and refit the reader to the others."""
        c = self.columns[unit]
        rows = self.inverse[c]
        solved = torch.linalg.solve(rows[:, c], rows)  # [k, inputs]
        self.weight -= self.weight[:, c] @ solved
        self.inverse -= rows.T @ solved
        self.inverse[c, c] = 1.0  # removed: never read again, and never singular
