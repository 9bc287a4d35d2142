"""`sartor analyse` on a real, very small network and on a run."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest


@pytest.fixture
def data(net: str) -> str:
    return net.replace(":net", ":data")


def test_one_network(say, net: str, data: str) -> None:
    found = say("analyse", net, "--data", data, "--probes", "accuracy,dead-units", "--json").json
    jsonschema.validate(found, say("schema", "analysis", "--json").json)
    assert found["samples"] == 16 and "against" not in found
    assert {row["probe"] for row in found["rows"]} == {"accuracy", "dead-units"}
    shown = say("analyse", net, "--data", data, "--probes", "accuracy,dead-units").out
    assert "accuracy" in shown and "rows of single layers are not shown" in shown
    assert "dead rate of relu" in say("analyse", net, "--data", data, "--probes", "dead-units", "--layers").out


def test_the_usual_probes_and_parts_of_the_data(say, net: str, data: str) -> None:
    found = say("analyse", net, "--data", data, "--part", "train", "--samples", "20", "--json").json
    assert found["samples"] == 20 and {"calibration", "fgsm"} <= {row["probe"] for row in found["rows"]}
    every = say("analyse", net, "--data", data, "--probes", "all", "--json").json
    assert {"bit-flips", "lipschitz"} <= {row["probe"] for row in every["rows"]}
    assert any(note.startswith("exit-cost") for note in every["notes"])


def test_a_run_beside_its_original(say, net: str, data: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    asked = ("--data", data, "--budget", "macs<=60%", "--recipe", "l2", "--epochs", "0", "--out", folder)
    assert say("fit", "--model", net, *asked).code == 0
    words = ("analyse", folder, "--data", data, "--against", net, "--probes", "accuracy,conditioning", "--trust")
    found = say(*words, "--json").json
    assert [r["layer"] for r in found["rows"]] == [r["layer"] for r in found["against_rows"]]
    page = tmp_path / "page.html"
    assert "difference" in say(*words, "--html", page).out
    assert "accuracy" in page.read_text() and "<script" not in page.read_text()


def test_what_is_wrong_is_said(say, net: str, data: str) -> None:
    assert "Did you mean 'calibration'" in say("analyse", net, "--data", data, "--probes", "calibratoin").err
    assert "part of the data" in say("analyse", net, "--data", data, "--part", "vall").err


def test_advice_for_a_network(say, net: str) -> None:
    found = say("advise", net, "--input", "1x1x6x6", "--json").json
    jsonschema.validate(found, say("schema", "advice", "--json").json)
    assert [row["layer"] for row in found["layers"]] == ["conv", "fc"]
    assert "array of 32 x 32" in say("advise", net, "--input", "1x1x6x6").out
    assert "expected two numbers" in say("advise", net, "--input", "1x1x6x6", "--array", "32").err
