"""Gram matrices of what the readers of a group read, and what an error at each reader costs at the output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.follow import Interventions, Numerics, recognise
from sartor.activations.micro_batches import parts, samples_within, working_memory
from sartor.activations.patches import Reading
from sartor.activations.readers import Read
from sartor.activations.refit_sites import refits
from sartor.activations.row_moments import layer_moments
from sartor.activations.sites import read_sites
from sartor.borrow import borrowed, device_of
from sartor.structure import Graph, Site
from sartor.structure.calls import Op, Value
from sartor.structure.example import Example, batch_of, call, first_tensor, with_batch
from sartor.structure.model_copy import named_tensors

_EXACT_OUTPUTS = 16
_MIXTURES = 4  # of more outputs; the mean over samples averages what each mixture misses
_MOST_INPUTS = 8192  # of a layer whose Gram matrix is gathered


@dataclass(frozen=True)
class GramOptions:
    """How Gram matrices and sensitivities are estimated."""

    rows: int = 40_000  # positions read for one layer; sums are in double precision
    flatten: float = 0.5
    # exponent of a layer's sensitivity: 1 is the cost of an error if no layer behind is refitted, 0 makes all layers
    # equal. Layers that are refitted later compensate part of an error, so the truth lies between
    samples: int = 64  # on which sensitivities are measured
    memory: int | None = None  # bytes that activations may take at once; None: `working_memory`


class Grams:
    """The Gram matrices of all layers that read the graph's groups, from one pass over calibration inputs.

    Args:
        graph: of the model, with the groups whose readers are taken.
        model: borrowed.
        batches: inputs, on the model's device.
        options: how many positions and samples are read.
        seed: draws positions, and mixtures of outputs.
    """

    def __init__(
        self,
        graph: Graph,
        model: nn.Module,
        batches: Sequence[Example],
        *,
        options: GramOptions = GramOptions(),
        seed: int = 0,
    ):
        self.graph, self.model = graph, model
        self.tensors = {n: t.detach() for *_, n, t in named_tensors(model)}
        layers = {f.op: f for f in refits(graph)}
        self.sites: dict[str, list[Site]] = {}
        for name in graph.groups:
            mine = [s for s in read_sites(graph, name) if s.slot == "in0" and s.op in layers]
            self.sites[name] = [s for s in mine if self._inputs(s.op) <= _MOST_INPUTS]
        self.layers = {s.op: layers[s.op] for mine in self.sites.values() for s in mine}
        self.generator = torch.Generator().manual_seed(seed)
        memory = working_memory() if options.memory is None else options.memory
        device = device_of(model)
        most = samples_within(graph, device, memory // 2)  # the other half: rows and Gram matrices
        pieces = [p for b in batches for p in parts(b, most)]
        moments = layer_moments(graph, model, pieces, self.layers, rows=options.rows, generator=self.generator)
        self.gram = {i: m.covariance for i, m in moments.items()}
        first = batches[0]
        few = first if batch_of(first) <= options.samples else with_batch(first, options.samples)
        most = samples_within(graph, device, memory, gradients=True)
        each = parts(few, most)
        costs = self._sensitivities(each) if self.layers else {}
        typical = torch.tensor([c for c in costs.values() if c > 0] or [1.0]).double().log().mean().exp()
        if unseen := [i for i in self.gram if i not in costs]:
            for batch in batches[1:]:  # the first batch takes another path
                more = self._sensitivities(parts(with_batch(batch, min(batch_of(batch), options.samples)), most))
                costs |= {i: more[i] for i in unseen if i in more and i not in costs}
                if all(i in costs for i in unseen):
                    break
        self.scale = {i: float(typical * (costs.get(i, typical) / typical) ** options.flatten) for i in self.layers}

    def reads(self, group: str) -> list[Read]:
        """The readers of a group that the batches reached; empty if no convolution or linear layer reads it."""
        return [self._read(s) for s in self.sites[group] if s.op in self.gram]

    def unseen(self, group: str) -> list[Site]:
        """The places that read a group and that no batch reached."""
        return [s for s in self.sites[group] if s.op not in self.gram]

    def _read(self, site: Site) -> Read:
        gram, (reading, weight) = self.gram[site.op], self._matrix(site.op)
        g = weight.shape[0]
        taps = math.prod(reading.weight.shape[2:])
        columns = (site.positions[:, :, None] * taps + torch.arange(taps)).flatten(1).to(gram.device)
        if g > 1:  # one matrix with blocks
            gram = torch.block_diag(*gram)
            weight = torch.block_diag(*weight)
            return Read(gram, weight, columns, self.scale[site.op])
        return Read(gram[0], weight[0], columns, self.scale[site.op])

    def _inputs(self, op: int) -> int:
        reading = Reading.of(self.graph.ops[op])
        assert reading is not None
        return math.prod(reading.weight.shape[1:]) * reading.groups

    def _matrix(self, op: int) -> tuple[Reading, Tensor]:
        """[groups, outputs, inputs], scaled by the batch norm behind."""
        reading, fit = Reading.of(self.graph.ops[op]), self.layers[op]
        assert reading is not None and reading.weight.name is not None
        weight = self.tensors[reading.weight.name].double()
        if fit.norm is not None:
            norm = self.graph.ops[fit.norm]
            variance, scale = norm.arg("running_var"), norm.arg("weight")
            gain = (self.tensors[variance.name].double() + float(norm.arg("eps", 1e-5))).rsqrt()
            if isinstance(scale, Value) and scale.name is not None:
                gain = gain * self.tensors[scale.name].double()
            weight = weight * gain.reshape(-1, *[1] * (weight.dim() - 1))
        return reading, reading.matrix(weight)

    def _sensitivities(self, batches: Sequence[Example]) -> dict[int, float]:
        """Layer -> how far the output moves, relative to its size, for each unit of squared error in its result.

        To first order: the squared Jacobian of the outputs, summed over everything; the error counts as spread evenly
        over channels and positions, summed over channels and averaged over positions, as the costs of `elimination`
        are. Up to 16 outputs a sample are differentiated each, more of them through a few random mixtures.
        """
        squares: dict[int, float] = {}
        channels: dict[int, int] = {}
        size = 0.0
        for inputs in batches:
            out, taps = self._tapped(inputs)
            if not taps:  # this batch takes another path
                continue
            out = out.reshape(batch_of(inputs), -1)
            directions = self._directions(out.shape[1])
            for k, direction in enumerate(directions, 1):
                with torch.enable_grad():
                    along = (out * direction.to(out)).sum()
                    grads = torch.autograd.grad(
                        along, [t for _, t in taps], retain_graph=k < len(directions), allow_unused=True
                    )
                for (i, _), g in zip(taps, grads):
                    squares[i] = squares.get(i, 0.0) + (0.0 if g is None else float(g.double().square().sum()))
            size += float(out.detach().double().square().sum())
            channels |= {i: t.shape[1 if self.graph.ops[i].kind == "conv" else -1] for i, t in taps}
        return {i: squares[i] / (size or 1.0) / channels[i] for i in squares}

    def _tapped(self, inputs: Example) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """The first output, and each layer's results to differentiate at."""
        ends = {f.chain[-1]: i for i, f in self.layers.items()}
        taps: list[tuple[int, Tensor]] = []

        def tapped(op: Op, out: Any) -> Any:
            if op.index not in ends or not isinstance(out, Tensor):
                return out
            tap = out if out.requires_grad else out.detach().requires_grad_()
            taps.append((ends[op.index], tap))
            return tap.clone()  # in-place operators of the model write to the copy, not to the tap

        with borrowed(self.model):
            changes, numerics = Interventions(after=tapped), Numerics(gradients=True)
            with recognise(self.graph, self.model, lambda *_: None, changes=changes, numerics=numerics):
                return first_tensor(call(self.model, inputs)), taps

    def _directions(self, outputs: int) -> list[Tensor]:
        """Rows whose squared products with a Jacobian add up to its squared size."""
        if outputs <= _EXACT_OUTPUTS:
            return list(torch.eye(outputs))
        signs = torch.randint(0, 2, (_MIXTURES, outputs), generator=self.generator) * 2.0 - 1
        return list(signs / _MIXTURES**0.5)
