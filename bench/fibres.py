"""Inner units chosen for all heads or groups at once, or for each one, at the same counts: accuracy and distance.

    python bench/fibres.py

Two networks on scikit-learn's digits, trained first where their weights are missing: the ViT of `oneshot.toml`, and a
small ResNeXt (Xie et al. 2017, arXiv:1611.05431). Only groups that may be fibred are cut: the width of every head, the
channels inside every group of a grouped convolution. "one" keeps the same units in each, "each" the best of each by the
same criterion; counts, shapes and MACs are equal. Accuracy on the test part, cut only and with every layer refitted to
the original; in brackets the squared distance of the outputs from the original's, relative, on inputs held out.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sartor.importance import score
from sartor.repair import Original, refit_consumers_
from sartor.run.per_head_plans import per_head_plan
from sartor.run.subject import Subject, understand
from sartor.seed import seeded
from sartor.sources import load_data, load_model
from sartor.surgery import cut, prove
from sartor.train import TrainingSetup, accuracy, fine_tune
from sartor.types import SILENT, Calibration, Data, FineTune, Plan

HERE = Path(__file__).parent


class Block(nn.Module):
    """Bottleneck whose middle convolution has groups, with a shortcut."""

    def __init__(self, width: int, inner: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def resnext(classes: int = 10) -> nn.Sequential:
    """[n, 1, 8, 8] -> [n, classes]."""
    blocks = [Block(32, 64, 4) for _ in range(4)]
    stem = [nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


def networks() -> list[dict[str, Any]]:
    """Name, model, weights and training of each."""
    known = tomllib.loads((HERE / "oneshot.toml").read_text())["network"]
    vit = next(n for n in known if n["name"] == "ViT, digits")
    return [
        {**vit, "make": lambda: load_model(vit["model"], None, vit["options"])},
        {"name": "ResNeXt, digits", "make": resnext, "weights": "build/resnext-digits.safetensors",
         "train": {"epochs": 20, "lr": 0.05, "distill": 0.0}},
    ]  # fmt: skip


def trained(network: dict[str, Any], data: Any) -> nn.Module:
    """With its weights, made first where they are missing."""
    path = HERE.parent / network["weights"]
    with seeded(0), torch.random.fork_rng(devices=[]):
        model: nn.Module = network["make"]()
        if path.is_file():
            model.load_state_dict(load_file(path))
        else:
            fine_tune(model, Data(train=data.train), TrainingSetup(FineTune(**network["train"])))
            path.parent.mkdir(exist_ok=True)
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return model.eval()


def row(subject: Subject, test: list[Any], criterion: str, share: float) -> list[str]:
    """One line: both ways, cut only and refitted."""
    graph, model, samples = subject.graph, subject.model, list(subject.samples)
    names = [n for n, over in graph.fibres.items() if over.size > 1 and graph.groups[n].units > 3]
    calibration = Calibration(samples, samples=500, seed=0)
    found = score(graph.only(names), model, criterion, calibration=calibration, listener=SILENT)
    keep = {n: max(1, round(share * graph.groups[n].units)) for n in names}
    one = Plan(
        {n: tuple(sorted(s.argsort(descending=True)[: keep[n]].tolist())) for n, s in found.items()},
        criterion, graph.fingerprint,
    )  # fmt: skip
    cells = []
    for plan in (one, per_head_plan(subject, one, criterion, calibration=calibration, listener=SILENT)):
        smaller = cut(model, graph, plan)
        prove(model, graph, plan, subject.proof_inputs(), smaller=smaller)
        cells.append(f"{accuracy(smaller, test):.1f} ({subject.gap(smaller):.3f})")
        refit_consumers_(smaller, Original(model, graph, plan), subject.inputs)
        cells.append(f"{accuracy(smaller, test):.1f} ({subject.gap(smaller):.3f})")
    return [cells[0], cells[2], cells[1], cells[3]]


def main() -> None:
    """Print a table a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--criteria", default="l2,taylor,wanda,flap")
    parser.add_argument("--shares", default="75,50,25")
    asked = parser.parse_args()
    data = load_data("digits:", batch=64, seed=0)
    test = list(data.test or ())
    for network in networks():
        model = trained(network, data)
        subject = understand(model, data.calibration, example=data.example, calibration=500)
        print(f"\n{network['name']}: {accuracy(model, test):.1f} % of {sum(len(y) for _, y in test)} images\n")
        print("| criterion | inner units | cut: one | cut: each | refitted: one | refitted: each |")
        print("|---|---|---|---|---|---|")
        for criterion in asked.criteria.split(","):
            for share in map(float, asked.shares.split(",")):
                cells = row(subject, test, criterion, share / 100)
                print(f"| {criterion} | {share:g} % | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
