"""Known properties of the real paediatric X-rays; skipped where they are absent."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageOps

from lungtune.core.fields import IMAGE, LABEL
from lungtune.data.dataset import Inspection, inspect, load
from lungtune.data.duplicates import near_pairs
from lungtune.data.fingerprint import fingerprint
from lungtune.data.sources import index_source
from lungtune.errors import DataError
from lungtune.search import study_data

MASKS = Path(__file__).resolve().parents[2] / "../shared/data/chest_xray_lung_masks"
FOLDER = Path(__file__).resolve().parents[2] / "../shared/data/chest_xray"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the real X-rays are not here")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Inspection:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNGTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield inspect(f"chest_xray:{FOLDER}")


def test_counts(found):
    assert len(found.cases) == 5_840
    assert found.audit.official == {
        "train": {"normal": 1_341, "bacterial": 2_530, "viral": 1_345},
        "test": {"normal": 234, "bacterial": 242, "viral": 148},
    }
    assert found.audit.problems == ()
    assert found.audit.unreadable == {}
    assert found.audit.constant["test"]["class"] == "bacterial"
    assert found.audit.constant["test"]["accuracy"] == pytest.approx(242 / 624, abs=1e-4)


def test_exact_duplicates(found):
    assert found.audit.exact["groups"] == 30
    assert found.audit.exact["images"] == 62
    assert found.audit.exact["across"] == 0


def test_copies_and_look_alikes(found):
    """By eye, both copies are films of one patient each, processed or exposed twice."""
    assert found.audit.near["copies"] == 2
    assert found.audit.near["look_alikes"] <= 15
    copies = [(pair["first"], pair["second"]) for pair in found.audit.near["pairs"] if pair["kind"] == "copy"]
    assert all(first.split("_")[0] == second.split("_")[0] for first, second in copies)


CHANGES = {
    "inverted": ImageOps.invert,
    "flipped": ImageOps.mirror,
    "letterboxed": lambda image: ImageOps.expand(image, (40, 15)),
    "cropped": lambda image: image.crop((11, 5, 219, 214)),
    "rotated": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "gamma": lambda image: image.point([round(255 * (v / 255) ** 1.6) for v in range(256)]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_detected(found, change):
    kept = found.facts.iloc[::4].drop_duplicates("pixels")
    chosen = kept.iloc[::15]
    changed = chosen.assign(pixels=[f"new {k}" for k in range(len(chosen))], sha1=list(map(str, range(len(chosen)))))
    with Image.open(chosen.index[0]) as image:
        assert image.size == (224, 224)
    changed["fingerprint"] = [fingerprint(CHANGES[change](Image.open(path).convert("L"))) for path in chosen.index]
    pairs = [pair for pair in near_pairs(pd.concat([kept, changed])) if pair.kind == "copy"]
    right = {(15 * k, len(kept) + k) for k in range(len(chosen))}
    hits = {(pair.first, pair.second) for pair in pairs}
    assert len(hits & right) >= 0.95 * len(chosen)
    assert len(hits - right) <= 1


def test_no_group_is_in_two_parts(found):
    held = [set(part.group) for part in found.manifest.parts.values()]
    assert len(set.union(*held)) == sum(map(len, held))
    assert len(found.manifest.parts["test"]) == 624
    assert sum(map(len, found.manifest.parts.values())) + len(found.audit.excluded) == 5_840


def test_no_shortcut_is_seen(found):
    assert not [item for item in found.audit.shortcuts if item.alarm]


@pytest.mark.skipif(not MASKS.is_dir(), reason="the masks are not here")
def test_all_images_but_five_have_a_mask():
    cases = index_source(f"chest_xray:{FOLDER},masks={MASKS}")
    assert cases["mask_path"].notna().sum() == 5_835
    without = cases.loc[cases["mask_path"].isna(), "case_id"].str.rpartition("_")[2]
    assert list(without) == [f"{number}.jpeg" for number in range(2471, 2476)]


def test_opening_again_is_quick(found, tmp_path):
    found.save(tmp_path / "split.json")
    first = load(tmp_path / "split.json", [IMAGE, LABEL], 64)
    started = time.perf_counter()
    again = load(tmp_path / "split.json", [IMAGE, LABEL], 64)
    assert time.perf_counter() - started < 2  # about 0.07 s on an idle machine
    assert again.train["image"].shape == first.train["image"].shape


def test_real_training_and_validation_share_no_person():
    source = f"folder:{FOLDER}"
    with pytest.raises(DataError, match=r"the names of 5,840 of 5,840 images look like those of 3,[0-9]{3} patients: "):
        study_data.index(source)
    (guess,) = index_source(source).attrs["inventory"].guesses
    manifest = inspect(f"{source},{guess.option}").manifest
    person = index_source(f"chest_xray:{FOLDER}")
    people = dict(zip(person["path"], person["patient_id"], strict=True))
    train, validation = ({people[path] for path in manifest.parts[part].path} for part in ("train", "validation"))
    assert len(manifest.parts["validation"]) > 900
    assert not train & validation
