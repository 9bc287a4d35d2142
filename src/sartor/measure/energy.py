"""Joules per inference, from the machine's own meters: RAPL for processors, NVML for NVIDIA devices.

A meter counts everything that the processor package or the device does. The power while this process sleeps is reported
beside the result, so that a reader can subtract it.

Source: Linux powercap, https://docs.kernel.org/power/powercap/powercap.html; NVML,
https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html (nvmlDeviceGetTotalEnergyConsumption).
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sartor.errors import SartorError
from sartor.measure.runnable import Runnable
from sartor.types import Target

POWERCAP = Path("/sys/class/powercap")
BLOCK_S = 1.0  # of inferences per reading; NVML updates its count every 20 to 100 ms, RAPL every millisecond
IDLE_S = 1.0  # of sleep, in which the idle power is read


class Meter(Protocol):
    """Counts joules from an arbitrary beginning."""

    name: str

    def joules(self) -> float:
        """The count; it never decreases."""
        ...


class Rapl:
    """All processor packages of the machine together.

    Raises:
        SartorError: there is no RAPL meter, or this user may not read it.
    """

    def __init__(self, root: Path = POWERCAP):
        self.zones = sorted(
            p for p in root.glob("intel-rapl:*") if p.name.count(":") == 1
        )  # whole packages; their parts have a second colon
        if not self.zones:
            raise SartorError(
                f"energy: no meter; looked for {root}/intel-rapl:*/energy_uj (RAPL; most virtual machines "
                "hide it). Measure on the bare machine, or without --energy"
            )
        self.name = f"RAPL, {len(self.zones)} packages" if len(self.zones) > 1 else "RAPL"
        self.sum = 0.0
        self.range = [self._read(z, "max_energy_range_uj") for z in self.zones]
        self.last = [self._read(z, "energy_uj") for z in self.zones]

    def joules(self) -> float:
        """Joules since this object was made.

        The counters wrap around at their range, after minutes; call this at least once in that time.
        """
        for k, zone in enumerate(self.zones):
            now = self._read(zone, "energy_uj")
            step = now - self.last[k]
            self.sum += 1e-6 * (step if step >= 0 else step + self.range[k])
            self.last[k] = now
        return self.sum

    @staticmethod
    def _read(zone: Path, name: str) -> int:
        path = zone / name
        try:
            return int(path.read_text(encoding="ascii"))
        except PermissionError:
            raise SartorError(
                f"energy: {path} may not be read; as root: chmod a+r {zone.parent}/intel-rapl:*/energy_uj"
            ) from None
        except (OSError, ValueError) as e:
            raise SartorError(f"energy: {path}: expected a whole number of microjoules; {e}") from e


class Nvml:
    """One NVIDIA device.

    Args:
        nvml: the module `pynvml` (package nvidia-ml-py); None: it is imported.
        index: index of the device.
    """

    name = "NVML"

    def __init__(self, nvml: Any = None, index: int = 0):
        if nvml is None:
            try:
                nvml = importlib.import_module("pynvml")
            except ImportError:
                raise SartorError("energy: NVML meters -cuda targets; pip install nvidia-ml-py") from None
        self.nvml = nvml
        try:
            nvml.nvmlInit()
            self.device = nvml.nvmlDeviceGetHandleByIndex(index)
            self.joules()
        except Exception as e:  # NVMLError and what a missing driver raises
            raise SartorError(f"energy: NVML does not meter device {index}: {e}; it needs Volta or newer") from e

    def joules(self) -> float:
        """Joules since the driver was loaded."""
        return 1e-3 * float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.device))


@dataclass(frozen=True)
class Energy:
    """Joules per inference of one artefact, block by block."""

    joules: tuple[float, ...]
    idle_w: float  # power while this process sleeps
    meter: str

    @property
    def median_j(self) -> float:
        """Median of the blocks, in joules per inference, idle power included."""
        return statistics.median(self.joules)


def meter_for(target: Target) -> Meter:
    """The meter for this target on this machine.

    Raises:
        SartorError: there is none; the message says what was looked for.
    """
    if target.device == "cpu":
        return Rapl()
    if target.device == "cuda":
        return Nvml()
    raise SartorError(f"energy: no meter is known for target {target.name!r}; choose a -cpu or a -cuda target")


def energy(
    runnables: Sequence[Runnable],
    meter: Meter,
    *,
    blocks: int = 6,
    block_s: float = BLOCK_S,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Energy]:
    """Joules per inference of one runnable, or of two in turns, A B B A.

    Args:
        runnables: one or two, which work in this process or on a device of this machine.
        meter: counts joules.
        blocks: number of blocks of each, at least one.
        block_s: length of a block in seconds, at least.
        clock: gives seconds; tests pass their own.
        sleep: waits for a number of seconds; tests pass their own.

    Raises:
        SartorError: another machine does the work.
    """
    if any(r.seconds is not None for r in runnables):
        raise SartorError(f"energy: target {runnables[0].target.name!r} is another machine, which has no meter here")
    begin, start = meter.joules(), clock()
    sleep(IDLE_S)
    idle = (meter.joules() - begin) / (clock() - start)
    taken: list[list[float]] = [[] for _ in runnables]
    with ExitStack() as held:
        for r in runnables:
            held.enter_context(r.held())
            for _ in range(3):
                r.run()
        for block in range(blocks):
            for k in range(len(runnables)) if block % 2 == 0 else reversed(range(len(runnables))):
                begin, start, runs = meter.joules(), clock(), 0
                while not runs or clock() - start < block_s:
                    runnables[k].run()
                    runs += 1
                taken[k].append((meter.joules() - begin) / runs)
    return [Energy(tuple(t), idle, meter.name) for t in taken]
