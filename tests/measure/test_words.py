"""The environment is complete and plain; agreement and quiet mean what they say."""

import json
import logging
import sys
import warnings

import numpy as np
import pytest
import torch

from sartor.measure import environment
from sartor.measure.agreement import relative_error, varied
from sartor.measure.silence_output import quiet, silent_stdout


def test_the_environment_is_json_and_names_what_matters():
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    for key in (
        "cpu",
        "cores",
        "usable_cores",
        "os",
        "python",
        "versions",
        "torch_threads",
        "load",
        "date",
        "governor",
    ):
        assert key in facts
    assert facts["cpu"] and facts["usable_cores"] >= 1 and facts["versions"]["torch"]


@pytest.mark.parametrize(
    "expected, got, error",
    [
        (torch.tensor([2.0, -4.0]), torch.tensor([2.0, -4.0]), 0.0),
        (torch.tensor([2.0, -4.0]), [np.array([3.0, -4.0])], 0.25),
        ({"a": torch.tensor(2.0), "b": torch.tensor(1.0)}, [np.float32(2.0), np.float32(0.5)], 0.5),
        (torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5]), 0.25),
        (torch.zeros(2), torch.tensor([0.0, 0.5]), 0.5),
        (torch.ones(2), torch.ones(3), float("inf")),
        (torch.ones(2), [], float("inf")),
        (torch.ones(2), torch.tensor([1.0, float("nan")]), float("inf")),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), 0.0),
        (torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("-inf")]), float("inf")),
    ],
)
def test_relative_error(expected, got, error):
    assert relative_error(expected, got) == pytest.approx(error)


def test_varied_samples_differ_and_keep_zeros_signs_and_whole_numbers():
    x = {"x": torch.tensor([[1.0, 0.0, -2.0]] * 3), "ids": torch.arange(3)}
    y = varied(x)
    assert torch.equal(y["ids"], x["ids"]) and torch.equal(y["x"].sign(), x["x"].sign())
    assert not torch.equal(y["x"][0], y["x"][1])
    assert torch.equal(varied(x)["x"], y["x"])


def test_quiet_drops_everything_and_lets_it_pass_afterwards(capfd):
    with quiet(), silent_stdout():
        print("a")
        print("b", file=sys.stderr)
        warnings.warn("c", stacklevel=1)
        logging.getLogger("d").error("e")
    assert capfd.readouterr() == ("", "")
    with pytest.raises(KeyError), quiet(), silent_stdout():
        raise KeyError
    print("after")
    assert capfd.readouterr().out == "after\n"
    assert logging.getLogger("d").isEnabledFor(logging.ERROR)
