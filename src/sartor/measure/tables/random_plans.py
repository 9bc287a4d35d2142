"""Random widths of a network, to measure and to test predictions on."""

from __future__ import annotations

import math
import random

from sartor.structure.graph import Graph


def random_plans(graph: Graph, number: int, seed: int, *, least: float = 0.2) -> list[dict[str, int]]:
    """Kept units drawn at random; tied groups keep equal counts.

    Args:
        graph: with the groups that may be cut.
        number: how many plans.
        seed: of the random numbers.
        least: lower bound of every kept share. Each plan draws its own lowest share above it.

    Returns:
        Kept units by group. Plans take turns in their widths' multiple: 1, 8, 4 and 8.

    >>> import torch
    >>> from sartor.structure import trace
    >>> graph = trace(torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Linear(32, 2)), torch.zeros(1, 4))
    >>> all(6 <= c["0"] <= 32 for c in random_plans(graph, 5, seed=1))
    True
    """
    rng = random.Random(seed)
    plans = []
    for i in range(number):
        step, low = (1, 8, 4, 8)[i % 4], rng.uniform(least, 0.75)
        counts = {}
        for name, g in graph.groups.items():
            k = rng.randint(max(1, math.ceil(low * g.units)), g.units)
            counts[name] = max(step, k // step * step) if g.units >= 2 * step else k
        for tie in graph.ties:
            counts.update({n: counts[tie[0]] for n in tie})
        plans.append(counts)
    return plans
