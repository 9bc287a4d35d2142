"""Wrapped networks are unwrapped; what cannot be followed is refused by name, with what to pass instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sartor
from sartor.errors import BadInput
from sartor.surgery import probe
from sartor.testing.plans import halves
from sartor.wrappers import unwrapped

X = torch.randn(2, 3, 12, 12)


def plain() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(512, 4))
    return nn.Sequential(*layers).eval()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


class Averaged(torch.optim.swa_utils.AveragedModel):
    """Of the user's own class."""


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "torch.compile": compiled,
    "Averaged": Averaged,
    "both": lambda m: compiled(nn.DataParallel(m)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_network_is_understood_and_cut_like_the_one_inside(name):
    inside = plain()
    wrapped = WRAPPERS[name](inside)
    bare, around = unwrapped(wrapped)
    assert type(bare) is nn.Sequential and len(around) == (2 if name == "both" else 1)
    expected = sartor.trace(inside, X)
    graph = probe(wrapped, sartor.trace(wrapped, X))
    assert graph.fingerprint == expected.fingerprint and list(graph.groups) == ["0", "3"]
    smaller = sartor.cut(wrapped, graph, halves(graph))
    assert type(smaller) is nn.Sequential
    assert sartor.prove(wrapped, graph, halves(graph), X).passed


@pytest.mark.parametrize("name", ["DataParallel", "torch.compile"])
def test_fit_of_a_wrapped_network_says_so_and_saves_plain_names(name, tmp_path: Path):
    fitted = sartor.fit(WRAPPERS[name](plain()), budget="params<=60%", recipe="l1", example=X)
    assert any(name in note and "wrapped" in note for note in fitted.result["notes"])
    fitted.save(tmp_path)
    again = sartor.load(tmp_path, plain)
    assert list(again.state_dict()) == list(plain().state_dict())
    assert torch.equal(again(X), fitted.model.eval()(X))
    wrapped_again = sartor.load(tmp_path, lambda: nn.DataParallel(plain()))
    assert isinstance(wrapped_again, nn.DataParallel) and torch.equal(again(X), wrapped_again(X))
    assert isinstance(fitted.model, nn.DataParallel if name == "DataParallel" else nn.Sequential)


class Around(nn.Module):
    """A layer in front of another network."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 3, 1), body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))


REFUSED = {
    "torch.jit.script": (lambda: torch.jit.script(plain()), "TorchScript.*eager module"),
    "torch.jit.trace": (lambda: torch.jit.trace(plain(), X), "TorchScript.*eager module"),
    "a part is scripted": (lambda: Around(torch.jit.script(plain())), "module 'body' is a .*TorchScript"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "module '0' is a LazyConv2d .*run the model once"),
    "exported program": (lambda: torch.export.export(plain(), (X,)), "ExportedProgram is not a module; pass"),
    "a function": (lambda: torch.relu, "expected a torch.nn.Module; got"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_followed_is_refused_by_name(name):
    build, words = REFUSED[name]
    with pytest.raises(BadInput, match=words):
        sartor.trace(build(), X)
    with pytest.raises(BadInput, match=words):
        sartor.fit(build(), budget="params<=60%", recipe="l1", example=X)


def test_a_lazy_layer_that_has_run_once_is_cut():
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    model(X)
    assert list(probe(model, sartor.trace(model, X)).groups) == ["0"]


@pytest.mark.parametrize("inside", [torch.fx.symbolic_trace, lambda m: torch.export.export(m, (X,)).module()])
def test_graph_modules_are_networks_of_their_own(inside):
    model = inside(plain())
    graph = probe(model, sartor.trace(model, X))
    assert list(graph.groups) == ["0", "3"] and sartor.prove(model, graph, halves(graph), X).passed
