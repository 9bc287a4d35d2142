"""What a plan made for latency keeps that one made for MACs loses, at equal measured latency: ResNet-56, CIFAR-10.

    python bench/equal_latency.py --keep rows.jsonl --write docs/latency.md

Both sides get the same scores, the same repair, and the same limits on measured latency; they differ in the cost under
which widths are chosen. A plan for MACs has its limit moved until the network, measured, is just within the limit on
latency, as the one for latency has. Nothing is trained. Accuracy is that of the exported network on ONNX Runtime, on
the whole test set; latency is measured anew when all is decided, in sessions of its own, in turns with the original, on
the processor's own clock (`time.thread_time`, which stands still while something else runs: one thread).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifar_resnet import data_folder, trained
from sartor.allocate import ALLOCATORS, Cap, SearchOptions, fit_latency
from sartor.cost import count, counted_cost
from sartor.errors import BudgetNotMet
from sartor.measure import compare_afresh, environment, parse_target, prepare
from sartor.measure.onnx_graph import to_onnx_fast
from sartor.measure.ort_backend import open_session
from sartor.measure.tables import Predictor
from sartor.recipes import find_recipe
from sartor.repair import Original, refresh_norm
from sartor.repair.repair_step import heal
from sartor.run.subject import Subject, understand
from sartor.run.table_latency import on_timed_widths, predictor_for
from sartor.sources import load_data
from sartor.surgery import cut
from sartor.types import (
    Calibration,
    Comparison,
    Effort,
    FoldMeans,
    Listener,
    Plan,
    RefreshNorms,
    Ridge,
    Scaling,
    Scores,
)

TARGET = "onnxruntime-cpu:threads=1"
TOLERANCE = 0.04  # how far below a limit a network may be, as a share of it
ROUNDS = 7
SESSIONS = 3
NEAR = 0.1  # of a limit: within it, several sessions are measured
FLOOR = 0.1  # least share of a group
CALIBRATION = 250  # images for scores, statistics and repair
BATCH = 10  # of the test images
# how scores are read: sums over units have to compare across groups, so none is divided by MACs
RECIPES = {
    "l1": replace(find_recipe("l1"), floor=FLOOR),
    "reconstruction": replace(find_recipe("reconstruction"), normalise="none", floor=FLOOR),
}
HEADS = (
    "scores", "limit", "widths chosen for", "MACs left", "parameters left", "latency", "95 %", "norms refreshed",
    "repaired",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """How widths are chosen."""

    name: str
    allocation: str
    metric: str  # what is limited
    multiple: int = 1  # of units
    moved: bool = True  # the limit is moved until the measured latency is within it; False: it is taken as it is


METHODS = (
    Method("latency, by table", "knapsack", "latency"),
    Method("MACs", "knapsack", "macs"),
    Method("MACs, multiples of 8", "knapsack", "macs", 8),
    Method("MACs, greedy", "global", "macs"),
    Method("MACs, greedy, multiples of 8", "global", "macs", 8),
    Method("MACs at the limit, greedy", "global", "macs", moved=False),
)


class Bench:
    """One network with one draw of calibration images."""

    def __init__(self, seed: int, test: int):
        data = load_data(f"cifar10:{data_folder()}?calibration=plain", batch=50, seed=seed)
        self.seed, self.target = seed, parse_target(TARGET)
        self.subject: Subject = understand(trained(56), data.calibration, example=data.example, calibration=CALIBRATION)
        self.predictor: Predictor = predictor_for(
            self.subject.model, self.subject.graph, self.subject.example, self.target, listener=LISTENER
        )
        images, labels = zip(*data.test or ())
        self.images, self.labels = torch.cat(images)[:test], torch.cat(labels)[:test]
        self.units = {n: g.units for n, g in self.subject.graph.groups.items()}

    def scores(self, recipe: str) -> Scores:
        """As the recipe says, from the calibration images."""
        from sartor.importance import score

        r = RECIPES[recipe]
        s, scaling = self.subject, Scaling(reduce=r.reduce, normalise=r.normalise)
        calibration = Calibration(list(s.samples), samples=CALIBRATION, seed=self.seed)
        return score(
            s.graph, s.model, r.criterion, calibration=calibration, scaling=scaling, listener=Listener(note=say)
        )

    def plan(self, method: Method, scores: Scores, share: float) -> Plan:
        """Widths under a share of the original's MACs, or of its predicted latency."""
        graph = self.subject.graph

        def plan() -> Plan:
            if method.metric == "latency":
                cap = Cap(self.predictor.cost(), share * self.predictor.original, "latency")
            else:
                cap = Cap(counted_cost(graph, "macs"), share * self.subject.original.macs, "macs")
            keep = ALLOCATORS[method.allocation].value(
                scores, [cap], self.units, ties=graph.ties, floor=FLOOR, round_to=method.multiple
            )
            return Plan(keep, method.name, graph.fingerprint)

        return on_timed_widths(plan, [self.predictor], LISTENER) if method.metric == "latency" else plan()

    def compared(self, plan: Plan, sessions: int, seconds: float) -> Comparison:
        """The cut network against the original, on the target."""
        model, example = self.subject.model, self.subject.example
        smaller = cut(model, self.subject.graph, plan)
        return compare_afresh(
            lambda: prepare(model, example, self.target), lambda: prepare(smaller, example, self.target),
            Effort(sessions=sessions, samples=20, precision=0.01, min_seconds=seconds / 2, max_seconds=seconds),
            clock=time.thread_time,
        )  # fmt: skip

    def within(self, method: Method, scores: Scores, limit: float) -> tuple[Plan, int]:
        """The plan whose measured latency is just within the limit, and the rounds it took."""
        if not method.moved:
            return self.plan(method, scores, limit), 0

        def ratio(plan: Plan) -> float:
            found = self.compared(plan, 1, 1.0).ratios
            if abs(statistics.median(found) / limit - 1) <= NEAR:  # sessions differ by more than that
                found += self.compared(plan, SESSIONS - 1, 1.0).ratios
            say(f"  {method.name}: {statistics.median(found):.3f}")
            return statistics.median(found)

        plan, trail = fit_latency(
            lambda share: self.plan(method, scores, share),
            ratio,
            limit,
            SearchOptions(tolerance=TOLERANCE, rounds=ROUNDS),
        )
        return plan, len(trail)

    def accuracy(self, model: nn.Module) -> float:
        """Top-1 in percent of the exported network on the target's runtime."""
        session = open_session(to_onnx_fast(model, self.images[:BATCH]).data, self.target)
        name, right = session.get_inputs()[0].name, 0
        for i in range(0, len(self.labels), BATCH):
            logits = session.run(None, {name: self.images[i : i + BATCH].numpy()})[0]
            right += int((torch.from_numpy(logits).argmax(1) == self.labels[i : i + BATCH]).sum())
        return 100 * right / len(self.labels)

    def judged(self, plan: Plan) -> dict[str, Any]:
        """Costs, latency and accuracy of a plan."""
        s = self.subject
        left, found = count(s.graph, plan.counts()), self.compared(plan, SESSIONS, 2.0)
        smaller = cut(s.model, s.graph, plan)
        refreshed = self.accuracy(refresh_norm(smaller, s.inputs, samples=CALIBRATION))
        calibration = Calibration(s.samples, samples=find_recipe("reconstruction").calibration, seed=self.seed)
        steps = (Ridge(), FoldMeans(), RefreshNorms())
        repaired, _ = heal(smaller, Original(s.model, s.graph, plan), steps, calibration, Listener(note=say))
        return {
            "macs": left.macs / s.original.macs, "params": left.params / s.original.params, "latency": found.ratio,
            "interval": list(found.interval), "original_ms": 1e3 * found.original.median_s,
            "predicted": self.predictor.ratio(plan.counts()), "refreshed": refreshed,
            "repaired": self.accuracy(repaired), "widths": dict(plan.counts()),
        }  # fmt: skip


def row_of(bench: Bench, recipe: str, scores: Scores, limit: float, method: Method) -> dict[str, Any]:
    """One cell of the table with one draw of images; a limit out of reach says why."""
    start = time.perf_counter()
    row: dict[str, Any] = {"recipe": recipe, "limit": limit, "method": method.name, "seed": bench.seed}
    try:
        plan, rounds = bench.within(method, scores, limit)
    except BudgetNotMet as e:
        return {**row, "why": str(e)}
    row |= {"rounds": rounds, **bench.judged(plan), "images": len(bench.labels)}
    return {**row, "seconds": time.perf_counter() - start}


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


LISTENER = Listener(lambda step, done, text: say(text))


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row is about."""
    return row["recipe"], row["limit"], row["method"], row["seed"]


def cells(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line: the mean over draws of calibration images; the interval is the widest of them.

    >>> one = {"recipe": "l1", "limit": 0.8, "method": "MACs", "macs": 0.5, "params": 0.4, "latency": 0.79,
    ...        "interval": [0.78, 0.8], "refreshed": 90.0, "repaired": 92.0}
    >>> cells([one, {**one, "interval": [0.77, 0.79], "refreshed": 91.0}])
    ['l1', '80 %', 'MACs', '50.0 %', '40.0 %', '79.0 %', '77.0–80.0 %', '90.50', '92.00']
    """
    first, done = rows[0], [r for r in rows if "latency" in r]
    start = [first["recipe"], f"{100 * first['limit']:g} %", first["method"]]
    if not done:
        return [*start, "not reached", "", "", "", "", ""]

    def mean(name: str) -> float:
        return statistics.fmean(r[name] for r in done)

    low, high = min(r["interval"][0] for r in done), max(r["interval"][1] for r in done)
    return [
        *start, *(f"{100 * mean(n):.1f} %" for n in ("macs", "params", "latency")),
        f"{100 * low:.1f}–{100 * high:.1f} %", f"{mean('refreshed'):.2f}", f"{mean('repaired'):.2f}",
    ]  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line a criterion, limit and method."""
    together: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for recipe in dict.fromkeys(r["recipe"] for r in rows):
        for limit in sorted({r["limit"] for r in rows}, reverse=True):
            for m in METHODS:
                mine = [r for r in rows if (r["recipe"], r["limit"], r["method"]) == (recipe, limit, m.name)]
                if mine:
                    together[recipe, limit, m.name] = mine
    lines = [list(HEADS), ["---"] * 3 + ["---:"] * (len(HEADS) - 3), *map(cells, together.values())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """How often the plan for latency keeps at least as much as one for MACs at the same limit, scores and draw."""
    ours = {key(r): r for r in rows if r["method"] == METHODS[0].name and "latency" in r}
    lines = []
    for m in METHODS[1:]:
        theirs = [r for r in rows if r["method"] == m.name and m.moved and "latency" in r]
        pairs = [(ours[k], r) for r in theirs if (k := key({**r, "method": METHODS[0].name})) in ours]
        if pairs:
            said = [f"{_kept(pairs, state)} {state}" for state in ("refreshed", "repaired")]
            lines.append(f"- {m.name}: {', '.join(said)}")
    return "\n".join(["The plan for latency keeps at least as much as one for", "", *lines])


def _kept(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], state: str) -> str:
    more = [a[state] - b[state] for a, b in pairs]
    return f"{sum(d >= 0 for d in more)} of {len(more)} ({min(more):+.2f} to {max(more):+.2f} points)"


def caption(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Where the figures are true."""
    known = [f"{p} {facts['versions'][p]}" for p in ("torch", "onnxruntime") if facts["versions"].get(p)]
    done = [r for r in rows if "latency" in r]
    images, seeds = max(r["images"] for r in done), sorted({r["seed"] for r in done})
    whole = statistics.median(r["original_ms"] for r in done)
    return (
        f"Top-1 in percent on {images:,} test images (the original: {done[0]['original']:.2f}), {CALIBRATION} "
        f"calibration images, seeds {', '.join(map(str, seeds))}. `{TARGET}`, the original takes {whole:.2f} ms. "
        f"Machine: {', '.join([facts['cpu'], *known])}."
    )


def chosen(names: str, known: Sequence[str], what: str, parser: argparse.ArgumentParser) -> list[str]:
    """Some of the known ones, by name, semicolons between; nothing said: all."""
    said = [n.strip() for n in names.split(";")] if names else list(known)
    unknown = [n for n in said if n not in known]
    if unknown:
        parser.error(f"--{what}: expected some of {'; '.join(known)}; got {unknown[0]!r}")
    return said


def main() -> None:
    """Measure, print, and put the table where it was asked for."""
    from sartor.cli.markdown_block import MarkdownBlock

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="page with <!-- equal --> and <!-- /equal -->")
    parser.add_argument("--keep", type=Path, help="JSON lines: rows that are there are not made again")
    parser.add_argument("--limits", default="80,60,40", help="percent of the original's latency")
    parser.add_argument("--recipes", default="", help=f"some of '{'; '.join(RECIPES)}'")
    parser.add_argument("--methods", default="", help=f"some of '{'; '.join(m.name for m in METHODS)}'")
    parser.add_argument("--seeds", default="0", help="draws of calibration images")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    page = None if asked.write is None else MarkdownBlock(asked.write, "equal")
    recipes = chosen(asked.recipes, list(RECIPES), "recipes", parser)
    methods = chosen(asked.methods, [m.name for m in METHODS], "methods", parser)
    limits = [float(x) / 100 for x in asked.limits.split(",")]
    rows: list[dict[str, Any]] = []
    if asked.keep is not None and asked.keep.is_file():
        rows = [json.loads(line) for line in asked.keep.read_text(encoding="utf-8").splitlines()]
    for seed in map(int, asked.seeds.split(",")):
        wanted = [(r, x, m) for r in recipes for x in limits for m in METHODS if m.name in methods]
        missing = [(r, x, m) for r, x, m in wanted if (r, x, m.name, seed) not in set(map(key, rows))]
        if not missing:
            continue
        bench = Bench(seed, asked.test)
        whole = bench.accuracy(bench.subject.model)
        say(f"seed {seed}: the original has {whole:.2f} %")
        memory: dict[str, Scores] = {}
        for recipe, limit, method in missing:
            if recipe not in memory:
                memory[recipe] = bench.scores(recipe)
            rows.append({**row_of(bench, recipe, memory[recipe], limit, method), "original": whole})
            say(" | ".join(cells(rows[-1:])))
            if asked.keep is not None:
                with asked.keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    body = f"{caption(environment(), rows)}\n\n{table(rows)}\n\n{verdict(rows)}"
    print(body)
    if page is not None:
        page.fill(body)


if __name__ == "__main__":
    main()
