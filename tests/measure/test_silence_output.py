"""Standard output stays clean, whoever wrote to it."""

import os
import platform
import subprocess
import sys

import pytest

WRITES = """
import ctypes
from sartor.measure.silence_output import silent_stdout
libc = ctypes.CDLL(None)
print("before", end=" ")
libc.printf(b"C before ")
with silent_stdout():
    print("inside", flush=True)
    libc.printf(b"C inside ")
print("after")
"""


@pytest.mark.skipif(platform.system() == "Windows", reason="no C library by that name")
def test_native_code_writes_nothing_to_standard_output_inside():
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", WRITES], capture_output=True, text=True, check=True, env=buffered)
    assert done.stdout.split() == ["before", "C", "before", "after"]
