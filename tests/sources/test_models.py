import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sartor.errors import BadInput, CorruptFile, MissingExtra, UnknownName
from sartor.sources import load_model

NET = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
import sibling

@dataclass
class Shape:
    wide: int = 4

def net(wide: int = 4, depth: int = 1):
    return nn.Sequential(nn.Linear(3, Shape(wide).wide), nn.BatchNorm1d(wide), *[nn.ReLU()] * depth)

class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, sibling.CLASSES)

ready = net()
number = 3
def text(): return "no module"
def broken(): raise ZeroDivisionError("my own words")
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "sibling.py").write_text("CLASSES = 5")
    (tmp_path / "net.py").write_text(NET)
    yield tmp_path / "net.py"
    sys.modules.pop("sibling", None)


def test_a_factory_in_a_file(file):
    path = list(sys.path)
    assert load_model(f"{file}:net")[0].out_features == 4
    assert load_model(f"{file}:net?wide=6&depth=2")[0].out_features == 6
    assert len(load_model(f"{file}:net?wide=6&depth=2", options={"wide": 7})) == 4
    assert load_model(f"{file}:Net").out_features == 5
    assert isinstance(load_model(f"{file}:ready"), nn.Sequential)
    assert sys.path == path


def test_a_factory_in_a_module(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    (file.parent / "my_nets_for_sartor.py").write_text("from net import net, ready")
    try:
        assert load_model("my_nets_for_sartor:net")[0].out_features == 4
        first = load_model("my_nets_for_sartor:ready")
        nn.init.zeros_(first[0].weight)
        assert load_model("my_nets_for_sartor:ready")[0].weight.abs().sum() > 0  # the module's own is not handed out
    finally:
        sys.modules.pop("net", None)
        sys.modules.pop("my_nets_for_sartor", None)
    assert load_model("torch.nn:Linear?in_features=2&out_features=3").out_features == 3


@pytest.mark.parametrize("spec, error, says", [
    ("resnet18", BadInput, "such as timm:resnet18"),
    ("{file}x.py:net", BadInput, "no file"),
    ("{file}:nett", UnknownName, "Did you mean 'net'"),
    ("{file}:", UnknownName, "no factory"),
    ("{file}:number", BadInput, "expected a function or class to call; got int"),
    ("{file}:text", BadInput, "returns a torch.nn.Module; got str"),
    ("{file}:net?width=3", BadInput, "wide: .*int.* = 4.*width"),
    ("{file}:ready?wide=3", BadInput, "takes no options"),
    ("no_such_package.module:net", BadInput, "no module 'no_such_package.module'"),
    ("not a module:net", BadInput, "package.module:factory"),
    ("torchvision:resnet81", UnknownName, "Did you mean 'resnet18'"),
    ("torchvision:xyzzy", BadInput, "list_models"),
    ("timm:resnet188", UnknownName, "no timm model is called 'resnet188'. Did you mean"),
])  # fmt: skip
def test_errors_say_what_to_do(file, spec, error, says):
    if spec.startswith(("timm", "torchvision")):
        pytest.importorskip(spec.split(":")[0])
    with pytest.raises(error, match=says):
        load_model(spec.format(file=file))


def test_what_the_users_code_raises_reaches_the_user(file):
    with pytest.raises(BadInput, match=r"net\.py:broken raised ZeroDivisionError: my own words") as caught:
        load_model(f"{file}:broken")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    file.write_text("import torch\n1 / 0")
    with pytest.raises(BadInput, match="ZeroDivisionError while it was loaded") as caught:
        load_model(f"{file}:net")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    file.write_text("def net(:")
    with pytest.raises(BadInput, match="SyntaxError"):
        load_model(f"{file}:net")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_libraries_and_their_absence(library, monkeypatch):
    pytest.importorskip(library)
    assert load_model(f"{library}:resnet18?num_classes=7").fc.out_features == 7
    with pytest.raises(BadInput, match=r"resnet18 raised TypeError"):
        load_model(f"{library}:resnet18?no_such_option=7")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"pip install 'sartor\[zoo\]'"):
        load_model(f"{library}:resnet18")


def saved(folder, state, name="w.pth"):
    path = folder / name
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    return path


def equal(a, b):
    return all(torch.equal(b[k], v) for k, v in a.items())


@pytest.mark.parametrize("wrap", [
    lambda s: s,
    lambda s: {"state_dict": s, "epoch": 3},
    lambda s: {"model": s, "optimizer": {"lr": 0.1}},
    lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
])  # fmt: skip
def test_weights_come_in_many_wrappings(file, tmp_path, wrap):
    state = load_model(f"{file}:net").state_dict()
    loaded = load_model(f"{file}:net", weights=saved(tmp_path, wrap(dict(state))))
    assert equal(state, loaded.state_dict())


def test_safetensors(file, tmp_path):
    state = load_model(f"{file}:net").state_dict()
    loaded = load_model(f"{file}:net", weights=str(saved(tmp_path, dict(state), "w.safetensors")))
    assert equal(state, loaded.state_dict())


def test_a_mismatch_lists_the_first_of_each_kind_and_changes_nothing(file, tmp_path):
    state = {f"extra{i}": torch.ones(1) for i in range(9)} | {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(4)}
    with pytest.raises(BadInput) as caught:
        load_model(f"{file}:net", weights=saved(tmp_path, state))
    text = str(caught.value)
    assert "4 missing: 1.weight, 1.bias, 1.running_mean, ..." in text
    assert "9 unexpected: extra0, extra1, extra2, ..." in text
    assert "1 of another shape: 0.weight (file [2, 3], model [4, 3])" in text


def test_damaged_files(file, tmp_path):
    state = dict(load_model(f"{file}:net").state_dict())
    whole = saved(tmp_path, state)
    for name, bytes_ in {
        "cut.pth": whole.read_bytes()[:200], "empty.pth": b"", "noise.pth": b"\x00\xff" * 100,
        "cut.safetensors": saved(tmp_path, state, "w.safetensors").read_bytes()[:100], "noise.safetensors": b"abc" * 50,
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(bytes_)
        with pytest.raises(CorruptFile, match="damaged"):
            load_model(f"{file}:net", weights=tmp_path / name)
    with pytest.raises(BadInput, match="no weights file"):
        load_model(f"{file}:net", weights=tmp_path / "none.pth")
    with pytest.raises(CorruptFile, match=r"'0\.weight' holds NaN"):
        load_model(f"{file}:net", weights=saved(tmp_path, state | {"0.weight": torch.full((4, 3), float("nan"))}))
    with pytest.raises(CorruptFile, match=r"a state_dict.*holds 'a': int"):
        load_model(f"{file}:net", weights=saved(tmp_path, {"a": 1}))
    with pytest.raises(CorruptFile, match="got Tensor"):
        load_model(f"{file}:net", weights=saved(tmp_path, torch.ones(2)))


def test_files_with_code_are_refused(file, tmp_path):
    with pytest.raises(
        BadInput, match=r"asks for torch\.nn\.modules\.linear\.Linear.*runs no code from files.*state_dict"
    ):
        load_model(f"{file}:net", weights=saved(tmp_path, nn.Linear(2, 2)))
