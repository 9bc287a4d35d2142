"""The picture of a run: one well-formed SVG that needs nothing from elsewhere."""

from pathlib import Path
from xml.etree import ElementTree

from tests.records import small_record

from sartor.report import picture, read_result, write_picture

EXAMPLE = Path(__file__).parent / "example"


def test_the_picture_is_one_svg_with_every_group_and_no_link(tmp_path):
    result = read_result(EXAMPLE)
    path = write_picture(EXAMPLE, tmp_path / "run.svg")
    assert path.read_text() == picture(result)
    root = ElementTree.fromstring(path.read_text())
    assert root.tag.endswith("svg")
    tips = [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert all(any(tip.startswith(f"{group.name}:") for tip in tips) for group in result.groups)
    assert "href" not in path.read_text() and "url(" not in path.read_text()


def test_words_of_the_run_cannot_become_markup():
    example = read_result(EXAMPLE)
    group = example.groups[0].model_copy(update={"name": "<b>", "kind": "&", "units": 4, "kept": 2})
    ElementTree.fromstring(picture(example.model_copy(update={"groups": [group]})))


def test_a_result_with_little_in_it_still_draws():
    ElementTree.fromstring(picture(small_record()))
