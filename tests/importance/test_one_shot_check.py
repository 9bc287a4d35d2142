"""On a trained network, what a criterion keeps is worth more than chance, and what it gives up less.

ResNet-56 on CIFAR-10, 40 % of the channels inside every block cut, nothing repaired or trained, 1,000 test images. The
margins asserted leave room for what differs between machines.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sartor.importance import scores
from sartor.sources import load_data
from sartor.structure import trace
from sartor.surgery import cut
from sartor.train import accuracy
from sartor.train.batch import first_samples
from sartor.types import Calibration, Plan, Scaling

FILE = Path(__file__).parents[2] / "bench" / "cifar_resnet.py"
CRITERIA = ("l1", "activation", "chip")


@pytest.fixture(scope="module")
def check() -> SimpleNamespace:
    """The network, its inner groups, scores by all criteria, and test images."""
    if "SARTOR_DATA" not in os.environ:
        pytest.skip("SARTOR_DATA names no data folder")
    spec = importlib.util.spec_from_file_location("cifar_resnet", FILE)
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    model = bench.trained(56)
    data = load_data(f"cifar10:{bench.data_folder()}?calibration=plain", batch=128, seed=0)
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    inner = [n for n in graph.groups if n not in graph.streams()]
    assert len(inner) == 27
    batches = list(first_samples(data.calibration, 256))
    found: dict[str, Any] = scores(
        graph.only(inner), model, list(CRITERIA), calibration=Calibration(batches), scaling=Scaling(normalise="none")
    )
    return SimpleNamespace(
        model=model, graph=graph, inner=inner, scores=found, test=list(first_samples(data.test, 1000))
    )


def kept_by(check: SimpleNamespace, units: dict[str, Tensor]) -> float:
    """Accuracy with the best 60 % of every group."""
    keep = {n: tuple(sorted(s.topk(round(0.6 * len(s))).indices.tolist())) for n, s in units.items()}
    return accuracy(cut(check.model, check.graph, Plan(keep, "check", check.graph.fingerprint)), check.test)


@pytest.fixture(scope="module")
def chance(check: SimpleNamespace) -> float:
    """Mean over three draws."""
    drawn = []
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        drawn.append(kept_by(check, {n: torch.rand(check.graph.groups[n].units, generator=g) for n in check.inner}))
    return sum(drawn) / len(drawn)


@pytest.mark.slow
@pytest.mark.parametrize("name", CRITERIA)
def test_better_than_chance_and_far_better_than_the_reverse(check: SimpleNamespace, chance: float, name: str) -> None:
    forward = kept_by(check, check.scores[name])
    reverse = kept_by(check, {n: -s for n, s in check.scores[name].items()})
    print(f"{name} {forward:.1f} %, chance {chance:.1f} %, reversed {reverse:.1f} %")
    assert forward >= chance + 10
    assert forward >= reverse + 30
