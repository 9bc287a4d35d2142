"""Runs on the command line that end early: what stays, what the shell hears, and how they go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.records import small_record

import sartor
from sartor.cli.failures import Terminated
from sartor.run.kept_stages import STAGES, is_unfinished

SHAPE = ("--input", "1x1x6x6")


def words(net: str, out: Path) -> tuple[str, ...]:
    return ("fit", "--model", net, "--budget", "macs<=60%", "--recipe", "l1", "--out", str(out), *SHAPE, "-q")


class Fitted:
    """A run that was stubbed."""

    record = small_record(status="met")

    def export(self, path: Path) -> None:
        raise RuntimeError("nothing is exported in this test")


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_interrupted_while_exporting_it_is_resumed(
    say: Any, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    folder = tmp_path / "a"

    def stop(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("sartor.cli.fit.write_artefacts", stop)
        said = say(*words(net, folder), "--json")
    assert said.code == code and said.json["error"]["exit_code"] == code
    assert f"sartor resume {folder} --trust" in said.err
    assert (folder / "result.json").is_file() and is_unfinished(folder)
    assert say("runs", "list", folder, "--json").json["runs"][0]["state"] == "unfinished, can be continued"
    again = say(*words(net, folder))
    assert again.code == 2 and f"sartor resume {folder}" in again.err
    before = load_file(folder / "model.safetensors")
    said = say("resume", folder, "--trust", "-q", "--json")
    assert said.code == 0 and any(note.startswith("CONTINUED") for note in said.json["notes"])
    assert {"report.html", "result.json", "model.safetensors"} <= {p.name for p in folder.iterdir()}
    assert not (folder / STAGES).exists() and say("resume", folder).code == 1
    after = load_file(folder / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)


def test_a_folder_of_a_run_killed_before_its_first_file_is_usable(
    say: Any, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sartor, "fit", lambda *a, **k: Fitted())
    folder = tmp_path / "a"
    (folder / STAGES).mkdir(parents=True)
    (folder / ".lock").write_text("")
    (folder / ".command.0123abcd.json").write_text("{")
    assert say(*words(net, folder)).code == 0
    assert not (folder / ".command.0123abcd.json").exists() and not (folder / STAGES).exists()


def test_force_removes_files_of_runs_only(say: Any, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sartor, "fit", lambda *a, **k: Fitted())
    folder = tmp_path / "a"
    assert say(*words(net, folder)).code == 0
    (folder / "model.float16.onnx").write_text("old")
    assert say(*words(net, folder), "--force").code == 0 and not (folder / "model.float16.onnx").exists()
    (folder / "thesis.tex").write_text("mine")
    (folder / "pictures").mkdir()
    said = say(*words(net, folder), "--force")
    assert said.code == 2 and "pictures, thesis.tex" in said.err
    assert (folder / "thesis.tex").read_text() == "mine" and (folder / "result.json").is_file()
    assert said.err.count("\n") < 4


def test_a_run_in_python_is_resumed_in_python(say: Any, tmp_path: Path) -> None:
    (tmp_path / STAGES).mkdir()
    (tmp_path / "record.jsonl").write_text("")
    said = say("resume", tmp_path)
    assert said.code == 2 and "the same call continues it" in said.err
