"""The check that every exported file passes before it is written: it computes what the original does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sartor.errors import BadInput, SartorError
from sartor.measure import Artefact
from sartor.measure.agreement import relative_error, varied
from sartor.measure.silence_output import first_line
from sartor.structure.example import Example, batch_of, with_batch


def compare_batches(
    original: Artefact, exported: Artefact, example: Example, *, batches: Sequence[int] | None, tolerance: float
) -> dict[str, Any]:
    """Run both at every batch size, on inputs that differ from sample to sample.

    Args:
        original: the reference.
        exported: the file.
        example: example inputs.
        batches: batch sizes; None: only that of the example.
        tolerance: largest relative error allowed (see `sartor.measure.agreement.relative_error`).

    Returns:
        {"batches": the sizes checked, "max_relative_error": the largest of all sizes}.

    Raises:
        BadInput: there is no batch size, or one below 1.
        SartorError: the file does not run, or its relative error exceeds the tolerance.
    """
    sizes = [batch_of(example)] if batches is None else list(batches)
    if not sizes or any(n < 1 for n in sizes):
        raise BadInput(f"export, 'check': expected batch sizes of at least 1; got {list(batches or ())}")
    worst = 0.0
    for n in sizes:
        inputs = varied(with_batch(example, n), seed=n)
        expected = original.run(inputs)
        try:
            outputs = exported.run(inputs)
        except Exception as e:
            raise SartorError(f"{exported.name} does not run at batch size {n}: {first_line(e)}") from e
        error = relative_error(expected, outputs)
        if not error <= tolerance:
            raise SartorError(
                f"{exported.name} does not compute what the model does: at batch size {n} expected a relative error of "
                f"at most {tolerance:g}; got {error:.3g}; nothing was written"
            )
        worst = max(worst, error)
    return {"batches": sizes, "max_relative_error": worst}


def with_ending(path: str | Path, ending: str) -> Path:
    """The path, which must have this ending.

    Raises:
        BadInput: it has another one.
    """
    path = Path(path)
    if path.suffix != ending:
        raise BadInput(f"export: expected a file name ending in {ending}; got {str(path)!r}")
    return path
