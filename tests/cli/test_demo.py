"""The demo: its network, its folder, and (slow) the whole of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.records import small_record

import sartor
from sartor.cli import demo
from sartor.cli.demo_net import DemoNet, net
from sartor.run.record import JudgedQuality
from sartor.structure import trace


def test_the_network_of_the_demo_can_be_cut_everywhere_inside() -> None:
    graph = trace(net(), torch.zeros(1, 1, 8, 8))
    assert sorted(g.units for g in graph.groups.values()) == [64, 64, 64, 128, 128, 128]
    assert all(g.mixes is None for g in graph.groups.values())


def test_every_width_is_in_steps_the_runtime_likes() -> None:
    assert all(g.units % demo.ROUND_TO == 0 for g in trace(net(), torch.zeros(1, 1, 8, 8)).groups.values())


def test_the_demo_refuses_a_folder_with_something_in_it(say, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    said = say("demo", "--out", tmp_path)
    assert said.code == 2 and "not empty" in said.err
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


class _Fitted:
    def __init__(self, model: DemoNet):
        self.model = model
        self.record = small_record(quality=JudgedQuality(original=1.0, final=2.0))

    def export(self, path: Path) -> None:
        path.write_text("x")


def test_the_demo_trains_and_asks_for_what_it_says(say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    weights: list[torch.Tensor] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)

    def fit(model: DemoNet, train: Any, val: Any, **arguments: Any) -> _Fitted:
        weights.append(model.fc.weight.detach().clone())
        asked.append(arguments)
        return _Fitted(model)

    original = demo.perform
    monkeypatch.setattr(sartor, "fit", fit)
    monkeypatch.setattr("sartor.cli.demo_net.net", lambda: DemoNet(4, 1))
    monkeypatch.setattr(demo, "perform", lambda *a: original(*a, epochs=1, recovery=1))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        said = say("demo", "--out", tmp_path / name, "--seed", seed, "--quiet", "--json")
        assert said.code == 0, said.err
        assert said.json["files"]["report"] == "report.html"
        assert (tmp_path / name / "report.html").is_file()
    assert asked[0]["budget"] == "latency<=60% @ onnxruntime-cpu, macs<=50%"
    assert asked[0]["recipe"].score.criterion == "taylor" and asked[0]["recipe"].training.epochs == 1
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    restored = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert restored == 2
    assert "report.html" in say("report", tmp_path / "a").out


@pytest.mark.slow
def test_the_whole_demo(say, tmp_path: Path) -> None:
    said = say("demo", "--out", tmp_path / "demo", "--json")
    assert said.code == 0, said.err
    result = said.json
    assert (
        result["proof"]["passed"] and result["counted"]["macs"]["fitted"] <= 0.5 * result["counted"]["macs"]["original"]
    )
    assert result["latency"][0]["ratio"] <= 0.612
    assert result["quality"]["final"] >= result["quality"]["original"] - 2
    assert json.loads((tmp_path / "demo" / "result.json").read_text())["status"] == "met"
    sartor.load(tmp_path / "demo", net)
