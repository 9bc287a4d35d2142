"""`sartor frontier` on a real, very small network."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sartor.cli.frontier import parse_shares
from sartor.errors import BadInput
from sartor.types import Effort


@pytest.fixture
def words(net: str) -> tuple[str, ...]:
    """The least that makes a frontier."""
    data = net.replace(":net", ":data")
    return ("frontier", net, "--option", "width=16", "--data", data, "--recipes", "l1,reconstruction", "--shares",
            "80,50", "--calibration", "16", "--seed", "1")  # fmt: skip


def test_every_recipe_at_every_share(say, words: tuple[str, ...]) -> None:
    found = say(*words, "--test", "--json").json
    assert [(p["recipe"], p["asked"]) for p in found["points"]] == [
        ("l1", 0.8), ("l1", 0.5), ("reconstruction", 0.8), ("reconstruction", 0.5)
    ]  # fmt: skip
    for point in found["points"]:
        assert point["status"] == "met" and point["macs"] <= point["asked"] and point["gap"] >= 0
        assert 0 <= point["test"] <= 100 and 0 <= point["val"] <= 100 and point["latency"] is None
    assert found["calibration"]["samples"] == 16


def test_a_smaller_share_of_one_recipe_is_further_away(say, words: tuple[str, ...]) -> None:
    points = [p for p in say(*words, "--json").json["points"] if p["recipe"] == "reconstruction"]
    assert points[0]["gap"] <= points[1]["gap"]


def test_the_same_seed_gives_the_same_frontier(say, words: tuple[str, ...]) -> None:
    def plain(found: dict) -> list:
        return [{k: v for k, v in p.items() if k != "seconds"} for p in found["points"]]

    assert plain(say(*words, "--json").json) == plain(say(*words, "--json").json)


def test_what_cannot_be_reached_is_said_and_the_rest_stands(say, words: tuple[str, ...]) -> None:
    said = say(*words, "--shares", "80,1", "--json").json
    by = {p["asked"]: p for p in said["points"] if p["recipe"] == "l1"}
    assert by[0.8]["status"] == "met"
    assert by[0.01]["status"] == "not reached" and "cannot go below" in by[0.01]["why"] and by[0.01]["macs"] is None


def test_times_every_network_where_asked(say, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sartor.studies.frontier.EFFORT", Effort(sessions=1, min_seconds=0.1, max_seconds=0.2))
    found = say(*words, "--shares", "50", "--recipes", "l1", "--target", "eager-cpu", "--json").json
    (point,) = found["points"]
    low, high = point["latency"]["interval"]
    assert low <= point["latency"]["ratio"] <= high and found["target"] == "eager-cpu"


def test_the_files(say, words: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "frontier"
    found = say(*words, "--test", "--out", out, "--json").json
    assert json.loads((out / "frontier.json").read_text())["points"] == found["points"]
    rows = list(csv.DictReader((out / "frontier.csv").open()))
    assert [float(r["macs"]) for r in rows] == [p["macs"] for p in found["points"]]
    page = (out / "frontier.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    drawn = ElementTree.fromstring(page[page.index("<svg", page.index("<figure")) : page.index("</svg>") + 6])
    circles = [e for e in drawn.iter() if e.tag.endswith("circle")]
    assert len(circles) == len(found["points"])
    again = say(*words, "--out", out)
    assert again.code != 0 and "--force" in again.err
    assert say(*words, "--out", out, "--force").code == 0


def test_a_folder_of_something_else_is_left_alone(say, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    said = say(*words, "--out", tmp_path / "mine", "--force")
    assert said.code != 0 and (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("text", ["", "0", "100", "half", "50,-3"])
def test_shares_that_say_nothing(text: str) -> None:
    with pytest.raises(BadInput, match="--shares"):
        parse_shares(text)
