"""What makes a trace fast, tested without a clock: no Python meta kernel, no allocation, no hook."""

import gc
import resource
import sys
from collections import Counter

import pytest
import torch
from torch import nn

from sartor.errors import CannotTrace
from sartor.structure import trace
from sartor.testing.zoo import ZOO

KERNELS = ("_refs", "_decomp", "_prims", "_prims_common", "_meta_registrations")


def python_kernels(model, example) -> Counter:
    """Number of calls of PyTorch's Python kernels during a trace; calls between kernels are not counted."""
    entered: Counter = Counter()

    def inside(frame) -> bool:
        return any(f"/torch/{k}" in frame.f_code.co_filename for k in KERNELS)

    def see(frame, event, arg):
        if event == "call" and inside(frame) and not (inside(frame.f_back) or inside(frame.f_back.f_back)):
            entered[frame.f_code.co_name] += 1

    sys.setprofile(see)
    try:
        trace(model, example)
    finally:
        sys.setprofile(None)
    return entered


@pytest.mark.parametrize("name, most", [("resnet18", 0), ("vit_tiny_patch16_224", 20)])
def test_no_meta_kernel_in_python(name, most):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name).eval()
    image = torch.zeros(1, 3, 224, 224)
    trace(model, image)
    entered = python_kernels(model, image)
    assert entered.total() <= most, entered


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_do_not_step_through_time_in_python(layer):
    model = layer(8, 16, 2, bidirectional=True)
    assert python_kernels(model, torch.zeros(500, 2, 8)).total() < 50  # the initial states, the same for any length


def test_a_kernel_in_python_would_be_seen():
    assert python_kernels(nn.Sequential(nn.Linear(4, 4), nn.LogSigmoid()), torch.zeros(2, 4)).total()


def test_a_huge_network_on_meta_takes_no_memory():
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(2**17, 2**17) for _ in range(8)))  # would be 512 GiB on a real device
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = trace(model, torch.empty(2**14, 2**17, device="meta"))
    assert len(graph.groups) == 7
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


class Twice(nn.Module):
    """Calls a module that has two names, a module that it creates itself, and a method other than `forward`."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Linear(4, 4))
        self.same = self.a

    def doubled(self, x):
        return x * 2

    def forward(self, x):
        return self.doubled(nn.Identity()(nn.ReLU()(self.same(x))))


def test_operators_know_the_module_that_calls_them():
    assert [(op.name, op.path) for op in trace(Twice(), torch.zeros(1, 4)).ops] == [
        ("linear", "a.0"), ("relu", ""), ("mul", ""),
    ]  # fmt: skip


def test_what_hooks_of_the_user_do_belongs_to_their_module():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    model[0].register_forward_hook(lambda m, args, out: out * 2)
    graph = trace(model, torch.zeros(1, 4))
    assert [(op.name, op.path) for op in graph.ops] == [("add", "0"), ("linear", "0"), ("mul", "0")]


class Strange(nn.Module):
    """The hard cases for a copy: shared lists, tied weights, a cycle, a `__setstate__` of its own."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.notes = self.more = []
        self.inside = {"module": self.one, "call": self.two.forward, "size": (4, [self.notes])}
        self.conv = nn.Conv1d(1, 1, 1)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.notes.append(x.shape)
        self.count += 1
        self.kept = x
        assert self.notes is self.more is self.inside["size"][1][0]
        self.one.extra = len(self.more)
        return self.inside["call"](self.inside["module"](x))


def test_the_copy_is_whole_and_the_model_is_untouched():
    model = Strange()
    held = {k: id(v) for k, v in model.named_parameters()}
    graph = trace(model, torch.zeros(1, 4))
    assert model.notes == [] and model.count.item() == 0 and not hasattr(model, "kept")
    assert not hasattr(model.one, "extra") and held == {k: id(v) for k, v in model.named_parameters()}
    assert graph.tensors["one.weight"] is graph.tensors["two.weight"]
    assert [op.path for op in graph.ops if op.name == "linear"] == ["one", ""]


@pytest.mark.parametrize("name", list(ZOO))
def test_a_copy_holds_what_deepcopy_would(name):
    import copy

    from sartor.structure.model_copy import clone

    model = ZOO[name].value.build()
    try:
        mine, theirs = clone(model, torch.clone), copy.deepcopy(model)
    except RuntimeError:  # a weight that a hook computes has a gradient history, which deepcopy refuses
        pytest.skip("deepcopy refuses this model")
    assert str(mine) == str(theirs) and mine.state_dict().keys() == theirs.state_dict().keys()
    for a, b in zip(mine.modules(), theirs.modules(), strict=True):
        assert type(a) is type(b) and list(a.__dict__) == list(b.__dict__)
        assert {k: type(v) for k, v in a.__dict__.items()} == {k: type(v) for k, v in b.__dict__.items()}
    assert not {id(m) for m in mine.modules()} & {id(m) for m in model.modules()}


class Packs(nn.Module):
    def forward(self, x):
        return x.contiguous() + x.t().contiguous()


def test_contiguous_is_an_operator_also_where_it_does_nothing():
    assert [op.name for op in trace(Packs(), torch.zeros(2, 2)).ops] == ["contiguous", "t", "contiguous", "add"]


def test_pytorch_and_the_collector_are_as_before():
    before = torch.Tensor.contiguous
    outer = {"contiguous": None, "collecting": None}

    class Inside(nn.Module):
        def forward(self, x):
            trace(Packs(), torch.zeros(2, 2))
            outer["contiguous"], outer["collecting"] = torch.Tensor.contiguous, gc.isenabled()
            return x + missing  # noqa: F821

    with pytest.raises(CannotTrace, match="missing"):
        trace(Inside(), torch.zeros(1))
    assert (
        outer["contiguous"] is not before and outer["collecting"] is False
    )  # the inner trace does not end the outer one
    assert torch.Tensor.contiguous is before and "contiguous" not in vars(torch.Tensor) and gc.isenabled()
    x = torch.zeros(3, 2).t()
    assert x.contiguous().is_contiguous() and x.t().contiguous() is not None
