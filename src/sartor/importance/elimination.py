"""Which units the others can replace: backward elimination on the Gram matrices of their readers.

When a unit is removed, its readers are refitted on the remaining inputs, so its cost is the part of their results that
no linear combination of the remaining inputs reproduces. The inverse Gram matrix gives that part in closed form for
every unit at once, and one downdate removes the cheapest unit and refits the readers to the rest.

A step costs O(inputs * outputs) and the whole order O(inputs^3): the costs of all units need only the diagonal blocks
of the inverse and of weight^T weight, and these are updated at every step. The inverse and the weight themselves are
updated for many removals at once by one matrix product; in between, the few rows that a step reads are corrected for
the removals that are still pending. A step is some twenty calls on short rows, where NumPy costs less than torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.blas import dgemm

from sartor.activations.readers import Read

Array = NDArray[np.float64]

_PENDING = 64  # removed inputs of one reader that wait for one matrix product
_COMPACT = 0.75  # share of the inputs still in use below which removed ones are taken out of the matrices
_ROWS = 256  # of a matrix that are moved at once


def elimination(reads: Sequence[Read], *, ridge: float = 1e-3) -> tuple[list[int], list[float]]:
    """The order in which units are removed, and the cost that each adds to those before it.

    Args:
        reads: all readers of one group. The inputs of different units must be different ones.
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
    >>> order[1], [round(c, 3) for c in cost]  # either of the equal units goes first, for nothing
    (2, [0.0, 1.0, 4.0])
    """
    states = [_State(r, ridge) for r in reads]
    units = np.arange(len(reads[0].columns))  # those that the matrices hold, some of them removed
    there = np.ones(len(units), dtype=bool)
    order: list[int] = []
    costs: list[float] = []
    for left in range(len(units), 0, -1):
        root = np.sum([s.root_costs() for s in states], axis=0)
        which = int(np.where(there, root, np.inf).argmin())
        order.append(int(units[which]))
        costs.append(float(root[which]) ** 2)
        there[which] = False
        if left == 1:
            break
        for s in states:
            s.remove(which)
        if left - 1 < _COMPACT * len(units):
            for s in states:
                s.compact(there)
            units, there = units[there], there[there]
    return order, costs


class _State:
    """A reader, refitted to the units that are left.

    Inputs are ordered so that the k of each unit stand together, those that belong to no unit last.
    """

    def __init__(self, read: Read, ridge: float):
        gram, columns = read.gram, read.columns.to(read.gram.device)
        (self.units, self.k), self.scale = columns.shape, read.scale
        size = gram.diagonal().mean().clamp(min=1e-30)
        others = torch.ones(len(gram), dtype=torch.bool, device=gram.device)
        others[columns] = False
        inputs = torch.cat([columns.reshape(-1), others.nonzero()[:, 0]])
        whole = gram[inputs][:, inputs]
        whole.diagonal().add_(ridge * size)
        weight = read.weight[:, inputs]
        if len(weight) > len(inputs):  # only weight^T weight counts
            weight = torch.linalg.qr(weight, mode="r").R
        factor, failed = torch.linalg.cholesky_ex(whole)
        inverse = torch.linalg.inv(whole) if bool(failed) else torch.cholesky_inverse(factor)
        self.inverse: Array = inverse.contiguous().cpu().numpy()  # [inputs, inputs], without what is pending
        self.weight: Array = weight.contiguous().cpu().numpy()  # [outputs, inputs], without what is pending
        self._begin()

    def _begin(self) -> None:
        """Nothing is pending; the blocks are those of the matrices."""
        k, n = self.k, self.units
        most = max(_PENDING, k)
        # for each pending input: the row of the inverse, the same solved by its block, the column of the weight
        self.rows, self.solved = np.empty((2, most, len(self.inverse)))
        self.taken = np.empty((most, len(self.weight)))
        self.pending = 0
        own = np.arange(n * k).reshape(n, k)
        self.block = self.inverse[own[:, :, None], own[:, None, :]]  # [units, k, k], of the inverse as it is now
        self._weigh()

    def _weigh(self) -> None:
        """The diagonal blocks of weight^T weight, anew from a weight without pending changes."""
        w = self.weight[:, : self.units * self.k].T.reshape(self.units, self.k, -1)
        self.square = w @ w.transpose(0, 2, 1)

    def root_costs(self) -> Array:
        """[units]: square root of the error that removing each alone adds; of a removed unit some finite number."""
        if self.k == 1:
            cost = self.square[:, 0, 0] / self.block[:, 0, 0]
        else:
            cost = np.linalg.solve(self.block, self.square).trace(axis1=1, axis2=2)
        root: Array = np.sqrt(np.maximum(self.scale * cost, 0.0))
        return root

    def remove(self, unit: int) -> None:
        """Remove a unit and refit the reader to the others."""
        k, own = self.k, self.units * self.k
        if self.pending + k > len(self.rows):
            self._settle()
        c, before, now = slice(unit * k, unit * k + k), self.pending, slice(self.pending, self.pending + k)
        rows, solved, taken = self.rows[:before], self.solved[:before], self.taken[:before]
        mine = self.inverse[c] - rows[:, c].T @ solved  # [k, inputs]
        part = mine / mine[:, c] if k == 1 else np.asarray(np.linalg.solve(mine[:, c], mine), dtype=np.float64)
        weight = self.weight[:, c].T - solved[:, c].T @ taken  # [k, outputs]
        across = weight @ self.weight - (weight @ taken.T) @ solved  # of weight^T weight
        across -= (0.5 * weight @ weight.T) @ part
        self.rows[now], self.solved[now], self.taken[now] = mine, part, weight
        self.pending += k
        self.block -= self._blocks(mine[:, :own], part[:, :own])
        change = self._blocks(across[:, :own], part[:, :own])
        self.square -= change
        self.square -= change.transpose(0, 2, 1)
        self.block[unit] = np.eye(k)  # removed: never singular

    def compact(self, left: NDArray[np.bool_]) -> None:
        """Take removed units out of the matrices.

        Args:
            left: [units], False for those that were removed.
        """
        self._settle()
        others = np.ones(len(self.inverse) - self.units * self.k, dtype=bool)
        keep = np.concatenate([left.repeat(self.k), others]).nonzero()[0]
        n = len(keep)
        smaller = self.inverse.reshape(-1)[: n * n].reshape(n, n)  # in place: rows move towards the front
        for low in range(0, n, _ROWS):
            smaller[low : low + _ROWS] = self.inverse[keep[low : low + _ROWS]].take(keep, axis=1)
        self.inverse, self.weight = smaller, self.weight[:, keep]
        self.units = int(left.sum())
        self._begin()

    def _settle(self) -> None:
        """Carry out what is pending."""
        rows, solved, taken = self.rows[: self.pending], self.solved[: self.pending], self.taken[: self.pending]
        # the transpose of a symmetric matrix in C order is the same matrix in the order that BLAS writes to
        self.inverse = dgemm(-1.0, solved.T, rows.T, 1.0, self.inverse.T, trans_b=True, overwrite_c=True).T
        self.weight -= taken.T @ solved
        self.pending = 0
        self._weigh()

    def _blocks(self, a: Array, b: Array) -> Array:
        """The blocks of a^T b that belong to one unit each: [k, units * k] twice -> [units, k, k]."""
        if self.k == 1:
            return (a * b).reshape(-1, 1, 1)
        a, b = (t.reshape(self.k, self.units, self.k) for t in (a, b))
        return a.transpose(1, 2, 0) @ b.transpose(1, 0, 2)
