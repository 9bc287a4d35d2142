"""`fit` leaves the user's model, and the process around it, as they were: twenty kinds of models and settings."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import sartor
from sartor.borrow import unchanged
from sartor.errors import BadInput


class Net(nn.Module):
    """A network whose forward does something to itself in evaluation mode."""

    def __init__(self, act: Callable[[Any, Tensor], Tensor] = lambda self, x: x, **held: Any):
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.act = act
        for name, value in held.items():
            if isinstance(value, Tensor) and name.startswith("buffer"):
                self.register_buffer(name, value, persistent=name != "buffer_aside")
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.act(self, self.norm(self.a(x)).relu())).relu())


def count(self: Any, x: Tensor) -> Tensor:
    self.buffer += 1
    return x


def running_maximum(self: Any, x: Tensor) -> Tensor:
    self.buffer.copy_(torch.maximum(self.buffer, x.detach().abs().max()))
    return x


def replaced(self: Any, x: Tensor) -> Tensor:
    self.buffer = self.buffer + 1
    return x


def aside(self: Any, x: Tensor) -> Tensor:
    self.buffer_aside.add_(1)
    return x


def plain_tensor(self: Any, x: Tensor) -> Tensor:
    self.calls.add_(1)
    return x


def remembers(self: Any, x: Tensor) -> Tensor:
    self.shapes.append(tuple(x.shape))
    self.last["x"] = len(self.shapes)
    return x


def noisy(self: Any, x: Tensor) -> Tensor:
    torch.rand(1, generator=self.generator)
    return x


def draws(self: Any, x: Tensor) -> Tensor:
    random.random(), np.random.rand(), torch.rand(1)
    return x


def build(change: Callable[[Net], Any] = lambda m: None, **held: Any) -> Callable[[], Net]:
    def made() -> Net:
        torch.manual_seed(0)
        model = Net(**{k: v() if callable(v) and k != "act" else v for k, v in held.items()})
        change(model)
        return model

    return made


def backward(model: Net) -> None:
    model(torch.randn(4, 12)).sum().backward()


def hooks(model: Net) -> None:
    model.b.register_forward_hook(lambda m, i, o: None)
    model.b.register_forward_pre_hook(lambda m, i: None)
    model.register_full_backward_hook(lambda m, i, o: None)
    model.a.weight.register_hook(lambda g: g)
    model.register_state_dict_pre_hook(lambda *a: None)


def mixed_modes(model: Net) -> None:
    model.train()
    model.norm.eval()


KINDS: dict[str, Callable[[], Net]] = {
    "plain": build(), "in training mode": build(lambda m: m.train()), "in evaluation mode": build(lambda m: m.eval()),
    "modes of parts": build(mixed_modes), "frozen": build(lambda m: m.a.requires_grad_(False)),
    "all frozen": build(lambda m: m.requires_grad_(False)),
    "with gradients": build(backward), "with hooks": build(hooks),
    "in double": build(lambda m: m.double()), "NaN in a buffer": build(buffer=lambda: torch.tensor(float("nan"))),
    "counts calls": build(act=count, buffer=lambda: torch.zeros((), dtype=torch.long)),
    "running maximum": build(act=running_maximum, buffer=lambda: torch.zeros(())),
    "replaces a buffer": build(act=replaced, buffer=lambda: torch.zeros(3)),
    "a buffer outside the state": build(act=aside, buffer_aside=lambda: torch.zeros(3)),
    "a plain tensor": build(act=plain_tensor, calls=lambda: torch.zeros(3)),
    "a list and a dict": build(act=remembers, shapes=list, last=dict),
    "its own generator": build(act=noisy, generator=lambda: torch.Generator().manual_seed(3)),
    "global generators": build(act=draws), "weight norm": build(lambda m: parametrizations.weight_norm(m.b)),
    "spectral norm": build(lambda m: parametrizations.spectral_norm(m.b)),
    "tied weights": build(lambda m: setattr(m.b, "weight", nn.Parameter(m.b.weight.detach().clone()))),
    "parameters in a list": build(lambda m: setattr(m, "kept", nn.ParameterList([nn.Parameter(torch.ones(2))]))),
}  # fmt: skip


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that must stay; tensors by identity and by value."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "values": {n: (id(t), t.requires_grad, t.detach().clone().nan_to_num(7.0)) for n, t in tensors.items()},
        "gradients": {n: (id(p.grad), None if p.grad is None else p.grad.clone()) for n, p in model.named_parameters()},
        "modes": [m.training for m in model.modules()],
        "classes": [type(m) for m in model.modules()],
        "hooks": [[list(v) for k, v in vars(m).items() if "hooks" in k] for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "held": [str(v) for v in vars(model).values() if isinstance(v, list | dict | Tensor) and v is not None],
        "generator": [v.get_state() for v in vars(model).values() if isinstance(v, torch.Generator)],
    }  # fmt: skip


def around() -> dict[str, Any]:
    """The process around the model."""
    return {
        "python": random.getstate(), "numpy": np.random.get_state()[1].tolist(), "torch": torch.get_rng_state(),
        "dtype": torch.get_default_dtype(), "gradients": torch.is_grad_enabled(), "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "filters": list(warnings.filters),
        "environment": dict(os.environ), "folder": os.getcwd(),
    }  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def batches(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 12, generator=g).to(dtype), torch.randint(0, 3, (8,), generator=g)) for _ in range(4)]


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_model_and_process_are_as_they_were(made: Callable[[], Net]) -> None:
    model = made()
    data = batches(next(model.parameters()).dtype)
    epochs = 0 if not any(p.requires_grad for p in model.parameters()) else 1
    before, process = state(model), around()
    sartor.fit(model, data, batches(data[0][0].dtype), budget="params<=75%", recipe="taylor", epochs=epochs)
    after = state(model)
    for name in before:
        assert same(before[name], after[name]), f"{name}: {before[name]} became {after[name]}"
    now = around()
    for name in process:
        assert same(process[name], now[name]), name


def test_importing_changes_neither_warnings_nor_generators() -> None:
    code = (
        "import random, warnings, torch, numpy; r = random.getstate(); f = list(warnings.filters); import sartor; "
        "sartor.fit, sartor.load, sartor.trace; assert r == random.getstate() and f == list(warnings.filters)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_forward_that_changes_parameters_is_refused() -> None:
    def grows(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.c.bias.add_(1)
        return x

    torch.manual_seed(0)
    with pytest.raises(BadInput, match=r"changes the values of its parameter 'c.bias'"):
        sartor.fit(
            Net(grows), batches(torch.float32), batches(torch.float32), budget="params<=75%", recipe="l1", epochs=0
        )


def test_what_a_failing_body_changed_is_put_back() -> None:
    model = Net(count, buffer=torch.zeros((), dtype=torch.long)).eval()
    with pytest.raises(KeyError), unchanged(model):
        model(torch.randn(2, 12))
        raise KeyError
    assert int(model.buffer) == 0
