"""Groups chosen by kind, by name and by module."""

import pytest
from tests.zoo_graphs import understood

from sartor.allocate import narrowed, select
from sartor.errors import BadInput, UnknownName
from sartor.run.allowed_groups import allowed_groups
from sartor.types import Axes, Recipe

CHOICES = [
    (("heads",), (), {"layer.self_attn.in_proj_weight:0"}),
    (("Head_Dimension",), (), {"layer.self_attn.in_proj_weight:0#2"}),
    (("kind:h*",), ("head-dimension",), {"layer.self_attn.in_proj_weight:0", "layer.linear1"}),
    (("name:layer.linear1",), (), {"layer.linear1"}),
    (("module:layer.linear*",), ("embedding width",), {"layer.linear1"}),
    (("words*", "name:*in_proj*"), ("*#2",), {"words.weight:1", "layer.self_attn.in_proj_weight:0"}),
]


@pytest.mark.parametrize("only, exclude, expected", CHOICES)
def test_groups_are_chosen(only, exclude, expected):
    groups = understood("transformer-encoder")[2].groups
    assert set(select(groups, only, exclude)) == expected
    assert select(groups, only, exclude) == [n for n in groups if n in expected]


def test_a_module_stands_for_the_groups_it_writes():
    groups = understood("resnet")[2].groups
    assert set(select(groups, ["module:2.conv2"])) == {"2.conv2"}  # read in 3, written in 2
    inner = set(select(groups, ["module:1"]))
    assert "1.conv1" in inner and "2.conv1" not in inner


@pytest.mark.parametrize("only, words", [
    (["head"], r"Did you mean 'heads'\? This network has .*1 of heads"),
    (["experts"], r"group of the kind is called 'experts'.*1 of heads.*names are such as words.weight:1, "),
    (["kind:channels"], "group of the kind"),
    (["module:nowhere"], "group matching the pattern"),
])  # fmt: skip
def test_what_matches_nothing_is_told_with_what_there_is(only, words):
    groups = understood("transformer-encoder")[2].groups
    with pytest.raises(UnknownName, match=words):
        select(groups, only)
    with pytest.raises(UnknownName, match=words):
        select(groups, (), only)


def test_what_leaves_nothing_is_refused():
    with pytest.raises(BadInput, match="cut heads and keep heads: no group is left to cut, of 1 of embedding width"):
        select(understood("transformer-encoder")[2].groups, ["heads"], ["heads"])


def test_a_users_choice_narrows_the_recipe():
    recipe = Recipe(cut=Axes(only=("a",), exclude=("b",)))
    assert narrowed(recipe) is recipe
    assert narrowed(recipe, "heads, experts", ["c"]).cut.only == ("heads", "experts")
    assert narrowed(recipe, None, ["c"]) == Recipe(cut=Axes(only=("a",), exclude=("b", "c")))
    with pytest.raises(BadInput, match="expected patterns"):
        narrowed(recipe, [3])


def test_a_group_tied_in_count_to_one_that_stays_whole_stays_whole():
    graph = understood("cifar-resnet-pad")[2]
    whole, *others = graph.ties[0]
    left = allowed_groups(graph, Recipe(cut=Axes(exclude=(f"name:{whole}",))))
    assert not {whole, *others} & set(left.groups)
    assert any(f"as many units as {whole}" in f.reason for f in left.frozen)
