"""The check every exported file passes before it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sartor.errors import BadInput, SartorError
from sartor.measure.agreement import relative_error, varied
from sartor.measure.silence_output import first_line
from sartor.structure.example import batch_of, call, with_batch


def compare_batches(
    eager: Callable[[Any], Any],
    exported: Callable[[Any], Any],
    example: Any,
    *,
    batches: Sequence[int] | None,
    tolerance: float,
    what: str,
) -> dict[str, Any]:
    """Run both at every batch size, on inputs that differ from sample to sample.

    Args:
        batches: batch sizes; None: only that of the example.

    Returns:
        {"batches": the sizes checked, "max_relative_error": the largest}.

    Raises:
        SartorError: the exported one fails, or is further from eager than the tolerance.
    """
    sizes = [batch_of(example)] if batches is None else list(batches)
    if not sizes or any(n < 1 for n in sizes):
        raise BadInput(f"export, 'check': expected batch sizes of at least 1; got {list(batches or ())}")
    worst = 0.0
    for n in sizes:
        inputs = varied(with_batch(example, n), seed=n)
        expected = eager(inputs)
        try:
            got = exported(inputs)
        except Exception as e:
            raise SartorError(f"{what} does not run at batch size {n}: {first_line(e)}") from e
        error = relative_error(expected, got)
        if not error <= tolerance:
            raise SartorError(
                f"{what} does not compute what the model does: at batch size {n} expected a relative error of at most "
                f"{tolerance:g}; got {error:.3g}; nothing was written"
            )
        worst = max(worst, error)
    return {"batches": sizes, "max_relative_error": worst}


def eager_call(model: nn.Module) -> Callable[[Any], Any]:
    """The forward without gradients."""

    def run(inputs: Any) -> Any:
        with torch.no_grad():
            return call(model, inputs)

    return run


def with_ending(path: str | Path, ending: str) -> Path:
    """The path, which must end so."""
    path = Path(path)
    if path.suffix != ending:
        raise BadInput(f"export: expected a file name ending in {ending}; got {str(path)!r}")
    return path
