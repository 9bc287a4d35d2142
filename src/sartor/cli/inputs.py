"""Example inputs and other values parsed from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sartor.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHAPE = re.compile(r"^\s*(\d+(?:[x×]\d+)*)\s*(?::\s*(\w+))?\s*$")
DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "bool")


def parse_input(text: str) -> Tensor | tuple[Tensor, ...]:
    """Example inputs of given shapes, filled with the same random numbers every time.

    Args:
        text: shapes such as "1x3x224x224" or "1x128:int64"; several are separated by commas.

    Returns:
        One tensor, or a tuple of positional arguments. Floating-point values are standard normal, integers 0 or 1.

    Raises:
        BadInput: not a shape, or a size below 1.
        UnknownName: a data type that does not exist.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = []
    for part in text.split(","):
        m = _SHAPE.match(part)
        if not m:
            raise BadInput(f"--input: expected a shape such as 1x3x224x224 or 1x128:int64; got {part.strip()!r}")
        shape, name = [int(n) for n in re.split("[x×]", m[1])], m[2] or "float32"
        if min(shape) < 1:
            raise BadInput(f"--input: expected sizes of at least 1; got {part.strip()!r}")
        if name not in DTYPES:
            raise UnknownName("type of an input", name, DTYPES)
        dtype = getattr(torch, name)
        if dtype.is_floating_point:
            tensors.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            tensors.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


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
