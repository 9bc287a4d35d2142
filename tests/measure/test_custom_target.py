"""Targets of the user's own: found by path or name, run what they are given, and say what is wrong with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import sartor
from sartor.errors import BadInput, SartorError, UnknownName
from sartor.measure import available, latency, parse_target, prepare, prepare_file, show_target
from sartor.measure.agreement import relative_error
from sartor.measure.latency import LATENCY_EFFORT
from sartor.measure.onnx_graph import to_onnx_fast
from sartor.measure.tables import Store, Table, where_of
from sartor.types import Limit, Target

RUNTIME = '''"""ONNX Runtime, by hand."""
DTYPES = ("float32", "float16", "int8")

def load(artefact, inputs, target):
    import onnxruntime
    session = onnxruntime.InferenceSession(artefact, providers=["CPUExecutionProvider"])
    feed = {i.name: a for i, a in zip(session.get_inputs(), inputs)}
    return lambda: session.run(None, feed)
'''
PROGRAM = """ARTEFACT = "pt2"

def load(artefact, inputs, target):
    import torch
    module = torch.export.load(artefact).module()
    held = [torch.from_numpy(a) for a in inputs]
    return lambda: module(*held)
"""
FORMULA = '''"""A board whose time is in proportion to its weights."""
import pathlib

def load(artefact, inputs, target):
    import onnx
    graph = onnx.load(artefact).graph
    weights = sum(len(w.raw_data) for w in graph.initializer)
    step = lambda: None
    step.seconds = lambda n: n * 1e-6 * (100 + weights)
    step.close = lambda: (pathlib.Path(__file__).parent / "closed").write_text(str(artefact.exists()))
    return step

def facts():
    return {"cpu": "formula", "cores": 1, "usable_cores": 1}
'''


@pytest.fixture
def board(tmp_path):
    def write(text=FORMULA, name="my-board.py"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.mark.parametrize("text", [RUNTIME, PROGRAM])
def test_it_is_given_the_model_and_its_inputs(residual, board, text):
    model, example = residual
    with prepare(model, example, f"{board(text)}:batch=3,threads=1") as runnable:
        got = runnable.run()
    with torch.no_grad():
        assert relative_error(model.eval()(example.repeat(3, 1, 1, 1)), got) < 1e-5


def test_every_dtype_it_declares_is_made_for_it(mlp, board):
    path = board(RUNTIME)
    with prepare(*mlp, f"{path}:dtype=float16") as runnable:
        assert runnable.run()[0].dtype == np.float16
    with prepare(*mlp, f"{path}:dtype=int8") as runnable:
        assert runnable.run()[0].dtype == np.float32
    with pytest.raises(BadInput, match="float32; got 'int8', which onnxruntime-cpu"):
        parse_target(f"{board(FORMULA)}:dtype=int8")


def test_it_has_its_own_clock_and_machine_and_is_closed(mlp, board, tmp_path):
    path = board()
    with prepare(*mlp, str(path)) as runnable:
        measured = latency(runnable, replace(LATENCY_EFFORT, samples=4, min_seconds=0.0))
    seconds = measured.seconds
    assert measured.environment["cpu"] == "formula"
    assert len(set(seconds)) == 1 and seconds[0] > 1e-4
    assert (tmp_path / "closed").read_text() == "True"  # the artefact was still there
    where = where_of(parse_target(str(path)))
    assert (where.target, where.runtime.split()[0]) == ("my-board:threads=1", "my-board")
    board(FORMULA + "# changed\n")
    assert where_of(parse_target(str(path))).runtime != where.runtime  # another file, another table


def test_a_file_runs_on_it(mlp, board, tmp_path):
    (tmp_path / "net.onnx").write_bytes(to_onnx_fast(mlp[0].eval(), mlp[1]).data)
    with prepare_file(tmp_path / "net.onnx", f"{board(RUNTIME)}:batch=2") as runnable:
        assert runnable.run()[0].shape == (2, 4)
    with pytest.raises(BadInput, match="does not run on"):
        prepare_file(tmp_path / "net.onnx", str(board(PROGRAM)))


def test_in_a_folder_of_targets_its_name_is_enough(mlp, board, tmp_path, monkeypatch):
    path = board()
    with pytest.raises(UnknownName, match="my-board"):
        parse_target("my-board")
    monkeypatch.setenv("SARTOR_TARGETS", str(tmp_path))
    target = parse_target("my-board:threads=2")
    assert target == Target("my-board", "", 2) and parse_target(show_target(target)) == target
    assert where_of(target) == where_of(parse_target(f"{path}:threads=2"))
    board("nonsense", "broken.py")
    listed = {name: (works, why) for name, works, why in available()}
    assert listed["my-board"] == (True, "") and not listed["broken"][0] and "nonsense" in listed["broken"][1]
    with pytest.raises(UnknownName, match="Did you mean 'my-board'"):
        parse_target("my-bord")
    with prepare(*mlp, "my-board") as runnable:
        runnable.run()


def test_a_limit_is_kept_on_it(board, tmp_path):
    from sartor.recipes import RECIPES
    from sartor.studies.latency_study import fit_to_latency

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    budget = sartor.parse_budget(f"latency<=60% @ {board()}:threads=1,batch=2, params<=90%")
    target = budget.limits[0].target
    assert [x.metric for x in budget.limits] == ["latency", "params"] and target.endswith("batch=2")
    found = fit_to_latency(net, torch.randn(2, 16), Limit("latency", 0.6, True, target), RECIPES["l1"].value)
    assert 0.5 < found["ratio"] <= 0.6


def test_its_operators_are_timed_for_tables(board, tmp_path):
    from sartor.measure.tables import points, segments
    from sartor.structure import trace

    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    graph = trace(net, torch.randn(1, 4))
    table = Table(str(board()), store=Store(tmp_path / "tables.sqlite"))
    works = [(s.kind, p) for s, p in zip(segments(graph), points(graph, {}))]
    first, second = (t.seconds for t in table.timer(works, table.timed))
    assert first / second == pytest.approx(40 / 18)  # weights: what a call costs beside them is taken off
    table.store.put(table.where, [(*works[0], None)])
    assert table.store.wheres()[0]["cpu"] == "formula"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def load(:", "does not run; SyntaxError"),
        ("x = 1", "expected a function 'load'"),
        ("load = 1", "expected a function 'load'"),
        ("def load(a, b, c): ...\nARTEFACT = 'tflite'", "ARTEFACT: expected onnx or pt2; got 'tflite'"),
        ("def load(a, b, c): ...\nDTYPES = 'float32'", "DTYPES: expected some of"),
        ("def load(a, b, c): ...\nARTEFACT = 'pt2'\nDTYPES = ('int8',)", "DTYPES: expected some of float32, float16 "),
        ("def load(a, b, c): ...\nwhy_not = 'never'", "expected a function 'why_not'"),
    ],
)
def test_a_wrong_file_is_explained(board, text, says):
    with pytest.raises(BadInput, match=says):
        parse_target(str(board(text)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def load(a, b, c): return 3", "to return a function that runs one inference; got 3"),
        ("def load(a, b, c): raise OSError('no driver')", "its load failed; OSError: no driver"),
        ("def load(a, b, c): ...\ndef why_not(): return 'no board is plugged in'", "does not work here: no board"),
        ("def load(a, b, c): return lambda: [b[0]]", "does not compute what the model does"),
    ],
)
def test_what_it_does_wrong_is_explained(mlp, board, text, says):
    with pytest.raises(SartorError, match=says):
        prepare(*mlp, str(board(text)))


def test_a_file_that_is_not_there_is_said():
    with pytest.raises(BadInput, match=r"no/board.py' does not exist"):
        parse_target("no/board.py")
