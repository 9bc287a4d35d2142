"""A training run that prunes: masks change while somebody else's loop trains, and the end is cut, proved and measured.

The session hangs on the optimizer by its step hooks, so it sees every update and no update that a gradient scaler
skipped. `step` counts, and lets the mechanism decide where the schedule says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sartor.borrow import device_of
from sartor.budget import show_budget
from sartor.cost import count
from sartor.errors import BadInput, CannotCut, NothingToDo
from sartor.export.delivery import Delivery
from sartor.measure import environment
from sartor.run import stages
from sartor.run.caps import share_caps
from sartor.run.conditions import check_example, check_weights, checked_seed, one_at_a_time
from sartor.run.context import Context
from sartor.run.first_decision import FirstDecision
from sartor.run.first_rank import on_first_rank
from sartor.run.session_conditions import check_optimizer, check_recipe, checked_steps, innermost_optimizer
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.sparse.mechanism import Mechanism, Moment, Training, Units, mechanism_of
from sartor.sparse.subnet import Subnet
from sartor.sparse.weight_layers import weight_layers
from sartor.sparse.weights import WeightMechanism
from sartor.structure import Example
from sartor.structure.subgraph import without_groups
from sartor.types import SILENT, Axes, Budget, Criterion, Data, Judge, Listener, OneShot, Plan, Recipe, Scores, to_plain
from sartor.wrappers import unwrapped

FORMAT = 1  # of the state of a session


@dataclass(frozen=True)
class SessionOptions:
    """What a session needs besides the model, the optimizer, the budget and the recipe."""

    steps: int  # updates of the optimizer in the whole run
    data: Data = Data()  # noqa: RUF009  `calibration`, or `train`: for scores that read data
    judge: Judge = Judge()  # noqa: RUF009
    seed: int | None = None  # None: the recipe's
    listener: Listener = SILENT


class TrainingSession:
    """See `sartor.Session`, which adds the way from here to a `Fitted`."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, example: Example,
        request: tuple[Budget, Recipe], options: SessionOptions,
    ):  # fmt: skip
        budget, recipe = request
        self.given, self.model = model, unwrapped(model).module
        self.optimizer, self.budget, self.recipe = innermost_optimizer(optimizer), budget, recipe
        self.total, self.done, self.spent = checked_steps(options.steps), 0, 0.0
        self.seed = checked_seed(recipe.seed if options.seed is None else options.seed)
        self.listener, self.options = _noting_once(options.listener), options
        self.trail: list[dict[str, Any]] = []  # every decision: step, density, kept units
        check_weights(self.model)
        check_example(example)
        check_recipe(recipe)
        check_optimizer(self.model, self.optimizer)
        self._sliced: tuple[Plan, nn.Module] | None = None  # of the plan that is live
        self.context = Context(options.judge, self.seed, Listener(note=self.listener.note))  # scores tell no progress
        self.points = frozenset(recipe.when.steps(self.total))
        self.mechanism: Mechanism = mechanism_of(recipe)
        with self._undisturbed():
            self.subject = self._understood(example, options.data)
            self.layers = tuple(weight_layers(self.subject.graph)) if self.masked else ()
            self.bounds = budget.against(self.subject.original)
            if not self.masked:
                self._check_budget()
            self._check_targets()
            self.mechanism.start(self._training())
            self._check_masked()
        self._before = self.optimizer.register_step_pre_hook(self._before_update)
        self._after = self.optimizer.register_step_post_hook(self._after_update)
        self._first = FirstDecision(self.model, self.optimizer) if self.moment.decides else None
        self._decide_if_due()
        if self._first is not None:
            self._first.made()

    def step(self) -> None:
        """Call it after every `optimizer.step()`, also where a gradient scaler may have skipped the update.

        Raises:
            BadInput: more steps than the session was made for.
        """
        if self.done >= self.total:
            raise BadInput(f"session: expected {self.total} steps, as steps= said; this is one more")
        self._first = None
        self.done += 1
        self.spent += self.mechanism.density()
        self._decide_if_due()

    @property
    def moment(self) -> Moment:
        """Where the run stands."""
        return Moment(self.done, self.total, self.done in self.points)

    @property
    def plan(self) -> Plan | None:
        """The units that are live now; None: all."""
        return self.mechanism.plan()

    @property
    def masked(self) -> WeightMechanism | None:
        """The mechanism, where weights are masked; None: units are removed."""
        return self.mechanism if isinstance(self.mechanism, WeightMechanism) else None

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """The masks of weights, by parameter, True = live; none where units are removed."""
        return self.masked.masks.masks if self.masked else {}

    @property
    def live_weights(self) -> dict[str, int]:
        """Live weights of every matrix that is masked; none where units are removed."""
        return self.masked.live if self.masked else {}

    @property
    def network(self) -> nn.Module:
        """What may be called in place of the model: its sliced form where that is exact, else the model itself."""
        plan = self.mechanism.plan()
        wrapped = self.given is not self.model  # wrappers do work of their own
        if plan is None or wrapped or self.recipe.cut.kind != "axes":
            return self.given
        if self._sliced is None or self._sliced[0] is not plan:
            with self._undisturbed():
                try:
                    self._sliced = (plan, Subnet(self.model, self.subject.graph, plan))
                except (CannotCut, NothingToDo) as e:
                    if self._sliced is None:
                        self.listener.note(f"steps cost as much as dense ones: {e}")
                    self._sliced = (plan, self.model)
        return self._sliced[1]

    @property
    def complete(self) -> bool:
        """Whether the decision that meets the budget has been made."""
        return self.done >= max(self.points, default=0)

    @property
    def training_cost(self) -> float:
        """MACs of the steps so far, of live units, over those of as many dense steps."""
        return self.spent / self.done if self.done else 1.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the weights and the optimizer's state; `torch.load` reads it as data."""
        return {
            "format": FORMAT,
            "fingerprint": self.subject.graph.fingerprint,
            "recipe": self.recipe.name,
            "total": self.total,
            "seed": self.seed,
            "done": self.done,
            "spent": self.spent,
            "trail": [dict(row) for row in self.trail],
            "mechanism": dict(self.mechanism.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse, on a session made with the same arguments; weights and optimizer are loaded by the user first.

        They may be loaded before the session is made or after that: what its first decision changed is put back here.

        Raises:
            BadInput: the state is of another format, network, recipe, number of steps or seed.
        """
        expected = self.state_dict()
        for key in ("format", "fingerprint", "recipe", "total", "seed"):
            if state.get(key) != expected[key]:
                raise BadInput(
                    f"session state: expected {key} {expected[key]!r}, as this session has; got {state.get(key)!r}"
                )
        if self._first is not None:
            self._first.undo()
            self._first = None
        self.done, self.spent = int(state["done"]), float(state["spent"])
        self.trail = [dict(row) for row in state["trail"]]
        self.mechanism.load_state_dict(state["mechanism"])

    def close(self) -> None:
        """Take the hooks off the optimizer. The removed units are zero; nothing keeps them so from now on."""
        self._before.remove()
        self._after.remove()

    def finished_subject(self, average: nn.Module | None = None) -> tuple[Subject, Plan]:
        """The trained network with the removed units at zero, as the subject of the cut, and the plan.

        Args:
            average: averaged weights of the same class, which are delivered in place of the model's.

        Raises:
            BadInput: the decision that meets the budget has not been made yet.
        """
        plan = self.mechanism.plan()
        masked = self.masked
        if masked is not None:
            plan = Plan({}, self.recipe.name, self.subject.graph.fingerprint)
        if not self.complete or plan is None:
            last = max(self.points, default=0)
            raise BadInput(
                f"session: the budget is met by the decision after step {last}; {self.done} of {self.total} steps were "
                "made. Call session.step() after every optimizer.step(), or pass the steps of the shorter run"
            )
        self.mechanism.after_update(self.moment)
        if average is None:
            return self.subject, plan
        network = unwrapped(average).module
        if masked is not None:
            network = masked.masks.applied(network)
        return replace(self.subject, model=network), plan

    def _before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """The step hook. A closure computes the gradients inside the step, so the mechanism comes after the closure."""

        def with_gradients() -> None:
            _unscale_(optimizer)
            self.mechanism.before_update(Moment(self.done, self.total, self.done + 1 in self.points))

        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            with_gradients()
            return None

        def then_masked() -> Any:
            result = closure()
            with_gradients()
            return result

        return (args[:1], {**kwargs, "closure": then_masked})

    def _after_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        upcoming = min(self.done + 1, self.total)
        self.mechanism.after_update(Moment(upcoming, self.total, upcoming in self.points))

    def _decide_if_due(self) -> None:
        moment = self.moment
        if not moment.decides:
            return
        with self._undisturbed():
            decision = on_first_rank(lambda: self.mechanism.decide(moment))
            self.mechanism.adopt(decision, moment)
        plan = self.mechanism.plan()
        kept = self.live_weights if plan is None else plan.counts()
        self.trail.append({"step": self.done, "density": self.mechanism.density(), "kept": kept})
        share = f"{100 * self.mechanism.density():.1f} % of the MACs are live"
        self.listener.tell(f"step {self.done}/{self.total}: {share}", moment.progress)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Gradients on, generators of the process as they were afterwards: a decision draws nothing from the loop's."""
        with one_at_a_time(), seeded((self.seed * 1_000_003 + self.done) % 2**63):
            yield

    def _check_masked(self) -> None:
        """Count the weights that are masked among the costs, and say which matrices cannot have the pattern."""
        masked = self.masked
        if masked is None:
            return
        original = replace(self.subject.original, weights=masked.total)
        self.subject = replace(self.subject, original=original)
        self.bounds = self.budget.against(original)
        if left := masked.left_dense:
            name, why = next(iter(left.items()))
            more = f", and {len(left) - 1} more" if len(left) > 1 else ""
            self.listener.note(f"stays dense, because it cannot have the pattern: {name} ({why}){more}")

    def _understood(self, example: Example, data: Data) -> Subject:
        units = isinstance(self.recipe.cut, Axes)
        subject = stages.understand(self.model, example, device_of(self.model), self.recipe.rewrite, units=units)
        if not units:
            return stages.with_samples(subject, data.for_scores, self.recipe.calibration)
        subject = subject.allowed(self.recipe)
        graph = subject.graph
        mixing = {n: f"a masked network would compute over removed units: {g.mixes}" for n, g in graph.groups.items()
                  if g.mixes}  # fmt: skip
        if len(mixing) == len(graph.groups):
            raise BadInput(
                f"recipe {self.recipe.name!r}: no group of this model can be masked while it trains, because operators "
                f"mix its units ({next(iter(graph.groups.values())).mixes}); cut it after training, with sartor.fit"
            )
        if mixing:
            names = ", ".join(list(mixing)[:3]) + (", ..." if len(mixing) > 3 else "")
            self.listener.note(f"{len(mixing)} groups stay whole: no mask is exact where operators mix units ({names})")
            subject = replace(subject, graph=without_groups(graph, mixing))
        return stages.with_samples(subject, data.for_scores, self.recipe.calibration)

    def _check_targets(self) -> None:
        """Put the dense network on every target of the budget, so that what cannot be timed fails before the training.

        Raises:
            SartorError: it cannot be exported, or does not run there.
        """
        if self.bounds.timed:
            delivery = Delivery(self.model, self.subject.example)
            for target in dict.fromkeys(str(x.target) for x in self.bounds.timed):
                delivery.check_target(target)
            self.context = replace(self.context, delivery=delivery)

    def _check_budget(self) -> None:
        """Find out before the training that units can be scored, and the budget met, and that there is something to do.

        Raises:
            BudgetNotMet, NothingToDo: see `stages.allocate`.
            BadInput: see `stages.score`.
        """
        graph, bounds = self.subject.graph, self.bounds
        caps = share_caps(graph, bounds)
        if not bounds.timed and all(bounds.holds(x, bounds.original) for x in bounds.counted):
            raise NothingToDo("the dense network already meets every limit of the budget")
        if not caps:
            raise BadInput(
                f"session: expected a counted or a relative limit; got {show_budget(self.budget)}, absolute latencies "
                "only: nobody can say before the last decision how much must go"
            )
        stages.allocate(graph, self._score(None), self.recipe, caps)

    def _training(self) -> Training:
        samples = self.subject.samples
        return Training(
            self.model, self.optimizer, self.recipe, self.bounds, self.total, self.seed,
            units=None if self.masked else Units(self.subject.graph, self._score, self._allocate),
            layers=self.layers,
            batches=(lambda: samples) if samples else None,
            loss=self.options.judge.loss,
        )  # fmt: skip

    def _score(self, criterion: Criterion | None) -> Scores:
        score = self.recipe.score if criterion is None else criterion
        recipe = replace(self.recipe, score=score, when=OneShot())  # of the network as it is now
        return stages.score(self.subject, recipe, self.bounds, self.context)

    def _allocate(self, scores: Scores, strength: float) -> Plan:
        recipe = replace(self.recipe, when=OneShot())
        return stages.decide_towards(self.subject, recipe, scores, self.bounds, strength, self.context)

    def asked(self) -> dict[str, Any]:
        """The first line of the record."""
        return {
            "budget": show_budget(self.budget), "recipe": self.recipe, "seed": self.seed, "steps": self.total,
            "device": str(device_of(self.model)), "environment": environment(),
        }  # fmt: skip

    def course(self) -> dict[str, Any]:
        """What happened, for the record: every decision, and the cost of the training."""
        counted = to_plain(replace(count(self.subject.graph, self.plan.counts() if self.plan else {}),
                                   weights=sum(self.live_weights.values())))  # fmt: skip
        return {"steps": self.done, "decisions": self.trail, "training_cost": self.training_cost, "counted": counted}


def _noting_once(listener: Listener) -> Listener:
    """The same without notes that were given before: scores are computed at every decision, and say the same."""
    given: set[str] = set()

    def note(sentence: str) -> None:
        if sentence not in given:
            given.add(sentence)
            listener.note(sentence)

    return Listener(lambda _, done, text: listener.tell(text, done), note)


@torch.no_grad()
def _unscale_(optimizer: Optimizer) -> None:
    """Bring gradients to true scale where a fused optimizer would do it inside its kernel."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad.div_(scale.to(p.grad.device))
    optimizer.grad_scale = None  # type: ignore[attr-defined]


__all__ = ["SessionOptions", "TrainingSession"]
