"""What is wrong with the user's data is said before a study begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from lungtune.core.study import Study
from lungtune.errors import DataError
from lungtune.search import driver


def test_masks_that_cannot_be_used_begin_no_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of 0 and 1 look black: only decoding them shows it, and a host would be too late."""
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        for i in range(12):
            for kind, pixels in (("images", random.integers(0, 256, (30, 40))), ("masks", np.eye(30, 40))):
                file = tmp_path / kind / label / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    source = f"folder:{tmp_path}/images,masks={tmp_path}/masks"
    options = driver.Options(space="res_unet", profile="demo", data=source)
    with pytest.raises(DataError, match=r"must be white \(above 127\) inside, but its brightest pixel is 1"):
        driver._new(options, Console(quiet=True), lambda: None)
    assert not Study.names()
