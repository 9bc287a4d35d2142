"""A target on another machine: timed there, and what can go wrong on the way. The stand-in for ssh runs it here."""

import ast
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sartor.errors import BadInput, SartorError, TargetLost, UnknownName
from sartor.measure import agent, compare, latency, prepare, prepare_file, remote_target
from sartor.measure.agreement import relative_error
from sartor.measure.onnx_graph import to_onnx_fast
from sartor.measure.tables import points, segments, where_of
from sartor.measure.tables.timing import in_turns
from sartor.measure.targets import parse_target, why_not_here
from sartor.structure import trace
from sartor.types import Effort

SHORT = Effort(samples=5, min_seconds=0.0, max_seconds=1.0, precision=0.02)


@pytest.fixture
def machine(tmp_path):
    """Writes pi.toml and its stand-in for ssh: (lines before the command, fields of the file) -> path."""
    made = []

    def make(before="", fields=""):
        away = tmp_path / "away"
        away.mkdir(exist_ok=True)
        ssh = tmp_path / "ssh.sh"
        at = shlex.quote(str(away))
        ssh.write_text(f'#!/bin/sh\nshift\ncd {at}; export HOME={at} TMPDIR={at}\n{before}\nexec sh -c "$*"\n')
        ssh.chmod(0o755)
        path = tmp_path / "pi.toml"
        python = "" if "python" in fields else f"python = '{sys.executable}'"
        path.write_text(f'host = "pi"\nssh = ["{ssh}"]\n{python}\n{fields}\n')
        made.append(path.resolve())
        return path

    yield make
    for path in made:
        if path in remote_target._links:
            remote_target._links.pop(path)[1].close()


def test_it_computes_there_and_is_timed_there_and_leaves_nothing(network, machine, tmp_path):
    model, example = network
    path = machine("echo Welcome to pi")
    with torch.no_grad():
        out = model.eval()(**example) if isinstance(example, dict) else model.eval()(example)
    with prepare(model, example, f"{path}:threads=1,batch={len(next(iter(_tensors(out))))}") as runnable:
        assert relative_error(out, runnable.run()) < 1e-5
        times = latency(runnable, SHORT)
        assert times.environment["host"] == "pi" and times.environment["usable_cores"] >= 1
        assert compare(runnable, runnable, SHORT).ratio > 0
        asked = []
        runnable.seconds = lambda n: asked.append(n) or 0.25 * n
        assert set(latency(runnable, SHORT).seconds) == {0.25}
        assert asked
    assert list((tmp_path / "away").iterdir()) == []


def _tensors(out):
    return out.values() if isinstance(out, dict) else [out]


def test_a_file_and_the_tables_know_the_machine(mlp, machine, tmp_path):
    path, file = machine(), tmp_path / "net.onnx"
    file.write_bytes(to_onnx_fast(mlp[0].eval(), mlp[1]).data)
    with prepare_file(file, f"{path}:threads=1,batch=3") as runnable:
        assert runnable.run()[0].shape == (3, 4)
    where = where_of(parse_target(f"{path}:threads=2"))
    assert (where.target, where.facts["host"]) == ("pi:threads=2", "pi")
    assert where.runtime.startswith("onnxruntime ") and where.runtime.endswith("CPUExecutionProvider")
    assert where_of(parse_target(f"{path}")).target == f"pi:threads={where.facts['usable_cores']}"


def test_half_precision_goes_there_too(mlp, machine):
    with prepare(*mlp, f"{machine()}:dtype=float16") as runnable:
        assert runnable.run()[0].dtype == np.float16


@pytest.mark.parametrize(
    ("before", "fields", "says"),
    [
        (
            "echo 'pi: Permission denied (publickey).' >&2; exit 255",
            "",
            r"pi cannot be reached; it says: pi: Permission",
        ),
        ("", "python = '/no/python'", r"pi has no '/no/python'.*set python ="),
        ("sleep 30", "timeout_s = 0.3", r"pi did not answer within 0.3 s.*timeout_s"),
    ],
)
def test_a_machine_out_of_reach_is_explained(mlp, machine, before, fields, says):
    with pytest.raises(TargetLost, match=says):
        prepare(*mlp, str(machine(before, fields)))


def test_a_missing_runtime_there_is_named_with_its_command(mlp, machine, tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(SartorError, match=r"on pi: .*needs the packages numpy and onnxruntime.*-m pip install"):
        prepare(*mlp, str(machine(fields=f"python = '{bare}'")))


def test_a_provider_that_is_not_there_is_named(mlp, machine):
    with pytest.raises(SartorError, match=r"does not run.*on pi.*no QNNExecutionProvider"):
        prepare(*mlp, str(machine(fields='providers = ["QNNExecutionProvider"]')))


def test_a_connection_that_breaks_is_told_and_made_again(mlp, machine):
    path = machine()
    with prepare(*mlp, str(path)) as runnable:
        remote_target._links[path.resolve()][1]._kill()
        with pytest.raises(TargetLost, match="pi went away"):
            latency(runnable)
        with pytest.raises(TargetLost, match="pi went away"):
            runnable.run()
    with prepare(*mlp, str(path)) as runnable:
        assert runnable.run()[0].shape == (1, 4)


def test_an_answer_that_was_not_waited_for_answers_nothing_else(mlp, machine, monkeypatch):
    path = machine()
    with prepare(*mlp, str(path)) as runnable:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(agent, "receive", lambda source: (_ for _ in ()).throw(KeyboardInterrupt))
            runnable.run()
        with pytest.raises(TargetLost):
            runnable.run()


def test_a_lost_machine_is_not_an_operator_that_does_not_run(mlp, machine):
    graph = trace(*mlp)
    works = [(s.kind, p) for s, p in zip(segments(graph), points(graph, {}))]
    assert all(t.seconds > 0 for t in in_turns(works[:1], parse_target(str(machine()))))
    path = machine("exit 255")
    remote_target._links[path.resolve()][1]._kill()
    with pytest.raises(TargetLost):
        in_turns(works[:1], parse_target(str(path)))


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("host = ", BadInput, "is not a TOML file"),
        ("python = 'python3'", BadInput, "names no machine"),
        ("host = 'pi'\nhots = 1", UnknownName, "Did you mean 'host'"),
        ("host = 3", BadInput, "host: expected a word; got 3"),
        ("host = '-oProxyCommand=x'", BadInput, "host: expected a machine's name"),
        ("host = 'pi'\nssh = [1]", BadInput, "ssh: expected a list of words"),
        ("host = 'pi'\ntimeout_s = 0", BadInput, "timeout_s: expected seconds > 0"),
        ("host = 'pi'\nruntime = 'tflite'", BadInput, "runtime: expected 'onnxruntime'"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, error, says):
    path = tmp_path / "pi.toml"
    path.write_text(text)
    with pytest.raises(error, match=says):
        parse_target(str(path))


def test_no_ssh_is_said_before_anything_is_done(tmp_path):
    path = tmp_path / "pi.toml"
    path.write_text("host = 'pi'\nssh = ['no-such-ssh']")
    assert "no-such-ssh" in why_not_here(str(path))


def test_the_agent_needs_nothing_but_numpy_and_the_runtime():
    tree = ast.parse(Path(agent.__file__).read_text())
    names = {n.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
