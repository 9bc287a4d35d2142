"""Progress: plain lines on a pipe, a display on a terminal, silence when asked."""

from __future__ import annotations

import io

from sartor.cli.progress import EVERY_S, _Plain, steps


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_with_each_step_and_then_rarely() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = _Plain(stream, clock=lambda: now[0])
    for i in range(100):
        now[0] += 0.5
        progress("train", i / 100, f"epoch {i}")
    progress("measure", None, "")
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("train: epoch 0") and lines[-1].endswith("measure")
    assert 2 + 49 / EVERY_S - 1 <= len(lines) <= 2 + 50 / EVERY_S


def test_the_last_word_of_a_step_is_always_said() -> None:
    stream = io.StringIO()
    with steps(stream) as progress:
        progress("cut", 0.0, "")
        progress("cut", 1.0, "3 groups")
    assert "3 groups" in stream.getvalue()


def test_quiet_is_quiet() -> None:
    stream = io.StringIO()
    with steps(stream, quiet=True) as progress:
        progress("cut", 0.5, "x")
    assert stream.getvalue() == ""


def test_a_terminal_gets_every_step_and_no_markup_of_others() -> None:
    stream = _Terminal()
    with steps(stream) as progress:
        progress("cut [red]", 0.5, "[bold]x[/bold]")
        progress("measure", None, "")
    assert "[bold]x[/bold]" in stream.getvalue()
    assert "cut [red]" in stream.getvalue() and "measure" in stream.getvalue()
