"""Images where the training loop needs them: uint8, on the device, or memory-mapped beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lungtune.nn.augment import augment
from lungtune.nn.member import Member

_UPLOAD = 512
"""Images sent to a device at a time, so that a memory map need not be read whole."""


class Pixels:
    """Images of one fold as uint8; batches come out as floats.

    Args:
        images: ``(N, H, W)`` uint8, numpy (may be a read-only memory map) or torch.
        device: on CUDA all images are kept there; on the CPU they stay where they are.

    Raises:
        ValueError: another type or shape.
    """

    def __init__(self, images: np.ndarray | Tensor, device: torch.device) -> None:
        kind = str(images.dtype).removeprefix("torch.")
        if images.ndim != 3 or kind != "uint8":
            raise ValueError(f"images must be uint8 (N, H, W), but got {kind} {tuple(images.shape)}")
        self.device = device
        self._images: np.ndarray | Tensor = images if isinstance(images, np.ndarray) else images.cpu().numpy()
        if device.type != "cpu":
            resident = torch.empty(images.shape, dtype=torch.uint8, device=device)
            for first in range(0, len(images), _UPLOAD):
                chunk = np.array(self._images[first : first + _UPLOAD])
                resident[first : first + _UPLOAD] = torch.from_numpy(chunk)
            self._images = resident

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def take(self, index: Tensor) -> Tensor:
        """Return float32 ``(n, 1, H, W)`` in [0, 1] of the images at ``index (n,)``."""
        if isinstance(self._images, np.ndarray):
            picked = torch.from_numpy(self._images[index.numpy()])
        else:
            picked = self._images[index.to(self.device)]
        return picked.unsqueeze(1).float().div_(255.0)

    def digest(self) -> str:
        """Return a hash of all images in their order."""
        sums = hashlib.blake2b(str(tuple(self._images.shape)).encode(), digest_size=16)
        for first in range(0, len(self), _UPLOAD):
            part = self._images[first : first + _UPLOAD]
            sums.update(np.ascontiguousarray(part if isinstance(part, np.ndarray) else part.cpu().numpy()))
        return sums.hexdigest()


class Fresh:
    """What the model gets to see when nothing is kept: images augmented afresh in every step.

    Args:
        pixels: the images.
        compute: the family's ``features`` of a batch.

    Attributes:
        stride: images that are best scored at a time.
    """

    stride = 64

    def __init__(self, pixels: Pixels, compute: Callable[[Tensor], Tensor]) -> None:
        self._pixels = pixels
        self._compute = compute

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._pixels)

    def take(self, chosen: Sequence[Tensor], members: Sequence[Member]) -> Tensor:
        """Return the features of a step's images, augmented as each trial wants it.

        Args:
            chosen: indices ``(n_i,)`` of each trial's batch, on the CPU.
            members: the trials.

        Returns:
            ``(sum n_i, ...)`` on the device, trial after trial.
        """
        images = self._pixels.take(torch.cat(list(chosen)))
        levels = [m.params.augmentation for m in members]
        return self._compute(augment(images, levels, [len(c) for c in chosen], [m.augmentation() for m in members]))

    def plain(self, first: int, last: int) -> Tensor:
        """Return the features ``(last - first, ...)`` of images as they are."""
        return self._compute(self._pixels.take(torch.arange(first, last)))
