"""Artefacts and runnables compute what the model does in eval mode, and leave the model alone."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.export import export_onnx, export_pt2
from sartor.measure import Artefact, compare_artefacts, prepare, prepare_file
from sartor.measure.agreement import relative_error
from sartor.measure.environment import usable_cores
from sartor.measure.onnx_graph import to_onnx, to_onnx_fast
from sartor.measure.ort_backend import open_session
from sartor.measure.torch_backends import _compiled
from sartor.structure.example import call, with_batch
from sartor.types import Effort, Target


def expected_of(model, example, batch):
    with torch.no_grad():
        return call(copy.deepcopy(model).eval(), with_batch(example, batch))


def artefact_of(kind, model, example, folder):
    """The model itself, or a file of it."""
    if kind == "module":
        return Artefact(model)
    path = folder / f"net.{kind}"
    {"onnx": export_onnx, "pt2": export_pt2}[kind](model, example, path)
    return Artefact(path)


@pytest.mark.parametrize("kind", ["module", "onnx", "pt2"])
def test_an_artefact_computes_what_the_model_does_at_any_batch(network, kind, tmp_path):
    model, example = network
    artefact = artefact_of(kind, model, example, tmp_path)
    for batch in (1, 4):
        outputs = artefact.run(with_batch(example, batch))
        assert relative_error(expected_of(model, example, batch), outputs) < 1e-5
    if kind != "module":
        assert artefact.bytes == (tmp_path / f"net.{kind}").stat().st_size


class Named(nn.Module):
    """Two outputs, as a tuple or by name."""

    def __init__(self, by_name):
        super().__init__()
        self.layer, self.by_name = nn.Linear(3, 2), by_name

    def forward(self, x):
        y = self.layer(x)
        return {"logits": y, "twice": 2 * y} if self.by_name else (y, 2 * y)


@pytest.mark.parametrize("kind", ["module", "onnx", "pt2"])
@pytest.mark.parametrize("by_name", [False, True])
def test_outputs_keep_the_nesting_of_the_forward(kind, by_name, tmp_path):
    model, x = Named(by_name).eval(), torch.randn(2, 3)
    outputs = artefact_of(kind, model, x, tmp_path).run(x)
    expected = expected_of(model, x, 2)
    assert type(outputs) is type(expected) and (not by_name or list(outputs) == ["logits", "twice"])
    assert relative_error(expected, outputs) < 1e-5


def test_bytes_of_a_module_count_tied_weights_once(residual):
    model, _ = residual
    tensors = [*model.parameters(), *model.buffers()]
    assert Artefact(model).bytes == sum(t.nbytes for t in tensors)
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    assert Artefact(tied).bytes == 9 * 4


@pytest.mark.parametrize("kind", ["module", "onnx", "pt2"])
def test_an_artefact_is_prepared_with_the_example_given(residual, kind, tmp_path):
    model, example = residual
    artefact = artefact_of(kind, model, example, tmp_path)
    with artefact.prepared(example) as runnable:
        assert runnable.target == artefact.target
        assert relative_error(expected_of(model, example, 1), runnable.run()) < 1e-5


def test_two_artefacts_are_compared_on_their_target(mlp):
    model, example = mlp
    effort = Effort(samples=4, min_seconds=0.0, max_seconds=0.5)
    comparison = compare_artefacts(Artefact(model), Artefact(copy.deepcopy(model)), example, effort)
    assert comparison.ratio > 0 and comparison.original.target == Target("eager")


def test_a_wrong_artefact_is_explained(mlp, tmp_path):
    with pytest.raises(BadInput, match=r"\.onnx or \.pt2; got"):
        Artefact(tmp_path / "net.bin")
    for ending in ("onnx", "pt2"):
        for use in (lambda a: a.run(mlp[1]), lambda a: a.bytes):
            with pytest.raises(BadInput, match="does not exist"):
                use(Artefact(tmp_path / f"net.{ending}"))
        (tmp_path / f"broken.{ending}").write_bytes(b"this is no model")
        with pytest.raises(CorruptFile, match=rf"broken\.{ending}"):
            Artefact(tmp_path / f"broken.{ending}").run(mlp[1])
    with pytest.raises(BadInput, match="expected example inputs"):
        Artefact(mlp[0]).prepared()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("target", ["eager-cpu", "onnxruntime-cpu"])
def test_it_computes_what_the_model_does(network, target, batch):
    model, example = network
    with prepare(model, example, f"{target}:batch={batch},threads=1") as runnable:
        assert relative_error(expected_of(model, example, batch), runnable.run()) < 1e-5


@pytest.mark.parametrize("target", ["eager-cpu", "onnxruntime-cpu"])
def test_the_model_is_left_as_it_was(residual, target):
    model, example = residual
    model.train()
    model.norm.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    with prepare(model, example, target) as runnable:
        runnable.run()
        first = runnable.run()
        assert [m.training for m in model.modules()] == modes
        with torch.no_grad():  # a later change of the model does not reach the runnable
            model.head.weight.zero_()
        assert relative_error([torch.as_tensor(t) for t in _list(first)], runnable.run()) == 0
        model.head.weight.data.copy_(before["head.weight"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def _list(value):
    return value if isinstance(value, list) else [value]


def test_threads_hold_while_running_and_are_restored(mlp):
    model, example = mlp
    seen = []
    model.register_forward_hook(lambda *_: seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled())))
    before = torch.get_num_threads()
    with prepare(model, example, f"eager-cpu:threads={before + 1}") as runnable:
        runnable.run()
        with runnable.held():
            runnable.run()
            assert torch.get_num_threads() == before + 1
        assert torch.get_num_threads() == before
    assert seen and set(seen) == {(before + 1, True)}
    assert not torch.is_inference_mode_enabled()


def test_half_precision_is_said_by_the_target(mlp):
    model, example = mlp
    with prepare(model, example, "eager-cpu:dtype=bfloat16") as runnable:
        assert runnable.run().dtype == torch.bfloat16
    with prepare(model, example, "onnxruntime-cpu:dtype=float16") as runnable:
        assert runnable.run()[0].dtype == np.float16
    with pytest.raises(BadInput, match="float32 or float16 or int8"):
        prepare(model, example, "onnxruntime-cpu:dtype=bfloat16")


def test_after_close_it_does_not_run(mlp):
    runnable = prepare(*mlp, "eager-cpu")
    runnable.close()
    runnable.close()
    with pytest.raises(BadInput, match="closed"):
        runnable.run()


def test_what_the_forward_raises_reaches_the_user():
    for target in ("onnxruntime-cpu", "compile-cpu"):
        with pytest.raises(RuntimeError, match="mat1 and mat2") as e:
            prepare(nn.Linear(3, 3), torch.ones(2, 4), target)
        assert not isinstance(e.value, SartorError)


def test_every_session_has_the_settings_latencies_are_true_for(mlp):
    import onnxruntime as ort

    for threads in (0, 1, 3):
        session = open_session(to_onnx_fast(mlp[0].eval(), mlp[1]).data, Target("onnxruntime", threads=threads))
        options = session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads or usable_cores(), 1)
        assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
        assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def optimised(data, path):
    """How often ONNX Runtime runs each operator, after its own optimisation."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return sorted(n.op_type for n in onnx.load(str(path)).graph.node)


def test_the_quick_exporter_gives_the_runtime_the_same_graph(residual, tmp_path):
    model, example = residual
    model.eval()
    quick, full = to_onnx_fast(model, example), to_onnx(model, example)
    assert (quick.exporter, full.exporter) == ("torchscript", "dynamo")
    assert optimised(quick.data, tmp_path / "a.onnx") == optimised(full.data, tmp_path / "b.onnx")


def test_the_quick_exporter_is_not_used_when_it_cannot_or_is_not_wanted(mlp, capfd):
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)  # a fused operator the quick one does not know
    with prepare(encoder, torch.randn(2, 3, 8), "onnxruntime-cpu") as runnable:
        assert runnable.detail["exporter"] == "dynamo"
    assert capfd.readouterr() == ("", "")
    with prepare(*mlp, "onnxruntime-cpu", fast=False) as runnable:
        assert runnable.detail["exporter"] == "dynamo"
    with prepare(*mlp, "onnxruntime-cpu") as runnable:
        assert runnable.detail["exporter"] == "torchscript"


def test_every_variant_of_a_class_is_really_compiled():
    compiled = []

    def backend(module, _):
        compiled.append(module)
        return module.forward

    nets = [nn.Sequential(nn.Linear(4, 5 + k), nn.ReLU(), nn.Linear(5 + k, 2)) for k in range(12)]
    runnables = [_compiled(net, torch.ones(1, 4), Target("compile"), backend) for net in nets]
    assert len(compiled) == len(nets)
    for runnable, net in zip(runnables, nets):
        assert relative_error(expected_of(net, torch.ones(1, 4), 1), runnable.run()) < 1e-5
    assert len(compiled) == len(nets)


def test_compile_computes_what_the_model_does(mlp):
    from sartor.measure.targets import why_not_here

    if why := why_not_here("compile-cpu"):
        pytest.skip(why)
    model, example = mlp
    with prepare(model, example, "compile-cpu:threads=1,batch=3") as runnable:
        assert relative_error(expected_of(model, example, 3), runnable.run()) < 1e-5


def test_a_file_runs_with_inputs_of_its_own_shapes(network, tmp_path):
    model, example = network
    path = tmp_path / "net.onnx"
    export_onnx(model, example, path)
    with prepare_file(path, "onnxruntime-cpu:batch=4") as runnable:
        assert all(len(out) == 4 for out in runnable.run())


def test_a_wrong_file_is_explained(tmp_path, mlp):
    with pytest.raises(BadInput, match="does not exist"):
        prepare_file(tmp_path / "no.onnx")
    with pytest.raises(BadInput, match=r"\.onnx"):
        prepare_file(tmp_path / "no.pt2")
    with pytest.raises(BadInput, match="onnxruntime-cpu"):
        prepare_file(tmp_path / "no.onnx", "eager-cpu")
    broken = tmp_path / "broken.onnx"
    for content in (b"", b"this is no model"):
        broken.write_bytes(content)
        with pytest.raises(CorruptFile, match=r"broken\.onnx"):
            prepare_file(broken)
    whole = to_onnx(*mlp).data
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFile, match=r"broken\.onnx"):
        prepare_file(broken)


def write_relu(path, shape):
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def test_a_file_of_fixed_or_free_shapes_is_asked_for_them(tmp_path):
    path = tmp_path / "net.onnx"
    write_relu(path, [8, 3])
    with pytest.raises(BadInput, match="onnxruntime-cpu:batch=8"):
        prepare_file(path)
    assert prepare_file(path, "onnxruntime-cpu:batch=8").run()[0].shape == (8, 3)
    write_relu(path, ["n", "length", 2])
    with pytest.raises(BadInput, match="length"):
        prepare_file(path)
    assert prepare_file(path, sizes={"length": 7}).run()[0].shape == (1, 7, 2)
