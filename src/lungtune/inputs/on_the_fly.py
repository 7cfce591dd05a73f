"""Images where the training loop needs them: uint8, on the device, or memory-mapped beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lungtune.engine.trial_state import TrialState
from lungtune.inputs.transforms2d import augment

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


def gathered(index: Tensor, edge: int, first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> Tensor:
    """Return rows of two tables laid one after the other, without joining the tables.

    Args:
        index: ``(n,)`` on the CPU.
        edge: rows of the first table.
        first: indices ``(k,)`` to rows ``(k, ...)`` of the first table.
        second: the same of the second one.
    """
    far = index >= edge
    if not far.any():
        return first(index)
    if far.all():
        return second(index - edge)
    near, far = (~far).nonzero().squeeze(1), far.nonzero().squeeze(1)
    one, other = first(index[near]), second(index[far] - edge)
    found = one.new_empty(len(index), *one.shape[1:])
    found[near.to(one.device)], found[far.to(one.device)] = one, other
    return found


@dataclass(frozen=True, eq=False)
class Masks:
    """Lung masks of one fold.

    Attributes:
        pixels: uint8 ``(N, H, W)``, 0 or 255.
        known: bool ``(N,)``: which images have one.
    """

    pixels: np.ndarray
    known: np.ndarray


class OnTheFlyInputs:
    """What the model gets to see when nothing is kept: images augmented afresh in every step.

    Args:
        pixels: the images.
        compute: the family's ``features`` of a batch.
        masks: the images' masks, where the family wants them; they are moved as the images are.
        synthetic: further images, whose indices follow on; they have no masks.

    Attributes:
        stride: images that are best scored at a time.
    """

    stride = 64

    def __init__(
        self,
        pixels: Pixels,
        compute: Callable[[Tensor], Tensor],
        masks: Masks | None = None,
        synthetic: Pixels | None = None,
    ) -> None:
        self._pixels, self._synthetic = pixels, synthetic
        self._compute = compute
        self._masks = Pixels(masks.pixels, pixels.device) if masks else None
        self.known = torch.as_tensor(masks.known, device=pixels.device) if masks else None
        if self.known is not None and synthetic is not None:
            self.known = torch.cat([self.known, self.known.new_zeros(len(synthetic))])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._pixels) + len(self._synthetic or ())

    def take(self, chosen: Sequence[Tensor], members: Sequence[TrialState]) -> tuple[Tensor, Tensor | None]:
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
        if self._synthetic is None:
            images = self._pixels.take(index)
            return images if self._masks is None else torch.cat([images, self._masks.take(index)], 1)
        edge = len(self._pixels)
        images = gathered(index, edge, self._pixels.take, self._synthetic.take)
        if self._masks is None:
            return images
        black = lambda rows: images.new_zeros(len(rows), *images.shape[1:])  # noqa: E731
        return torch.cat([images, gathered(index, edge, self._masks.take, black)], 1)
