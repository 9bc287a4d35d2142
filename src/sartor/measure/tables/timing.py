"""The time of a segment, and how it is measured on a target that only shows how long a whole run takes."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from sartor.errors import SartorError
from sartor.measure.artefact import prepare
from sartor.measure.attempt import Attempt
from sartor.measure.pinning import memory_kept
from sartor.measure.runnable import Runnable
from sartor.measure.tables.segment_module import SegmentModule, segment_module, shape_of
from sartor.measure.tables.segments import Kind, Point
from sartor.types import Target

Work = tuple[Kind, Point]

TOGETHER = 32  # segments that are prepared at the same time, at most
TOGETHER_BYTES = 2**28  # of their tensors, at most
ROUNDS = 9  # every segment is timed once a round, so that a disturbance affects all of them alike
SAMPLE_S = 4e-4  # a sample runs a shorter segment several times


@dataclass(frozen=True)
class Timing:
    """Seconds of one segment at one point.

    A runtime may keep tensors between operators in a layout of its own (such as blocks of 8 or 16 channels). Then
    `given` holds for every input, and `left` for every output, whether it is in that layout. Conversions of the layout
    are not part of `seconds`: `convert_s` holds their seconds for every output. Neighbours that use the same layout
    need no conversion.
    """

    seconds: float
    given: tuple[bool, ...] = ()
    left: tuple[bool, ...] = ()
    convert_s: tuple[float, ...] = ()


class Timer(Protocol):
    """Times segments at points on a target; None for a segment that does not run there."""

    def __call__(self, works: Sequence[Work], target: Target) -> list[Timing | None]: ...


def in_turns(
    works: Sequence[Work], target: Target, *, clock: Callable[[], float] = time.perf_counter
) -> list[Timing | None]:
    """Prepare every segment on the target by itself and time all of them in turns; the median of the rounds.

    Every sample includes the overhead of a call of the target. `Nothing`, which has no operator, is timed with the
    segments, and its time is subtracted.

    Raises:
        TargetLost: the machine of the target cannot be reached.
    """
    timings: list[Timing | None] = []
    for chunk in chunks(works):
        with contextlib.ExitStack() as stack:
            ready: list[Runnable | None] = []
            makes: list[Callable[[], SegmentModule | Nothing]] = [partial(segment_module, *work) for work in chunk]
            for make in (*makes, Nothing):
                with Attempt(SartorError, RuntimeError, TypeError, NotImplementedError) as attempt:
                    module = make()
                    ready.append(stack.enter_context(prepare(module, module.inputs(), target)))
                if attempt.error is not None:  # the segment does not run on this target
                    ready.append(None)
            if all(r is None or r.own for r in ready):
                stack.enter_context(memory_kept())
            *seconds, overhead = _timed(ready, clock)
        timings += [None if s is None else Timing(max(s - (overhead or 0.0), 1e-7)) for s in seconds]
    return timings


class Nothing(nn.Module):
    """Returns its input, a single number: its time is the overhead of a call of the target."""

    def inputs(self) -> tuple[Tensor]:
        return (torch.zeros(1),)

    def forward(self, x: Tensor) -> Tensor:
        return x


def chunks(works: Sequence[Work]) -> list[list[Work]]:
    """The works in order, in chunks of at most TOGETHER segments and TOGETHER_BYTES of tensors."""
    parts: list[list[Work]] = []
    size = 0
    for kind, point in works:
        own = tensor_bytes(kind, point)
        if not parts or len(parts[-1]) >= TOGETHER or size + own > TOGETHER_BYTES:
            parts.append([])
            size = 0
        parts[-1].append((kind, point))
        size += own
    return parts


def tensor_bytes(kind: Kind, point: Point) -> int:
    """Bytes of all tensors of a segment, with four bytes per element."""
    return sum(4 * math.prod(shape_of(kind, i, point)) for i in range(len(kind.spec["tensors"])))


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
            elif number == 1:  # of the second run: the first one loads and allocates
                repeats[i] = max(1, min(200, round(SAMPLE_S / max(seconds, 1e-7))))
    return [statistics.median(s) if s else None for s in samples]
