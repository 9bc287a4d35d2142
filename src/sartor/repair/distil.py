"""A short training of the cut network towards the original's results on calibration inputs alone; no labels.

A refit solves one layer after the other; here all layers are trained together. The targets are the original's outputs
and the outputs of its blocks, on the same inputs, pictures also shifted and mirrored: whatever the input is, the
original says what it should give. Batch norms keep their statistics and dropout is off, so a step computes what the
delivered network computes, does not depend on how a batch is divided, and starts where the refit ended.

Sources: Hinton et al. 2015, arXiv:1503.02531 (outputs as targets); Romero et al. 2015, arXiv:1412.6550 (features as
targets); Li et al. 2020, "Few Sample Knowledge Distillation", arXiv:1812.01839 (few samples without labels).
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.augment import crop_flip
from sartor.activations.micro_batches import parts, samples_within, working_memory
from sartor.borrow import borrowed, device_of, in_channels_last
from sartor.errors import BadInput
from sartor.repair.gap import output_gap, outputs
from sartor.repair.original import Original
from sartor.repair.sample_pool import SamplePool
from sartor.repair.taps import Tap, block_ends, tapped
from sartor.schedule.cosine import cosine
from sartor.structure import Graph
from sartor.structure.example import Example, batch_of, call, first_tensor, map_tensors, tensors
from sartor.torch_internals import BatchNorm
from sartor.types import SILENT, Distil, Listener
from sartor.units import show_seconds

_WARM_UP = 10  # steps in which the learning rate rises; the same for every length, so that the first steps are
_TIMED = 5  # steps after the first one by which the number of steps is chosen that the time allows
_SLOWER = 0.85  # of the planned steps: if fewer fit, the training is shortened once more
_USED = 0.9  # of the time that is left after these; the rest is for measuring the error on held-out inputs
_CHECKS = 4  # times that the error on held-out inputs is measured
_SHIFT = 8  # pictures are shifted by up to an eighth of their size
_NOTES = {
    "time": "heal.distil.steps={} gives the same network whatever the speed of the machine",
    "deadline": "the machine became slower on the way, so another run may give another network",
}
_LR_NORMED, _LR = 3e-3, 3e-4  # of networks with batch norms, which allow larger steps, and of others
_SMALLEST = 1e-12  # of a mean square that an error is divided by


@dataclass(frozen=True)
class Samples:
    """Batches of calibration inputs."""

    trained_on: Sequence[Example]
    held_out: Sequence[Example]  # they judge


def distilled(
    smaller: nn.Module,
    original: Original,
    samples: Samples,
    options: Distil,
    *,
    seed: int = 0,
    listener: Listener = SILENT,
) -> tuple[nn.Module, dict[str, Any]]:
    """A trained copy if it is closer to the original on held-out inputs, else the network itself; and what was done.

    The error on held-out inputs is measured before, and four times on the way; the weights with the smallest stay.
    The same seed, inputs, machine and number of steps give the same weights, bit for bit. Where `options.minutes` ends
    the training before `options.passes` do, the number of steps depends on the speed of the machine: it is chosen after
    the first steps, so that the learning rate still falls to zero, and is in the report; `options.steps` repeats it.
    If the machine becomes slower than it was then, training is shortened again, which cannot be repeated.

    Args:
        smaller: cut from the original; left as it is.
        original: the network before the cut, and the cut.
        samples: calibration inputs.
        options: see `Distil`.
        seed: of the order of the samples, of shifts and mirrors.
        listener: progress.

    Returns:
        (network, report): "kept", "before" and "after" (distance from the original's outputs on held-out inputs, see
        `output_gap`), "steps", "bounded_by" ("steps", "passes", "time" or "deadline") and "seconds".

    Raises:
        BadInput: no calibration inputs.
    """
    batches, held_out = samples.trained_on, samples.held_out
    if not batches or not held_out:
        raise BadInput("distillation: expected calibration inputs to train on and others to judge by; got none")
    started = time.monotonic()
    original = original.renumbered()
    candidate = copy.deepcopy(smaller)
    trained = [p for p in candidate.parameters() if p.requires_grad and p.is_floating_point()]
    targets = outputs(original.model, held_out)
    before = output_gap(smaller, held_out, targets)
    report: dict[str, Any] = {"kept": False, "before": before, "after": before, "steps": 0}
    if not trained or before == 0:
        return smaller, report
    with ExitStack() as stack:
        teacher = original.model
        if any(isinstance(m, nn.Conv2d) for m in candidate.modules()):
            teacher = copy.deepcopy(teacher)
            stack.enter_context(in_channels_last(teacher))
            stack.enter_context(in_channels_last(candidate))
        stack.enter_context(borrowed(teacher))
        stack.enter_context(borrowed(candidate))
        taps = block_ends(original, batches[0]) if options.features > 0 else []
        step = _Step(candidate, teacher, taps, options, original.graph)
        step.measure(batches[0])
        length = _Length(options, SamplePool(batches, options.batch, seed), started)
        lr = options.lr or (_LR_NORMED if any(isinstance(m, BatchNorm) for m in candidate.modules()) else _LR)
        best, best_state = before, None
        augment = _augmentation(options, batches[0], seed)
        for index, inputs in enumerate(length.batches()):
            loss = step(augment(inputs), lr * length.rate(index))
            length.timed(index)
            listener.tell(f"step {index + 1}/{length.steps} loss {loss:.4f}", (index + 1) / length.steps)
            if length.is_check(index):
                gap = output_gap(candidate, held_out, targets)
                if gap < best:  # false for NaN
                    best, best_state = gap, _state(candidate)
        for p in trained:
            p.grad = None
        if best_state is not None:
            _restore(candidate, best_state)
    seconds = time.monotonic() - started
    report |= {"steps": length.done, "bounded_by": length.bounded_by, "seconds": seconds, "after": best}
    if length.bounded_by in _NOTES:
        fitted = f"{length.done} of {length.wished} steps fitted into {show_seconds(60 * options.minutes)}"
        listener.note(f"distillation: {fitted}; {_NOTES[length.bounded_by].format(length.done)}")
    if best_state is None:
        return smaller, report
    return candidate, report | {"kept": True}


class _Length:
    """How many steps there are, and the learning rate of each."""

    def __init__(self, options: Distil, pool: SamplePool, started: float):
        self.options, self.pool = options, pool
        self.wished = options.steps or options.passes * pool.steps
        self.steps = self.wished
        self.bounded_by = "steps" if options.steps else "passes"
        self.deadline = math.inf if options.steps else started + 60 * options.minutes
        self.done = 0
        self._first = 0.0

    def batches(self) -> Iterator[Example]:
        """The inputs of every step."""
        drawn = itertools.chain.from_iterable(self.pool.passed_once() for _ in itertools.count())
        while self.done < self.steps:
            self.done += 1
            yield next(drawn)

    def rate(self, index: int) -> float:
        """The share of the learning rate in a step: a linear warm-up, then a cosine to zero."""
        rise = min(1.0, (index + 1) / _WARM_UP)
        behind = max(0, index - _WARM_UP) / max(1, self.steps - _WARM_UP)
        return rise * cosine(min(1.0, behind))

    def timed(self, index: int) -> None:
        """Called after each step: shortens the training to what the time allows."""
        now = time.monotonic()
        if index == 0:
            self._first = now
        if self.deadline == math.inf or index + 1 >= self.steps:
            return
        if now > self.deadline:
            self.steps, self.bounded_by = index + 1, "deadline"
        elif index >= _TIMED and index % _TIMED == 0:
            left = int(_USED * (self.deadline - now) * index / (now - self._first))
            if index == _TIMED and index + 1 + left < self.steps:
                self.steps, self.bounded_by = max(index + 2, index + 1 + left), "time"
            elif index > _TIMED and index + 1 + left < _SLOWER * (self.steps - index - 1) + index + 1:
                self.steps, self.bounded_by = max(index + 2, index + 1 + left), "deadline"

    def is_check(self, index: int) -> bool:
        """Whether the error on held-out inputs is measured behind a step."""
        return (index + 1) % max(1, -(-self.steps // _CHECKS)) == 0 or index + 1 == self.steps


class _Step:
    """One step of Adam on one batch, in parts that fit into the memory."""

    def __init__(self, student: nn.Module, teacher: nn.Module, taps: list[Tap], options: Distil, graph: Graph):
        self.student, self.teacher, self.taps, self.options = student, teacher, taps, options
        self.trained = [p for p in student.parameters() if p.requires_grad and p.is_floating_point()]
        self.optimizer = torch.optim.Adam(self.trained)
        self.most = samples_within(graph, device_of(student), working_memory(), gradients=True)
        self.sizes: dict[str, float] = {}  # mean squares of the original's results, by module; "": of its outputs
        self.picture = any(isinstance(m, nn.Conv2d) for m in student.modules())

    def __call__(self, inputs: Example, rate: float) -> float:
        """The loss before the step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        pieces = parts(inputs, self.most)
        total = 0.0
        for piece in pieces:
            with torch.enable_grad():
                loss = self._loss(self._formatted(piece)) / len(pieces)
                loss.backward()
            total += float(loss.detach())
        self.optimizer.step()
        return total

    def measure(self, inputs: Example) -> None:
        """Take from one batch the sizes that errors are relative to, so that they do not depend on parts of batches."""
        sums: dict[str, tuple[float, int]] = {}
        for piece in parts(inputs, self.most):
            with tapped(self.teacher, self.taps) as wanted, torch.no_grad():
                results = {"": first_tensor(call(self.teacher, self._formatted(piece))), **wanted}
            for name, t in results.items():
                square, count = sums.get(name, (0.0, 0))
                sums[name] = (square + float(t.double().square().sum()), count + t.numel())
        self.sizes = {name: square / max(1, count) for name, (square, count) in sums.items()}

    def _formatted(self, inputs: Example) -> Example:
        last = torch.channels_last
        one = lambda t: t.contiguous(memory_format=last) if t.dim() == 4 and self.picture else t
        return map_tensors(one, inputs)

    def _loss(self, inputs: Example) -> Tensor:
        with tapped(self.teacher, self.taps) as wanted, torch.no_grad():
            target = first_tensor(call(self.teacher, inputs))
        with tapped(self.student, self.taps) as given:
            loss = self._error("", first_tensor(call(self.student, inputs)), target)
        reached = [t for t in self.taps if t.module in wanted and t.module in given]
        for tap in reached:
            error = self._error(tap.module, given[tap.module], tap.of_original(wanted[tap.module]))
            loss = loss + self.options.features / len(reached) * error
        return loss

    def _error(self, name: str, given: Tensor, target: Tensor) -> Tensor:
        """Squared distance from the target, relative to the size of the original's results there."""
        target = target.float()
        size = self.sizes.get(name)  # None: the batch that was measured does not reach the module
        of = target.square().mean().clamp(min=_SMALLEST) if size is None else max(size, _SMALLEST)
        return (given.float() - target).square().mean() / of


def _augmentation(options: Distil, example: Example, seed: int) -> Any:
    """A function of inputs: pictures are shifted and mirrored, anything else stays as it is."""
    given = list(tensors(example))
    picture = len(given) == 1 and given[0].dim() == 4 and given[0].shape[1] in (1, 3)
    if options.augment == "none" or not picture or not given[0].is_floating_point():
        return lambda inputs: inputs
    pad = max(1, min(given[0].shape[2:]) // _SHIFT)
    changed = partial(crop_flip, generator=torch.Generator().manual_seed(seed), pad=pad)
    return lambda inputs: map_tensors(changed, inputs)


def _state(model: nn.Module) -> list[Tensor]:
    return [t.detach().clone() for t in (*model.parameters(), *model.buffers())]


def _restore(model: nn.Module, state: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for t, saved in zip((*model.parameters(), *model.buffers()), state, strict=True):
            t.copy_(saved)


def samples_apart(batches: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """One batch as two: the samples that are trained on, and the last ones, which judge; none of a single sample.

    >>> [[len(b) for b in side] for side in samples_apart([torch.zeros(20, 3)], 0.1)]
    [[18], [2]]
    """
    if len(batches) != 1 or batch_of(batches[0]) < 2:
        raise BadInput("distillation: expected at least two calibration samples: one to train on and one to judge by")
    n = batch_of(batches[0])
    held = max(1, round(share * n))

    def between(low: int, high: int) -> Example:
        return map_tensors(lambda t: t[low:high] if t.dim() and t.shape[0] == n else t, batches[0])

    return [between(0, n - held)], [between(n - held, n)]


__all__ = ["Samples", "distilled", "samples_apart"]
