"""The language of targets reads back, and says what is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.errors import BadInput, MissingExtra, SartorError, UnknownName
from sartor.measure import TARGETS, available, default_target, parse_target, prepare, rehearsal_target, show_target
from sartor.types import Target

EVERY = [(e.name, dtype) for e in TARGETS.entries() for dtype in e.traits["dtypes"]]


@given(st.sampled_from(EVERY), st.integers(0, 64), st.integers(1, 512))
def test_every_target_reads_back(place, threads, batch):
    name, dtype = place
    backend, device = name.rsplit("-", 1)
    target = Target(backend, device, threads, batch, dtype)
    assert parse_target(show_target(target)) == target
    assert parse_target(target) is target


@pytest.mark.parametrize(
    "text, error, says",
    [
        ("onnxruntim-cpu", UnknownName, "Did you mean 'onnxruntime-cpu'"),
        ("eager", UnknownName, "Did you mean 'eager-cpu'"),
        ("eager-tpu", UnknownName, "eager-cpu"),
        ("eager-cpu:thread=1", UnknownName, "Did you mean 'threads'"),
        ("eager-cpu:threads=two", BadInput, "whole number"),
        ("eager-cpu:threads", BadInput, "option=value"),
        ("eager-cpu:", BadInput, "threads=1"),
        ("eager-cpu:batch=0", BadInput, "at least 1"),
        ("eager-cpu:threads=-1", BadInput, "at least 0"),
        ("eager-cpu:dtype=int8", BadInput, "float32 or float16 or bfloat16; got 'int8', which onnxruntime-cpu"),
        ("onnxruntime-cpu:dtype=bfloat16", BadInput, "float32 or float16 or int8; got 'bfloat16', which compile-cpu"),
        ("onnxruntime-cuda:dtype=int8", BadInput, "openvino-cpu have"),
        ("eager-cpu:dtype=complex64", BadInput, "got 'complex64'$"),
        ("eager-cpu:batch=1,batch=2", BadInput, "twice"),
        ("", BadInput, "onnxruntime-cpu"),
        (None, BadInput, "onnxruntime-cpu"),
        (Target("eager", "tpu"), UnknownName, "eager-cpu"),
        (Target("eager", batch=0), BadInput, "at least 1"),
    ],
)
def test_a_wrong_target_is_explained(text, error, says):
    with pytest.raises(error, match=says):
        parse_target(text)


def test_what_is_not_available_says_why_and_cannot_be_prepared(mlp):
    listed = available()
    assert [name for name, _, _ in listed] == sorted(TARGETS)
    assert ("eager-cpu", True, "") in listed
    for name, fine, why in listed:
        assert fine == (not why)
        if not fine:
            with pytest.raises(SartorError, match=r"does not work here|needs the package"):
                prepare(*mlp, name)


def test_a_missing_package_is_named_with_its_command(mlp, monkeypatch):
    import importlib.util as finder

    real = finder.find_spec
    monkeypatch.setattr(finder, "find_spec", lambda name, *a: None if name == "onnxruntime" else real(name, *a))
    with pytest.raises(MissingExtra, match=r"pip install 'sartor\[onnx\]'"):
        prepare(*mlp, "onnxruntime-cpu")
    assert not dict((n, ok) for n, ok, _ in available())["onnxruntime-cpu"]


def test_every_target_has_a_source():
    assert all(e.source and e.summary for e in TARGETS.entries())


def test_a_rehearsal_is_another_quick_target_that_takes_the_same_options():
    slow = parse_target("compile-cpu:threads=2,batch=3,dtype=float16")
    assert rehearsal_target(slow) == parse_target("eager-cpu:threads=2,batch=3,dtype=float16")
    for entry in TARGETS.entries():
        quick = rehearsal_target(parse_target(entry.name))
        assert quick is None or (parse_target(quick) == quick and rehearsal_target(quick) is None)


def test_the_default_target_works_here():
    assert dict((name, works) for name, works, _ in available())[default_target()]
