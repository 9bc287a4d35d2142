"""One streaming pass over calibration data that calls every criterion on what it reads.

Only sums are kept from batch to batch: of scores, of gradients and their squares, and the moments of activations. A
criterion whose scores do not depend on the batch is given a few samples at a time, which bounds the memory of what it
computes; one whose scores do is given as many as it asks for, whatever the batches they come in.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.grams import Grams
from sartor.activations.micro_batches import parts, samples_within, working_memory
from sartor.activations.moments import Moments
from sartor.activations.observers import Request, limited, observe
from sartor.activations.readers import reader_weight
from sartor.activations.sample_gradients import SampleGradients
from sartor.activations.silencing import Gaps
from sartor.activations.sites import Carried, read_sites, unit_samples
from sartor.borrow import device_of
from sartor.errors import BadInput
from sartor.importance.joined_batches import JoinedActivations, JoinedGradients
from sartor.importance.layers import Place, layer_rows, places
from sartor.importance.reduce import Means
from sartor.importance.registry import ScoreFunction
from sartor.structure import Graph, Site
from sartor.structure.calls import Op
from sartor.structure.example import batch_of, tensors, to_device, with_batch
from sartor.structure.model_copy import named_tensors
from sartor.structure.weight_arithmetic import effective_weights
from sartor.types import Among, Calibration, Group, Listener, Member, Role, Scaling

DATA = {"grad", "mean_grad", "fisher", "activation", "moments", "contribution", "gap", "reads"}
# what calibration samples are needed for
PlaceKey = tuple[str, Among, int]  # where activations are read, how units are joined there, and which place
CHUNK = 2**23  # elements of activations that a criterion whose batches may be split is given at once


def gather(
    graph: Graph,
    model: nn.Module,
    criteria: Sequence[ScoreFunction],
    calibration: Calibration,
    scaling: Scaling,
    listener: Listener,
) -> dict[ScoreFunction, Means]:
    """Means of scores by criterion, group and place; groups that a criterion cannot score are missing.

    Arguments are those of `scores`; if no criterion reads data, the batches are not touched. Batches may take another
    path through the model than the example. Where a batch does not reach an operator, the batch counts nothing there;
    what no batch reaches is noted.

    Raises:
        BadInput: a criterion's batches reach none of the operators that read a group.
    """
    work = _Pass(graph, model, criteria, scaling, calibration)
    work.without_data()
    reading_data = [c for c in criteria if DATA & set(c.needs)]
    if not reading_data:
        return work.means
    names = ", ".join(repr(c.name) for c in reading_data)
    of = f"{'criterion' if len(reading_data) == 1 else 'criteria'} {names}"
    silencing = [c for c in reading_data if "gap" in c.needs]
    reading_grams = [c for c in reading_data if "reads" in c.needs]
    kept: list[tuple[Any, Any]] = []  # the first samples, for forward passes with silenced units
    left = calibration.pass_samples if silencing else 0
    gram_inputs: list[Any] = []
    for inputs, targets, n in limited(calibration.batches, calibration.samples, needed_for=of):
        if reading_grams:
            gram_inputs.append(to_device(inputs, device_of(model)))
        if left > 0:
            kept.append(_first(inputs, targets, n, left))
            left -= n
        work.batch(inputs, targets, n)
        if left <= 0 and work.satisfied and not reading_grams:
            break
    work.after_data()
    if silencing:
        gaps = Gaps(graph, model, kept, loss=calibration.loss, precision=calibration.precision, seed=calibration.seed)
        for c in silencing:
            work.silence(c, gaps, calibration.passes, listener)
    if reading_grams:
        grams = Grams(graph, model, gram_inputs, seed=calibration.seed)
        for name, group in graph.groups.items():
            for site in grams.unseen(name):
                work.passed_by(reading_grams, name, site)
            if reads := grams.reads(name):
                for c in reading_grams:
                    work.means[c].add((name, 0), work.call(c, group, reads=reads), 1.0)
    work.report_unseen(listener)
    return work.means


def weight_places(
    graph: Graph, groups: Iterable[Group], roles: tuple[Role, ...], *, biases: bool = False
) -> dict[str, list[Member]]:
    """The members with one of these roles, by group; groups without any are left out.

    What operators add (biases of layers, shifts of norms) does not say what a unit is worth: left out unless `biases`.
    """
    added = set() if biases else {id(op.arg("bias")) for op in graph.ops}
    by_group = {
        g.name: [
            m
            for m in g.members
            if m.role in roles
            and graph.tensors[m.tensor].dtype.is_floating_point
            and id(graph.tensors[m.tensor]) not in added
        ]
        for g in groups
    }
    return {name: members for name, members in by_group.items() if members}


def from_weights(
    graph: Graph, model: nn.Module, chosen: ScoreFunction, places: Mapping[str, Sequence[Member]]
) -> Means:
    """Means of a criterion that reads weights alone, at the places given."""
    work = _Pass(graph.only(places), model, [chosen], Scaling(), Calibration())
    work.from_weights(chosen, places, {}, 1.0)
    return work.means[chosen]


class _Pass:
    """The running means of all criteria, and what is needed to add a batch to them."""

    def __init__(
        self,
        graph: Graph,
        model: nn.Module,
        criteria: Sequence[ScoreFunction],
        scaling: Scaling,
        calibration: Calibration,
    ):
        self.graph, self.model, self.groups, self.calibration = graph, model, graph.groups, calibration
        self.means = {c: Means() for c in criteria}
        self.tensors = {n: t.detach() for *_, n, t in named_tensors(model)}
        self.weights = self.tensors | effective_weights(graph.ops, self.tensors)  # as the layers use them
        first: dict[int, str] = {}  # of a parameter with several names, the first one carries the gradient
        self.first = {n: first.setdefault(id(p), n) for n, p in model.named_parameters(remove_duplicate=False)}
        self.places = {c: weight_places(graph, graph.groups.values(), c.roles(scaling.reduce)) for c in criteria}
        self.among: dict[ScoreFunction, Among] = {c: scaling.among if c.compares else "group" for c in criteria}
        self.watched = [c for c in criteria if {"activation", "moments"} & set(c.needs)]
        self.shown: dict[tuple[str, Among], list[Place]] = {
            (c.at, self.among[c]): places(graph, c.at, self.among[c]) for c in self.watched
        }
        self.gated = [c for c in criteria if "contribution" in c.needs]
        self.by_batch = {c: JoinedGradients(c.batch) for c in criteria if "grad" in c.needs}
        self.by_sample = [c for c in criteria if "fisher" in c.needs]
        self.on_average = [c for c in criteria if "mean_grad" in c.needs and c not in self.by_sample]
        self.mean_grads = JoinedGradients(2**62)
        self.samples = self._sample_gradients()
        self.joined = {c: JoinedActivations(c.batch, partial(self.show, c)) for c in self.watched if c.batch > 1}
        self.moments: dict[PlaceKey, Moments] = {}
        self.seen = dict.fromkeys([*self.watched, *self.gated], 0)
        self.readers: dict[PlaceKey, Tensor] = {}
        self.reached: set[PlaceKey] = set()  # places that some batch has shown
        self.came: set[tuple[str, str, int]] = set()  # (criterion, group, operator) that some batch reached
        self.missed: dict[tuple[str, str], dict[int, Op]] = {}
        # (criterion, group) -> operators that read the group and that no batch has reached so far

    def _sample_gradients(self) -> SampleGradients | None:
        if not self.by_sample:
            return None
        wanted = {self.first[m.tensor] for c in self.by_sample for ms in self.places[c].values() for m in ms}
        loss, precision = self.calibration.loss, self.calibration.precision
        return SampleGradients(self.graph, self.model, sorted(wanted), loss, precision)

    @property
    def satisfied(self) -> bool:
        """Whether more batches would change nothing."""
        derived = self.by_batch or self.by_sample or self.on_average
        return not derived and all(c.samples is not None and n >= c.samples for c, n in self.seen.items())

    def without_data(self) -> None:
        """Criteria that read weights alone, and those that read nothing."""
        for c in self.means:
            if "weight" in c.needs and not DATA & set(c.needs):
                self.from_weights(c, self.places[c], {}, 1.0)
            elif not ({"weight"} | DATA) & set(c.needs):
                for g in self.groups.values():
                    self.means[c].add((g.name, 0), self.call(c, g), 1.0)

    def from_weights(
        self,
        c: ScoreFunction,
        places: Mapping[str, Sequence[Member]],
        derivatives: Mapping[str, Mapping[str, Tensor]],
        n: float,
    ) -> None:
        """Every tensor of every group; without derivatives, a weight is what its layer computes from the tensor."""
        sources = {"weight": self.tensors if derivatives else self.weights, **derivatives}
        for name, members in places.items():
            group = self.groups[name]
            for i, member in enumerate(members):
                rows = layer_rows(self.graph, name, member) if self.among[c] == "layer" else None
                given = {}
                for what in sources.keys() & set(c.needs):
                    tensor = sources[what][member.tensor]
                    if rows is None:
                        view = self.graph.unit_view(name, member, tensor)
                    else:
                        view = unit_samples(tensor, member.dim, rows, None)[:, 0]
                    given[what] = view.double()
                scores = self.call(c, group, member.tensor, group.units if rows is None else len(rows), **given)
                self.means[c].add((name, i), scores[: group.units], n)

    def batch(self, inputs: Any, targets: Any, n: int) -> None:
        """Add one batch for every criterion that needs more samples, in parts that memory allows.

        Gradients of the parts add up to that of the batch. A criterion that sees a batch as a whole gets it whole.
        """
        whole: dict[str, Tensor] = {}
        with_gradients = bool(self.by_batch or self.on_average or self.gated)
        most = n
        by_sample = all(t.dim() and t.shape[0] == n for t in tensors(targets))  # else they cannot be taken apart
        if by_sample and not any(c.per_batch and c.batch == 1 for c in self.watched):
            device, memory = device_of(self.model), working_memory()
            most = samples_within(self.graph, device, memory, gradients=with_gradients)
        for part_inputs, part_targets in parts((inputs, targets), most):
            k = batch_of(part_inputs)
            for name, g in self.part(part_inputs, part_targets, k).items():
                whole[name] = whole[name] + g * (k / n) if name in whole else g * (k / n)
        if self.samples is not None:
            self.samples.add(inputs, targets, n)
        for c, joined in self.by_batch.items():
            for grads, count in joined.add(whole, n):
                self.from_weights(c, self.places[c], {"grad": self.named(grads)}, count)
        if self.on_average:
            list(self.mean_grads.add(whole, n))

    def part(self, inputs: Any, targets: Any, n: int) -> Mapping[str, Tensor]:
        """Some samples: one forward, and one backward if needed; gives the gradients of their mean loss, if needed."""
        take = {c: min(n, n if c.samples is None else c.samples - seen) for c, seen in self.seen.items()}
        watching = [c for c in self.watched if take[c] > 0]
        gated = [c for c in self.gated if take[c] > 0]
        grads_wanted = bool(self.by_batch or self.on_average)
        if not (watching or gated or grads_wanted):
            return {}
        watch: dict[PlaceKey, Site] = {
            (at, among, i): place.site
            for at, among in dict.fromkeys((c.at, self.among[c]) for c in watching)
            for i, place in enumerate(self.shown[at, among])
        }

        def visit(key: PlaceKey, carried: Carried) -> None:
            self.reached.add(key)
            some = max(1, CHUNK // max(1, carried.per_sample))
            here = [c for c in watching if (c.at, self.among[c]) == key[:2]]
            measured = max((take[c] for c in here if "moments" in c.needs), default=0)
            for low in range(0, min(measured, carried.n), some):
                self.measure(key, carried.between(low, min(low + some, measured, carried.n)))
            for c in here:
                if "moments" in c.needs:
                    continue
                most = min(take[c], carried.n)
                step = most if c.per_batch or c.batch > 1 else min(some, most)
                for low in range(0, most, step):
                    high = min(low + step, most)
                    labels = self.labels(c, targets, n, low, high) if "labels" in c.needs else None
                    if c in self.joined:
                        self.joined[c].add(key, carried.between(low, high), labels)
                    else:
                        self.show(c, key, carried.between(low, high), labels)

        request = Request(watch, visit, list(self.groups) if gated else (), grads_wanted)
        seen = observe(
            self.graph, self.model, (inputs, targets), request,
            loss=self.calibration.loss, precision=self.calibration.precision,
        )  # fmt: skip
        for c in gated:
            for name, contribution in seen.contributions.items():
                given: dict[str, Any] = (
                    {"labels": self.labels(c, targets, n, 0, take[c])} if "labels" in c.needs else {}
                )
                scores = self.call(c, self.groups[name], contribution=contribution[:, : take[c]], **given)
                self.means[c].add((name, 0), scores, take[c])
        for c in watching:
            for i, place in enumerate(self.shown[c.at, self.among[c]]):
                for name, _, _ in place.takes:
                    self.arrived(c, name, place.site.op, (c.at, self.among[c], i) in self.reached)
        for c in gated:
            for name in self.groups:
                for site in read_sites(self.graph, name):
                    self.arrived(c, name, site.op, site.op not in seen.unseen)
        for c in (*watching, *gated):
            self.seen[c] += take[c]
        return seen.grads

    def after_data(self) -> None:
        """What is computed once, after the last batch, and what still waits for more samples."""
        for c, joined in self.by_batch.items():
            for grads, count in joined.flush():
                self.from_weights(c, self.places[c], {"grad": self.named(grads)}, count)
        if self.on_average:
            for grads, _ in self.mean_grads.flush():
                for c in self.on_average:
                    self.from_weights(c, self.places[c], {"mean_grad": self.named(grads)}, 1.0)
        if self.samples is not None:
            n = self.samples.n
            whole = {
                "mean_grad": self.named({name: s / n for name, s in self.samples.sums.items()}),
                "fisher": self.named({name: s / n for name, s in self.samples.squares.items()}),
            }
            for c in self.by_sample:
                self.from_weights(c, self.places[c], whole, 1.0)
        for waiting in self.joined.values():
            waiting.flush()
        for c in self.watched:
            for i in range(len(self.shown[c.at, self.among[c]]) if "moments" in c.needs else 0):
                key = (c.at, self.among[c], i)
                if key in self.moments:
                    self.enter(c, key, 1.0, moments=self.moments[key])

    def named(self, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients under every name of their parameter."""
        return {name: grads[first] for name, first in self.first.items() if first in grads}

    def measure(self, key: PlaceKey, activation: Tensor) -> None:
        """Add some samples of a place to its moments."""
        columns = self.shown[key[:2]][key[2]].site.positions.shape[1]
        part = Moments.of(activation.unflatten(2, (columns, -1)).transpose(1, 2).flatten(2))
        self.moments[key] = self.moments[key] + part if key in self.moments else part

    def show(self, c: ScoreFunction, key: PlaceKey, activation: Tensor, labels: Tensor | None) -> None:
        """Call a criterion on some samples of one place."""
        given = {} if labels is None else {"labels": labels}
        self.enter(c, key, activation.shape[1], activation=activation, **given)

    def enter(self, c: ScoreFunction, key: PlaceKey, weight: float, **given: Any) -> None:
        """Score the units shown at one place, for every group that has units there."""
        place = self.shown[key[:2]][key[2]]
        if "reader" in c.needs:
            given["reader"] = self.reader(key)
        group = self.groups[place.takes[0][0]]
        scores = self.call(c, group, count=len(place.site.positions), **given)
        for name, i, rows in place.takes:
            self.means[c].add((name, i), scores[rows], weight)

    def arrived(self, c: ScoreFunction, group: str, op: int, reached: bool) -> None:
        """Note whether a batch reached an operator that reads a group."""
        if reached:
            self.missed.get((c.name, group), {}).pop(op, None)
            self.came.add((c.name, group, op))
        elif (c.name, group, op) not in self.came:
            self.missed.setdefault((c.name, group), {})[op] = self.graph.ops[op]

    def passed_by(self, criteria: Sequence[ScoreFunction], group: str, site: Site) -> None:
        """No batch reached a place that reads a group."""
        for c in criteria:
            self.arrived(c, group, site.op, False)

    def report_unseen(self, listener: Listener) -> None:
        """Say which operators no batch reached.

        Raises:
            BadInput: a group was read nowhere.
        """
        missed = {key: ops for key, ops in self.missed.items() if ops}
        scored = {(c.name, name) for c, means in self.means.items() for name, _ in means.sums}
        for (c, group), ops in missed.items():
            if (c, group) not in scored:
                where = ", ".join(dict.fromkeys(op.where for op in ops.values()))
                raise BadInput(
                    f"criterion {c!r}, group {group!r}: no calibration batch reached an operator that reads its units "
                    f"({where}), although the example did; pass batches with the same inputs as the example, or "
                    "exclude the group"
                )
        places = dict.fromkeys(op.where for ops in missed.values() for op in ops.values())
        if places:
            shown = ", ".join([*places][:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
            listener.note(
                f"calibration: no batch reached {shown}, although the example did; groups that they read are scored "
                "where the batches read them"
            )

    def silence(self, c: ScoreFunction, gaps: Gaps, passes: int, listener: Listener) -> None:
        """Score the groups one after the other by silencing units, each with its share of the forward passes."""
        guessed = exact = 0
        for name, share in gaps.shares(self.groups, passes).items():
            gap = gaps.of(name, share)
            self.means[c].add((name, 0), self.call(c, self.groups[name], gap=gap), 1.0)
            exact += share - gap.passes
            guessed += gap.units - (share - gap.passes) if gap.estimated else 0
        if guessed > 0:
            listener.note(
                f"criterion {c.name!r}: {exact} units were silenced one by one, the other {guessed} are scored by "
                f"derivatives; passes={exact + guessed} silences all"
            )

    def reader(self, key: PlaceKey) -> Tensor:
        """The weights that read a place; computed once."""
        if key not in self.readers:
            place = self.shown[key[:2]][key[2]]
            self.readers[key] = reader_weight(self.graph, place.takes[0][0], place.site, self.tensors)
        return self.readers[key]

    def labels(self, c: ScoreFunction, targets: Any, n: int, low: int, high: int) -> Tensor:
        """The labels of some samples, for a criterion that reads them."""
        whole = isinstance(targets, Tensor) and not (targets.is_floating_point() or targets.is_complex())
        if not whole or targets.shape != (n,):
            got = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
            raise BadInput(f"criterion {c.name!r}: expected one class number a sample as targets, ({n},); got {got}")
        return targets[low:high].to(device_of(self.model))

    def call(self, c: ScoreFunction, group: Group, tensor: str = "", count: int | None = None, **given: Any) -> Tensor:
        """Call the criterion and check what comes back: `count` scores, as many as the group has units if not given."""
        name, units = group.name, group.units if count is None else count
        weight = [given.pop("weight")] if "weight" in given else []
        if "units" in c.needs:
            given["units"] = units
        if "generator" in c.needs:
            given["generator"] = torch.Generator().manual_seed(zlib.crc32(f"{self.calibration.seed} {name}".encode()))
        s = c.function(*weight, **given)
        if not isinstance(s, Tensor) or s.shape != (units,):
            got = tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__
            raise BadInput(f"criterion {c.name!r}, group {name!r}: expected a tensor of shape ({units},); got {got}")
        s = s.detach().to("cpu", torch.float64)
        if not torch.isfinite(s).all():
            bad = int((~torch.isfinite(s)).nonzero()[0])
            raise BadInput(
                f"criterion {c.name!r}, group {name!r}, unit {bad}{f' in {tensor}' if tensor else ''}: "
                f"expected a finite score; got {s[bad].item()}. Are all weights and calibration inputs finite?"
            )
        return s


def _first(inputs: Any, targets: Any, n: int, most: int) -> tuple[Any, Any]:
    if n <= most:
        return inputs, targets
    pair = with_batch({"inputs": inputs, "targets": targets}, most)
    return pair["inputs"], pair["targets"]
