"""Words of the command line into values: shapes, pairs, recipes, run files."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sartor.cli.fit import _with_changes, make_room
from sartor.cli.inputs import example_for, parse_pairs
from sartor.cli.recipe import choose_recipe
from sartor.cli.request import Request, read_request, read_run_file, write_request
from sartor.errors import BadInput, CorruptFile, SartorError, UnknownName
from sartor.example_input import DTYPES, parse_input
from sartor.types import FineTune, Recipe


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), dtype=st.sampled_from(DTYPES))
def test_an_input_has_the_shape_and_type_it_says(shape: list[int], dtype: str) -> None:
    words = "x".join(map(str, shape)) + f":{dtype}"
    made = parse_input(words)
    assert list(made.shape) == shape and made.dtype is getattr(torch, dtype)
    assert torch.equal(made, parse_input(words))


def test_several_inputs_are_positional_arguments() -> None:
    image, tokens = parse_input("1x3x4x4, 1x7:int64")
    assert (image.shape, tokens.shape, tokens.dtype) == ((1, 3, 4, 4), (1, 7), torch.int64)


@pytest.mark.parametrize("words", ["", "1x", "axb", "1x0x2", "1x2:float13", "-1x2", "1x2;3"])
def test_other_inputs_are_refused(words: str) -> None:
    with pytest.raises(SartorError, match="input"):
        parse_input(words)


def test_nobody_guesses_the_input_of_an_unknown_network() -> None:
    with pytest.raises(BadInput, match="--input 1x3x224x224"):
        example_for("my.py:net", torch.nn.Linear(2, 2))
    with pytest.raises(BadInput, match="pass only one of them"):
        example_for("my.py:net", torch.nn.Linear(2, 2), shape="1x2", data="digits:")
    assert example_for("torchvision:resnet18", torch.nn.Linear(2, 2)).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("pairs", [["a"], ["=1"], ["a=1", "a=2"]])
def test_pairs_that_are_none_are_refused(pairs: list[str]) -> None:
    with pytest.raises(BadInput, match="--set"):
        parse_pairs(pairs, "--set")


def test_changes_land_in_the_recipe_and_nothing_else_moves() -> None:
    plain = choose_recipe("l1")
    changed = choose_recipe("l1", {"allocate.floor": 0.3, "heal.fine-tune.epochs": 2, "cut.only": "conv*"})
    assert (changed.allocation.floor, changed.training.epochs, changed.cut.only) == (0.3, 2, ("conv*",))
    assert changed.allocation.round_to == plain.allocation.round_to and changed.repairs == plain.repairs
    for f in fields(Recipe):
        if f.name not in ("allocate", "heal", "cut"):
            assert getattr(changed, f.name) == getattr(plain, f.name)
    for f in fields(FineTune):
        if f.name != "epochs":
            assert getattr(changed.training, f.name) == getattr(plain.training, f.name)


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        ("l1", {"flor": 0.1}), ("l1", {"heal.fine-tune.epoch": 1}), ("l7", {}), ("l1", {"allocate.floor": "much"}),
        ("l1", {"heal.fine-tune.epochs": 1.5}), ("l1", {"heal.fine-tune.epochs": True}), ("l1", {"cut.streams": 1}),
        ("l1", {"cut.only": [1]}), ("l1", {"allocate.floor": 2.0}), ({"base": 3}, {}), ({"base": "l1", "heal": 4}, {}),
        ({"heal": {"fine-tune": {"lr": -1.0}}}, {}), ("l1", {"fold_mean": True}), ({"base": "l1", "floor": 0.1}, {}),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused(asked: object, changes: dict[str, object]) -> None:
    with pytest.raises((BadInput, UnknownName)):
        choose_recipe(asked, changes)  # type: ignore[arg-type]


def test_a_recipe_and_its_changes_can_be_said_again_as_one_table() -> None:
    changes = {"allocate.floor": 0.3, "heal.fine-tune.epochs": 2, "heal.fine-tune.lr": 0.5}
    nested = {"base": "l2", "allocate": {"round_to": 4}, "heal": {"fine-tune": {"lr": 0.1, "ema": 0.9}}}
    for base in ("l2", nested):
        assert choose_recipe(_with_changes(base, changes)) == choose_recipe(base, changes)


def test_a_run_file_says_what_flags_say(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'model = "a:b"\nbudget = "macs<=50%"\nval = 0.2\nkeep = ["heads"]\n'
        '[recipe]\nbase = "l1"\n[recipe.cut]\nexclude = ["layer4*"]\n[recipe.heal.fine-tune]\nepochs = 2\n'
    )
    asked = Request(**read_run_file(file))
    assert (asked.cut, asked.keep, choose_recipe(asked.recipe).cut.exclude) == ([], ["heads"], ("layer4*",))
    assert (asked.model, asked.val, choose_recipe(asked.recipe).training.epochs) == ("a:b", 0.2, 2)


@pytest.mark.parametrize(
    "text", ["model = ", "modle = 'a'", "batch = 'many'", "seed = true", "cut = 'heads'", "recipe = 3", "val = '1'"]
)
def test_a_wrong_run_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises((BadInput, UnknownName)):
        read_run_file(file)
    with pytest.raises(BadInput, match="no run file"):
        read_run_file(tmp_path / "other.toml")


def test_what_was_asked_comes_back_from_the_run_folder(tmp_path: Path) -> None:
    asked = Request(
        model="a:b",
        model_options={"depth": 3},
        recipe={"base": "l1", "allocate": {"floor": 0.2}},
        val=0.25,
        seed=7,
        keep=["heads"],
    )
    assert read_request(tmp_path) is None
    write_request(asked, tmp_path)
    assert read_request(tmp_path) == asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch = 'many'", "run field 'batch': expected a whole number; got 'many'"),
        ("batch = 0", "run field 'batch': expected greater than or equal to 1; got 0"),
        ("seed = true", "run field 'seed': expected a whole number; got True"),
        ("cut = 'heads'", "run field 'cut': expected a list; got 'heads'"),
        ("keep = ['heads', 3]", r"run field 'keep\.1': expected text; got 3"),
        ("recipe = 3", "run field 'recipe': expected text or a table; got 3"),
        ("val = '1'", "run field 'val': expected a number; got '1'"),
        ("modle = 'a'", r"no field of the run file .*run\.toml is called 'modle'. Did you mean 'model'"),
    ],
)
def test_a_wrong_field_of_a_run_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises((BadInput, UnknownName), match=message):
        read_run_file(file)


def test_a_command_file_says_its_format_and_one_of_format_1_still_loads(tmp_path: Path) -> None:
    request = Request(model="a:b", seed=7)
    write_request(request, tmp_path)
    raw = json.loads((tmp_path / "command.json").read_text())
    assert raw.pop("format") == 2 and raw.pop("sartor")
    (tmp_path / "command.json").write_text(json.dumps(raw))
    assert read_request(tmp_path) == request
    (tmp_path / "command.json").write_text(json.dumps({**raw, "format": 9}))
    with pytest.raises(CorruptFile, match="A newer Sartor wrote it"):
        read_request(tmp_path)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"modle": "a"}', '{"seed": "x"}', "3"])
def test_a_damaged_command_file_is_a_sentence(tmp_path: Path, damage: str) -> None:
    (tmp_path / "command.json").write_text(damage)
    with pytest.raises(CorruptFile, match=r"command\.json"):
        read_request(tmp_path)


def test_force_removes_earlier_runs_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    make_room(folder, force=False)
    folder.mkdir()
    make_room(folder, force=False)
    (folder / "thesis.tex").write_text("years")
    for force in (False, True):
        with pytest.raises(BadInput):
            make_room(folder, force=force)
    assert (folder / "thesis.tex").is_file()
    (folder / "result.json").write_text("{}")
    with pytest.raises(BadInput, match="--force"):
        make_room(folder, force=False)
    with pytest.raises(BadInput, match=r"holds thesis\.tex, which no run wrote"):
        make_room(folder, force=True)
    (folder / "thesis.tex").rename(tmp_path / "thesis.tex")
    make_room(folder, force=True)
    assert not list(folder.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="a file"):
        make_room(tmp_path / "file", force=True)


def test_fields_of_the_gates_are_spelled_like_those_of_training() -> None:
    by_flag = choose_recipe("autobot", {"score.steps": 7, "heal.fine-tune.epochs": 2})
    by_table = choose_recipe({"base": "autobot", "score": {"steps": 7}, "heal": {"fine-tune": {"epochs": 2}}})
    assert by_flag == by_table
    assert by_flag.score.steps == 7 and by_flag.training.epochs == 2
    with pytest.raises(UnknownName, match=r"score\.step"):
        choose_recipe("autobot", {"score.step": 7})
