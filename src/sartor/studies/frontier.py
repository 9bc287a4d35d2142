"""Quality against cost without training: each recipe at each share of the MACs, repaired and judged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sartor.borrow import device_of
from sartor.cost import count
from sartor.errors import BadInput, BudgetNotMet
from sartor.measure import environment, parse_target, show_target
from sartor.recipes import find_recipe
from sartor.run import stages
from sartor.run.context import DEFAULTS, Context
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.structure import Example
from sartor.structure.example import batch_of
from sartor.studies.frontier_rows import Durations, FrontierPoint, FrontierTable, OriginalRow, Samples
from sartor.studies.score_recipes import plan_at, score_recipes
from sartor.train import accuracy
from sartor.train.batch import first_samples
from sartor.types import Batches, Comparison, Data, Effort, Listener, Recipe, Scores, Target, to_plain

EFFORT = Effort(sessions=3, precision=0.02, min_seconds=0.5, max_seconds=2.0)
MET, MISSED = "met", "not reached"


@dataclass(frozen=True)
class Sweep:
    """The points of a frontier and how they are judged."""

    recipes: Sequence[str | Recipe]  # names, criteria or recipes; all use the same calibration samples
    shares: Sequence[float]  # of the MACs that may stay, strictly between 0 and 1
    judge: int | None = None  # samples of each labelled part at most; None: all
    target: str | Target | None = None  # every network is timed there in turns with the original; None: not timed
    calibration: int = 1000  # samples for scores and repairs; a quarter as many more judge the distance of the outputs
    effort: Effort = field(default_factory=lambda: EFFORT)  # of a comparison on the target


def frontier(
    model: nn.Module,
    data: Data,
    sweep: Sweep,
    *,
    example: Example,
    context: Context = DEFAULTS,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Cut, repair and judge a network at every share of its MACs by every recipe, without training.

    The network is traced once and scored once for all shares; gates and searched allocations depend on the share and
    are computed for each. Every cut is proved before it is repaired.

    Args:
        model: borrowed.
        data: the calibration part, or else the training part, is used for scores and repairs; labels are read only by
            criteria that need them. Accuracy is computed on the val and test parts that exist.
        sweep: recipes, shares, and how networks are judged.
        example: inputs the network can be called with; one sample of it is counted and timed.
        context: the loss of criteria that need one, the seed, and the listener.
        device: where to compute; None: where the model lies.

    Returns:
        The object of a `FrontierTable`:
        {"format", "sartor", "recipes", "shares", "target", "calibration": {"samples", "held_out"}, "metric",
        "original": {"macs", "params", "val", "test"}, "points",
        "seconds": {"understand", "score", "total"}, "notes", "environment"}.
        A point is {"recipe", "asked", "status": "met" | "not reached", "why", "macs" and "params" (shares of the
        original's), "val" and "test" (percent), "gap" (see `sartor.repair.gap.output_gap`), "latency": {"ratio",
        "interval", "original_ms", "fitted_ms", "noisy"}, "seconds"}; values that were not measured are None.

    Raises:
        BadInput, UnknownName: an argument.
        ProofFailed: a cut network differs from the zero-masked original.
    """
    recipes = _recipes(sweep.recipes, sweep.calibration)
    shares = _shares(sweep.shares)
    target = parse_target(sweep.target) if isinstance(sweep.target, str) else sweep.target
    start = time.perf_counter()
    notes: list[str] = []
    listener = context.listener

    def note(sentence: str) -> None:
        if sentence not in notes:
            notes.append(sentence)

    noted = Context(context.judge, context.seed, _Noting(listener, note))
    with seeded(context.seed), torch.random.fork_rng(devices=[]):
        listener.begin("understand")
        subject = stages.understand(model, example, device)
        subject = stages.with_held_out(subject, data.for_scores, sweep.calibration)
        understand_s = time.perf_counter() - start
        points_of = _Points(subject, data, sweep, target, noted)
        listener.begin("judge the original")
        original = {
            "macs": subject.original.macs, "params": subject.original.params, **points_of.quality(subject.model)
        }  # fmt: skip
        listener.begin("score")
        scores, score_s = score_recipes(subject, recipes, noted)
        points = []
        every = [(r, s) for r in recipes for s in shares]
        listener.begin("frontier")
        for i, (recipe, share) in enumerate(every):
            listener.tell(f"{recipe.name} at {100 * share:g} % of the MACs", i / len(every))
            points.append(points_of.point(recipe, scores.get(recipe.name), share))
        listener.tell(f"{len(points)} points", 1.0)
    table = FrontierTable(
        recipes=[r.name for r in recipes],
        shares=shares,
        target=show_target(target) if target else None,
        calibration=Samples(
            samples=sum(batch_of(x) for x in subject.inputs), held_out=sum(batch_of(x) for x in subject.held_out)
        ),
        metric="accuracy",
        original=OriginalRow.model_validate(original),
        points=[FrontierPoint(**point) for point in points],
        seconds=Durations(understand=understand_s, score=score_s, total=time.perf_counter() - start),
        notes=notes,
        environment=to_plain(environment()),
    )
    return table.to_plain()


class _Noting(Listener):
    """Keeps notes; progress of single points is dropped, that of the scores is passed on."""

    def __init__(self, listener: Listener, note: Any):
        super().__init__(note=note)
        self.listener = listener

    def tell(self, text: str, done: float | None = None) -> None:
        if self.listener.step == "score":
            self.listener.tell(text, done)


@dataclass(frozen=True)
class _Points:
    """Makes the points of one network."""

    subject: Subject
    data: Data
    sweep: Sweep
    target: Target | None
    context: Context

    def quality(self, model: nn.Module) -> dict[str, float | None]:
        """Accuracy in percent on the labelled parts that exist."""
        parts = {"val": self.data.val, "test": self.data.test}
        return {name: None if part is None else self._accuracy(model, part) for name, part in parts.items()}

    def _accuracy(self, model: nn.Module, part: Batches) -> float:
        most = self.sweep.judge
        return accuracy(model, part if most is None else first_samples(part, most), device_of(self.subject.model))

    def point(self, recipe: Recipe, scores: Scores | None, share: float) -> dict[str, Any]:
        """Decide, cut, prove, repair, judge, time."""
        subject, start = self.subject, time.perf_counter()
        row: dict[str, Any] = {
            "recipe": recipe.name, "asked": share, "status": MISSED, "why": None, "macs": None, "params": None,
            "val": None, "test": None, "gap": None, "latency": None,
        }  # fmt: skip
        try:
            plan = plan_at(subject, recipe, scores, share, self.context)
        except BudgetNotMet as e:
            return {**row, "why": str(e), "seconds": time.perf_counter() - start}
        cut = stages.apply(subject, plan)
        smaller, _ = stages.heal(subject, plan, cut.network, recipe, self.context)
        smaller.eval()
        left = count(subject.graph, plan.counts())
        row |= {
            "status": MET,
            "macs": left.macs / subject.original.macs,
            "params": left.params / subject.original.params,
            **self.quality(smaller),
            "gap": subject.gap(smaller),
        }
        if self.target is not None:
            row["latency"] = _latency(stages.observe(subject, smaller, self.target, self.sweep.effort))
        return {**row, "seconds": time.perf_counter() - start}


def _latency(measured: Comparison) -> dict[str, Any]:
    return {
        "ratio": measured.ratio,
        "interval": list(measured.interval),
        "original_ms": 1e3 * measured.original.median_s,
        "fitted_ms": 1e3 * measured.fitted.median_s,
        "noisy": measured.noisy,
    }


def _recipes(recipes: Sequence[str | Recipe], calibration: int) -> list[Recipe]:
    """Recipes by name; of several with one name, the last."""
    if not recipes or isinstance(recipes, str):
        raise BadInput(f"recipes: expected a list of at least one; got {recipes!r}")
    return list({r.name: r for r in (find_recipe(a, calibration=calibration) for a in recipes)}.values())


def _shares(shares: Sequence[float]) -> list[float]:
    """Different shares, descending."""
    descending = sorted({float(s) for s in shares}, reverse=True)
    if not descending or not all(0 < s < 1 for s in descending):
        raise BadInput(f"shares of the MACs: expected numbers strictly between 0 and 1; got {list(shares)}")
    return descending
