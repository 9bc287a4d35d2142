"""New tensors: the axes of constant and random ones are free, those of ordered ones are frozen."""

from __future__ import annotations

from typing import Any

from sartor.structure.axes import Axes, fresh
from sartor.structure.calls import Op
from sartor.structure.rules.registry import freeze_all, rule, same_nesting


@rule(
    "factory",
    """zeros ones full empty new_zeros new_ones new_full new_empty rand randn scalar_tensor empty_strided
    new_empty_strided randint""",
)
def uniform(op: Op) -> Any:
    """Fresh leaves; unification ties them to the axes they are used with."""
    return same_nesting(op, lambda shape: [fresh(n) for n in shape])


@rule(
    "factory",
    """arange linspace logspace eye randperm tril_indices triu_indices nonzero bincount unique_dim _unique2 tensor
    hann_window one_hot histc bucketize searchsorted is_pinned equal""",
)
def ordered(op: Op) -> Axes:
    """Each position has a meaning of its own: outputs and inputs are frozen."""
    return freeze_all(op, op.reason("positions"))
