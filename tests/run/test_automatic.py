"""A run without a recipe does the best with what was passed, and says what that is and what makes it meaningless."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sartor
from sartor.errors import BadInput
from sartor.recipes.automatic import automatic_recipe
from sartor.run import fit as fit_module
from sartor.run.doubts import doubts
from sartor.run.stages import Quality
from sartor.seed import seeded
from sartor.types import Comparison, Data, Judge, Latency, Target


@pytest.fixture(autouse=True)
def nothing_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Latency(tuple([1.0] * 20), 1, Target("eager"))
    monkeypatch.setattr(fit_module.stages, "deliver", lambda *a: Comparison(fixed, fixed))
    monkeypatch.setattr("sartor.export.delivery.Delivery.file_for", lambda *a: None)


def net(outputs: int = 4) -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, outputs)).eval()


def data(n: int = 4, seed: int = 0, classes: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(16, 8, generator=g), torch.randint(classes, (16,), generator=g)) for _ in range(n)]


@pytest.mark.parametrize(
    ("arguments", "recipe", "epochs"),
    [
        ({"train": data(), "val": data(2, 1)}, "reconstruction", 10),
        ({"train": data(), "epochs": 2}, "reconstruction", 2),
        ({"train": data(), "epochs": 0}, "reconstruction", 0),
        ({"calibration": [x for x, _ in data()]}, "reconstruction", 0),
        ({"example": data()[0][0]}, "l1", 0),
        ({"train": data(), "recipe": "l2"}, "l2", 0),
        ({"train": data(), "recipe": "l2", "epochs": 1}, "l2", 1),
    ],
)
def test_the_recipe_follows_from_what_was_passed(arguments, recipe: str, epochs: int) -> None:
    fitted = sartor.fit(net(), budget="macs<=60%", **arguments)
    assert fitted.result["recipe"] == recipe and len(fitted.result["training"]) == epochs
    chosen = [note for note in fitted.result["notes"] if note.startswith("recipe chosen")]
    assert bool(chosen) == ("recipe" not in arguments)


def test_epochs_have_to_be_a_number() -> None:
    with pytest.raises(BadInput, match="epochs: expected a whole number"):
        sartor.fit(net(), data(), budget="macs<=60%", epochs=1.5)  # type: ignore[arg-type]


def test_long_epochs_are_fewer() -> None:
    class Loader(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 400

    assert automatic_recipe(net(), Loader(), calibrated=True)[0].training.epochs == 3


def test_training_that_makes_it_worse_is_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([50.0, 40.0, 48.0, *[30.0] * 99])
    monkeypatch.setattr(fit_module.stages, "judge", lambda *a: Quality(next(values), None))
    fitted = sartor.fit(net(), data(), data(2, 1), budget="macs<=60%", epochs=1)
    assert fitted.result["quality"]["final"] == 48.0
    assert any("training made quality worse" in note for note in fitted.result["notes"])


def words(network: nn.Module, parts: Data, accuracy: float) -> str:
    return " ".join(doubts(network, parts, Judge(), accuracy))


def test_an_original_at_chance_and_a_head_of_other_classes_are_said() -> None:
    val = data(8, 1)
    assert "GUESSES" in words(net(), Data(val=val), 26.0)
    assert "GUESSES" not in words(net(), Data(val=val), 80.0)
    assert "OTHER CLASSES" in words(net(1000), Data(val=val), 80.0)
    assert "OTHER CLASSES" not in words(net(), Data(val=val), 80.0)


def test_validation_on_training_data_is_said() -> None:
    train, val = data(8), data(4, 1)
    assert "VAL IS TRAIN" in words(net(), Data(train, train), 90.0)
    assert "VAL HOLDS TRAINING SAMPLES" in words(net(), Data(train, [*val[:2], *train[:2]]), 90.0)
    assert not words(net(), Data(train, val), 90.0)
    whole = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.randint(4, (64,)))
    loaders = [torch.utils.data.DataLoader(whole, batch_size=16, shuffle=s) for s in (True, False)]
    assert "VAL IS TRAIN" in words(net(), Data(*loaders), 90.0)
