"""One thread, no network, the same seeds: what every test relies on."""

from __future__ import annotations

import os

# read by torch and the tokenizers when they are imported, so they come first; two workers share two cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("EVERLEARN_DEBUG", None)

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

# the same examples on every machine; how long one takes says nothing on a shared core
settings.register_profile("everlearn", derandomize=True, deadline=None)
settings.load_profile("everlearn")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random numbers."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
