"""What the time of a segment is, and how it is taken on a target that says no more than how long a run takes."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from sartor.errors import SartorError, TargetLost
from sartor.measure.pinning import memory_kept
from sartor.measure.prepare import prepare
from sartor.measure.runnable import Runnable
from sartor.measure.tables.rebuild import CannotRebuild, Rebuilt, rebuilt
from sartor.measure.tables.segments import Kind, Point
from sartor.types import Target

Work = tuple[Kind, Point]

TOGETHER = 32  # segments that lie prepared at once
TOGETHER_BYTES = 2**28  # of their tensors
ROUNDS = 9  # each is timed once a round, so that a disturbance meets all alike
SAMPLE_S = 4e-4  # shorter segments are run several times a sample


@dataclass(frozen=True)
class Timing:
    """Seconds of one segment at one point.

    A runtime may keep tensors in a layout of its own between operators (blocks of 8 or 16 channels, say). Then `given`
    and `left` say for every tensor from outside and for others whether it is taken or given in that layout; changing
    the layout is not part of `seconds`, and `convert_s` says what it takes for every tensor left. Neighbours that agree
    do not pay it.
    """

    seconds: float
    given: tuple[bool, ...] = ()
    left: tuple[bool, ...] = ()
    convert_s: tuple[float, ...] = ()


class Timer(Protocol):
    """Times segments at points on a target; None for one that does not run there."""

    def __call__(
        self, works: Sequence[Work], target: Target, *, tell: Callable[[int], None] = ...
    ) -> list[Timing | None]: ...


def in_turns(
    works: Sequence[Work],
    target: Target,
    *,
    tell: Callable[[int], None] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing | None]:
    """Every segment prepared on the target by itself, and all timed in turns: median of the rounds.

    What one call of the target costs beside the operators is in every sample; `Nothing` is timed with them, and its
    time taken off.
    """
    found: list[Timing | None] = []
    for chunk in chunks(works):
        with contextlib.ExitStack() as stack:
            ready: list[Runnable | None] = []
            makes: list[Callable[[], Rebuilt | Nothing]] = [partial(rebuilt, kind, point) for kind, point in chunk]
            for make in (*makes, Nothing):
                try:
                    module = make()
                    ready.append(stack.enter_context(prepare(module, module.inputs(), target)))
                except TargetLost:
                    raise
                except (CannotRebuild, SartorError, RuntimeError, TypeError, NotImplementedError):
                    ready.append(None)
            if all(r is None or r.own for r in ready):
                stack.enter_context(memory_kept())
            *taken, idle = _timed(ready, clock)
        found += [None if s is None else Timing(max(s - (idle or 0.0), 1e-7)) for s in taken]
        tell(len(found))
    return found


class Nothing(nn.Module):
    """Gives back one number: what it takes is what a call of the target costs beside the operators."""

    def inputs(self) -> tuple[Tensor]:
        return (torch.zeros(1),)

    def forward(self, x: Tensor) -> Tensor:
        return x


def chunks(works: Sequence[Work]) -> list[list[Work]]:
    """Works in order, so many together that their tensors fit; see TOGETHER."""
    found: list[list[Work]] = []
    size = 0
    for kind, point in works:
        own = tensor_bytes(kind, point)
        if not found or len(found[-1]) >= TOGETHER or size + own > TOGETHER_BYTES:
            found.append([])
            size = 0
        found[-1].append((kind, point))
        size += own
    return found


def tensor_bytes(kind: Kind, point: Point) -> int:
    """Bytes of all tensors of a segment, counted as four an element."""
    from sartor.measure.tables.rebuild import shape_of

    total = 0
    for i in range(len(kind.spec["tensors"])):
        n = 4
        for s in shape_of(kind, i, point):
            n *= s
        total += n
    return total


def _timed(ready: Sequence[Runnable | None], clock: Callable[[], float]) -> list[float | None]:
    samples: list[list[float]] = [[] for _ in ready]
    repeats = [1] * len(ready)
    for number in range(ROUNDS + 2):
        for i, runnable in enumerate(ready):
            if runnable is None:
                continue
            with runnable.held():
                seconds = runnable.timed(repeats[i], clock) / repeats[i]
            if number >= 2:
                samples[i].append(seconds)
            elif number == 1:  # the first run loads and allocates
                repeats[i] = max(1, min(200, round(SAMPLE_S / max(seconds, 1e-7))))
    return [statistics.median(s) if s else None for s in samples]
