"""Fixtures of the data tests: real image files in a temporary folder, one cache per test."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lungtune.data.fingerprint import SIDE

Write = Callable[..., Path]


def picture(seed: int, width: int = 40, height: int = 32) -> np.ndarray:
    """Return uint8 `(height, width)`: smooth blobs, another seed another picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LUNGTUNE_CACHE", str(folder))
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write picture number `seed` to a path below `tmp_path / "data"`; its suffix sets the format."""

    def write(name: str | Path, seed: int | None = None, **options: int) -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        number = zlib.crc32(str(name).encode()) if seed is None else seed
        Image.fromarray(picture(number, **options)).save(path)
        return path

    return write


@pytest.fixture
def make_facts() -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return facts for cases that have no files: all pictures differ, of size 224 x 224."""

    def make(cases: pd.DataFrame) -> pd.DataFrame:
        rng = np.random.default_rng(len(cases))
        return pd.DataFrame(
            {
                "sha1": [f"{i:040x}" for i in range(len(cases))],
                "pixels": [f"{i:040x}" for i in range(len(cases))],
                "width": 224,
                "height": 224,
                "mode": "L",
                "type": "PNG",
                "fingerprint": [rng.integers(0, 256, SIDE * SIDE, np.uint8).tobytes() for _ in range(len(cases))],
                "kind": "image",
                "depth": 0,
                "channels": 1,
                "error": None,
            },
            dtype=object,
            index=list(cases["path"]),
        )

    return make
