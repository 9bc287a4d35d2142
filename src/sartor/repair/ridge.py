"""Layers refitted in closed form: ridge least squares towards what the original computes, layer after layer.

Behind a cut, every convolution and linear layer reads other inputs than it was trained on: units are missing, and the
layers before it are repaired only approximately. Each is given the weight that, on calibration inputs, comes closest
to the original's result: ridge least squares on the inputs it reads *now*, in execution order, without labels or
gradients. Where a residual sum follows, the sum is matched, so a layer also compensates the error of the stream that it
adds to; where a ReLU follows, values below zero in both networks do not count.

Sources: He et al. 2017, "Channel Pruning", arXiv:1707.06168, section 3.2 (least squares towards the original's output,
residual sums included); Zhang et al. 2015, arXiv:1505.06798, section 2.2 (with the ReLU, inputs of the approximated
network); the ReLU step here is a majorisation that reuses one factorised Gram matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sartor.activations.attention_logits import Logits, attention_logits
from sartor.activations.micro_batches import alive_bytes, parts, samples_reused, working_memory
from sartor.activations.patches import Reading
from sartor.activations.refit_sites import Refit, refits
from sartor.activations.stepper import Stepper
from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput, CannotTrace
from sartor.repair.least_squares import LeastSquares
from sartor.repair.logits import LogitRefit
from sartor.repair.networks import Networks, shrunk
from sartor.repair.original import Original
from sartor.structure import Graph
from sartor.structure.calls import Op, Value
from sartor.structure.example import Example, batch_of
from sartor.structure.example import tensors as example_tensors
from sartor.structure.model_copy import named_tensors
from sartor.types import SILENT, Listener

_FEWEST = 8  # batches that take part from the start at least, if necessary as parts of those given
_UNCHANGED = 1e-6  # relative: no refit where the network computes what it did
_ROWS_SHARE = 10  # the part of the memory that the rows of one layer take; they exist twice for a moment
_TARGETS = 2  # as many times the targets of a layer exist beside its rows


@dataclass(frozen=True)
class RidgeOptions:
    """How the refit is done."""

    rows: int = 50_000  # positions read for one layer
    strength: float = 1e-3  # of the pull towards the weights as they are, relative to the mean variance of an input
    relu_rounds: int = 2  # refinements in which values below zero in both networks do not count; 0: plain least squares
    compensate: bool = True  # match the residual sum instead of the summand
    logits: bool = True  # match products of queries and keys where the width of heads is cut
    memory: int | None = None  # bytes for activations and rows of both networks together; None: `working_memory`

    def __post_init__(self) -> None:
        if self.rows < 1 or not self.strength > 0 or self.relu_rounds < 0:
            raise BadInput(f"ridge repair: expected rows >= 1, strength > 0 and relu_rounds >= 0; got {self}")


def refit_consumers_(
    smaller: nn.Module,
    original: Original,
    batches: Sequence[Example],
    *,
    options: RidgeOptions = RidgeOptions(),
    seed: int = 0,
    listener: Listener = SILENT,
) -> int:
    """Refit in place every convolution and linear layer that reads other inputs than in the original.

    Args:
        smaller: cut from the original; its weights, biases and batch-norm shifts change.
        original: the network before the cut, and the cut.
        batches: calibration inputs; those of another shape than most of them have are left out. A third of
            `options.memory` is for activations that are alive at one place of the two networks: where those of all
            inputs do not fit, as many inputs as fit are read, and the others follow where the activations have become
            smaller.
        options: see `RidgeOptions`.
        seed: draws the positions.
        listener: progress: the layer, and the share done.

    Returns:
        How many layers were refitted.

    Raises:
        BadInput: no calibration inputs, or activations that are not finite.
        CannotTrace: the forward's control flow depends on tensor values, or it takes another path than when traced.
    """
    if not batches:
        raise BadInput("ridge repair: expected calibration inputs; got none")
    shapes = [[tuple(t.shape) for t in example_tensors(b)] for b in batches]
    commonest = max(shapes, key=shapes.count)
    same = [b for b, s in zip(batches, shapes) if s == commonest]
    original = original.renumbered()
    model, graph = original.model, original.graph
    generator = torch.Generator().manual_seed(seed)
    by_stage: dict[int, list[Refit | Logits]] = {}
    for fit in refits(graph, compensate=options.compensate):
        by_stage.setdefault(fit.stage, []).append(fit)
    for site in attention_logits(graph) if options.logits else ():
        by_stage.setdefault(site.stage, []).append(site)
    done = 0
    memory = working_memory() if options.memory is None else options.memory
    options = replace(options, memory=memory)
    stages = sorted(by_stage)
    with borrowed(smaller), borrowed(model):
        before, after = Stepper(model, same, 0), Stepper(smaller, same, 0)
        for stepper in (before, after):
            _check_path(graph, stepper)
        size = _bytes_by_stage([before, after], by_stage)
        room, largest = memory // 3, max(size.values(), default=1)
        n = batch_of(same[0])
        most = samples_reused(before.ops, n, device_of(model))
        if len(same) * largest > room:
            most = min(most, max(1, n * room // (_FEWEST * largest)))
        if most < n:
            same = [p for b in same for p in parts(b, most)]
            before, after = Stepper(model, same, 0), Stepper(smaller, same, 0)
            size = _bytes_by_stage([before, after], by_stage)
        for part in itertools.chain.from_iterable(by_stage.values()):
            before.hold(part.seen(before))
            after.hold(part.seen(after))
        tensors = {name: t.detach() for *_, name, t in named_tensors(smaller)}
        networks = Networks(before, after, dict(original.masks), tensors)
        for at, stage in enumerate(stages):
            begun = room // max(size[s] for s in stages[at:])
            for stepper in (before, after):
                stepper.begin(max(1, begun))
                stepper.advance(stage)
            for part in by_stage[stage]:
                listener.tell(graph.ops[part.op].where, stage / len(graph.ops))
                if isinstance(part, Logits):
                    LogitRefit(part, networks, graph, options, generator).apply()
                else:
                    done += _Solve(part, networks, options, generator).apply()
                before.free(part.seen(before))
                after.free(part.seen(after))
    return done


def _check_path(graph: Graph, stepper: Stepper) -> None:
    """Layers are counted by their places in the graph, so the batches have to take its path."""
    for op, other in itertools.zip_longest(graph.ops, stepper.ops):
        if _weight(op) != _weight(other):
            at = other.where if other is not None else op.where
            raise CannotTrace(
                f"ridge repair: the calibration batches take another path through the model than its example, at {at}; "
                "pass an example like the batches (the same inputs, padded or not)"
            )


def _weight(op: Op | None) -> str | None:
    """The weight of a convolution or linear layer."""
    reading = None if op is None else Reading.of(op)
    return None if reading is None else reading.weight.name


def _bytes_by_stage(steppers: Sequence[Stepper], by_stage: dict[int, list[Refit | Logits]]) -> dict[int, int]:
    """Stage -> bytes that one batch keeps there in all networks, or on the way there from the stage before it."""
    size = dict.fromkeys(by_stage, 1)
    for stepper in steppers:
        held: dict[int, int] = {}
        for stage, fits in by_stage.items():
            for value in (v for part in fits for v in part.seen(stepper)):
                held[id(value)] = max(held.get(id(value), 0), stage)
        alive = alive_bytes(stepper.ops, held)
        earlier = 0
        for stage in sorted(by_stage):
            size[stage] += max(alive[earlier], alive[stage])
            earlier = stage
    return size


class _Solve:
    """The refit of one layer."""

    def __init__(self, fit: Refit, networks: Networks, options: RidgeOptions, generator: torch.Generator):
        self.fit, self.options, self.generator = fit, options, generator
        self.before, self.after, self.masks = networks.before, networks.after, networks.masks
        self.tensors = networks.tensors
        op = self.after.ops[fit.op]
        reading = Reading.of(op)
        assert reading is not None
        self.reading = reading
        self.weight = self.tensors[fit.weight]

    def apply(self) -> bool:
        """Refit and run the layer again; whether there was anything to do."""
        if all(_near(self._judged_now(i), self._targets(i)) for i in range(min(2, self.after.batches))):
            return False
        with torch.inference_mode(False), torch.no_grad():
            self._solve()
        for index in self.fit.chain:
            self.after.again(index)
        return True

    def _targets(self, batch: int) -> Tensor:
        """What the original computes where this layer's result is compared, for the units that stay."""
        fit = self.fit
        value = self.before.get(self.before.ops[fit.chain[-1]].outputs[0], batch)
        if fit.other is not None:
            value = value + self.before.get(self._other(self.before), batch)
        return shrunk(fit.judged, value, self.masks)

    def _judged_now(self, batch: int) -> Tensor:
        value = self.after.get(self.after.ops[self.fit.chain[-1]].outputs[0], batch)
        return value if self.fit.other is None else value + self.after.get(self._other(self.after), batch)

    def _other(self, stepper: Stepper) -> Value:
        assert self.fit.other is not None
        add, place = self.fit.other
        return stepper.ops[add].args[place]  # type: ignore[no-any-return]

    def _solve(self) -> None:
        fit, reading = self.fit, self.reading
        inputs = self.weight[0].numel()
        assert self.options.memory is not None
        room = self.options.memory // _ROWS_SHARE // 4  # float32
        widest = max(inputs * reading.groups, _TARGETS * self.weight.shape[0])
        rows = min(self.options.rows, max(room // widest, 4 * inputs))
        each = -(-rows // self.after.batches)
        xs, ts, others = [], [], []
        for i in range(self.after.batches):
            x = self.after.get(self.after.ops[fit.op].args[0], i)
            picked = reading.pick(self.after.get(self.after.ops[fit.op].outputs[0], i), each, self.generator)
            xs.append(reading.rows(x, picked).clone())
            ts.append(reading.targets(self._targets(i), picked).clone())
            if fit.other is not None:
                others.append(reading.targets(self.after.get(self._other(self.after), i), picked).clone())
        x, t = torch.cat(xs, 1).float(), torch.cat(ts).float()
        other: Tensor | float = torch.cat(others).float() if others else 0.0
        del xs, ts, others
        affine = _Affine(fit, self.after, self.tensors, self.weight)
        gain, start = affine.gain, reading.matrix(self.weight).double()
        g = reading.groups
        first = start * gain.reshape(g, -1, 1)
        where = self.after.ops[fit.op].where
        strength = self.options.strength
        system = LeastSquares(x, first, affine.shift.reshape(g, -1), strength, free=affine.has_place, where=where)
        system.fit(_grouped(t - other, g))
        if not bool(torch.isfinite(system.weight).all()):
            raise BadInput(f"ridge repair, {where}: expected finite activations in the original")
        if fit.relu:
            for _ in range(self.options.relu_rounds):
                now = system.predicted().permute(1, 0, 2).reshape(t.shape) + other
                relevant = torch.where(t > 0, t, now.clamp_(max=0)).sub_(other)
                system.fit(_grouped(relevant, g))
        affine.store(self.weight, system.weight, system.shift.reshape(-1))


class _Affine:
    """The bias or batch norm between a layer's matrix and the place where its result is compared."""

    def __init__(self, fit: Refit, after: Stepper, tensors: dict[str, Tensor], weight: Tensor):
        op = after.ops[fit.op]
        bias = op.arg("bias")
        self.bias = tensors[bias.name] if isinstance(bias, Value) and bias.name else None
        self.norm = after.ops[fit.norm] if fit.norm is not None else None
        outs = weight.shape[0]
        self.gain = torch.ones(outs, dtype=torch.float64, device=weight.device)
        self.shift = torch.zeros_like(self.gain) if self.bias is None else self.bias.double()
        if self.norm is not None:
            self.mean, self.variance = (_named(self.norm.arg(n), tensors) for n in ("running_mean", "running_var"))
            self.scale, self.offset = (_named(self.norm.arg(n), tensors) for n in ("weight", "bias"))
            assert self.mean is not None and self.variance is not None
            spread = (self.variance.double() + float(self.norm.arg("eps", 1e-5))).sqrt()
            self.gain = (1.0 if self.scale is None else self.scale.double()) / spread
            if self.scale is not None:  # a channel the norm has nearly switched off: move its scale into the weight
                dead = self.gain.abs() < 1e-2 * self.gain.abs().median()
                self.scale[dead] = spread[dead].to(self.scale)
                self.gain = torch.where(dead, 1.0, self.gain)
            offset = 0.0 if self.offset is None else self.offset.double()
            self.shift = (self.shift - self.mean.double()) * self.gain + offset

    @property
    def has_place(self) -> bool:
        """Whether a constant can be stored."""
        return self.bias is not None or self.norm is not None

    def store(self, weight: Tensor, matrix: Tensor, shift: Tensor) -> None:
        """Write a matrix and a constant, both as seen where results are compared."""
        groups, outs, inputs = matrix.shape
        plain = matrix.reshape(groups * outs, inputs) / self.gain[:, None]
        weight.copy_(plain.reshape(weight.shape))
        if self.norm is not None:
            assert self.mean is not None
            bias = 0.0 if self.bias is None else self.bias.double()
            if self.offset is not None:
                self.offset.copy_(shift - (bias - self.mean.double()) * self.gain)
            else:
                self.mean.copy_(bias - shift / self.gain)
        elif self.bias is not None:
            self.bias.copy_(shift)


def _named(value: object, tensors: dict[str, Tensor]) -> Tensor | None:
    return tensors[value.name] if isinstance(value, Value) and value.name is not None else None


def _grouped(t: Tensor, groups: int) -> Tensor:
    """[rows, outputs] as [groups, rows, outputs of a group]."""
    return t.reshape(t.shape[0], groups, -1).transpose(0, 1)


def _near(now: Tensor, target: Tensor) -> bool:
    return bool((now - target).norm() <= _UNCHANGED * target.norm())
