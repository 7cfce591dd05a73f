"""User errors are reported at once: before a backend starts, or while it does."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from in_process import InProcess
from lungtune import catalog
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.errors import DataError, WeightsError
from lungtune.models import hub
from lungtune.search import driver, preparation
from lungtune.search.backend import Startup


class Slow(InProcess):
    """Starts when the test releases it."""

    def __init__(self) -> None:
        super().__init__()
        self.starting, self.let, self.stopped = threading.Event(), threading.Event(), threading.Event()

    def start(self, space: SearchSpace) -> None:
        self.starting.set()
        assert self.let.wait(60)
        super().start(space)

    def stop(self) -> None:
        super().stop()
        self.stopped.set()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))


def leaking(folder: Path) -> str:
    """Write a data set whose first training image is a test image too."""
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("a", "b"):
            for i in range(12):
                file = folder / part / label / f"{part}{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (30, 40), dtype=np.uint8)).save(file)
    (folder / "train" / "a" / "train0.png").write_bytes((folder / "test" / "a" / "test0.png").read_bytes())
    return f"folder:{folder}"


def test_leaks_are_reported_while_a_backend_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(driver.backends, "get", lambda name: lambda: slow)
    options = driver.Options(space="clip_lora", profile="demo", data=leaking(tmp_path / "leaking"))
    with pytest.raises(DataError, match="the data can't be searched on as it is"):
        driver.run(options, Console(quiet=True))
    assert slow.starting.wait(10)
    assert slow.log == []
    slow.let.set()
    assert slow.stopped.wait(10)
    assert slow.log == ["start", "stop"]
    assert not Study.names()


def test_start_that_fails_after_the_block_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    slow = Slow()
    slow.start = lambda space: slow.let.wait(60) and 1 / 0  # type: ignore[assignment]
    startup = Startup(lambda space: slow)
    with startup:
        startup.begin(None)  # type: ignore[arg-type]
    slow.let.set()
    assert startup._thread is not None
    startup._thread.join(10)
    assert not startup._thread.is_alive()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("source", "profile"),
    [
        (None, "demo"),
        ("phantom", "demo"),
        ("phantom,n=300", "demo"),
        (" phantom , n=300", "demo"),
        ("folder:/x/phantom", "full"),
        ("medmnist:pneumoniamnist", "full"),
        ("table:t.csv,labels=a", "full"),
    ],
)
def test_only_real_data_mean_the_full_profile(source: str | None, profile: str) -> None:
    assert catalog.default_profile("clip_lora", source) == profile
    assert catalog.default_profile("clip_lora,vit_lora", source) == profile


def test_missing_weights_name_the_demo_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached", lambda files: None)
    monkeypatch.setattr(hub, "fetched", lambda files, download: None)
    source = leaking(tmp_path / "data")
    console = Console(record=True, width=200, file=io.StringIO())
    with pytest.raises(WeightsError, match=r"hf download .*weights=DIR.* Or search with .*: `--profile demo`\."):
        preparation.new(driver.Options(space="clip_lora", data=source), console, lambda space: pytest.fail("started"))
    assert console.export_text().startswith("space clip_lora, profile full: model ViT-L-14, weights openai,")
    options = driver.Options(space="clip_lora", data=source, settings={"weights": "laion2b_s32b_b82k"})
    with pytest.raises(WeightsError, match=r"weights=DIR`\.$"):
        preparation.new(options, console, lambda space: pytest.fail("started"))


def test_profile_is_printed_before_the_data_are_read() -> None:
    console = Console(record=True, width=400, file=io.StringIO())
    with pytest.raises(DataError, match="nowhere"):
        preparation.new(driver.Options(space="clip_lora", data="folder:/nowhere"), console, lambda space: None)
    assert console.export_text().startswith("space clip_lora, profile full: ")
