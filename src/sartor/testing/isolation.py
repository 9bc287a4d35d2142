"""Run a function in a process of its own, with a time limit and a memory limit."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from typing import Any


def isolated(
    function: Callable[[], Any], *, seconds: float, memory: int | None = None, fresh: bool = False
) -> tuple[Any, str]:
    """(the result, "") or (None, why there is none).

    Args:
        function: its result must be picklable. The function itself needs pickling only if processes cannot fork.
        seconds: time limit, wall clock.
        memory: limit of the address space in bytes, if the system supports one.
        fresh: start a new interpreter that shares no memory and no threads with this one; `function` is pickled.
    """
    kinds = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if "fork" in kinds and not fresh else "spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, there, memory), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(seconds):
            return None, f"not done within {seconds:g} s"
        done, value = here.recv()
        return (value, "") if done else (None, value)
    except EOFError:
        process.join(5)
        return None, f"its process ended with status {process.exitcode}"
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        here.close()


def _work(function: Callable[[], Any], pipe: Any, memory: int | None) -> None:
    if memory is not None and sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        pipe.send((True, function()))
    except BaseException as e:
        pipe.send((False, f"{type(e).__name__}: {e}".split("\n")[0][:300]))
