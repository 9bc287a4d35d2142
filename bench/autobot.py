"""Gates learned on a frozen CIFAR ResNet: accuracy before any fine-tuning, against the number of batches.

    SARTOR_DATA=... python bench/autobot.py --model resnet56 --keep 0.44 --batches 200

Reference: AutoBot (Castells and Yeom 2023, arXiv:2111.09635), whose code reports 85.6 % for ResNet-56 at 44 % of the
MACs after 200 batches of 64, and over the number of batches 33 (5), 66 (10), 76 (30), 82 (100), 84.5 (200). There
every branch output has gates of its own and the stream keeps its width. Here branches that are added share the
channels of the stream: `--groups inner` leaves the streams whole, `--groups all` puts gates on them too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cifar_resnet import CifarResNet, trained
from sartor.allocate import ALLOCATORS, Cap
from sartor.cost import macs, params
from sartor.learn import Gated, SoftBudget, learn_gates, sensitivity_scores
from sartor.seed import seeded
from sartor.sources import load_data
from sartor.structure import Graph, trace
from sartor.structure.example import first_tensor
from sartor.surgery import cut, probe
from sartor.surgery.probe import without_groups
from sartor.train.evaluate import accuracy
from sartor.types import Calibration, Gates, Listener, Plan, Scaling

METHODS = ("gates", "sensitivity", "l1")


def understood(model: CifarResNet, groups: str) -> Graph:
    """The graph with all groups that can be cut, or with those inside the blocks only."""
    example = torch.empty(1, 3, 32, 32)
    graph = probe(model, trace(model, example))
    if groups == "all":
        return graph
    return without_groups(graph, {n: "a stream" for n in graph.groups if not n.endswith("conv1") or n == "conv1"})


def batches_of(loader: Iterable[Any], samples: int) -> list[Any]:
    """(images, labels) of the first samples of a loader, a batch at a time."""
    taken, seen = [], 0
    for images, labels in loader:
        taken.append((images, labels))
        seen += len(labels)
        if seen >= samples:
            break
    return taken


def scored(
    how: str, graph: Graph, model: CifarResNet, batches: list[Any], keep: float, options: Gates, seed: int
) -> Any:
    """Scores by one of METHODS."""
    if how == "gates":
        listener = Listener(lambda step, done, text: print(text))
        calibration = Calibration(batches, seed=seed)
        return learn_gates(graph, model, calibration, SoftBudget(keep), options=options, listener=listener)
    from sartor.importance import score

    plain = score(graph, model, "l1", scaling=Scaling(reduce="sum", normalise="mean"))
    if how == "l1":
        return plain
    return sensitivity_scores(graph, model, plain, [x for x, _ in batches])


def pruned(graph: Graph, scores: Any, keep: float) -> Plan:
    """The plan at one threshold under the budget; at least one unit of every group stays."""
    whole = macs(graph)
    units = {n: graph.groups[n].units for n in scores}
    cap = Cap(lambda counts: macs(graph, counts), keep * whole, "macs")
    kept = ALLOCATORS["global"].value(scores, [cap], units, ties=graph.ties, floor=0.0, round_to=1)
    return Plan(kept, "autobot", graph.fingerprint)


def pseudo_accuracy(gated: Gated, plan: Plan, test: Iterable[Any]) -> float:
    """Accuracy with gates of 0 and 1 instead of a cut."""
    gates = {}
    for n, kept in plan.keep.items():
        gates[n] = torch.zeros(gated.units[n])
        gates[n][list(kept)] = 1.0
    right = total = 0
    with torch.no_grad():
        for images, labels in test:
            right += int((first_tensor(gated(images, gates)).argmax(1) == labels).sum())
            total += len(labels)
    return 100.0 * right / total


def main() -> None:
    """One run, as a line and as JSON."""
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--data", default=os.environ.get("SARTOR_DATA"), help="folder of bench/README.md")
    ask.add_argument("--model", default="resnet56", help="resnet20, resnet32, resnet44 or resnet56")
    ask.add_argument("--keep", type=float, default=0.44, help="share of the MACs")
    ask.add_argument("--batches", type=int, nargs="+", default=[200], help="steps; several make several runs")
    ask.add_argument("--batch", type=int, default=64)
    ask.add_argument("--method", choices=METHODS, default="gates")
    ask.add_argument("--task", choices=("labels", "distill", "gap"), default="labels")
    ask.add_argument("--groups", choices=("inner", "all"), default="inner")
    ask.add_argument("--lr", type=float, default=Gates().lr)
    ask.add_argument("--beta", type=float, default=Gates().beta)
    ask.add_argument("--gamma", type=float, default=Gates().gamma)
    ask.add_argument("--test", type=int, default=10_000, help="test images")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--json", type=Path, help="write the rows here")
    asked = ask.parse_args()
    if not asked.data or not Path(asked.data).is_dir():
        sys.exit(f"--data: expected the folder described in bench/README.md; got {asked.data!r}")
    os.environ["SARTOR_DATA"] = asked.data
    model = trained(int(asked.model.removeprefix("resnet")))
    with seeded(asked.seed):
        data = load_data(f"cifar10:{asked.data}?calibration=plain", batch=asked.batch, seed=asked.seed)
        batches = batches_of(data.calibration or (), max(asked.batches) * asked.batch)
    test = batches_of(load_data(f"cifar10:{asked.data}", batch=500).test or (), asked.test)
    graph = understood(model, asked.groups)
    whole = macs(graph)
    rows = []
    for steps in asked.batches:
        options = Gates(
            steps=steps, batch=asked.batch, lr=asked.lr, beta=asked.beta, gamma=asked.gamma, task=asked.task
        )
        began = time.perf_counter()
        scores = scored(asked.method, graph, model, batches[:steps], asked.keep, options, asked.seed)
        plan = pruned(graph, scores, asked.keep)
        seconds = time.perf_counter() - began
        smaller = cut(model, graph, plan)
        left = macs(graph, plan.counts())
        row = {
            "model": asked.model, "method": asked.method, "task": asked.task, "groups": asked.groups, "batches": steps,
            "asked": asked.keep, "macs": left, "macs_thop": macs(graph, plan.counts(), convention="thop"),
            "share": left / whole, "off_target": left / whole / asked.keep - 1, "params": params(graph, plan.counts()),
            "accuracy": accuracy(smaller, test), "pseudo": pseudo_accuracy(Gated(graph, model), plan, test),
            "seconds": seconds, "kept": plan.counts(),
        }  # fmt: skip
        rows.append(row)
        print(
            f"{row['model']} {row['method']} {steps} batches: {row['accuracy']:.2f} % (gates {row['pseudo']:.2f} %), "
            f"{100 * row['share']:.3f} % of the MACs ({100 * row['off_target']:+.3f} % of the target), {seconds:.0f} s",
            flush=True,
        )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
