"""A run that was stopped anywhere is continued by the same call and ends with the same bits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import sartor
from sartor.errors import BadInput, TrainingDiverged
from sartor.run import stages
from sartor.run.kept_stages import STAGES, is_unfinished
from sartor.run.record import Recorder
from sartor.testing.faults import comparable_record, random_flips, rewritten
from sartor.train import checkpoint


def refuse(*_: Any) -> None:
    raise RuntimeError("nothing is timed in this test")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints after every step; nothing is timed."""
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    monkeypatch.setattr(stages, "deliver", refuse)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1),
        nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


def data(n: int, seed: int = 0) -> DataLoader[Any]:
    g = torch.Generator().manual_seed(seed + n)
    samples = [(torch.randn(1, 8, 8, generator=g), i % 3) for i in range(n)]
    return DataLoader(samples, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(3))


def fit(out: Path, **changes: Any) -> sartor.Fitted:
    usual: dict[str, Any] = {
        "train": data(64), "val": data(32), "test": data(16), "budget": "macs<=50%", "recipe": "taylor", "epochs": 2,
        "out": out, "seed": 1, "loss": loss,
    }  # fmt: skip
    return sartor.fit(changes.pop("model", None) or net(), **{**usual, **changes})


def loss(output: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, targets)


class Stopped(BaseException):
    """What ends a run in these tests."""


STEPS = (
    "understand", "judge the original", "score", "decide", "prove", "compare with random units",
    "judge the cut network", "repair", "judge the repair", "train", "judge the result",
)  # fmt: skip


def stop_in(monkeypatch: pytest.MonkeyPatch, step: str, at_end: bool) -> None:
    """The run ends when this step begins, or when it was recorded."""
    recorder = Recorder
    begin, add = recorder.begin, recorder.add

    def begins(self: Any, name: str, text: str = "") -> None:
        begin(self, name, text)
        if name == step and not at_end:
            raise Stopped

    def adds(self: Any, name: str, **facts: Any) -> None:
        add(self, name, **facts)
        if name == step and at_end and "failed" not in facts:
            raise Stopped

    monkeypatch.setattr(recorder, "begin", begins)
    monkeypatch.setattr(recorder, "add", adds)


def ends_alike(one: Path, other: Path) -> None:
    for name in ("plan.json", "edits.json", "model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert comparable_record(one) == comparable_record(other)
    assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "deliver", refuse)
        fit(folder)
    return folder


@pytest.mark.parametrize("at_end", [False, True], ids=["begins", "ends"])
@pytest.mark.parametrize("step", STEPS)
def test_stopped_in_any_step_it_ends_with_the_same_bits(step: str, at_end: bool, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for again in range(2):
        with pytest.MonkeyPatch.context() as patch:
            stop_in(patch, step, at_end)
            if again and at_end and step not in ("understand", "prove", "train"):
                break  # the step is kept: it does not end a second time
            with pytest.raises(Stopped):
                fit(folder)
    fitted = fit(folder)
    assert not is_unfinished(folder)
    ends_alike(folder, whole)
    if step not in ("understand", "judge the original"):
        assert any(note.startswith("CONTINUED") for note in fitted.record.notes)


def test_a_damaged_stage_is_computed_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, "judge the result", True)
        with pytest.raises(Stopped):
            fit(folder)
    for flip in random_flips(folder / STAGES, 12, seed=1):
        rewritten(flip)
    fit(folder)
    ends_alike(folder, whole)


CHANGES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "budget": (lambda: {"budget": "macs<=60%"}, "budget"),
    "seed": (lambda: {"seed": 2}, "seed"),
    "recipe": (lambda: {"recipe": "l1"}, "recipe"),
    "network": (lambda: {"model": net(1)}, "weights of the network"),
    "calibration data": (lambda: {"train": data(64, 5)}, "calibration data"),
    "validation data": (lambda: {"val": data(32, 5)}, "validation data"),
    "loss": (lambda: {"loss": lambda o, t: nn.functional.cross_entropy(o, t) * 2}, "loss"),
    "training": (lambda: {"epochs": 1}, "training"),
}


@pytest.mark.parametrize(("change", "name"), CHANGES.values(), ids=CHANGES)
def test_stages_of_another_request_are_named_and_not_used(
    change: Callable[[], dict[str, Any]], name: str, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, "judge the result", True)
        with pytest.raises(Stopped):
            fit(tmp_path / "a")
    fitted = fit(tmp_path / "a", **change())
    assert any(f"another {name}" in note for note in fitted.record.notes), fitted.record.notes
    fit(tmp_path / "b", **change())
    ends_alike(tmp_path / "a", tmp_path / "b")


def test_a_finished_run_is_refused_and_an_empty_one_leaves_nothing(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="finished run"):
        fit(whole)
    with pytest.raises(BadInput):
        fit(tmp_path / "b", seed="x")
    assert not any((tmp_path / "b").iterdir())


def test_a_training_that_diverged_for_good_leaves_the_repaired_network(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged):
        fit(tmp_path / "a", loss=lambda o, t: loss(o, t) * float("nan"), recipe="l1")
    sartor.load(tmp_path / "a", net())
    assert is_unfinished(tmp_path / "a")
    fitted = fit(tmp_path / "a", recipe="l1", loss=loss, epochs=0)
    assert fitted.met


def test_a_stage_that_cannot_be_written_is_noted(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if STAGES in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    fitted = fit(tmp_path / "a")
    assert any("could not be kept" in note and "disk is full" in note for note in fitted.record.notes)
    for name in ("plan.json", "edits.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads((tmp_path / "a" / "result.json").read_text())["status"] == "met"


@pytest.mark.parametrize("recipe", ["chex", "set"])
def test_a_training_that_prunes_is_continued_too(recipe: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "recipe": recipe,
        "epochs": 4,
        "budget": "macs<=60%" if recipe == "chex" else "weights<=50%",
    }
    ends = []
    for name, stop_at in (("whole", 0), ("a", 9)):
        count = 0

        def counted(output: Tensor, targets: Tensor) -> Tensor:
            nonlocal count
            count += 1
            if count == stop_at and torch.is_grad_enabled():  # noqa: B023
                raise Stopped
            return loss(output, targets)

        if stop_at:
            with pytest.raises(Stopped):
                fit(tmp_path / name, **more, loss=counted)
            stop_at = 0
        count = 0
        fitted = fit(tmp_path / name, **more, loss=counted)
        ends.append((tmp_path / name, fitted))
    ends_alike(ends[0][0], ends[1][0])
    assert any("CONTINUED training" in note for note in ends[1][1].record.notes), ends[1][1].record.notes
