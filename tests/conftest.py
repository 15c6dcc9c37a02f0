"""Settings of the whole suite."""

from __future__ import annotations

import torch

# The models of the tests are tiny: threads would spend their time waiting for each other.
torch.set_num_threads(1)
