"""Quality against cost from calibration alone: each recipe at each share of the MACs, repaired and judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from sartor.borrow import device_of
from sartor.cost import count
from sartor.errors import BadInput, BudgetNotMet
from sartor.measure import compare_afresh, environment, parse_target, prepare, show_target
from sartor.recipes import find_recipe
from sartor.repair.repair_step import heal
from sartor.run.record import Progress
from sartor.run.subject import Subject, understand
from sartor.seed import seeded
from sartor.structure import Example
from sartor.structure.example import batch_of
from sartor.studies.score_recipes import plan_at, scored
from sartor.surgery import cut, prove
from sartor.train import accuracy
from sartor.train.batch import first_samples
from sartor.types import Comparison, Effort, Plan, Recipe, Target

Batches = Iterable[Any]
_EFFORT = Effort(sessions=3, precision=0.02, min_seconds=0.5, max_seconds=2.0)
MET, MISSED = "met", "not reached"


def frontier(
    model: nn.Module,
    source: Batches,
    *,
    recipes: Sequence[str | Recipe],
    shares: Sequence[float],
    example: Example,
    val: Batches | None = None,
    test: Batches | None = None,
    judge: int | None = None,
    target: str | Target | None = None,
    calibration: int = 1000,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    effort: Effort | None = None,
) -> dict[str, Any]:
    """Cut, repair and judge a network at every share of its MACs by every recipe. Nothing is trained.

    The network is understood once and scored once, however many shares there are; gates and searched allocations, which
    depend on the share, are found anew for each. Every cut is proved before it is repaired.

    Args:
        model: borrowed.
        source: calibration batches (inputs, targets); targets are looked at only by criteria that need labels.
        recipes: names, criteria or recipes; each is given `calibration` samples, the same ones.
        shares: of the MACs that may stay, strictly between 0 and 1.
        example: inputs the network can be called with; one sample of it is counted and timed.
        val: labelled batches to judge by, or none.
        test: the same of data that took no part in any decision.
        judge: samples of each of them at most; None: all.
        target: where to time every network in turns with the original, or nowhere.
        calibration: samples for scores and repairs; a quarter as many more judge the distance of the outputs.
        loss: of criteria that need one.
        seed: everything random follows from it.
        device: where to compute; None: where the model lies.
        progress: told (step, share done or None, detail).
        effort: of a comparison on the target, see `compare_afresh`.

    Returns:
        {"recipes", "shares", "target", "calibration": {"samples", "held_out"}, "metric", "original": {"macs",
        "params", "val", "test"}, "points", "seconds": {"understand", "score", "total"}, "notes", "environment"}.
        A point is {"recipe", "asked", "status": "met" | "not reached", "why", "macs" and "params" (shares of the
        original's), "val" and "test" (percent), "gap" (see `sartor.repair.gap.output_gap`), "latency": {"ratio",
        "interval", "original_ms", "fitted_ms", "noisy"}, "seconds"}; what was not judged is None.

    Raises:
        BadInput, UnknownName: an argument.
        ProofFailed: a cut was not what silencing is.
    """
    chosen = _recipes(recipes, calibration)
    asked = _shares(shares)
    timed = parse_target(target) if isinstance(target, str) else target
    tell = progress or (lambda event, done, detail: None)
    start = time.perf_counter()
    notes: list[str] = []

    def note(sentence: str) -> None:
        if sentence not in notes:
            notes.append(sentence)

    with seeded(seed), torch.random.fork_rng(devices=[]):
        tell("understand", None, "")
        subject = understand(model, source, example=example, calibration=calibration, device=device)
        understood = time.perf_counter() - start
        judged = _Judge(subject, val, test, judge)
        tell("judge the original", None, "")
        original = {"macs": subject.original.macs, "params": subject.original.params, **judged.of(subject.model)}
        tell("score", None, "")
        found, spent = scored(
            subject, chosen, loss=loss, seed=seed, note=note, tell=lambda text: tell("score", None, text)
        )
        sweep = _Sweep(subject, judged, timed, effort or _EFFORT, loss, seed, note)
        points = []
        every = [(r, s) for r in chosen for s in asked]
        for i, (recipe, share) in enumerate(every):
            tell("frontier", i / len(every), f"{recipe.name} at {100 * share:g} % of the MACs")
            points.append(sweep.point(recipe, found.get(recipe.name), share))
        tell("frontier", 1.0, f"{len(points)} points")
    return {
        "recipes": [r.name for r in chosen],
        "shares": asked,
        "target": show_target(timed) if timed else None,
        "calibration": {
            "samples": sum(batch_of(x) for x in subject.inputs),
            "held_out": sum(batch_of(x) for x in subject.held_out),
        },
        "metric": "accuracy",
        "original": original,
        "points": points,
        "seconds": {"understand": understood, "score": spent, "total": time.perf_counter() - start},
        "notes": notes,
        "environment": environment(),
    }


class _Judge:
    """Accuracy on the labelled parts there are."""

    def __init__(self, subject: Subject, val: Batches | None, test: Batches | None, most: int | None):
        self.parts, self.most = {"val": val, "test": test}, most
        self.device = device_of(subject.model)

    def of(self, model: nn.Module) -> dict[str, float | None]:
        """Percent by part."""
        return {name: None if part is None else self._on(model, part) for name, part in self.parts.items()}

    def _on(self, model: nn.Module, part: Batches) -> float:
        return accuracy(model, part if self.most is None else first_samples(part, self.most), self.device)


class _Sweep:
    """One point after the other."""

    def __init__(
        self,
        subject: Subject,
        judge: _Judge,
        target: Target | None,
        effort: Effort,
        loss: Any,
        seed: int,
        note: Callable[[str], None],
    ):
        self.subject, self.judge, self.target, self.effort = subject, judge, target, effort
        self.loss, self.seed, self.note = loss, seed, note

    def point(self, recipe: Recipe, scores: Any, share: float) -> dict[str, Any]:
        """Decide, cut, prove, repair, judge, time."""
        subject, start = self.subject, time.perf_counter()
        row: dict[str, Any] = {
            "recipe": recipe.name, "asked": share, "status": MISSED, "why": None, "macs": None, "params": None,
            "val": None, "test": None, "gap": None, "latency": None,
        }  # fmt: skip
        try:
            plan = plan_at(subject, recipe, scores, share, loss=self.loss, seed=self.seed)
        except BudgetNotMet as e:
            return {**row, "why": str(e), "seconds": time.perf_counter() - start}
        smaller = self._repaired(recipe, plan)
        left = count(subject.graph, plan.counts())
        row |= {
            "status": MET,
            "macs": left.macs / subject.original.macs,
            "params": left.params / subject.original.params,
            **self.judge.of(smaller),
            "gap": subject.gap(smaller),
        }
        if self.target is not None:
            row["latency"] = _latency(self._timed(smaller, self.target))
        return {**row, "seconds": time.perf_counter() - start}

    def _repaired(self, recipe: Recipe, plan: Plan) -> nn.Module:
        subject = self.subject
        smaller = cut(subject.model, subject.graph, plan)
        prove(subject.model, subject.graph, plan, subject.proof_inputs(), smaller=smaller)
        smaller, _ = heal(
            smaller, subject.model, subject.graph, plan, recipe, subject.inputs, seed=self.seed, note=self.note,
            tell=lambda share, text: None,
        )  # fmt: skip
        return smaller.eval()

    def _timed(self, smaller: nn.Module, target: Target) -> Comparison:
        subject = self.subject
        return compare_afresh(
            lambda: prepare(subject.model, subject.example, target),
            lambda: prepare(smaller, subject.example, target),
            self.effort,
        )


def _latency(measured: Comparison) -> dict[str, Any]:
    return {
        "ratio": measured.ratio,
        "interval": list(measured.interval),
        "original_ms": 1e3 * measured.original.median_s,
        "fitted_ms": 1e3 * measured.fitted.median_s,
        "noisy": measured.noisy,
    }


def _recipes(asked: Sequence[str | Recipe], calibration: int) -> list[Recipe]:
    if not asked or isinstance(asked, str):
        raise BadInput(f"recipes: expected a list of at least one; got {asked!r}")
    return list({r.name: r for r in (find_recipe(a, calibration=calibration) for a in asked)}.values())


def _shares(asked: Sequence[float]) -> list[float]:
    found = sorted({float(s) for s in asked}, reverse=True)
    if not found or not all(0 < s < 1 for s in found):
        raise BadInput(f"shares of the MACs: expected numbers strictly between 0 and 1; got {list(asked)}")
    return found
