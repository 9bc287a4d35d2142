"""Plans: what a plan may say, and its JSON in both formats."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.structure import trace
from sartor.surgery import cut, probe
from sartor.types import Plan
from sartor.version import version


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans that use every field."""
    keep, ranking = {}, {}
    for name in draw(st.lists(st.text(min_size=1), max_size=4, unique=True)):
        order = draw(st.permutations(range(draw(st.integers(1, 8)))))
        count = draw(st.integers(1, len(order)))
        keep[name] = tuple(sorted(order[:count]))
        if draw(st.booleans()):
            ranking[name] = tuple(order)
    return Plan(
        keep,
        draw(st.text()),
        draw(st.text()),
        ranking=ranking,
        removed_blocks=tuple(draw(st.lists(st.text(min_size=1), max_size=3, unique=True))),
        number_formats=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
    )


@given(plans())
def test_a_plan_survives_json(plan: Plan) -> None:
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert (json.loads(text)["format"], json.loads(text)["sartor"]) == (2, version())


def test_format_1_still_loads() -> None:
    old = {"made_by": "l1", "fingerprint": "f", "keep": {"a": [0, 2]}, "fibres": {"a": [[0, 1], [1, 2]]}}
    assert Plan.from_json(json.dumps(old)) == Plan({"a": (0, 2)}, "l1", "f", {"a": ((0, 1), (1, 2))})


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"format": 3}, BadInput, "expected format 1 or 2; got 3"),
        ({"keep": {"a": ["x"]}}, CorruptFile, r"plan field 'keep\.a\.0'"),
        ({"keep": {"a": [0.5]}}, CorruptFile, r"plan field 'keep\.a\.0'"),
        ({"kept": {}}, CorruptFile, "plan field 'kept' does not exist"),
        ({"ranking": {"a": [0, 0]}}, BadInput, "every unit index from 0 once"),
        ({"ranking": {"a": [1, 2, 0]}}, BadInput, "the kept units to be the first of its ranking"),
        ({"removed_blocks": ["b", "b"]}, BadInput, "different module paths"),
        ({"number_formats": {"w": 8}}, CorruptFile, r"number_formats\.w"),
    ],
)
def test_a_plan_that_is_wrong_is_refused(change: dict[str, Any], error: type[SartorError], match: str) -> None:
    right = {"format": 2, "made_by": "l1", "fingerprint": "f", "keep": {"a": [0]}}
    Plan.from_json(json.dumps(right))
    with pytest.raises(error, match=match):
        Plan.from_json(json.dumps({**right, **change}))


@pytest.mark.parametrize("field", [{"removed_blocks": ("0",)}, {"number_formats": {"0.weight": "int8"}}])
def test_surgery_refuses_what_it_cannot_carry_out(mlp, field: dict[str, Any]) -> None:
    model, example = mlp
    graph = probe(model, trace(model, example))
    name = next(iter(graph.groups))
    with pytest.raises(BadInput, match=f"{next(iter(field))}: this version cannot carry them out"):
        cut(model, graph, Plan({name: (0,)}, "test", graph.fingerprint, **field))


def test_a_ranking_names_all_units_of_its_group(mlp) -> None:
    model, example = mlp
    graph = probe(model, trace(model, example))
    name, group = next(iter(graph.groups.items()))
    cut(model, graph, Plan({name: (0,)}, "test", graph.fingerprint, ranking={name: tuple(range(group.units))}))
    with pytest.raises(BadInput, match="expected all"):
        cut(model, graph, Plan({name: (0,)}, "test", graph.fingerprint, ranking={name: (0,)}))
