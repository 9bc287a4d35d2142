"""What a user may pass by mistake is refused with one sentence of Sartor's own, before anything is written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sartor
from sartor.errors import BadInput, SartorError


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batches(
    sizes: tuple[int, ...] = (8, 8), label: Callable[[int], Tensor] | None = None
) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    draw = label or (lambda n: torch.randint(0, 3, (n,), generator=generator))
    return [(torch.randn(n, 12, generator=generator), draw(n)) for n in sizes]


def fit(model: Any = None, **more: Any) -> sartor.Fitted:
    usual: dict[str, Any] = {"budget": "params<=70%", "recipe": "l1"}
    return sartor.fit(net() if model is None else model, **{**usual, **more})


class Lazy(nn.Module):
    """A layer without shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.LazyLinear(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


X = torch.zeros(1, 12)
TRAINED: dict[str, Any] = {"train": batches(), "val": batches(), "epochs": 1}
CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "labels beyond the outputs": (
        lambda: fit(**TRAINED | {"train": batches(label=lambda n: torch.full((n,), 7))}), "below 3",
    ),
    "later labels beyond": (
        lambda: fit(**TRAINED | {"train": batches() + batches(label=lambda n: torch.full((n,), 7))}), "below 3",
    ),
    "negative labels": (lambda: fit(**TRAINED | {"train": batches(label=lambda n: torch.full((n,), -5))}), "from 0"),
    "fractions as labels": (lambda: fit(**TRAINED | {"train": batches(label=torch.rand)}), "targets"),
    "fractions for scores": (
        lambda: fit(recipe="taylor", train=batches(label=torch.rand), val=batches(), epochs=0), "cross entropy",
    ),
    "an empty first batch": (lambda: fit(**TRAINED | {"train": batches((0, 8))}), "empty"),
    "no batches": (lambda: fit(**TRAINED | {"train": []}), "no batch"),
    "one sample for batch norm": (lambda: fit(**TRAINED | {"train": batches((8, 1))}), "drop_last"),
    "a number as batches": (lambda: fit(**TRAINED | {"train": 3}), "train: expected batches"),
    "text as batches": (lambda: fit(**TRAINED | {"train": "abc"}), "batch"),
    "an unknown device": (lambda: fit(example=X, device="gpu"), "device: expected one that works here"),
    "a number as device": (lambda: fit(example=X, device=3.5), "device"),
    "a model on meta": (lambda: fit(net().to("meta"), example=X), "meta device"),
    "a lazy module": (lambda: fit(Lazy(), example=X), "have no shape yet"),
    "no module": (lambda: fit(lambda x: x, example=X), "expected a torch.nn.Module"),
    "a class": (lambda: fit(nn.Linear, example=X), "expected a torch.nn.Module"),
    "a huge sample": (lambda: fit(example=torch.zeros(1).expand(1, 12, 2**20, 2**20)), "one sample takes"),
    "no example": (lambda: fit(), "expected example inputs or data"),
    "text as example": (lambda: fit(example="abc"), "at least one tensor"),
    "a seed of 65 bits": (lambda: fit(example=X, seed=2**64), "63 bits"),
    "a seed of 5000 digits": (lambda: fit(example=X, seed=10**5000), "63 bits"),
    "text as seed": (lambda: fit(example=X, seed="3"), "seed"),
    "a truth as seed": (lambda: fit(example=X, seed=True), "seed"),
    "a metric that gives None": (lambda: fit(val=batches(), example=X, metric=lambda m, b: None), "metric: .* None"),
    "a metric that gives text": (lambda: fit(val=batches(), example=X, metric=lambda m, b: "good"), "metric"),
    "an evaluation that gives None": (lambda: fit(example=X, evaluate=lambda m: None), "evaluate"),
    "an evaluation that gives two": (lambda: fit(example=X, evaluate=lambda m: torch.ones(2)), r"a tensor \[2\]"),
    "a loss that gives None": (lambda: fit(**TRAINED, loss=lambda o, t: None), "loss: .* NoneType"),
    "a loss for each sample": (lambda: fit(**TRAINED, loss=lambda o, t: o.sum(1)), "loss: .*tensor"),
    "a limit of many digits": (lambda: fit(example=X, budget=f"macs<={'9' * 5000}%"), "budget"),
    "a number as budget": (lambda: fit(example=X, budget=3), "budget"),
    "a number as progress": (lambda: fit(example=X, progress=3), "progress"),
}  # fmt: skip


@pytest.mark.parametrize(("act", "words"), CASES.values(), ids=CASES)
def test_it_is_refused_with_a_sentence(act: Callable[[], Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as refused:
        act()
    assert len(str(refused.value)) < 700 and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_a_folder_that_no_file_system_takes_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SartorError, match="cannot write"):
        fit(example=X, out=f"{tmp_path}/{name}")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_fit_trains_whatever_surrounds_the_call(mode: Any) -> None:
    expected = fit(**TRAINED)
    with mode():
        fitted = fit(**TRAINED | {"train": batches(), "val": batches()})
    for one, other in zip(expected.model.parameters(), fitted.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_threads_take_turns_and_get_what_one_alone_gets() -> None:
    expected = [[p.clone() for p in fit(**TRAINED, seed=seed).model.parameters()] for seed in range(3)]
    got: dict[int, list[Tensor]] = {}
    networks = [net() for _ in range(3)]  # building them draws from the generator that all threads share

    def run(seed: int) -> None:
        got[seed] = list(fit(networks[seed], **TRAINED, seed=seed).model.parameters())

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for seed in range(3) for a, b in zip(expected[seed], got[seed], strict=True))
