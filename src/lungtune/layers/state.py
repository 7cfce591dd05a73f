"""Checksums of tensors."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def digest(tensors: dict[str, Tensor], text: str) -> str:
    """Return a checksum of tensors (on the CPU: names, types, shapes, content) and of a text."""
    sums = hashlib.blake2b(text.encode(), digest_size=16)
    for key in sorted(tensors):
        tensor = tensors[key]
        sums.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sums.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sums.hexdigest()
