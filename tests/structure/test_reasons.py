"""Reasons are values: code reads their kind, and one table turns them into sentences."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

import sartor.structure
from sartor.structure import trace
from sartor.structure.axes import find, freeze, fresh, mixing
from sartor.structure.reasons import SENTENCES, sentence
from sartor.surgery.survivors import irreproducible, reproducible
from sartor.types import Reason

SOURCE = Path(sartor.structure.__file__).parents[1]


def kinds_in_source() -> set[str]:
    """First argument of every `Reason(...)` and `op.reason(...)` that the package calls."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in ("Reason", "reason"):
                    found.add(node.args[0].value)
    return found


def test_every_kind_that_is_used_has_a_sentence_and_every_sentence_is_used():
    assert kinds_in_source() == set(SENTENCES)


@pytest.mark.parametrize("kind", SENTENCES)
def test_every_sentence_can_be_rendered(kind: str):
    assert sentence(Reason(kind, "conv2d", "layer1", "a detail"))


def test_the_text_of_a_rule_of_your_own_is_kept_as_it_is():
    a, b = fresh(4), fresh(4)
    freeze(a, "it writes {along} it")
    mixing(b, "it takes a mean")
    assert find(a).frozen == Reason("rule", detail="it writes {along} it")
    assert sentence(find(a).frozen) == "it writes {along} it" and tuple(find(b).mix) == (
        Reason("rule", detail="it takes a mean"),
    )


@pytest.mark.parametrize("mixer", [nn.LayerNorm(6), nn.Softmax(-1)])
def test_a_reference_exists_by_the_kind_of_the_reason(mixer: nn.Module):
    graph = trace(nn.Sequential(nn.Linear(5, 6), mixer, nn.Linear(6, 3)), torch.randn(2, 5))
    assert graph.groups["0"].mixes and reproducible(graph, "0")
    mixing(graph.leaves["0"], "it takes a mean")  # the rule of an operator of your own
    assert irreproducible(graph, ["0"]) == {"0": "it takes a mean"}
