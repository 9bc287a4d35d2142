"""Run the real model in lock-step with its graph: the calibration eye of scores and repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from sartor.errors import CannotTrace
from sartor.structure.calls import Op
from sartor.structure.example import Example, call
from sartor.structure.graph import Graph
from sartor.structure.operator_watch import watching
from sartor.torch_internals import OpOverload

Visit = Callable[[Op, tuple[Any, ...], dict[str, Any], Any], None]


def replay(graph: Graph, model: nn.Module, example: Example, visit: Visit) -> Any:
    """Run model(example) without gradients and show every operator call with its real tensors.

    Args:
        graph: traced from this model (any batch size), or from the one this was cut from.
        visit: called as visit(op, args, kwargs, out) in the order of graph.ops.

    Returns:
        What the model returns.

    Raises:
        CannotTrace: the model takes another path than when it was traced.
    """
    place = 0

    def see(func: OpOverload, args: Any, kwargs: Any, out: Any, path: str) -> None:
        nonlocal place
        if place >= len(graph.ops) or graph.ops[place].func is not func:
            want = graph.ops[place].where if place < len(graph.ops) else "the end"
            raise CannotTrace(f"the forward took another path than when traced: {func} in {path}, expected {want}")
        visit(graph.ops[place], args, kwargs, out)
        place += 1

    with watching(model, see, meta=False):
        return call(model, example)
