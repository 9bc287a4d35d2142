"""autograd.Functions as operators: one that has a rule is seen whole, not by the operators inside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch.autograd import Function


class _Argument:
    """What the schema of an operator says of one argument."""

    kwarg_only, alias_info = False, None

    def __init__(self, name: str, default: Any):
        self.name, self.default_value = name, None if default is inspect.Parameter.empty else default
        self._has_default = default is not inspect.Parameter.empty

    def has_default_value(self) -> bool:
        """Whether a call may leave it out."""
        return self._has_default


class FunctionOp:
    """Stands where an overload of `torch.ops` would: a name, a schema, a call."""

    namespace = "autograd"
    tags = ()

    def __init__(self, function: type[Function]):
        self.function = function
        parameters = list(inspect.signature(function.forward).parameters.values())
        if function.setup_context is Function.setup_context:  # then forward takes the context itself
            parameters = parameters[1:]
        spec = [_Argument(p.name, p.default) for p in parameters]
        self._schema = SimpleNamespace(name=f"autograd::{function.__name__}", arguments=spec, is_mutable=False)

    def __call__(self, *args: Any) -> Any:
        return self.function.apply(*args)

    def __repr__(self) -> str:
        return f"autograd.Function {self.function.__name__}"


FUNCTIONS: dict[type[Function], FunctionOp] = {}


@contextmanager
def seen_whole(call: Callable[..., Any]) -> Iterator[None]:
    """While inside, `F.apply(*args)` of a Function with a rule becomes `call(op, apply, args)`."""
    own: dict[type[Function], Any] = {}
    for function, op in FUNCTIONS.items():
        own[function] = function.__dict__.get("apply")
        function.apply = staticmethod(partial(_whole, call, op, function.apply))  # type: ignore[method-assign]
    try:
        yield
    finally:
        for function, apply in own.items():
            if apply is None:
                del function.apply
            else:
                function.apply = apply


def _whole(call: Callable[..., Any], op: FunctionOp, apply: Callable[..., Any], *args: Any) -> Any:
    return call(op, apply, args)
