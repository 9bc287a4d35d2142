"""Neural collapse: how close the last layer's features come to one vector a class, in a simplex."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sartor.analysis.data_pass import Features
from sartor.analysis.probes.accuracy import share_reading
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading
from sartor.errors import BadInput


@probe(
    "neural-collapse",
    source="Papyan, Han and Donoho 2020, arXiv:2008.08186; metrics as in Zhu et al. 2021, arXiv:2105.02375",
    bias="NC1 is biased downwards where a class has few samples beside the width of the features: its covariance is "
    "underestimated. On data that were not trained on it is larger than on training data",
)
def neural_collapse(features: Features) -> Iterator[Reading]:
    """NC1 to NC4 of the last linear layer, and the accuracy that is left in the K - 1 directions of the class means.

    NC1 = tr(S_W S_B^+) / K, with covariances within and between the K classes. NC2 = |W W^t / |W W^t| - T|, NC3 =
    |W H / |W H| - T| with the class means H in columns, Frobenius norms; T is the simplex frame
    (I - 1 1^t / K) / sqrt(K - 1) for a layer with bias, whose means are centred, else the orthogonal frame I / sqrt(K).
    NC4: share of the samples whose class differs from that of the nearest class mean. All are 0 at full collapse.

    Raises:
        BadInput: fewer than two classes among the samples, or a class of the network without samples.
    """
    h, w, y = features.values, features.weight, features.labels
    classes = len(w)
    counts = torch.bincount(y, minlength=classes)
    if int((counts > 0).sum()) < classes or classes < 2:
        missing = int((counts == 0).sum())
        raise BadInput(
            f"neural collapse: expected samples of all {classes} classes; {missing} have none. Look at more samples"
        )
    means = torch.zeros(classes, h.shape[1], dtype=h.dtype).index_add_(0, y, h) / counts[:, None]
    middle = means.mean(0)
    within, between = h - means[y], means - middle
    within_cov, between_cov = within.T @ within / len(h), between.T @ between / classes
    inverse = torch.linalg.pinv(between_cov, hermitian=True, rtol=1e-10)
    yield Reading("NC1", float((within_cov @ inverse).trace()) / classes)
    frame, columns = (simplex(classes), between) if features.bias is not None else (orthogonal(classes), means)
    yield Reading("NC2", frame_distance(w @ w.T, frame))
    yield Reading("NC3", frame_distance(w @ columns.T, frame))
    nearest = torch.cdist(h, means).argmin(1)
    bias = 0.0 if features.bias is None else features.bias
    answer = (h @ w.T + bias).argmax(1)
    yield share_reading("NC4", int((nearest != answer).sum()), len(h))
    yield share_reading(
        "accuracy in K-1 directions", int((_narrowed(h, between, middle) @ w.T + bias).argmax(1).eq(y).sum()), len(h)
    )
    yield Reading("width of the features", float(h.shape[1]), note=f"{classes - 1} suffice at full collapse")


def simplex(classes: int) -> Tensor:
    """The Gram matrix of a simplex equiangular frame, of Frobenius norm 1, float64 [classes, classes]."""
    eye = torch.eye(classes, dtype=torch.float64)
    return (eye - 1 / classes) / (classes - 1) ** 0.5


def orthogonal(classes: int) -> Tensor:
    """The Gram matrix of an orthogonal frame, of Frobenius norm 1, float64 [classes, classes]."""
    return torch.eye(classes, dtype=torch.float64) / classes**0.5


def frame_distance(gram: Tensor, frame: Tensor) -> float:
    """Frobenius distance of a matrix, scaled to norm 1, from a frame."""
    return float((gram / gram.norm().clamp(min=1e-300) - frame).norm())


def _narrowed(h: Tensor, between: Tensor, middle: Tensor) -> Tensor:
    """The features projected on the directions in which the class means differ, around their mean."""
    directions = torch.linalg.svd(between, full_matrices=False).Vh[: len(between) - 1]
    return middle + (h - middle) @ directions.T @ directions
