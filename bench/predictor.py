"""How well latency read from tables predicts networks that took no part in it: the figures of docs/latency.md.

python bench/predictor.py resnet18 resnet56 timm:convnext_atto [--target T] [--plans 30] [--file TABLES] [--json FILE]
    [--write docs/latency.md]

Shares are compared: latency of a cut network over that of the original. Both are timed in turns on the processor's own
clock (`time.thread_time`, which stands still while something else runs), so the target must have one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from cifar_resnet import CifarResNet
from sartor.allocate import Cap
from sartor.allocate.knapsack import knapsack
from sartor.cli.markdown_block import MarkdownBlock
from sartor.measure import compare, environment, parse_target, prepare
from sartor.measure.tables import Store, Table, random_plans
from sartor.run.table_latency import predictor_for, uncorrected_predictor
from sartor.sources import load_model
from sartor.structure import trace
from sartor.surgery import cut, probe
from sartor.types import Effort, Plan, to_plain

EFFORT = Effort(samples=10, min_seconds=0.3, max_seconds=1.5, precision=0.02)
SEED = 77  # of the plans that are predicted; the correction learns from those of seed 0


def network(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A network without weights that matter, and its input."""
    if name == "resnet56":
        return CifarResNet(56).eval(), torch.zeros(1, 3, 32, 32)
    spec = "torchvision:resnet18" if name == "resnet18" else name
    return load_model(spec).eval(), torch.zeros(1, 3, 224, 224)


def judged(name: str, target: str, plans: int, file: Path | None) -> dict[str, Any]:
    """One row: what the table took, and how far its predictions are from what was measured."""
    model, example = network(name)
    graph = probe(model, trace(model, example))
    place = parse_target(target)

    def ratio(counts: Any) -> float:
        keep = {n: tuple(range(k)) for n, k in counts.items()}
        smaller = cut(model, graph, Plan(keep, "random", graph.fingerprint))
        with prepare(model, example, place) as a, prepare(smaller, example, place) as b:
            return compare(a, b, EFFORT, clock=time.thread_time).ratio

    store = Store(file)
    before, start = sum(r["timings"] for r in store.wheres()), time.perf_counter()
    predictor = uncorrected_predictor(model, example, Table(place, store=store))
    gathered, timings = time.perf_counter() - start, sum(r["timings"] for r in store.wheres()) - before
    predictor = predictor_for(model, graph, example, Table(place, store=store), ratio=ratio)
    planned = _planned_again(model, graph, example, place, file)
    every = random_plans(graph, plans, seed=SEED)
    true = [ratio(c) for c in every]
    said = [predictor.ratio(c) for c in every]
    bare = [predictor.features(c)[:2].sum() / predictor.features({})[:2].sum() for c in every]
    macs = [_macs(graph, c) for c in every]
    row = {
        "network": name, "target": target, "timings": timings, "gather_s": gathered, "plan_s": planned,
        "held_out_by_correction": predictor.correction.error, "plans": plans,
    }  # fmt: skip
    for what, values in (("predicted", said), ("sum", bare), ("macs", macs)):
        off = [abs(v / t - 1) for v, t in zip(values, true)]
        row[what] = {
            "median_error": statistics.median(off),
            "p90_error": float(np.quantile(off, 0.9)),
            "rank_correlation": float(spearmanr(true, values)[0]),
        }
    return row


def _planned_again(model: torch.nn.Module, graph: Any, example: torch.Tensor, place: Any, file: Path | None) -> float:
    """Seconds of a second run: the network traced, its times read, a plan for 60 % of the latency; nothing is timed."""

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a second run timed something")

    start = time.perf_counter()
    predictor = predictor_for(model, graph, example, Table(place, store=Store(file), timer=never), ratio=never)
    units = {n: g.units for n, g in graph.groups.items()}
    scores = {n: torch.rand(k, generator=torch.Generator().manual_seed(0)) for n, k in units.items()}
    knapsack(scores, [Cap(predictor.cost(), 0.6 * predictor.original, "latency")], units, ties=graph.ties)
    return time.perf_counter() - start


def _macs(graph: Any, counts: Any) -> float:
    from sartor.cost import macs

    return macs(graph, counts) / macs(graph)


def table(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Markdown, with what it was measured on."""
    names = ("torch", "onnxruntime")
    on = ", ".join(f"{n} {facts['versions'][n]}" for n in names if n in facts["versions"])
    lines = [
        f"Measured with {on} on {facts['cpu']}.",
        "",
        "| network | target | timings | seconds | a plan from them, s | held out | median error | 90 % below | "
        "rank correlation | sum without correction | MACs instead |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        p, s, m = row["predicted"], row["sum"], row["macs"]
        lines.append(
            f"| {row['network']} | {row['target']} | {row['timings']} | {row['gather_s']:.0f} | "
            f"{row['plan_s']:.1f} | {row['plans']} | "
            f"{100 * p['median_error']:.1f} % | {100 * p['p90_error']:.1f} % | {p['rank_correlation']:.3f} | "
            f"{100 * s['median_error']:.1f} % | {100 * m['median_error']:.1f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print a Markdown table, or put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--target", default="onnxruntime-cpu:threads=1")
    parser.add_argument("--plans", type=int, default=30)
    parser.add_argument("--file", type=Path, help="the tables; default: the usual place")
    parser.add_argument("--json", type=Path, help="rows; those it holds are not measured again")
    parser.add_argument("--write", type=Path, help="page with <!-- predictor --> and <!-- /predictor -->")
    asked = parser.parse_args()
    page = MarkdownBlock(asked.write, "predictor") if asked.write else None
    torch.set_num_threads(1)
    kept = json.loads(asked.json.read_text())["rows"] if asked.json and asked.json.is_file() else []
    rows = {(r["network"], r["target"], r["plans"]): r for r in kept}
    for name in asked.networks:
        key = (name, asked.target, asked.plans)
        if key not in rows:
            rows[key] = judged(name, asked.target, asked.plans, asked.file)
        facts = {"environment": environment(), "rows": list(rows.values())}
        if asked.json:
            asked.json.write_text(json.dumps(to_plain(facts), indent=1))
    found = table([rows[(name, asked.target, asked.plans)] for name in asked.networks], environment())
    print(found)
    if page:
        page.fill(found)


if __name__ == "__main__":
    main()
