"""Formulas of sizes give the recorded numbers and those at sizes that were not recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sartor.surgery.size_formula import SizeTable, evaluated

SIZES = [(2, 16, 10), (5, 23, 15), (9, 18, 11), (14, 27, 22)]  # (batch, height, width) in each recording
RULES: dict[str, Callable[[int, int, int], int]] = {
    "a size": lambda b, h, w: h,
    "a multiple": lambda b, h, w: 3 * b,
    "one more": lambda b, h, w: h + 1,
    "a stride, rounded up": lambda b, h, w: (h + 1) // 2,
    "a stride, rounded down": lambda b, h, w: w // 2,
    "a product": lambda b, h, w: h * w,
    "a product of three": lambda b, h, w: 4 * b * h * w,
}


@pytest.mark.parametrize("rule", RULES)
def test_a_formula_holds_at_other_sizes(rule: str) -> None:
    number = RULES[rule]
    table = SizeTable()
    for d, sizes in enumerate(zip(*SIZES, strict=True)):
        table.add(sizes, (0, d), is_input=True)
    formula = table.formula(tuple(number(*sizes) for sizes in SIZES))
    assert formula is not None
    for sizes in [(1, 33, 40), (7, 12, 9)]:
        assert evaluated(formula, lambda slot, d, sizes=sizes: sizes[d]) == number(*sizes)


def test_numbers_that_follow_from_no_size_have_no_formula() -> None:
    table = SizeTable()
    table.add((2, 5, 9, 14), (0, 0), is_input=True)
    assert table.formula((3, 100, 7, 41)) is None
