"""A segment at given sizes as a module, with random weights and inputs of the true shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.errors import SartorError
from sartor.measure.tables.segments import Kind, Point
from sartor.structure.example import tensors
from sartor.structure.op_json import KINDS, operator


class CannotRebuild(SartorError, ValueError):
    """A segment cannot be run on its own; the message names the operator."""


def size_of(size: Any, point: Point) -> int:
    """A size in a kind's text, as a number at a point.

    >>> size_of(["*", 3, "a", ["+", "b", 1]], (4, 5))
    72
    """
    if isinstance(size, int):
        return size
    if isinstance(size, str):
        return point["abcdefghijklmnopqrstuvwxyz".index(size) if len(size) == 1 else int(size[1:])]
    parts = [size_of(s, point) for s in size[1:]]
    return math.prod(parts) if size[0] == "*" else sum(parts)


def shape_of(kind: Kind, slot: int, point: Point) -> tuple[int, ...]:
    """Shape of one tensor of a kind at a point."""
    return tuple(size_of(s, point) for s in kind.spec["tensors"][slot][0])


class SegmentModule(nn.Module):
    """The operators of a kind at a point, with parameters of its own."""

    def __init__(self, kind: Kind, point: Point):
        super().__init__()
        self.kind, self.point = kind, point
        spec = kind.spec
        generator = torch.Generator().manual_seed(0)
        self._names: dict[int, str] = {}
        for i, (_, dtype, origin) in enumerate(spec["tensors"]):
            if origin in ("parameter", "buffer", "held"):
                self._names[i] = f"t{i}"
                value = random_tensor(shape_of(kind, i, point), dtype, generator)
                # running variances must be positive; for other buffers the sign does not matter
                self.register_buffer(
                    f"t{i}", value.abs() + 0.1 if origin == "buffer" and value.is_floating_point() else value
                )
        self._given: list[int] = spec["given"]
        self._left: list[int] = spec["left"]
        try:
            self._steps = [
                (operator(name), _resolved(args, point), {k: _resolved(x, point) for k, x in kwargs.items()}, outs)
                for name, args, kwargs, outs in spec["steps"]
            ]
        except (AttributeError, ValueError) as e:
            raise CannotRebuild(f"segment {kind.label!r}: {e}") from e

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The tensors that other segments read, from those that come from outside."""
        env: dict[int, Any] = dict(zip(self._given, given))
        env.update({i: getattr(self, name) for i, name in self._names.items()})
        for func, args, kwargs, outs in self._steps:
            out = _run(func, [_real(x, env) for x in args], {k: _real(x, env) for k, x in kwargs.items()})
            env.update(zip(outs, tensors(out)))
        return tuple(env[i] for i in self._left)

    @property
    def outputs(self) -> int:
        """Number of tensors that the forward returns."""
        return len(self._left)

    def inputs(self, seed: int = 0) -> tuple[Tensor, ...]:
        """Random tensors for the inputs that come from outside."""
        generator = torch.Generator().manual_seed(seed)
        rows = self.kind.spec["tensors"]
        return tuple(random_tensor(shape_of(self.kind, i, self.point), rows[i][1], generator) for i in self._given)


def segment_module(kind: Kind, point: Point) -> SegmentModule:
    """The module of a kind at a point, in eval mode.

    Raises:
        CannotRebuild: the point does not fit the kind, or an operator is not known here.
    """
    if len(point) != kind.letters or min(point, default=1) < 1:
        raise CannotRebuild(f"segment {kind.label!r}: expected {kind.letters} sizes of at least 1; got {point}")
    return SegmentModule(kind, point).eval()


def check_shapes(module: SegmentModule) -> None:
    """Run once on meta tensors.

    Raises:
        CannotRebuild: it does not run, or returns other shapes than its text says.
    """
    import copy

    shadow = copy.deepcopy(module).to("meta")
    try:
        with torch.no_grad():
            outputs = shadow(*(t.to("meta") for t in module.inputs()))
    except Exception as e:
        raise CannotRebuild(f"segment {module.kind.label!r} at {module.point}: {type(e).__name__}: {e}") from e
    for i, t in zip(module._left, outputs):
        if tuple(t.shape) != (expected := shape_of(module.kind, i, module.point)):
            raise CannotRebuild(
                f"segment {module.kind.label!r} at {module.point}: expected {expected}; got {tuple(t.shape)}"
            )


def random_tensor(shape: Sequence[int], dtype: str, generator: torch.Generator) -> Tensor:
    """Small normal numbers; zeros for integer dtypes."""
    kind: torch.dtype = getattr(torch, dtype)
    if kind.is_floating_point:
        return (0.1 * torch.randn(tuple(shape), generator=generator)).to(kind)
    return torch.zeros(tuple(shape), dtype=kind)


def _resolved(x: Any, point: Point) -> Any:
    """The argument with its sizes as numbers; placeholders of tensors stay."""
    if isinstance(x, list):
        return [_resolved(v, point) for v in x]
    if not isinstance(x, Mapping):
        return x
    if "size" in x:
        return size_of(x["size"], point)
    if "split" in x:
        return {"split": [size_of(s, point) for s in x["split"]]}
    if "narrow" in x:
        whole, part, d = x["narrow"]
        return {"narrow": [size_of(whole, point), size_of(part, point), d]}
    if "pad" in x:
        amounts, sides = x["pad"]
        padding: list[int] = []
        for i, (inner, outer) in enumerate(sides):
            before, after = amounts[2 * i : 2 * i + 2]
            more = size_of(outer, point) - size_of(inner, point)
            first = round(more * before / (before + after)) if before + after else 0
            padding += [before, after] if more == before + after else [first, more - first]
        return padding
    if "float" in x:
        return float(x["float"])
    if "odd" in x:
        raise ValueError(f"a {x['odd']} among the arguments of an operator")
    if "slot" in x or "device" in x:
        return x
    (kind, name), *_ = x.items()
    if kind in KINDS:
        return getattr(torch, name)
    return {k: _resolved(v, point) for k, v in x.items()}


def _real(x: Any, env: Mapping[int, Any]) -> Any:
    if isinstance(x, list):
        return [_real(v, env) for v in x]
    if isinstance(x, dict):
        if "slot" in x:
            return env[x["slot"]]
        if "device" in x:
            return next((v.device for v in env.values() if isinstance(v, Tensor)), torch.device("cpu"))
    return x


def _run(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Call an operator; splits and slices take their sizes from the point."""
    if args and isinstance(args[-1], dict) and "narrow" in args[-1]:
        whole, part, d = args[-1]["narrow"]
        start = args[2] if len(args) > 3 and isinstance(args[2], int) and args[2] >= 0 else 0
        return torch.narrow(args[0], d, min(start, whole - part), part)
    if len(args) > 1 and isinstance(args[1], dict) and "split" in args[1]:
        return torch.split(args[0], args[1]["split"], args[2] if len(args) > 2 else kwargs.get("dim", 0))
    return func(*args, **kwargs)
