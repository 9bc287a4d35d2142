"""The file that is delivered is the file that was timed, and nothing that was computed is lost."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

import sartor
from sartor.errors import BadInput, SartorError, TrainingDiverged
from sartor.export.delivery import Delivery, state_digest
from sartor.measure import prepare
from sartor.run import run_steps, stages
from sartor.seed import seeded
from sartor.types import Comparison, Effort, FineTune, Latency, Recipe, Target

X = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
QUICK = Effort(sessions=1, samples=6, min_seconds=0.0, max_seconds=0.2)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).relu())


class NoOnnx(Net):
    """Its singular values have no ONNX operator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.linalg.svdvals(x[:, :4, None] * x[:, None, :4]).sum(-1, keepdim=True)
        return self.b((self.a(x) * scale).relu())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_steps, "TO_HOLD", QUICK)
    monkeypatch.setattr(run_steps, "TO_KNOW", QUICK)
    monkeypatch.setattr("sartor.run.stopwatch._ROUND_S", 0.2)
    monkeypatch.setattr("sartor.run.stopwatch._CONFIRM_S", 0.2)


def net(kind: type[Net] = Net) -> Net:
    with seeded(0):
        return kind().eval()


def batches(n: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 16, generator=g), torch.randint(4, (8,), generator=g)) for _ in range(n)]


def test_the_exported_and_the_saved_file_have_the_bytes_that_were_timed(quick, tmp_path: Path) -> None:
    fitted = sartor.fit(net(), budget="macs<=60%", recipe="l2", example=X, out=tmp_path / "run")
    (row,) = fitted.record.latency
    fitted.export(tmp_path / "copy.onnx")
    fitted.save(tmp_path / "saved")
    assert row.file == "model.onnx" and fitted.record.files["onnx"] == "model.onnx"
    for path in (tmp_path / "run" / "model.onnx", tmp_path / "copy.onnx", tmp_path / "saved" / "model.onnx"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row.sha256


def test_a_network_that_was_changed_since_is_exported_anew(quick, tmp_path: Path) -> None:
    fitted = sartor.fit(net(), budget="macs<=60%", recipe="l2", example=X)
    before = state_digest(fitted.model)
    with torch.no_grad():
        fitted.model.b.bias.add_(1)
    assert state_digest(fitted.model) != before
    fitted.export(tmp_path / "new.onnx")
    fitted.save(tmp_path / "saved")
    assert hashlib.sha256((tmp_path / "new.onnx").read_bytes()).hexdigest() != fitted.record.latency[0].sha256
    assert not (tmp_path / "saved" / "model.onnx").exists()


def test_each_kind_of_target_gets_its_file(tmp_path: Path) -> None:
    delivery = Delivery(net(), X, tmp_path)
    small = net()
    assert delivery.fitted_on(small, "onnxruntime-cpu").path == tmp_path / "model.onnx"
    assert delivery.fitted_on(small, "onnxruntime-cpu:batch=4").path == tmp_path / "model.onnx"
    assert delivery.fitted_on(small, "openvino-cpu").path == tmp_path / "model.onnx"
    assert delivery.fitted_on(small, "onnxruntime-cpu:dtype=float16").path == tmp_path / "model.float16.onnx"
    assert delivery.fitted_on(small, "eager-cpu").module is small
    assert set(delivery.files) == {"model.onnx", "model.float16.onnx"}


def test_a_timing_nobody_asked_for_becomes_a_note_when_it_fails(quick, tmp_path: Path) -> None:
    fitted = sartor.fit(net(NoOnnx), budget="params<=60%", recipe="l1", example=X, out=tmp_path / "run")
    assert fitted.met and fitted.result["latency"] == []
    assert any("nobody asked" in note for note in fitted.result["notes"])
    assert torch.equal(sartor.load(tmp_path / "run", NoOnnx)(X), fitted.model(X))


def test_a_target_that_cannot_run_the_network_is_refused_before_anything_is_computed(
    quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "score", lambda *a: pytest.fail("scored before the target was tried"))
    with pytest.raises(SartorError, match="nothing was computed"):
        sartor.fit(net(NoOnnx), budget="latency<=60% @ onnxruntime-cpu", recipe="l1", example=X)


def test_a_limit_whose_timing_fails_at_the_end_loses_nothing(
    quick, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> Comparison:
        raise SartorError("the board is on fire")

    monkeypatch.setattr(stages, "deliver", broken)
    budget = "latency<=95% @ eager-cpu:threads=1, macs<=60%"
    monkeypatch.setattr("sartor.run.stopwatch.Stopwatch.ratio", lambda self, plan: 0.5)
    monkeypatch.setattr("sartor.run.stopwatch.Stopwatch.confirmed", lambda self, plan: 0.5)
    monkeypatch.setattr("sartor.run.stopwatch.Stopwatch.upper", lambda self, plan: 0.5)
    fitted = sartor.fit(net(), budget=budget, recipe="l1", example=X, out=tmp_path / "run")
    assert not fitted.met and fitted.result["status"] == "not measured"
    assert {r["metric"]: r["status"] for r in fitted.result["budget"]} == {"latency": "not measured", "macs": "met"}
    assert any("on fire" in note and str(tmp_path / "run") in note for note in fitted.result["notes"])
    assert torch.equal(sartor.load(tmp_path / "run", Net)(X), fitted.model(X))


def test_training_that_fails_leaves_the_repaired_network_in_the_folder(quick, tmp_path: Path) -> None:
    wild = Recipe().with_training(FineTune(epochs=1, lr=1e30, warmup=0.0))
    with pytest.raises(TrainingDiverged):
        sartor.fit(net(), batches(), budget="macs<=50%", recipe=wild, out=tmp_path / "run")
    assert sartor.load(tmp_path / "run", Net)(X).isfinite().all()


def test_a_drop_cannot_be_promised_of_a_network_that_will_be_quantised() -> None:
    with pytest.raises(BadInput, match="int8"):
        sartor.fit(net(), batches(), batches(), budget="latency<=60% @ onnxruntime-cpu:dtype=int8, drop<=1")


@pytest.mark.parametrize(
    ("ratio", "limit", "status"), [(0.5, 0.6, "met"), (0.6, 0.6, "within noise"), (0.7, 0.6, "missed")]
)
def test_the_interval_decides(ratio: float, limit: float, status: str) -> None:
    original = Latency(tuple([1.0] * 20), 1, Target("eager"))
    spread = [0.98, 0.99, 1.0, 1.01, 1.02] * 4
    assert Comparison(original, Latency(tuple(ratio * s for s in spread), 1, Target("eager"))).against(limit) == status


def test_sessions_that_differ_widen_the_interval() -> None:
    """Pairs of one session resemble each other, so many of them do not narrow what sessions leave open."""
    facts = {"sessions": 4}
    original = Latency(tuple([1.0] * 80), 1, Target("eager"), facts)
    fitted = Latency(tuple(r for s in (0.56, 0.58, 0.60, 0.62) for r in [s] * 20), 1, Target("eager"), facts)
    low, high = Comparison(original, fitted).interval
    assert low < 0.58 and high > 0.60


def test_why_the_quick_exporter_failed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr("sartor.measure.onnx_runtimes.to_onnx_fast", fails)
    with prepare(net(), X, "onnxruntime-cpu:threads=1") as runnable:
        assert runnable.detail["exporter"] == "dynamo" and "no such operator" in runnable.detail["slow_because"]


def test_a_slower_network_is_announced_with_the_remedy(quick, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Comparison(
        Latency(tuple([1.0] * 20), 1, Target("eager")), Latency(tuple([1.3, 1.31] * 10), 1, Target("eager"))
    )
    monkeypatch.setattr(stages, "deliver", lambda *a: slow)
    fitted = sartor.fit(net(), budget="macs<=60%", recipe="l2", example=X)
    assert any("SLOWER" in note and "round_to" in note for note in fitted.result["notes"])
