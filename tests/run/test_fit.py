"""The whole run on a network that trains in seconds: budgets met, files that load bit for bit, nothing touched."""

import json

import pytest
import torch
from torch import nn

import sartor
from sartor.errors import BadInput, BudgetNotMet, CorruptFile, NothingToDo, SartorError, TrainingDiverged, UnknownName
from sartor.seed import seeded
from sartor.structure import trace
from sartor.types import Axes, Criterion, Effort, FineTune, Global, Recipe


class Net(nn.Module):
    """Two residual blocks."""

    def __init__(self, width=12):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(width, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, width, 3, padding=1))
        self.b = nn.Sequential(nn.Conv2d(width, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.b(x + self.a(x)).mean((2, 3)))


def data(n=96, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=g)
    x = torch.randn(n, 1, 8, 8, generator=g) * 0.5
    for i, c in enumerate(y):
        x[i, 0, 2 * int(c) : 2 * int(c) + 2] += 1.5
    return [(x[i : i + 32], y[i : i + 32]) for i in range(0, n, 32)]


@pytest.fixture(scope="module")
def net():
    with seeded(3):
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(12):
            for x, y in data():
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
    return model.eval()


RECIPE = Recipe(name="test").with_training(FineTune(epochs=2, lr=0.01))


def test_a_counted_budget_is_met_exactly_and_the_files_load_bit_for_bit(net, tmp_path):
    before = {n: t.clone() for n, t in net.state_dict().items()}
    fitted = sartor.fit(net, data(), data(seed=1), budget="macs<=50%, params<=60%", recipe=RECIPE, out=tmp_path / "run")
    counted = fitted.result["counted"]
    assert counted["macs"]["fitted"] <= 0.5 * counted["macs"]["original"]
    assert counted["macs"]["fitted"] == sartor.count(trace(fitted.model, data()[0][0][:1])).macs
    assert fitted.met and fitted.result["status"] == "met" and fitted.proof.max_relative_error <= 1e-4
    assert type(fitted.model) is Net and isinstance(fitted.result["quality"]["final"], float)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    loaded = sartor.load(tmp_path / "run", Net)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), fitted.model.state_dict().values()))
    x = data()[0][0]
    assert torch.equal(loaded(x), fitted.model(x))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["quality"] == fitted.result["quality"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "record.jsonl").read_text().splitlines()]
    assert (
        steps[0] == "asked"
        and steps[-1] == "done"
        and {"understand", "score", "decide", "prove", "train"} <= set(steps)
    )


def test_the_same_seed_gives_the_same_network(net):
    first, second = (sartor.fit(net, data(), budget="macs<=60%", recipe=RECIPE, seed=5) for _ in range(2))
    assert first.plan == second.plan
    assert all(torch.equal(a, b) for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values()))


def test_save_export_and_report(net, tmp_path):
    fitted = sartor.fit(net, data(), data(seed=1), budget="params<=70%", recipe="l1")
    fitted.save(tmp_path / "saved")
    x = data()[0][0]
    assert torch.equal(sartor.load(tmp_path / "saved", Net())(x), fitted.model(x))
    page = fitted.report(tmp_path / "report.html").read_text()
    assert "<svg" in page and 'src="http' not in page and 'href="http' not in page
    facts = fitted.export(tmp_path / "model.onnx")
    assert facts["max_relative_error"] <= 1e-4 and (tmp_path / "model.onnx").stat().st_size > 0


def test_without_data_weights_alone_decide(net):
    fitted = sartor.fit(net, budget="macs<=50%", recipe="l2", example=data()[0][0])
    assert fitted.result["quality"]["final"] is None and fitted.met


def test_a_function_is_a_recipe(net):
    fitted = sartor.fit(net, data(), budget="macs<=70%", recipe=lambda w: w.abs().amax(1))
    assert fitted.met


def test_a_quality_floor_that_does_not_hold_is_said(net):
    fitted = sartor.fit(
        net,
        data(),
        data(seed=1),
        budget="macs<=8%, drop<=0.1",
        recipe=Recipe(score=Criterion("random"), allocate=Global(floor=0.0)),
    )
    (drop,) = [r for r in fitted.result["budget"] if r["metric"] == "drop"]
    assert not drop["met"] and fitted.result["status"] == "missed" and not fitted.met


@pytest.mark.parametrize(
    "error, words, arguments",
    [
        (BudgetNotMet, "smallest|cannot", {"budget": "macs<=0.01%"}),
        (NothingToDo, "already", {"budget": "macs<=999M"}),
        (UnknownName, "Did you mean 'macs'", {"budget": "mac<=50%"}),
        (UnknownName, "Did you mean 'taylor'", {"budget": "macs<=50%", "recipe": "tailor"}),
        (BadInput, "val=", {"budget": "macs<=50%, drop<=1"}),
        (UnknownName, "onnxruntime-cpu", {"budget": "latency<=50% @ onnxruntime-cp"}),
        (UnknownName, "pattern", {"budget": "macs<=50%", "recipe": Recipe(cut=Axes(only=("nothing*",)))}),
        (UnknownName, "has 3 of channels", {"budget": "macs<=50%", "cut": "heads"}),
    ],
)
def test_what_cannot_be_done_is_said(net, error, words, arguments):
    with pytest.raises(error, match=words):
        sartor.fit(net, data(), **arguments)


def test_a_user_chooses_what_may_be_cut(net):
    quick = Recipe(heal=())
    asked = {"budget": "macs<=90%", "recipe": quick, "example": data()[0][0]}

    def offered(**choice):
        return {g["name"] for g in sartor.fit(net, **choice, **asked).result["groups"]}

    assert offered(cut="channels", keep=["stem*"]) == {"a.0", "b.0"} == offered(cut="a.0, module:b", keep="stem.0")
    assert offered(cut="name:a.0") == {"a.0"}


def test_training_needs_data(net):
    with pytest.raises(BadInput, match="train="):
        sartor.fit(net, budget="macs<=50%", recipe=RECIPE, example=data()[0][0])


def test_wrong_inputs_keep_the_forwards_own_words(net):
    with pytest.raises(SartorError, match="channels"):
        sartor.fit(net, budget="macs<=50%", recipe="l2", example=torch.randn(1, 3, 8, 8))


def test_nan_in_training_is_said_and_leaves_no_result(net, tmp_path):
    bad = Recipe().with_training(FineTune(epochs=1, lr=1e30, warmup=0.0))
    with pytest.raises(TrainingDiverged):
        sartor.fit(net, data(), budget="macs<=50%", recipe=bad, out=tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_finished_folder_is_not_overwritten(net, tmp_path):
    sartor.fit(net, data(), budget="macs<=50%", recipe="l2", out=tmp_path / "run")
    with pytest.raises(BadInput, match="finished run"):
        sartor.fit(net, data(), budget="macs<=50%", recipe="l2", out=tmp_path / "run")


def test_damaged_files_and_other_networks_are_refused(net, tmp_path):
    sartor.fit(net, data(), budget="macs<=50%", recipe="l2", out=tmp_path / "run")
    with pytest.raises(BadInput, match="shape"):
        sartor.load(tmp_path / "run", lambda: Net(width=14))
    with pytest.raises(BadInput, match="no tensor"):
        sartor.load(tmp_path / "run", lambda: nn.Linear(2, 2))
    (tmp_path / "run" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CorruptFile):
        sartor.load(tmp_path / "run", Net)
    (tmp_path / "run" / "edits.json").write_text("{")
    with pytest.raises(CorruptFile):
        sartor.load(tmp_path / "run", Net)


def test_a_measured_budget_is_met_on_the_target(monkeypatch):
    monkeypatch.setattr("sartor.run.stopwatch._ROUND_S", 0.6)
    monkeypatch.setattr("sartor.run.stopwatch._CONFIRM_S", 0.6)
    monkeypatch.setattr("sartor.run.run_steps.TO_HOLD", Effort(sessions=2, min_seconds=0.3, max_seconds=0.5))
    with seeded(0):
        wide = nn.Sequential(
            nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(),
            nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5),
        ).eval()  # fmt: skip
    fitted = sartor.fit(
        wide, budget="latency<=60% @ eager-cpu:threads=1", recipe="l2", example=torch.randn(1, 3, 48, 48)
    )
    assert fitted.result["trail"] and fitted.result["trail"][-1]["ratio"] > 0
    (row,) = fitted.result["latency"]
    assert row["target"] == "eager-cpu:threads=1" and len(row["samples"]["fitted_ms"]) >= 5


class Literal(nn.Module):
    """A size written into the forward."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(1, 12, 3), nn.Dropout(0.1), nn.Linear(12 * 36, 4)

    def forward(self, x):
        return self.head(self.drop(self.conv(x).relu().view(-1, 432)))


def test_a_size_written_into_the_forward_is_no_obstacle_and_is_said(tmp_path):
    with seeded(0):
        model = Literal().eval()
    fitted = sartor.fit(model, train=data(), val=data(32, 1), budget="macs<=50%", recipe=RECIPE, out=tmp_path / "run")
    assert any("rewritten" in note for note in fitted.result["notes"])
    again = sartor.load(tmp_path / "run", Literal)
    x = data(8, 2)[0][0]
    assert isinstance(again, Literal) and torch.equal(again(x), fitted.model.eval()(x))
    assert fitted.export(tmp_path / "cut.onnx")["max_relative_error"] < 1e-4
