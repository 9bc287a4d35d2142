"""A way to run the command line inside the test, and a network small enough for it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sartor.cli import run

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))

def net(width=8):
    print("a factory that talks")
    torch.manual_seed(0)
    return Net(width)

def interrupted():
    raise KeyboardInterrupt

def data():
    torch.manual_seed(1)
    part = lambda n: [(torch.randn(8, 1, 6, 6), torch.randint(0, 3, (8,))) for _ in range(n)]
    return {"train": part(4), "val": part(2), "test": part(2)}
"""


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements stop after few samples, however noisy the machine: no assertion here depends on narrow intervals."""
    monkeypatch.setattr(importlib.import_module("sartor.measure.latency"), "MOST", 2)


class Said(NamedTuple):
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout; fails if there is anything else."""
        assert self.out.count("\n") == 1 and self.out.endswith("\n"), self.out
        return json.loads(self.out, parse_constant=lambda c: pytest.fail(f"{c} in the JSON"))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command line and returns what it did."""

    def go(*words: str | Path) -> Said:
        capsys.readouterr()
        code = run([str(w) for w in words])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return go


@pytest.fixture(scope="session")
def source() -> str:
    """The file that says the network and its data."""
    return NET


@pytest.fixture
def net(tmp_path: Path, source: str) -> str:
    """The spec of a small network in a file of its own."""
    (tmp_path / "net.py").write_text(source)
    return f"{tmp_path / 'net.py'}:net"
