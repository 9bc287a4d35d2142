"""Weights redrawn so that no path through a network is dead, tiny or saturated.

With its own weights a network can hide a wrong cut: dead units, residual gains at zero, layer scales at 1e-6, attention
scores near zero, saturated outputs. Redrawn weights show it. Every linear map is scaled, in one forward, so that its
output has variance one (Mishkin and Matas 2016, arXiv:1511.06422, there by repeated forwards); gains are drawn around
one; running statistics are those of their inputs, with noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.follow import Interventions, Match, follow
from sartor.structure.calls import Op, Value, values
from sartor.structure.example import Example, call, map_tensors
from sartor.structure.graph import Graph
from sartor.structure.model_copy import clone, named_tensors

_LINEAR = {"conv", "linear", "matmul"}
_THROUGH = {"view", "move", "identity", "expand", "slice", "split", "select"}
_NORMS = {"batch_norm", "layer_norm", "group_norm"}
_LARGEST_SCORES = 2.0  # standard deviation of attention scores above which a softmax is close to choosing one
_SEED = 20
_BLOCK = 1_000_003  # normal numbers that are drawn; a prime


def redrawn(model: nn.Module, graph: Graph, example: Example) -> nn.Module:
    """A copy of a network with other weights, in evaluation mode and in the precision of the model.

    Parameters of linear maps, norms, sums and products are drawn anew; a parameter of any other use keeps its values up
    to a tenth, because a slope or a decay rate may only be valid in its own range. Buffers stay as they are, except
    running statistics. Where the forward on these inputs leaves the recorded path, weights behind that place are drawn
    without regard to their input.

    Args:
        model: borrowed.
        graph: traced from it.
        example: inputs on which the outputs of linear maps are measured.
    """
    uses = _Uses.of(graph)
    roles = {
        name: uses.role(graph.tensors[name]) for *_, name, t in named_tensors(model) if isinstance(t, nn.Parameter)
    }
    overwritten = {
        id(t) for *_, name, t in named_tensors(model) if roles.get(name) and t.is_floating_point() and not t.is_meta
    }
    new = clone(model, lambda t: torch.empty_like(t) if id(t) in overwritten else t.detach().clone()).eval()
    tensors = {name: t for *_, name, t in named_tensors(new)}
    generator = torch.Generator().manual_seed(_SEED)
    normals = _Normals(generator, sum(t.numel() for t in tensors.values()))
    done: set[int] = set()
    with torch.no_grad():
        for name, t in tensors.items():
            if id(t) not in done and (t.is_floating_point() or t.is_complex()) and isinstance(t, nn.Parameter):
                done.add(id(t))
                _draw_(t.detach(), roles[name], normals)
    scaling = _Scaling(tensors, uses, generator)
    changes = Interventions(before=scaling.before, after=scaling.after)
    with torch.no_grad(), follow(
        graph.ops, new, lambda *_: None, changes=changes, match=Match(may_leave=lambda place: True)
    ):  # fmt: skip
        call(new, example)
    return new


def other_values(example: Example, seed: int = 1) -> Example:
    """The example with other values: drawn with replacement from those of each tensor, so they stay in its range.

    Tensors that hold at most two different values (masks), that are constant, or that ascend or descend along their
    last dimension (positions, lengths) are kept.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(t: Tensor) -> Tensor:
        if t.is_meta or t.numel() < 3 or t.dtype == torch.bool or t.is_complex():
            return t
        flat = t.detach().reshape(-1).cpu()
        steps = t.detach().cpu().diff(dim=-1)
        if len(flat[:1000].unique()) < 3 or (t.shape[-1] > 1 and bool((steps >= 0).all() or (steps <= 0).all())):
            return t
        picked = flat[torch.randint(len(flat), (len(flat),), generator=generator)].reshape(t.shape)
        return picked.to(t.device)

    return map_tensors(drawn, example)


class _Normals:
    """Standard normal numbers from one block that is repeated if more are needed; drawing each anew would take longer.

    The length of a repeated block is prime, so no two rows of a tensor, and no two tensors, are equal.
    """

    def __init__(self, generator: torch.Generator, needed: int):
        self._block = torch.randn(max(1, min(needed, _BLOCK)), generator=generator)
        self._blocks: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._at = 0

    def fill_(self, t: Tensor, deviation: float = 1.0) -> Tensor:
        """Overwrite a tensor with normal numbers of this standard deviation; returns it."""
        flat = t.view(-1) if t.is_contiguous() else torch.empty(t.numel(), dtype=t.dtype, device=t.device)
        key = (t.dtype, t.device)
        if key not in self._blocks:
            self._blocks[key] = self._block.to(t)
        block = self._blocks[key]
        done = 0
        while done < len(flat):
            n = min(len(flat) - done, len(block) - self._at)
            torch.mul(block[self._at : self._at + n], deviation, out=flat[done : done + n])
            done, self._at = done + n, (self._at + n) % len(block)
        return t if t.is_contiguous() else t.copy_(flat.view(t.shape))


def _draw_(t: Tensor, role: str, normals: _Normals) -> None:
    """New values of a parameter, by how it is used."""
    if t.is_complex():
        real, imaginary = (normals.fill_(torch.empty_like(t.real)) for _ in range(2))
        noise = torch.complex(real, imaginary)
        t.copy_(t * (1 + 0.1 * noise.real) if bool(t.any()) else 0.3 * noise)
    elif role == "":
        noise = normals.fill_(torch.empty_like(t))
        t.copy_(t * (1 + 0.1 * noise) if bool(t.any()) else 0.3 * noise)
    elif role == "gain":  # between 0.6 and 1.4
        normals.fill_(t).erf_().mul_(0.4).add_(1)
    elif role == "shift":
        normals.fill_(t, 0.3)
    elif role == "table":
        normals.fill_(t)
    else:
        normals.fill_(t, max(1, t.numel() // t.shape[0] if t.dim() else 1) ** -0.5)


@dataclass
class _Uses:
    """What reads each value of the graph, and what made it."""

    readers: dict[int, list[Op]] = field(default_factory=dict)
    makers: dict[int, Op] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> _Uses:
        uses = cls()
        for op in graph.ops:
            for v in op.inputs:
                uses.readers.setdefault(id(v), []).append(op)
            for v in op.outputs:
                uses.makers.setdefault(id(v), op)
        return uses

    def role(self, value: Value) -> str:
        """How a parameter is used: "weight", "gain", "shift" or "table"; "" for any other use."""
        todo, seen = [value], set()
        while todo:
            v = todo.pop(0)
            if id(v) in seen:
                continue
            seen.add(id(v))
            for op in self.readers.get(id(v), ()):
                if not op.live:
                    continue
                if op.kind in _THROUGH:
                    todo += op.outputs
                    continue
                return self._role_in(op, v)
        return ""

    @staticmethod
    def _role_in(op: Op, v: Value) -> str:
        first = next((x for x in op.args if isinstance(x, Value)), None)
        if op.kind in _NORMS:
            return "gain" if op.arg("weight") is v else "shift" if op.arg("bias") is v else ""
        if op.kind == "rnn":
            return "weight" if v.ndim > 1 else "shift"
        if op.kind in _LINEAR:
            added = op.arg("bias") is v or (op.name in ("addmm", "baddbmm", "addmv") and first is v)
            return "shift" if added else "weight"
        if op.kind == "weight_norm":
            return "gain" if op.args[1] is v else ""
        if op.kind in ("embedding", "index"):
            return "table" if v is first else ""
        named = {"mul": "gain", "add": "shift", "sub": "shift", "cat": "shift"}
        return named.get(op.name, "")

    def weight(self, op: Op) -> str | None:
        """The name of the parameter that a linear operator multiplies with, if it reads the values of one alone."""
        operands = [x for x in op.args if isinstance(x, Value)] + [x for x in op.args if isinstance(x, list)]
        for v in values(operands):
            while v.name is None and (maker := self.makers.get(id(v))) is not None and maker.kind in _THROUGH:
                if maker.inputs[0] is v:  # flattening what is flat gives the same tensor
                    break
                v = maker.inputs[0]
            if v.origin == "parameter" and self._role_in_chain(v) == "weight":
                return v.name
        return None

    def _role_in_chain(self, v: Value) -> str:
        return self.role(v)

    def behind(self, v: Value) -> Iterator[Op]:
        """The operators that a value was computed by, nearest first, along the first operand of each."""
        seen: set[int] = set()
        while (op := self.makers.get(id(v))) is not None and op.index not in seen:
            seen.add(op.index)
            yield op
            moving = [x for x in op.inputs if x.origin not in ("parameter", "buffer")]
            if not moving:
                return
            v = moving[0]


class _Scaling:
    """Scales weights, in place, while the forward runs through them."""

    def __init__(self, tensors: dict[str, Tensor], uses: _Uses, generator: torch.Generator):
        self.tensors, self.uses, self.generator = tensors, uses, generator
        self.done: set[str] = set()

    def before(self, op: Op, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Running statistics of a batch norm; scores of a softmax that would choose one position only."""
        if op.kind == "batch_norm" and op.live:
            self._statistics(op, args)
        if op.kind == "softmax":
            spread = float(args[0].std()) if args[0].numel() > 1 else 0.0
            return self._smaller(op, args, spread)
        if op.kind == "attention":
            q, k = args[:2]
            scale = op.arg("scale") or q.shape[-1] ** -0.5
            return self._smaller(op, args, float(q.std() * k.std()) * q.shape[-1] ** 0.5 * scale)
        return args

    def after(self, op: Op, out: Any) -> Any:
        """The output of a linear map with variance one, and its weight and bias scaled to match."""
        if op.kind not in _LINEAR or not isinstance(out, Tensor) or out.numel() < 2:
            return out
        name = self.uses.weight(op)
        if name is None or name in self.done:
            return out
        spread = float(out.std())
        if not (math.isfinite(spread) and spread > 0):
            return out
        self.done.add(name)
        self._scale(op, name, 1 / spread)
        return out / spread

    def _scale(self, op: Op, name: str, factor: float) -> None:
        self.tensors[name].detach().mul_(factor)
        added = op.arg("bias")
        if added is None and op.name in ("addmm", "baddbmm", "addmv"):
            added = op.args[0]
        if isinstance(added, Value) and added.name in self.tensors:
            self.tensors[added.name].detach().mul_(factor)

    def _statistics(self, op: Op, args: tuple[Any, ...]) -> None:
        mean, var = op.arg("running_mean"), op.arg("running_var")
        if not (isinstance(mean, Value) and isinstance(var, Value)):
            return
        if mean.name not in self.tensors or var.name not in self.tensors or mean.name in self.done:
            return
        self.done.add(mean.name)
        x = args[0].detach()
        channels = x.movedim(1, 0).reshape(x.shape[1], -1)
        count = len(channels)
        if channels.shape[1] < 16:  # too few values of one channel: those of all
            channels = channels.reshape(1, -1)
        center, spread = channels.mean(1), channels.var(1, unbiased=False) + 0.05 * float(x.var(unbiased=False)) + 1e-6
        noise = torch.randn(2, count, generator=self.generator).to(x)
        self.tensors[mean.name].copy_(center + 0.1 * spread.sqrt() * noise[0])
        self.tensors[var.name].copy_(spread * (0.2 * noise[1]).exp())

    def _smaller(self, op: Op, args: tuple[Any, ...], spread: float) -> tuple[Any, ...]:
        """The first argument scaled down, with the weight that made it, where scores are too far apart."""
        if not (math.isfinite(spread) and spread > _LARGEST_SCORES):
            return args
        for maker in self.uses.behind(op.args[0]):
            name = self.uses.weight(maker) if maker.kind in _LINEAR else None
            if name is not None:
                self._scale(maker, name, 1 / spread)
                return (args[0] / spread, *args[1:])
        return args


__all__ = ["other_values", "redrawn"]
