"""Accuracy on corrupted inputs: noise, blur, contrast, brightness, occlusion."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.analysis.probes.accuracy import share_reading
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading
from sartor.analysis.subject import ProbeSubject, image_of

Corruption = Callable[[Tensor, float, Tensor, torch.Generator], Tensor]


def noise(x: Tensor, strength: float, size: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of standard deviation `strength`, in shares of each channel's range `size`."""
    return x + strength * size * torch.randn(x.shape, generator=generator).to(x)


def contrast(x: Tensor, strength: float, size: Tensor, generator: torch.Generator) -> Tensor:
    """Every sample drawn towards its channel means by the share `strength`."""
    mean = x.flatten(2).mean(2).reshape(*x.shape[:2], *[1] * (x.dim() - 2)) if x.dim() > 2 else x.mean(1, keepdim=True)
    return mean + (1 - strength) * (x - mean)


def brightness(x: Tensor, strength: float, size: Tensor, generator: torch.Generator) -> Tensor:
    """Every value raised by `strength`, in shares of each channel's range `size`."""
    return x + strength * size


def blur(x: Tensor, strength: float, size: Tensor, generator: torch.Generator) -> Tensor:
    """Mean over a window of 2 * round(strength) + 1 pixels a side; pictures only, others stay."""
    k = round(strength)
    if x.dim() != 4 or not k:
        return x
    return F.avg_pool2d(F.pad(x, (k, k, k, k), mode="replicate"), 2 * k + 1, 1)


def occlusion(x: Tensor, strength: float, size: Tensor, generator: torch.Generator) -> Tensor:
    """A square of the share `strength` of the sides, at a random place of each batch, becomes the channel mean."""
    if x.dim() != 4:
        return x
    height, width = (max(1, round(strength * s)) for s in x.shape[2:])
    top = int(torch.randint(x.shape[2] - height + 1, (1,), generator=generator))
    left = int(torch.randint(x.shape[3] - width + 1, (1,), generator=generator))
    out = x.clone()
    out[:, :, top : top + height, left : left + width] = x.mean((2, 3), keepdim=True)
    return out


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, float, float]]] = {
    "noise": (noise, (0.04, 0.08, 0.16)),
    "contrast": (contrast, (0.3, 0.6, 0.85)),
    "brightness": (brightness, (0.1, 0.2, 0.35)),
    "blur": (blur, (1, 2, 3)),
    "occlusion": (occlusion, (0.25, 0.4, 0.6)),
}


@probe(
    "corruptions",
    source="after Hendrycks and Dietterich 2019, arXiv:1903.12261",
    bias="not comparable with CIFAR-10-C or ImageNet-C: five own corruptions at three strengths, on normalised inputs; "
    "noise is drawn once a sample",
)
def corruptions(subject: ProbeSubject) -> Iterator[Reading]:
    """Accuracy under each corruption at three strengths, and the mean; the strengths are shares of the data's range."""
    low, high = subject.input_range
    picture = image_of(subject.batches[0][0]).dim() == 4
    hits, n = 0, 0
    for name, (corruption, strengths) in CORRUPTIONS.items():
        if not picture and corruption in (blur, occlusion):
            continue
        generator = subject.generator(f"corruption {name}")
        corrupted: Any = corruption
        for strength in strengths:
            right = subject.right(partial(corrupted, strength=strength, size=high - low, generator=generator))
            hits, n = hits + int(right.sum()), n + len(right)
            yield share_reading(f"accuracy under {name} {strength:g}", int(right.sum()), len(right))
    mean = share_reading("mean corruption accuracy", hits, n)
    yield Reading(mean.quantity, mean.value, unit="%", note="one sample counts several times, so no interval is given")
