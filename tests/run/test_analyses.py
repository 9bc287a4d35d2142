"""Probes before and after a run, in its record and report."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sartor import BadInput, UnknownName, fit
from sartor.analysis import Reading
from sartor.report.rows import analysis_rows
from sartor.report.text import summary
from sartor.run.record import Record


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(30, 6, generator=generator), torch.arange(30) % 3) for _ in range(2)]


def test_rows_of_both_networks_are_in_the_record_and_in_the_report() -> None:
    fitted = fit(mlp(), data(), data(), budget="macs<=60%", recipe="l2", epochs=0, analyse=["accuracy", "conditioning"])
    rows = fitted.record.analysis
    (accuracy,) = (row for row in rows if row.probe == "accuracy")
    assert accuracy.original == pytest.approx(fitted.record.quality.original)
    assert accuracy.fitted == pytest.approx(fitted.record.quality.final)
    assert {row.layer for row in rows if row.quantity == "condition number"} == {"0", "2"}
    assert Record.from_result(fitted.result).analysis == rows
    assert next(r.quantity for r in analysis_rows(fitted.record)) == "accuracy"
    assert summary(fitted.record)


def test_the_page_shows_them() -> None:
    pytest.importorskip("jinja2")
    from sartor.report.html import render

    fitted = fit(mlp(), data(), data(), budget="macs<=60%", recipe="l2", epochs=0, analyse=["dead-units"])
    page = render(fitted.record)
    assert "Analysis" in page and "dynamic dead rate" in page
    assert "Analysis <span>" not in render(fit(mlp(), data(), data(), budget="macs<=60%", recipe="l2", epochs=0).record)


def test_what_fails_becomes_a_note_and_the_run_is_kept() -> None:
    def broken(outputs: object) -> list[Reading]:
        raise BadInput("this probe is broken")

    def crashed(outputs: object) -> list[Reading]:
        raise ZeroDivisionError

    fitted = fit(mlp(), data(), data(), budget="macs<=60%", recipe="l2", epochs=0, analyse=[broken, "accuracy"])
    assert fitted.met and any("this probe is broken" in note for note in fitted.record.notes)
    assert [row.probe for row in fitted.record.analysis] == ["accuracy"]
    fitted = fit(mlp(), data(), data(), budget="macs<=60%", recipe="l2", epochs=0, analyse=[crashed])
    assert fitted.met and any("ZeroDivisionError" in note for note in fitted.record.notes)


def test_wrong_names_are_refused_before_anything_is_computed() -> None:
    with pytest.raises(UnknownName, match="calibration"):
        fit(mlp(), data(), budget="macs<=60%", analyse=["calibratoin"])
    with pytest.raises(BadInput, match="expected a list of probes"):
        fit(mlp(), data(), budget="macs<=60%", analyse="calibration")
    with pytest.raises(BadInput, match="got none"):
        fit(mlp(), example=torch.randn(2, 6), budget="macs<=60%", analyse=["dead-units"])
