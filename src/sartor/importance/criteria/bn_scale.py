"""Scale of the normalisation layer."""

from torch import Tensor

from sartor.importance.registry import criterion


@criterion("bn-scale", source="Liu et al. 2017 (network slimming), arXiv:1708.06519", reads=("norm",))
def bn_scale(weight: Tensor) -> Tensor:
    """Absolute scale of the normalisation layer that follows.

    A group without a normalisation scale is ranked by l2 instead, brought to the mean of the other groups, and a note
    names it; a network without any is refused.

    Args:
        weight: [units, 1], the scale (gamma) of a norm layer; its shift is not read.

    Returns:
        [units], >= 0.

    Source: Liu et al. 2017, arXiv:1708.06519, where the scales were trained with an L1 penalty first; here as they are.

    >>> import torch
    >>> bn_scale(torch.tensor([[0.5], [-2.0]]))
    tensor([0.5000, 2.0000])
    """
    return weight.abs().sum(1)
