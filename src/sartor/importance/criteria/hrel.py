"""Relevance: mutual information between a filter's maps and the labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sartor.importance.registry import Sampling, criterion
from sartor.importance.spectral import entropy, spectral_entropy

BATCH = 100  # samples a kernel matrix holds at most
GRID = 100  # kernel widths tried
CHUNK = 2**22  # numbers of float64 held at once for one group of units


@criterion(
    "hrel",
    source="Sarvani et al. 2022 (HRel), arXiv:2202.10716",
    sampling=Sampling(at="written", samples=1000, per_batch=True, batch=BATCH),
    compares=True,
)
def hrel(activation: Tensor, labels: Tensor) -> Tensor:
    """Mutual information in bits of a unit's map and the label, by matrix-based Renyi entropy.

    Args:
        activation: [filters, samples, rest], what the filters of one layer give, thus before a norm and a nonlinearity.
        labels: [samples], whole numbers.

    Returns:
        [units], float64, >= 0 and at most the entropy of the labels in the batch. A constant unit scores 0. Random
        labels score above 0 too: the finite batch biases all scores upwards, by about the same.

    Source: Sarvani et al. 2022, arXiv:2202.10716. Kernels exp(-d^2 / sigma^2) of mini-batches of 100 samples (smaller
    batches are joined, larger ones taken apart; fewer samples than that bias more); one sigma a layer, the one of 100
    between 0.3 and 10 mean distances of the layer's maps whose kernel aligns best with the labels'. There sigma is
    smoothed over the iterations of the training; here each mini-batch takes its own. Scores are averaged over
    mini-batches. The joint entropy is computed class by class (see `mutual_information`).

    >>> informative = torch.tensor([[0.0], [0.0], [9.0], [9.0]])
    >>> hrel(torch.stack([informative, torch.ones(4, 1)]), torch.tensor([0, 0, 1, 1])).round(decimals=3)
    tensor([1., 0.], dtype=torch.float64)
    """
    units, samples, _ = activation.shape
    parts = -(-samples // BATCH)
    some = -(-samples // parts)
    total = torch.zeros(units, dtype=torch.float64, device=activation.device)
    for low in range(0, samples, some):
        part = activation[:, low : low + some]
        total += _of_one_batch(part, labels[low : low + some]) * part.shape[1]
    return total / samples


def mutual_information(kernels: Tensor, labels: Tensor) -> Tensor:
    """S(K) + S(Y) - S(K o Y) in bits, with the kernel Y of the labels: 1 for two samples of one class, else 0.

    The Hadamard product K o Y falls apart into one block a class, so its entropy takes eigenvalues of blocks only.

    Args:
        kernels: [units, b, b], positive semi-definite, ones on the diagonal.
        labels: [b].

    Returns:
        [units], float64, between 0 and S(Y).

    Source: Sanchez Giraldo et al. 2015, arXiv:1211.2459.

    >>> mutual_information(torch.eye(4)[None], torch.tensor([0, 0, 1, 1])).abs()
    tensor([1.], dtype=torch.float64)
    """
    k = kernels.double()
    b = k.shape[-1]
    of_labels, joint = 0.0, torch.zeros(len(k), dtype=torch.float64, device=k.device)
    for label in labels.unique():
        mine = (labels == label).nonzero()[:, 0].to(k.device)
        of_labels -= len(mine) / b * math.log2(len(mine) / b)
        joint += spectral_entropy(torch.linalg.eigvalsh(k[:, mine[:, None], mine]) / b)
    return (entropy(k) + of_labels - joint).clamp(min=0)


def aligned_width(squares: Tensor, labels: Tensor) -> Tensor:
    """The kernel width whose kernel exp(-d^2 / sigma^2) aligns best with the labels', <K, Y> / (|K| |Y|).

    Args:
        squares: [b, b], squared distances.
        labels: [b].

    Returns:
        sigma, float64, one of 100 between 0.3 and ten mean distances.
    """
    d2 = squares.double()
    same = (labels[:, None] == labels).to(d2.device)
    widths = torch.linspace(0.3, 1.0, 2, dtype=torch.float64, device=d2.device)  # in place of an empty range
    mean = float(d2.sqrt().mean())
    if mean > 0:
        widths = torch.linspace(0.3, 10 * mean, GRID, dtype=torch.float64, device=d2.device)
    k = torch.exp(-d2.reshape(1, -1) / widths.square()[:, None])  # [grid, b * b]
    alignment = k[:, same.reshape(-1)].sum(1) / k.norm(dim=1)
    return widths[alignment.argmax()]


def _of_one_batch(activation: Tensor, labels: Tensor) -> Tensor:
    units, b, rest = activation.shape
    squares = torch.zeros(b, b, dtype=torch.float64, device=activation.device)  # of the whole layer: filters add up
    some = max(1, CHUNK // (b * max(b, rest)))
    pieces = [activation[low : low + some] for low in range(0, units, some)]
    for piece in pieces:
        squares += _squared_distances(piece).sum(0)
    sigma = aligned_width(squares, labels)
    return torch.cat([mutual_information(torch.exp(-_squared_distances(p) / sigma.square()), labels) for p in pieces])


def _squared_distances(x: Tensor) -> Tensor:
    """[units, b, b] between samples [units, b, rest], float64, zeros on the diagonal."""
    x = x.double()
    x = x - x.mean(1, keepdim=True)  # the same distances, fewer digits lost
    squares = x.square().sum(2)
    d2 = (squares[:, :, None] + squares[:, None, :] - 2 * (x @ x.mT)).clamp(min=0)
    d2.diagonal(dim1=1, dim2=2).zero_()
    return d2
