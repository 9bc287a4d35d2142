"""Run the real model in lock-step with its graph, with gradients or in lower precision where asked.

`structure.replay` runs in inference mode, because there composite operators (linear, attention, LSTM) stay whole. Here
every operator that came whole is computed with gradients again: autograd is kept away from the outside of an operator
(so that nothing is taken apart before it is seen) and let in on its inside. The same holds for autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from sartor.borrow import device_of
from sartor.errors import BadInput, CannotTrace
from sartor.structure import Graph
from sartor.structure.calls import Op
from sartor.structure.operator_watch import watching
from sartor.torch_internals import OpOverload, dispatch_keys, is_excluded, set_excluded

Args = tuple[Any, ...]
PRECISIONS = ("float32", "bfloat16")
_OUTSIDE = ("ADInplaceOrView", "AutocastCPU", "AutocastCUDA", "AutocastXPU", "AutocastMPS")


def autocast(model: nn.Module, precision: str) -> torch.autocast | nullcontext[None]:
    """The context of a forward in this precision on the model's device; "float32" leaves everything as it is."""
    if precision not in PRECISIONS:
        raise BadInput(f"precision: expected one of {', '.join(PRECISIONS)}; got {precision!r}")
    return nullcontext() if precision == "float32" else torch.autocast(device_of(model).type, torch.bfloat16)


@contextmanager
def lockstep(
    graph: Graph,
    model: nn.Module,
    see: Callable[[Op, Args, Any], None],
    *,
    before: Callable[[Op, Args], Args] | None = None,
    behind: Callable[[Op, Any], Any] | None = None,
    gradients: bool = False,
    precision: str = "float32",
) -> Iterator[None]:
    """Follow every operator call of the forward run inside.

    Args:
        graph: traced from this model, at any batch size.
        model: whose modules are called.
        see: called as see(op, args, out) after each operator.
        before: may put other arguments into an operator.
        behind: may put another result in the place of an operator's.
        gradients: record the forward for autograd; else nothing is recorded.
        precision: "float32" (the model's own) or "bfloat16" (autocast).

    Raises:
        CannotTrace: the model takes another path than when it was traced.
    """
    place = 0
    keys = dispatch_keys(_OUTSIDE)

    def instead(func: OpOverload, args: Any, kwargs: Any) -> Any:
        op = graph.ops[place] if place < len(graph.ops) and graph.ops[place].func is func else None
        inside = [is_excluded(k) for k in keys]
        for k, was in zip(keys, usual):
            set_excluded(k, was)
        try:
            with torch.inference_mode(not gradients), torch.set_grad_enabled(gradients):
                if op is not None and before is not None:
                    args = before(op, args)
                out = func(*args, **kwargs)
                return behind(op, out) if op is not None and behind is not None else out
        finally:
            for k, was in zip(keys, inside):
                set_excluded(k, was)

    def step(func: OpOverload, args: Any, kwargs: Any, out: Any, path: str) -> None:
        nonlocal place
        if place >= len(graph.ops) or graph.ops[place].func is not func:
            want = graph.ops[place].where if place < len(graph.ops) else "the end"
            raise CannotTrace(f"the forward took another path than when traced: {func} in {path}, expected {want}")
        see(graph.ops[place], args, out)
        place += 1

    with autocast(model, precision):
        usual = [is_excluded(k) for k in keys]
        special = gradients or precision != "float32"
        with watching(model, step, meta=False, instead=instead if special else None):
            try:
                for k in keys if special else ():
                    set_excluded(k, True)
                yield
            finally:
                for k, was in zip(keys, usual):
                    set_excluded(k, was)
