"""Example inputs and other values parsed from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartor.errors import BadInput
from sartor.example_input import parse_input

if TYPE_CHECKING:
    from torch import nn


def parse_pairs(pairs: Iterable[str] | None, flag: str) -> dict[str, Any]:
    """NAME=VALUE pairs as a dict. A value that is valid JSON (number, true, list) is read as JSON, else as text.

    Args:
        pairs: of the command line; None: there are none.
        flag: they were given with, for messages.

    Raises:
        BadInput: not a pair, or a name is given twice.

    >>> parse_pairs(["depth=56", "act=relu"], "--option")
    {'depth': 56, 'act': 'relu'}
    """
    values: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise BadInput(f"{flag}: expected NAME=VALUE; got {pair!r}")
        if name.strip() in values:
            raise BadInput(f"{flag}: {name.strip()} is given twice")
        try:
            values[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            values[name.strip()] = value.strip()
    return values


def example_for(spec: str, model: nn.Module, *, shape: str | None = None, data: str | None = None) -> Any:
    """Example inputs of a model: from --input, else from --data, else the documented input size of its library.

    Args:
        spec: of the model, see `sartor.sources.load_model`.
        model: the module built from it.
        shape: the value of --input.
        data: the value of --data.

    Raises:
        BadInput: both options are given, or the inputs are unknown.
    """
    if shape is not None and data is not None:
        raise BadInput("--input and --data both define the example input; pass only one of them")
    if shape is not None:
        return parse_input(shape)
    if data is not None:
        from sartor.sources import load_data

        return load_data(data, batch=1).example
    from sartor.sources.models import MODEL_LIBRARIES

    library = spec.partition(":")[0]
    if library in MODEL_LIBRARIES:
        size = MODEL_LIBRARIES[library].value.input_size(model)
        return parse_input("x".join(map(str, (1, *size))))
    raise BadInput(f"{spec}: the shape of its input is unknown; pass --input, such as --input 1x3x224x224, or --data")


def is_run(text: str) -> bool:
    """Whether the text names a run folder: any folder counts."""
    return Path(text).is_dir()


def is_onnx(text: str) -> bool:
    """Whether the text names an ONNX file."""
    return text.endswith(".onnx")
