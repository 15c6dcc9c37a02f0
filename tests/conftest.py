"""Settings of the whole suite."""

from __future__ import annotations

import os

# The models of the tests are tiny: threads would spend their time waiting for each other. NumPy reads this when it is
# first imported, also in processes that tests start.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
