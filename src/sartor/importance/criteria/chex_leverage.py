"""Leverage of a filter in its layer, as CHEX prunes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sartor.errors import BadInput
from sartor.importance.columns import leverage
from sartor.importance.registry import criterion


def leverage_for(keep: int | float) -> Callable[[Tensor], Tensor]:
    """The criterion for a given number of units that will stay.

    Args:
        keep: how many (an int >= 1), or which share of every group (a float in (0, 1), rounded up to whole units).

    Returns:
        A function of weight [units, rest] -> [units], to be passed wherever a criterion is expected. Where the weights
        of a unit are fewer than the units, rest < units, no k of them is well posed: L1 norms are returned, as CHEX
        does.

    Raises:
        BadInput: `keep` is neither, now; a group has fewer units than `keep`, when called.

    >>> import torch
    >>> leverage_for(1)(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    tensor([1., 0.], dtype=torch.float64)
    """
    share = isinstance(keep, float)
    if isinstance(keep, bool) or not (0 < keep < 1 if share else keep >= 1):
        raise BadInput(f"leverage, kept units: expected a count >= 1 or a share in (0, 1); got {keep}")

    def chex_leverage(weight: Tensor) -> Tensor:
        units, rest = weight.shape
        k = -int(-units * keep // 1) if share else int(keep)
        if k > units:
            raise BadInput(f"leverage, kept units: expected at most the {units} units of the group; got {k}")
        return weight.double().abs().sum(1) if rest < units else leverage(weight)[k - 1]

    return chex_leverage


@criterion("chex-leverage", source="Hou et al. 2022 (CHEX), arXiv:2203.15794", reads=("out",), compares=True)
def chex_leverage(weight: Tensor) -> Tensor:
    """Leverage of each filter in the best subspace of half as many dimensions as units.

    Args:
        weight: [filters, rest], the filters of one layer.

    Returns:
        [filters], float64, in [0, 1], sum = k = half of them, rounded up (or the rank, if smaller): ||V_{j,1:k}||^2
        with V the right singular vectors of the [rest, units] matrix. Two identical filters share. Where rest < filters
        (few inputs, a depthwise kernel), the L1 norm instead, as CHEX does: k directions are then too many to rank by.

    Source: Hou et al. 2022, arXiv:2203.15794. There k is the count that stays; see
    `leverage_for`. How much stays of each layer is decided there by one threshold on the batch-norm scales.

    >>> import torch
    >>> chex_leverage(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    tensor([1., 0.], dtype=torch.float64)
    """
    return leverage_for(0.5)(weight)
