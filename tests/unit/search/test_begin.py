"""What the user has to mend is said before a study begins, and a study that did not begin leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from PIL import Image
from rich.console import Console

from lungtune.core.study import Study
from lungtune.errors import DataError, SpaceError
from lungtune.search import driver
from lungtune.search.backends.ray_hosts import workers


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


@pytest.mark.parametrize("trials", [0, 1])
def test_what_the_user_must_mend_ends_a_search_that_has_not_begun(trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot open its session for the user's mistake: an error before the first trial, a stop after it."""
    mistake = SpaceError("image_size must be a multiple of 8 px, but got 60.")
    failed = ray.exceptions.RayTaskError("ready", "traceback", mistake)
    monkeypatch.setattr(ray, "wait", lambda objects, timeout: (objects, []))
    monkeypatch.setattr(ray, "get", lambda opening: (_ for _ in ()).throw(failed))
    controller = SimpleNamespace(history=SimpleNamespace(trials=dict.fromkeys(range(trials))), stopping="")
    made = workers.WorkerPool.__new__(workers.WorkerPool)
    made.controller, made._places = controller, [workers.Worker(0, 0, None, object())]
    if trials:
        made.poll()
        assert "image_size must be a multiple of 8 px" in controller.stopping
    else:
        with pytest.raises(SpaceError, match=r"image_size must be a multiple of 8 px, but got 60\."):
            made.poll()


def test_a_study_that_never_began_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    monkeypatch.setattr(driver, "_start_ray", lambda: None)
    monkeypatch.setattr(driver, "_stop_ray", lambda started: None)

    def refused(*args: object) -> str:
        raise SpaceError("image_size must be a multiple of 8 px, but got 60.")

    monkeypatch.setattr(driver, "_run_trials", refused)
    options = driver.Options(space="vit_lora", profile="demo", data="phantom,n=100,test=30", study="x")
    with pytest.raises(SpaceError, match="multiple of 8"):
        driver.run(options, Console(quiet=True))
    assert Study.names() == []
    assert not (tmp_path / "studies" / "x").exists()
