"""Fixtures of the unit tests: one thread, warnings as errors."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads."""
    torch.set_num_threads(1)
