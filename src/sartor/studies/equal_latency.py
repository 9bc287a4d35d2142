"""`sartor bench equal-latency`: plans made for latency and plans made for MACs, at the same measured latency.

Both get the same scores, the same repair and the same limits on measured latency; they differ in the cost under which
widths are chosen. The limit of a plan for MACs is moved until the measured latency of its network is just within the
limit, as for a plan for latency. Nothing is trained. Accuracy is that of the exported network on ONNX Runtime, on the
whole test set. Latency is measured again in new sessions, in turns with the original, in CPU time of the thread
(`time.thread_time`, which does not advance while another process runs: the target has one thread).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Annotated, Any

import torch
from torch import nn

from sartor.allocate import Cap, SearchOptions, fit_latency
from sartor.cost import count, counted_cost
from sartor.errors import BudgetNotMet, UnknownName
from sartor.measure import compare_afresh, parse_target, prepare
from sartor.measure.onnx_graph import to_onnx_fast
from sartor.measure.ort_backend import open_session
from sartor.measure.tables import Predictor
from sartor.recipes import changed, find_recipe
from sartor.repair import refresh_norm
from sartor.run import stages
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.run.table_latency import on_timed_widths, predictor_for
from sartor.studies.grid import Grid, Part, bullets, machine
from sartor.studies.networks import CIFAR, RESNET56, RESNET56_WEIGHTS, open_data, open_network
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.surgery import cut
from sartor.types import (
    Bounds,
    Budget,
    Comparison,
    Effort,
    FoldMeans,
    Limit,
    Listener,
    Plan,
    Recipe,
    RefreshNorms,
    Ridge,
    Scores,
)
from sartor.units import parse_shares

TARGET = "onnxruntime-cpu:threads=1"
TOLERANCE = 0.04  # how far below a limit a network may be, as a share of the limit
ROUNDS = 7
SESSIONS = 3
NEAR = 0.1  # within this share of the limit, several sessions are measured
FLOOR = 0.1  # least share of a group
CALIBRATION = 250  # images for scores, statistics and repair
BATCH = 10  # of the test images
REPAIR = (Ridge(), FoldMeans(), RefreshNorms())
# scores are not divided by MACs: their sums over units have to compare across groups
RECIPES = {
    "l1": find_recipe("l1"),
    "reconstruction": changed(find_recipe("reconstruction"), {"score.normalise": "none"}),
}
HEADS = (
    "scores", "latency limit", "widths chosen for", "MACs kept", "parameters kept", "measured latency",
    "95 % interval", "top-1 with norms re-estimated, %", "top-1 repaired, %",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """How widths are chosen."""

    name: str
    allocation: str
    metric: str  # what is limited
    multiple: int = 1  # kept counts are multiples of it
    moved: bool = True  # the limit is moved until the measured latency is within it; False: it is taken as it is


METHODS = (
    Method("latency, by table", "knapsack", "latency"),
    Method("MACs", "knapsack", "macs"),
    Method("MACs, multiples of 8", "knapsack", "macs", 8),
    Method("MACs, greedy", "global", "macs"),
    Method("MACs, greedy, multiples of 8", "global", "macs", 8),
    Method("MACs at the limit, greedy", "global", "macs", moved=False),
)


@study("equal-latency", marker="equal", key=("recipe", "limit", "method", "seed"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class EqualLatency(Study):
    """Plans made for latency and plans made for MACs, at the same measured latency of ResNet-56: accuracy."""

    limits: Annotated[str, Option("Percent of the original's latency, with commas.")] = "80,60,40"
    recipes: Annotated[str, Option(f"Some of '{';'.join(RECIPES)}'; empty: all.")] = ""
    methods: Annotated[str, Option(f"Some of '{';'.join(m.name for m in METHODS)}'; empty: all.")] = ""
    seeds: Annotated[str | None, Option("Draws of calibration images, with commas, instead of --seed.")] = None
    test: Annotated[int, Option("Test images.", minimum=1)] = 10_000
    model: Annotated[str, Option("Model spec.")] = RESNET56
    weights: Annotated[str | None, Option("Its weights.")] = RESNET56_WEIGHTS
    data: Annotated[str, Option("Data spec.")] = CIFAR

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row for each draw of images, scores, limit and method."""
        torch.set_num_threads(1)
        recipes = chosen("recipe", self.recipes, list(RECIPES))
        methods = chosen("method", self.methods, [m.name for m in METHODS])
        limits = parse_shares(self.limits, "--limits")
        seeds = [run.seed] if self.seeds is None else [int(s) for s in self.seeds.split(",")]
        yield from run.rows_of(
            Case({"recipe": r, "limit": x, "method": m.name, "seed": seed}, partial(draw.row, r, x, m))
            for seed in seeds for draw in [Draw(self, seed, run.listener)]
            for r in recipes for x in limits for m in METHODS if m.name in methods
        )  # fmt: skip

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """The conditions, one table, and how often a plan for latency keeps at least as much accuracy."""
        rows = answer["rows"]
        return [caption(answer["environment"], rows), table(rows), *comparison(rows)]


@dataclass(frozen=True)
class Draw:
    """One network with one draw of calibration images; everything is computed when it is first needed."""

    options: EqualLatency
    seed: int
    listener: Listener

    @cached_property
    def context(self) -> Context:
        return Context(seed=self.seed, listener=self.listener)

    @cached_property
    def _data(self) -> Any:
        return open_data(self.options.data, 50, self.seed)

    @cached_property
    def subject(self) -> Subject:
        model = open_network(self.options.model, self.options.weights)
        subject = stages.understand(model, self._data.example)
        return stages.with_held_out(subject, self._data.calibration, CALIBRATION)

    @cached_property
    def predictor(self) -> Predictor:
        s = self.subject
        return predictor_for(s.model, s.graph, s.example, parse_target(TARGET), listener=self.listener)

    @cached_property
    def test(self) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = zip(*self._data.test)
        return torch.cat(images)[: self.options.test], torch.cat(labels)[: self.options.test]

    @cached_property
    def original(self) -> float:
        return self.accuracy(self.subject.model)

    @cached_property
    def scores(self) -> Any:
        """recipe -> scores, computed once a recipe."""

        def score(recipe: str) -> Scores:
            r = changed(RECIPES[recipe], {"calibration": CALIBRATION, "score.per_cost": 0.0})
            return stages.score(self.subject, r, self._bounds, self.context)

        return cache(score)

    @property
    def _bounds(self) -> Bounds:
        return Budget((Limit("macs", 1.0, True),)).against(self.subject.original)

    def row(self, recipe: str, limit: float, method: Method) -> dict[str, Any]:
        """The fields of one row; if the limit cannot be reached, "why" says so."""
        start = time.perf_counter()
        original, scores = self.original, self.scores(recipe)
        try:
            plan, rounds = self.within(method, scores, limit)
        except BudgetNotMet as e:
            return {"why": str(e), "original": original}
        row = {"rounds": rounds, **self.judged(plan), "images": len(self.test[1]), "original": original}
        return {**row, "seconds": time.perf_counter() - start}

    def plan(self, method: Method, scores: Scores, share: float) -> Plan:
        """Widths under a share of the original's MACs, or of its predicted latency."""
        graph = self.subject.graph
        recipe = changed(
            Recipe(name=method.name),
            {"allocate.kind": method.allocation, "allocate.floor": FLOOR, "allocate.round_to": method.multiple},
        )
        if method.metric == "latency":
            cap = Cap(self.predictor.cost(), share * self.predictor.original, "latency")
            return on_timed_widths(
                lambda: stages.allocate(graph, scores, recipe, [cap]), [self.predictor], self.listener
            )
        cap = Cap(counted_cost(graph, "macs"), share * self.subject.original.macs, "macs")
        return stages.allocate(graph, scores, recipe, [cap])

    def compared(self, plan: Plan, sessions: int, seconds: float) -> Comparison:
        """The cut network against the original, on the target."""
        model, example = self.subject.model, self.subject.example
        smaller = cut(model, self.subject.graph, plan)
        return compare_afresh(
            lambda: prepare(model, example, parse_target(TARGET)),
            lambda: prepare(smaller, example, parse_target(TARGET)),
            Effort(sessions=sessions, samples=20, precision=0.01, min_seconds=seconds / 2, max_seconds=seconds),
            clock=time.thread_time,
        )

    def within(self, method: Method, scores: Scores, limit: float) -> tuple[Plan, int]:
        """The plan whose measured latency is just within the limit, and the rounds of the search."""
        if not method.moved:
            return self.plan(method, scores, limit), 0

        def ratio(plan: Plan) -> float:
            ratios = self.compared(plan, 1, 1.0).ratios
            if abs(statistics.median(ratios) / limit - 1) <= NEAR:  # run-to-run variance exceeds that distance
                ratios += self.compared(plan, SESSIONS - 1, 1.0).ratios
            self.listener.tell(f"{method.name}: {statistics.median(ratios):.3f}")
            return statistics.median(ratios)

        options = SearchOptions(tolerance=TOLERANCE, rounds=ROUNDS)
        plan, trail = fit_latency(lambda share: self.plan(method, scores, share), ratio, limit, options)
        return plan, len(trail)

    def accuracy(self, model: nn.Module) -> float:
        """Top-1 in percent of the exported network on the target's runtime."""
        images, labels = self.test
        session = open_session(to_onnx_fast(model, images[:BATCH]).data, parse_target(TARGET))
        name, right = session.get_inputs()[0].name, 0
        for i in range(0, len(labels), BATCH):
            logits = session.run(None, {name: images[i : i + BATCH].numpy()})[0]
            right += int((torch.from_numpy(logits).argmax(1) == labels[i : i + BATCH]).sum())
        return 100 * right / len(labels)

    def judged(self, plan: Plan) -> dict[str, Any]:
        """Costs, latency and accuracy of a plan."""
        s = self.subject
        left, latency = count(s.graph, plan.counts()), self.compared(plan, SESSIONS, 2.0)
        smaller = cut(s.model, s.graph, plan)
        refreshed = self.accuracy(refresh_norm(smaller, s.inputs, samples=CALIBRATION))
        repaired, _ = stages.heal(s, plan, smaller, Recipe(heal=REPAIR), self.context)
        return {
            "macs": left.macs / s.original.macs, "params": left.params / s.original.params, "latency": latency.ratio,
            "interval": list(latency.interval), "original_ms": 1e3 * latency.original.median_s,
            "predicted": self.predictor.ratio(plan.counts()), "refreshed": refreshed,
            "repaired": self.accuracy(repaired), "widths": dict(plan.counts()),
        }  # fmt: skip


def cells(rows: Sequence[Row]) -> list[str]:
    """One line: means over draws of calibration images, and an interval that contains all of theirs.

    >>> one = {"recipe": "l1", "limit": 0.8, "method": "MACs", "macs": 0.5, "params": 0.4, "latency": 0.79,
    ...        "interval": [0.78, 0.8], "refreshed": 90.0, "repaired": 92.0}
    >>> cells([one, {**one, "interval": [0.77, 0.79], "refreshed": 91.0}])
    ['l1', '80 %', 'MACs', '50.0 %', '40.0 %', '79.0 %', '77.0–80.0 %', '90.50', '92.00']
    """
    first, reached = rows[0], [r for r in rows if "latency" in r]
    start = [first["recipe"], f"{100 * first['limit']:g} %", first["method"]]
    if not reached:
        return [*start, "not reached", "", "", "", "", ""]

    def mean(name: str) -> float:
        return statistics.fmean(r[name] for r in reached)

    low, high = min(r["interval"][0] for r in reached), max(r["interval"][1] for r in reached)
    return [
        *start, *(f"{100 * mean(n):.1f} %" for n in ("macs", "params", "latency")),
        f"{100 * low:.1f}–{100 * high:.1f} %", f"{mean('refreshed'):.2f}", f"{mean('repaired'):.2f}",
    ]  # fmt: skip


def table(rows: Sequence[Row]) -> Grid:
    """A line for each recipe, limit and method."""
    lines = []
    for recipe in dict.fromkeys(r["recipe"] for r in rows):
        for limit in sorted({r["limit"] for r in rows}, reverse=True):
            for m in METHODS:
                same = [r for r in rows if (r["recipe"], r["limit"], r["method"]) == (recipe, limit, m.name)]
                if same:
                    lines.append(cells(same))
    return Grid(HEADS, lines, left=3)


def comparison(rows: Sequence[Row]) -> list[Part]:
    """How often the plan for latency is at least as accurate as one for MACs at the same limit, scores and draw."""

    def about(row: Row) -> tuple[Any, ...]:
        return row["recipe"], row["limit"], row["seed"]

    for_latency = {about(r): r for r in rows if r["method"] == METHODS[0].name and "latency" in r}
    sentences = []
    for m in METHODS[1:]:
        for_macs = [r for r in rows if r["method"] == m.name and m.moved and "latency" in r]
        pairs = [(for_latency[about(r)], r) for r in for_macs if about(r) in for_latency]
        if pairs:
            counts = [f"{_at_least(pairs, state)} {state}" for state in ("refreshed", "repaired")]
            sentences.append(f"{m.name}: {', '.join(counts)}")
    heading = "Cases in which the plan for latency is at least as accurate as the plan for"
    return [heading, bullets(sentences)] if sentences else []


def _at_least(pairs: Sequence[tuple[Row, Row]], state: str) -> str:
    gains = [a[state] - b[state] for a, b in pairs]
    return f"{sum(d >= 0 for d in gains)} of {len(gains)} ({min(gains):+.2f} to {max(gains):+.2f} points)"


def caption(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The conditions under which the figures hold."""
    reached = [r for r in rows if "latency" in r]
    if not reached:
        return "No limit was reached."
    images, seeds = max(r["images"] for r in reached), sorted({r["seed"] for r in reached})
    original_ms = statistics.median(r["original_ms"] for r in reached)
    return (
        f"Top-1 in percent on {images:,} test images (the original: {reached[0]['original']:.2f}), {CALIBRATION} "
        f"calibration images, seeds {', '.join(map(str, seeds))}. `{TARGET}`, the original takes {original_ms:.2f} ms. "
        f"Machine: {machine(facts, ('torch', 'onnxruntime'))}."
    )


def chosen(kind: str, names: str, known: Sequence[str]) -> list[str]:
    """Names that are separated by semicolons; empty: all known ones.

    Raises:
        UnknownName: a name is not known.
    """
    listed = [n.strip() for n in names.split(";")] if names else list(known)
    for name in listed:
        if name not in known:
            raise UnknownName(kind, name, known)
    return listed
