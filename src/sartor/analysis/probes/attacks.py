"""Attacks that change inputs along the gradient of the loss: FGSM and PGD."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.analysis.probes.accuracy import share_reading
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading
from sartor.analysis.subject import ProbeSubject, class_numbers, image_of, with_first
from sartor.structure.example import Example

EPS = 8 / 255  # of the range of a channel over the data; for pictures, eight levels of 255


@probe(
    "fgsm",
    source="Goodfellow et al. 2015, arXiv:1412.6572, section 4",
    bias="biased upwards: one step finds fewer adversarial inputs than there are, above all where gradients vanish",
)
def fgsm(subject: ProbeSubject, eps: float = EPS) -> Iterator[Reading]:
    """Accuracy on inputs moved by `eps` along the sign of the gradient of the cross entropy.

    Args:
        subject: network and batches.
        eps: share of the range of each channel over the data, in which results are clipped.
    """
    right, n = 0, 0
    for inputs, targets in subject.parts(gradients=True):
        moved = ascend(subject, inputs, targets, Steps(eps, eps, 1))
        right, n = right + hits(subject, with_first(inputs, moved), targets), n + len(moved)
    yield share_reading("accuracy under fgsm", right, n)


@probe(
    "pgd",
    source="Madry et al. 2018, arXiv:1706.06083, section 2.1",
    bias="biased upwards: a bound on robust accuracy from above, which more steps and restarts lower",
)
def pgd(
    subject: ProbeSubject, eps: float = EPS, steps: int = 10, step: float = EPS / 4, restarts: int = 1
) -> Iterator[Reading]:
    """Accuracy on the worst inputs that projected gradient ascent on the cross entropy finds within `eps`.

    Args:
        subject: network and batches.
        eps: share of the range of each channel over the data, in which results are clipped.
        steps: of ascent along the sign of the gradient, from a random start.
        step: their length, in the unit of `eps`.
        restarts: a sample is robust if it is classified right after each of them.
    """
    generator = subject.generator("pgd")
    right, n = 0, 0
    for inputs, targets in subject.parts(gradients=True):
        robust = torch.ones(len(image_of(inputs)), dtype=torch.bool, device=subject.device)
        for _ in range(restarts):
            moved = ascend(subject, inputs, targets, Steps(eps, step, steps), generator)
            robust &= _correct(subject, with_first(inputs, moved), targets)
        right, n = right + int(robust.sum()), n + len(robust)
    yield share_reading("accuracy under pgd", right, n)


@dataclass(frozen=True)
class Steps:
    """How an attack moves, in shares of each channel's range."""

    eps: float = EPS  # how far from the input at most
    step: float = EPS / 4  # length of one step
    count: int = 10


def ascend(
    subject: ProbeSubject, inputs: Example, targets: Tensor, how: Steps, generator: torch.Generator | None = None
) -> Tensor:
    """The first input tensor, moved to a larger cross entropy within a box around it.

    Args:
        subject: network and range of the inputs.
        inputs, targets: of one batch.
        how: size and number of steps.
        generator: of a random start; None: the start is the input itself.
    """

    def loss(now: Tensor) -> Tensor:
        logits = subject.run(with_first(inputs, now))
        return F.cross_entropy(logits, class_numbers(targets, logits))

    return climb(loss, image_of(inputs), subject.input_range, how, generator)


def climb(
    value: Callable[[Tensor], Tensor],
    x: Tensor,
    bounds: tuple[Tensor, Tensor],
    how: Steps,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`x` moved along the signs of gradients to a larger value, within a box around it and within bounds.

    Args:
        value: value(x) -> scalar.
        x: where to begin.
        bounds: smallest and largest value of each channel; a value of `x` outside of them may stay.
        how: size and number of steps.
        generator: of a random start; None: the start is `x` itself.
    """
    low, high = bounds
    size = high - low
    bottom, top = torch.maximum(x - how.eps * size, low), torch.minimum(x + how.eps * size, high)
    bottom, top = torch.minimum(bottom, x), torch.maximum(top, x)
    now = x
    if generator is not None:
        now = bottom + (top - bottom) * torch.rand(x.shape, generator=generator).to(x)
    for _ in range(how.count):
        now = now.detach().clone().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(value(now), now)
        now = torch.minimum(torch.maximum(now.detach() + how.step * size * slope.sign(), bottom), top)
    return now.detach()


def hits(subject: ProbeSubject, inputs: Example, targets: Tensor) -> int:
    """How many samples are classified right."""
    return int(_correct(subject, inputs, targets).sum())


def _correct(subject: ProbeSubject, inputs: Example, targets: Tensor) -> Tensor:
    with torch.no_grad():
        logits = subject.run(inputs)
    return (logits.argmax(1) == class_numbers(targets, logits)) & ~logits.isnan().any(1)
