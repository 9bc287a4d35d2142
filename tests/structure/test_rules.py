"""Every operator rule passes the contract test of `sartor.testing`; wrong rules fail it."""

from functools import cache

import pytest
import torch
from tests.zoo_graphs import understood
from torch import nn

from sartor.structure import rule, trace
from sartor.structure.axes import mixing
from sartor.structure.functions import FUNCTIONS
from sartor.structure.rules import RULES, lookup
from sartor.structure.rules.pointwise import pointwise
from sartor.structure.rules.registry import _FACTS
from sartor.surgery import probe
from sartor.testing.contract import RuleBroken, _through, check_rule
from sartor.testing.zoo import ZOO, cases

WHOLE = {  # rules through which no group of the zoo passes that can be cut, and why
    "along": "the order along its dimension matters",
    "ordered": "the order along its dimension matters",
    "triangle": "positions stay whole",
    "as_strided": "memory is addressed directly",
    "channel_shuffle": "its one network has nothing to cut at the shuffle",
    "movedim": "its one network moves an input",
    "grouped_mm": "needs a device with grouped products",
    "nothing": "gives no tensor",
}
NAMES = sorted({r.axes.__name__ for n, r in RULES.items() if n.startswith("aten::")})


@cache
def met_by():
    """Name of a rule -> (operator, network) where a group that can be cut passes through it."""
    found = {}
    for case in cases(without=("hard", "freezes")):
        graph = understood(case.name)[2]
        for op in graph.ops:
            known = lookup(op.func)
            if known and known.axes.__name__ not in found and op.live and _through(graph, [op]):
                found[known.axes.__name__] = (op.func._schema.name, case.name)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_keeps_the_contract(name):
    if name in WHOLE:
        assert name not in met_by(), "take it out of the table"
        return
    operator, network = met_by()[name]
    case = ZOO[network].value
    check_rule(operator, case.build(), case.example(), plans=2)


class Net(nn.Module):
    """An operator between two linear layers."""

    def __init__(self, act):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(6, 8), act, nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.act(self.a(x)))


@torch.library.custom_op("sartor_test::centred", mutates_args=())
def centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(-1, keepdim=True)


centred.register_fake(torch.empty_like)
centred.register_autograd(lambda ctx, grad: grad - grad.mean(-1, keepdim=True))


class Third(torch.autograd.Function):
    """It computes outside of PyTorch, so no dispatch mode sees it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * grad * x**2


@pytest.fixture
def own_rules():
    """Rules that are registered inside are removed afterwards."""
    before, functions = dict(RULES), dict(FUNCTIONS)
    yield
    for store, kept in ((RULES, before), (FUNCTIONS, functions)):
        store.clear()
        store.update(kept)
    _FACTS.clear()


X = torch.randn(4, 6)


def test_an_operator_that_computes_with_its_units_together_must_say_so(own_rules):
    with pytest.raises(RuleBroken, match="no rule is entered"):
        check_rule("sartor_test::centred", Net(Centred()), X)
    entered = rule("norm", "sartor_test::centred")
    entered(lambda op: list(op.args[0].axes))
    with pytest.raises(RuleBroken, match="its rule must call mixing"):
        check_rule("sartor_test::centred", Net(Centred()), X)
    del RULES["sartor_test::centred"]

    @entered
    def honest(op):
        mixing(op.args[0].axes[-1], "it takes the mean over these units")
        return list(op.args[0].axes)

    assert check_rule("sartor_test::centred", Net(Centred()), X).mixing == ("a",)
    del RULES["sartor_test::centred"]
    entered(lambda op: list(reversed(op.args[0].axes)))
    with pytest.raises((RuleBroken, AssertionError)):
        check_rule("sartor_test::centred", Net(Centred()), X)


def test_an_autograd_function_is_seen_whole_where_it_has_a_rule(own_rules):
    assert not probe(Net(Powers()), trace(Net(Powers()), X)).groups
    with pytest.raises(RuleBroken, match="no rule is entered"):
        check_rule(Third, Net(Powers()), X)
    rule("pointwise", Third)(pointwise)
    apply = Third.apply
    assert check_rule(Third, Net(Powers()), X).groups == ("a",)
    assert Third.apply == apply and "apply" not in vars(Third)
    assert [op.name for op in trace(Net(Powers()), X).ops] == ["linear", "Third", "linear"]


class Centred(nn.Module):
    def forward(self, x):
        return centred(x)


class Powers(nn.Module):
    def forward(self, x):
        return Third.apply(x)


def test_what_cannot_be_checked_is_told():
    with pytest.raises(RuleBroken, match="never calls it; it calls linear, relu"):
        check_rule("conv2d", Net(nn.ReLU()), X)
    with pytest.raises(RuleBroken, match=r"no group that passes through it can be cut: .*depends on the order"):
        check_rule("sort", Net(Sorted()), X)


class Sorted(nn.Module):
    def forward(self, x):
        return x.sort(-1).values
