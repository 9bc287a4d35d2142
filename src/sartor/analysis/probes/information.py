"""Information in the activations: the information plane by binning, and mutual information behind a compression."""

import math
from collections.abc import Iterator, Mapping

import torch
from scipy.special import digamma, gammaln
from torch import Tensor

from sartor.analysis.data_pass import WIDEST, Activations, sketch
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading
from sartor.analysis.subject import ProbeSubject, image_of
from sartor.errors import BadInput

BINS = 30
_NEIGHBOURS = 3
_NOISE = 0.1  # standard deviation of the noise, beside that of the activations
_LEAST = 1e-6  # of the largest variance: a direction with less is left out


@probe(
    "information-plane",
    source="Shwartz-Ziv and Tishby 2017, arXiv:1703.00810; Saxe et al. 2018 on what binning makes of rectifiers",
    bias="plug-in entropies are biased downwards, and saturate at log2(samples): wide layers show that value and "
    "nothing else. Behind rectifiers, changes over training are an artefact of the bins",
)
def information_plane(activations: Mapping[str, Activations], bins: int = BINS) -> Iterator[Reading]:
    """I(X;T) = H(T) and I(T;Y) = H(T) - H(T|Y) of every layer in bits, from activations in equal bins.

    Args:
        activations: of all samples; a layer that came projected is left out, because its information saturates.
        bins: between the smallest and the largest activation of a layer.
    """
    for name, layer in activations.items():
        n = len(layer.values)
        if layer.projected:
            yield Reading("I(X;T)", None, name, unit="bits", note=f"{layer.width} numbers: saturates at log2({n})")
            continue
        codes = binned(layer.values, bins)
        entropy = entropy_of(codes)
        note = f"saturates at {math.log2(n):.2f} bits" if entropy > math.log2(n) - 0.5 else ""
        yield Reading("I(X;T)", entropy, name, unit="bits", note=note)
        if len(layer.labels) == n:
            yield Reading("I(T;Y)", entropy - conditional(codes, layer.labels), name, unit="bits")


def binned(values: Tensor, bins: int) -> Tensor:
    """int64 [n]: a number for each different row of bins."""
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return torch.zeros(len(values), dtype=torch.int64)
    places = ((values.double() - low) / (high - low) * bins).long().clamp(0, bins - 1)
    return torch.unique(places.to(torch.int16), dim=0, return_inverse=True)[1]


def entropy_of(codes: Tensor) -> float:
    """Entropy in bits of the shares of each number.

    >>> entropy_of(torch.tensor([0, 1, 2, 3]))
    2.0
    """
    p = torch.bincount(codes).double() / len(codes)
    p = p[p > 0]
    return abs(float(-(p * p.log2()).sum()))


def conditional(codes: Tensor, labels: Tensor) -> float:
    """H(codes | labels) in bits."""
    total = 0.0
    for label in labels.unique():
        mine = codes[labels == label]
        total += len(mine) / len(codes) * entropy_of(mine)
    return total


@probe(
    "mutual-information",
    source="Butakov et al. 2024, arXiv:2305.08013 (compression); Kozachenko and Leonenko 1987 (entropies)",
    bias="biased downwards by what the projection on a few principal components leaves out; above about 4 nats the "
    "nearest-neighbour estimate needs more samples than a thousand",
)
def mutual_information(
    activations: Mapping[str, Activations], subject: ProbeSubject, dimensions: int = 2, noise: float = _NOISE
) -> Iterator[Reading]:
    """I(X;T) and I(T;Y) of every layer in nats, where noise of relative strength `noise` is added to T.

    Inputs and activations are projected on their first principal components, because estimates by nearest neighbours
    fail in many dimensions.

    Args:
        activations: of the first samples.
        subject: its inputs.
        dimensions: of each projection, 4 at most.
        noise: standard deviation, beside that of all activations of a layer.

    Raises:
        BadInput: more than 4 dimensions, or inputs that are not of floating point.
    """
    if not 1 <= dimensions <= 4:
        raise BadInput(f"mutual information: expected 1 to 4 dimensions; got {dimensions}")
    n = min((len(a.values) for a in activations.values()), default=0)
    rows = [sketch(image_of(inputs).flatten(1).float(), WIDEST, 0).cpu() for inputs, _ in subject.batches]
    x = torch.cat(rows)[:n]
    for name, layer in activations.items():
        generator = subject.generator(f"mutual information {name}")
        t = layer.values[:n].double()
        t = t + noise * float((t - t.mean(0)).std()) * torch.randn(t.shape, generator=generator, dtype=torch.float64)
        if not principal(t, dimensions).shape[1]:
            yield Reading("I(X;T)", 0.0, name, unit="nats", note="the layer does not vary")
            continue
        yield Reading("I(X;T)", information(x.double(), t, dimensions), name, unit="nats")
        if len(layer.labels) >= n:
            try:
                value, note = label_information(t, layer.labels[:n], dimensions), ""
            except BadInput as e:
                value, note = None, str(e)
            yield Reading("I(T;Y)", value, name, unit="nats", note=note)


def information(x: Tensor, t: Tensor, dimensions: int) -> float:
    """I(X;T) in nats of two samples [n, any], through their first principal components."""
    a, b = principal(x, dimensions), principal(t, dimensions)
    return entropy(a) + entropy(b) - entropy(torch.cat([a, b], 1))


def label_information(t: Tensor, labels: Tensor, dimensions: int) -> float:
    """H(T) - H(T|Y) in nats; classes with fewer samples than neighbours are left out."""
    b = principal(t, dimensions)
    counts = {int(y): int((labels == y).sum()) for y in labels.unique()}
    used = {y: c for y, c in counts.items() if c > 2 * _NEIGHBOURS}
    if not used:
        raise BadInput(f"mutual information: expected more than {2 * _NEIGHBOURS} samples of a class")
    n = sum(used.values())
    return entropy(b) - sum(c / n * entropy(b[labels == y]) for y, c in used.items())


def principal(rows: Tensor, dimensions: int) -> Tensor:
    """[n, at most `dimensions`]: the first principal components, each of variance 1, float64.

    Mutual information does not depend on their scale.
    """
    centred = rows.double() - rows.double().mean(0)
    if float(centred.abs().max()) <= 1e-12 * float(rows.abs().max()):  # equal but for rounding
        return centred[:, :0]
    left, size, _ = torch.linalg.svd(centred, full_matrices=False)
    keep = int((size.square() > _LEAST * size[0] ** 2).sum())
    return left[:, : min(dimensions, keep)] * len(rows) ** 0.5


def entropy(rows: Tensor) -> float:
    """Differential entropy in nats of a sample [n, d], by the distance to the third nearest neighbour.

    Source: Kozachenko and Leonenko 1987; equal rows count as 1e-12 apart.
    """
    from scipy.spatial import cKDTree

    n, d = rows.shape
    if d == 0:
        return 0.0
    points = rows.double().numpy()
    distance = torch.from_numpy(cKDTree(points).query(points, _NEIGHBOURS + 1)[0][:, -1]).clamp(min=1e-12)
    ball = d / 2 * math.log(math.pi) - float(gammaln(d / 2 + 1))
    return float(digamma(n) - digamma(_NEIGHBOURS)) + ball + d * float(distance.log().mean())
