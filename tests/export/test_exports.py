"""Exported = eager, for both formats and every network; nothing is written that was not checked."""

import copy

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from sartor.errors import BadInput, MissingExtra, SartorError
from sartor.export import export_onnx, export_pt2
from sartor.measure.agreement import relative_error, varied
from sartor.measure.onnx_runtimes import feeds
from sartor.structure.example import call, with_batch

FORMATS = {"onnx": export_onnx, "pt2": export_pt2}


@pytest.fixture(params=sorted(FORMATS))
def export(request):
    return FORMATS[request.param], f"net.{request.param}"


def run_file(path, inputs):
    """The file alone, without Sartor's help."""
    if path.suffix == ".onnx":
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, feeds([i.name for i in session.get_inputs()], inputs))
    with torch.no_grad():
        return call(torch.export.load(path).module(), inputs)


def test_the_file_computes_what_the_model_does_at_a_batch_nobody_checked(network, export, tmp_path, capfd):
    model, example = network
    act, name = export
    report = act(model, example, tmp_path / name)
    assert capfd.readouterr() == ("", "")
    assert report["dynamic"] and report["reason"] == "" and report["batches"] == [1, 2, 5]
    assert report["max_relative_error"] <= 1e-4
    path = tmp_path / name
    assert report["path"] == str(path) and report["bytes"] == path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]  # self-contained
    inputs = varied(with_batch(example, 7))
    with torch.no_grad():
        expected = call(copy.deepcopy(model).eval(), inputs)
    assert relative_error(expected, run_file(path, inputs)) < 1e-5


def test_the_model_is_left_as_it_was_and_exported_in_eval_mode(residual, export, tmp_path):
    model, example = residual
    model.train()
    model.norm.eval()
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    names = {k: id(v) for k, v in model.named_parameters()}
    export[0](model, example, tmp_path / export[1])
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert {k: id(v) for k, v in model.named_parameters()} == names
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


class OnlyThree(nn.Module):
    def forward(self, x):
        if x.shape[0] != 3:
            raise RuntimeError("only three")
        return x.reshape(3, 2, 2)


def test_a_fixed_batch_is_exported_as_such_and_said(export, tmp_path):
    report = export[0](OnlyThree(), torch.randn(3, 4), tmp_path / export[1])
    assert report["dynamic"] is False and report["reason"] and report["batches"] == [3]
    assert (tmp_path / export[1]).exists()


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Raises(nn.Module):
    def forward(self, x):
        raise LookupError("mine")


def test_failures_leave_what_was_there(mlp, export, tmp_path, capfd):
    act, name = export
    path = tmp_path / name
    path.write_text("before")
    with pytest.raises(SartorError, match="cannot follow the forward of Branches"):
        act(Branches(), torch.ones(2, 3), path)
    with pytest.raises(LookupError, match="mine"):
        act(Raises(), torch.ones(2, 3), path)
    with pytest.raises(SartorError, match="does not compute what the model does"):
        act(*mlp, path, tolerance=-1.0)
    with pytest.raises(BadInput, match="check"):
        act(*mlp, path, check=())
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]
    assert capfd.readouterr() == ("", "")


def test_a_wrong_path_is_refused_before_any_work(export, tmp_path):
    act, name = export
    with pytest.raises(BadInput, match="ending in"):
        act(Raises(), torch.ones(1), tmp_path / "net.bin")
    (tmp_path / "file").write_text("")
    with pytest.raises(SartorError, match="a file, not a folder"):
        act(Raises(), torch.ones(1), tmp_path / "file" / name)


def test_what_onnx_says_of_itself(residual, tmp_path):
    import onnx

    report = export_onnx(*residual, tmp_path / "net.onnx")
    proto = onnx.load(str(tmp_path / "net.onnx"), load_external_data=False)
    onnx.checker.check_model(proto)
    assert [i.name for i in proto.graph.input] == ["x"] and [o.name for o in proto.graph.output] == ["output"]
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(t.external_data for t in proto.graph.initializer)
    assert "BatchNormalization" not in {n.op_type for n in proto.graph.node}  # folded
    assert report["opset"] >= 18


def test_a_missing_package_is_named_with_its_command(mlp, tmp_path, monkeypatch):
    import importlib.util as finder

    real = finder.find_spec
    for missing in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setattr(finder, "find_spec", lambda n, *a, missing=missing: None if n == missing else real(n, *a))
        with pytest.raises(MissingExtra, match=rf"'{missing}': pip install 'sartor\[onnx\]'"):
            export_onnx(*mlp, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_more_than_one_file_can_hold_is_refused(mlp, tmp_path, monkeypatch):
    monkeypatch.setattr("sartor.measure.onnx_graph.LARGEST_BYTES", 10)
    with pytest.raises(BadInput, match="2 GB"):
        export_onnx(*mlp, tmp_path / "net.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvision(name, export, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model, example = torchvision.models.get_model(name, weights=None), torch.randn(1, 3, 64, 64)
    report = export[0](model, example, tmp_path / export[1])
    assert report["dynamic"] and np.isfinite(report["max_relative_error"])


def test_a_free_batch_that_does_not_run_becomes_a_fixed_one(tmp_path, monkeypatch):
    """torch.export writes guards that speak of names they do not know; such a file would fail its user."""
    real, loads = torch.export.load, []

    class Raises(nn.Module):
        def forward(self, *args, **kwargs):
            raise NameError("name 'L' is not defined")

    class Broken:
        def module(self):
            return Raises()

    def load(stream):
        loads.append(stream)
        return Broken() if len(loads) == 1 else real(stream)

    monkeypatch.setattr(torch.export, "load", load)
    model, x = nn.Linear(4, 2), torch.randn(3, 4)
    report = export_pt2(model, x, tmp_path / "a.pt2")
    assert (report["dynamic"], report["batches"]) == (False, [3]) and "does not run: NameError" in report["reason"]
    torch.testing.assert_close(real(tmp_path / "a.pt2").module()(x), model(x))


class Edges(nn.Module):
    """Dimension 0 of its input counts nodes, which the edges name."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x, edges):
        return self.a(x).index_add(0, edges[1], self.a(x)[edges[0]])


def test_the_nodes_of_a_graph_are_no_batch(tmp_path):
    model, example = Edges(), (torch.randn(5, 4), torch.tensor([[0, 4, 2], [1, 2, 3]]))
    report = export_pt2(model, example, tmp_path / "a.pt2")
    assert not report["dynamic"] and "does not run at batch size 1" in report["reason"]
    torch.testing.assert_close(torch.export.load(tmp_path / "a.pt2").module()(*example), model(*example))


class _Denoiser(nn.Module):
    """Its result is named like its argument, as in diffusion libraries."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, sample):
        return {"sample": self.layer(sample)}


def test_an_output_named_like_an_input_gets_another_name(tmp_path):
    path = tmp_path / "net.onnx"
    export_onnx(_Denoiser(), torch.randn(1, 3, 8, 8), path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["sample"]
    assert [o.name for o in session.get_outputs()] == ["sample_out"]


class Remembers(nn.Module):
    """Its answer depends on the inputs before, whose sum it keeps in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x) + self.seen
        self.seen = (self.seen + y.mean(0)).detach()
        return y


def test_a_network_with_a_memory_is_checked_from_one_state(tmp_path):
    model = Remembers().eval()
    report = export_pt2(model, torch.randn(2, 3), tmp_path / "net.pt2")
    assert report["max_relative_error"] <= 1e-4 and report["batches"] == [1, 2, 5]
    assert not model.seen.any()
