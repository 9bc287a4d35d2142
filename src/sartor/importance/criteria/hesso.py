"""The five saliencies of the hybrid efficient structured sparse optimiser, mixed."""

import torch
from torch import Tensor

from sartor.importance.registry import Sampling, criterion


@criterion(
    "hesso",
    source="Chen et al. 2024 (HESSO), arXiv:2409.09085",
    reads=("out",),
    sampling=Sampling(batch=100),
    compares=True,
)
def hesso(weight: Tensor, grad: Tensor) -> Tensor:
    """Norm, average norm, cosine to the gradient, first- and second-order Taylor term: normalised, 0.2 of each.

    Args:
        weight: [filters, rest], the tensor x of one layer.
        grad: [filters, rest], the gradient of one mini-batch's mean loss; scores are averaged over mini-batches.
            Batches of fewer than 100 samples are joined, larger ones are taken as they come.

    Returns:
        [units], float64, in [0, 1]: 0.2 times the sum of ||x||, ||x|| / rest, cos(x, grad) + 1, |<x, grad>| and
        0.5 <x, grad>^2, each divided by its L2 norm over the units (all zeros stay zeros).

    Source: Chen et al. 2024, arXiv:2409.09085, in the signs of its code: a positive cosine counts for a unit, while the
    earlier `oto` counts it against; the second-order term squares the gradient of a mini-batch there too. There all
    writers of a unit form one vector and the norm runs over the network; here each tensor is scored by itself and the
    norm runs over its layer, within which the first two terms are the same.

    >>> import torch
    >>> hesso(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[3.0, 4.0], [1.0, 1.0]]))
    tensor([0.9789, 0.0894], dtype=torch.float64)
    """
    x, g = weight.double(), grad.double()
    norm, steep = x.norm(dim=1), g.norm(dim=1)
    inner = (x * g).sum(1)
    both = norm * steep
    cosine = torch.where(both > 0, inner / torch.where(both > 0, both, 1.0), 0.0).clamp(-1, 1)
    five = (norm, norm / x.shape[1], cosine + 1, inner.abs(), 0.5 * inner.square())
    return 0.2 * torch.stack([_unit_length(s) for s in five]).sum(0)


def _unit_length(scores: Tensor) -> Tensor:
    size = scores.norm()
    return scores / size if size > 0 else scores
