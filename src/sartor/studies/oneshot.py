"""Every recipe at every share, cut only, with batch norms refreshed, and repaired: which units it is that matter."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sartor.borrow import device_of
from sartor.cost import count
from sartor.errors import BadInput, BudgetNotMet, SartorError
from sartor.repair import refresh_norm
from sartor.repair.repair_step import heal
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.structure import trace
from sartor.structure.example import batch_of
from sartor.studies.score_recipes import plan_at, scored
from sartor.surgery import cut, prove
from sartor.torch_internals import BatchNorm
from sartor.train import accuracy
from sartor.types import Plan, Recipe

Batches = Iterable[Any]
Peer = Callable[[nn.Module, Any, Sequence[Any], float], Mapping[str, Callable[[], nn.Module]]]
STATES = ("cut", "norm", "repaired")
_NORMS = BatchNorm


def oneshot(
    subject: Subject,
    recipes: Sequence[Recipe],
    shares: Sequence[float],
    test: Batches,
    *,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    seed: int = 0,
    known: Callable[[str, float], bool] = lambda name, share: False,
    note: Callable[[str], None] = warnings.warn,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """One row a recipe and share, as soon as it is there.

    The three states differ in nothing but the repair: "cut" as it comes, "norm" with the statistics of its batch norms
    taken anew from the calibration data (None without such layers), "repaired" with constants, refitted layers and
    statistics, each only if it helps on held-out calibration data.

    Args:
        subject: the network and its calibration data.
        recipes: criteria and allocations; their own repairs are not looked at.
        shares: of the MACs that may stay.
        test: labelled batches that took no part in any decision.
        loss: of criteria that need one.
        seed: everything random follows from it.
        known: rows that need not be made again.
        note: told in a sentence where a criterion had to do without what it reads.
        tell: progress.

    Yields:
        {"recipe", "source", "asked", "why" (not None: the share cannot be reached), "macs", "params" (shares),
        "decision_s" (scores and plan), "repair_s", and of each state of STATES the accuracy in percent}.

    Raises:
        ProofFailed: a cut was not what silencing is.
    """
    for recipe in recipes:
        wanted = [s for s in shares if not known(recipe.name, s)]
        if not wanted:
            continue
        with seeded(seed), torch.random.fork_rng(devices=[]):
            tell(f"{recipe.name}: score")
            start = time.perf_counter()
            try:
                found, _ = scored(subject, [recipe], loss=loss, seed=seed, note=note)
            except SartorError as e:
                for share in wanted:
                    yield {**_row(recipe.name, recipe.source, share), "why": str(e)}
                continue
            took = time.perf_counter() - start
            for share in wanted:
                tell(f"{recipe.name} at {100 * share:g} % of the MACs")
                yield _judged(subject, recipe, found.get(recipe.name), share, test, took, loss, seed, note)


def _row(name: str, source: str, share: float) -> dict[str, Any]:
    nothing = dict.fromkeys(("why", "macs", "params", "decision_s", "repair_s", *STATES))
    return {"recipe": name, "source": source, "asked": share, **nothing}


def _judged(
    subject: Subject, recipe: Recipe, scores: Any, share: float, test: Batches, took: float, loss: Any, seed: int,
    note: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    row, start = _row(recipe.name, recipe.source, share), time.perf_counter()
    try:
        plan = plan_at(subject, recipe, scores, share, loss=loss, seed=seed)
    except (BudgetNotMet, BadInput) as e:
        return {**row, "why": str(e)}
    row["decision_s"] = took + time.perf_counter() - start
    smaller = cut(subject.model, subject.graph, plan)
    prove(subject.model, subject.graph, plan, subject.proof_inputs(), smaller=smaller)
    left = count(subject.graph, plan.counts())
    row |= {"macs": left.macs / subject.original.macs, "params": left.params / subject.original.params}
    row |= _two_states(smaller, subject, test)
    start = time.perf_counter()
    repaired = _repaired(smaller, subject, plan, recipe, seed, note)
    row["repair_s"] = time.perf_counter() - start
    row["repaired"] = accuracy(repaired, test, device_of(subject.model))
    return row


def _two_states(smaller: nn.Module, subject: Subject, test: Batches) -> dict[str, float | None]:
    where = device_of(subject.model)
    found: dict[str, float | None] = {"cut": accuracy(smaller, test, where), "norm": None}
    if any(isinstance(m, _NORMS) for m in smaller.modules()):
        found["norm"] = accuracy(
            refresh_norm(smaller, subject.inputs, samples=sum(map(batch_of, subject.inputs))), test, where
        )
    return found


def _repaired(
    smaller: nn.Module, subject: Subject, plan: Plan, recipe: Recipe, seed: int, note: Callable[[str], None]
) -> nn.Module:
    full = replace(recipe, refit=True, fold_mean=True, refresh_norm=True)
    done, _ = heal(
        smaller, subject.model, subject.graph, plan, full, subject.inputs, seed=seed, note=note,
        tell=lambda share, text: None,
    )  # fmt: skip
    return done


def peer_rows(
    peer: Peer,
    subject: Subject,
    shares: Sequence[float],
    test: Batches,
    *,
    seed: int = 0,
    known: Callable[[str, float], bool] = lambda name, share: False,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """The same rows for networks that somebody else's tool has cut; what it cannot do is a row with the reason.

    Args:
        peer: peer(model, example, batches, share) -> name -> a function that gives a cut copy. `batches` are the
            calibration pairs.
        subject, shares, test, seed, known, tell: as in `oneshot`. There is no plan to repair by, so "repaired" is None.
    """
    for share in shares:
        for name, make in peer(subject.model, subject.example, subject.samples, share).items():
            if known(name, share):
                continue
            tell(f"{name} at {100 * share:g} % of the MACs")
            row = _row(name, "", share)
            with seeded(seed), torch.random.fork_rng(devices=[]):
                start = time.perf_counter()
                try:
                    smaller = make().eval()
                    row["decision_s"] = time.perf_counter() - start
                    left = count(trace(smaller, subject.example))
                except Exception as e:  # another tool: whatever it raises is a finding
                    yield {**row, "why": f"{type(e).__name__}: {e}".split("\n")[0]}
                    continue
                row |= {"macs": left.macs / subject.original.macs, "params": left.params / subject.original.params}
                yield row | _two_states(smaller, subject, test)
