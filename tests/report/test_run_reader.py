"""Reading a run folder back, whole or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.records import small_record

from sartor.errors import BadInput, CorruptFile
from sartor.report import read_record, read_result


def _folder(path: Path, result: object = None) -> Path:
    (path / "result.json").write_text(json.dumps(small_record().result() if result is None else result))
    return path


def test_a_result_is_read_with_the_files_beside_it(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "environment.json").write_text('{"cpu": "x"}')
    (folder / "record.jsonl").write_text('{"step": "cut"}\n')
    for place in (folder, folder / "result.json"):
        found = read_result(place)
        steps = [row.model_dump(exclude_unset=True) for row in found.record]
        assert (found.environment, steps, found.run) == ({"cpu": "x"}, [{"step": "cut"}], str(folder))


@pytest.mark.parametrize("make", [lambda p: p / "nothing", lambda p: p])
def test_no_result_is_a_sentence(tmp_path: Path, make) -> None:
    with pytest.raises(BadInput, match="run folder"):
        read_result(make(tmp_path))


@pytest.mark.parametrize("damage", ["", "{", "[1]", '"text"'])
def test_a_damaged_result_is_a_sentence(tmp_path: Path, damage: str) -> None:
    (tmp_path / "result.json").write_text(damage)
    with pytest.raises(CorruptFile, match=r"result\.json"):
        read_result(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "status",
            "meet",
            r"result field 'status': expected 'met', 'within noise', 'missed' or 'not measured'; got 'meet'",
        ),
        ("counted", {"macs": {"original": 1}}, r"result field 'counted\.macs\.fitted' is missing"),
        ("latency", 3, r"result field 'latency': expected a list; got 3"),
        ("model", None, r"result field 'model': expected text; got None"),
        ("surplus", 1, r"result field 'surplus' does not exist"),
        ("format", 9, r"result field 'format': expected 2; got 9\. A newer Sartor may have written it"),
    ],
)
def test_a_damaged_field_is_named_with_its_file(tmp_path: Path, field: str, value: object, message: str) -> None:
    folder = _folder(tmp_path, {**small_record().result(), field: value})
    with pytest.raises(CorruptFile, match=r"result\.json: " + message):
        read_result(folder)


def test_a_result_of_format_1_is_read_and_an_environment_in_its_own_file_too(tmp_path: Path) -> None:
    example = json.loads((Path(__file__).parent / "example" / "result.json").read_text())
    assert "format" not in example
    record = read_result(_folder(tmp_path, example))
    assert (record.format, record.sartor, record.frozen[0].size) == (2, "", None)
    assert record.groups[0].members[0] == "conv1.weight:0 (out)"


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
