"""What data-driven criteria look at, one batch at a time: activations, gradients, contributions. Nothing is kept.

One forward shows the activations, and one backward behind it gives the gradients, for everybody who asks. What a batch
needs in memory is one forward (with gradients: what a training step holds); take smaller batches to need less.
The model is only borrowed, and stays on its device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.activations.follow import Args, Interventions, Kwargs, Numerics, autocast, follow
from sartor.activations.sites import Carried, read_sites, sample_dim, site_value, unit_samples
from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput
from sartor.structure import Graph, Site
from sartor.structure.calls import Op, Value
from sartor.structure.example import as_args, batch_of, first_tensor, map_tensors, to_device, with_batch
from sartor.types import Precision

Loss = Callable[[Any, Any], Tensor]
Visit = Callable[[Any, Carried], None]


def cross_entropy(output: Any, targets: Any) -> Tensor:
    """Mean cross entropy of the model's first output against class indices: the loss unless another is given."""
    return F.cross_entropy(first_tensor(output), targets)


def limited(batches: Iterable[Any] | None, samples: int, *, needed_for: str) -> Iterator[tuple[Any, Any, int]]:
    """(inputs, targets, n) until `samples` samples have come; the last batch is cut to fit.

    Args:
        batches: (inputs, targets) pairs; inputs as the model takes them: a tensor, a tuple or a dict.
        samples: at most this many in total.
        needed_for: who asks, for the message.

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
class Seen:
    """What one batch gave."""

    grads: Mapping[str, Tensor] = field(default_factory=dict)  # parameter -> gradient of the mean loss
    contributions: Mapping[str, Tensor] = field(default_factory=dict)  # group -> [units, samples], float64


def observe(
    graph: Graph,
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    watch: Mapping[Any, Site] | None = None,
    visit: Visit | None = None,
    contributions: Collection[str] = (),
    grads: bool = False,
    loss: Loss | None = None,
    precision: Precision = "float32",
) -> Seen:
    """Run the model once on one batch, in evaluation mode, and once backwards if something asks for gradients.

    Args:
        graph: of the model.
        model: untouched: its weights, buffers, `.grad`s, `requires_grad`s and modes are as before afterwards.
        inputs: as the model takes them.
        targets: what `loss` takes.
        watch: places whose activations are shown, by keys of one's own.
        visit: called as visit(key, carried) for each of them.
        contributions: groups whose units' contributions to each sample's loss are wanted; those whose units no
            operator reads or writes are left out of the answer.
        grads: whether the gradient at every floating-point parameter is wanted.
        loss: loss(output, targets) -> scalar tensor, a mean over samples; None: cross entropy of the first output.
        precision: "float32" (the model's own) or "bfloat16" (autocast).

    Where one tensor holds several samples in an order that its shape does not tell, the model is run once more for each
    sample alone, for those places only.

    Raises:
        BadInput: the loss is not one finite number.
        CannotTrace: the model takes another path than when it was traced.
    """
    device = device_of(model)
    inputs, targets = to_device(inputs, device), to_device(targets, device)
    watch = watch or {}
    later = _Later(graph, batch_of(inputs))
    one = _one_batch(graph, model, inputs, targets, watch, visit, contributions, grads, loss, precision, later)
    if not (later.watch or later.groups):
        return one
    parts: dict[Hashable, list[Tensor]] = {key: [] for key in later.watch}
    alone: dict[str, list[Tensor]] = {name: [] for name in later.groups}
    for i in range(later.n):
        x, y = map_tensors(lambda t: t[i : i + 1] if t.dim() and t.shape[0] == later.n else t, (inputs, targets))  # noqa: B023
        keep = lambda key, carried: parts[key].append(carried.between(0, 1))
        single = _one_batch(
            graph, model, x, y, later.watch, keep, later.groups, False, loss, precision, _Later(graph, 1)
        )
        for name, c in single.contributions.items():
            alone[name].append(c)
    for key, views in parts.items():
        assert visit is not None
        together = torch.cat(views, 1)
        visit(key, Carried(together, 0, torch.arange(len(together))[:, None], 1))
    return Seen(one.grads, {**one.contributions, **{name: torch.cat(c, 1) for name, c in alone.items()}})


class _Later:
    """Places whose samples cannot be told apart in a batch of n."""

    def __init__(self, graph: Graph, n: int):
        self.graph, self.n = graph, n
        self.watch: dict[Hashable, Site] = {}
        self.groups: set[str] = set()

    def dim(self, site: Site, value: Tensor) -> int | None:
        """Dimension of the samples; None where it cannot be told, and for a batch of one, where all is one sample."""
        return sample_dim(self.graph, site, value, self.n) if self.n > 1 else None


def _one_batch(
    graph: Graph,
    model: nn.Module,
    inputs: Any,
    targets: Any,
    watch: Mapping[Any, Site],
    visit: Visit | None,
    contributions: Collection[str],
    grads: bool,
    loss: Loss | None,
    precision: Precision,
    later: _Later,
) -> Seen:
    backward = grads or bool(contributions)
    taps = _Taps(graph, contributions)
    wanted: dict[int, list[tuple[Hashable, Site]]] = {}
    for key, site in watch.items():
        wanted.setdefault(site.op, []).append((key, site))

    def see(op: Op, args: Args, kwargs: Kwargs, out: Any) -> None:
        for key, site in wanted.get(op.index, ()):
            value = site_value(site, args, out).detach()
            d = later.dim(site, value)
            if d is None and later.n > 1:
                later.watch[key] = site
            elif visit is not None:
                with torch.no_grad():
                    visit(key, Carried(value, site.dim, site.positions, d))

    args, kwargs = as_args(inputs)
    weights = {n: p.detach().requires_grad_(grads and p.is_floating_point()) for n, p in model.named_parameters()}
    buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
    with borrowed(model):
        if wanted or contributions:
            changes = Interventions(taps.before, after=taps.after) if contributions else Interventions()
            with follow(graph.ops, model, see, changes=changes, numerics=Numerics(backward, precision)):
                output = torch.func.functional_call(model, {**weights, **buffers}, args, kwargs)
        else:
            with autocast(model, precision), torch.set_grad_enabled(backward):
                output = torch.func.functional_call(model, {**weights, **buffers}, args, kwargs)
        if not backward:
            return Seen()
        with torch.enable_grad():
            value = _checked((loss or cross_entropy)(output, targets))
    floating = {n: w for n, w in weights.items() if w.requires_grad}
    if not value.requires_grad:  # nothing that is asked for plays a part
        found = [torch.zeros_like(t) for t in (*floating.values(), *taps.tensors)]
    else:
        found = list(
            torch.autograd.grad(
                value.reshape(()), [*floating.values(), *taps.tensors], allow_unused=True, materialize_grads=True
            )
        )
    by_name = {n: g.float() if g.itemsize < 4 else g for n, g in zip(floating, found)}
    return Seen(by_name, taps.contributions(found[len(floating) :], later))


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
    """Ones to differentiate at: the tensor at every reader of the groups asked for, with a gradient of its own."""

    def __init__(self, graph: Graph, groups: Collection[str]):
        self.graph = graph
        self.sites: dict[int, list[tuple[str, Site]]] = {}
        for name in groups:
            for site in read_sites(graph, name):
                self.sites.setdefault(site.op, []).append((name, site))
        self.tensors: list[Tensor] = []
        self.of: list[list[tuple[str, Site]]] = []

    def before(self, op: Op, args: Args) -> Args:
        here = [(name, s) for name, s in self.sites.get(op.index, ()) if s.slot == "in0"]
        if not here:
            return args
        i = next(i for i, a in enumerate(op.args) if isinstance(a, Value))
        return (*args[:i], self._tap(args[i], here, copied=self._overwritten(op, op.args[i])), *args[i + 1 :])

    def after(self, op: Op, out: Any) -> Any:
        here = [(name, s) for name, s in self.sites.get(op.index, ()) if s.slot == "out"]
        if not here:
            return out
        # the model gets a copy: what it writes into its own does not reach the tap
        if isinstance(out, Tensor):
            return self._tap(out, here, copied=False).clone()
        return type(out)((self._tap(out[0], here, copied=False).clone(), *out[1:]))

    def _tap(self, value: Tensor, here: list[tuple[str, Site]], *, copied: bool) -> Tensor:
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
        found: dict[str, Tensor] = {}
        for tap, grad, here in zip(self.tensors, grads, self.of):
            product = tap.detach().double() * grad.double() * later.n  # of the sum of the samples' losses
            for name, site in here:
                d = later.dim(site, product)
                if d is None and later.n > 1:
                    later.groups.add(name)
                    continue
                c = unit_samples(product, site.dim, site.positions, d).sum(2)
                found[name] = found[name] + c if name in found else c
        return {name: c for name, c in found.items() if name not in later.groups}
