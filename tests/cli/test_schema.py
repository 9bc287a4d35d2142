"""What commands print with --json is what `sartor schema` describes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import sartor
from sartor.cli import run
from sartor.cli.schema import SCHEMAS
from sartor.errors import BadInput
from sartor.types import Plan, Recipe, to_plain

SHAPE = ("--input", "1x1x6x6")
QUICK = (*SHAPE, "--seconds", "0", "--samples", "5", "--sessions", "1")
Check = Callable[[str, dict[str, Any]], None]


@pytest.fixture
def check(say) -> Check:
    """Validates an object against the schema that the program prints, and against nothing looser."""

    def valid(name: str, answer: dict[str, Any]) -> None:
        schema = say("schema", name, "--json").json
        checker = jsonschema.Draft202012Validator(schema)
        checker.check_schema(schema)
        checker.validate(answer)
        assert not checker.is_valid({**answer, "unknown": 1}), "fields that the schema does not name pass"
        assert not checker.is_valid({}), "an empty object passes"

    return valid


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    """A finished run."""
    place = tmp_path_factory.mktemp("run")
    (place / "net.py").write_text(source)
    words = ["fit", "--model", f"{place / 'net.py'}:net", "--data", f"{place / 'net.py'}:data", "--recipe", "l1"]
    words += ["--budget", "params<=80%, drop<=100", "--epochs", "1", "--test", "--quiet", "--out", str(place / "a")]
    assert run(words) == 0
    return place / "a"


def test_every_schema_is_listed(say) -> None:
    assert [row["name"] for row in say("schema", "--json").json["schemas"]] == list(SCHEMAS)
    assert all(name in say("schema").out for name in SCHEMAS)
    said = say("schema", "recrod")
    assert said.code == 2 and "Did you mean 'record'" in said.err


def test_files_of_a_run_follow_their_schemas(check: Check, folder: Path) -> None:
    for name, file in (("record", "result.json"), ("plan", "plan.json"), ("edits", "edits.json")):
        raw = json.loads((folder / file).read_text())
        assert raw["format"] == 2 and raw["sartor"]
        check(name, raw)
    request = json.loads((folder / "command.json").read_text())
    assert request["format"] == 2 and request["sartor"]


def test_fit_prints_a_record(check: Check, say, net: str, tmp_path: Path) -> None:
    words = ("fit", "--model", net, *SHAPE, "--budget", "params<=80%", "--recipe", "l1", "--quiet", "--json")
    check("record", say(*words, "--out", tmp_path / "a").json)


def test_inspect_prints_an_inspection(check: Check, say, net: str) -> None:
    found = say("inspect", net, *SHAPE, "--json").json
    check("inspection", found)
    check("inspection", say("inspect", net, *SHAPE, "--why", *[found["groups"][0]["writes"][0]] * 2, "--json").json)


def test_measure_prints_a_measurement(check: Check, say, net: str, folder: Path) -> None:
    check("measurement", say("measure", net, *QUICK, "--json").json)
    check("measurement", say("measure", net, "--against", net, *QUICK, "--json").json)
    check("measurement", say("measure", folder, "--against", net, "--trust", *QUICK, "--json").json)


def test_energy_is_part_of_the_measurement(check: Check, say, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sartor.measure import energy

    meter = type("Fake", (), {"name": "a fake", "joules": lambda self: 10.0 * time.perf_counter()})
    monkeypatch.setattr(energy, "meter_for", lambda target: meter())
    monkeypatch.setattr(energy.energy, "__kwdefaults__", {**energy.energy.__kwdefaults__, "blocks": 2, "block_s": 0.01})
    for words in (("measure", net), ("measure", net, "--against", net)):
        found = say(*words, *QUICK, "--energy", "--json").json
        assert found["energy"]
        check("measurement", found)


def test_frontier_prints_a_frontier(check: Check, say, net: str, tmp_path: Path) -> None:
    data, out = net.replace(":net", ":data"), tmp_path / "frontier"
    words = ("frontier", net, "--option", "width=16", "--data", data, "--recipes", "l1", "--calibration", "16")
    check("frontier", say(*words, "--shares", "80,1", "--json").json)  # 1 % cannot be reached
    check("frontier", say(*words, "--shares", "80", "--out", out, "--json").json)
    check("frontier", json.loads((out / "frontier.json").read_text()))


@pytest.mark.parametrize("kind", ["criteria", "recipes", "targets", "allocators", "data", "probes"])
def test_list_prints_a_listing(say, kind: str) -> None:
    found = say("list", kind, "--json").json
    jsonschema.validate(found, say("schema", "listing", "--json").json)
    assert set(found) == {"format", "sartor", kind}


def test_recipes_follow_their_schema(say) -> None:
    from sartor.recipes import RECIPES

    schema = say("schema", "recipe", "--json").json
    for recipe in (Recipe(), *(entry.value for entry in RECIPES.entries())):
        jsonschema.validate(to_plain(recipe), schema)


def test_files_of_format_1_did_not_say_it_and_load_once_they_are_adopted(
    say, folder: Path, net: str, tmp_path: Path
) -> None:
    from sartor.sources import load_model

    old = tmp_path / "old"
    old.mkdir()
    for file in ("result.json", "plan.json", "edits.json", "command.json"):
        raw = json.loads((folder / file).read_text())
        del raw["format"], raw["sartor"]
        (old / file).write_text(json.dumps(raw))
    (old / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert Plan.from_json((old / "plan.json").read_text()) == Plan.from_json((folder / "plan.json").read_text())
    assert say("report", old, "--json").json["status"] == "met" and (old / "report.html").stat().st_size
    with pytest.raises(BadInput, match="verify --adopt"):
        sartor.load(old, lambda: load_model(net))
    assert say("runs", "verify", "--adopt", old).code == 0
    sizes = [t.shape for t in sartor.load(old, lambda: load_model(net)).parameters()]
    assert sizes == [t.shape for t in sartor.load(folder, lambda: load_model(net)).parameters()]
