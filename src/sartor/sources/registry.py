"""The registry of data sources: kinds of data sets that a spec can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from sartor.registry import Registry
from sartor.sources.loader import Samples
from sartor.sources.spec import Spec


class Parts(NamedTuple):
    """What a source returns: the samples of each part. If `val` is None, validation samples are taken from `train`."""

    train: Samples
    labels: Tensor  # [n] of `train`, by which parts are stratified; equal where targets are no classes
    val: Samples | None
    test: Samples | None
    classes: tuple[str, ...]
    name: str
    fractions: tuple[float, float, float] | None = None  # (train, val, test) shares, if `train` holds all samples


class Source(NamedTuple):
    """A kind of data set."""

    read: Callable[[Spec], Parts]
    options: tuple[str, ...]  # names it accepts in a spec


SOURCES: Registry[Source] = Registry("data source")
