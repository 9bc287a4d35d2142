"""A program from a file calls PyTorch's functional operators on tensors and nothing else, within bounded memory."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sartor.errors import BadInput, CorruptFile
from sartor.structure import trace
from sartor.structure.example import as_args, tensors
from sartor.structure.permitted_operators import refusal_of
from sartor.surgery import Edits, apply_edits
from sartor.surgery.program import Program, rewrite_
from sartor.surgery.rewrite import Rewriting
from sartor.surgery.tape import CannotRewrite, Tape
from sartor.testing.zoo import ZOO, cases


def program(*steps: Any, inputs: Any = ((None, 4),), output: Any = None) -> dict[str, Any]:
    variant = {
        "call": {"x": "*"}, "inputs": [list(i) for i in inputs], "same": list(range(len(inputs))),
        "output": {"slot": len(inputs)} if output is None else output, "steps": [list(s) for s in steps],
    }  # fmt: skip
    return {"format": 2, "positional": ["x"], "defaults": {}, "variants": [variant]}


X, Y = {"slot": 0}, {"slot": 1}


@pytest.mark.parametrize("name", [c.name for c in cases()])
def test_every_network_of_the_zoo_may_be_written_as_a_program_that_a_file_may_hold(name: str) -> None:
    case = ZOO[name].value
    model, example = case.build(), case.example()
    try:
        written = Rewriting(Tape.of(model, trace(model, example)), {}).program("")
    except CannotRewrite as e:
        assert "control flow depends on tensor values" in str(e)
        return
    raw = json.loads(json.dumps(written.raw))
    foreign = [s[0] for v in raw["variants"] for s in v["steps"] if not s[0].startswith(("aten::", "torchvision::"))]
    if foreign:
        with pytest.raises(CorruptFile, match="no operator of PyTorch"):
            Program(raw, trusted=False)
    again = Program(raw, trusted=bool(foreign))
    assert again == written
    args, kwargs = as_args(example)
    with torch.no_grad():
        torch.manual_seed(0)
        expected = list(tensors(model(*args, **kwargs)))
        torch.manual_seed(0)
        got = list(tensors(rewrite_(copy.deepcopy(model), "", again)(*args, **kwargs)))
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    "name",
    [
        "aten::from_file.default", "load_library::f.default", "import_module::os.system", "aten::set_.source_Tensor",
        "aten::resize_.default", "aten::_cuda_getCurrentRawStream.default", "aten::add.out", "aten::__class__.default",
        "aten::relu.__globals__", "aten::relu.__call__", "classes::a.b", "prim::device.default", "aten::save.default",
        "torchvision::read_file.default", "image::read_file.default", "aten::sym_size.int", "aten::relu",
        "aten.relu.default", "", "aten::_local_scalar_dense.default", "aten::rrelu_with_noise.default",
        "quantized::linear.default", "aten::_make_dep_token.default", "aten::data.default", "os::system.default",
    ],
)  # fmt: skip
def test_other_operators_are_refused_before_anything_runs(name: str) -> None:
    with pytest.raises(CorruptFile, match="step 0"):
        Program(program([name, [X], {}, [1], []]), trusted=False)
    with pytest.raises(CorruptFile, match="step 0"):
        Program(program([name, [X], {}, [1], []]), trusted=True)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (["aten::relu.default", [{"slot": 7}], {}, [1], []], "made before; got 7"),
        (["aten::relu.default", [{"slot": True}], {}, [1], []], "made before; got True"),
        (["aten::relu.default", ["x"], {}, [1], []], "argument 'self': expected Tensor; got 'x'"),
        (["aten::relu.default", [X, X], {}, [1], []], "at most 1 positional"),
        (["aten::relu.default", [X], {"out": X}, [1], []], "none of this name"),
        (["aten::relu.default", [X], {"self": X}, [1], []], "given twice"),
        (["aten::relu.default", [], {}, [1], []], "'self' is missing"),
        (["aten::relu.default", [{"slot": 0, "tensor": "a"}], {}, [1], []], "expected one of"),
        (["aten::relu.default", [{"eval": "a"}], {}, [1], []], "expected one of"),
        (["aten::relu.default", [{"tensor": 3}], {}, [1], []], "name of a parameter"),
        (["aten::relu.default", [{"modes": [X]}], {}, [1], []], "expected two values"),
        (["aten::view.default", [X, [4, "x"]], {}, [1], []], "'size': expected"),
        (["aten::view.default", [X, [{"size": {"of": [[9, 0]]}}]], {}, [1], []], "made before; got 9"),
        (["aten::view.default", [X, [{"size": {"of": []}}]], {}, [1], []], "size"),
        (["aten::zeros.default", [[4]], {"dtype": {"dtype": "load"}}, [1], []], "'dtype': expected .*ScalarType"),
        (["aten::zeros.default", [[4]], {"dtype": {"dtype": "__builtins__"}}, [1], []], "'dtype'"),
        (["aten::zeros.default", [[4]], {"device": "cuda"}, [1], []], "'device'"),
        (["aten::add.Tensor", [X, {"float": "__import__('os')"}], {}, [1], []], "-inf, inf, nan"),
        (["aten::relu_.default", [{"tensor": "weight"}], {}, [1], []], "not to a parameter"),
        (["aten::relu.default", [X], {}, [1], [5]], "made before; got 5"),
        (["aten::item.default", [X], {}, [1], []], "returns no tensor"),
        (["aten::relu.default", [X], {}, [1, 2], []], "returns no 2 tensors"),
    ],
)  # fmt: skip
def test_arguments_that_the_operator_does_not_take_are_named(step: list[Any], words: str) -> None:
    with pytest.raises(CorruptFile, match=words):
        Program(program(step), trusted=False)


@pytest.mark.parametrize(
    "raw",
    [
        program(["aten::relu.default", [X], {}, [1], []], output={"slot": 4}),
        program(["aten::relu.default", [X], {}, [1], [0]], ["aten::relu.default", [X], {}, [2], []]),
        {**program(["aten::relu.default", [X], {}, [1], []]), "format": 3},
        program(["aten::relu.default", [X], {}, [2], []], inputs=((None, 4), ({"size": {"of": [[1, 0]]}},))),
    ],
)
def test_values_that_were_never_made_are_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(CorruptFile):
        Program(raw, trusted=False)


def cut_with(raw: dict[str, Any], *, trust: bool = False) -> nn.Module:
    text = json.dumps({"format": 2, "sartor": "", "tensors": {}, "attributes": [], "forwards": {"": raw}})
    return apply_edits(nn.Linear(4, 4), Edits.from_json(text, trust=trust))


DOUBLED = [["aten::cat.default", [[{"slot": i}, {"slot": i}]], {}, [i + 1], [i]] for i in range(40)]


@pytest.mark.parametrize(
    "steps",
    [
        [["aten::zeros.default", [[2000, 1000, 1000]], {}, [1], []]],
        [["aten::zeros.default", [[{"size": {"of": [[0, 0]], "times": 10**9}}, 4]], {}, [1], []]],
        [["aten::empty_strided.default", [[2, 2], [2 * 10**9, 1]], {}, [1], []]],
        [["aten::repeat.default", [X, [100000, 10000]], {}, [1], []]],
        [["aten::pad.default", [X, [0, 2 * 10**9]], {}, [1], []]],
        [["aten::expand.default", [{"slot": 0}, [2000000000, 2, 4]], {}, [1], []],
         ["aten::add.Tensor", [{"slot": 1}, 1], {}, [2], []]],
        [["aten::arange.default", [10**10], {}, [1], []]],
        [["aten::einsum.default", ["ab,cd,ef,gh,ij->abcdefghij", [X] * 5], {}, [1], []],
         ["aten::einsum.default", ["abcdefghij,kl,mn,op,qr->abcdefghijklmnopqr", [Y, X, X, X, X]], {}, [2], []]],
        DOUBLED,
        [["aten::repeat.default", [X, [4000, 4000]], {}, [i], []] for i in range(1, 9)],
    ],
)  # fmt: skip
def test_a_program_from_a_file_cannot_take_gigabytes(steps: list[Any]) -> None:
    last = steps[-1][3][0]
    raw = program(*steps, output={"slot": last})
    with pytest.raises(BadInput, match=r"would take .* may take"):
        cut_with(raw)(torch.zeros(2, 4))


def test_a_step_that_does_not_fit_the_inputs_is_named() -> None:
    loaded = cut_with(program(["aten::view.default", [X, [3, 5]], {}, [1], []]))
    with pytest.raises(BadInput, match=r"step 0, aten::view: does not run with these inputs"):
        loaded(torch.zeros(2, 4))
    short = cut_with(program(["aten::split.Tensor", [X, 2], {}, [1, 2], []], output={"slot": 2}))
    with pytest.raises(BadInput, match="step 0"):
        short(torch.zeros(2, 4))


def test_what_is_checked_once_runs_at_every_size_and_survives_copies() -> None:
    weight = {"tensor": "weight"}
    loaded = cut_with(program(["aten::linear.default", [X, weight, {"tensor": "bias"}], {}, [1], []]))
    for model in (loaded, copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert model.program.trusted is False
        for n in (1, 2, 5):
            x = torch.randn(n, 4)
            torch.testing.assert_close(model(x), nn.functional.linear(x, loaded.weight, loaded.bias))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(torch.randn(3, 4).bfloat16()).dtype == torch.bfloat16
    exported = torch.export.export(loaded, (torch.randn(2, 4),)).module()
    torch.testing.assert_close(exported(torch.ones(2, 4)), loaded(torch.ones(2, 4)))


def test_no_permitted_operator_takes_a_file_name() -> None:
    for name in dir(torch.ops.aten):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads() if hasattr(packet, "overloads") else ():
            func = getattr(packet, overload)
            if not refusal_of(func):
                texts = {a.name for a in func._schema.arguments if "str" in str(a.type)}
                assert not texts & {"filename", "path", "name", "file"}, func


class Sizes(nn.Module):
    """Holds sizes in attributes of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.split, self.flag, self.rate = 8, (4, 4), True, 0.5
        self.lin = nn.Linear(8, 8)

    @property
    def wide(self) -> int:
        return 8

    @wide.setter
    def wide(self, value: int) -> None:
        raise AssertionError("a file has called a setter")

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("forward", 3), ("__class__", 3), ("state_dict", 3), ("__dict__", 3), ("lin", 3), ("training", 1), ("flag", 1),
        ("rate", 3), ("wide", 3), ("width", "os"), ("width", True), ("width", [4]), ("width", -1), ("width", 9),
        ("width", 10**12), ("split", 4), ("split", [4]), ("split", [4, 10**9]), ("split", ["a", "b"]), ("nothing", 3),
        ("_parameters", 3), ("_backward_hooks", {}), ("width", 2.5), ("width", None), ("__init__", 4), ("wide", 8),
    ],
)  # fmt: skip
def test_only_attributes_that_hold_sizes_are_set(attribute: str, value: Any) -> None:
    edits = Edits.from_json(json.dumps({"tensors": {}, "attributes": [["", attribute, value]]}))
    with pytest.raises(BadInput, match=attribute):
        apply_edits(Sizes(), edits)


def test_sizes_are_set_in_the_kind_they_had() -> None:
    edits = Edits.from_json(json.dumps({"tensors": {}, "attributes": [["", "width", 4], ["", "split", [2, 2]]]}))
    changed = apply_edits(Sizes(), edits)
    assert (changed.width, changed.split) == (4, (2, 2))


def rows(along: int, which: list[int], *kept: list[int]) -> dict[str, Any]:
    return {"along": along, "which": which, "rows": list(kept)}


@pytest.mark.parametrize(
    "keep",
    [
        {"0": [0, 0]}, {"0": [9]}, {"0": []}, {"2": [0]}, {"0": [0] * 10**5}, {"0": rows(0, [0], [0])},
        {"0": rows(1, [0], [0])}, {"0": rows(1, [0] * 8, [0, 0])}, {"0": rows(1, [1] * 8, [0])},
        {"0": rows(1, [0] * 8, [0], [1, 2])}, {"0": rows(5, [0] * 8, [0])}, {"0": rows(1, [0] * 8)},
    ],
)  # fmt: skip
def test_indices_that_a_tensor_does_not_have_are_refused(keep: dict[str, Any]) -> None:
    edits = Edits.from_json(json.dumps({"tensors": {"lin.weight": {"shape": [8, 8], "keep": keep}}, "attributes": []}))
    with pytest.raises(BadInput, match=r"lin\.weight"):
        apply_edits(Sizes(), edits)


@pytest.mark.parametrize("text", ["[" * 100000, '{"a": ' * 5000, "1" * 5000, "[],[]" * 600000, "{}" + "x", "nul"])
def test_texts_that_are_no_json_are_refused_within_bounds(text: str) -> None:
    with pytest.raises(CorruptFile, match="edits: expected"):
        Edits.from_json(text)
