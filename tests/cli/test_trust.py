"""A stranger's run folder runs nothing: what it would import is shown, and refused without --trust."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sartor.cli import run
from sartor.cli.request import REQUEST_FILE
from sartor.cli.trust import run_uses
from sartor.run.folder import adopt

SHAPE = ("--input", "1x1x6x6")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    """The folder of a finished run of the command line."""
    place = tmp_path_factory.mktemp("saved")
    (place / "net.py").write_text(source)
    words = ["fit", "--model", f"{place / 'net.py'}:net", "--budget", "params<=60%", "--recipe", "l1", *SHAPE]
    assert run([*words, "--out", str(place / "a"), "--quiet"]) == 0
    return place / "a"


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once code of a folder has run; the folder brings a module of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "canary"


def crafted(folder: Path, **fields: Any) -> Path:
    folder.mkdir()
    code = f"open({str(folder.parent / 'canary')!r}, 'w').write('ran')\n"
    (folder / "evil.py").write_text(code + "def net(*a, **k): raise SystemExit(7)\nTARGET = net\n")
    (folder.parent / "evil_module.py").write_text(code)
    usual = {"format": 2, "sartor": "0", "model": "timm:resnet18", "budget": "macs<=50%", "input": "1x1x6x6"}
    request = {**usual, **fields}
    (folder / REQUEST_FILE).write_text(json.dumps({k: v for k, v in request.items() if v is not None}))
    return folder


EVIL: list[dict[str, Any]] = [
    {"model": "os:system", "model_options": {"command": "touch canary"}},
    {"model": "os:system?command=touch canary"},
    {"model": "subprocess:getoutput?cmd=touch canary"},
    {"model": "run/evil.py:net"},
    {"model": "evil_module:net"},
    {"model": "../../evil.py:net"},
    {"model": "timm:hf-hub:somebody/something"},
    {"model": "timm:resnet18?checkpoint_path=x"},
    {"model": "timm:resnet18", "model_options": {"pretrained": True}},
    {"model": "torchvision:resnet18?weights=DEFAULT"},
    {"data": "subprocess:getoutput?cmd=touch canary", "input": None},
    {"data": "run/evil.py:net", "input": None},
    {"data": "imagefolder:/etc", "input": None},
    {"data": "npz:/dev/zero", "input": None},
    {"data": "cifar10:../..", "input": None},
    {"data": "digits:", "loss": "run/evil.py:net"},
    {"data": "digits:", "loss": "os:system"},
    {"data": "digits:", "metric": "run/evil.py:net"},
    {"budget": "latency<=50% @ run/evil.py"},
    {"budget": "latency<=50% @ ./run/evil.py:threads=1"},
    {"budget": "latency<=50% @ pi.toml"},
    {"weights": "/etc/passwd"},
]


@pytest.mark.parametrize("fields", EVIL, ids=str)
def test_resume_shows_what_a_folder_would_import_and_refuses(say, canary: Path, fields: dict[str, Any]) -> None:
    folder = crafted(canary.parent / "run", **fields)
    said = say("resume", folder, "--json")
    assert said.code == 2 and "--trust" in said.json["error"]["message"]
    assert any(str(v) in said.json["error"]["message"] for v in fields.values() if v not in (None, "digits:"))
    assert not canary.exists() and {p.name for p in folder.iterdir()} == {REQUEST_FILE, "evil.py"}


MODELS = [f for f in EVIL if "model" in f]
DATA = [f for f in EVIL if "data" in f and f.get("input", "") is None]


@pytest.mark.parametrize("fields", [*MODELS, *DATA], ids=str)
@pytest.mark.parametrize("command", [("export",), ("measure", "--target", "eager-cpu")], ids=lambda c: c[0])
def test_export_and_measure_refuse_it_as_well(say, canary: Path, saved: Path, command, fields: dict[str, Any]) -> None:
    folder = canary.parent / "run"
    crafted(folder, **fields)
    for file in saved.iterdir():
        if file.name != REQUEST_FILE:
            shutil.copy(file, folder)
    (folder / "manifest.json").unlink()
    adopt(folder)
    said = say(command[0], folder, *command[1:], "--json")
    assert said.code == 2 and "--trust" in said.json["error"]["message"], said
    assert not canary.exists()
    assert say("report", folder, "--json").code == 0  # reads the result, imports nothing
    assert say("runs", "show", folder, "--json").json["imports"]
    assert say("runs", "verify", folder).code == 0
    assert say("runs", "list", folder.parent).code == 0
    assert not canary.exists()


def test_the_owner_trusts_the_folder_or_builds_the_network(say, saved: Path, net: str, tmp_path: Path) -> None:
    assert say("export", saved, "--out", tmp_path / "a.pt2", "--to", "pt2").code == 2
    said = say("export", saved, "--out", tmp_path / "a.pt2", "--to", "pt2", "--trust")
    assert said.code == 0 and f"imports or reads model '{saved.parent / 'net.py'}:net'" in said.err
    said = say("export", saved, "--out", tmp_path / "b.pt2", "--to", "pt2", "--factory", net)
    assert said.code == 0 and "imports or reads" not in said.err
    quick = ("--samples", "5", "--seconds", "0")
    assert say("measure", saved, *quick).code == 2
    assert say("measure", saved, *quick, "--trust").code == 0
    assert say("measure", saved, *quick, "--factory", net, *SHAPE).code == 0


def test_what_comes_with_installed_libraries_needs_no_trust() -> None:
    from sartor.cli.request import Request

    assert run_uses(Request(model="timm:resnet18.a1_in1k", data="digits:", loss="mse", metric="accuracy")) == {}
    assert run_uses(Request(model="torchvision:resnet18", budget="latency<=50% @ onnxruntime-cpu:threads=1")) == {}


DAMAGED = ["{", "[]", '{"format": 99}', "[" * 100000, "1" * 5000, '{"model": 3}', "\x00", '{"x": 1}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_request_is_one_sentence(say, tmp_path: Path, text: str) -> None:
    (tmp_path / REQUEST_FILE).write_text(text)
    for command in ("resume", "export", "measure"):
        said = say(command, tmp_path, "--json")
        assert said.code in (1, 2) and said.json["error"]["kind"] in ("CorruptFile", "BadInput"), said
    assert "damaged" in say("runs", "list", tmp_path).out


def test_an_enormous_input_is_refused_before_it_is_made(say, saved: Path, tmp_path: Path, net: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    request = json.loads((folder / REQUEST_FILE).read_text())
    (folder / REQUEST_FILE).write_text(json.dumps({**request, "input": "1x1x300000x300000"}))
    (folder / "manifest.json").unlink()
    adopt(folder)
    said = say("export", folder, "--factory", net, "--json")
    assert said.code == 2 and "numbers in all" in said.json["error"]["message"]


def test_a_second_process_is_told_who_writes_to_the_folder(say, saved: Path, net: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    slow = tmp_path / "slow.py"
    slow.write_text(Path(net.rpartition(":")[0]).read_text() + "\n\ndef slow():\n    import time\n    time.sleep(60)\n")
    command = [sys.executable, "-m", "sartor", "fit", "--model", f"{slow}:slow", "--budget", "macs<=50%", *SHAPE]
    process = subprocess.Popen([*command, "--out", str(folder), "--quiet"], env=os.environ, stderr=subprocess.PIPE)
    try:
        while not (folder / ".lock").exists() or not (folder / ".lock").read_text():
            assert process.poll() is None, process.stderr
            time.sleep(0.05)
        (folder / REQUEST_FILE).write_text((saved / REQUEST_FILE).read_text())
        before = {p.name for p in folder.iterdir()}
        fit = ("fit", "--model", net, "--budget", "macs<=50%", *SHAPE, "--out", folder)
        for words in (("resume", folder, "--trust"), (*fit, "--force"), fit):
            said = say(*words, "--json")
            assert said.json["error"]["kind"] == "FolderInUse" and said.code == 1
            assert f"process {process.pid} on" in said.json["error"]["message"]
            assert {p.name for p in folder.iterdir()} == before
        assert say("runs", "list", folder, "--json").json["runs"][0]["state"] == "being written"
        assert say("runs", "clean", folder, "--json").json["in_use"] == [str(folder)]
    finally:
        process.kill()
        process.wait()
    said = say("resume", folder, "--trust")
    assert said.code in (0, 3) and f"taken over from process {process.pid}" in said.err + said.out
    assert not (folder / ".lock").exists()
