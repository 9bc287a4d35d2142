"""Tests are the same everywhere: small networks on one thread, hypothesis without a clock and without chance."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("sartor", deadline=None, derandomize=True)
settings.load_profile("sartor")
