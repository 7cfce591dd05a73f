"""Blackened-lung control: its images, and its refusal as training data."""

from types import SimpleNamespace

import numpy as np
import pytest

from lungtune.core.fields import VOLUME
from lungtune.data import dataset
from lungtune.data.dataset import Part
from lungtune.retraining import controls

CLASSES = ("normal", "bacterial", "viral")


def small(masked=(1, 0, 1, 1, 0, 1)):
    """Six grey cases; lungs are the middle half of those that have a mask."""
    has = np.array(masked, bool)
    masks = np.zeros((6, 1, 8, 8), np.uint8)
    masks[has, :, 2:-2, 2:-2] = 255
    images = np.full((6, 1, 8, 8), 200, np.uint8)
    return Part.of(image=images, label=np.arange(6) % 3, mask=masks, known={"mask": has})


def test_black_lungs_are_black_and_all_else_stays():
    part = small()
    dark = controls.darkened(part)
    assert dark.case_ids.tolist() == ["0", "2", "3", "5"]
    assert dark["label"].tolist() == [0, 2, 0, 2]
    assert dark["image"].dtype == np.uint8
    assert (dark["image"][..., 2:-2, 2:-2] == 0).all()
    assert (dark["image"][..., :2, :] == 200).all()
    assert (part["image"] == 200).all()
    bare = Part.of(image=part["image"], label=part["label"])
    assert len(controls.darkened(bare)) == 0


def test_black_lungs_of_volumes_are_black():
    masks = np.zeros((2, 1, 4, 4, 4), np.uint8)
    masks[0, :, 1:3] = 255
    volumes = np.full((2, 1, 4, 4, 4), 200, np.uint8)
    part = Part.of(volume=volumes, mask=masks, known={"mask": np.array([True, False])})
    dark = controls.darkened(part, (VOLUME,))
    assert len(dark) == 1
    assert (dark["volume"][0, :, 1:3] == 0).all()
    assert (dark["volume"][0, :, [0, 3]] == 200).all()


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (
            Part.of(image=small()["image"], label=np.arange(6) % 3),
            "it needs lung masks. Name their folder in the data source, masks=DIR, or in a table's column 'mask'.",
        ),
        (small(masked=(1, 1, 0, 1, 1, 0)), "no training image of viral has a lung mask"),
    ],
    ids=["no masks", "a class without"],
)
def test_obstacle_is_reported_and_nothing_trains(part, sentence, tmp_path):
    data = dataset.Dataset(CLASSES, part, part, None, None, None, "")
    dark = controls.Blackout(None, None, data, None, 1.0, tmp_path)
    assert sentence in dark.problem


def test_columns_of_files_follow_the_parts():
    import pandas as pd

    columns = {"width": [1, 2, 2], "height": [3, 4, 4], "mode": ["L", "RGB", "RGB"], "type": ["PNG"] * 3}
    facts = pd.DataFrame(columns, index=["a", "b", "b"])
    manifest = SimpleNamespace(parts={"test": SimpleNamespace(path=["b", "a"])})
    result = controls.outside(SimpleNamespace(facts=facts, manifest=manifest), "test")
    assert result["width"].tolist() == [2, 1]
    assert result["mode"].tolist() == ["RGB", "L"]
    assert result["width"].dtype.kind == "i"
    assert "depth" not in result
    volumes = facts.assign(depth=[5, 6, 6])
    result = controls.outside(SimpleNamespace(facts=volumes, manifest=manifest), "test")
    assert result["depth"].tolist() == [6, 5]
