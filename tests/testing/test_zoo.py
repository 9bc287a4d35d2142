"""Every network of the zoo runs, is deterministic, depends on its inputs, and has no neutral weights."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import Tensor

from sartor.errors import BadInput, UnknownName
from sartor.structure.example import as_args, call, map_tensors, tensors, with_batch
from sartor.testing.zoo import CNN_CLASSES, MARKS, ZOO, Case, cases, randomise_

ALL = cases()
UNTOUCHED = {
    "unused-parameter": {"aux", "spare", "sizes"},
    "dead-pooler": {"pooled", "project"},
    "dropped-state": {"sent"},
    "early-exit": {"exit"},
}


def run(case: Case, example: object = None) -> list[Tensor]:
    with torch.no_grad():
        return list(tensors(call(case.build(), case.example() if example is None else example)))


def differs(a: list[Tensor], b: list[Tensor]) -> list[float]:
    return [float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True)]


def test_the_zoo_is_as_wide_as_promised() -> None:
    assert len(ALL) >= 36 and len([c for c in ALL if c.exact]) >= 25
    assert {m for c in ALL for m in c.marks} == set(MARKS)
    assert all(ZOO[c.name].source and c.summary.endswith(".") for c in ALL)


def test_every_class_of_convolutional_architectures_has_a_network() -> None:
    assert len(CNN_CLASSES) == 7 and all(name in ZOO for names in CNN_CLASSES.values() for name in names)


def test_unknown_names_and_marks_are_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'resnet'"):
        ZOO["resnt"]
    with pytest.raises(BadInput, match="expected marks among"):
        Case("x", torch.nn.Identity, lambda: None, True, frozenset({"latr"}))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_forward_is_finite_fast_and_the_same_at_every_build(case: Case) -> None:
    first, second = run(case), run(case)
    assert first and all(t.isfinite().all() for t in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    model, example = case.build(), case.example()
    assert not any(m.training for m in model.modules())
    seconds = []  # CPU time of this thread, so that other processes do not matter
    for _ in range(5):
        start = time.thread_time()
        with torch.no_grad():
            call(model, example)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 0.05


@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_input_matters_and_every_output_depends_on_one(case: Case) -> None:
    before = run(case)
    example = case.example()
    moved = []
    for chosen in list(tensors(example)):
        other = map_tensors(lambda t, chosen=chosen: t.roll(1, 0) if t is chosen else t, example)
        moved.append(differs(run(case, other), before))
    assert all(max(m) > 1e-3 for m in moved)
    assert all(max(m[i] for m in moved) > 1e-3 for i in range(len(before)))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_samples_of_a_batch_do_not_see_each_other(case: Case) -> None:
    two, three, one = run(case), run(case, with_batch(case.example(), 3)), run(case, with_batch(case.example(), 1))
    for a, b, c in zip(two, three, one, strict=True):
        assert len(a) == 2 and len(b) == 3 and len(c) == 1
        torch.testing.assert_close(b[:2], a, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(c, a[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_parameter_matters(case: Case) -> None:
    model = case.build().requires_grad_(True)
    args, kwargs = as_args(case.example())
    sum(t.pow(2).sum() for t in tensors(model(*args, **kwargs))).backward()  # type: ignore[union-attr]
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert {n.split(".")[0] for n in silent} == UNTOUCHED.get(case.name, set())


@pytest.mark.parametrize("case", ALL, ids=str)
def test_nothing_is_neutral(case: Case) -> None:
    """No parameter or running statistic is constant, and none holds an exact 0 or 1."""
    model = case.build()
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if t.is_floating_point() and "mask" not in name:
            assert not ((t == 0) | (t == 1)).any(), name
            assert t.numel() == 1 or t.std() > 0, name


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_copy_computes_the_same_and_is_apart(case: Case) -> None:
    model = case.build()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = list(tensors(call(model, case.example())))
        assert all(torch.equal(a, b) for a, b in zip(tensors(call(twin, case.example())), before, strict=True))
        randomise_(twin)
        assert all(torch.equal(a, b) for a, b in zip(tensors(call(model, case.example())), before, strict=True))
