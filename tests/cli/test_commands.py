"""The commands on a real, very small network."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.records import small_record

import sartor
from sartor.cli import run
from sartor.errors import BudgetNotMet
from sartor.sources import load_model

SHAPE = ("--input", "1x1x6x6")
GROUP = {"name", "kind", "units", "mixes", "members", "macs_share", "params_share"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, source: str) -> tuple[Path, str]:
    """A finished run of the command line: (folder, spec of the network)."""
    place = tmp_path_factory.mktemp("run")
    (place / "net.py").write_text(source)
    spec = f"{place / 'net.py'}:net"
    words = [
        "fit",
        "--model",
        spec,
        "--option",
        "width=16",
        "--data",
        f"{place / 'net.py'}:data",
        "--out",
        str(place / "a"),
    ]
    words += ["--budget", "params<=60%", "--recipe", "l1", "--epochs", "1", "--seed", "3", "--test", "--quiet"]
    assert run(words) == 0
    return place / "a", spec


def test_inspect_gives_what_the_design_says(say, net: str) -> None:
    found = say("inspect", net, *SHAPE, "--json").json
    assert set(found) == {
        "format",
        "sartor",
        "model",
        "groups",
        "frozen",
        "coverage",
        "seconds",
        "kinds",
        "ties",
        "rewritten",
    }
    assert [set(g) for g in found["groups"]] == [GROUP | {"writes", "reads"}]
    assert found["kinds"] == {"channels": 1} and found["groups"][0]["kind"] == "channels"
    assert found["groups"][0]["units"] == 8
    assert all(set(f) == {"axis", "reason"} and f["reason"] for f in found["frozen"])
    assert 0 < found["coverage"]["params_on_cuttable_axis"] <= 1 == found["coverage"]["macs_on_cuttable_axis"]
    shown = say("inspect", net, *SHAPE)
    assert all(g["name"] in shown.out for g in found["groups"]) and "reason for not cutting" in shown.out


def test_inspect_says_why_two_layers_are_tied_and_writes_pictures(say, net: str, tmp_path: Path) -> None:
    (group,) = say("inspect", net, *SHAPE, "--json").json["groups"]
    writer, reader = group["writes"][0], group["reads"][0]
    told = say("inspect", net, *SHAPE, "--why", writer, reader)
    assert f"{writer} (conv2d) writes them" in told.out and f"{reader} (linear) reads them" in told.out
    found = say("inspect", net, *SHAPE, "--why", writer, writer, "--json").json["why"]
    assert found["chains"][0]["group"] == group["name"] and found["chains"][0]["steps"][0]["operator"] == "conv2d"
    assert say("inspect", net, *SHAPE, "--why", writer, "nowhere").code == 2
    page, picture = tmp_path / "a.html", tmp_path / "a.dot"
    say("inspect", net, *SHAPE, "--html", str(page), "--dot", str(picture))
    assert picture.read_text().startswith("digraph") and f"{reader} (linear) reads them" in page.read_text()


def test_fit_cuts_what_it_is_told_to(say, net: str, tmp_path: Path) -> None:
    words = ("fit", "--model", net, *SHAPE, "--budget", "params<=80%", "--recipe", "l1", "--epochs", "0", "--quiet")
    told = say(*words, "--out", str(tmp_path / "a"), "--cut", "heads")
    assert told.code == 2 and "This network has 1 of channels" in told.err
    assert say(*words, "--out", str(tmp_path / "b"), "--keep", "channels").code == 2
    found = say(*words, "--out", str(tmp_path / "c"), "--cut", "channels", "--cut", "name:nowhere")
    assert found.code == 2 and "nowhere" in found.err
    found = say(*words, "--out", str(tmp_path / "d"), "--cut", "channels", "--json").json
    assert found["asked"]["recipe"]["cut"]["only"] == ["channels"] and found["status"] == "met"


def test_options_of_the_factory_arrive(say, net: str) -> None:
    assert say("inspect", net, *SHAPE, "--option", "width=4", "--json").json["groups"][0]["units"] == 4
    assert say("inspect", net, *SHAPE, "--option", "witdh=4").code == 2


def test_measure_says_when_the_machine_was_busy(say, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sys.modules["sartor.measure.latency"].noise_verdict
    busy = lambda *args, **more: {**real(*args, **more), "why": "a neighbour"}
    monkeypatch.setattr(sys.modules["sartor.measure.latency"], "noise_verdict", busy)
    quick = (*SHAPE, "--seconds", "0", "--samples", "5", "--sessions", "1")
    for words in (("measure", net), ("measure", net, "--against", net)):
        assert say(*words, *quick, "--json").json["latency"][0]["noisy"] == "a neighbour"
        assert "eager-cpu: the machine was busy: a neighbour" in " ".join(say(*words, *quick).out.split())


def test_measure_meters_energy_or_says_what_is_missing(say, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sartor.measure import energy

    quick = (*SHAPE, "--seconds", "0", "--samples", "5", "--sessions", "1", "--energy")
    monkeypatch.setattr(energy.Rapl.__init__, "__defaults__", (Path("nowhere"),))
    found = say("measure", net, *quick)
    assert found.code == 1 and "intel-rapl" in found.err
    meter = type("Fake", (), {"name": "a fake", "joules": lambda self: 10.0 * time.perf_counter()})
    monkeypatch.setattr(energy, "meter_for", lambda target: meter())
    monkeypatch.setattr(energy.energy, "__kwdefaults__", {**energy.energy.__kwdefaults__, "blocks": 2, "block_s": 0.01})
    (row,) = say("measure", net, *quick, "--json").json["energy"]
    assert row["joules"] > 0 and row["idle_w"] == pytest.approx(10.0, rel=0.1) and row["meter"] == "a fake"
    (row,) = say("measure", net, "--against", net, *quick, "--json").json["energy"]
    assert row["ratio"] == pytest.approx(row["fitted_j"] / row["original_j"])
    assert "per inference, measured by a fake" in " ".join(say("measure", net, *quick).out.split())


def test_measure_gives_one_network(say, net: str) -> None:
    words = ("measure", net, *SHAPE, "--seconds", "0", "--samples", "5", "--target", "eager-cpu", "--json")
    found = say(*words).json
    assert found["counted"]["macs"] == 6 * 6 * 9 * 8 + 8 * 3
    assert found["counted"]["params"] == sum(p.numel() for p in load_model(net).parameters())
    (timed,) = found["latency"]
    assert timed["target"] == "eager-cpu" and timed["median_ms"] > 0 and timed["samples"] >= 5


def test_measure_compares_two_in_turns(say, net: str) -> None:
    words = ("measure", net, "--against", net, *SHAPE, "--seconds", "0", "--samples", "5", "--sessions", "1")
    found = say(*words, "--json").json
    assert found["counted"]["macs"]["original"] == found["counted"]["macs"]["fitted"]
    (timed,) = found["latency"]
    low, high = timed["interval"]
    assert low <= timed["ratio"] <= high
    assert len(timed["samples"]["original_ms"]) == len(timed["samples"]["fitted_ms"]) >= 5
    assert "95 % confidence interval" in say(*words).out


def test_export_writes_where_told_and_says_what_was_checked(say, net: str, tmp_path: Path) -> None:
    said = say("export", net, *SHAPE, "--to", "pt2", "--out", tmp_path / "small.pt2", "--json")
    facts = said.json["files"]["pt2"]
    assert Path(facts["path"]) == tmp_path / "small.pt2" and facts["max_relative_error"] < 1e-4
    x = torch.randn(1, 1, 6, 6)
    reloaded = torch.export.load(str(tmp_path / "small.pt2")).module()(x)
    torch.testing.assert_close(reloaded, load_model(net).eval()(x))


@pytest.mark.parametrize(
    ("out", "why"),
    [
        (("--to", "onnx", "--out", "a.pt2"), "ends in .onnx"),
        (("--to", "onnx", "--to", "pt2", "--out", "a.onnx"), "expected an existing folder"),
    ],
)
def test_export_refuses_names_that_do_not_fit(say, net: str, out: tuple[str, ...], why: str) -> None:
    said = say("export", net, *SHAPE, *out)
    assert said.code == 2 and why in said.err


def test_fit_leaves_a_folder_that_loads_and_a_report(finished: tuple[Path, str]) -> None:
    folder, spec = finished
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "met" and result["test"]["final"] is not None
    for name in ("command.json", "record.jsonl", "model.safetensors", "model.pt2", "report.html"):
        assert (folder / name).stat().st_size, name
    assert set(result["files"]) >= {"weights", "plan", "pt2", "report"}
    loaded = sartor.load(folder, lambda: load_model(spec, None, {"width": 16}))
    x = torch.randn(2, 1, 6, 6)
    torch.testing.assert_close(torch.export.load(str(folder / "model.pt2")).module()(x), loaded(x))
    assert sum(p.numel() for p in loaded.parameters()) == result["counted"]["params"]["fitted"]


def test_a_run_folder_can_be_measured_exported_and_reported(finished: tuple[Path, str], say, tmp_path: Path) -> None:
    folder, spec = finished
    quick = ("--samples", "5", "--seconds", "0", "--sessions", "1")
    found = say(
        "measure", folder, "--against", spec, *quick, "--trust", "--json"
    ).json  # the run says what the original takes
    assert found["counted"]["params"]["fitted"] < found["counted"]["params"]["original"] * 1.2
    out = tmp_path / "copy.pt2"
    assert say("export", folder, "--to", "pt2", "--out", out, "--trust", "--json").json["files"]["pt2"]["path"] == str(
        out
    )
    page = tmp_path / "page.html"
    assert say("report", folder, "--out", page, "--json").json["report"] == str(page)
    assert "budget met" in say("report", folder, "--out", page).out


def test_a_finished_run_is_neither_resumed_nor_overwritten(finished: tuple[Path, str], say) -> None:
    folder, spec = finished
    before = (folder / "result.json").read_bytes()
    assert say("resume", folder).code == 1
    assert say("fit", "--model", spec, "--budget", "macs<=50%", "--out", folder, *SHAPE).code == 2
    assert (folder / "result.json").read_bytes() == before


def test_an_interrupted_run_is_resumed_to_the_same_result(finished: tuple[Path, str], say, tmp_path: Path) -> None:
    folder, _ = finished
    broken = tmp_path / "b"
    broken.mkdir()
    shutil.copy(folder / "command.json", broken)
    assert say("resume", broken, "--trust", "--quiet", "--json").json["status"] == "met"
    one, other = (load_file(place / "model.safetensors") for place in (folder, broken))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("model", ("--budget", "macs<=50%", "--out", "x")), ("budget", ("--model", "a:b", "--out", "x")),
        ("out", ("--model", "a:b", "--budget", "macs<=50%")),
        ("--data", ("--model", "a:b", "--budget", "macs<=50%", "--out", "x", "--epochs", "3")),
        ("--data", ("--model", "a:b", "--budget", "macs<=50%, drop<=1", "--out", "x", "--epochs", "0")),
        ("onnxruntime-cpu", ("--model", "a:b", "--budget", "latency<=50% @ onnxruntime", "--out", "x")),
        ("floor", ("--model", "a:b", "--budget", "macs<=50%", "--out", "x", "--set", "allocate.flor=1")),
    ],
)  # fmt: skip
def test_fit_says_what_is_missing_before_it_loads_anything(say, missing: str, words: tuple[str, ...]) -> None:
    said = say("fit", *words)
    assert said.code == 2 and missing in said.err


class _Fitted:
    record = small_record(status="missed")

    def export(self, path: Path) -> None:
        raise BudgetNotMet(f"no {path.suffix} today")


def test_a_missed_budget_exits_3_with_the_result(say, net: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sartor, "fit", lambda *a, **k: _Fitted())
    out = tmp_path / "a"
    said = say("fit", "--model", net, "--budget", "macs<=50%", "--recipe", "l1", "--out", out, *SHAPE, "--json", "-q")
    assert said.code == 3 and said.json["status"] == "missed"
    assert any("no .onnx today" in note for note in said.json["notes"])
    assert (out / "report.html").is_file()


@pytest.mark.parametrize(("error", "code"), [(BudgetNotMet("the floor is 70 %"), 3), (KeyboardInterrupt(), 130)])
def test_failures_of_the_run_reach_the_shell(say, net: str, tmp_path: Path, monkeypatch, error, code: int) -> None:
    def fit(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(sartor, "fit", fit)
    out = tmp_path / "a"
    said = say("fit", "--model", net, "--budget", "macs<=50%", "--recipe", "l1", "--out", out, *SHAPE, "-q")
    assert said.code == code
    assert ("the floor is 70 %" if code == 3 else f"sartor resume {out} --trust") in said.err
    assert [p.name for p in out.iterdir()] == ["command.json"]
