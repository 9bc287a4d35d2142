"""Decisions of distributed training: made by one process, known to all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from sartor.errors import SartorError

T = TypeVar("T")


def on_first_rank(compute: Callable[[], T]) -> T:
    """The result of rank 0, on every rank; without process groups, the result.

    Raises:
        SartorError: on the other ranks, if rank 0 failed; says how. Rank 0 raises what it raised.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return compute()
    box: list[Any] = [None]
    problem: Exception | None = None
    if dist.get_rank() == 0:
        try:
            box = [(compute(), None)]
        except Exception as e:
            problem, box = e, [(None, f"{type(e).__name__}: {e}")]
    dist.broadcast_object_list(box, src=0)
    if problem is not None:
        raise problem
    result, why = box[0]
    if why is not None:
        raise SartorError(f"rank 0 could not decide: {why}")
    return result  # type: ignore[no-any-return]


__all__ = ["on_first_rank"]
