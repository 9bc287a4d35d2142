"""How far apart training and other samples are in each layer: terms of information-theoretic bounds."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sartor.analysis.data_pass import Activations, pass_over
from sartor.analysis.layers import layers
from sartor.analysis.probes.lipschitz import upper_bound
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading
from sartor.analysis.subject import ProbeSubject
from sartor.errors import BadInput
from sartor.structure.model_copy import named_tensors

_MATCHED = 400  # samples of each part whose transport is solved exactly
_SIGMA = 0.5  # a loss in [0, 1] is sub-Gaussian with this parameter


@probe(
    "generalisation",
    source="He, Yu and Goldfeld 2024, arXiv:2404.03176, from memory of the paper",
    bias="the divergence is that of Gaussians fitted to each class in a few principal components: biased upwards by "
    "few samples (`KL of chance` says by how much), downwards by what is projected away. The paper's bound is in "
    "expectation over trainings; this is one training",
)
def generalisation(
    activations: Mapping[str, Activations], subject: ProbeSubject, dimensions: int = 3
) -> Iterator[Reading]:
    """Divergence of training from other samples in every layer, the bound that follows, and the funnel layer.

    "KL" is the mean over classes of KL(training || other) of the activations in nats, "bound" sigma * sqrt(2 KL) for a
    loss in [0, 1]. Where the network behind a layer has a Lipschitz bound, "transport" is that bound times the
    1-Wasserstein distance of the activations; the layer with the smallest one is the funnel.

    Args:
        activations: of the samples that were looked at.
        subject: with training samples.
        dimensions: principal components of both parts together.

    Raises:
        BadInput: there are no training samples, or no labels.
    """
    if not subject.training:
        raise BadInput(
            "generalisation: expected training samples to compare with; pass a Data with train and val, or --part val"
        )
    trained = pass_over(replace(subject, batches=subject.training), {"activations"})["activations"]
    tensors = {name: t.detach() for *_, name, t in named_tensors(subject.model)}
    places = {x.name: x for x in layers(subject.graph)}
    funnel: tuple[float, str] | None = None
    for name, other in activations.items():
        mine = trained.get(name)
        if mine is None:
            continue
        divergence, chance = class_divergence(mine, other, dimensions)
        yield Reading("KL", divergence, name, unit="nats")
        yield Reading("KL of chance", chance, name, unit="nats")
        yield Reading("bound", _SIGMA * math.sqrt(2 * max(0.0, divergence)), name)
        tail, unbounded = upper_bound(subject.graph, tensors, subject.graph.ops[places[name].op].outputs[0])
        if tail is None or mine.projected:
            why = f"no bound is known for {unbounded}" if tail is None else "the layer is too wide"
            yield Reading("transport", None, name, note=why)
            continue
        moved = tail * transport(mine.values, other.values)
        funnel = min(funnel, (moved, name)) if funnel else (moved, name)
        yield Reading("transport", moved, name)
    if funnel is not None:
        yield Reading("funnel", funnel[0], note=f"the layer with the smallest transport is {funnel[1]}")


def class_divergence(mine: Activations, other: Activations, dimensions: int) -> tuple[float, float]:
    """(KL(mine || other) of Gaussians in nats, its mean where both have one distribution), averaged over classes.

    Raises:
        BadInput: no class has enough samples in both.
    """
    if len(mine.labels) != len(mine.values) or len(other.labels) != len(other.values):
        raise BadInput("generalisation: expected labels of all samples")
    together = torch.cat([mine.values, other.values]).double()
    middle = together.mean(0)
    _, size, directions = torch.linalg.svd(together - middle, full_matrices=False)
    keep = min(dimensions, max(1, int((size > 1e-6 * size[0]).sum())))
    a, b = ((x.values.double() - middle) @ directions[:keep].T for x in (mine, other))
    total, chance, samples = 0.0, 0.0, 0
    for label in mine.labels.unique():
        of_a, of_b = a[mine.labels == label], b[other.labels == label]
        if min(len(of_a), len(of_b)) <= keep + 1:
            continue
        n = len(of_a)
        total += n * gaussian_divergence(of_a, of_b)
        chance += n * keep * (keep + 3) / 4 * (1 / len(of_a) + 1 / len(of_b))
        samples += n
    if not samples:
        raise BadInput(f"generalisation: expected more than {keep + 1} samples of a class in both parts")
    return total / samples, chance / samples


def gaussian_divergence(a: Tensor, b: Tensor) -> float:
    """KL(N_a || N_b) in nats of Gaussians fitted to two samples [n, d]; a direction that neither varies in counts 0."""
    d = a.shape[1]
    least = 1e-9 * float(torch.cat([a, b]).var(0, correction=0).sum() + 1e-30)
    eye = least * torch.eye(d, dtype=a.dtype)
    cov_a, cov_b = (torch.cov(x.T, correction=0).reshape(d, d) + eye for x in (a, b))
    gap = b.mean(0) - a.mean(0)
    solved = torch.linalg.solve(cov_b, torch.cat([cov_a, gap[:, None]], 1))
    trace, distance = solved[:, :d].trace(), gap @ solved[:, d]
    return float(trace + distance - d + torch.logdet(cov_b) - torch.logdet(cov_a)) / 2


def transport(a: Tensor, b: Tensor) -> float:
    """1-Wasserstein distance of two samples [n, d] of equal weights, exact for the first samples of both."""
    from scipy.optimize import linear_sum_assignment

    n = min(len(a), len(b), _MATCHED)
    cost = torch.cdist(a[:n].double(), b[:n].double()).numpy()
    return float(cost[linear_sum_assignment(cost)].mean())
