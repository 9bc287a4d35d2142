"""One writer for each folder: others are told who it is, and the lock of a process that died is taken over."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from sartor.errors import FolderInUse, SartorError
from sartor.folder_lock import LOCK, held, holder, is_held

HOLD = """
import sys, time
from sartor.folder_lock import held
with held(sys.argv[1], print):
    print("held", flush=True)
    sys.stdin.read()
"""
RACE = """
import sys, time
from sartor.errors import FolderInUse
from sartor.folder_lock import held
sys.stdin.readline()
try:
    with held(sys.argv[1], print):
        print("works", flush=True)
        time.sleep(0.3)
except FolderInUse as e:
    print(e, flush=True)
"""


def started(code: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_another_process_is_told_who_writes_there(tmp_path: Path) -> None:
    process = started(HOLD, tmp_path)
    assert line(process) == "held\n"
    assert is_held(tmp_path)
    with (
        pytest.raises(FolderInUse, match=rf"process {process.pid} on {socket.gethostname()} \(since 20"),
        held(tmp_path),
    ):
        pass
    process.communicate("")
    assert not is_held(tmp_path) and not (tmp_path / LOCK).exists()
    with held(tmp_path):
        facts = holder(tmp_path)
        assert facts is not None and facts["process"] == os.getpid() and is_held(tmp_path)
        with pytest.raises(AssertionError), held(tmp_path):
            raise AssertionError
        assert line(started(RACE_NOW, tmp_path)).startswith(f"{tmp_path}: process {os.getpid()}")
    assert not any(tmp_path.iterdir())


RACE_NOW = RACE.replace("sys.stdin.readline()", "")


def test_the_lock_of_a_killed_process_is_taken_over_and_that_is_said(tmp_path: Path) -> None:
    process = started(HOLD, tmp_path)
    assert line(process) == "held\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / LOCK).exists() and not is_held(tmp_path)
    process = started(HOLD, tmp_path)
    line(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    sentences: list[str] = []
    with held(tmp_path, sentences.append):
        pass
    assert len(sentences) == 1 and f"taken over from process {process.pid}" in sentences[0]
    (tmp_path / LOCK).write_text("{half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with held(tmp_path):
            pass


def test_a_lock_of_another_machine_is_respected(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"process": 1, "machine": "elsewhere", "since": "2026"}))
    with pytest.raises(FolderInUse, match=r"process 1 on elsewhere .*remove .*\.lock"), held(tmp_path):
        pass
    assert is_held(tmp_path)


def test_threads_exclude_each_other_and_a_thread_may_enter_twice(tmp_path: Path) -> None:
    inside, errors = threading.Barrier(2), []

    def other() -> None:
        inside.wait()
        try:
            with held(tmp_path):
                pass
        except FolderInUse as e:
            errors.append(str(e))
        inside.wait()

    thread = threading.Thread(target=other)
    thread.start()
    with held(tmp_path), held(tmp_path / "."):
        inside.wait()
        inside.wait()
    thread.join()
    assert len(errors) == 1 and "another thread" in errors[0]


def test_a_forked_process_does_not_hold_what_its_parent_holds(tmp_path: Path) -> None:
    with held(tmp_path):
        child = os.fork()
        if child == 0:
            try:
                with held(tmp_path):
                    os._exit(1)
            except FolderInUse:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert line(started(RACE_NOW, tmp_path)).startswith(f"{tmp_path}: process {os.getpid()}")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SartorError, match="cannot write to"), held(tmp_path / "file"):
        pass


def race(folder: Path) -> None:
    both = [started(RACE, folder) for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in both]
    works = [i for i, text in enumerate(said) if text == "works\n"]
    assert len(works) == 1, said
    assert f"process {both[works[0]].pid} on " in said[1 - works[0]], said


@pytest.mark.parametrize("round_", range(3))
def test_of_two_processes_one_works_and_the_other_says_who_does(tmp_path: Path, round_: int) -> None:
    race(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(50))
def test_of_two_processes_one_works_fifty_times(tmp_path: Path, round_: int) -> None:
    race(tmp_path)
