"""How much computation an attacker can force on a network with early exits."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from sartor.analysis.intervals import mean_interval
from sartor.analysis.probes.accuracy import share_reading
from sartor.analysis.probes.attacks import Steps, climb
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading
from sartor.analysis.subject import ProbeSubject, class_numbers, image_of, with_first
from sartor.borrow import borrowed
from sartor.errors import BadInput
from sartor.structure.example import Example

STEPS = Steps()
Exits = Callable[[Example], Sequence[Tensor]]


@probe(
    "exit-cost",
    source="Haque et al. 2020 (ILFO), arXiv:2003.13554, and studies of dynamic networks under attack after it",
    bias="biased downwards: ten steps of projected gradient find a lower bound of the cost that can be forced",
)
def exit_cost(
    subject: ProbeSubject,
    exits: Exits | None = None,
    costs: Sequence[float] = (),
    threshold: float = 0.9,
    steps: Steps = STEPS,
) -> Iterator[Reading]:
    """Mean cost of a sample with early exits, clean and on inputs moved against the confidence of the exits.

    A sample leaves at the first exit whose largest probability exceeds `threshold`, at the latest at the last one.

    Args:
        subject: network and batches.
        exits: exits(inputs) -> logits [n, classes] of every exit, the first one first; None: the model's method
            `exits`.
        costs: of a sample that leaves at each exit, such as MACs, ascending.
        threshold: of confidence.
        steps: of projected gradient ascent on minus the sum of all exits' confidence.

    Raises:
        BadInput: the model has no exits, or not as many as there are costs.
    """
    exits = exits or getattr(subject.model, "exits", None)
    if exits is None:
        raise BadInput(
            "exit cost: expected a model with a method exits(inputs) -> logits of every exit; pass exits=... with "
            "functools.partial"
        )
    if len(costs) < 2 or list(costs) != sorted(costs):
        raise BadInput(f"exit cost: expected ascending costs of at least two exits; got {list(costs)}")
    left: dict[str, list[Tensor]] = {"clean": [], "attacked": []}
    right = {"clean": 0, "attacked": 0}
    for inputs, targets in subject.parts(gradients=True):
        moved = with_first(inputs, _slowed(subject, exits, inputs, steps))
        for name, given in (("clean", inputs), ("attacked", moved)):
            with torch.no_grad(), borrowed(subject.model):
                logits = list(exits(given))
            if len(logits) != len(costs):
                raise BadInput(f"exit cost: expected a cost for each of {len(logits)} exits; got {len(costs)}")
            place = exit_of(logits, threshold)
            left[name].append(place.cpu())
            answer = torch.stack([x.argmax(1) for x in logits]).gather(0, place[None])[0]
            right[name] += int((answer == class_numbers(targets, logits[0])).sum())
    price = torch.tensor(list(costs), dtype=torch.float64)
    means = {}
    for name, places in left.items():
        spent = price[torch.cat(places)]
        means[name] = float(spent.mean())
        yield Reading(f"mean cost, {name}", means[name], "", mean_interval(spent.tolist()))
        yield share_reading(f"accuracy, {name}", right[name], len(spent))
    yield Reading("cost that the attack adds", 100 * (means["attacked"] / means["clean"] - 1), unit="%")


def exit_of(logits: Sequence[Tensor], threshold: float) -> Tensor:
    """int64 [n]: the exit at which each sample leaves."""
    sure = torch.stack([x.softmax(1).amax(1) > threshold for x in logits])
    sure[-1] = True
    return sure.int().argmax(0)


def _slowed(subject: ProbeSubject, exits: Exits, inputs: Example, how: Steps) -> Tensor:
    """The first input tensor, moved so that no exit is sure."""

    def doubt(now: Tensor) -> Tensor:
        with borrowed(subject.model):
            logits = exits(with_first(inputs, now))
        return -torch.stack([x.softmax(1).amax(1).sum() for x in logits]).sum()

    return climb(doubt, image_of(inputs), subject.input_range, how)
