"""Decoding of images with 16 bits per channel, which Pillow reduces to their high bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

_LOW = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
_WEIGHTS = (0.299, 0.587, 0.114)


def is_wide(image: Image) -> bool:
    """True of an opened, not yet decoded PNG with several channels of 16 bits."""
    return raw_mode(image) in ("LA;16B", *_LOW)


def decode(image: ImageFile, again: ImageFile) -> tuple[np.ndarray, np.ndarray]:
    """Decode colour or grey values, and opacity.

    Args:
        image: see `is_wide`; it is decoded.
        again: the same file, opened once more.

    Returns:
        float32 `(H, W, 1 or 3)` in 0..65535, and opacity `(H, W)` in 0..1.
    """
    mode = raw_mode(image)
    key = image.info.get("transparency")
    if mode == "LA;16B":  # four bytes a pixel, as 8-bit RGBA has
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        four = np.asarray(image).astype(np.uint16)
        values = four[..., ::2] << 8 | four[..., 1::2]
    else:
        again.tile = [tile._replace(args=_LOW[mode]) for tile in again.tile]  # little-endian: the other bytes
        high, low = (np.asarray(each).astype(np.uint16) for each in (image, again))
        values = high << 8 | low
    bands = values.shape[2]
    if bands in (2, 4):
        return values[..., :-1].astype(np.float32), values[..., -1].astype(np.float32) / 65535
    hidden = np.zeros(values.shape[:2], bool) if key is None else (values == np.array(key)).all(-1)
    return values.astype(np.float32), np.where(hidden, np.float32(0), np.float32(1))


def gray(colour: np.ndarray) -> np.ndarray:
    """Return luma, uint16 `(H, W)`, of colour `(H, W, 1 or 3)` in 0..65535."""
    weights = np.array(_WEIGHTS if colour.shape[2] == 3 else (1,), np.float32)
    return (colour @ weights + 0.5).astype(np.uint16)


def raw_mode(image: Image) -> str:
    """Return the layout of an undecoded PNG's pixels, such as `LA;16B`; empty of other images."""
    tiles = getattr(image, "tile", [])
    return tiles[0].args if image.format == "PNG" and tiles and isinstance(tiles[0].args, str) else ""
