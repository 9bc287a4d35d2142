"""Reading a run folder back, whole or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sartor.errors import BadInput, CorruptFile
from sartor.report import read_record, read_result


def _folder(path: Path, result: object = None) -> Path:
    (path / "result.json").write_text(json.dumps({"status": "met"} if result is None else result))
    return path


def test_a_result_is_read_with_the_files_beside_it(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "environment.json").write_text('{"cpu": "x"}')
    (folder / "record.jsonl").write_text('{"step": "cut"}\n')
    for place in (folder, folder / "result.json"):
        found = read_result(place)
        assert (found["environment"], found["record"], found["run"]) == ({"cpu": "x"}, [{"step": "cut"}], str(folder))


@pytest.mark.parametrize("make", [lambda p: p / "nothing", lambda p: p])
def test_no_result_is_a_sentence(tmp_path: Path, make) -> None:
    with pytest.raises(BadInput, match="run folder"):
        read_result(make(tmp_path))


@pytest.mark.parametrize("damage", ["", "{", "[1]", '"text"'])
def test_a_damaged_result_is_a_sentence(tmp_path: Path, damage: str) -> None:
    (tmp_path / "result.json").write_text(damage)
    with pytest.raises(CorruptFile, match=r"result\.json"):
        read_result(tmp_path)


def test_bytes_that_are_no_text_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptFile, match="UTF-8"):
        read_result(tmp_path)


def test_a_record_cut_short_by_a_kill_keeps_its_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "record.jsonl"
    file.write_text('{"step": "a"}\n\n{"step": "b"}\n{"st')
    assert [s["step"] for s in read_record(file)] == ["a", "b"]
    file.write_text('{"step": "a"}\n{"st\n{"step": "b"}\n')
    with pytest.raises(CorruptFile, match="line 2"):
        read_record(file)
