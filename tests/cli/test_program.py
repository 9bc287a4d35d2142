"""Exit codes, sentences, and exactly one object with --json."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sartor.cli import app, failures
from sartor.cli.failures import exit_code, message
from sartor.errors import BadInput, BudgetNotMet, CorruptFile, MissingExtra, NothingToDo, ProofFailed, UnknownName

COMMANDS = ("demo", "inspect", "measure", "fit", "resume", "report", "export", "list")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("x"), 2), (UnknownName("a", "b", []), 2), (BudgetNotMet("x"), 3), (NothingToDo("x"), 1),
        (CorruptFile("x"), 1), (ProofFailed("x"), 1), (MissingExtra("a", "b", "c"), 1), (KeyboardInterrupt(), 130),
        (failures.Interrupted("x"), 130), (OSError(errno.ENOSPC, "No space left"), 1), (RuntimeError("x"), 1),
    ],
)  # fmt: skip
def test_every_failure_has_its_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_a_full_disk_is_a_sentence_and_an_unforeseen_error_is_not() -> None:
    assert "disk is full" in (message(OSError(errno.ENOSPC, "No space left", "a/b")) or "")
    assert message(RuntimeError("a bug")) is None


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(say, command: str) -> None:
    said = say(command, "--help")
    assert said.code == 0
    assert "--json" in said.out


def test_no_words_at_all_show_the_help(say) -> None:
    said = say()
    assert said.code == 0
    assert all(command in said.out for command in COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ("fito",), ("list", "nonsense"), ("list",), ("measure",), ("fit", "--batch", "0"),
        ("list", "criteria", "--what"), ("inspect", "no_such_module:net"),
        ("measure", "x.onnx"), ("report", "nowhere"), ("inspect", "m.py:f", "--input", "three"),
        ("measure", "a:b", "--target", "onnxruntime-gpu"),
    ],
)  # fmt: skip
def test_wrong_usage_exits_2_with_a_sentence(say, words: tuple[str, ...], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain, as_json = say(*words), say(*words, "--json")
    assert plain.code == as_json.code == 2
    assert plain.out == ""
    assert plain.err.startswith("sartor: ") and "Traceback" not in plain.err
    error = as_json.json["error"]
    assert error["exit_code"] == 2 and error["message"] in plain.err
    assert not list(tmp_path.iterdir())


def test_an_unforeseen_error_shows_its_traceback_and_exits_1(say, net: str, monkeypatch) -> None:
    import sartor.sources

    monkeypatch.setattr(sartor.sources, "load_model", lambda *a: 1 / 0)
    said = say("inspect", net, "--json")
    assert said.code == 1
    assert "Traceback" in said.err and "ZeroDivisionError" in said.json["error"]["message"]


def test_debug_adds_the_traceback_of_a_foreseen_one(say) -> None:
    assert "Traceback" not in say("report", "nowhere").err
    for words in (("--debug", "report", "nowhere"), ("report", "nowhere", "--debug")):
        assert "Traceback" in say(*words).err


def test_ctrl_c_is_one_sentence_and_130(say, net: str) -> None:
    said = say("inspect", net.replace(":net", ":interrupted"), "--input", "1x1x6x6")
    assert said.code == 130
    assert said.err.strip().count("\n") == 0 and "interrupted" in said.err


def test_the_users_own_printing_does_not_spoil_the_json(say, net: str) -> None:
    said = say("inspect", net, "--input", "1x1x6x6", "--json")
    assert said.json["model"] == net
    assert "a factory that talks" in said.err


def test_a_reader_that_goes_away_is_no_failure(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(app, "print_result", gone)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    assert app.run(["list", "data"]) == 0


def test_a_terminated_program_removes_what_it_had_half_written(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from sartor.cli import app\n"
        "from sartor.export.files import atomic_path\n"
        "def slow(*_):\n"
        f"    with atomic_path({str(tmp_path / 'big.onnx')!r}) as p:\n"
        "        p.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
        "app.run = slow\n"
        "app.main()\n"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=dict(os.environ))
    assert program.stdout is not None and program.stdout.readline() == b"ready\n"
    assert len(list(tmp_path.iterdir())) == 1
    program.send_signal(signal.SIGTERM)
    assert program.wait(20) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["criteria", "recipes", "allocators", "data"])
def test_everything_listed_has_a_source_and_a_summary(say, kind: str) -> None:
    found = say("list", kind, "--json").json[kind]
    assert found and all(row["name"] and row["source"] for row in found)
    shown = say("list", kind).out
    assert all(row["name"] in shown for row in found)


def test_targets_say_whether_they_work_here(say) -> None:
    found = {row["name"]: row for row in say("list", "targets", "--json").json["targets"]}
    assert found["eager-cpu"]["available"] is True
    assert all(row["available"] or row["why_not"] for row in found.values())


def test_the_package_runs_as_a_module() -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "sartor", "list", "recipes", "--json"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recipes"]
    assert time.monotonic() - start < 120
