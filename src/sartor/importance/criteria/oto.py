"""Saliency of Only-Train-Once, version 2."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.importance.registry import Sampling, criterion


@criterion(
    "oto",
    source="Chen et al. 2023 (OTOv2), arXiv:2303.06862",
    reads=("out",),
    sampling=Sampling(batch=100),
    compares=True,
)
def oto(weight: Tensor, grad: Tensor) -> Tensor:
    """One minus redundancy: a unit is redundant if it is small on average and a gradient step pulls it to zero.

    Args:
        weight: [filters, rest], the tensor x of one layer.
        grad: [filters, rest], the gradient of one mini-batch's mean loss; scores are averaged over mini-batches.
            Batches of fewer than 100 samples are joined, larger ones are taken as they come.

    Returns:
        [units], float64, in [0, 1.5]: 1 - 0.5 * N(cos(x_g, grad_g)) - 0.5 * N(1 / mean |x_g|), N = divided by the L2
        norm over the units. A unit of zeros scores 0 and does not count in N. A positive cosine counts against a unit:
        a step against the gradient then shortens x.

    Source: Chen et al. 2023, arXiv:2303.06862 (dual half-space projected gradient). There a unit is the
    vector of all its writers, norms included, N runs over the whole network, and training at growing regularisation
    follows; here each tensor that writes a unit is scored by itself, once, and N runs over its layer. At the end of
    ordinary training gradients are mostly noise, and then so is the cosine: no better than chance there.

    >>> import torch
    >>> oto(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    tensor([0.2929, 1.0000], dtype=torch.float64)
    """
    x, g = weight.double(), grad.double()
    size = x.abs().mean(1)
    alive = size > 0
    cosine = F.cosine_similarity(F.normalize(x, dim=1, eps=0), F.normalize(g, dim=1, eps=0), eps=0)
    inverse = size.clamp_min(torch.finfo(torch.float64).tiny).reciprocal()
    redundant = 0.5 * _unit_length(cosine.nan_to_num(0.0) * alive) + 0.5 * _unit_length(inverse * alive)
    return (1 - redundant) * alive


def _unit_length(scores: Tensor) -> Tensor:
    largest = scores.abs().max()
    return F.normalize(scores / largest, dim=0) if largest > 0 else scores
