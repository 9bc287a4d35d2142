"""A training that was stopped anywhere and continued ends with the same bits; damage and other data are said."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.test_loop import VARIANTS, images, loader, network, options
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sartor.errors import CorruptFile, TrainingDiverged
from sartor.export.parts import read_parts, write_parts
from sartor.testing.faults import flipped, random_flips
from sartor.train import History, TrainingSetup, fine_tune
from sartor.train.checkpoint import Checkpoints
from sartor.types import Data, Judge, Listener


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A process that a shell put in the background ignores SIGINT; here it does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Stopped(BaseException):
    """What ends a training in these tests."""


class Drawn(Dataset[tuple[Tensor, Tensor]]):
    """Samples that are changed at random by every kind of generator: global ones, and the data set's own."""

    def __init__(self) -> None:
        self.x, self.y = images()
        self.numpy, self.python = np.random.default_rng(1), random.Random(2)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(1) + np.random.rand() + random.random() + self.numpy.random() + self.python.random()
        return (self.x[i] + 0.1 * noise).float(), self.y[i]


def drawn() -> DataLoader[Any]:
    return DataLoader(Drawn(), batch_size=16, shuffle=True)


def own_generator() -> DataLoader[Any]:
    return DataLoader(Drawn(), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(7))


def trained(
    data: Any, folder: Path | None, *, stop_at: int | None = None, listener: Listener | None = None, **changes: Any
) -> tuple[dict[str, Tensor], History]:
    """Train a new network; `stop_at` ends it within the n-th loss."""
    model, count = network(), 0
    torch.manual_seed(random.SystemRandom().randrange(2**31))  # what ran before does not matter

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count == stop_at:
            raise Stopped
        return nn.functional.cross_entropy(output.float(), targets)

    store = Checkpoints(folder, every_s=0, listener=listener or Listener())
    setup = TrainingSetup(options(**{"epochs": 3, **changes}), network(1), 5, store)
    history = fine_tune(
        model, Data(train=data, val=loader()), setup, judge=Judge(loss), listener=listener or Listener()
    )
    return {n: t.clone() for n, t in model.state_dict().items()}, history


def same(one: tuple[dict[str, Tensor], History], other: tuple[dict[str, Tensor], History]) -> bool:
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in history] for _, history in (one, other)]
    states = [(one[0], other[0]), (one[1].best_state, other[1].best_state)]
    return rows[0] == rows[1] and all(
        a is not None and b is not None and a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
        for a, b in states
    )


LOADERS: dict[str, Callable[[], Any]] = {"ours": loader, "global generators": drawn, "its own": own_generator}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("stop_at", [1, 2, 6, 7, 11, 18])
def test_stopped_anywhere_it_ends_with_the_same_bits(make: Callable[[], Any], stop_at: int, tmp_path: Path) -> None:
    whole = trained(make(), None, ema=0.9)
    with pytest.raises(Stopped):
        trained(make(), tmp_path, stop_at=stop_at, ema=0.9)
    with pytest.raises(Stopped):
        trained(make(), tmp_path, stop_at=1, ema=0.9)
    assert same(trained(make(), tmp_path, ema=0.9), whole)
    assert same(trained(make(), tmp_path, ema=0.9), whole)  # nothing is left to do


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_every_kind_of_training_is_continued(changes: dict[str, Any], tmp_path: Path) -> None:
    whole = trained(drawn(), None, **changes)
    with pytest.raises(Stopped):
        trained(drawn(), tmp_path, stop_at=9, **changes)
    assert same(trained(drawn(), tmp_path, **changes), whole)


def test_the_last_good_checkpoint_survives_damage(tmp_path: Path) -> None:
    whole = trained(drawn(), None)
    with pytest.raises(Stopped):
        trained(drawn(), tmp_path, stop_at=10)
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == [f"training-00001-{n:08}.safetensors" for n in (0, 2, 3)]
    files[-1].write_bytes(files[-1].read_bytes()[:-20])
    notes: list[str] = []
    with pytest.raises(Stopped):
        trained(drawn(), tmp_path, stop_at=1, listener=Listener(note=notes.append))
    assert any("damaged" in note for note in notes) and any("epoch 2, step 3" in note for note in notes)
    for path in tmp_path.iterdir():
        path.write_bytes(b"nothing")
    assert same(trained(drawn(), tmp_path), whole)


def test_other_data_are_noticed_and_the_epoch_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        trained(drawn(), tmp_path, stop_at=10)
    notes: list[str] = []
    other = drawn()
    other.dataset.x += 1  # type: ignore[attr-defined]
    trained(other, tmp_path, listener=Listener(note=notes.append))
    assert any("Were the data changed" in note for note in notes), notes
    trained(loader(), tmp_path, listener=Listener(note=notes.append))
    assert "another data loaders" in notes[-1], notes


class Failing:
    """A loader that fails before its n-th batch, once."""

    def __init__(self, inner: Any, at: int, error: BaseException):
        self.inner, self.at, self.error, self.count = inner, at, error, 0

    def __len__(self) -> int:
        return len(self.inner)

    def set_epoch(self, epoch: int) -> None:
        self.inner.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.inner:
            self.count += 1
            if self.count == self.at:
                raise self.error
            yield batch


@pytest.mark.parametrize("error", [OSError("the disk of the data is gone"), RuntimeError("worker died"), Stopped()])
@pytest.mark.parametrize("at", [2, 9, 13])
def test_a_loader_that_fails_stops_behind_the_last_step(tmp_path: Path, error: BaseException, at: int) -> None:
    whole = trained(loader(), None)
    store = Checkpoints(tmp_path, every_s=1e9)
    model = network()
    torch.manual_seed(0)
    loss = lambda output, targets: nn.functional.cross_entropy(output.float(), targets)
    with pytest.raises(type(error)) as raised:
        fine_tune(
            model, Data(train=Failing(loader(), at, error), val=loader()),
            TrainingSetup(options(epochs=3), network(1), 5, store), judge=Judge(loss),
        )  # fmt: skip
    assert raised.value is error
    done = (at - 1) % 6
    assert not done or f"after step {done}" in error.__notes__[-1]
    notes: list[str] = []
    assert same(trained(loader(), tmp_path, listener=Listener(note=notes.append)), whole)
    assert any(f"step {done + 1}" in note for note in notes)


class Dying(Dataset[tuple[Tensor, Tensor]]):
    """A data set whose worker process is killed at one sample."""

    def __init__(self, at: int):
        self.x, self.y, self.at = *images(), at

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if i == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.x[i], self.y[i]


def test_a_worker_that_dies_stops_the_training_and_it_can_go_on(tmp_path: Path) -> None:
    make = lambda at: DataLoader(Dying(at), batch_size=16, num_workers=1)
    whole = trained(make(-1), None, epochs=1)
    with pytest.raises(RuntimeError, match="worker") as raised:
        trained(make(70), tmp_path, epochs=1)
    assert raised.value
    assert same(trained(make(-1), tmp_path, epochs=1), whole)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_waits_for_the_step_and_the_state_is_kept(tmp_path: Path, number: int, error: Any) -> None:
    whole = trained(loader(), None)
    before = signal.getsignal(signal.SIGTERM)

    def end(*_: Any) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, end)
    try:
        store, steps = Checkpoints(tmp_path, every_s=1e9), 0

        def loss(output: Tensor, targets: Tensor) -> Tensor:
            nonlocal steps
            steps += 1
            if steps == 8:
                os.kill(os.getpid(), number)
            return nn.functional.cross_entropy(output.float(), targets)

        with pytest.raises(error):
            fine_tune(
                network(), Data(train=loader(), val=loader()), TrainingSetup(options(epochs=3), network(1), 5, store),
                judge=Judge(loss),
            )  # fmt: skip
        assert steps == 8 and signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sorted(tmp_path.iterdir())[-1].name == "training-00001-00000002.safetensors"
    assert same(trained(loader(), tmp_path), whole)


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_acts_at_once() -> None:
    acted = []

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        acted.append("first")
        os.kill(os.getpid(), signal.SIGINT)
        acted.append("second")
        return output.sum()

    with pytest.raises(KeyboardInterrupt):
        fine_tune(network(), Data(train=loader()), TrainingSetup(options()), judge=Judge(loss))
    assert acted == ["first"]


def test_in_another_thread_no_signal_is_touched() -> None:
    before, results = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: results.append(trained(loader(), None, epochs=1)))
    thread.start()
    thread.join()
    assert results and signal.getsignal(signal.SIGINT) is before


def exploding(worse: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss that is not finite while the weights are large, which a learning rate above some value makes them."""

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        value = nn.functional.cross_entropy(output.float(), targets)
        return value * (float("nan") if float(output.detach().abs().max()) > worse else 1.0)

    return loss


def test_a_training_that_diverges_goes_back_and_lowers_its_rate(tmp_path: Path) -> None:
    ends = []
    for folder in (None, tmp_path):
        notes: list[str] = []
        model = network()
        history = fine_tune(
            model, Data(train=loader(), val=loader()),
            TrainingSetup(options(epochs=3, lr=20.0, distill=0.0), None, 5, Checkpoints(folder)),
            judge=Judge(exploding(200.0)), listener=Listener(note=notes.append),
        )  # fmt: skip
        assert any("went back to the start of epoch" in note and "learning rate of 5 " in note for note in notes)
        assert len(history) == 3 and all(bool(torch.isfinite(p).all()) for p in model.parameters())
        ends.append(({n: t.clone() for n, t in model.state_dict().items()}, history))
    assert same(*ends)


def test_a_loss_that_explodes_counts_as_diverged() -> None:
    with pytest.raises(TrainingDiverged, match=r"from .* at the first step"):
        fine_tune(
            network(), Data(train=loader()), TrainingSetup(options(lr=1e4, distill=0.0)),
            judge=Judge(lambda o, t: (o.float() ** 2).mean()),
        )  # fmt: skip


def test_another_key_is_another_training(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, key={"recipe": "a", "seed": "1"})
    store.begin_epoch(0, {"epoch": 0, "step": 0}, must=True)
    notes: list[str] = []
    other = Checkpoints(tmp_path, key={"recipe": "b", "seed": "1"}, listener=Listener(note=notes.append))
    assert Checkpoints(tmp_path, key={"recipe": "a", "seed": "1"}).last() is not None
    assert other.last() is None and "another recipe" in notes[0] and not list(tmp_path.iterdir())


def test_parts_survive_and_damage_is_seen(tmp_path: Path) -> None:
    parts = {
        "masks": {"a.weight": torch.tensor([True, False])}, "numbers": [1, 2.5, float("inf"), 2**70, None, True],
        "nested": {0: ({"x": torch.zeros(2, 0)},), "y": torch.tensor(3, dtype=torch.bfloat16)},
        "waves": torch.randn(3, dtype=torch.complex64), "text": "ä\n",
    }  # fmt: skip
    path = tmp_path / "a.safetensors"
    write_parts(path, parts)
    back = read_parts(path)
    refused = 0
    assert str(back) == str(parts) and back["nested"][0][0]["x"].shape == (2, 0)
    for flip in random_flips(tmp_path, 300):
        with flipped(flip):
            try:
                assert str(read_parts(path)) == str(parts), flip  # a blank that became another one
            except CorruptFile:
                refused += 1
    assert refused > 250
