"""Facts of the machine that a measurement is taken on."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from sartor.version import version

RUNTIMES = ("torch", "onnxruntime", "onnx", "onnxscript", "openvino", "numpy")


def usable_cores() -> int:
    """Number of logical cores that this process may run on (fewer than the machine has if it is pinned)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """Machine, software and load at this moment, as values that JSON knows.

    Keys: cpu, architecture, cores, usable_cores, memory_bytes, os, python, versions (package -> version),
    torch_threads, gpu (names), governor and frequency_driver (of the first core), boost and smt (whether on),
    hypervisor (whether the processor reports one), steal_s (time that it took since the machine started), affinity
    (cores that this process may run on), load (1, 5 and 15 minutes), container_cpus, date (UTC). A value that cannot be
    read is None.
    """
    return {
        **_fixed(),
        "usable_cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "frequency_driver": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver"),
        "boost": _boost(),
        "smt": _switch("/sys/devices/system/cpu/smt/active"),
        "hypervisor": _hypervisor(),
        "steal_s": _steal(),
        "affinity": _affinity(),
        "load": _load(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@lru_cache(maxsize=1)
def _fixed() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "container_cpus": _container_cpus(),
        "memory_bytes": _memory(),
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": {"sartor": version(), **{name: v for name in RUNTIMES if (v := _version(name))}},
    }


def cpu_model() -> str:
    """Name of the processor from /proc/cpuinfo, else from the `platform` module."""
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _switch(path: str) -> bool | None:
    return {"0": False, "1": True}.get(_read(path) or "")


def _boost() -> bool | None:
    """Whether the clock rate may rise above the nominal rate."""
    off = _switch("/sys/devices/system/cpu/intel_pstate/no_turbo")
    return _switch("/sys/devices/system/cpu/cpufreq/boost") if off is None else not off


def _hypervisor() -> bool | None:
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return None if flags is None else "hypervisor" in flags[1].split()


def _steal() -> float | None:
    try:
        return int((_read("/proc/stat") or "").split()[8]) / os.sysconf("SC_CLK_TCK")
    except (ValueError, IndexError, AttributeError):
        return None


def _affinity() -> list[int] | None:
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return None


def _load() -> list[float] | None:
    try:
        return [round(v, 2) for v in os.getloadavg()]
    except (OSError, AttributeError):
        return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _container_cpus() -> float | None:
    """The container's limit of CPU time, in cores; None without a limit."""
    quota = (_read("/sys/fs/cgroup/cpu.max") or "").split()
    try:
        return int(quota[0]) / int(quota[1])
    except (ValueError, IndexError):
        return None
