"""A stratified partition of a data set into training, validation and test samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from sartor.errors import BadInput


def stratified(labels: Tensor, shares: Sequence[float], seed: int) -> tuple[Tensor, ...]:
    """Divide sample numbers into parts in which every class has about the same share.

    Args:
        labels: [n] class numbers.
        shares: of all samples, one for every part; they add up to 1.
        seed: the same seed gives the same parts.

    Returns:
        For every share the sorted sample numbers of its part, [n_part]. Parts are disjoint and cover all samples. The
        size of a part is its share of n, rounded; it holds about the same share of each class.

    Raises:
        BadInput: shares that do not add up to 1, or a part that would be empty.

    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> [labels[part].tolist() for part in stratified(labels, (0.5, 0.5), seed=0)]
    [[0, 1], [0, 1]]
    """
    if abs(sum(shares) - 1) > 1e-9 or any(share <= 0 for share in shares):
        raise BadInput(f"partition: expected positive shares that add up to 1; got {list(shares)}")
    generator = torch.Generator().manual_seed(seed)
    n = len(labels)
    shuffled = torch.randperm(n, generator=generator)
    place = torch.empty(n, dtype=torch.float64)  # within its class, in (0, 1)
    for label in labels.unique():
        own = shuffled[labels[shuffled] == label]
        place[own] = (torch.arange(len(own), dtype=torch.float64) + 0.5) / len(own)
    order = shuffled[torch.argsort(place[shuffled], stable=True)]
    cuts = [round(n * end) for end in accumulate(shares, initial=0.0)]
    parts = tuple(order[a:b].sort().values for a, b in pairwise(cuts))
    if any(not len(part) for part in parts):
        raise BadInput(f"partition: {n} samples are too few for shares {list(shares)}; a part would be empty")
    return parts
