"""Recall and precision of the detection of near-copies on a folder of X-rays, and its time and memory on many rows.

    python benchmarks/near_copies.py --images /data/chest_xray --changed 400 --skip 400 --json found.json
    python benchmarks/near_copies.py --rows 10000 100000

Recall: `--changed` images, drawn at random, are changed in one way and added to all others. The first 400 in the order
of the draw are those that thresholds were chosen on; `--skip` leaves them out. A pair of a changed image with another
one than its original's exact duplicates, or of two originals with different pixels, counts as unexpected: it may be
right, and is drawn on `--sheet`. Rows of the second command are mixtures of phantoms with noise, one in ten a copy.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lungtune.data.duplicates import near_pairs
from lungtune.data.fingerprint import SIDE, fingerprint, pictures
from lungtune.data.readers.base import sha1
from lungtune.report.contact_sheet import contact_sheet

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def letterboxed(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Add black borders of 5 to 35 % to the width, the height or both."""
    share = generator.uniform(0.05, 0.35) * np.array([(1, 0), (0, 1), (0.6, 0.6)])[generator.integers(3)]
    left, top = (int(side * part) for side, part in zip(image.size, share, strict=True))
    return ImageOps.expand(image, (left, top))


def cropped(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Cut 2 to 5 % off every side."""
    left, top, right, bottom = generator.uniform(0.02, 0.05, 4) * (*image.size, *image.size)
    return image.crop((round(left), round(top), round(image.width - right), round(image.height - bottom)))


def rotated(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Rotate by 3 degrees either way; the corners are black."""
    return image.rotate(generator.choice((-3, 3)), Image.Resampling.BICUBIC)


def clahe(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Equalise the histograms of 8 x 8 tiles, clipped at 2 or 4 times their mean."""
    pixels, limit = np.asarray(image), generator.choice((2, 4))
    tables = np.zeros((8, 8, 256))
    for i, row in enumerate(np.array_split(pixels, 8)):
        for j, tile in enumerate(np.array_split(row, 8, axis=1)):
            shares = np.bincount(tile.ravel(), minlength=256) / tile.size
            clipped = np.minimum(shares, limit / 256)
            tables[i, j] = np.cumsum(clipped + (1 - clipped.sum()) / 256) * 255
    places = [np.clip((np.arange(n) + 0.5) * 8 / n - 0.5, 0, 6.999) for n in pixels.shape]
    y, x = np.meshgrid(*places, indexing="ij")
    rows, columns = y.astype(int), x.astype(int)
    mapped = np.zeros(pixels.shape)
    for i, j in np.ndindex(2, 2):
        weight = np.abs(1 - i - y % 1) * np.abs(1 - j - x % 1)
        mapped += weight * tables[rows + i, columns + j, pixels]
    return Image.fromarray(np.clip(mapped + 0.5, 0, 255).astype(np.uint8))


def gamma(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Apply a gamma of 0.6 or 1.6."""
    exponent = generator.choice((0.6, 1.6))
    return image.point([round(255 * (value / 255) ** exponent) for value in range(256)])


def compressed(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Resize to 96, 150 or 400 px, then compress as JPEG of quality 30 or 60."""
    side, quality = int(generator.choice((96, 150, 400))), int(generator.choice((30, 60)))
    buffer = io.BytesIO()
    image.resize((side, side), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def marked(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Write a white text of 8 to 15 % of the height at the top or bottom, some of it on a black box."""
    marked, font = image.copy(), ImageFont.load_default(image.height * generator.uniform(0.08, 0.15))
    draw, text = ImageDraw.Draw(marked), str(generator.choice(("L", "R", "AP 12:45", "PORTABLE", "L SUPINE")))
    place = image.width * generator.uniform(0.02, 0.5), image.height * generator.choice((0.03, 0.8))
    if generator.random() < 0.4:
        draw.rectangle(draw.textbbox(place, text, font=font), fill=0)
    draw.text(place, text, fill=255, font=font)
    return marked


CHANGES: dict[str, Change] = {
    "inverted": lambda image, generator: ImageOps.invert(image),
    "flipped": lambda image, generator: ImageOps.mirror(image),
    "letterboxed": letterboxed,
    "cropped": cropped,
    "rotated": rotated,
    "clahe": clahe,
    "gamma": gamma,
    "resized, jpeg": compressed,
    "marker": marked,
    "flipped, cropped, marker": lambda image, g: marked(cropped(ImageOps.mirror(image), g), g),
    "gamma, rotated, clahe": lambda image, g: clahe(rotated(gamma(image, g), g), g),
}


def table(fingerprints: Sequence[bytes], pixels: Sequence[str]) -> pd.DataFrame:
    """Return what duplicate detection reads of a scan."""
    columns = {"sha1": list(pixels), "pixels": list(pixels), "fingerprint": list(fingerprints)}
    return pd.DataFrame({**columns, "error": pd.Series([None] * len(pixels), dtype=object)}, dtype=object)


def measure_recall(folder: Path, count: int, skip: int, sheet: Path | None) -> dict[str, Any]:
    """Return recall by change, and the unexpected pairs of copies among all images of a folder and its subfolders.

    Args:
        folder: of the images.
        count: how many are changed.
        skip: how many at the beginning of the random order are not.
        sheet: PNG to draw unexpected pairs into.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if len(files) < 2:
        raise SystemExit(f"{folder} must hold at least 2 PNG or JPEG images, but holds {len(files)}.")
    grays = [Image.open(path).convert("L") for path in files]
    prints = [fingerprint(image) for image in grays]
    pixels = [sha1(image.tobytes()) for image in grays]
    first = dict(zip(reversed(pixels), reversed(range(len(files))), strict=True))
    chosen = np.random.default_rng(0).permutation(len(files))[skip : skip + count]
    recalls: dict[str, Any] = {}
    unexpected = {(p.first, p.second): p.likeness for p in copies(prints, pixels)}
    total = len(unexpected)
    known = {tuple(sorted((first[pixels[a]], first[pixels[b]]))) for a, b in unexpected}
    drawn = [(f"{files[a].stem}, {files[b].stem}: {s:.3f}", grays[a], grays[b]) for (a, b), s in unexpected.items()]
    for name, change in CHANGES.items():
        generator = np.random.default_rng(1)
        shown = [change(grays[row], generator).convert("L") for row in chosen]
        changed = [fingerprint(image) for image in shown]
        found = copies([*prints, *changed], [*pixels, *(f"{name} {row}" for row in chosen)])
        ends = {(p.first, p.second) for p in found}
        hits = sum((first[pixels[row]], len(files) + k) in ends for k, row in enumerate(chosen))
        wrong = 0
        for pair in found:
            one, other = (chosen[k - len(files)] if k >= len(files) else k for k in _rows(pair))
            mates = tuple(sorted((first[pixels[one]], first[pixels[other]])))
            if pair.second >= len(files) and mates[0] != mates[1] and mates not in known:
                wrong += 1
                sides = [shown[k - len(files)] if k >= len(files) else grays[k] for k in _rows(pair)]
                drawn.append((f"{name}: {files[one].stem}, {files[other].stem}: {pair.likeness:.3f}", *sides))
        recalls[name] = {"found": hits, "of": len(chosen), "unexpected": wrong}
        print(f"| {name} | {hits} of {len(chosen)} | {hits / len(chosen):.3f} | {wrong} |", flush=True)
    print(
        f"{total} pairs of copies among {len(files)} images have different pixels "
        f"({1000 * total / len(files):.2f} in 1,000 images):"
    )
    for (one, other), likeness in unexpected.items():
        print(f"  {likeness:.3f}  {files[one].relative_to(folder)}  {files[other].relative_to(folder)}")
    if sheet and drawn:
        rows = [(text, np.stack([np.asarray(side.resize((224, 224))) for side in sides])) for text, *sides in drawn]
        sheet.write_bytes(contact_sheet(rows, 2))
    return {
        "images": len(files),
        "recall": recalls,
        "pairs": [[str(files[a]), str(files[b]), s] for (a, b), s in unexpected.items()],
    }


def _rows(pair: Any) -> tuple[int, int]:
    return pair.first, pair.second


def copies(fingerprints: Sequence[bytes], pixels: Sequence[str]) -> list[Any]:
    """Return the pairs of kind copy."""
    return [pair for pair in near_pairs(table(fingerprints, pixels)) if pair.kind == "copy"]


def measure_rows(count: int) -> dict[str, Any]:
    """Return time, memory and recall on `count` made-up fingerprints."""
    from lungtune.data.phantom import generate

    generator = np.random.default_rng(0)
    films = pictures([fingerprint(Image.fromarray(film.image)) for film in generate(400, seed=0, domain="B", size=96)])
    copied = max(1, count // 10)
    prints = []
    for _ in range(count - copied):
        one, other = films[generator.integers(len(films), size=2)].astype(np.float32)
        rough = Image.fromarray(generator.normal(128, 70, (16, 16)).clip(0, 255).astype(np.uint8))
        noise = np.asarray(rough.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
        prints.append((0.35 * one + 0.35 * other + 0.3 * noise).astype(np.uint8).tobytes())
    for row in range(copied):
        image = Image.frombytes("L", (SIDE, SIDE), prints[row])
        prints.append(ImageOps.invert(image.rotate(2, Image.Resampling.BICUBIC)).tobytes())
    facts = table(prints, [str(row) for row in range(count)])
    del prints
    started, cpu = time.perf_counter(), time.process_time()
    pairs = near_pairs(facts)
    result = {"rows": count, "seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    right = sum(pair.second - pair.first == count - copied for pair in pairs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result | {"peak_mib": peak, "recall": right / copied, "other_pairs": len(pairs) - right}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of X-rays for recall and precision")
    parser.add_argument("--changed", type=int, default=400, help="images that are changed (default 400)")
    parser.add_argument("--skip", type=int, default=0, help="images of the random order left out before (default 0)")
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="numbers of rows for time and memory")
    parser.add_argument("--sheet", type=Path, help="PNG of the unexpected pairs")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.images:
        print("| change | copies | recall | unexpected pairs |\n|---|---|---|---|")
        found |= measure_recall(options.images, options.changed, options.skip, options.sheet)
    if len(options.rows) == 1 and not options.images:
        found["rows"] = [measure_rows(options.rows[0])]
        print(json.dumps(found["rows"][0]), flush=True)
    elif options.rows:  # a process each: the peak of memory is its own
        found["rows"] = []
        for rows in options.rows:
            done = subprocess.run(
                [sys.executable, __file__, "--rows", str(rows)], check=True, capture_output=True, text=True
            )
            print(done.stdout, end="", flush=True)
            found["rows"].append(json.loads(done.stdout))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
