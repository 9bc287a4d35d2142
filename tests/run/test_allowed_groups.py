"""Which groups a recipe cuts if nobody names any."""

from __future__ import annotations

from tests.zoo_graphs import understood

from sartor.cli.describe_graph import coverage_line, describe
from sartor.run.allowed_groups import allowed_groups
from sartor.types import Recipe
from sartor.types.recipe import Axes


def test_tokens_are_cut_only_where_they_are_named():
    graph = understood("register-tokens")[2]
    tokens = [n for n, g in graph.groups.items() if g.kind == "tokens"]
    assert tokens == ["registers:1"]
    left = allowed_groups(graph, Recipe())
    assert tokens[0] not in left.groups and len(left.groups) == len(graph.groups) - 1
    assert any(f.axis == "registers:1" and "only cut where" in f.reason for f in left.frozen)
    assert list(allowed_groups(graph, Recipe(cut=Axes(only=("tokens",)))).groups) == tokens
    sentence = coverage_line(describe(graph))
    assert all(n in sentence for n in tokens) and "--cut" in sentence
