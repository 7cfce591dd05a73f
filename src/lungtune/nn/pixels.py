"""Images where the training loop needs them: uint8, on the device, or memory-mapped beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class Masks:
    """Lung masks of one fold.

    Attributes:
        pixels: uint8 ``(N, H, W)``, 0 or 255.
        known: bool ``(N,)``: which images have one.
    """

    pixels: np.ndarray
    known: np.ndarray


class Fresh:
    """What the model gets to see when nothing is kept: images augmented afresh in every step.

    Args:
        pixels: the images.
        compute: the family's ``features`` of a batch.
        masks: the images' masks, where the family wants them; they are moved as the images are.

    Attributes:
        stride: images that are best scored at a time.
    """

    stride = 64

    def __init__(self, pixels: Pixels, compute: Callable[[Tensor], Tensor], masks: Masks | None = None) -> None:
        self._pixels = pixels
        self._compute = compute
        self._masks = Pixels(masks.pixels, pixels.device) if masks else None
        self.known = torch.as_tensor(masks.known, device=pixels.device) if masks else None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._pixels)

    def take(self, chosen: Sequence[Tensor], members: Sequence[Member]) -> tuple[Tensor, Tensor | None]:
        """Return the features of a step's images, augmented as each trial wants it, and their masks.

        Args:
            chosen: indices ``(n_i,)`` of each trial's batch, on the CPU.
            members: the trials.

        Returns:
            ``(sum n_i, ...)`` on the device, trial after trial; masks ``(sum n_i, 1, H, W)``, 0 or 1, or None.
        """
        images = self._stacked(torch.cat(list(chosen)))
        levels = [m.params.augmentation for m in members]
        moved = augment(images, levels, [len(c) for c in chosen], [m.augmentation() for m in members])
        return self._compute(moved[:, :1]), moved[:, 1:] if self._masks else None

    def plain(self, first: int, last: int) -> tuple[Tensor, Tensor | None]:
        """Return the features ``(last - first, ...)`` of images as they are, and their masks."""
        images = self._stacked(torch.arange(first, last))
        return self._compute(images[:, :1]), images[:, 1:] if self._masks else None

    def _stacked(self, index: Tensor) -> Tensor:
        images = self._pixels.take(index)
        return images if self._masks is None else torch.cat([images, self._masks.take(index)], 1)
