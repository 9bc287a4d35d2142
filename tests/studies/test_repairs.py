"""The study of repairs: every way repairs the same cut, and the table shows the spread over seeds."""

from __future__ import annotations

import pytest

from sartor.errors import UnknownName
from sartor.studies import RowStore, StudyRun, markdown
from sartor.studies.repairs import REPAIRS, Repairs
from sartor.types import Distil

NET = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 10),
    )
"""


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    file = tmp_path / "repairs.toml"
    file.write_text(
        f"""shares = [60]
[[network]]
name = "small"
model = "{tmp_path}/net.py:net"
data = "digits:"
batch = 32
calibration = 160
"""
    )
    return file


def test_every_repair_is_of_one_cut(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REPAIRS, "refit, distilled", (*REPAIRS["refit"], Distil(steps=8)))
    study, run = Repairs(file=bench), StudyRun(RowStore(None, Repairs.key), seed=3)
    rows = list(study.rows(run))
    assert [r["repair"] for r in rows] == list(REPAIRS)
    assert len({r["macs"] for r in rows}) == 1 and rows[0]["macs"] <= 0.6
    gaps = {r["repair"]: r["gap"] for r in rows}
    assert gaps["refit"] < gaps["cut only"] and gaps["refit"] == gaps["refit without logits"]
    assert rows[-1]["steps"] == 8 and rows[-1]["bounded_by"] == "steps"
    text = markdown(study.parts(study.answer(rows, run)))
    assert "| refit, distilled |" in text and "8 steps" in text


def test_repairs_and_shares_are_chosen_by_name(bench) -> None:
    run = StudyRun(RowStore(None, Repairs.key))
    rows = list(Repairs(file=bench, shares="70", repairs="cut only; GRAIL", seeds=2).rows(run))
    assert [(r["seed"], r["repair"]) for r in rows] == [(0, "cut only"), (0, "GRAIL"), (1, "cut only"), (1, "GRAIL")]
    with pytest.raises(UnknownName, match="repair"):
        list(Repairs(file=bench, repairs="gail").rows(run))
