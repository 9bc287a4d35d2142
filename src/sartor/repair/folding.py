"""Model folding: units that were cut are merged into those that stay, without data.

The units of a group are clustered by the weights that give them, one cluster for each unit that stays. What gives a
unit becomes the mean over its cluster, and what reads it the sum over its cluster. Batch-norm statistics that follow
are estimated anew by a later `RefreshNorms` step, as in the paper's variant with data.

Source: Wang et al. 2025, "Forget the Data and Fine-Tuning! Just Fold the Network to Compress", arXiv:2502.10216. There
k-means chooses the width; here the clusters begin at the units that the plan keeps, so that the cut is the plan's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sartor.repair.original import Original
from sartor.structure import Graph
from sartor.structure.axes import Axis, find, keep_mask
from sartor.structure.calls import Value
from sartor.structure.model_copy import named_tensors

_ROUNDS = 25  # of k-means at most


def fold_units_(smaller: nn.Module, original: Original) -> int:
    """Merge in place; returns how many groups were merged: those from which units were cut.

    Args:
        smaller: cut from the original; its parameters and floating buffers change.
        original: the network before the cut, and the cut.
    """
    original = original.renumbered()
    graph = original.graph
    kept = {n: original.masks[find(a)] for n, a in graph.leaves.items() if find(a) in original.masks}
    originals = {name: t.detach() for *_, name, t in named_tensors(original.model)}
    slots = {find(graph.leaves[n]): _slots(_writers(graph, n, originals), mask) for n, mask in kept.items()}
    with torch.no_grad():
        for *_, name, target in named_tensors(smaller):
            if name in graph.tensors and target.is_floating_point():
                target.copy_(_merged(graph.tensors[name], originals[name], slots, original.masks).to(target))
    return len(kept)


def _writers(graph: Graph, group: str, tensors: dict[str, Tensor]) -> Tensor:
    """What gives each unit: [units, rest] of all weights that write the group; of all its tensors if none does."""
    members = graph.groups[group].members
    chosen = [m for m in members if m.role == "out"] or list(members)
    return torch.cat([graph.unit_view(group, m, tensors[m.tensor].double()) for m in chosen], 1)


def _slots(rows: Tensor, stays: Tensor) -> Tensor:
    """For each unit the kept unit in whose cluster it is; k-means that begins at the kept units, int64 [units].

    >>> rows = torch.tensor([[0.0], [1.0], [10.0], [9.0]])
    >>> _slots(rows, torch.tensor([True, False, True, False])).tolist()
    [0, 0, 2, 2]
    """
    kept = stays.nonzero()[:, 0].to(rows.device)
    centres = rows[kept]
    nearest = torch.cdist(rows, centres).argmin(1)
    for _ in range(_ROUNDS):
        sizes = torch.bincount(nearest, minlength=len(kept)).to(rows)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
        now = torch.cdist(rows, centres).argmin(1)
        if torch.equal(now, nearest):
            break
        nearest = now
    empty = torch.bincount(nearest, minlength=len(kept)) == 0
    nearest[kept[empty]] = empty.nonzero()[:, 0]  # a unit that stays has a cluster
    return kept[nearest].cpu()


def _merged(value: Value, tensor: Tensor, slots: dict[Axis, Tensor], masks: Mapping[Axis, Tensor]) -> Tensor:
    """A tensor of the original as the folded network has it."""
    for dim, axis in enumerate(value.axes):
        stays = keep_mask(axis, masks)
        if bool(stays.all()):
            continue
        row = (stays.cumsum(0) - 1)[_places(axis, slots)].to(tensor.device)
        shape = list(tensor.shape)
        shape[dim] = int(stays.sum())
        total = torch.zeros(shape, dtype=torch.float64, device=tensor.device).index_add_(dim, row, tensor.double())
        if value.roles.get(dim) != "in":
            sizes = torch.bincount(row, minlength=shape[dim]).clamp(min=1)
            total = total / sizes.reshape([-1 if d == dim else 1 for d in range(tensor.dim())])
        tensor = total
    return tensor


def _places(axis: Axis, slots: Mapping[Axis, Tensor]) -> Tensor:
    """For each position along an axis the position that stays into which it is merged, int64 [size]."""
    axis = find(axis)
    if axis.frozen or axis.kind is None:
        return torch.arange(axis.size) if axis.frozen or axis not in slots else slots[axis]
    place = torch.zeros(1, dtype=torch.int64) if axis.kind == "p" else torch.empty(0, dtype=torch.int64)
    for kid in map(find, axis.kids):
        inside = _places(kid, slots)
        if axis.kind == "p":
            place = (place[:, None] * kid.size + inside).flatten()
        else:
            place = torch.cat([place, inside + len(place)])
    return place


__all__ = ["fold_units_"]
