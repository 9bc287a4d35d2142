"""autograd.Functions as operators: a Function that has a rule is recorded as one call, not as what it consists of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch.autograd import Function


class _Argument:
    """One argument, with the fields that the schema of an operator has for it."""

    kwarg_only, alias_info = False, None

    def __init__(self, name: str, default: Any):
        self.name, self.default_value = name, None if default is inspect.Parameter.empty else default
        self._has_default = default is not inspect.Parameter.empty

    def has_default_value(self) -> bool:
        """Whether a call may leave the argument out."""
        return self._has_default


class FunctionOp:
    """An autograd.Function with the interface of an operator overload: a name, a schema, a call."""

    namespace = "autograd"
    tags = ()

    def __init__(self, function: type[Function]):
        self.function = function
        parameters = list(inspect.signature(function.forward).parameters.values())
        if (
            function.setup_context is Function.setup_context
        ):  # the old form: forward takes the context as its first argument
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
    """Inside, `F.apply(*args)` of every Function that has a rule becomes `call(op, apply, args)`."""
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
