"""Tests are the same everywhere: small networks on one thread, hypothesis without a clock and without chance.

The networks here meet, between them, the traps of exporters and runtimes.
"""

import os

# One thread a process: pytest-xdist runs a process on every core. The libraries read this once, when they are imported.
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
# Compiling the headers once takes longer than the few small kernels here save by it.
os.environ.setdefault("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0")

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)
settings.register_profile("sartor", deadline=None, derandomize=True)
settings.load_profile("sartor")


@pytest.fixture(scope="session", autouse=True)
def own_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tables of latency that tests make are not those of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SARTOR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def short_observations() -> Iterator[None]:
    """Timings that no budget asks for end after a few inferences; those that a limit depends on stay as they are."""
    from sartor.types import Effort

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sartor.run.run_steps.TO_KNOW", Effort(sessions=1, min_seconds=0.0, max_seconds=0.1, samples=5))
        yield


class Residual(nn.Module):
    """Batch norm, and an option-A shortcut: strided slices, channels padded with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        x = F.relu(self.norm2(self.conv(x)) + short)
        return self.head(x.mean((2, 3)))


class Words(nn.Module):
    """Whole-number inputs, keyword arguments, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.embed(ids) * mask[..., None]
        return {"logits": self.head(hidden.mean(1)), "hidden": hidden}


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))


NETWORKS = {
    "mlp": lambda: (_mlp(), torch.randn(2, 6)),
    "residual": lambda: (Residual(), torch.randn(1, 3, 8, 8)),
    "words": lambda: (Words(), {"mask": torch.ones(2, 5), "ids": torch.randint(0, 10, (2, 5))}),
}


@pytest.fixture(params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    return NETWORKS[request.param]()


@pytest.fixture
def residual() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return NETWORKS["residual"]()


@pytest.fixture
def mlp() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return NETWORKS["mlp"]()
