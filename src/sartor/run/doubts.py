"""Signs that a run means nothing: an original that guesses, a head of other classes, validation on training data,
scores that choose worse than chance.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput
from sartor.run.chance import BesideChance
from sartor.structure.example import call, first_tensor, tensors, to_device
from sartor.train.batch import first_samples
from sartor.types import Batches, Data, Judge

LABELS = 1000  # validation samples whose labels are counted
COMPARED = 256  # validation samples that are looked for in the training data
SEARCHED = 2048  # ... among so many of its samples
FEW = 20  # samples below which a share of right answers says nothing
SIGMAS = 2.0  # accuracy up to so many standard deviations above that of guessing is called guessing
SHARED = 0.05  # share of the compared samples that may also be training samples by accident


def doubts(network: nn.Module, data: Data, judge: Judge, accuracy: float | None) -> list[str]:
    """Sentences about what makes the quality of a run meaningless; none of them stops it.

    Args:
        network: the original.
        data: parts as pairs.
        judge: chance and classes are judged where quality is top-1 accuracy.
        accuracy: of the original on the validation part, in percent; None: not judged.
    """
    found = []
    if data.val is not None and data.train is not None:
        with suppress(BadInput):  # `val` is not read where the user judges
            found.append(_same_data(data.train, data.val))
    if data.val is not None and accuracy is not None and judge.evaluate is None and judge.measure is None:
        labels, outputs = _labels(network, data.val)
        found += [_guesses(labels, accuracy), _other_classes(labels, outputs)]
    return [sentence for sentence in found if sentence]


def worse_than_chance(beside: BesideChance | None, scores: str) -> str:
    """A sentence if random units lose less than those that the scores choose; empty otherwise.

    Args:
        beside: the losses; None: not compared.
        scores: the name of what chose.
    """
    if beside is None or not beside.worse or scores == "random":
        return ""
    what = "squared error at the layers that read the cut units" + (", refitted," if beside.refitted else "")
    low, high = min(beside.random), max(beside.random)
    return (
        f"THE SCORES ARE WORSE THAN CHANCE: on calibration data the choice of {scores!r} leaves a {what} of "
        f"{beside.chosen:.3g}, random choices of as many units {low:.3g} to {high:.3g}. Magnitudes of weights in front "
        "of a batch norm say little, least in depthwise convolutions: use recipe='reconstruction', or another "
        "criterion that reads data"
    )


def _guesses(labels: Counter[int], accuracy: float) -> str:
    """
    >>> _guesses(Counter({0: 50, 1: 50}), 52.0).partition(":")[0]
    'THE ORIGINAL GUESSES'
    """
    count = labels.total()
    if count < FEW or len(labels) < 2:
        return ""
    chance = max(labels.values()) / count
    highest = 100 * (chance + SIGMAS * math.sqrt(chance * (1 - chance) / count))
    if accuracy > highest:
        return ""
    return (
        f"THE ORIGINAL GUESSES: its accuracy on val is {accuracy:.1f} %, and always naming the most frequent class "
        f"gives {100 * chance:.1f} %. Check its weights, the normalisation of inputs and the order of classes: the "
        "quality of the fitted network says nothing"
    )


def _other_classes(labels: Counter[int], outputs: int) -> str:
    if not labels or outputs <= 2 * (max(labels) + 1) or labels.total() < FEW:
        return ""
    return (
        f"THE HEAD HAS OTHER CLASSES THAN THE DATA: {outputs} outputs, and labels of val are 0 to {max(labels)}. If "
        "the network was trained on other classes, give it a head for these, or number the labels as it does"
    )


def _same_data(train: Batches, val: Batches) -> str:
    words = "quality on val is that of data which training and scores see: pass data that neither reads as val="
    if train is val:
        return f"VAL IS TRAIN: both are the same loader; {words}"
    sets = [getattr(part, "dataset", None) for part in (train, val)]
    samplers = [type(getattr(part, "sampler", None)).__name__ for part in (train, val)]
    if sets[0] is not None and sets[0] is sets[1] and set(samplers) <= {"SequentialSampler", "RandomSampler"}:
        return f"VAL IS TRAIN: both loaders read all of one data set; {words}"
    if any(hasattr(part, "__next__") for part in (train, val)):
        return ""
    with torch.random.fork_rng(devices=[]):
        wanted = set(_digests(val, COMPARED))
        seen = wanted & set(_digests(train, SEARCHED))
    if not wanted or len(seen) <= SHARED * len(wanted):
        return ""
    return f"VAL HOLDS TRAINING SAMPLES: {len(seen)} of {len(wanted)} samples compared are in train too; {words}"


def _digests(batches: Iterable[Any], samples: int) -> Iterator[bytes]:
    """One digest a sample, of its inputs."""
    for inputs, _ in first_samples(batches, samples):
        parts = [t for t in tensors(inputs) if t.dim()]
        for i in range(min((len(t) for t in parts), default=0)):
            digest = hashlib.blake2b(digest_size=16)
            for t in parts:
                digest.update(t[i].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            yield digest.digest()


def _labels(network: nn.Module, val: Batches) -> tuple[Counter[int], int]:
    """How often each class occurs among the first validation samples, and the number of the network's outputs."""
    counts: Counter[int] = Counter()
    outputs = 0
    with borrowed(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for inputs, targets in first_samples(val, LABELS):
            if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.dim() != 1:
                return Counter(), 0
            if not outputs:
                outputs = first_tensor(call(network, to_device(inputs, device_of(network)))).shape[1]
            counts.update(targets.tolist())
    return counts, outputs
