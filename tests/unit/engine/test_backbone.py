"""Number of cases that pass the frozen model together."""

import pytest
import torch

from lungtune.engine import backbone


@pytest.mark.parametrize(
    ("size", "device", "count"),
    [
        (64 * 64, "cpu", 256),
        (128 * 128, "cpu", 256),
        (224 * 224, "cpu", 5),
        (3 * 224 * 224, "cpu", 4),
        (768 * 768, "cpu", 4),
        (224 * 224, "cuda", 167),
        (768 * 768, "cuda", 14),
        (4096 * 4096, "cuda", 1),
    ],
)
def test_large_images_pass_a_cpu_few_at_a_time(size: int, device: str, count: int) -> None:
    assert backbone.at_once(size, torch.device(device)) == count
