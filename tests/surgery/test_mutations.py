"""Every fault put into a delivered network is refused; the network without a fault passes."""

from __future__ import annotations

import random

import pytest
from tests.zoo_graphs import understood

from sartor.errors import ProofFailed
from sartor.structure import trace
from sartor.surgery import cut, probe, prove
from sartor.testing.hiding import hiding
from sartor.testing.mutations import KINDS, mutants_refused, mutated
from sartor.testing.plans import halves
from sartor.testing.zoo import cases

FEW, MANY = 25, 250
NAMES = [c.name for c in cases(without=("hard",)) if c.name != "bilinear"]  # its operator has no rule


def tally(name: str, drawn: int) -> None:
    model, example = hiding()[name]()
    graph = probe(model, trace(model, example))
    verdict, tallies = mutants_refused(model, graph, halves(graph), example, drawn)
    assert verdict.passed and (verdict.status == "exact" or verdict.left_out)
    assert [t.passed for t in tallies] == [()] * len(KINDS) and all(t.drawn == t.refused == drawn for t in tallies)


@pytest.mark.parametrize("name", hiding())
def test_faults_in_networks_that_hide_them_are_refused(name: str) -> None:
    tally(name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", hiding())
def test_many_faults_in_networks_that_hide_them_are_refused(name: str) -> None:
    tally(name, MANY)


@pytest.mark.parametrize("name", NAMES)
def test_faults_in_networks_of_the_zoo_are_refused(name: str) -> None:
    model, example, graph = understood(name)
    resolved = graph.resolve(halves(graph))
    network = cut(model, graph, resolved)
    for kind in KINDS:
        rng = random.Random(f"{name} {kind}")
        for _ in range(FEW // 5):
            mutant = mutated(model, resolved, network, kind, rng)
            with pytest.raises(ProofFailed):
                prove(model, graph, resolved, example, smaller=mutant.network)
                pytest.fail(f"not refused: {mutant.what}")
