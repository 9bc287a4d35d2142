"""Condition numbers and spectral norms of the layers."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sartor.analysis.layers import weighted_layers
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading
from sartor.analysis.subject import ProbeSubject
from sartor.structure.calls import Op
from sartor.structure.model_copy import named_tensors


@probe(
    "conditioning",
    source="Golub and Van Loan, Matrix Computations, section 2.7; Singla and Feizi 2021, arXiv:1911.10258 (the bound)",
    bias="none for the condition number, which is that of the weights as a matrix [outputs, inputs * taps]. The "
    "spectral norm of a convolution is bounded from above, by up to the root of its number of taps",
)
def conditioning(subject: ProbeSubject) -> Iterator[Reading]:
    """Condition number of every weight as a matrix, and its largest singular value as a map of its input.

    Of grouped convolutions, the condition number is that of the block-diagonal matrix of all groups. A weight without
    full rank has none: its value is missing, and a note says so.
    """
    tensors = {name: t.detach() for *_, name, t in named_tensors(subject.model)}
    worst: float | None = None
    for op, name in weighted_layers(subject.graph):
        layer = name.removesuffix(".weight")
        values = torch.linalg.svdvals(_blocks(op, tensors[name].double().cpu()))
        largest, smallest = float(values.max()), float(values.min())
        if smallest <= largest * 1e-12:
            yield Reading("condition number", None, layer, note="the weight has not full rank")
        else:
            worst = max(worst or 0.0, largest / smallest)
            yield Reading("condition number", largest / smallest, layer)
        yield Reading("spectral norm", norm_bound(op, tensors[name]), layer)
    yield Reading("largest condition number", worst)


def norm_bound(op: Op, weight: Tensor) -> float:
    """An upper bound of the largest singular value of a linear layer (exact) or of a convolution with zero padding.

    A transposed convolution is the adjoint of a convolution, so the same bound holds. Of a convolution: the
    smallest over its unfoldings of sqrt(taps) * largest singular value of the unfolding.
    """
    w = weight.detach().double().cpu()
    if op.kind != "conv" or w.dim() < 3:
        return float(torch.linalg.matrix_norm(w.flatten(1), 2))
    groups = int(op.arg("groups", 1))
    bounds = []
    for block in w.reshape(groups, w.shape[0] // groups, *w.shape[1:]):
        bounds.append(_fantastic(block))
    return max(bounds)


def _fantastic(w: Tensor) -> float:
    """[outputs, inputs, *taps]: the bounds of Singla and Feizi, theorem 1, for any number of dimensions of taps."""
    taps = w[0, 0].numel()
    spatial = range(2, w.dim())
    found = [torch.linalg.matrix_norm(w.flatten(1), 2), torch.linalg.matrix_norm(w.transpose(0, 1).flatten(1), 2)]
    if w.dim() == 4:
        for d in spatial:
            other = 5 - d
            found.append(torch.linalg.matrix_norm(w.permute(0, d, 1, other).flatten(0, 1).flatten(1), 2))
    return float(taps**0.5 * min(found))


def _blocks(op: Op, w: Tensor) -> Tensor:
    """[groups, outputs, inputs * taps]."""
    if op.kind != "conv":
        return w.flatten(1)[None]
    groups = int(op.arg("groups", 1))
    return w.reshape(groups, w.shape[0] // groups, -1)
