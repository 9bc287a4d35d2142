"""What each runtime is told: precision, threads, providers; and int8, which must still be the same network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.measure import latency, onnx_runtimes, prepare, prepare_file
from sartor.measure.agreement import relative_error
from sartor.measure.latency import LATENCY_EFFORT
from sartor.measure.onnx_graph import to_onnx_fast
from sartor.measure.ort_backend import PROVIDERS, providers, runtime
from sartor.measure.static_int8 import quantised
from sartor.measure.tables import Table, where_of
from sartor.measure.targets import parse_target, why_not_here
from sartor.structure.example import call, with_batch
from sartor.types import Target

INT8 = ["onnxruntime-cpu:dtype=int8", "openvino-cpu:dtype=int8"]


def expected_of(model, example, batch=1):
    with torch.no_grad():
        return call(model.eval(), with_batch(example, batch))


def works_or_skip(target):
    if why := why_not_here(target.partition(":")[0]):
        pytest.skip(why)
    return target


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_computes_what_the_model_does(network, batch):
    model, example = network
    with prepare(model, example, works_or_skip("openvino-cpu") + f":threads=1,batch={batch}") as runnable:
        assert relative_error(expected_of(model, example, batch), runnable.run()) < 1e-5
        assert len(latency(runnable, replace(LATENCY_EFFORT, samples=4, min_seconds=0.0)).seconds) >= 4


def test_openvino_never_takes_fewer_threads_than_asked(mlp):
    with pytest.raises(SartorError, match="expected 9999 threads; OpenVINO takes"):
        prepare(*mlp, works_or_skip("openvino-cpu") + ":threads=9999")


def test_openvino_is_told_what_a_latency_is_true_for():
    works_or_skip("openvino-cpu")
    from sartor.measure import openvino_backend

    target = Target("openvino", threads=1)
    told = openvino_backend.settings(target)
    core = openvino_backend._core()
    import openvino as ov

    x = ov.opset13.parameter([1, 4], np.float32)
    compiled = core.compile_model(ov.Model([ov.opset13.relu(x)], [x]), "CPU", told)
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert (compiled.get_property("INFERENCE_NUM_THREADS"), compiled.get_property("NUM_STREAMS")) == (1, 1)
    assert str(compiled.get_property("PERFORMANCE_HINT")).endswith("LATENCY")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_openvino_never_takes_another_precision_than_asked(mlp, dtype, monkeypatch):
    works_or_skip("openvino-cpu")
    from sartor.measure import openvino_backend

    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino_backend, "_core", lambda: Core())
    with pytest.raises(SartorError, match=f"no {dtype} on this processor; it has float32, int8"):
        prepare(*mlp, f"openvino-cpu:dtype={dtype}")


def test_openvino_runs_files(mlp, tmp_path):
    works_or_skip("openvino-cpu")
    path = tmp_path / "net.onnx"
    path.write_bytes(to_onnx_fast(mlp[0].eval(), mlp[1]).data)
    with prepare_file(path, "openvino-cpu:batch=5,threads=1") as runnable:
        assert runnable.run()[0].shape == (5, 4)
    path.write_bytes(b"this is no model")
    with pytest.raises(CorruptFile, match=r"net\.onnx"):
        prepare_file(path, "openvino-cpu")


def test_tables_know_the_runtime():
    works_or_skip("openvino-cpu")
    import openvino

    where = where_of(parse_target("openvino-cpu:threads=1"))
    assert where.runtime.startswith("openvino 20") and openvino.__version__.startswith(where.runtime.split()[1])
    assert where_of(parse_target("onnxruntime-cpu")).runtime == runtime({})
    assert where_of(parse_target("compile-cpu")).runtime.startswith("torch 2")


def test_tables_of_a_runtime_that_is_not_installed_can_be_looked_for(monkeypatch):
    import importlib.util as finder

    monkeypatch.setattr(finder, "find_spec", lambda name, *a: None)
    assert where_of(parse_target("onnxruntime-cpu")).runtime == "onnxruntime"


@pytest.mark.parametrize("target", INT8)
def test_int8_is_the_same_network_in_other_kernels(residual, target):
    model, example = residual
    with prepare(model, example, works_or_skip(target)) as runnable:
        error = relative_error(expected_of(model, example), runnable.run())
    assert 1e-4 < error < 0.1


def test_int8_takes_other_inputs_than_floating_ones(network):
    model, example = network
    with prepare(model, example, "onnxruntime-cpu:dtype=int8") as runnable:
        runnable.run()


def test_int8_that_computes_nonsense_is_refused(monkeypatch):
    def shuffled(data, samples, name):
        import onnx

        model = onnx.load_from_string(quantised(data, samples, name))
        for w in model.graph.initializer:
            if w.data_type == onnx.TensorProto.INT8 and len(w.raw_data) > 100:
                w.raw_data = w.raw_data[::-1]
        return model.SerializeToString()

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64, bias=False), nn.ReLU(), nn.Linear(64, 16, bias=False))
    prepare(net, torch.randn(1, 32), "onnxruntime-cpu:dtype=int8").close()
    monkeypatch.setattr(onnx_runtimes, "quantised", shuffled)
    with pytest.raises(SartorError, match=r"does not compute what the model does.*at most 0\.6; got"):
        prepare(net, torch.randn(1, 32), "onnxruntime-cpu:dtype=int8")


def test_a_file_is_quantised_once(mlp, tmp_path):
    path = tmp_path / "net.onnx"
    data = to_onnx_fast(mlp[0].eval(), mlp[1]).data
    path.write_bytes(data)
    with prepare_file(path, "onnxruntime-cpu:dtype=int8") as runnable:
        assert runnable.run()[0].shape == (1, 4)
    path.write_bytes(quantised(data, [{"input_0": mlp[1].numpy()}], "the net"))
    with prepare_file(path) as runnable:
        assert runnable.run()[0].shape == (1, 4)
    with pytest.raises(BadInput, match="already quantised"):
        prepare_file(path, "onnxruntime-cpu:dtype=int8")


def test_int8_operators_are_timed_as_int8(tmp_path):
    from sartor.measure.tables.ort_profile import ProfileTimer
    from sartor.measure.tables.timing import in_turns

    assert Table("onnxruntime-cpu:dtype=int8").timer is in_turns
    assert isinstance(Table("onnxruntime-cpu").timer, ProfileTimer)


def test_tensorrt_is_asked_first_and_cuda_takes_the_rest():
    assert providers(parse_target("tensorrt-cuda")) == [
        ("TensorrtExecutionProvider", {"trt_fp16_enable": "0"}), ("CUDAExecutionProvider", {}),
    ]  # fmt: skip
    assert providers(parse_target("tensorrt-cuda:dtype=float16"))[0][1] == {"trt_fp16_enable": "1"}
    assert providers(parse_target("onnxruntime-cpu")) == [("CPUExecutionProvider", {})]
    assert set(PROVIDERS) == {"onnxruntime-cpu", "onnxruntime-cuda", "tensorrt-cuda"}


def test_without_tensorrt_it_says_what_to_install(mlp, monkeypatch):
    import onnxruntime

    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    with pytest.raises(SartorError, match="no TensorRT provider; install onnxruntime-gpu and tensorrt"):
        prepare(*mlp, "tensorrt-cuda")


def test_a_provider_that_does_not_start_is_no_other_one(mlp, monkeypatch):
    import onnxruntime

    class Session:
        def __init__(self, *args, **kwargs):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(
        SartorError, match="could not start TensorrtExecutionProvider; check versions of CUDA, cuDNN and"
    ):
        prepare(*mlp, "tensorrt-cuda")


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "tensorrt-cuda"])
def test_on_a_cuda_device_it_computes_what_the_model_does(name):
    works_or_skip(name)
    torch.manual_seed(0)
    model, example = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)),
        torch.randn(2, 3, 8, 8),
    )
    with prepare(model, example, f"{name}:batch=2") as runnable:
        assert len(latency(runnable, replace(LATENCY_EFFORT, samples=4, min_seconds=0.0)).seconds) >= 4
