"""The oracle: how much worse the network gets without the unit."""

import torch
from torch import Tensor

from sartor.activations.silencing import Gap
from sartor.importance.registry import criterion


@criterion("ablation", source="Molchanov et al. 2017 (the oracle), arXiv:1611.06440")
def ablation(gap: Gap) -> Tensor:
    """Change of the network's outputs, or rise of its loss, when the unit is silenced: exactly, unit after unit.

    Where the forward passes do not suffice for all units of a group, those that look least important by the first
    derivatives of the outputs (of the loss, if one is given) are silenced, and the others keep that estimate; the run
    says how many. Estimates are of the same quantity, so that the two kinds compare.

    Args:
        gap: measures the change with only some units left.

    Returns:
        [units], float64. Without a loss the squared distance from the original's outputs relative to their squared
        size, >= 0. With a loss its rise, negative for a unit without which the network is better.

    Source: Molchanov et al. 2017, arXiv:1611.06440, section 2.2 and 3.2, where the oracle is the (absolute) change of
    the loss.
    """
    exact = min(gap.units, gap.passes)
    scores = torch.zeros(gap.units, dtype=torch.float64) if exact == gap.units else gap.estimate().clone()
    for unit in scores.argsort(stable=True)[:exact].tolist():
        stays = torch.ones(gap.units, dtype=torch.bool)
        stays[unit] = False
        scores[unit] = gap(stays)
    return scores
