"""A shadow is lent as if it were a new copy each time: what a forward or its caller changes does not stay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sartor.structure.model_copy import clone, empty_like_on_meta, named_tensors
from sartor.structure.shadow import Shadow


class Remembers(nn.Module):
    """Changes attributes, tables and containers in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.again = self.fc
        self.register_buffer("scale", torch.ones(6))
        self.config: Any = type("Config", (), {})()
        self.config.calls = 0
        self.seen: list[int] = []
        self.cache: dict[str, Any] = {"inner": {"n": 1}}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.config.calls += 1
        self.seen.append(len(x))
        self.cache["inner"]["n"] += 1
        self.cache["x"] = x
        self.scale = self.scale * 2
        self.new = x
        return self.fc(x) * self.scale


def state(model: nn.Module) -> Any:
    return model.config.calls, list(model.seen), dict(model.cache), model.cache["inner"]["n"], "new" in vars(model)


def test_every_lent_copy_is_like_a_new_one() -> None:
    model = Remembers().eval()
    new, shadow, copies = state(clone(model, empty_like_on_meta)), Shadow(model), []
    for n in range(4):
        shapes = {"fc.weight": (3, 4), "fc.bias": (3,), "scale": (3,), "again.weight": (3, 4), "again.bias": (3,)}
        with shadow.lent(shapes if n != 2 else None) as copy:
            assert state(copy) == new and not copy.training
            width = 6 if n == 2 else 3
            assert copy(torch.empty(2, 4, device="meta")).shape == (2, width) and copy.again is copy.fc
            copy.fc.in_features = 99
            copy.train()
            copies.append(copy)
    assert copies[1] is copies[2] is copies[3] and copies[0] is not copies[1]
    assert state(model)[0] == 0 and all(not t.is_meta for *_, t in named_tensors(model))


def test_a_copy_whose_state_cannot_be_put_back_is_made_anew() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.random = torch.Generator()  # its state is not in Python
    shadow, copies = Shadow(model), []
    for _ in range(4):
        with shadow.lent() as copy:
            copies.append(copy)
    assert len({id(c) for c in copies}) == 4


def test_an_error_inside_does_not_stay_either() -> None:
    shadow = Shadow(Remembers())
    for _ in range(3):
        try:
            with shadow.lent() as copy:
                assert copy.config.calls == 0
                copy(torch.empty(2, 5, device="meta"))
        except RuntimeError:
            continue
        raise AssertionError("expected the linear layer to refuse 5 features")
