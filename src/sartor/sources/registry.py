"""Which kinds of data sets there are, and what reading one gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from sartor.registry import Registry
from sartor.sources.loader import Samples
from sartor.sources.spec import Spec


class Parts(NamedTuple):
    """What a source reads: samples of each part; without a `val` of its own, one is split off."""

    train: Samples
    labels: Tensor  # [n] of `train`
    val: Samples | None
    test: Samples | None
    classes: tuple[str, ...]
    name: str
    fractions: tuple[float, float, float] | None = None  # (train, val, test), for a data set that comes in one piece


class Source(NamedTuple):
    """How a kind of source is read, and which options it knows."""

    read: Callable[[Spec], Parts]
    options: tuple[str, ...]


SOURCES: Registry[Source] = Registry("data source")
