"""Rectifiers with limits: what they give, where they stand, and that files keep them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor import BadInput, fit, load, trace
from sartor.repair.clip_activations import clipped
from sartor.surgery import Edits
from sartor.surgery.zero_clip import clip_, clips_of, rectifiers
from sartor.types import ClipActivations, Criterion, FineTune, FoldMeans, Recipe


class Block(nn.Module):
    """Calls rectifiers as a function, as one module twice, and in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.a(x))
        x = self.act(self.b(x)) + x
        y = self.c(x)
        self.act(y)  # in place: the result is not taken
        return self.head(y.mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


def pictures(n: int = 16) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_within_the_limits_nothing_changes_and_above_them_there_is_zero() -> None:
    model, x = network(), pictures()
    smaller, facts = clipped(model, trace(model, x[:1]), [x])
    assert facts == {"modules": 2, "rectifiers": 2}  # one module that is called twice has one limit
    assert torch.equal(smaller(x), model(x))
    with torch.no_grad():  # what the first rectifier reads is negative or above its limit
        behind = torch.relu(model.c(torch.relu(model.b(torch.zeros(16, 8, 8, 8)))))
        assert torch.allclose(smaller(1e6 * x), model.head(behind.mean((2, 3))), atol=1e-6)
    assert not clips_of(model) and list(smaller.state_dict()) == list(model.state_dict())


def test_what_is_not_a_number_becomes_zero() -> None:
    model, x = network(), pictures()
    smaller, _ = clipped(model, trace(model, x[:1]), [x])
    with torch.no_grad():
        for m in (model, smaller):
            m.a.weight[0, 0, 0, 0] = float("nan")
            m.b.bias[1] = float("inf")
    assert bool(model(x).isnan().all()) and bool(smaller(x).isfinite().all())


def test_a_child_does_not_count_the_calls_of_its_parent() -> None:
    model, x = network(), pictures()
    assert rectifiers(trace(model, x[:1]), model) == {"": 1, "act": 2}
    one = clip_(copy.deepcopy(model), {"": (0.0,), "act": (float("inf"), float("inf"))})
    with torch.no_grad():
        expected = model.act(model.b(torch.zeros(16, 8, 8, 8)))
        expected = model.head(torch.relu(model.c(expected)).mean((2, 3)))
    assert torch.allclose(one(x), expected)


def test_six_stays_six_and_what_was_never_read_has_no_limit() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU6()), torch.randn(8, 4)
    with torch.no_grad():
        model[0].weight.copy_(10 * torch.eye(4))
        model[0].bias.zero_()
    smaller, _ = clipped(model, trace(model, x[:1]), [x])
    assert torch.equal(smaller(x), model(x)) and float(model(x).max()) == 6
    assert not smaller(1e6 * x.abs()).any()
    dead = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with torch.no_grad():
        dead[0].weight.zero_()
        dead[0].bias.fill_(-1.0)
    same, facts = clipped(dead, trace(dead, x[:1]), [x])
    assert facts["rectifiers"] == 0 and clips_of(same) == {"1": (float("inf"),)}


def test_a_limit_of_one_is_not_taken_for_an_act_in_place() -> None:
    class Tanh(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.hardtanh(x, -1.0, 1.0) + x

    model, x = nn.Sequential(nn.Linear(4, 4), Tanh()), torch.randn(8, 4)
    smaller, _ = clipped(model, trace(model, x[:1]), [x])
    far = 50 * x
    with torch.no_grad():
        read = smaller[0](far)
        limit = clips_of(smaller)["1"][0]
        assert torch.equal(smaller(far), F.hardtanh(torch.where(read <= limit, read, 0.0)) + read)


def test_threads_do_not_see_each_other() -> None:
    from concurrent.futures import ThreadPoolExecutor

    model, x = network(), pictures()
    smaller, _ = clipped(model, trace(model, x[:1]), [x])
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        expected = smaller(1e6 * x)
        assert all(torch.equal(found, expected) for found in pool.map(lambda _: smaller(1e6 * x).detach(), range(12)))


def test_copies_and_pickles_keep_the_limits() -> None:
    model, x = network(), pictures()
    smaller, _ = clipped(model, trace(model, x[:1]), [x])
    for again in (copy.deepcopy(smaller), pickle.loads(pickle.dumps(smaller))):
        assert clips_of(again) == clips_of(smaller) and torch.equal(again(100 * x), smaller(100 * x))


def test_gradients_pass_where_values_do() -> None:
    model, x = network(), pictures()
    smaller, _ = clipped(model, trace(model, x[:1]), [x])
    grads = []
    for m in (model, smaller):
        m.zero_grad()
        m(x).square().sum().backward()
        grads.append(m.a.weight.grad.clone())
    assert torch.allclose(*grads)


def test_a_network_without_rectifiers_stays_and_a_note_says_so() -> None:
    from sartor.types import Listener

    notes: list[str] = []

    class Notes(Listener):
        def note(self, sentence: str) -> None:
            notes.append(sentence)

    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    same, facts = clipped(model, trace(model, torch.zeros(1, 4)), [torch.zeros(1, 4)], listener=Notes())
    assert same is model and facts["rectifiers"] == 0 and "not clipped" in notes[0]


def test_edits_keep_limits_and_refuse_others() -> None:
    edits = Edits({}, (), {}, clips={"act": (2.5, float("inf"))})
    assert Edits.from_json(edits.to_json()) == edits
    with pytest.raises(BadInput, match="no module 'elsewhere'"):
        clip_(network(), {"elsewhere": (1.0,)})


def recipe(*steps: object) -> Recipe:
    return Recipe(name="clip", source="test", score=Criterion("l2"), heal=steps)


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_run_applies_saves_and_exports_them(tmp_path: Path, epochs: int) -> None:
    pytest.importorskip("onnxruntime")
    import onnxruntime

    x = pictures(64)
    data = [(b, torch.randint(4, (16,), generator=torch.Generator().manual_seed(0))) for b in x.split(16)]
    steps = (FoldMeans(), ClipActivations(), FineTune(epochs=epochs))
    fitted = fit(network(), data, budget="macs<=60%", recipe=recipe(*steps), out=tmp_path / "run")
    assert set(clips_of(fitted.model)) == {"", "act"}
    again = load(tmp_path / "run", Block)
    far = 1e5 * x[:4]
    assert torch.equal(again(far), fitted.model(far)) and clips_of(again) == clips_of(fitted.model)
    assert float(fitted.model(far).detach().abs().max()) < 100  # the limits hold
    fitted.export(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for inputs in (far, x[:4]):
        (out,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        assert torch.allclose(torch.from_numpy(out), fitted.model(inputs), atol=1e-4)
    fitted.export(tmp_path / "model.pt2")
    with torch.no_grad():
        assert torch.allclose(torch.export.load(tmp_path / "model.pt2").module()(far), fitted.model(far), atol=1e-4)


def test_a_kept_repair_has_its_limits() -> None:
    from sartor.run.kept_values import repaired, repaired_values

    model, x = network(), pictures()
    smaller, _ = clipped(model, trace(model, x[:1]), [x])
    with torch.no_grad():
        smaller.head.bias.add_(1.0)
    again = repaired(network(), repaired_values(smaller))
    assert clips_of(again) == clips_of(smaller)
    assert torch.equal(again(1e6 * x), smaller(1e6 * x))
