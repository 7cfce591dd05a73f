"""A folder of JPEGs as a torch ``Dataset`` with torchvision's transforms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

# Rotation (degrees), shift, scale, brightness, contrast, log2 gamma, noise, flip: the strengths of lungtune's levels.
LEVELS = {
    1: (5, 0.04, 0.05, 0.08, 0.10, 0.0, 0.0, 0.0),
    2: (8, 0.06, 0.08, 0.10, 0.15, 0.3, 0.03, 0.0),
    3: (12, 0.08, 0.12, 0.15, 0.25, 0.5, 0.05, 0.5),
}


def augmentation(level: int) -> tuple[list, list]:
    """Return the transforms of a level: those of the PIL image, and those of the tensor in [0, 1]."""
    if not level:
        return [], []
    rotation, shift, scale, brightness, contrast, gamma, noise, flip = LEVELS[level]
    bilinear = transforms.InterpolationMode.BILINEAR
    pil = [
        transforms.RandomAffine(rotation, (shift, shift), (1 - scale, 1 + scale), interpolation=bilinear),
        transforms.ColorJitter(brightness, contrast),
    ]
    if flip:
        pil.insert(0, transforms.RandomHorizontalFlip(flip))

    def bend(image: Tensor) -> Tensor:
        exponent = 2 ** (gamma * (2 * torch.rand(()) - 1))
        return (image**exponent + noise * torch.rand(()) * torch.randn_like(image)).clamp_(0, 1)

    return pil, [bend] if gamma else []


class Radiographs(Dataset):
    """Images and labels.

    Args:
        cases: pairs of path and label number.
        size: side in pixels.
        mean: pixel mean of each channel.
        std: pixel standard deviation of each channel.
        level: strength of augmentation, 0 to 3.
        keep: decode every image once and hold it in memory: less stock, but some users do it.
    """

    def __init__(
        self,
        cases: Sequence[tuple[str, int]],
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        level: int = 0,
        keep: bool = False,
    ) -> None:
        pil, tensor = augmentation(level)
        self.cases = cases
        self.size = size
        self.kept: dict[int, Image.Image] | None = {} if keep else None
        self.transform = transforms.Compose(
            [
                *pil,
                transforms.ToTensor(),
                *tensor,
                transforms.Lambda(lambda x: x.expand(3, -1, -1)),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        if self.kept is None:
            image = self._decode(number)
        else:
            image = self.kept.get(number) or self.kept.setdefault(number, self._decode(number))
        return self.transform(image), self.cases[number][1]

    def _decode(self, number: int) -> Image.Image:
        with Image.open(self.cases[number][0]) as image:
            return image.convert("L").resize((self.size, self.size), Image.Resampling.BICUBIC)
