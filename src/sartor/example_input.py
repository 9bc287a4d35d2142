"""Example inputs of given shapes, parsed from text such as "1x3x224x224"."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from sartor.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from torch import Tensor

_SHAPE = re.compile(r"^\s*(\d+(?:[x×]\d+)*)\s*(?::\s*(\w+))?\s*$")
MOST_ELEMENTS = 2**27  # of all inputs together: 512 MiB in float32
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

    elements = 0
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for part in text.split(","):
        m = _SHAPE.match(part)
        if not m:
            raise BadInput(f"--input: expected a shape such as 1x3x224x224 or 1x128:int64; got {part.strip()!r}")
        sizes = re.split("[x×]", m[1])
        shape, name = [int(n[:20]) for n in sizes], m[2] or "float32"
        if min(shape) < 1:
            raise BadInput(f"--input: expected sizes of at least 1; got {part.strip()!r}")
        elements += math.prod(shape)
        if elements > MOST_ELEMENTS:
            raise BadInput(f"--input: expected at most {MOST_ELEMENTS} numbers in all; got {part.strip()[:80]!r}")
        if name not in DTYPES:
            raise UnknownName("type of an input", name, DTYPES)
        dtype = getattr(torch, name)
        if dtype.is_floating_point:
            tensors.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            tensors.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
