"""A network named on the command line, opened: a spec, or the folder of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartor.cli.inputs import example_for, is_run, parse_pairs
from sartor.cli.request import Asked, read_asked
from sartor.errors import BadInput

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Loaded:
    """A network and what to feed it."""

    name: str
    module: nn.Module
    example: Any


def load_subject(
    model: str,
    *,
    weights: Path | None = None,
    option: Iterable[str] | None = None,
    shape: str | None = None,
    data: str | None = None,
    factory: str | None = None,
    beside: str | None = None,
) -> Loaded:
    """Open a model by its spec, or the fitted network of a run folder.

    A run knows the factory and the input it was made with; `factory`, `shape` and `data` stand in where it does not.
    A model that stands beside a run folder takes the input of that run, unless told.
    """
    options = parse_pairs(option, "--option")
    if not is_run(model):
        if factory is not None:
            raise BadInput("--factory is for run folders; a model is named by itself")
        from sartor.sources import load_model

        module = load_model(model, weights, options)
        if beside is not None and is_run(beside):
            shape, data = _input(read_asked(beside), shape, data)
        return Loaded(model, module, example_for(model, module, shape=shape, data=data))
    if weights is not None:
        raise BadInput("--weights: a run folder has its own")
    asked = read_asked(model)
    spec = factory or (asked.model if asked else None)
    if spec is None:
        raise BadInput(f"run folder {model!r}: it does not say how its network is made; add --factory file.py:factory")
    import sartor

    make = factory_of(spec, {**(asked.model_options if asked and not factory else {}), **options})
    module = sartor.load(model, make)
    shape, data = _input(asked, shape, data)
    return Loaded(model, module, example_for(spec, module, shape=shape, data=data))


def factory_of(spec: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    """The function that builds an unfitted network from its spec, without weights."""
    from sartor.sources import load_model

    return lambda: load_model(spec, None, options)


def _input(asked: Asked | None, shape: str | None, data: str | None) -> tuple[str | None, str | None]:
    if shape is not None or data is not None or asked is None:
        return shape, data
    return asked.input, asked.data if asked.input is None else None
