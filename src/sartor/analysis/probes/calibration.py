"""Expected calibration error: how far confidence lies from accuracy."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sartor.analysis.data_pass import Outputs
from sartor.analysis.intervals import mean_interval
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading

_RESAMPLES = 200


@probe(
    "calibration",
    source="Guo et al. 2017, arXiv:1706.04599, eq. 3; Naeini et al. 2015",
    bias="ECE is biased upwards for few samples: a calibrated network shows `ece of a calibrated network`, not 0. "
    "Equal-width bins hide errors that cancel within a bin",
)
def calibration(outputs: Outputs, bins: int = 15) -> Iterator[Reading]:
    """Expected calibration error in equal-width bins of the largest probability, negative log likelihood, Brier score.

    Args:
        outputs: of all samples.
        bins: of confidence, between 0 and 1.

    "ece" is the mean over samples of |accuracy - mean confidence| of their bin; its interval is the normal one of a
    bootstrap. "ece of a calibrated network" is what chance alone makes of it with these confidences.
    """
    p = outputs.logits.softmax(1)
    confidence, answer = p.max(1)
    right = (answer == outputs.labels).double()
    n = len(right)
    ece, chance = binned_error(confidence, right, bins), chance_error(confidence, bins)
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(_RESAMPLES):
        i = torch.randint(n, (n,), generator=generator)
        draws.append(binned_error(confidence[i], right[i], bins))
    spread = 1.96 * float(torch.tensor(draws, dtype=torch.float64).std(correction=0))
    yield Reading("ece", 100 * ece, "", (100 * max(0.0, ece - spread), 100 * (ece + spread)), "%")
    yield Reading("ece of a calibrated network", 100 * chance, unit="%")
    yield Reading("confidence", 100 * float(confidence.mean()), unit="%")
    nll = -p.gather(1, outputs.labels[:, None])[:, 0].clamp(min=1e-300).log()
    yield Reading("negative log likelihood", float(nll.mean()), "", mean_interval(nll.tolist()), "nats")
    one_hot = torch.nn.functional.one_hot(outputs.labels, p.shape[1])
    brier = (p - one_hot).square().sum(1)
    yield Reading("brier score", float(brier.mean()), "", mean_interval(brier.tolist()))


def binned_error(confidence: Tensor, right: Tensor, bins: int) -> float:
    """Mean over samples of |mean of `right` - mean of `confidence`| in the bin of the sample, in [0, 1].

    >>> binned_error(torch.tensor([0.8] * 5), torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]), 15)
    0.2
    """
    place = _bins(confidence, bins)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, (right - confidence).double())
    return round(float(gap.abs().sum()) / max(1, len(right)), 7)


def chance_error(confidence: Tensor, bins: int) -> float:
    """What `binned_error` is on average if samples are right with probability `confidence`; normal approximation."""
    variance = torch.zeros(bins, dtype=torch.float64)
    variance.index_add_(0, _bins(confidence, bins), (confidence * (1 - confidence)).double())
    return float(variance.sqrt().sum()) * math.sqrt(2 / math.pi) / max(1, len(confidence))


def _bins(confidence: Tensor, bins: int) -> Tensor:
    return (confidence * bins).ceil().long().clamp(1, bins) - 1
