"""Words of the command line into models and example inputs."""

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
    """Example inputs from their shapes, filled with the same numbers every time.

    Args:
        text: shapes such as "1x3x224x224" or "1x128:int64", several separated by commas.

    Returns:
        One tensor, or a tuple of positional arguments. Floating ones are standard normal, whole ones 0 or 1.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    made = []
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
            made.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            made.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    return made[0] if len(made) == 1 else tuple(made)


def parse_pairs(pairs: Iterable[str] | None, flag: str) -> dict[str, Any]:
    """NAME=VALUE pairs; values are JSON where they are JSON (numbers, true, lists), text otherwise.

    >>> parse_pairs(["depth=56", "act=relu"], "--option")
    {'depth': 56, 'act': 'relu'}
    """
    found: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise BadInput(f"{flag}: expected NAME=VALUE; got {pair!r}")
        if name.strip() in found:
            raise BadInput(f"{flag}: {name.strip()} is said twice")
        try:
            found[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            found[name.strip()] = value.strip()
    return found


def example_for(spec: str, model: nn.Module, *, shape: str | None = None, data: str | None = None) -> Any:
    """Example inputs: as said by --input, of the data, or as timm and torchvision say of their models.

    Raises:
        BadInput: nobody says what the model takes.
    """
    if shape is not None and data is not None:
        raise BadInput("--input and --data both say what the model takes; leave one out")
    if shape is not None:
        return parse_input(shape)
    if data is not None:
        from sartor.sources import load_data

        return load_data(data, batch=1).example
    if spec.startswith("timm:"):
        config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
        size = config.get("input_size") or (3, 224, 224)
        return parse_input("x".join(map(str, (1, *size))))
    if spec.startswith("torchvision:"):
        return parse_input("1x3x224x224")
    raise BadInput(f"{spec}: say what it takes, as --input 1x3x224x224 or --data ...")


def is_run(text: str) -> bool:
    """Whether the words name a folder that a run wrote."""
    return Path(text).is_dir()


def is_onnx(text: str) -> bool:
    """Whether the words name an ONNX file."""
    return text.endswith(".onnx")
