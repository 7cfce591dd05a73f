"""Contact sheet: rows of images under their titles, as one PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4
"""Pixels between images, and around them."""
TITLE = 16
"""Height of the title's letters in pixels."""


def contact_sheet(rows: Sequence[tuple[str, np.ndarray]], columns: int) -> bytes:
    """Draw groups of images, each under its title.

    Args:
        rows: (title, uint8 ``(n, H, W)``), all of one H and W; a row without images shows its title.
        columns: images side by side; longer rows wrap.

    Returns:
        A grey PNG.

    Raises:
        ValueError: there is no row, an array is not uint8 ``(n, H, W)``, sizes differ, or ``columns`` < 1.
    """
    sizes = {images.shape[1:] for _, images in rows}
    if columns < 1 or len(sizes) != 1 or any(images.ndim != 3 or images.dtype != np.uint8 for _, images in rows):
        got = ", ".join(f"{images.dtype} {images.shape}" for _, images in rows) or "no row"
        raise ValueError(f"rows of uint8 (n, H, W) of one size and columns >= 1 must hold, but got {got}; {columns}.")
    ((height, width),) = sizes
    font = ImageFont.load_default(TITLE)
    head = TITLE + 2 * GAP
    lines = [math.ceil(len(images) / columns) for _, images in rows]
    titles = max(math.ceil(font.getlength(title)) for title, _ in rows) + 2 * GAP
    wide = max(GAP + columns * (width + GAP), titles)
    sheet = Image.new("L", (wide, len(rows) * head + sum(lines) * (height + GAP)), 255)
    draw, top = ImageDraw.Draw(sheet), 0
    for (title, images), count in zip(rows, lines):
        draw.text((GAP, top + GAP), title, fill=0, font=font)
        top += head
        for index, image in enumerate(images):
            line, column = divmod(index, columns)
            sheet.paste(Image.fromarray(image), (GAP + column * (width + GAP), top + line * (height + GAP)))
        top += count * (height + GAP)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()
