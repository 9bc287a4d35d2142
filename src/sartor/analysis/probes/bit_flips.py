"""Accuracy when bits of the stored weights flip at random, by rate."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sartor.analysis.intervals import mean_interval
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading
from sartor.analysis.subject import ProbeSubject
from sartor.errors import UnknownName

RATES = (1e-7, 1e-6, 1e-5, 1e-4)
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@probe(
    "bit-flips",
    source="Hoang et al. 2020 (FT-ClipAct), arXiv:1912.00941, section V: random flips in the memory of the weights",
    bias="none in the mean over flips; the interval is that of `repeats` random draws on the same samples, so it says "
    "nothing about other samples",
)
def bit_flips(
    subject: ProbeSubject, rates: Sequence[float] = RATES, repeats: int = 5, formats: Sequence[str] = ("float", "int8")
) -> Iterator[Reading]:
    """Mean accuracy at each rate of flipped bits, and its mean over the logarithm of the rate ("bit-flip AUC").

    Args:
        subject: network and batches.
        rates: probability of each bit to flip, ascending.
        repeats: draws at each rate.
        formats: "float": the parameters as they are stored; "int8": the weights of two and more dimensions as
            integers with one scale an output (symmetric), whose bits flip, the other parameters as they are stored.

    Raises:
        UnknownName: an unknown format.
    """
    for form in formats:
        if form not in FORMATS:
            raise UnknownName("format of stored weights", form, FORMATS)
        generator = subject.generator(f"bit flips {form}")
        weights = {name: p.detach() for name, p in subject.model.named_parameters() if p.is_floating_point()}
        curve = []
        for rate in rates:
            drawn = []
            for _ in range(repeats):
                flipped = FORMATS[form](weights, rate, generator)
                drawn.append(100 * float(subject.right(tensors=flipped).double().mean()))
            curve.append(math.fsum(drawn) / repeats)
            yield Reading(f"accuracy at {rate:g} ({form})", curve[-1], "", mean_interval(drawn), "%")
        if len(rates) > 1:
            yield Reading(f"bit-flip AUC ({form})", area(rates, curve), unit="%")


def area(rates: Sequence[float], curve: Sequence[float]) -> float:
    """Mean of a curve over the logarithm of the rate, by trapezoids.

    >>> area((1e-6, 1e-5, 1e-4), (90.0, 60.0, 10.0))
    55.0
    """
    x = [math.log10(r) for r in rates]
    pieces = [(b - a) * (u + v) / 2 for a, b, u, v in zip(x, x[1:], curve, curve[1:])]
    return round(math.fsum(pieces) / (x[-1] - x[0]), 9)


def flip(stored: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """A copy in which every bit is flipped with probability `rate`.

    Args:
        stored: of any float or integer type of 1, 2, 4 or 8 bytes.
        rate: in [0, 1].
        generator: on the CPU.

    >>> flip(torch.tensor([0, -1, 5], dtype=torch.int8), 1.0, torch.Generator())
    tensor([-1,  0, -6], dtype=torch.int8)
    """
    width = 8 * stored.itemsize
    bits = stored.numel() * width
    out = stored.detach().clone(memory_format=torch.contiguous_format)
    whole = out.view(_INTEGERS[stored.itemsize]).flatten()
    for place in _places(bits, rate, generator).split(1 << 20):
        mask = torch.zeros_like(whole)
        word, bit = (place // width).to(whole.device), (place % width).to(whole.device)
        # two's complement: the highest bit as the smallest number
        ones = torch.bitwise_left_shift(torch.ones_like(bit), bit).to(whole.dtype)
        mask.index_add_(0, word, ones)  # places are distinct, so sums of their bits are their union
        whole = torch.bitwise_xor(whole, mask)
    return whole.view(stored.dtype).reshape(stored.shape)


def _places(bits: int, rate: float, generator: torch.Generator) -> Tensor:
    """Numbers of the bits that flip: a binomial number of distinct ones, int64."""
    if rate > 0.01:
        return (torch.rand(bits, generator=generator) < rate).nonzero()[:, 0]
    p = torch.tensor(float(rate), dtype=torch.float64)
    count = int(torch.binomial(torch.tensor(float(bits), dtype=torch.float64), p, generator=generator))
    found = torch.randint(bits, (count,), generator=generator).unique()
    while len(found) < count:
        more = torch.randint(bits, (count - len(found),), generator=generator)
        found = torch.cat([found, more]).unique()
    return found


def _float_flips(weights: Mapping[str, Tensor], rate: float, generator: torch.Generator) -> dict[str, Tensor]:
    return {name: flip(w, rate, generator) for name, w in weights.items()}


def _int8_flips(weights: Mapping[str, Tensor], rate: float, generator: torch.Generator) -> dict[str, Tensor]:
    flipped = {}
    for name, w in weights.items():
        if w.dim() < 2:
            flipped[name] = flip(w, rate, generator)
            continue
        scale = w.flatten(1).abs().amax(1).clamp(min=1e-30).reshape(-1, *[1] * (w.dim() - 1)) / 127
        stored = (w / scale).round().clamp(-127, 127).to(torch.int8)
        flipped[name] = flip(stored, rate, generator).to(w.dtype) * scale
    return flipped


Flips = Callable[[Mapping[str, Tensor], float, torch.Generator], dict[str, Tensor]]
FORMATS: dict[str, Flips] = {"float": _float_flips, "int8": _int8_flips}
