"""Contact sheets as one PNG: rows of images under their titles, or pairs of images above their names."""

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
    return _png(sheet)


def pair_sheet(pairs: Sequence[tuple[np.ndarray, Sequence[str]]], columns: int) -> bytes:
    """Draw pairs of images side by side, with lines of text under each pair.

    Args:
        pairs: (uint8 ``(2, H, W)``, lines), all of one H and W. The beginning of a line that is too long is left out:
            the end of a path says more.
        columns: pairs side by side.

    Returns:
        A grey PNG.

    Raises:
        ValueError: there is no pair, an array is not uint8 ``(2, H, W)``, sizes differ, or ``columns`` < 1.
    """
    sizes = {images.shape[1:] for images, _ in pairs}
    if columns < 1 or len(sizes) != 1 or any(len(i) != 2 or i.ndim != 3 or i.dtype != np.uint8 for i, _ in pairs):
        got = ", ".join(f"{images.dtype} {images.shape}" for images, _ in pairs) or "no pair"
        raise ValueError(f"pairs of uint8 (2, H, W) of one size and columns >= 1 must hold, but got {got}; {columns}.")
    ((height, width),) = sizes
    font = ImageFont.load_default(TITLE)
    line = TITLE + GAP
    wide, margin = 2 * width + GAP, 4 * GAP
    tall = height + max(len(lines) for _, lines in pairs) * line
    columns = min(columns, len(pairs))
    extent = (margin + columns * (wide + margin), margin + math.ceil(len(pairs) / columns) * (tall + margin))
    sheet = Image.new("L", extent, 255)
    draw = ImageDraw.Draw(sheet)
    for index, (images, lines) in enumerate(pairs):
        row, column = divmod(index, columns)
        left, top = margin + column * (wide + margin), margin + row * (tall + margin)
        for side, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (left + side * (width + GAP), top))
        for number, text in enumerate(lines):
            place = (left, top + height + GAP + number * line)
            draw.text(place, _shortened(text, font, wide), fill=0, font=font)
    return _png(sheet)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return a text, without as much of its beginning as makes it wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    start = next((k for k in range(1, len(text)) if font.getlength("..." + text[k:]) <= width), len(text))
    return "..." + text[start:]


def _png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()
