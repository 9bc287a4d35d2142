"""The benchmark networks are the published ones."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

FILE = Path(__file__).parents[1] / "bench" / "cifar_resnet.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cifar_resnet", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("resnet20", 269_722, 40_551_040),
        ("resnet32", 464_154, None),
        ("resnet44", 658_586, None),
        ("resnet56", 853_018, 125_485_696),
    ],
)
def test_counts_are_the_published_ones(bench: ModuleType, name: str, params: int, macs: int | None) -> None:
    model = getattr(bench, name)().eval()
    assert sum(p.numel() for p in model.parameters()) == params
    if macs is not None:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.randn(1, 3, 32, 32))
        assert counter.get_total_flops() == 2 * macs


def test_the_shortcut_carries_every_second_position_between_zeros(bench: ModuleType) -> None:
    x = torch.randn(2, 4, 6, 6)
    y = bench.PadShortcut(1, 2)(x)
    assert y.shape == (2, 7, 3, 3) and not y[:, :1].any() and not y[:, 5:].any()
    assert torch.equal(y[:, 1:5], x[:, :, ::2, ::2])


@pytest.mark.parametrize("depth", [0, 2, 18, 21])
def test_a_wrong_depth_is_refused(bench: ModuleType, depth: int) -> None:
    with pytest.raises(ValueError, match="6n \\+ 2"):
        bench.CifarResNet(depth)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SARTOR_DATA"), reason="SARTOR_DATA names the data folder of bench/README.md")
@pytest.mark.parametrize(("depth", "right"), [(20, 915), (32, 928), (44, 933), (56, 926)])
def test_published_weights_score_on_the_first_thousand_test_images(bench: ModuleType, depth: int, right: int) -> None:
    """Right answers among 1,000; two may tip over with another order of additions."""
    from sartor.sources import load_data

    batches = []
    for batch in load_data(f"cifar10:{bench.data_folder()}", batch=500).test:  # type: ignore[union-attr]
        batches.append(batch)
        if len(batches) == 2:
            break
    model = bench.trained(depth)
    with torch.no_grad():
        hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    assert abs(hits - right) <= 2
