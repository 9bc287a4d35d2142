"""Gather-scatter patterns GS(B, e): packs of B weights in B different memory banks, e of every row of their group."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import linprog
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor

from sartor.errors import BadInput, SartorError
from sartor.sparse.patterns.projection import PATTERNS, Shape, Sizes, squares, top_mask
from sartor.types.weights import GatherScatter

Array = np.ndarray


@PATTERNS.register(
    "gather-scatter",
    source="Sun et al. 2021 (gather-scatter patterns), arXiv:2112.10898",
    summary="Packs of B weights with different columns modulo B, e of every row of a group",
)
class GatherScatterPattern:
    """R = B / e consecutive rows share packs; a pack has e weights of each row, one in every bank (column modulo B).

    Columns are [kernel position, in], the inputs fastest. A set of weights of a group is P packs exactly if every row
    has P e of them and every bank P (see `packs`), so the best set is a transportation problem: rows supply P e, banks
    demand P, and a place of a row in a bank pays its score. How many packs a group has follows from the largest scores
    of the whole matrix.
    """

    def __init__(self, how: GatherScatter):
        self.how = how
        self.rows = how.banks // how.each

    def misfit(self, shape: Shape) -> str | None:
        """Rows have to be a multiple of B / e, columns of B."""
        if shape[0] % self.rows:
            return f"{shape[0]} outputs are no multiple of {self.rows}"
        columns = math.prod(shape[1:])
        return f"{columns} columns are no multiple of {self.how.banks}" if columns % self.how.banks else None

    def sizes(self, shape: Shape) -> Sizes:
        """Multiples of a pack, at least one."""
        return Sizes(self.how.banks, math.prod(shape), self.how.banks)

    def project(self, scores: Tensor, live: int) -> Tensor:
        """The packs with the largest sum of scores."""
        matrix = _matrix(scores)
        gain = squares(matrix).sqrt().cpu().numpy().reshape(-1, self.rows, matrix.shape[1])
        support = best_support if self.how.support == "optimal" else greedy_support
        counts = self._packs_by_group(matrix, live // self.how.banks)
        masks = [support(g, int(n), self.how) for g, n in zip(gain, counts)]
        mask = torch.from_numpy(np.concatenate(masks)).to(scores.device)
        return _unmatrix(mask, tuple(scores.shape))

    def holds(self, mask: Tensor) -> bool:
        """Whether rows and banks of every group have as many weights as packs need."""
        if self.misfit(tuple(mask.shape)) is not None:
            return False
        groups = _matrix(mask).reshape(-1, self.rows, math.prod(mask.shape[1:]))
        return all(histograms_fit(g.cpu().numpy(), self.how) for g in groups)

    def norms_squared(self, weight: Tensor) -> Tensor:
        """Weights go one by one."""
        return weight.square()

    def _packs_by_group(self, matrix: Tensor, total: int) -> Array:
        """Packs of every group, in proportion to its share of the largest scores, `total` in all."""
        most = matrix.shape[1] // self.how.each
        live = top_mask(matrix, total * self.how.banks).reshape(-1, self.rows * matrix.shape[1]).sum(1)
        wished = live.double().cpu().numpy() / self.how.banks
        counts = np.minimum(np.floor(wished), most).astype(np.int64)
        while (missing := total - int(counts.sum())) > 0:
            room = np.where(counts < most, wished - counts, -np.inf)
            counts[np.argsort(-room, kind="stable")[: min(missing, int((counts < most).sum()))]] += 1
        return counts


def best_support(gain: Array, packs: int, how: GatherScatter) -> Array:
    """The mask of this many packs with the largest sum of gains, by a linear program.

    Its matrix (each place is counted once in a row and once in a bank) is totally unimodular, so a vertex is a mask.

    Args:
        gain: [rows of a group, columns], finite and at least 0.
        packs: number of packs, at most columns / e.
        how: B and e.

    Returns:
        bool, the shape of `gain`: packs * e in every row, packs in every bank.

    Raises:
        SartorError: the solver failed.
    """
    rows, columns = gain.shape
    if packs in (0, columns // how.each):
        return np.full(gain.shape, packs > 0)
    at_row = sp.kron(sp.identity(rows), np.ones((1, columns)))
    at_bank = sp.kron(np.ones((1, rows)), sp.kron(np.ones((1, columns // how.banks)), sp.identity(how.banks)))
    solved = linprog(
        -(gain / max(gain.max(), 1e-300)).ravel(),
        A_eq=sp.vstack([at_row, at_bank]).tocsr(),
        b_eq=np.r_[np.full(rows, packs * how.each), np.full(how.banks, packs)],
        bounds=(0, 1),
        method="highs-ds",
    )
    if solved.x is None:
        raise SartorError(f"gather-scatter pattern: the linear program of {packs} packs failed: {solved.message}")
    mask: Array = solved.x.reshape(gain.shape) > 0.5
    if not histograms_fit(mask, how):
        raise SartorError(f"gather-scatter pattern: the solver's answer for {packs} packs is no set of packs")
    return mask


def greedy_support(gain: Array, packs: int, how: GatherScatter) -> Array:
    """The mask built pack by pack, each of the largest gains that its rows and banks have room for.

    The published projection; `best_support` keeps at least as much.
    """
    rows, columns = gain.shape
    left = gain.astype(np.float64).reshape(rows, columns // how.banks, how.banks).copy()
    mask = np.zeros(left.shape, dtype=bool)
    for _ in range(packs):
        head = left.max(1)  # [rows, banks]: the best weight that is left
        at = left.argmax(1)
        free = np.isfinite(head)
        row_room, bank_free = np.full(rows, how.each), np.ones(how.banks, dtype=bool)
        for _ in range(how.banks):
            table = np.where(free & (row_room > 0)[:, None] & bank_free[None, :], head, -np.inf)
            r, b = np.unravel_index(int(table.argmax()), table.shape)
            if not np.isfinite(table[r, b]):  # the free places fit no row with room: take the optimal rest
                return _completed(mask, gain, packs, how)
            mask[r, at[r, b], b] = True
            left[r, at[r, b], b] = -np.inf
            row_room[r] -= 1
            bank_free[b] = False
    return mask.reshape(rows, columns)


def _completed(mask: Array, gain: Array, packs: int, how: GatherScatter) -> Array:
    """A set of packs that keeps as many weights of a partial mask as possible, then the largest gains."""
    preferred = gain / max(float(gain.max()), 1e-300) + (1.0 + gain.size) * mask.reshape(gain.shape)
    return best_support(preferred, packs, how)


def histograms_fit(mask: Array, how: GatherScatter) -> bool:
    """Whether the live weights of a group are a set of packs: equal counts P e of all rows and P of all banks."""
    by_row = mask.sum(1)
    by_bank = mask.reshape(mask.shape[0], -1, how.banks).sum((0, 1))
    packs = int(by_bank[0])
    return bool((by_bank == packs).all() and (by_row == packs * how.each).all())


def packs(mask: Array, how: GatherScatter) -> Array:
    """The live weights of a group as packs.

    Split every row into e rows of P weights each: banks and split rows are then a bipartite graph in which every node
    has P edges, and such a graph is a union of P perfect matchings (König 1916). A matching is a pack.

    Args:
        mask: bool [rows of a group, columns] that `histograms_fit`.
        how: B and e.

    Returns:
        int64 [packs, B, 2]: row and column of each weight, by bank.

    Raises:
        BadInput: the mask is no set of packs.
    """
    if not histograms_fit(mask, how):
        raise BadInput("gather-scatter packs: expected a mask of whole packs; rows or banks have other counts")
    row, column = np.nonzero(mask)  # row by row, so a row's weights lie beside each other
    number = int(mask.sum()) // how.banks
    split = np.arange(len(row)) // max(number, 1)  # [weights]: which of the rows * e split rows
    bank = column % how.banks
    left = np.ones(len(row), dtype=bool)
    found = np.zeros((number, how.banks, 2), dtype=np.int64)
    for pack in found:
        edges = np.nonzero(left)[0]
        table = sp.csr_matrix((np.ones(len(edges)), (split[edges], bank[edges])), shape=(how.banks, how.banks))
        match = maximum_bipartite_matching(table, perm_type="column")  # bank of each split row
        first = {(s, b): e for e, s, b in zip(edges[::-1], split[edges[::-1]], bank[edges[::-1]])}
        for s, b in enumerate(match):
            edge = first[s, b]
            left[edge] = False
            pack[b] = row[edge], column[edge]
    return found


def _matrix(t: Tensor) -> Tensor:
    """[out, kernel positions * in], the inputs fastest."""
    return t.movedim(1, -1).reshape(t.shape[0], -1)


def _unmatrix(t: Tensor, shape: Shape) -> Tensor:
    return t.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


__all__ = ["GatherScatterPattern", "best_support", "greedy_support", "histograms_fit", "packs"]
