"""What is held still is let go again."""

import os
import platform
import threading

import pytest
import torch

from sartor.measure import compare, latency, prepare
from sartor.measure.pinning import denormals_flushed, memory_kept, pinned
from sartor.types import Effort

TINY = torch.tensor([1e-310], dtype=torch.float64)


def flushed() -> bool:
    return bool((TINY * 1.0 == 0).item())


def test_tiny_numbers_are_nothing_inside_and_what_they_were_outside():
    assert not flushed()
    with denormals_flushed() as can:
        assert flushed() is can
        with denormals_flushed():
            pass
        assert flushed() is can  # the inner one left what it found
    assert not flushed()


def new_pages() -> int:
    """Pages that a large tensor makes the process ask for after it was made and given back some times."""
    import resource

    for _ in range(20):
        torch.ones(2**24)  # 64 MiB: the system gets it back, were it not kept
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Bytes of this process that lie in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_given_back_stays_with_the_process_inside_and_goes_to_the_system_at_the_end():
    assert new_pages() > 1000
    before = resident()
    with memory_kept() as can:
        assert can and new_pages() < 100
        assert resident() > before + 2**25
    assert resident() < before + 2**24


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_a_thread_stays_on_one_core_inside_and_other_threads_do_not():
    before = os.sched_getaffinity(0)
    other: list[set[int]] = []
    go, done = threading.Event(), threading.Event()

    def look() -> None:
        go.wait(10)
        other.append(os.sched_getaffinity(0))
        done.set()

    thread = threading.Thread(target=look)
    thread.start()
    with pinned() as core:
        assert os.sched_getaffinity(0) == {core} and core in before
        go.set()
        assert done.wait(10)
    thread.join()
    assert os.sched_getaffinity(0) == before == other[0]


def test_a_measurement_says_what_it_held_still():
    net, example = torch.nn.Linear(8, 8), torch.zeros(1, 8)
    effort = Effort(samples=6, min_seconds=0.0, max_seconds=0.2, precision=0.02)
    with prepare(net, example, "eager-cpu:threads=1") as one, prepare(net, example, "eager-cpu:threads=1") as same:
        found = compare(one, same, effort)
    assert {found.original.environment["pinned"], found.fitted.environment["pinned"]} <= os.sched_getaffinity(0)
    assert found.original.environment["denormals_flushed"] in (True, False)
    assert found.original.environment["memory_kept"] is (platform.libc_ver()[0] == "glibc")
    with prepare(net, example, "eager-cpu:threads=2") as several:
        assert latency(several, effort).environment["pinned"] is None
    assert not flushed()
