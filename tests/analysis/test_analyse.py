"""`analyse`: which probes run, what they are given, what is said where they cannot be computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sartor import BadInput, UnknownName
from sartor.analysis import Analysis, Reading, analyse
from sartor.analysis.data_pass import WIDEST, pass_over, sketch
from sartor.analysis.intervals import share_interval
from sartor.types import Data
from tests.analysis.known import batches, subject


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def data(n: int = 30) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return batches(torch.randn(n, 6, generator=generator), torch.arange(n) % 3, 16)


def test_without_names_the_usual_probes_run_and_the_rest_become_notes() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.embed(ids)).mean(1))

    found = analyse(Words(), [(torch.randint(10, (30, 5)), torch.arange(30) % 3)])
    assert {"accuracy", "calibration", "dead-units"} <= {r.probe for r in found.rows}
    assert any(note.startswith("fgsm: ") and "floating-point" in note for note in found.notes)
    with pytest.raises(BadInput, match="floating-point"):
        analyse(Words(), [(torch.randint(10, (30, 5)), torch.arange(30) % 3)], ["fgsm"])


def test_a_function_is_a_probe_and_an_unknown_name_is_refused() -> None:
    def width(features: object) -> list[Reading]:
        return [Reading("width", float(features.values.shape[1]))]  # type: ignore[attr-defined]

    assert analyse(mlp(), data(), [width]).value("width") == 8
    with pytest.raises(UnknownName, match="calibration"):
        analyse(mlp(), data(), ["calibratoin"])
    with pytest.raises(BadInput, match="expected one of"):
        analyse(mlp(), data(), [lambda weights: []])


def test_labels_are_asked_for_where_they_are_needed() -> None:
    unlabelled = [(x, None) for x, _ in data()]
    assert analyse(mlp(), unlabelled, ["dead-units"]).rows
    with pytest.raises(BadInput, match="needs labels"):
        analyse(mlp(), unlabelled, ["accuracy"])
    assert "accuracy" in " ".join(analyse(mlp(), unlabelled).notes)


def test_a_class_without_samples_is_named() -> None:
    with pytest.raises(BadInput, match="expected samples of all 3 classes; 2 have none"):
        analyse(mlp(), [(torch.randn(8, 6), torch.zeros(8, dtype=torch.int64))], ["neural-collapse"])


def test_the_validation_part_is_looked_at() -> None:
    train, val = data(64), data(30)
    assert analyse(mlp(), Data(train=train, val=val), ["accuracy"]).samples == 30
    assert analyse(mlp(), Data(train=train), ["accuracy"]).samples == 64
    with pytest.raises(BadInput, match="got none"):
        analyse(mlp(), Data(), ["accuracy"])


def test_an_analysis_survives_json() -> None:
    found = analyse(mlp(), data(), ["accuracy", "conditioning"])
    assert Analysis.model_validate(found.to_plain()) == found


def test_layers_have_the_same_names_after_a_cut() -> None:
    from sartor import cut, probe, trace
    from sartor.testing.plans import unequal

    model, x = mlp(), torch.randn(2, 6)
    graph = probe(model, trace(model, x))
    smaller = cut(model, graph, unequal(graph))
    names = [[r.key for r in analyse(m, data(), ["dead-units", "conditioning"]).rows] for m in (model, smaller)]
    assert names[0] == names[1]


def test_wide_layers_are_projected_so_that_products_are_kept_on_average() -> None:
    rows = torch.randn(4, 3 * WIDEST, generator=torch.Generator().manual_seed(0))
    assert sketch(rows[:, :5], WIDEST, 0).equal(rows[:, :5])
    drawn = torch.stack([sketch(rows, WIDEST, seed) @ sketch(rows, WIDEST, seed).T for seed in range(30)])
    exact = rows @ rows.T
    assert torch.allclose(drawn.mean(0), exact, atol=5 * float(drawn.std(0).max()) / 30**0.5)
    model = nn.Sequential(nn.Linear(6, WIDEST + 1), nn.ReLU(), nn.Linear(WIDEST + 1, 3))
    seen = pass_over(subject(model, data()), {"activations"})["activations"]
    assert [(a.projected, tuple(a.values.shape)) for a in seen.values()] == [(True, (30, WIDEST))]


def test_the_interval_of_a_share_holds_it_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    for p in (0.05, 0.5, 0.9):
        hits = (torch.rand(400, 60, generator=generator) < p).sum(1).tolist()
        held = sum(low <= p <= high for low, high in (share_interval(h, 60) for h in hits))
        assert held >= 0.92 * 400
