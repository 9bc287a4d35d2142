"""`sartor runs`: list, show, verify and clean, on folders that are finished, unfinished, damaged, or left by a kill."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from tests.zoo_graphs import understood

from sartor.export.manifest import MANIFEST, STAGE, Contents
from sartor.run.folder import WEIGHTS, problems_of, write_model
from sartor.surgery import cut, edits_for
from sartor.testing.faults import flipped, random_flips
from sartor.testing.plans import halves


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, _, graph = understood("resnet")
    plan = halves(graph)
    write_model(tmp_path / "runs" / "a", cut(model, graph, plan), plan, edits_for(model, graph, plan))
    return tmp_path / "runs" / "a"


def test_verify_names_the_file_and_exits_1(say, folder: Path) -> None:
    assert say("runs", "verify", folder, "--json").json["runs"] == [{"run": str(folder), "problems": {}}]
    for flip in random_flips(folder, 5):
        with flipped(flip):
            said = say("runs", "verify", folder, folder, "--json")
            assert said.code == 1 and list(said.json["runs"][1]["problems"]) == [flip.file.name]
            assert flip.file.name in say("runs", "verify", folder).out
    (folder / MANIFEST).unlink()
    assert say("runs", "verify", folder, "--json").json["runs"][0]["problems"] == {MANIFEST: "missing"}
    assert say("runs", "verify", folder, "--adopt").code == 0 and not problems_of(folder)
    assert say("runs", "verify", folder, "--adopt").code == 2


def test_list_and_show_describe_a_folder(say, folder: Path) -> None:
    rows = say("runs", "list", folder.parent.parent, "--json").json["runs"]
    assert [(r["run"], r["state"]) for r in rows] == [(str(folder), "unfinished")]
    shown = say("runs", "show", folder, "--json").json
    assert shown["files"].keys() == {"plan.json", "edits.json", WEIGHTS} and shown["imports"] == {}
    assert WEIGHTS in say("runs", "show", folder).out
    assert say("runs", "show", folder.parent).code == 2
    assert say("runs", "list", folder / "nothing").code == 2


def test_clean_removes_leftovers_and_nothing_else(say, folder: Path) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    (folder / ".model.0123abcd.safetensors").write_text("half")
    (folder / ".lock").write_text(json.dumps({"process": 999999999, "machine": socket.gethostname()}))
    (folder / STAGE).mkdir()
    (folder / STAGE / "plan.json").write_text("half")
    (folder / "notes.txt").write_text("mine")
    removed = say("runs", "clean", folder.parent, "--json").json["removed"]
    assert {Path(p).name for p in removed} == {".model.0123abcd.safetensors", ".lock", STAGE}
    (folder / "notes.txt").unlink()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert "nothing was left behind" in say("runs", "clean", folder).out


def test_clean_moves_files_that_count_into_place(say, folder: Path) -> None:
    (folder / STAGE).mkdir()
    for name in (WEIGHTS, MANIFEST):
        (folder / name).rename(folder / STAGE / name)
    assert Contents.of(folder).staged and not problems_of(folder)
    assert say("runs", "clean", folder).code == 0
    assert not (folder / STAGE).exists() and (folder / WEIGHTS).is_file() and not problems_of(folder)
