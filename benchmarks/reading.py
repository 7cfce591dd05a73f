"""Measure how long reading a data set takes: scan and pixel store, against Pillow and pydicom alone.

    python benchmarks/reading.py --turns 5 --json reading.json

Both sides read every file once with cold caches of their own, on one core, and end with a memory map of 224 px grey
images. The plain side decodes, scales 16 bits to 8 as lungtune does (from percentiles), resizes and writes. lungtune
scans (digests, hashes of near-copies, plausibility) and fills its store. Sides alternate; ratios are medians of pairs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 224
KINDS = ("jpeg", "dicom", "dicom-j2k", "png16", "small")


def picture(seed: int, side: int) -> np.ndarray:
    """Return float32 `(side, side)` in 0..1: a smooth chest-like shape with noise of an X-ray detector."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.random((12, 12), dtype=np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    lungs = np.exp(-(((np.abs(x) - 0.4) / 0.28) ** 4) - (y / 0.7) ** 4)
    values = 0.55 + 0.25 * np.asarray(coarse) - 0.4 * lungs + 0.012 * rng.standard_normal((side, side))
    return np.clip(values, 0, 1).astype(np.float32)


def encode(kind: str, seed: int, side: int) -> tuple[str, bytes]:
    """Return suffix and bytes of one file: `side` pixels wide, or 224 for `small`."""
    stream = io.BytesIO()
    if kind in ("jpeg", "small"):
        gray = Image.fromarray((picture(seed, SIZE if kind == "small" else side) * 255).astype(np.uint8))
        shown = gray.convert("RGB") if kind == "small" else gray  # most public sets in this size are
        shown.save(stream, "JPEG", quality=90)
        return ".jpg", stream.getvalue()
    wide = (picture(seed, side) * 4095).astype(np.uint16)
    if kind == "png16":
        Image.fromarray(wide).save(stream, "PNG", compress_level=3)
        return ".png", stream.getvalue()
    return ".dcm", _dicom(wide, compressed=kind == "dicom-j2k")


def _dicom(values: np.ndarray, compressed: bool) -> bytes:
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import (
        ExplicitVRLittleEndian,
        JPEG2000Lossless,
        SecondaryCaptureImageStorage,
        generate_uid,
    )

    data, stream = Dataset(), io.BytesIO()
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    data.Modality, data.PatientID = "DX", "p"
    data.Rows, data.Columns, data.SamplesPerPixel = *values.shape, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.RescaleSlope, data.RescaleIntercept = "1", "0"
    if compressed:
        code = io.BytesIO()
        Image.fromarray(values).save(code, "JPEG2000", no_jp2=True)
        data.PixelData = encapsulate([code.getvalue()])
    else:
        data.PixelData = values.tobytes()
    data["PixelData"].VR = "OW"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless if compressed else ExplicitVRLittleEndian
    data.preamble = bytes(128)
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()


def plain(files: list[str], folder: Path) -> None:
    """Read all files with Pillow and pydicom, and write their pixels."""
    out = np.lib.format.open_memmap(folder / "plain.npy", "w+", np.uint8, (len(files), SIZE, SIZE))
    for row, file in enumerate(files):
        out[row] = np.asarray(_gray(file).resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    out.flush()


def _gray(file: str) -> Image.Image:
    if file.endswith(".dcm"):
        import pydicom
        from pydicom.pixels import apply_modality_lut

        header = pydicom.dcmread(file)
        wide = apply_modality_lut(header.pixel_array, header)
    else:
        image = Image.open(file)
        if not image.mode.startswith("I"):
            return image.convert("L")
        wide = np.asarray(image)
    low, high = np.percentile(wide, (0.5, 99.5))
    return Image.fromarray((np.clip((wide.astype(np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8))


def ours(files: list[str], folder: Path) -> None:
    """Scan all files and fill a pixel store, with an empty cache."""
    from lungtune.data import gathering, scan, store

    os.environ["LUNGTUNE_CACHE"] = str(folder / "cache")
    with gathering.gathering(SIZE) as keep:
        facts = scan.scan(files, size=SIZE, keep=keep)
    if facts["error"].notna().any():
        raise RuntimeError(facts["error"].dropna().iloc[0])
    store.open_images(files, list(facts["sha1"]), SIZE, "train")
    gathering.discard(SIZE)


def seconds(side: Callable[[list[str], Path], None], files: list[str]) -> float:
    """Return the processor time of one side, single-threaded, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        side(files, Path(folder))
        return time.process_time() - start


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="of files (default all)")
    parser.add_argument("--side", type=int, default=2000, help="of large images in pixels (default 2000)")
    parser.add_argument("--count", type=int, default=24, help="large files a kind; 20 times as many small ones")
    parser.add_argument("--turns", type=int, default=5, help="pairs of runs (default 5)")
    parser.add_argument("--json", type=Path, help="write all times to this file")
    chosen = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    times: dict[str, dict[str, list[float]]] = {}
    print(f"| files | plain (ms a file) | lungtune | ratio | range |\n|{'---|' * 5}")
    for kind in chosen.kinds:
        count = chosen.count * (20 if kind == "small" else 1)
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for seed in range(count):
                suffix, data = encode(kind, seed, chosen.side)
                file = Path(folder) / f"{seed}{suffix}"
                file.write_bytes(data)
                files.append(str(file))
            for side in (plain, ours):
                seconds(side, files[:2])  # imports and first use
            found: dict[str, list[float]] = {"plain": [], "ours": []}
            for turn in range(chosen.turns):
                for side in (plain, ours) if turn % 2 == 0 else (ours, plain):
                    found[side.__name__].append(seconds(side, files))
        times[kind] = found
        ratios = [b / a for a, b in zip(found["plain"], found["ours"])]
        one, other = (1e3 * statistics.median(found[name]) / count for name in ("plain", "ours"))
        shown = f"{statistics.median(ratios):.2f} | {min(ratios):.2f}-{max(ratios):.2f}"
        print(f"| {kind} | {one:.1f} | {other:.1f} | {shown} |", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps({"side": chosen.side, "count": chosen.count, "seconds": times}))


if __name__ == "__main__":
    sys.exit(main())
