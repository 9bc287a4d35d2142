"""Running means of scores, and the two choices that make one number a unit: reduction over places, normalisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.stats import rankdata
from torch import Tensor

from sartor.types import Scaling


class Means:
    """Weighted running means of scores by (group, place), float64 on the CPU."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, int], Tensor] = {}
        self.weights: dict[tuple[str, int], float] = {}

    def add(self, key: tuple[str, int], scores: Tensor, weight: float) -> None:
        """One more part of the mean of (group, place), which counts `weight` times."""
        self.sums[key] = self.sums[key] + scores * weight if key in self.sums else scores * weight
        self.weights[key] = self.weights.get(key, 0.0) + weight

    def reduced(self, scaling: Scaling) -> dict[str, Tensor]:
        """group -> [units] over its places, each normalised first; costs are not divided by."""
        by_group: dict[str, list[Tensor]] = {}
        for key in sorted(self.sums):
            by_group.setdefault(key[0], []).append(normalised(self.sums[key] / self.weights[key], scaling.normalise))
        pick = {"mean": lambda t: t.mean(0), "max": lambda t: t.amax(0)}.get(scaling.reduce, lambda t: t.sum(0))
        return {name: pick(torch.stack(rows)) for name, rows in by_group.items()}


def normalised(scores: Tensor, how: str) -> Tensor:
    """Scores of one tensor's units, made comparable to those of others; all zeros stay zeros.

    "macs" needs all groups and is done to the reduced scores, see `per_macs`.

    >>> normalised(torch.tensor([1.0, 3.0]), "mean"), normalised(torch.tensor([5.0, 1.0, 5.0]), "rank")
    (tensor([0.5000, 1.5000]), tensor([0.8333, 0.3333, 0.8333], dtype=torch.float64))
    """
    if how == "rank":
        return torch.from_numpy(rankdata(scores.numpy(), method="average") / len(scores))
    size = {"mean": scores.abs().mean(), "max": scores.abs().max()}.get(how)
    return scores if size is None or size == 0 else scores / size


def per_macs(scores: Mapping[str, Tensor], freed: Mapping[str, float], exponent: float) -> dict[str, Tensor]:
    """Scores divided by (MACs one unit of the group frees, relative to the mean group) ** exponent.

    >>> per_macs({"a": torch.ones(1), "b": torch.ones(1)}, {"a": 30.0, "b": 10.0}, 1.0)
    {'a': tensor([0.6667]), 'b': tensor([2.])}
    """
    typical = sum(freed[n] for n in scores) / len(scores) or 1.0
    return {n: s / max(freed[n] / typical, 1e-6) ** exponent for n, s in scores.items()}
