"""Meters of folders and objects that only look like the machine's."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sartor.budget import parse_budget
from sartor.errors import BadInput, SartorError
from sartor.measure import Runnable
from sartor.measure.energy import Nvml, Rapl, energy, meter_for
from sartor.types import Target


def powercap(root: Path, packages: int = 1, energy_uj: int = 0) -> Path:
    for k in range(packages):
        for name in (f"intel-rapl:{k}", f"intel-rapl:{k}:0"):  # the second is a part of the first
            (root / name).mkdir(parents=True)
            (root / name / "energy_uj").write_text(f"{energy_uj}\n")
            (root / name / "max_energy_range_uj").write_text("10000000\n")
    return root


def test_packages_are_added_and_a_counter_that_starts_again_does_not_fall(tmp_path) -> None:
    meter = Rapl(powercap(tmp_path, packages=2, energy_uj=9_000_000))
    assert meter.joules() == 0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("9500000")
    assert meter.joules() == pytest.approx(0.5)
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("1000000")
    assert meter.joules() == pytest.approx(2.5)


def test_where_there_is_no_meter_it_says_what_was_looked_for(tmp_path, monkeypatch) -> None:
    with pytest.raises(SartorError, match=r"intel-rapl.*bare machine"):
        Rapl(tmp_path)
    with pytest.raises(SartorError, match="no meter is known"):
        meter_for(Target("boards/pi.toml", ""))
    (powercap(tmp_path) / "intel-rapl:0" / "energy_uj").write_text("?")
    with pytest.raises(SartorError, match="microjoules"):
        Rapl(tmp_path)

    def refused(*args, **more):
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(SartorError, match="chmod"):
        Rapl(tmp_path)


def test_nvml_counts_millijoules_and_says_when_it_cannot() -> None:
    fake = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetTotalEnergyConsumption=lambda device: 2500,
    )  # fmt: skip
    assert Nvml(fake).joules() == 2.5
    fake.nvmlDeviceGetTotalEnergyConsumption = lambda device: 1 / 0
    with pytest.raises(SartorError, match="NVML does not meter"):
        Nvml(fake)


def test_two_are_metered_in_turns_with_idle_power_beside_them() -> None:
    state = SimpleNamespace(now=0.0, joules=0.0, order="")

    def work(name: str, seconds: float, watts: float):
        def step() -> None:
            state.now, state.joules = state.now + seconds, state.joules + watts * seconds
            state.order += name

        return Runnable(Target("eager"), step)

    def sleep(seconds: float) -> None:
        state.now, state.joules = state.now + seconds, state.joules + 5 * seconds

    meter = SimpleNamespace(name="a fake", joules=lambda: state.joules)
    pair = [work("a", 0.5, 20.0), work("b", 0.5, 10.0)]
    a, b = energy(pair, meter, blocks=4, clock=lambda: state.now, sleep=sleep)
    assert a.median_j == pytest.approx(10.0) and b.median_j == pytest.approx(5.0)
    assert a.idle_w == pytest.approx(5.0) and len(a.joules) == 4
    assert state.order == "aaabbb" + "aabbbbaa" * 2


def test_work_done_elsewhere_is_not_metered_here() -> None:
    away = Runnable(Target("eager"), lambda: None, seconds=lambda n: 1.0)
    with pytest.raises(SartorError, match="is another machine"):
        energy([away], SimpleNamespace(name="a fake", joules=lambda: 0.0))


def test_a_budget_refuses_energy_and_says_what_measures_it() -> None:
    with pytest.raises(BadInput, match="sartor measure --energy"):
        parse_budget("energy<=70% @ onnxruntime-cpu")
