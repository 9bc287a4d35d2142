"""Private names of PyTorch: all of them stand in one file, and all of them work without a deprecation warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sartor import torch_internals as internals

SOURCE = Path(internals.__file__).parent
PRIVATE = re.compile(
    r"torch\.(\w+\.)*_[a-z]\w*|torch\._C|nn\.modules|from torch[\w.]* import [^\n]*\b_\w"
    r"|\._(schema|overloadname|cdata|base|parameters|buffers|modules|wrapped_call_impl)\b(?! =)"
)

pytestmark = pytest.mark.filterwarnings("error::DeprecationWarning", "error::FutureWarning")


def test_no_other_file_uses_a_private_name_of_torch():
    found = [
        f"{path.relative_to(SOURCE)}:{n}: {line.strip()}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "torch_internals.py"
        for n, line in enumerate(path.read_text().splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("line", ["import torch._dynamo", "x = torch._C.A", "from torch.a import _B", "f._schema.name"])
def test_the_search_sees_a_private_name(line: str):
    assert PRIVATE.search(line)


def test_it_imports_without_a_deprecation_warning():
    flags = ["-W", "error::DeprecationWarning:sartor", "-c", "import sartor.torch_internals"]
    assert subprocess.run([sys.executable, *flags], capture_output=True).returncode == 0


def test_operators():
    add = torch.ops.aten.add.Tensor
    assert isinstance(add, internals.OpOverload) and internals.overload_name(add) == "Tensor"
    assert internals.schema(add).name == "aten::add"
    assert [a.name for a in internals.schema(add).arguments] == ["self", "other", "alpha"]


def test_dispatch_modes():
    seen = []

    class See(internals.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(2)
    with See():
        x.neg()
        with internals.outside_modes():
            x.exp()
    assert seen == [torch.ops.aten.neg.default]


def test_dispatch_keys():
    (key,) = internals.dispatch_keys(["AutocastCPU", "a key that does not exist"])
    before = internals.is_excluded(key)
    try:
        internals.set_excluded(key, not before)
        assert internals.is_excluded(key) is not before
    finally:
        internals.set_excluded(key, before)


def test_tables_of_a_module():
    module = nn.Sequential(nn.BatchNorm1d(3, affine=True), nn.Linear(3, 2, bias=False))
    assert set(internals.own_parameters(module[0])) == {"weight", "bias"} and isinstance(module[0], internals.BatchNorm)
    assert set(internals.own_buffers(module[0])) == {"running_mean", "running_var", "num_batches_tracked"}
    assert internals.own_parameters(module[1])["bias"] is None
    internals.children_table(module)["1"] = nn.Identity()
    assert isinstance(module[1], nn.Identity)


def test_tensors():
    x = torch.empty(4, device="meta")
    assert internals.storage_address(x) == internals.storage_address(x[1:])
    assert internals.storage_address(x) != internals.storage_address(torch.empty(4, device="meta"))
    assert internals.is_view(torch.ones(3)[1:]) and not internals.is_view(torch.ones(3))
    assert issubclass(torch.Tensor, internals.TENSOR_BASE)


def test_the_code_of_a_module_call_stands_on_the_stack():
    class Probe(nn.Module):
        def forward(self) -> bool:
            frame, found = sys._getframe(), False
            while frame is not None:
                found, frame = found or frame.f_code is internals.MODULE_CALL, frame.f_back
            return found

    assert Probe()()


def test_limits_of_compile_hold_inside_only():
    import torch._dynamo.config as config

    before = config.recompile_limit
    with internals.dynamo_limits(recompile_limit=3):
        assert config.recompile_limit == 3
    assert config.recompile_limit == before
