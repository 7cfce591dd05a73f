"""User errors are reported before a study begins, and a study that did not begin leaves no files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image
from rich.console import Console

import simulated
from lungtune.core.study import Study
from lungtune.errors import DataError, SpaceError
from lungtune.search import driver, preparation
from lungtune.search.backend import Startup, WorkerUnusable
from lungtune.search.backends.ray_hosts import devices, workers
from lungtune.search.backends.ray_hosts.host import PackHost


def test_masks_that_cannot_be_used_begin_no_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label maps of two small numbers: only decoding them shows it, and a host would be too late."""
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        for i in range(12):
            for kind, pixels in (
                ("images", random.integers(0, 256, (30, 40))),
                ("masks", np.eye(30, 40) + 2 * np.eye(30, 40, 3)),
            ):
                file = tmp_path / kind / label / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    source = f"folder:{tmp_path}/images,masks={tmp_path}/masks"
    options = driver.Options(space="res_unet", profile="demo", data=source)
    with pytest.raises(DataError, match=r"must say which are lung, .* Add ',mask_values=1\|2'"):
        preparation.new(options, Console(quiet=True), lambda space: None)
    assert not Study.names()


@pytest.mark.parametrize("source", ["phantom,n=84,test=36,size=32", "folder:{}"], ids=["generated", "on disk"])
def test_class_weights_are_checked_against_the_classes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Before an image is rendered or opened, and weights are looked for."""
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))
    for label in ("covid", "normal", "other"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "images" / label / f"{i}.png").write_bytes(b"")
    monkeypatch.setattr(preparation.study_data, "inspect", lambda *args: pytest.fail("the images were opened"))
    options = preparation.Options(
        space="clip_head",
        profile="demo",
        data=source.format(tmp_path / "images"),
        settings={"class_weighting": ["none", [0.3, 0.7]]},
    )
    with pytest.raises(
        SpaceError, match=r"class_weighting must have a weight for each of \d classes \(.*\), but \[0.3, 0"
    ):
        preparation.new(options, Console(quiet=True), lambda space: None)
    assert not Study.names()


def test_generated_data_without_a_field_render_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    monkeypatch.setattr(preparation.study_data, "inspect", lambda *args: pytest.fail("the images were rendered"))
    options = preparation.Options(space="sd_lora", profile="demo", data="phantom,n=84,test=36,labels=yes")
    with pytest.raises(DataError, match=r"sd_lora needs a class of each case, but phantom.* names none"):
        preparation.new(options, Console(quiet=True), lambda space: None)
    assert not Study.names()


def test_cause_of_a_host_that_cannot_open_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuner raises it before the first trial and stops after it: test_supervision."""
    mistake = SpaceError("image_size must be a multiple of 8 px, but got 60.")
    failed = ray.exceptions.RayTaskError("ready", "traceback", mistake)
    monkeypatch.setattr(ray, "wait", lambda objects, timeout: (objects, []))
    monkeypatch.setattr(ray, "get", lambda opening, timeout: (_ for _ in ()).throw(failed))
    monkeypatch.setattr(workers.cluster, "devices", lambda most: (2, False))
    monkeypatch.setattr(workers.cluster, "resources_now", lambda: {"CPU": 2.0})
    monkeypatch.setattr(workers.WorkerPool, "_make", lambda self, device: workers.Worker(device, None, object()))
    pool = workers.WorkerPool(simulated.space(1), PackHost)
    assert pool.poll() == [WorkerUnusable("device 0 cannot train", mistake, 0, others=0, again=devices.FIRST)]
    assert pool.poll() == [], "it is said once"
    assert not ray.is_initialized(), "no Ray is started to kill a host"


def test_a_study_that_never_began_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    monkeypatch.setattr(Startup, "begin", lambda self, space: None)

    def refused(*args: object) -> str:
        raise SpaceError("image_size must be a multiple of 8 px, but got 60.")

    monkeypatch.setattr(driver, "_run_trials", refused)
    options = driver.Options(space="vit_lora", profile="demo", data="phantom,n=100,test=30", study="x")
    with pytest.raises(SpaceError, match="multiple of 8"):
        driver.run(options, Console(quiet=True))
    assert Study.names() == []
    assert not (tmp_path / "studies" / "x").exists()
