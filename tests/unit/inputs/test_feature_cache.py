"""Feature cache: built once by one process, views in order, independent of pack composition."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lungtune.core import environment
from lungtune.core.fields import IMAGE
from lungtune.engine.trial_state import TrialState
from lungtune.errors import DataError
from lungtune.inputs import computing, feature_cache
from lungtune.inputs.augmentation import augment
from lungtune.inputs.columns import Column
from lungtune.inputs.feature_cache import CachedFeatures
from lungtune.inputs.on_the_fly import Compute
from lungtune.inputs.training_pool import Phase
from lungtune.layers.layout import derive_seed

N = 70
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 8, 8), dtype=np.uint8)
CPU = torch.device("cpu")
REAL = (Phase(0, torch.arange(N), torch.ones(3)),)


@dataclass(frozen=True)
class Params:
    """Inputs of a trial."""

    augmentation: int = 0
    batch_size: int = 7


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def halves(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :32].contiguous()


def features(values: Mapping[str, Tensor], together: int = 0) -> dict[str, Tensor]:
    return {"half": halves(values["image"])}


def cached(name: str, compute: Compute = features, views: int = 1) -> CachedFeatures:
    columns = {"image": Column(IMAGE, IMAGES[:, None], CPU)}
    return CachedFeatures(columns, {}, ["image"], compute, name, views, CPU)


def member(seed: int, **params: int) -> TrialState:
    return TrialState(Params(**params), seed, 1000, {}, REAL, CPU)


def test_features_have_the_type_that_was_computed() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for _ in range(2):  # computed, then opened
            kept = cached(f"toy-{dtype}", lambda x, *_, dtype=dtype: {"half": halves(x["image"]).to(dtype)})
            result = kept.plain(3, 9)["half"]
            assert result.dtype == dtype
            assert torch.equal(result, halves(torch.from_numpy(IMAGES[3:9]).float() / 255).to(dtype))


def test_views_of_an_image_repeat_only_after_all_were_used() -> None:
    one, other = member(1, augmentation=2), member(2, augmentation=2)
    turns = {1: torch.zeros(N, 3, dtype=torch.int64), 2: torch.zeros(N, 3, dtype=torch.int64)}
    starts = []
    for trial in (one, other):
        for step in range(3 * N // 7):
            chosen = trial.batch()
            views = trial.views(3)
            if step < N // 7:
                starts.append(views)
            turns[trial.seed].index_put_((chosen, views), torch.ones(7, dtype=torch.int64), accumulate=True)
            trial.samples += 7
    assert all((t == 1).all() for t in turns.values())
    assert not torch.equal(torch.cat(starts[:10]), torch.cat(starts[10:]))


def test_each_trial_gets_its_own_level() -> None:
    members = [member(1), member(2, augmentation=1), member(3, augmentation=3)]
    chosen = [m.batch() for m in members]
    together = cached("toy-x", views=2).take(chosen, members)["half"]
    for m, index, rows in zip(members, chosen, together.split(7), strict=True):
        assert torch.equal(cached("toy-x", views=2).take([index], [m])["half"], rows)
    assert torch.equal(together[:7], halves(torch.from_numpy(IMAGES[chosen[0].numpy()]).float() / 255))


def _child(log: Path) -> None:
    def compute(values: Mapping[str, Tensor], *_: int) -> dict[str, Tensor]:
        with log.open("a") as file:
            file.write(f"{len(values['image'])}\n")
        time.sleep(0.2)
        return features(values)

    cached("toy-y", compute).plain(0, 1)


def test_concurrent_processes_compute_features_once(tmp_path: Path, cache: Path) -> None:
    children = [multiprocessing.get_context("fork").Process(target=_child, args=(tmp_path / "log",)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    counts = sorted(int(line) for line in (tmp_path / "log").read_text().split())
    assert counts == [1, 1, 1, N - 64, 64]  # one image each for the shape
    assert len(list(cache.glob("features/*.bin"))) == 1


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"feature store, but: No space left on device\. LUNGTUNE_CACHE moves"):
        cached("toy-z").plain(0, 1)


def test_several_features_of_a_case_share_one_file(cache: Path) -> None:
    def several(values: Mapping[str, Tensor], *_: int) -> dict[str, Tensor]:
        image = values["image"]
        return {"half": halves(image), "sign": (image[:, 0, 0] > 0.5), "sum": image.sum((1, 2, 3)).to(torch.bfloat16)}

    expected = several({"image": torch.from_numpy(IMAGES[:, None]).float() / 255})
    for _ in range(2):  # computed, then opened
        result = cached("toy-several", several).plain(0, N)
        for name, values in expected.items():
            assert result[name].dtype == values.dtype
            assert torch.equal(result[name], values)
    assert len(list(cache.glob("features/*.bin"))) == 1


def convolved(values: Mapping[str, Tensor], *_: int) -> dict[str, Tensor]:
    weights = torch.randn(16, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return {"map": torch.nn.functional.conv2d(values["image"], weights).relu().mean((2, 3))}


@pytest.mark.parametrize("together", [1, 5, 64])
@pytest.mark.parametrize("level", [0, 2])
def test_tables_hold_what_is_computed_case_by_case(together: int, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cores", lambda: 3)
    monkeypatch.setattr(feature_cache, "_WORTH", 1)
    monkeypatch.setattr(computing, "fastest", lambda call, usual: together)
    sizes: list[tuple[int, int]] = []

    def compute(values: Mapping[str, Tensor], together: int = 0) -> dict[str, Tensor]:
        sizes.append((len(values["image"]), together))
        return convolved(values)

    table = cached("toy-cases", compute)._table(level, 0)["map"]
    assert sizes[0] == (1, 0)  # tells the shape
    assert all(size <= together == told for size, told in sizes[1:])
    for number, rows in enumerate(torch.arange(N).split(64)):
        images = {"image": torch.from_numpy(IMAGES[rows.numpy(), None]).float() / 255}
        generator = torch.Generator().manual_seed(derive_seed(level, 0, number))
        images |= augment(images, [IMAGE], [level], [len(rows)], [generator])
        alone = torch.cat([convolved({"image": image[None]})["map"] for image in images["image"]])
        torch.testing.assert_close(table[rows], alone)


def test_thread_count_is_restored_after_an_error_in_a_table() -> None:
    torch.set_num_threads(2)

    def failing(values: Mapping[str, Tensor], together: int = 0) -> dict[str, Tensor]:
        if together:
            raise ValueError("no features")
        return features(values)

    with pytest.raises(ValueError, match="no features"):
        cached("toy-failing", failing).plain(0, 1)
    assert torch.get_num_threads() == 2
    assert torch.equal(cached("toy-failing").plain(0, N)["half"], halves(torch.from_numpy(IMAGES).float() / 255))


def test_a_table_has_the_same_bits_on_any_number_of_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    for cores in (1, 3):
        monkeypatch.setattr(environment, "cores", lambda cores=cores: cores)
        monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / f"cache-{cores}"))
        torch.set_num_threads(cores)
        tables.append(cached("toy-bits", convolved)._table(3, 0)["map"])
    assert torch.equal(*tables)


def test_small_tables_are_computed_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "fastest", lambda *_: pytest.fail("measured"))
    assert len(cached("toy-small").plain(0, N)["half"]) == N
