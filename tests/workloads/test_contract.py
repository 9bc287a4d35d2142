"""Every workload holds the whole contract, and the contract refuses networks that do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sartor.structure import Example
from sartor.testing.workloads import WORKLOADS, ContractBroken, Workload, check_workload
from sartor.testing.workloads.contract import understood, unequal_plan
from sartor.types import Data

# Where nothing of an operator can be cut, the share of the MACs that it holds, at most. What is above is a property of
# the network itself.
MOST_PINNED = 0.4
PINNED: dict[str, float] = {}


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_the_contract_holds(name: str) -> None:
    check = check_workload(WORKLOADS[name].value)
    assert check.groups and check.share <= 0.7
    assert check.pinned <= PINNED.get(name, MOST_PINNED)
    assert all(reason.strip() for reason in check.frozen)
    assert all(why for _, why in check.verdict.left_out)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WORKLOADS))
def test_the_onnx_file_computes_what_eager_computes(name: str) -> None:
    pytest.importorskip("onnxruntime")
    check_workload(WORKLOADS[name].value, exporter=".onnx")


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_an_entry_says_what_it_is_and_repeats_itself(name: str) -> None:
    entry = WORKLOADS[name]
    workload = entry.value
    assert entry.source and entry.summary.endswith(".") and workload.preserves and workload.field
    assert len(workload.examples()) > 1
    first, second = workload.build(), workload.build()
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def test_every_field_of_the_mission_is_there() -> None:
    names = {
        *("leyolo", "spach", "mvfnet", "pepsi", "imdn", "zipgan", "ddos-unet", "iarn", "dual-latent"),
        *("mskacnn", "cmusenet", "icgnn", "netmamba"),
        *("ke-gcn", "interacte", "revgnn", "mincut", "dagnn", "rphgnn", "erase", "spen", "conhd", "ncn", "paretognn"),
        *("gat-text", "deductive-solver", "fcn", "fast-slow-memory", "pres", "semba", "udc", "netllm"),
    }
    assert names <= set(WORKLOADS)


class Rows(Workload):
    """Two linear layers; which of two halves of a row is larger."""

    name, field, source, preserves = "rows", "test", "test", "rows of a batch do not see each other"
    lr = 1e-2

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    def examples(self) -> Sequence[Example]:
        return [self._rows(2, 0)[0], self._rows(5, 1)[0]]

    def data(self) -> Data:
        return Data(train=[self._rows(32, i) for i in range(8)], val=[self._rows(256, 99)])

    def _rows(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
        return x, (x[:, :4].sum(1) > x[:, 4:].sum(1)).long()


def test_an_ordinary_network_passes() -> None:
    check = check_workload(Rows())
    assert check.verdict.status == "exact" and check.sizes == 2 and check.pinned == 0
    assert 0.5 < check.share <= 0.7 and check.quality[1] < check.quality[2]


def test_the_plan_cuts_groups_unequally_and_meets_its_share() -> None:
    _, graph = understood(Rows())
    plan = unequal_plan(graph, "macs", 0.6, seed=3)
    left = {n: len(k) / graph.groups[n].units for n, k in plan.keep.items()}
    assert len(set(left.values())) > 1


class Unbalanced(Rows):
    """What must be preserved does not hold."""

    def violation(self, model: nn.Module) -> float:
        return 0.5


class NoisyLabels(Rows):
    """Training on labels of the other class makes the quality worse."""

    def data(self) -> Data:
        good = super().data()
        return Data(train=[(x, 1 - y) for x, y in good.train or ()], val=good.val)

    warm_up = 0


class Elementwise(Rows):
    """Nothing can be cut."""

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (Unbalanced, "error 5.0e-01 in the original"),
        (NoisyLabels, "in one epoch"),
        (Elementwise, "no group can be cut"),
    ],
)
def test_a_network_that_breaks_a_line_is_refused(entry: type[Workload], line: str) -> None:
    with pytest.raises(ContractBroken, match=line):
        check_workload(entry())


@pytest.mark.parametrize("name", ["spen", "icgnn", "dagnn", "conhd", "mincut", "udc"])
def test_a_network_that_looks_at_places_is_not_equivariant(name: str) -> None:
    workload: Any = WORKLOADS[name].value
    model = workload.build()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, a, out: out + torch.arange(out.numel()).sin().view_as(out))
    assert workload.violation(model) > workload.tolerance


@pytest.mark.parametrize(("name", "layers"), [("revgnn", "layers"), ("iarn", "blocks"), ("dual-latent", "blocks")])
def test_a_network_with_another_inverse_is_seen(name: str, layers: str) -> None:
    workload: Any = WORKLOADS[name].value
    model = workload.build()
    for layer in getattr(model, layers):
        layer.inverse = lambda y, *_: y
    assert workload.violation(model) > workload.tolerance
