"""Accuracy of recipes at shares of the MACs: cut only, with batch norms re-estimated, and repaired."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from sartor.borrow import device_of
from sartor.cost import count
from sartor.errors import BadInput, BudgetNotMet, SartorError
from sartor.repair import refresh_norm
from sartor.run import stages
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.structure import trace
from sartor.structure.example import batch_of
from sartor.studies.score_recipes import plan_at, score_recipes
from sartor.torch_internals import BatchNorm
from sartor.train import accuracy
from sartor.types import WARNINGS, Batches, FoldMeans, Recipe, RefreshNorms, Ridge, Scores

Peer = Callable[[nn.Module, Any, Sequence[Any], float], Mapping[str, Callable[[], nn.Module]]]
STATES = ("cut", "norm", "repaired")
EVERY_REPAIR = (Ridge(), FoldMeans(), RefreshNorms())


@dataclass(frozen=True)
class RecipeRows:
    """One network at several shares of its MACs, judged on labelled data that no decision has used."""

    subject: Subject
    shares: Sequence[float]  # of the MACs that may stay
    test: Batches
    context: Context = field(default_factory=lambda: Context(listener=WARNINGS))
    known: Callable[[str, float], bool] = lambda name, share: False  # whether a row exists already

    def rows(self, recipes: Sequence[Recipe]) -> Iterator[dict[str, Any]]:
        """One row for each recipe and share, yielded when it is made.

        The three states differ only in the repair: "cut" has none, "norm" has batch-norm statistics that are estimated
        anew from the calibration data (None without such layers), "repaired" has every step of `EVERY_REPAIR` that
        helps on held-out calibration data.

        Args:
            recipes: criteria and allocations; their own `heal` is ignored.

        Yields:
            {"recipe", "source", "asked", "why" (not None: the share cannot be reached), "macs", "params" (shares),
            "decision_s" (scores and plan), "repair_s", and of each state of STATES the accuracy in percent}.

        Raises:
            ProofFailed: a cut network differs from the zero-masked original.
        """
        tell = self.context.listener.tell
        for recipe in recipes:
            missing = [s for s in self.shares if not self.known(recipe.name, s)]
            if not missing:
                continue
            with seeded(self.context.seed), torch.random.fork_rng(devices=[]):
                tell(f"{recipe.name}: score")
                start = time.perf_counter()
                try:
                    scores, _ = score_recipes(self.subject, [recipe], self.context)
                except SartorError as e:
                    for share in missing:
                        yield {**_row(recipe.name, recipe.source, share), "why": str(e)}
                    continue
                score_s = time.perf_counter() - start
                for share in missing:
                    tell(f"{recipe.name} at {100 * share:g} % of the MACs")
                    row = self._row_of(recipe, scores.get(recipe.name), share)
                    if row["decision_s"] is not None:
                        row["decision_s"] += score_s
                    yield row

    def peer_rows(self, peer: Peer) -> Iterator[dict[str, Any]]:
        """The same rows for networks that another tool has cut; if the tool fails, the row holds the reason.

        Args:
            peer: peer(model, example, batches, share) -> name -> a function that gives a cut copy. `batches` are the
                calibration pairs. There is no plan to repair by, so "repaired" is None.
        """
        subject = self.subject
        for share in self.shares:
            for name, make in peer(subject.model, subject.example, subject.samples, share).items():
                if self.known(name, share):
                    continue
                self.context.listener.tell(f"{name} at {100 * share:g} % of the MACs")
                row = _row(name, "", share)
                with seeded(self.context.seed), torch.random.fork_rng(devices=[]):
                    start = time.perf_counter()
                    try:
                        smaller = make().eval()
                        row["decision_s"] = time.perf_counter() - start
                        left = count(trace(smaller, subject.example))
                    except Exception as e:  # whatever the other tool raises is a result
                        yield {**row, "why": f"{type(e).__name__}: {e}".split("\n")[0]}
                        continue
                    row |= {"macs": left.macs / subject.original.macs, "params": left.params / subject.original.params}
                    yield row | self._two_states(smaller)

    def _row_of(self, recipe: Recipe, scores: Scores | None, share: float) -> dict[str, Any]:
        subject, row = self.subject, _row(recipe.name, recipe.source, share)
        start = time.perf_counter()
        try:
            plan = plan_at(subject, recipe, scores, share, self.context)
        except (BudgetNotMet, BadInput) as e:
            return {**row, "why": str(e)}
        row["decision_s"] = time.perf_counter() - start
        cut = stages.apply(subject, plan)
        left = count(subject.graph, plan.counts())
        row |= {"macs": left.macs / subject.original.macs, "params": left.params / subject.original.params}
        row |= self._two_states(cut.network)
        start = time.perf_counter()
        everything = replace(recipe, heal=EVERY_REPAIR)
        repaired, _ = stages.heal(subject, plan, cut.network, everything, self.context)
        row["repair_s"] = time.perf_counter() - start
        row["repaired"] = accuracy(repaired, self.test, device_of(subject.model))
        return row

    def _two_states(self, smaller: nn.Module) -> dict[str, float | None]:
        inputs, device = self.subject.inputs, device_of(self.subject.model)
        states: dict[str, float | None] = {"cut": accuracy(smaller, self.test, device), "norm": None}
        if any(isinstance(m, BatchNorm) for m in smaller.modules()):
            refreshed = refresh_norm(smaller, inputs, samples=sum(map(batch_of, inputs)))
            states["norm"] = accuracy(refreshed, self.test, device)
        return states


def _row(name: str, source: str, share: float) -> dict[str, Any]:
    nothing = dict.fromkeys(("why", "macs", "params", "decision_s", "repair_s", *STATES))
    return {"recipe": name, "source": source, "asked": share, **nothing}
