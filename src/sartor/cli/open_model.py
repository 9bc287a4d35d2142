"""A network named on the command line, opened: a model spec or a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartor.cli.inputs import example_for, is_run, parse_pairs
from sartor.cli.request import Request, read_request
from sartor.cli.trust import check_trust, data_uses, model_uses
from sartor.errors import BadInput

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class OpenModel:
    """A network with example inputs."""

    name: str
    module: nn.Module
    example: Any


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Command-line options that say how a network is built and what its inputs are. None: not given."""

    weights: Path | None = None  # --weights
    option: Sequence[str] | None = None  # --option: NAME=VALUE for the model's factory
    shape: str | None = None  # --input
    data: str | None = None  # --data
    factory: str | None = None  # --factory, for a run folder: in place of the model spec that it records
    trust: bool = False  # --trust: what a run folder names may be imported


def open_model(name: str, options: ModelOptions, *, beside: str | None = None) -> OpenModel:
    """Open a model by its spec, or the fitted network of a run folder.

    Args:
        name: a model spec or a run folder. A run folder records its model spec and its input; `options.factory`,
            `options.shape` and `options.data` are used where it does not.
        options: of the command line.
        beside: another network on the same command line. If it is a run folder and `options` give no input, a model
            spec takes the input of that run.

    Raises:
        BadInput: options that do not apply to `name`, or nothing says how the network is built or what its inputs are.
    """
    factory_options = parse_pairs(options.option, "--option")
    if not is_run(name):
        if options.factory is not None:
            raise BadInput("--factory applies to run folders only; a model spec already names its factory")
        from sartor.sources import load_model

        module = load_model(name, options.weights, factory_options)
        beside_request = read_request(beside) if beside is not None and is_run(beside) else None
        if beside_request is not None:
            _check_input(str(beside), options, beside_request)
        shape, data = _input(options, beside_request)
        return OpenModel(name, module, example_for(name, module, shape=shape, data=data))
    if options.weights is not None:
        raise BadInput("--weights does not apply to a run folder: it holds its own weights")
    request = read_request(name)
    spec = options.factory or (request.model if request else None)
    if spec is None:
        raise BadInput(f"run folder {name!r} does not record how its network is built; add --factory file.py:factory")
    if request is not None:
        _check_input(name, options, request, {} if options.factory else model_uses(request))
    import sartor

    recorded = request.model_options if request and not options.factory else {}
    module = sartor.load(name, factory_of(spec, {**recorded, **factory_options}), trust=options.trust)
    shape, data = _input(options, request)
    return OpenModel(name, module, example_for(spec, module, shape=shape, data=data))


def _check_input(folder: str, options: ModelOptions, request: Request, uses: Mapping[str, str] | None = None) -> None:
    """Check that the user trusts what a run folder imports: `uses`, and its data where they give the example input."""
    _, data = _input(options, request)
    everything = {**(uses or {}), **(data_uses(request) if data is not None and options.data is None else {})}
    check_trust(folder, everything, trust=options.trust, instead="; or pass --factory and --input of your own")


def factory_of(spec: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    """The function that builds an unfitted network from its spec, without weights."""
    from sartor.sources import load_model

    return lambda: load_model(spec, None, options)


def _input(options: ModelOptions, request: Request | None) -> tuple[str | None, str | None]:
    """(shape, data) of the command line; if it gives neither, of the run's request."""
    if options.shape is not None or options.data is not None or request is None:
        return options.shape, options.data
    return request.input, request.data if request.input is None else None
