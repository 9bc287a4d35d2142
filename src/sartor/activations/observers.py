"""What data-driven criteria read, one batch at a time: activations, gradients, contributions. Nothing is kept.

One forward shows the activations and one backward gives the gradients, for all criteria together. A batch needs the
memory of one forward (with gradients: that of a training step); smaller batches need less. The model is only borrowed,
and stays on its device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.activations.follow import Args, Interventions, Kwargs, Numerics, autocast, recognise
from sartor.activations.sites import Carried, read_sites, sample_dim, site_value, unit_dim, unit_samples
from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput
from sartor.structure import Graph, Site
from sartor.structure.calls import Op, Value
from sartor.structure.example import as_args, batch_of, first_tensor, map_tensors, to_device, with_batch
from sartor.types import Loss, Precision

Visit = Callable[[Any, Carried], None]


def cross_entropy(output: Any, targets: Any) -> Tensor:
    """Mean cross entropy of the model's first output against class indices: the loss unless another is given.

    Raises:
        BadInput: the targets are no classes of the output.
    """
    logits = first_tensor(output)
    try:
        return F.cross_entropy(logits, targets)
    except (RuntimeError, IndexError, ValueError, TypeError) as e:
        raise BadInput(_no_classes(logits, targets, str(e))) from e


def _no_classes(logits: Tensor, targets: Any, reason: str) -> str:
    got = f"{targets.dtype} {list(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
    return (
        f"loss: cross entropy takes class numbers for outputs {list(logits.shape)}; got targets {got} ({reason}). Pass "
        "loss= for other targets"
    )


def limited(batches: Iterable[Any] | None, samples: int, *, needed_for: str) -> Iterator[tuple[Any, Any, int]]:
    """(inputs, targets, n) until `samples` samples have come; the last batch is cut to fit.

    Args:
        batches: (inputs, targets) pairs; inputs as the model takes them: a tensor, a tuple or a dict.
        samples: at most this many in total.
        needed_for: what needs them, for the message.

    Raises:
        BadInput: no batches, or something else than pairs.
    """
    if batches is None:
        raise BadInput(f"{needed_for} needs calibration data: pass batches of (inputs, targets); got none")
    left = samples
    for batch in batches:
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            got = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
            raise BadInput(f"{needed_for}, calibration batch: expected a pair (inputs, targets); got {got}")
        inputs, targets = batch
        n = batch_of(inputs)
        if n > left:
            # targets go along when their first dimension is the batch; with_batch leaves other tensors alone
            pair = with_batch({"inputs": inputs, "targets": targets}, left)
            inputs, targets, n = pair["inputs"], pair["targets"], left
        if n:
            yield inputs, targets, n
        left -= n
        if left <= 0:
            return
    if left == samples:
        raise BadInput(f"{needed_for} needs calibration data; the batches given are empty")


@dataclass(frozen=True)
class Request:
    """What is to be observed in one batch."""

    watch: Mapping[Any, Site] = field(default_factory=dict)  # places whose activations are shown, by any keys
    visit: Visit | None = None  # called as visit(key, carried) for each of them
    contributions: Collection[str] = ()
    # groups whose units' contributions to each sample's loss are computed; the answer leaves out those whose units no
    # operator reads or writes
    grads: bool = False  # whether the gradient at every floating-point parameter is computed

    @property
    def backward(self) -> bool:
        """Whether gradients are needed."""
        return self.grads or bool(self.contributions)


@dataclass(frozen=True)
class Observation:
    """What one batch gave."""

    grads: Mapping[str, Tensor] = field(default_factory=dict)  # parameter -> gradient of the mean loss
    contributions: Mapping[str, Tensor] = field(default_factory=dict)  # group -> [units, samples], float64
    unseen: frozenset[int] = frozenset()
    # operators asked for that this batch did not call, or called with tensors of other units: nothing was shown there


def observe(
    graph: Graph,
    model: nn.Module,
    batch: tuple[Any, Any],
    request: Request,
    *,
    loss: Loss | None = None,
    precision: Precision = "float32",
) -> Observation:
    """Run the model once on one batch, in evaluation mode, and once backwards if gradients are needed.

    Args:
        graph: of the model.
        model: untouched: its weights, buffers, `.grad`s, `requires_grad`s and modes are as before afterwards.
        batch: (inputs as the model takes them, targets as `loss` takes them or None).
        request: what is to be observed.
        loss: loss(output, targets) -> scalar tensor, a mean over samples; None: cross entropy of the first output.
        precision: "float32" (the model's own) or "bfloat16" (autocast).

    Where one tensor holds several samples in an order that its shape does not tell, the model is run once more for each
    sample alone, for those places only.

    The batch may take another path through the model than the example did (a mask, other lengths, an early exit): see
    `activations/recognition.py`. Of an operator that it does not call nothing is shown, and its contribution is left
    out of the sum over the places that read a group; `Observation.unseen` says which. Positions that are padding count
    as all others do.

    Raises:
        BadInput: the loss is not one finite number.
    """
    batch = to_device(batch, device_of(model))
    later = _Later(graph, batch_of(batch[0]))
    observer = _Observer(graph, model, loss, precision)
    together = observer.observe(batch, request, later)
    if not (later.watch or later.groups):
        return together
    parts: dict[Hashable, list[Tensor]] = {key: [] for key in later.watch}
    alone: dict[str, list[Tensor]] = {name: [] for name in later.groups}
    single = Request(later.watch, lambda key, carried: parts[key].append(carried.between(0, 1)), later.groups)
    for i in range(later.n):
        one = map_tensors(lambda t: t[i : i + 1] if t.dim() and t.shape[0] == later.n else t, batch)  # noqa: B023
        for name, c in observer.observe(one, single, _Later(graph, 1)).contributions.items():
            alone[name].append(c)
    for key, views in parts.items():
        assert request.visit is not None
        if not views:
            continue
        joined = torch.cat(views, 1)
        request.visit(key, Carried(joined, 0, torch.arange(len(joined))[:, None], 1))
    added = {name: torch.cat(c, 1) for name, c in alone.items()}
    return Observation(together.grads, {**together.contributions, **added}, together.unseen)


class _Later:
    """Places whose samples cannot be told apart in a batch of n."""

    def __init__(self, graph: Graph, n: int):
        self.graph, self.n = graph, n
        self.watch: dict[Hashable, Site] = {}
        self.groups: set[str] = set()

    def dim(self, site: Site, value: Tensor) -> int | None:
        """Dimension of the samples; None where it cannot be told, and for a batch of one, where all is one sample."""
        return sample_dim(self.graph, site, value, self.n) if self.n > 1 else None


class _Observer:
    """A model and the loss that its gradients are of."""

    def __init__(self, graph: Graph, model: nn.Module, loss: Loss | None, precision: Precision):
        self.graph, self.model = graph, model
        self.loss, self.precision = loss or cross_entropy, precision

    def observe(self, batch: tuple[Any, Any], request: Request, later: _Later) -> Observation:
        """One forward, and one backward if needed; what cannot be told apart by sample is entered in `later`."""
        taps = _Taps(self.graph, request.contributions)
        weights = {
            n: p.detach().requires_grad_(request.grads and p.is_floating_point())
            for n, p in self.model.named_parameters()
        }
        with borrowed(self.model):
            output, unseen = self._forward(batch[0], weights, request, taps, later)
            if not request.backward:
                return Observation(unseen=unseen)
            with torch.enable_grad():
                value = _checked(self.loss(output, batch[1]))
        floating = {n: w for n, w in weights.items() if w.requires_grad}
        if value.requires_grad:
            grads = list(
                torch.autograd.grad(
                    value.reshape(()), [*floating.values(), *taps.tensors], allow_unused=True, materialize_grads=True
                )
            )
        else:  # the loss depends on none of them
            grads = [torch.zeros_like(t) for t in (*floating.values(), *taps.tensors)]
        by_name = {n: g.float() if g.itemsize < 4 else g for n, g in zip(floating, grads)}
        return Observation(by_name, taps.contributions(grads[len(floating) :], later), unseen)

    def _forward(
        self, inputs: Any, weights: Mapping[str, Tensor], request: Request, taps: _Taps, later: _Later
    ) -> tuple[Any, frozenset[int]]:
        """What the model returns, and the operators asked for that nothing was shown of."""
        keys_at: dict[int, list[tuple[Hashable, Site]]] = {}
        for key, site in request.watch.items():
            keys_at.setdefault(site.op, []).append((key, site))

        shown: set[int] = set()

        def see(op: Op, args: Args, kwargs: Kwargs, out: Any) -> None:
            for key, site in keys_at.get(op.index, ()):
                value = site_value(site, args, out).detach()
                dim = unit_dim(self.graph, site, value)
                if dim is None:
                    continue
                shown.add(op.index)
                d = later.dim(site, value)
                if d is None and later.n > 1:
                    later.watch[key] = site
                elif request.visit is not None:
                    with torch.no_grad():
                        request.visit(key, Carried(value, dim, site.positions, d))

        args, kwargs = as_args(inputs)
        buffers = {n: b.detach().clone() for n, b in self.model.named_buffers()}
        values = {**weights, **buffers}
        with ExitStack() as context:
            if keys_at or request.contributions:
                changes = Interventions(taps.before, after=taps.after) if request.contributions else Interventions()
                numerics = Numerics(request.backward, self.precision)
                followed = recognise(self.graph, self.model, see, changes=changes, numerics=numerics, tensors=values)
                context.enter_context(followed)
            else:
                context.enter_context(autocast(self.model, self.precision))
                context.enter_context(torch.set_grad_enabled(request.backward))
            output = torch.func.functional_call(self.model, values, args, kwargs)
        return output, frozenset(keys_at) - shown | frozenset(taps.sites) - taps.seen


def _checked(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise BadInput(f"calibration loss: expected one number as a tensor; got {shape}")
    if not torch.isfinite(value):
        raise BadInput(
            f"calibration loss: expected a finite number; got {value.item()}. Are inputs and weights finite?"
        )
    return value


class _Taps:
    """Tensors to differentiate at: what every reader of the requested groups reads, with a gradient of its own."""

    def __init__(self, graph: Graph, groups: Collection[str]):
        self.graph = graph
        self.sites: dict[int, list[tuple[str, Site]]] = {}
        for name in groups:
            for site in read_sites(graph, name):
                self.sites.setdefault(site.op, []).append((name, site))
        self.tensors: list[Tensor] = []
        self.of: list[list[tuple[str, Site, int]]] = []  # with the dimension that carries the units
        self.seen: set[int] = set()  # operators that were tapped

    def before(self, op: Op, args: Args) -> Args:
        if all(site.slot != "in0" for _, site in self.sites.get(op.index, ())):
            return args
        i = next(i for i, a in enumerate(op.args) if isinstance(a, Value))
        here = self._here(op, "in0", args[i])
        if not here:
            return args
        return (*args[:i], self._tap(args[i], here, copied=self._overwritten(op, op.args[i])), *args[i + 1 :])

    def after(self, op: Op, out: Any) -> Any:
        if all(site.slot != "out" for _, site in self.sites.get(op.index, ())):
            return out
        here = self._here(op, "out", out if isinstance(out, Tensor) else out[0])
        if not here:
            return out
        # in-place operators of the model write to the copy, not to the tap
        if isinstance(out, Tensor):
            return self._tap(out, here, copied=False).clone()
        return type(out)((self._tap(out[0], here, copied=False).clone(), *out[1:]))

    def _here(self, op: Op, slot: str, value: Tensor) -> list[tuple[str, Site, int]]:
        dims = [(name, s, unit_dim(self.graph, s, value)) for name, s in self.sites[op.index] if s.slot == slot]
        here = [(name, s, d) for name, s, d in dims if d is not None]
        if here:
            self.seen.add(op.index)
        return here

    def _tap(self, value: Tensor, here: list[tuple[str, Site, int]], *, copied: bool) -> Tensor:
        if value.requires_grad:
            tap = value.clone() if copied else value.view_as(value)
        else:
            tap = (value.detach().clone() if copied else value.detach()).requires_grad_()
        self.tensors.append(tap)
        self.of.append(here)
        return tap

    def _overwritten(self, op: Op, value: Value) -> bool:
        return any(
            o.mutates and any(v.storage == value.storage for v in o.inputs) for o in self.graph.ops[op.index + 1 :]
        )

    def contributions(self, grads: Iterable[Tensor], later: _Later) -> dict[str, Tensor]:
        """group -> [units, samples]: gradient times value, summed over positions and places."""
        totals: dict[str, Tensor] = {}
        for tap, grad, here in zip(self.tensors, grads, self.of):
            product = tap.detach().double() * grad.double() * later.n  # of the sum of the samples' losses
            for name, site, dim in here:
                d = later.dim(site, product)
                if d is None and later.n > 1:
                    later.groups.add(name)
                    continue
                c = unit_samples(product, dim, site.positions, d).sum(2)
                totals[name] = totals[name] + c if name in totals else c
        return {name: c for name, c in totals.items() if name not in later.groups}
